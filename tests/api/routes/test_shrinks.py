"""Shrinks over HTTP.

How each ends, who waits for it and how, and that a failed one has changed no limit.
"""

import asyncio
import json
import logging
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from shrinkd.api.routes import shrinks
from shrinkd.settings import Settings
from shrinkd.shrinks.queue import MAX_WAITING_SHRINKS
from shrinkd.shrinks.run import Request
from tests.api.conftest import Still
from tests.support.live_server import Live
from tests.support.polling import until
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import MIB, Stage
from tests.support.shrink_requests import ENDLESS, finished, running, shrunk, start


@pytest.fixture
def group(still: Still) -> Iterator[str]:
    """A group of 96 MiB that cannot be reclaimed and 256 MiB that can.

    Its shrinks are cancelled afterwards.
    """
    still.stage.group("group", anon=96 * MIB, cache=256 * MIB)
    yield "group"
    for state in ("running", "queued"):
        for shrink in still.client.get("/v1/shrinks", params={"state": state}).json()["items"]:
            still.client.post(shrink["links"]["cancel"])
            finished(still.client, shrink)
    with still.stage.simulator.machine() as machine:
        if "group" in machine.cgroups:
            still.stage.vanish("group")


# -- asking ------------------------------------------------------------------------------------


def test_a_shrink_is_accepted_with_its_address_and_when_to_look_again(
    still: Still, group: str
) -> None:
    answer = still.client.post(f"/v1/groups/{group}/shrinks", json=ENDLESS)
    body = answer.json()
    assert (answer.status_code, answer.headers["location"], answer.headers["retry-after"]) == (
        202,
        f"/v1/shrinks/{body['id']}",
        "1",
    )
    assert "preference-applied" not in answer.headers
    assert re.fullmatch("[0-9a-f]{32}", body["id"])
    assert body["group"] == still.client.get(f"/v1/groups/{group}/limits").json()["group"]
    assert (body["done"], body["error"], body["policy"], body["finished_at"]) == (
        False,
        None,
        None,
        None,
    )
    assert body["request"] == {
        "target_bytes": 200 * MIB,
        "reclaim_bytes": None,
        "set_max_bytes": None,
        "timeout_seconds": 300,
        "max_bytes_per_second": MIB,
        "swappiness": None,
        "pressure_pause_percent": None,
        "reason": None,
    }
    here = f"/v1/shrinks/{body['id']}"
    assert body["links"] == {
        "self": here,
        "cancel": f"{here}/cancel",
        "events": f"{here}/events",
        "group": f"/v1/groups/{group}",
    }


def test_a_shrink_that_nobody_waits_for_is_202_even_when_it_is_done_before_it_is_answered(
    still: Still, group: str
) -> None:
    parts = still.live.parts
    job = parts.jobs.submit(
        still.stage.simulator.groups(group)[0], Request(timeout_seconds=60, target_bytes=8 << 30)
    )
    job.finished.result()
    answer = asyncio.run(
        shrinks.answer(
            parts,
            job.row(),
            shrinks.SubmitOptions("anyone", 0, makes=None, reader=None, dry_run=False),
        )
    )
    assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
    assert json.loads(bytes(answer.body))["state"] == "succeeded"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"target_bytes": 1, "reclaim_bytes": 1},
        {"set_max_bytes": "1G"},
        {"target_bytes": "200M", "set_max_bytes": "199M"},
        {"target_bytes": None},
        {"target_bytes": "max"},
        {"target_bytes": -1},
        {"target_bytes": 1.5},
        {"target_bytes": True},
        {"target_bytes": 2**63},
        {"reclaim_bytes": "1MB"},
        {"target_bytes": 1, "timeout_seconds": 0},
        {"target_bytes": 1, "timeout_seconds": -1},
        {"target_bytes": 1, "timeout_seconds": 86401},
        {"target_bytes": 1, "timeout_seconds": "60"},
        {"target_bytes": 1, "timeout_seconds": True},
        {"target_bytes": 1, "timeout_seconds": None},
        {"target_bytes": 1, "max_bytes_per_second": 0},
        {"target_bytes": 1, "swappiness": 201},
        {"target_bytes": 1, "swappiness": -1},
        {"target_bytes": 1, "swappiness": 60.0},
        {"target_bytes": 1, "pressure_pause_percent": 101},
        {"target_bytes": 1, "pressure_pause_percent": -0.1},
        {"target_bytes": 1, "reason": "x" * 201},
        {"target_bytes": 1, "reason": 1},
        {"target_bytes": 1, "reason": "\ud800"},
        {"target_bytes": 1, "priority": 1},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_a_shrink_that_makes_no_sense_is_refused_before_a_byte_is_touched(
    still: Still, group: str, body: dict[str, Any], query: str
) -> None:
    before = still.stage.everything()
    answer = still.client.post(
        f"/v1/groups/{group}/shrinks{query}",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    assert problem(answer, 422, "invalid-request")["errors"]
    assert still.stage.everything() == before


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN"])
def test_a_timeout_without_end_is_refused(still: Still, group: str, number: str) -> None:
    body = f'{{"target_bytes": 1, "timeout_seconds": {number}}}'
    answer = still.client.post(
        f"/v1/groups/{group}/shrinks", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 422}


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_an_option_that_this_kernel_does_not_take_is_refused(
    still: Still, group: str, query: str
) -> None:
    answer = still.client.post(
        f"/v1/groups/{group}/shrinks{query}", json={"target_bytes": 1, "swappiness": 60}
    )
    assert problem(answer, 422, "unsupported-option")["option"] == "swappiness"


def test_a_dry_run_of_a_shrink_has_the_shape_of_one_and_leaves_nothing(
    still: Still, group: str
) -> None:
    before = still.stage.everything()
    answer = still.client.post(
        f"/v1/groups/{group}/shrinks?dry_run=true", json=ENDLESS, headers={"Prefer": "wait=60"}
    )
    body = answer.json()
    assert (answer.status_code, body["dry_run"], body["state"]) == (202, True, "queued")
    assert "location" not in answer.headers
    assert still.stage.everything() == before
    problem(still.client.get(body["links"]["self"]), 404, "shrink-not-found")


def test_a_dry_run_of_a_shrink_sees_the_one_that_is_in_progress(still: Still, group: str) -> None:
    running(still.client, group)
    problem(
        still.client.post(f"/v1/groups/{group}/shrinks?dry_run=true", json=ENDLESS),
        409,
        "shrink-in-progress",
    )


# -- ending ------------------------------------------------------------------------------------


def test_a_shrink_has_succeeded_when_usage_is_below_the_target(still: Still, group: str) -> None:
    body = shrunk(still.client, group, target_bytes="200M")
    usage = still.client.get(f"/v1/groups/{group}/stats").json()["usage_bytes"]
    progress = body["progress"]
    assert (body["state"], body["error"]) == ("succeeded", None)
    assert progress["usage_bytes"] == usage < 200 * MIB
    assert (progress["start_bytes"], progress["target_bytes"], progress["remaining_bytes"]) == (
        352 * MIB,
        200 * MIB,
        0,
    )
    assert progress["reclaimed_bytes"] == 352 * MIB - usage
    assert progress["passes"] >= 1
    assert (progress["retries_left"], progress["eta_seconds"]) == (5, None)
    assert still.stage.limits()[group] is None


def test_a_shrink_goes_hardly_further_than_it_was_asked_to(still: Still, group: str) -> None:
    assert (
        200 * MIB - shrunk(still.client, group, target_bytes="200M")["progress"]["usage_bytes"]
        <= 2 * MIB
    )


def test_usage_at_the_target_is_not_below_it(still: Still, group: str) -> None:
    assert shrunk(still.client, group, target_bytes=352 * MIB)["progress"]["passes"] == 1
    usage = still.client.get(f"/v1/groups/{group}/stats").json()["usage_bytes"]
    assert shrunk(still.client, group, target_bytes=usage + 1)["progress"]["passes"] == 0


def test_a_shrink_by_an_amount_ends_that_much_lower(still: Still, group: str) -> None:
    body = shrunk(still.client, group, reclaim_bytes="50M")
    assert (body["state"], body["progress"]["target_bytes"]) == ("succeeded", 302 * MIB + 1)
    assert 302 * MIB - 2 * MIB <= body["progress"]["usage_bytes"] <= 302 * MIB


@pytest.mark.parametrize("amount", [0, "0"])
def test_a_shrink_by_nothing_has_succeeded(still: Still, group: str, amount: object) -> None:
    body = shrunk(still.client, group, reclaim_bytes=amount)
    assert (body["state"], body["progress"]["reclaimed_bytes"]) == ("succeeded", 0)


def test_a_shrink_that_was_to_set_a_limit_has_set_it(still: Still, group: str) -> None:
    body = shrunk(still.client, group, target_bytes="200M", set_max_bytes="210M")
    assert (body["state"], still.stage.limits()[group]) == ("succeeded", 210 * MIB)


def test_a_shrink_by_an_amount_goes_on_to_the_limit_it_was_to_set(still: Still, group: str) -> None:
    body = shrunk(still.client, group, reclaim_bytes="1M", set_max_bytes="200M")
    assert (body["state"], still.stage.limits()[group]) == ("succeeded", 200 * MIB)
    assert body["progress"]["usage_bytes"] < 200 * MIB


def test_a_shrink_that_cannot_succeed_has_stalled_after_five_passes_and_changed_no_limit(
    still: Still, group: str
) -> None:
    body = shrunk(still.client, group, target_bytes="32M", set_max_bytes="32M")
    error = body["error"]
    assert (body["state"], error["type"], error["errno"], error["status"]) == (
        "failed",
        "/problems/shrink-stalled",
        "EBUSY",
        409,
    )
    assert (body["progress"]["retries_left"], body["progress"]["usage_bytes"]) == (0, 96 * MIB)
    assert (error["usage_bytes"], error["target_bytes"], error["group"]) == (
        96 * MIB,
        32 * MIB,
        body["group"],
    )
    assert still.stage.limits()[group] is None


def test_nothing_is_ever_below_nothing(still: Still, group: str) -> None:
    assert (
        shrunk(still.client, group, target_bytes=0)["error"]["type"] == "/problems/shrink-stalled"
    )


def test_a_shrink_that_runs_out_of_time_has_timed_out_and_keeps_what_it_got(
    still: Still, group: str
) -> None:
    body = shrunk(still.client, group, **ENDLESS, timeout_seconds=0.05, set_max_bytes="200M")
    error = body["error"]
    assert (body["state"], error["type"], error["errno"]) == (
        "failed",
        "/problems/shrink-timed-out",
        "ETIMEDOUT",
    )
    assert error["timeout_seconds"] == 0.05
    assert body["progress"]["reclaimed_bytes"] > 0
    assert still.stage.limits()[group] is None


def test_a_shrink_whose_work_is_done_already_succeeds_in_no_time_at_all(
    still: Still, group: str
) -> None:
    assert (
        shrunk(still.client, group, target_bytes="8G", timeout_seconds=1e-9)["state"] == "succeeded"
    )


def test_a_shrink_whose_group_goes_has_failed(still: Still, group: str) -> None:
    shrink = running(still.client, group)
    with still.stage.simulator.machine():
        still.stage.vanish(group)
    body = finished(still.client, shrink)
    assert (body["state"], body["error"]["type"], body["error"]["errno"]) == (
        "failed",
        "/problems/group-gone",
        "ENODEV",
    )


def test_a_shrink_never_touches_a_later_group_of_the_same_path(still: Still, group: str) -> None:
    shrink = running(still.client, group)
    with still.stage.simulator.machine():
        still.stage.vanish(group)
    still.stage.group(group, cache=300 * MIB)
    assert finished(still.client, shrink)["error"]["type"] == "/problems/group-gone"
    assert still.client.get(f"/v1/groups/{group}/stats").json()["usage_bytes"] == 300 * MIB


def test_a_group_that_goes_between_any_two_steps_of_a_shrink_ends_it_clearly(still: Still) -> None:
    outcomes = []
    for verb in range(1, 60):
        still.stage.group("going", anon=MIB, cache=64 * MIB)
        still.stage.at(verb, lambda: still.stage.vanish("going"))
        request = {"target_bytes": "8M", "set_max_bytes": "8M", "pressure_pause_percent": 50}
        body = still.client.post(
            "/v1/groups/going/shrinks", json=request, headers={"Prefer": "wait=60"}
        ).json()
        outcomes.append(body.get("state") or body["type"])
        if not still.stage.did_happen():
            break
        if body.get("state") == "failed":
            assert body["error"]["type"] == "/problems/group-gone"
    with still.stage.simulator.machine():
        still.stage.vanish("going")
    assert outcomes.pop() == "succeeded"
    assert set(outcomes) == {"/problems/group-not-found", "/problems/group-gone", "failed"}


def test_a_rate_is_kept_as_an_average(still: Still, group: str) -> None:
    rate = 64 * MIB
    body = shrunk(still.client, group, reclaim_bytes="16M", max_bytes_per_second=rate)
    took = datetime.fromisoformat(body["finished_at"]) - datetime.fromisoformat(body["started_at"])
    assert body["state"] == "succeeded"
    assert body["progress"]["reclaimed_bytes"] / took.total_seconds() <= rate * 1.05
    assert body["progress"]["passes"] >= 16 * MIB // (rate // 20)


def press(still: Still, group: str) -> None:
    """Let the group stall for memory, and the period pass in which the kernel notes that."""
    still.stage.simulator.set_limits(
        still.stage.simulator.groups(group)[0], {"max_bytes": 360 * MIB}
    )
    still.stage.charge(group, "anon", 200 * MIB)
    still.stage.seconds += 2.1
    assert pressure(still, group) > 0


def pressure(still: Still, group: str) -> float:
    return float(still.client.get(f"/v1/groups/{group}/stats").json()["pressure"]["some"]["avg10"])


def test_a_shrink_holds_while_the_group_is_under_pressure_and_goes_on_when_it_is_not(
    still: Still, group: str
) -> None:
    press(still, group)
    limit = pressure(still, group) / 2
    shrink = running(still.client, group, reclaim_bytes="10M", pressure_pause_percent=limit)
    held = still.client.get(shrink["links"]["self"], headers={"Prefer": "wait=1"}).json()
    assert (held["state"], held["progress"]["passes"]) == ("running", 0)
    while pressure(still, group) > limit:
        still.stage.seconds += 2
    assert finished(still.client, shrink)["state"] == "succeeded"


def test_a_shrink_that_holds_can_be_cancelled_and_says_how_long_it_held(
    still: Still, group: str
) -> None:
    press(still, group)
    shrink = running(still.client, group, reclaim_bytes="10M", pressure_pause_percent=0)
    still.client.post(shrink["links"]["cancel"])
    body = finished(still.client, shrink)
    assert (body["state"], body["progress"]["passes"]) == ("cancelled", 0)
    assert body["progress"]["elapsed_seconds"] > 0


def test_a_shrink_that_holds_runs_out_of_time_all_the_same(still: Still, group: str) -> None:
    press(still, group)
    body = shrunk(
        still.client, group, reclaim_bytes="10M", pressure_pause_percent=0, timeout_seconds=0.05
    )
    assert body["error"]["type"] == "/problems/shrink-timed-out"


# -- cancelling --------------------------------------------------------------------------------


def test_a_running_shrink_is_cancelled_and_moves_no_limit(still: Still, group: str) -> None:
    shrink = running(still.client, group, **ENDLESS, set_max_bytes="200M")
    answer = still.client.post(shrink["links"]["cancel"])
    assert (answer.status_code, answer.json()["state"]) in {(202, "cancelling"), (200, "cancelled")}
    body = finished(still.client, shrink)
    assert (body["state"], body["error"]) == ("cancelled", None)
    assert still.stage.limits()[group] is None
    usage = still.client.get(f"/v1/groups/{group}/stats").json()["usage_bytes"]
    assert (
        body["progress"]["usage_bytes"] == usage == 352 * MIB - body["progress"]["reclaimed_bytes"]
    )


def test_cancelling_what_is_cancelled_is_200(still: Still, group: str) -> None:
    shrink = running(still.client, group)
    still.client.post(shrink["links"]["cancel"])
    finished(still.client, shrink)
    again = still.client.post(shrink["links"]["cancel"])
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")
    assert "retry-after" not in again.headers


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
@pytest.mark.parametrize(("target", "state"), [("8G", "succeeded"), ("1M", "failed")])
def test_what_has_finished_is_not_cancelled(
    still: Still, group: str, target: str, state: str, query: str
) -> None:
    shrink = shrunk(still.client, group, target_bytes=target)
    assert (
        problem(still.client.post(shrink["links"]["cancel"] + query), 409, "shrink-finished")[
            "state"
        ]
        == state
    )
    assert still.client.get(shrink["links"]["self"]).json()["state"] == state


def test_a_dry_run_of_a_cancel_cancels_nothing(still: Still, group: str) -> None:
    shrink = running(still.client, group)
    tried = still.client.post(shrink["links"]["cancel"] + "?dry_run=true")
    assert (tried.status_code, tried.json()["dry_run"], tried.json()["state"]) == (
        202,
        True,
        "running",
    )
    assert still.client.get(shrink["links"]["self"]).json()["state"] == "running"


@pytest.mark.parametrize("shrink_id", ["none", "0" * 32, "%00", "x" * 300, "%2e%2e", "\N{SNOWMAN}"])
@pytest.mark.parametrize(
    ("method", "suffix"), [("GET", ""), ("POST", "/cancel"), ("GET", "/events")]
)
def test_a_shrink_that_is_none_is_not_found(
    client: httpx.Client, shrink_id: str, method: str, suffix: str
) -> None:
    problem(client.request(method, f"/v1/shrinks/{shrink_id}{suffix}"), 404, "shrink-not-found")


# -- one a group, and no more than there is room for -------------------------------------------


def test_a_group_has_one_shrink_at_a_time_and_the_answer_leads_to_it(
    still: Still, group: str
) -> None:
    shrink = running(still.client, group)
    answer = still.client.post(f"/v1/groups/{group}/shrinks", json={"target_bytes": "1G"})
    body = problem(answer, 409, "shrink-in-progress")
    assert answer.headers["location"] == body["shrink"]["href"] == shrink["links"]["self"]
    assert body["shrink"]["id"] == shrink["id"]


def test_when_a_shrink_is_done_the_next_can_begin_at_once(still: Still, group: str) -> None:
    states = {shrunk(still.client, group, reclaim_bytes="1M")["state"] for _ in range(20)}
    assert states == {"succeeded"}


@pytest.fixture
def narrow(settings: Settings) -> Iterator[Live]:
    """A daemon with one worker, and more groups than its queue has room for."""
    stage = Stage()
    with Live(settings.model_copy(update={"max_running_shrinks": 1}), stage.make_backend) as live:
        for number in range(MAX_WAITING_SHRINKS):
            stage.simulator.make(f"idle-{number}")
        yield live


def test_a_waiting_shrink_is_cancelled_at_once_and_never_began(narrow: Live) -> None:
    running(narrow.client, "web")
    waiting = start(narrow.client, "db", target_bytes="1G")
    assert waiting["state"] == "queued"
    answer = narrow.client.post(waiting["links"]["cancel"])
    body = answer.json()
    assert (answer.status_code, body["state"], body["started_at"]) == (200, "cancelled", None)
    assert (body["progress"]["passes"], body["progress"]["elapsed_seconds"]) == (0, 0)
    assert start(narrow.client, "db", target_bytes="1G")["state"] == "queued"


def test_a_waiting_shrink_begins_when_the_one_before_is_done(narrow: Live) -> None:
    first = running(narrow.client, "web")
    second = start(narrow.client, "cache", target_bytes="8G")
    narrow.client.post(first["links"]["cancel"])
    assert finished(narrow.client, second)["state"] == "succeeded"


def test_a_shrink_is_measured_from_when_it_began_and_not_from_when_it_was_asked_for(
    narrow: Live,
) -> None:
    first = running(narrow.client, "web")
    second = start(narrow.client, "cache", target_bytes="380M")
    with narrow.parts.backend.machine() as machine:
        machine.release(
            next(iter(machine.cgroups["cache"].processes.values())), "anon", 20 * MIB // 4096
        )
    narrow.client.post(first["links"]["cancel"])
    body = finished(narrow.client, second)
    assert (body["state"], body["progress"]["reclaimed_bytes"]) == ("succeeded", 0)
    assert body["progress"]["start_bytes"] == body["progress"]["usage_bytes"] == 368 * MIB


def test_who_has_half_of_the_queue_is_told_when_to_come_again_and_has_room_after_a_cancel(
    narrow: Live,
) -> None:
    running(narrow.client, "web")
    waiting = [
        start(narrow.client, f"idle-{number}", target_bytes=0)
        for number in range(MAX_WAITING_SHRINKS // 2 - 1)
    ]
    answer = narrow.client.post("/v1/groups/db/shrinks", json={"target_bytes": "1G"})
    body = problem(answer, 429, "too-many-shrinks")
    assert (answer.headers["retry-after"], body["active"]) == ("1", MAX_WAITING_SHRINKS // 2)
    narrow.client.post(waiting[0]["links"]["cancel"]).raise_for_status()
    assert start(narrow.client, "db", target_bytes="1G")["state"] == "queued"


# -- waiting -----------------------------------------------------------------------------------


def test_who_waits_is_answered_200_when_it_is_done(still: Still, group: str) -> None:
    answer = still.client.post(
        f"/v1/groups/{group}/shrinks", json={"target_bytes": "200M"}, headers={"Prefer": "wait=60"}
    )
    assert (answer.status_code, answer.headers["preference-applied"], answer.json()["state"]) == (
        200,
        "wait=60",
        "succeeded",
    )
    assert answer.headers["location"] == answer.json()["links"]["self"]
    assert "retry-after" not in answer.headers


def test_who_hangs_up_waits_no_more_and_the_shrink_goes_on(
    still: Still, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        with pytest.raises(httpx.ReadTimeout):
            still.client.post(
                f"/v1/groups/{group}/shrinks",
                json=ENDLESS,
                headers={"Prefer": "wait=60"},
                timeout=0.5,
            )
        until(lambda: f"POST '/v1/groups/{group}/shrinks' 202" in caplog.text)
    assert still.client.get(f"/v1/groups/{group}/shrinks").json()["items"][0]["state"] == "running"


def test_who_has_waited_long_enough_is_answered_202(still: Still, group: str) -> None:
    answer = still.client.post(
        f"/v1/groups/{group}/shrinks", json=ENDLESS, headers={"Prefer": "wait=1"}
    )
    assert (
        answer.status_code,
        answer.headers["preference-applied"],
        answer.headers["retry-after"],
    ) == (202, "wait=1", "1")
    assert answer.json()["state"] == "running"


def test_who_waits_for_a_cancel_hears_of_it(still: Still, group: str) -> None:
    shrink = running(still.client, group)
    heard: list[dict[str, Any]] = []
    with httpx.Client(base_url=still.live.url, timeout=60) as other:
        waiter = threading.Thread(target=lambda: heard.append(finished(other, shrink)))
        waiter.start()
        still.client.post(shrink["links"]["cancel"])
        waiter.join()
    assert heard[0]["state"] == "cancelled"


def test_a_shrink_that_is_known_is_304_until_it_moves(still: Still, group: str) -> None:
    shrink = shrunk(still.client, group, target_bytes="8G")
    first = still.client.get(shrink["links"]["self"])
    again = still.client.get(
        shrink["links"]["self"], headers={"If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, "retry-after" in again.headers) == (304, False)


def test_a_running_shrink_says_when_to_look_again(still: Still, group: str) -> None:
    assert (
        still.client.get(running(still.client, group)["links"]["self"]).headers["retry-after"]
        == "1"
    )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (["wait=5"], 5),
        (["WAIT=5"], 5),
        (["wait = 5"], 5),
        (['wait="5"'], 5),
        (["respond-async, wait=5"], 5),
        (["wait=5, respond-async"], 5),
        (["wait=5; foo=bar"], 5),
        (["respond-async", "wait=5"], 5),
        (["wait=5, wait=7"], 5),
        (["wait=61"], 60),
        (["wait=999999"], 60),
        (["wait=0"], 0),
        (["wait=-1"], 0),
        (["wait=1.5"], 0),
        (["wait=abc"], 0),
        (["wait"], 0),
        (["wait="], 0),
        (['wait="5'], 0),
        (["await=5"], 0),
        (["wait5"], 0),
        (["return=minimal; wait=5"], 0),
        (["x wait=5"], 0),
        (["wait=" + "9" * 5000], 0),
        ([""], 0),
    ],
)
def test_a_preference_is_read_as_rfc_7240_writes_it(
    still: Still, group: str, headers: list[str], seconds: int
) -> None:
    shrink = shrunk(still.client, group, target_bytes="8G")
    answer = still.client.get(
        shrink["links"]["self"], headers=[("Prefer", line) for line in headers]
    )
    assert answer.headers.get("preference-applied") == (f"wait={seconds}" if seconds else None)


# -- events ------------------------------------------------------------------------------------


def events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def test_a_stream_begins_with_the_state_tells_the_progress_and_closes_with_the_last_state(
    still: Still, group: str
) -> None:
    shrink = start(still.client, group, target_bytes="250M", max_bytes_per_second="200M")
    with still.client.stream("GET", shrink["links"]["events"]) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        heard = list(events(answer))
    names = [name for name, _ in heard]
    states = [body["state"] for name, body in heard if name == "state"]
    assert (names[0], names[-1], set(names)) == ("state", "state", {"state", "progress"})
    assert states in (["queued", "running", "succeeded"], ["running", "succeeded"])
    assert heard[-1][1] == still.client.get(shrink["links"]["self"]).json()
    usages = [body["usage_bytes"] for name, body in heard if name == "progress"]
    assert usages == sorted(usages, reverse=True)


def test_a_stream_of_what_is_done_tells_it_and_closes(still: Still, group: str) -> None:
    shrink = shrunk(still.client, group, target_bytes="8G")
    with still.client.stream("GET", shrink["links"]["events"]) as answer:
        assert list(events(answer)) == [("state", shrink)]


def test_a_stream_hears_of_a_cancel(still: Still, group: str) -> None:
    shrink = running(still.client, group)
    with (
        httpx.Client(base_url=still.live.url, timeout=60) as other,
        other.stream("GET", shrink["links"]["events"]) as answer,
    ):
        stream = events(answer)
        assert next(stream)[1]["state"] == "running"
        still.client.post(shrink["links"]["cancel"])
        assert [body["state"] for name, body in stream if name == "state"][-1] == "cancelled"


def test_a_listener_that_hangs_up_disturbs_nobody(still: Still, group: str) -> None:
    shrink = running(still.client, group)
    for _ in range(20):
        with still.client.stream("GET", shrink["links"]["events"]) as answer:
            next(events(answer))
    assert still.client.get(shrink["links"]["self"]).json()["state"] == "running"
    still.client.post(shrink["links"]["cancel"])
    assert finished(still.client, shrink)["state"] == "cancelled"


def test_a_listener_leaves_nothing_behind_for_each_time_it_looked(still: Still, group: str) -> None:
    shrink = running(still.client, group)
    with (
        httpx.Client(base_url=still.live.url, timeout=60) as other,
        other.stream("GET", shrink["links"]["events"]) as answer,
    ):
        stream = events(answer)
        for _ in range(6):
            next(stream)
        job = still.live.parts.jobs.job(shrink["id"])
        # concurrent.futures offers no other way to count
        assert len(job.finished._done_callbacks) <= 1  # noqa: SLF001


def test_head_of_a_stream_ends_at_once(still: Still, group: str) -> None:
    shrink = running(still.client, group)
    answer = still.client.head(shrink["links"]["events"])
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (
        200,
        "text/event-stream",
    )
    assert still.client.get(shrink["links"]["self"]).json()["state"] == "running"


# -- listing -----------------------------------------------------------------------------------


def listed(client: httpx.Client, path: str = "/v1/shrinks", **params: Any) -> list[str]:
    return [
        item["id"] for item in client.get(path, params=params).raise_for_status().json()["items"]
    ]


def test_the_newest_shrink_is_first_and_a_live_one_is_shown_as_it_is_now(
    still: Still, group: str
) -> None:
    old, new = shrunk(still.client, group, target_bytes="8G"), running(still.client, group)
    items = still.client.get("/v1/shrinks").json()["items"]
    assert [item["id"] for item in items[:2]] == [new["id"], old["id"]]
    assert (items[0]["state"], items[1]) == ("running", old)


def test_shrinks_are_listed_by_state(still: Still, group: str) -> None:
    good, bad = (
        shrunk(still.client, group, target_bytes="8G")["id"],
        shrunk(still.client, group, target_bytes=0)["id"],
    )
    live = running(
        still.client, group, reclaim_bytes=1, pressure_pause_percent=100, max_bytes_per_second=1
    )["id"]
    assert good in listed(still.client, state="succeeded")
    assert bad not in listed(still.client, state="succeeded")
    assert set(listed(still.client, state=["succeeded", "failed"])) >= {good, bad}
    assert listed(still.client, state="running") in ([live], [])


def test_shrinks_are_listed_by_group_even_when_it_has_gone(still: Still, group: str) -> None:
    shrink = shrunk(still.client, group, target_bytes="8G")["id"]
    other = shrunk(still.client, "web", target_bytes="8G")["id"]
    assert listed(still.client, f"/v1/groups/{group}/shrinks")[0] == shrink
    with still.stage.simulator.machine():
        still.stage.vanish(group)
    assert listed(still.client, group=group)[0] == shrink
    assert other not in listed(still.client, group=group)


def test_shrinks_are_listed_from_a_time_on(still: Still, group: str) -> None:
    old, new = (
        shrunk(still.client, group, target_bytes="8G"),
        shrunk(still.client, group, target_bytes="8G"),
    )
    assert listed(still.client, since=new["created_at"]) == [new["id"]]
    assert listed(still.client, since=old["created_at"], group=group) == [new["id"], old["id"]]
    at_home = datetime.fromisoformat(new["created_at"]).astimezone(tz=None).isoformat()
    assert listed(still.client, since=at_home) == [new["id"]]
    assert listed(still.client, since=(datetime.now(UTC) + timedelta(days=1)).isoformat()) == []


@pytest.mark.parametrize(
    "since",
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "1970-01-01T00:00:00Z",
    ],
)
def test_a_time_at_the_end_of_the_calendar_is_a_time(client: httpx.Client, since: str) -> None:
    assert client.get("/v1/shrinks", params={"since": since}).status_code == 200


@pytest.mark.parametrize(
    "params",
    [
        {"since": "yesterday"},
        {"since": "2026-01-01T00:00:00"},
        {"since": "0.5"},
        {"since": "-1"},
        {"since": "2026-01-01"},
        {"since": ""},
        {"state": "done"},
        {"state": ""},
    ],
)
def test_a_filter_that_is_none_is_refused(client: httpx.Client, params: dict[str, str]) -> None:
    problem(client.get("/v1/shrinks", params=params), 422, "invalid-request")


@pytest.mark.parametrize("group_name", ["a//b", "..", "\0", "x" * 300])
def test_a_filter_by_what_cannot_be_a_group_is_refused(
    client: httpx.Client, group_name: str
) -> None:
    problem(client.get("/v1/shrinks", params={"group": group_name}), 422, "invalid-group-name")


def test_times_are_utc_and_in_order(still: Still, group: str) -> None:
    body = shrunk(still.client, group, target_bytes="200M")
    times = [body["created_at"], body["started_at"], body["finished_at"]]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time) for time in times)


def test_what_a_running_shrink_tells_fits_together(still: Still, group: str) -> None:
    shrink = running(still.client, group, target_bytes="200M", max_bytes_per_second="256M")
    rows: list[dict[str, Any]] = []
    while not rows or not rows[-1]["done"]:
        rows.append(still.client.get(shrink["links"]["self"]).json())
        progress = rows[-1]["progress"]
        assert progress["start_bytes"] - progress["usage_bytes"] == progress["reclaimed_bytes"]
        assert progress["remaining_bytes"] == max(progress["usage_bytes"] - 200 * MIB + 1, 0)
        assert rows[-1]["done"] == (rows[-1]["finished_at"] is not None)
        assert (progress["eta_seconds"] is None) == (
            rows[-1]["done"] or not progress["reclaimed_bytes"]
        )
    passes = [row["progress"]["passes"] for row in rows]
    elapsed = [row["progress"]["elapsed_seconds"] for row in rows]
    assert (passes, elapsed) == (sorted(passes), sorted(elapsed))
