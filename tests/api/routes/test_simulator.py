"""Simulator over HTTP: workloads, clock and faults; 404 on other backends."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from shrinkd.backends.simulator.backend import Simulator
from shrinkd.backends.simulator.machine.kernel_profiles import PROFILES
from shrinkd.backends.simulator.machine.scenarios import Scenario
from shrinkd.settings import Settings
from tests.support.live_server import Live
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import Stage
from tests.support.shrink_requests import MIB, shrunk

HERE = "/v1/simulator"
LEAK = {
    "memory": [
        {
            "kind": "anon",
            "size_bytes": "32M",
            "heat_seconds": "cold",
            "grows_bytes_per_second": "1M",
        }
    ]
}


class Real(Simulator):
    """Simulator that claims not to be one."""

    is_simulated: ClassVar[bool] = False


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def live(settings: Settings, stage: Stage) -> Iterator[Live]:
    with Live(settings, stage.make_backend) as live:
        yield live


@pytest.fixture
def client(live: Live) -> httpx.Client:
    return live.client


def plan(client: httpx.Client, **fault: Any) -> dict[str, Any]:
    answer = client.post(f"{HERE}/faults", json=fault)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def anon_of(client: httpx.Client, group: str) -> int:
    return int(client.get(f"/v1/groups/{group}/stats").json()["anon_bytes"])


# Other backends


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/clock"),
        ("POST", "/clock"),
        ("GET", "/faults"),
        ("POST", "/faults"),
        ("DELETE", "/faults"),
        ("GET", "/groups/web/workload"),
        ("PUT", "/groups/no/such/group/workload"),
        ("DELETE", "/groups/web/workload"),
    ],
)
def test_a_real_kernel_has_none_of_it(settings: Settings, method: str, path: str) -> None:
    with Live(settings, Real) as live:
        problem(
            live.client.request(
                method, HERE + path, json={} if method in {"POST", "PUT"} else None
            ),
            404,
            "not-simulator",
        )


# The simulator


def test_it_says_what_is_simulated(client: httpx.Client) -> None:
    body = client.get(HERE).json()
    assert (body["scenario"], body["profile"], body["seed"]) == ("demo", "v1", "1")
    assert {"demo", "heat", "spikes"} <= set(body["gallery"])
    assert [client.get(link).status_code for link in body["links"].values()] == [200, 200]


def test_a_scenario_knows_every_profile_that_there_is() -> None:
    assert [Scenario.model_validate({"profile": name}).rules for name in PROFILES] == list(
        PROFILES.values()
    )


# Workloads


def test_a_group_does_what_it_was_given(client: httpx.Client) -> None:
    answer = client.put(f"{HERE}/groups/web/workload", json=LEAK)
    assert answer.status_code == 200
    assert (
        answer.json()["memory"][0] | {"size_bytes": 32 * MIB, "heat_seconds": "cold"}
        == answer.json()["memory"][0]
    )
    assert client.get(f"{HERE}/groups/web/workload").headers["etag"] == answer.headers["etag"]
    assert anon_of(client, "web") == 32 * MIB
    client.post(f"{HERE}/clock", json={"advance_seconds": 60})
    assert anon_of(client, "web") == 92 * MIB


def test_what_is_read_can_be_put_again(client: httpx.Client) -> None:
    for row in client.get("/v1/groups").json()["items"]:
        there = f"{HERE}/groups/id:{row['id']}/workload"
        read = client.get(there)
        workload = {
            name: read.json()[name]
            for name in ("memory", "exits_after_seconds", "restarts_after_seconds")
        }
        answer = client.put(there, json=workload, headers={"If-Match": read.headers["etag"]})
        assert (answer.status_code, answer.headers["etag"]) == (200, read.headers["etag"])


def test_a_trial_of_a_workload_starts_nothing(client: httpx.Client) -> None:
    before = client.get(f"{HERE}/groups/web/workload")
    answer = client.put(f"{HERE}/groups/web/workload", params={"dry_run": True}, json=LEAK)
    assert answer.json()["dry_run"]
    assert answer.json()["memory"][0]["size_bytes"] == 32 * MIB
    assert (
        client.get(
            f"{HERE}/groups/web/workload", headers={"If-None-Match": before.headers["etag"]}
        ).status_code
        == 304
    )


def test_a_workload_is_replaced_only_if_it_is_the_one_that_was_read(client: httpx.Client) -> None:
    there = f"{HERE}/groups/web/workload"
    old = {"If-Match": client.get(there).headers["etag"]}
    assert client.put(there, json=LEAK, headers=old).status_code == 200
    problem(client.put(there, json={"memory": []}, headers=old), 412, "precondition-failed")
    problem(client.delete(there, headers=old), 412, "precondition-failed")
    assert anon_of(client, "web") == 32 * MIB


def test_a_workload_that_is_deleted_does_not_come_back(client: httpx.Client) -> None:
    assert client.delete(f"{HERE}/groups/cache/workload", params={"dry_run": True}).json() == {
        "dry_run": True
    }
    assert anon_of(client, "cache") > 0
    assert client.delete(f"{HERE}/groups/cache/workload").status_code == 204
    client.post(f"{HERE}/clock", json={"advance_seconds": 60})
    assert anon_of(client, "cache") == 0
    assert client.get(f"{HERE}/groups/cache/workload").json()["memory"] == []


def test_a_workload_of_no_group_is_not_found(client: httpx.Client) -> None:
    problem(client.put(f"{HERE}/groups/nobody/workload", json=LEAK), 404, "group-not-found")


def test_on_v2_no_process_starts_beside_groups(tmp_path: Path) -> None:
    settings = Settings(
        backend="simulator", scenario="siblings", database_url=f"sqlite:///{tmp_path}/shrinkd.db"
    )
    with Live(settings, Stage().make_backend) as live:
        problem(live.client.put(f"{HERE}/groups/tenants/workload", json=LEAK), 409, "group-busy")


@pytest.mark.parametrize(
    ("memory", "pointer"),
    [
        ({"kind": "heap", "size_bytes": 1}, "#/memory/0/kind"),
        ({"kind": "anon", "size_bytes": "32MB"}, "#/memory/0/size_bytes"),
        ({"kind": "anon", "size_bytes": True}, "#/memory/0/size_bytes"),
        ({"kind": "anon", "size_bytes": "1T"}, "#/memory/0/size_bytes"),
        ({"kind": "anon", "size_bytes": 1, "heat_seconds": "tepid"}, "#/memory/0/heat_seconds"),
        ({"kind": "anon", "size": 1}, "#/memory/0/size"),
        ({"kind": "anon", "trace": [[0, 1], [5, -1]]}, "#/memory/0/trace/1/1"),
        ({"kind": "anon", "size_bytes": 1, "writes_bytes_per_second": 1}, "#/memory/0"),
        (
            {
                "kind": "anon",
                "size_bytes": 1,
                "bursts": {"every_seconds": 1e-308, "lasts_seconds": 1e-308, "size_bytes": 1},
            },
            "#/memory/0/bursts/every_seconds",
        ),
    ],
)
def test_what_is_wrong_with_a_workload_is_pointed_at(
    client: httpx.Client, memory: dict[str, Any], pointer: str
) -> None:
    body = problem(
        client.put(f"{HERE}/groups/web/workload", json={"memory": [memory]}), 422, "invalid-request"
    )
    assert pointer in [row["pointer"] for row in body["errors"]]


# Clock


@pytest.mark.long
def test_a_clock_that_stands_is_put_forward_by_hand(client: httpx.Client, stage: Stage) -> None:
    assert client.post(f"{HERE}/clock", json={"speed": 0}).json()["speed"] == 0
    stage.seconds += 1000
    assert client.get(f"{HERE}/clock").json()["now_seconds"] == 0
    assert client.post(f"{HERE}/clock", json={"advance_seconds": 3600}).json() == {
        "now_seconds": 3600,
        "speed": 0,
        "dry_run": False,
    }


def test_a_clock_goes_at_the_speed_that_it_was_given(client: httpx.Client, stage: Stage) -> None:
    client.post(f"{HERE}/clock", json={"speed": 60})
    stage.seconds += 2
    assert client.get(f"{HERE}/clock").json() == {"now_seconds": 120, "speed": 60, "dry_run": False}


def test_as_fast_as_it_goes_needs_nobody_to_ask_and_no_time_of_ours(client: httpx.Client) -> None:
    assert client.post(f"{HERE}/clock", json={"speed": "max"}).json()["speed"] == "max"
    while client.get(f"{HERE}/clock").json()["now_seconds"] < 3600:
        pass
    stood = client.post(f"{HERE}/clock", json={"speed": 0}).json()
    assert client.get(f"{HERE}/clock").json() == stood


def test_a_server_stops_while_time_is_hurried(settings: Settings) -> None:
    with Live(settings) as live:
        live.client.post(f"{HERE}/clock", json={"speed": "max"})


def test_a_trial_of_the_clock_moves_nothing(client: httpx.Client) -> None:
    tried = client.post(
        f"{HERE}/clock", params={"dry_run": True}, json={"advance_seconds": 5}
    ).json()
    assert tried == {"now_seconds": 5, "speed": 1, "dry_run": True}
    assert client.get(f"{HERE}/clock").json()["now_seconds"] == 0


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({}, "#"),
        ({"speed": None}, "#"),
        ({"speed": 1, "advance_seconds": 1}, "#"),
        ({"speed": -1}, "#/speed"),
        ({"speed": 1001}, "#/speed"),
        ({"speed": "fast"}, "#/speed"),
        ({"speed": True}, "#/speed"),
        ({"advance_seconds": 0}, "#/advance_seconds"),
        ({"advance_seconds": 86401}, "#/advance_seconds"),
        ({"seconds": 1}, "#/seconds"),
    ],
)
def test_what_is_no_change_of_the_clock_is_pointed_at(
    client: httpx.Client, change: dict[str, Any], pointer: str
) -> None:
    body = problem(client.post(f"{HERE}/clock", json=change), 422, "invalid-request")
    assert pointer in [row["pointer"] for row in body["errors"]]


@pytest.mark.long
def test_the_same_seed_workload_and_hour_lead_to_the_same_statistics(tmp_path: Path) -> None:
    seen = []
    for turn in ("one", "other"):
        settings = Settings(
            backend="simulator", scenario="spikes", database_url=f"sqlite:///{tmp_path}/{turn}.db"
        )
        with Live(settings, Stage().make_backend) as live:
            live.client.put(f"{HERE}/groups/bursty/workload", json=LEAK)
            live.client.post(f"{HERE}/clock", json={"advance_seconds": 3600})
            rows = live.client.get("/v1/stats").json()["items"]
            seen.append(
                [
                    {
                        name: value
                        for name, value in row.items()
                        if not name.endswith("_at") and name not in {"group", "id"}
                    }
                    for row in rows
                ]
            )
    assert seen[0] == seen[1]
    assert len(seen[0]) > 3


def test_others_are_answered_while_a_day_is_lived_through_and_a_stopping_server_ends_it(
    live: Live,
) -> None:
    day = threading.Thread(
        target=lambda: httpx.post(
            f"{live.url}{HERE}/clock", json={"advance_seconds": 86400}, timeout=60
        )
    )
    day.start()
    while not (now := live.client.get(f"{HERE}/clock").json()["now_seconds"]):
        pass
    live.parts.closing.set()
    day.join()
    assert now < 86400
    assert live.client.get(f"{HERE}/clock").json()["now_seconds"] < 86400


# Faults


def test_the_nth_use_fails_and_no_other(client: httpx.Client) -> None:
    planned = plan(client, verb="set_limits", use=2, error="EROFS")["planned"]
    assert [(fault["verb"], fault["use"], fault["error"]) for fault in planned] == [
        ("set_limits", 2, "EROFS")
    ]
    statuses = [
        client.patch("/v1/groups/web/limits", json={"max_bytes": f"{size}G"}).status_code
        for size in (1, 2, 3)
    ]
    assert statuses == [200, 503, 200]
    body = client.get(f"{HERE}/faults").json()
    assert body["planned"] == []
    assert body["uses"]["set_limits"] == 3


def test_only_the_uses_of_the_group_that_was_named_count(client: httpx.Client) -> None:
    plan(client, verb="set_limits", group="web", error="EROFS")
    assert client.patch("/v1/groups/db/limits", json={"max_bytes": "4G"}).status_code == 200
    problem(client.patch("/v1/groups/web/limits", json={"max_bytes": "4G"}), 503, "not-writable")


def test_a_pass_that_the_kernel_refuses_is_the_end_of_its_shrink_and_changes_no_limit(
    client: httpx.Client,
) -> None:
    plan(client, verb="reclaim", use=2, error="EIO")
    shrink = shrunk(client, target_bytes="200M", set_max_bytes="200M")
    assert (shrink["state"], shrink["error"]["errno"]) == ("failed", "EIO")
    assert client.get("/v1/groups/web/limits").json()["max_bytes"] is None


def test_a_group_that_vanishes_under_its_shrink_is_gone(client: httpx.Client) -> None:
    plan(client, verb="reclaim", group="web", use=2, vanishes=True)
    shrink = shrunk(client, target_bytes="200M")
    assert (shrink["state"], shrink["error"]["type"]) == ("failed", "/problems/group-gone")
    problem(client.get("/v1/groups/web"), 404, "group-not-found")


def test_a_group_that_vanishes_takes_those_inside_along_and_their_processes(
    client: httpx.Client, stage: Stage
) -> None:
    plan(client, verb="set_limits", vanishes=True)
    problem(client.patch("/v1/groups/batch/limits", json={"max_bytes": "4G"}), 410, "group-gone")
    problem(client.get(f"{HERE}/groups/batch/etl/workload"), 404, "group-not-found")
    with stage.simulator.machine() as machine:
        assert [
            process
            for process in machine.processes.values()
            if process.cgroup.path.startswith("batch")
        ] == []


def test_a_workload_for_a_group_that_vanishes_meanwhile_is_refused(client: httpx.Client) -> None:
    plan(client, verb="groups", group="web", vanishes=True)
    problem(client.put(f"{HERE}/groups/web/workload", json=LEAK), 404, "group-not-found")


def test_a_delay_holds_its_own_request_alone(settings: Settings) -> None:
    held, go_on = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        if seconds == 7:
            held.set()
            go_on.wait()

    with Live(settings, lambda given: Simulator(given, clock=lambda: 0.0, sleep=sleep)) as live:
        plan(live.client, verb="set_limits", group="web", delay_seconds=7)
        slow = threading.Thread(
            target=lambda: httpx.patch(
                f"{live.url}/v1/groups/web/limits", json={"max_bytes": "4G"}, timeout=60
            )
        )
        slow.start()
        held.wait()
        assert (
            live.client.patch("/v1/groups/db/limits", json={"max_bytes": "4G"}).status_code == 200
        )
        assert live.client.get("/v1/groups/web/limits").json()["max_bytes"] is None
        go_on.set()
        slow.join()
        assert live.client.get("/v1/groups/web/limits").json()["max_bytes"] == 4 << 30


def test_what_is_called_off_does_not_happen(client: httpx.Client) -> None:
    plan(client, verb="set_limits", error="EROFS")
    assert client.delete(f"{HERE}/faults", params={"dry_run": True}).json() == {"dry_run": True}
    assert len(client.get(f"{HERE}/faults").json()["planned"]) == 1
    assert client.delete(f"{HERE}/faults").status_code == 204
    assert client.patch("/v1/groups/web/limits", json={"max_bytes": "4G"}).status_code == 200


def test_a_trial_of_a_fault_plans_nothing(client: httpx.Client) -> None:
    tried = client.post(
        f"{HERE}/faults", params={"dry_run": True}, json={"verb": "stat", "error": "EIO"}
    ).json()
    assert (len(tried["planned"]), tried["dry_run"]) == (1, True)
    assert client.get(f"{HERE}/faults").json()["planned"] == []


def test_there_is_room_for_a_hundred_faults(client: httpx.Client) -> None:
    for _ in range(100):
        plan(client, verb="watch", error="EIO")
    problem(
        client.post(f"{HERE}/faults", json={"verb": "watch", "error": "EIO"}),
        422,
        "invalid-request",
    )


@pytest.mark.parametrize(
    ("fault", "pointer"),
    [
        ({"verb": "stat"}, "#"),
        ({"verb": "stat", "error": "EIO", "vanishes": True}, "#"),
        ({"verb": "make", "vanishes": True}, "#"),
        ({"verb": "explode", "error": "EIO"}, "#/verb"),
        ({"verb": "stat", "error": "EWHAT"}, "#/error"),
        ({"verb": "stat", "error": "EIO", "use": 0}, "#/use"),
        ({"verb": "stat", "delay_seconds": 61}, "#/delay_seconds"),
        ({"verb": "stat", "error": "EIO", "group": "a//b"}, "#/group"),
    ],
)
def test_what_is_no_fault_is_pointed_at(
    client: httpx.Client, fault: dict[str, Any], pointer: str
) -> None:
    body = problem(client.post(f"{HERE}/faults", json=fault), 422, "invalid-request")
    assert pointer in [row["pointer"] for row in body["errors"]]


# Fuzzing

_VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.just("1M")
)
_NAMES = st.sampled_from(
    [
        "memory",
        "kind",
        "size_bytes",
        "heat_seconds",
        "trace",
        "bursts",
        "speed",
        "advance_seconds",
        "verb",
        "use",
        "group",
        "error",
        "x",
    ]
)
_JUNK = st.recursive(
    _VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.long
@examples(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=_JUNK)
def test_no_body_is_a_fault_of_the_daemon(client: httpx.Client, junk: object) -> None:
    for method, path in (("PUT", "/groups/web/workload"), ("POST", "/clock"), ("POST", "/faults")):
        for body in (
            junk,
            {"memory": [junk]},
            {"memory": [{"kind": "file", "size_bytes": junk, "trace": junk}]},
        ):
            answer = client.request(method, HERE + path, json=body, params={"dry_run": True})
            assert answer.status_code in {200, 400, 422}, answer.text
