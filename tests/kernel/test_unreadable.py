"""Run daemons on trees that they cannot read, in part or at all.

With some unreadable groups the daemon serves all others; the node and a metric count the unreadable
ones. A daemon that cannot read its tree at all keeps what it knew.
"""

import errno
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from shrinkd.backends import Backend, Group
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.backends.simulator.controls import Fault
from shrinkd.groups.usage_history import SLOT_SECONDS, UsageHistory, UsageSampler
from shrinkd.settings import Settings
from tests.backends.cgroup.test_unreadable import DEEP, deepen
from tests.support.capabilities import without_overrides
from tests.support.cgroup_host import CgroupHost
from tests.support.leaks import nothing_stays_open
from tests.support.live_server import Live
from tests.support.polling import until
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import Stage
from tests.test_metrics import scraped

KEEP = {
    "kind": "limit",
    "selector": {"group": "*"},
    "floor": {"bytes": 0},
    "spec": {"limits": {"max_bytes": "1G"}},
}
SHARE = {
    "kind": "balance",
    "selector": {"group": "*"},
    "floor": {"bytes": 0},
    "spec": {"budget": "12G", "release": "11G"},
}
NAME = "d" * 250


def limits_of(client: httpx.Client, path: str) -> int | None:
    found: int | None = client.get(f"/v1/groups/{path}/limits").json()["max_bytes"]
    return found


def id_of(client: httpx.Client, path: str) -> str:
    return str(client.get(f"/v1/groups/{path}").json()["id"])


def check_served(client: httpx.Client, group: str) -> None:
    """Check that every request which walks the tree works and reveals no unreadable group."""
    listed = client.get("/v1/groups", params={"page_size": 1000})
    assert group in {item["path"] for item in listed.json()["items"]}
    sorted_too = client.get(
        "/v1/groups",
        params={"page_size": 1000, "order_by": "-usage_bytes", "fields": "path,usage_bytes"},
    )
    assert {item["path"] for item in sorted_too.json()["items"]} == {
        item["path"] for item in listed.json()["items"]
    }
    stats = client.get("/v1/stats", params={"fields": "usage_bytes"})
    assert {item["group"]["path"] for item in stats.json()["items"]} == {
        item["path"] for item in listed.json()["items"]
    }
    assert client.get(f"/v1/groups/id:{id_of(client, group)}").json()["path"] == group
    assert client.get(f"/v1/groups/unit:{group}").json()["path"] == group
    assert client.get("/readyz").status_code == 200


def check_told(client: httpx.Client, symbol: str, below: str) -> None:
    unreadable = client.get("/v1/node").json()["unreadable"]
    assert unreadable["count"] >= 1
    assert any(
        named["errno"] == symbol and named["path"].startswith(below)
        for named in unreadable["groups"]
    )
    assert scraped(client)["shrinkd_unreadable_groups"][(symbol,)] >= 1
    assert scraped(client)["shrinkd_walk_failing"][()] == 0


# On real kernels


def named(kernel: CgroupHost[Backend]) -> Literal["v1", "v2"]:
    return "v1" if kernel.backend.name == "v1" else "v2"


@pytest.fixture
def real(
    kernel: CgroupHost[Backend], tmp_path: Path
) -> Iterator[tuple[CgroupHost[Backend], Live, str]]:
    """A daemon whose root is a group of the test, with one in it that is named like a unit."""
    root = kernel.group()
    path = f"{root.path}/shrinkd-test.service"
    kernel.backend.make(path)
    where = str(Path(kernel.backend.node().root, root.path))
    settings = Settings(
        backend=named(kernel), cgroup_root=where, database_url=f"sqlite:///{tmp_path}/shrinkd.db"
    )
    with nothing_stays_open(), Live(settings) as live:
        yield kernel, live, root.path


UNIT = "shrinkd-test.service"


def test_groups_deeper_than_a_path_reaches_disturb_nobody(
    real: tuple[CgroupHost[Backend], Live, str],
) -> None:
    kernel, live, root = real
    client = live.client
    client.put("/v1/policies/keep", json=KEEP).raise_for_status()
    until(lambda: limits_of(client, UNIT) == 1 << 30)
    client.post("/v1/groups", json={"path": "jail"}).raise_for_status()
    jail = next(group for group in kernel.backend.groups() if group.path == f"{root}/jail")
    deepen(kernel, jail, DEEP)
    check_served(client, UNIT)
    check_told(client, "ENAMETOOLONG", "jail/")
    client.post("/v1/groups", json={"path": "late.service"}).raise_for_status()
    until(lambda: limits_of(client, "late.service") == 1 << 30)
    decided = client.post("/v1/policies/keep/evaluate").json()
    assert {item["group"]["path"] for item in decided["items"]} == {"jail", UNIT, "late.service"}
    history = UsageHistory()
    UsageSampler(live.parts.backend, history).sample()
    late = int(id_of(client, "late.service"))
    assert history.lacks(late) == "nothing"


def test_the_api_makes_no_group_that_it_could_not_read_back_and_leaves_nothing_behind(
    real: tuple[CgroupHost[Backend], Live, str],
) -> None:
    _, live, _ = real
    path, status = NAME, 201
    for _ in range(DEEP):
        status = live.client.post(
            "/v1/groups", json={"path": path, "limits": {"max_bytes": "64M"}}
        ).status_code
        if status != 201:
            break
        path += f"/{NAME}"
    assert (status, 10 < path.count("/") < 17) == (422, True)
    refused = live.client.post("/v1/groups", json={"path": path, "limits": {"max_bytes": "64M"}})
    assert "is too long" in problem(refused, 422, "invalid-group-name")["detail"]
    check_served(live.client, UNIT)
    assert live.client.get("/v1/node").json()["unreadable"] == {"count": 0, "groups": []}
    items = live.client.get("/v1/groups", params={"page_size": 1000, "fields": "path"}).json()[
        "items"
    ]
    assert max(item["path"].count("/") for item in items) == path.count("/") - 1


def test_a_daemon_that_may_not_read_what_others_forbid_serves_all_else(
    kernel: CgroupHost[Backend], tmp_path: Path
) -> None:
    root = kernel.group()
    for name in (UNIT, "closed"):
        kernel.backend.make(f"{root.path}/{name}")
    where = Path(kernel.backend.node().root, root.path)
    settings = Settings(
        backend=named(kernel),
        cgroup_root=str(where),
        database_url=f"sqlite:///{tmp_path}/shrinkd.db",
    )
    with without_overrides(), nothing_stays_open(), Live(settings) as live:
        live.client.get("/v1/groups").raise_for_status()
        (where / "closed" / "memory.stat").chmod(0)
        check_served(live.client, UNIT)
        check_told(live.client, "EACCES", "closed")
        live.client.put("/v1/policies/keep", json=KEEP).raise_for_status()
        until(lambda: limits_of(live.client, UNIT) == 1 << 30)


# On a simulated one


class Short:
    """A daemon on a simulated machine with limits of 1 GiB, and the next errors of its kernel."""

    def __init__(self, settings: Settings) -> None:
        self.stage = Stage()
        self.live = Live(settings, self.stage.make_backend)
        self.client = self.live.client
        self.faults = self.stage.simulator.faults

    def fail(self, verb: Any, error: Any, group: str | None = None) -> None:
        """Let the reads of one group or of all fail from now on.

        "" is the whole tree, which the faults of the API cannot name alone.
        """
        self.faults.plan(Fault.model_construct(verb=verb, error=error, group=group, times=10**9))


@pytest.fixture
def short(settings: Settings) -> Iterator[Short]:
    short = Short(settings)
    yield short
    short.live.stop()


def dug(stage: Stage, path: str) -> None:
    with stage.simulator.machine() as machine:
        here = machine.cgroups[path]
        for _ in range(DEEP):
            here = machine.make(here, NAME)


def test_groups_deeper_than_a_path_reaches_disturb_nobody_on_the_simulator(short: Short) -> None:
    short.stage.group("a.service")
    dug(short.stage, "web")
    check_served(short.client, "a.service")
    check_told(short.client, "ENAMETOOLONG", "web/")


@pytest.mark.parametrize("error", ["EACCES", "ELOOP", "ENAMETOOLONG"])
def test_a_group_whose_readings_are_refused_for_what_it_is_is_left_out_of_lists_and_policies(
    short: Short, error: str
) -> None:
    short.fail("stat", error, "web")
    short.fail("usage", error, "web")
    rows = short.client.get("/v1/groups").json()["items"]
    stats = short.client.get("/v1/stats").json()["items"]
    assert "web" not in {row["path"] for row in rows} | {row["group"]["path"] for row in stats}
    assert {row["path"] for row in rows} == {row["group"]["path"] for row in stats} != set()
    assert ("web",) not in scraped(short.client)["shrinkd_subtree_usage_bytes"]
    short.client.put("/v1/policies/share", json=SHARE).raise_for_status()
    decided = short.client.post("/v1/policies/share/evaluate").json()["items"]
    assert {item["group"]["path"] for item in decided} == {
        row["path"] for row in rows if "/" not in row["path"]
    }


@pytest.mark.parametrize("error", ["EMFILE", "ENOMEM", "EINTR"])
def test_while_the_tree_cannot_be_walked_no_group_is_taken_for_gone(
    short: Short, error: str
) -> None:
    short.client.put("/v1/policies/keep", json=KEEP).raise_for_status()
    until(lambda: limits_of(short.client, "web") == 1 << 30)
    walks = short.faults.uses()["groups"]
    short.fail("groups", error, "")
    until(lambda: short.faults.uses()["groups"] >= walks + 3)
    answer = short.client.get("/v1/groups")
    assert (answer.status_code, answer.json()["errno"]) == (
        503 if error != "EINTR" else answer.status_code,
        error,
    )
    assert scraped(short.client)["shrinkd_walk_failing"][()] == 1
    status = short.client.get("/v1/policies/keep").json()["status"]
    assert status["matched_groups"] > 0
    gone = short.client.get("/v1/policies/keep/decisions", params={"page_size": 1000}).json()[
        "items"
    ]
    assert [item for item in gone if item["verdict"] == "gone"] == []
    short.faults.clear()
    assert short.client.get("/v1/groups").status_code == 200


def test_readiness_tells_when_the_tree_could_not_be_walked_for_longer_than_a_moment(
    short: Short,
) -> None:
    assert short.client.get("/readyz").status_code == 200
    short.fail("groups", "EMFILE", "")
    short.stage.simulator.groups("web")

    def refused() -> dict[str, Any] | None:
        answer = short.client.get("/readyz")
        body: dict[str, Any] = answer.json()
        return body if answer.status_code == 503 else None

    assert "EMFILE" in until(refused)["detail"]
    short.faults.clear()
    until(lambda: short.client.get("/readyz").status_code == 200)


def test_a_policy_that_is_switched_on_meanwhile_is_carried_out_on_the_tree_of_the_last_walk(
    short: Short,
) -> None:
    short.client.put("/v1/policies/keep", json=KEEP).raise_for_status()
    until(lambda: limits_of(short.client, "web") == 1 << 30)
    short.live.parts.policies.switch("keep", enabled=False)
    until(lambda: not short.client.get("/v1/policies/keep").json()["status"]["matched_groups"])
    short.stage.simulator.set_limits(
        short.stage.simulator.groups("web", 0)[0], {"max_bytes": 2 << 30}
    )
    short.fail("groups", "EMFILE", "")
    short.live.parts.policies.switch("keep", enabled=True)
    until(lambda: limits_of(short.client, "web") == 1 << 30)


class Broken(Simulator):
    """A backend whose first walks raise an unexpected exception."""

    walks = 0

    def groups(self, path: str = "", depth: int | None = None) -> list[Group]:
        self.walks += 1
        if self.walks == 1:
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        if self.walks == 2:
            raise ValueError("a bug")
        return super().groups(path, depth)


def test_the_thread_of_the_history_outlives_whatever_a_walk_raises(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Broken(settings)
    history = UsageHistory(
        lambda: SLOT_SECONDS - 0.01
    )  # a hundredth of a second before the next slot, for ever
    sampler = UsageSampler(machine, history)
    with suppress(OSError):
        # a sampler that has made a pass waits for the end of a slot, and no ten seconds
        sampler.sample()
    sampler.start()
    try:
        until(lambda: machine.walks > 2 and history.lacks(machine.groups("web")[0].id) != "all")
    finally:
        sampler.stop()
    assert "a bug" in caplog.text
