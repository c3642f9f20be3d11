"""Node over HTTP: the facts that a client decides by."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from shrinkd.auth.tokens import make
from shrinkd.backends.protection import OwnGroup
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.settings import Settings
from tests.api.conftest import Still
from tests.support.bearer import Bearer
from tests.support.live_server import Live
from tests.support.problem_checks import problem

Begin = Callable[[OwnGroup], Live]


@pytest.fixture
def start_daemon(settings: Settings, tmp_path: Path) -> Iterator[Begin]:
    """Start a daemon with tokens, on a simulator, and with the given knowledge of its own group."""
    make(tmp_path / "tokens", "first", ["read"], "1d")
    with ExitStack() as stack:

        def start_daemon(own: OwnGroup) -> Live:
            class Placed(Simulator):
                def own_group(self) -> OwnGroup:
                    return own

            return stack.enter_context(
                Live(settings.model_copy(update={"tokens": str(tmp_path / "tokens")}), Placed)
            )

        yield start_daemon


def test_the_node_tells_what_it_is_and_can(still: Still) -> None:
    body, node = still.client.get("/v1/node").json(), still.stage.simulator.node()
    assert (body["backend"], body["cgroup_version"], body["boot_id"], body["root"]) == (
        "simulator",
        1,
        node.boot_id,
        "/",
    )
    assert body["capabilities"] == {
        "settable_limits": ["max_bytes", "swap_max_bytes", "soft_limit_bytes"],
        "swappiness": False,
        "pressure": True,
    }
    assert body["pressure"]["some"] == {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 0}
    assert (body["total_bytes"], body["page_size_bytes"], body["subtrees"]) == (
        16 * 2**30,
        4096,
        [],
    )


def test_a_limit_is_settable_or_unsupported_and_never_both(client: httpx.Client) -> None:
    settable = client.get("/v1/node").json()["capabilities"]["settable_limits"]
    limits = client.get("/v1/groups/web/limits").json()
    assert {*settable, *limits["unsupported"]} == {
        name for name in limits if name.endswith("_bytes") and name != "effective_max_bytes"
    }
    assert not {*settable} & {*limits["unsupported"]}


def test_a_daemon_in_none_of_the_groups_says_so(client: httpx.Client) -> None:
    assert client.get("/v1/node").json()["own_group"] == {
        "state": "elsewhere",
        "path": None,
        "suspects": [],
        "detail": None,
    }


def test_where_the_daemon_is_it_tells_those_who_may_read_that_group(start_daemon: Begin) -> None:
    live = start_daemon(OwnGroup("batch/etl"))
    told = {
        scope: Bearer(live, scope).get("/v1/node").json()["own_group"]
        for scope in ("read", "read@batch", "read@web")
    }
    found: dict[str, object] = {
        "state": "found",
        "path": "batch/etl",
        "suspects": [],
        "detail": None,
    }
    assert told == {"read": found, "read@batch": found, "read@web": found | {"path": None}}


def test_a_daemon_that_cannot_find_itself_says_why_and_changes_nothing_near_where_it_may_be(
    start_daemon: Begin,
) -> None:
    live = start_daemon(OwnGroup(None, ("batch/etl", "db")))
    admin, narrow = Bearer(live, "admin"), Bearer(live, "read@db")
    told = admin.get("/v1/node").json()["own_group"]
    assert (told["state"], told["path"], told["suspects"]) == ("unknown", None, ["batch/etl", "db"])
    assert "cannot tell which group it is in" in told["detail"]
    assert narrow.get("/v1/node").json()["own_group"] == told | {"suspects": ["db"], "detail": None}
    for path in ("batch", "batch/etl", "db"):
        assert (
            "cannot tell"
            in problem(
                admin.patch(f"/v1/groups/{path}/limits", {"max_bytes": "8G"}),
                403,
                "protected-group",
            )["detail"]
        )
        assert admin.get(f"/v1/groups/{path}/limits").status_code == 200
    assert admin.patch("/v1/groups/web/limits", {"max_bytes": "8G"}).status_code == 200


@pytest.mark.parametrize("own", [OwnGroup("caf\udce9"), OwnGroup(None, ("caf\udce9",))])
def test_a_group_that_is_no_utf_8_is_told_in_an_escape_sequence(
    start_daemon: Begin, own: OwnGroup
) -> None:
    told = Bearer(start_daemon(own), "read").get("/v1/node").json()["own_group"]
    assert (told["path"] or told["suspects"][0]) == "caf\\xe9"
