"""A protection that was never set is 0, an infinite one is "max".

And what GET answers, PATCH takes and changes nothing by it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkd.backends import LIMIT_NAMES, Group, LimitName
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.backends.simulator.controls import Scenario
from shrinkd.backends.simulator.machine.accounting import UNLIMITED as UNLIMITED_PAGES
from shrinkd.backends.simulator.machine.kernel_profiles import LIMIT_FIELDS
from shrinkd.settings import Settings
from shrinkd.sizes import PAGE_BYTES, UNLIMITED
from tests.support.live_server import Live
from tests.support.polling import until
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import MIB

PROTECTIONS: tuple[LimitName, ...] = ("low_bytes", "min_bytes")
SIZES = st.one_of(
    st.integers(0, 2**63 - 1),
    st.sampled_from([0, 1, PAGE_BYTES, 64 * MIB, 2**63 - 1, "max", "1G", None]),
)


@dataclass
class Node:
    """A live daemon on an empty simulated machine that stands still."""

    live: Live
    machine: Simulator

    @property
    def client(self) -> httpx.Client:
        return self.live.client

    def limits(self, group: str) -> dict[str, Any]:
        return dict(self.client.get(f"/v1/groups/{group}/limits").json())

    def patch(self, group: str, changes: dict[str, Any]) -> httpx.Response:
        return self.client.patch(f"/v1/groups/{group}/limits", json=changes)

    def kernel(self, group: str) -> dict[str, int]:
        """What the kernel of the machine itself holds, in pages."""
        with self.machine.machine() as machine:
            return {
                name: getattr(machine.cgroups[group], name)
                for name in (*LIMIT_FIELDS.values(), "memsw")
            }


@pytest.fixture(scope="module", params=["v1", "v2", "v2-6.12", "seed2008"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    yield from _started(request.param, tmp_path_factory.mktemp("protections"))


@pytest.fixture(scope="module")
def v2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    yield from _started("v2", tmp_path_factory.mktemp("v2"))


def _started(profile: str, path: Path) -> Iterator[Node]:
    scenario = Scenario.model_validate({"profile": profile})
    machine = Simulator(Settings(), clock=lambda: 0.0, sleep=lambda _: None, scenario=scenario)
    machine.make("web")
    with Live(
        Settings(backend="simulator", database_url=f"sqlite:///{path}/shrinkd.db"),
        lambda _: machine,
    ) as live:
        yield Node(live, machine)


@pytest.fixture
def full(v2: Node) -> Iterator[Group]:
    """A group that uses 256 MiB, which could all be reclaimed."""
    group = v2.machine.make("full")
    with v2.machine.machine() as machine:
        machine.charge(machine.start(machine.cgroups["full"]), "file", 256 * MIB // PAGE_BYTES)
    yield group
    with v2.machine.machine() as machine:
        machine.reclaim(machine.cgroups["full"], UNLIMITED_PAGES)
        machine.remove_tree(machine.cgroups["full"])


# What is read may be written


@given(wanted=st.dictionaries(st.sampled_from(LIMIT_NAMES), SIZES))
@settings(max_examples=40, deadline=None)
def test_what_get_answers_is_taken_by_patch_and_changes_nothing(
    node: Node, wanted: dict[str, Any]
) -> None:
    node.patch("web", wanted)  # which may be refused: then the limits are others, and so the better
    read, held = node.limits("web"), node.kernel("web")
    told = node.patch("web", {name: read[name] for name in LIMIT_NAMES})
    assert (told.status_code, told.json()) == (200, read)
    assert (node.limits("web"), node.kernel("web")) == (read, held)
    assert {name for name in PROTECTIONS if read[name] is None} == {*PROTECTIONS} & {
        *read["unsupported"]
    }


def test_what_was_read_of_one_group_is_what_a_new_one_and_a_batch_take(node: Node) -> None:
    read = {name: node.limits("web")[name] for name in LIMIT_NAMES}
    made = node.client.post("/v1/groups", json={"path": "new", "limits": read})
    assert (made.status_code, {name: made.json()["limits"][name] for name in LIMIT_NAMES}) == (
        201,
        read,
    )
    (item,) = node.client.post(
        "/v1/limits/batch", json={"items": [{"group": "new", "patch": read}]}
    ).json()["items"]
    assert (item["status"], {name: item["body"][name] for name in LIMIT_NAMES}) == (200, read)
    assert node.client.delete("/v1/groups/new").status_code == 204


def test_a_limit_that_is_not_there_is_refused_when_it_is_set(node: Node) -> None:
    for name in node.limits("web")["unsupported"]:
        assert problem(node.patch("web", {name: 64 * MIB}), 422, "unsupported-limit")[
            "unsupported"
        ] == [name]


# As if never set


@pytest.mark.parametrize("name", PROTECTIONS)
@pytest.mark.parametrize("before", ["64M", "max"])
def test_null_is_no_protection(v2: Node, name: str, before: str) -> None:
    v2.patch("web", {name: before})
    assert v2.patch("web", {name: None}).json()[name] == 0
    assert v2.kernel("web")[name.removesuffix("_bytes")] == 0


@pytest.mark.parametrize("name", PROTECTIONS)
@pytest.mark.parametrize("value", ["max", 2**63 - 1])
def test_max_is_an_infinite_protection(v2: Node, name: str, value: object) -> None:
    v2.patch("web", {name: 0})
    assert v2.patch("web", {name: value}).json()[name] == "max"
    assert v2.kernel("web")[name.removesuffix("_bytes")] == UNLIMITED_PAGES
    v2.patch("web", {name: None})


def latest_changes(node: Node, number: int) -> list[tuple[str, dict[str, Any]]]:
    """The latest changes of limits that were told, as far as they have come into the database.

    A writer of its own brings them there.
    """
    items = node.client.get("/v1/events", params={"type": "limits.changed"}).json()["items"]
    return [(item["group"]["path"], item["data"]) for item in items[-number:]]


def test_an_event_tells_a_protection_as_an_answer_does(v2: Node) -> None:
    for value in ("max", None):
        v2.patch("web", {"low_bytes": value})
    until(
        lambda: latest_changes(v2, 2) == [("web", {"low_bytes": "max"}), ("web", {"low_bytes": 0})]
    )


def test_a_batch_lowers_a_protection_before_it_raises_one(v2: Node) -> None:
    v2.machine.make("other")
    v2.patch("web", {"min_bytes": "max"})
    items = [
        {"group": "other", "patch": {"min_bytes": "max"}},
        {"group": "web", "patch": {"min_bytes": None}},
    ]
    v2.client.post("/v1/limits/batch", json={"items": items})
    until(
        lambda: (
            latest_changes(v2, 2) == [("web", {"min_bytes": 0}), ("other", {"min_bytes": "max"})]
        )
    )
    v2.machine.remove(v2.machine.groups("other")[0])


# What policies make of it; by the machine's own hand, for behind a caller's they wait for half a
# minute


def test_a_policy_keeps_a_protection_and_shows_it_as_it_was_written(v2: Node, full: Group) -> None:
    body = {
        "name": "keep",
        "kind": "limit",
        "selector": {"group": full.path},
        "spec": {"limits": {"low_bytes": "max", "min_bytes": None}},
    }
    v2.machine.set_limits(full, {"min_bytes": 64 * MIB})
    put = v2.client.put("/v1/policies/keep", json=body)
    assert put.json()["spec"]["limits"] == {"low_bytes": "max", "min_bytes": 0}
    until(lambda: [v2.limits(full.path)[name] for name in PROTECTIONS] == ["max", 0])
    again = v2.client.put("/v1/policies/keep", json=body | {"spec": put.json()["spec"]})
    assert again.json()["spec"] == put.json()["spec"]
    v2.client.delete("/v1/policies/keep")


@pytest.mark.parametrize("name", PROTECTIONS)
def test_an_infinite_protection_leaves_a_policy_nothing_and_none_leaves_it_all(
    v2: Node, full: Group, name: LimitName
) -> None:
    body = {
        "name": "room",
        "kind": "watermark",
        "mode": "observe",
        "selector": {"group": full.path},
        "floor": {"bytes": 0},
    }
    v2.client.put("/v1/policies/room", json=body | {"spec": {"high": "64M", "low": "32M"}})

    def verdict() -> tuple[str, str]:
        (row,) = v2.client.post("/v1/policies/room/evaluate").json()["items"]
        return row["verdict"], row["reason"]

    v2.machine.set_limits(full, {name: UNLIMITED})
    assert verdict() == ("hold", "at_floor")
    v2.machine.set_limits(full, {name: None})
    assert verdict() == ("would_act", "above_high")
    v2.client.delete("/v1/policies/room")
