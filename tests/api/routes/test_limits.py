"""Limits over HTTP.

A change takes effect, or changes nothing at all, and the refusal says what would work.
"""

from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from shrinkd.shrinks.job import State
from shrinkd.shrinks.run import Request
from shrinkd.sizes import PAGE_BYTES
from tests.api.conftest import Still
from tests.support.problem_checks import problem
from tests.support.races import together
from tests.support.scripted_simulator import MIB
from tests.support.shrink_requests import finished, running

NAMES = ["max_bytes", "high_bytes", "low_bytes", "min_bytes", "swap_max_bytes", "soft_limit_bytes"]


@pytest.fixture
def group(still: Still) -> Iterator[str]:
    """Make a group with 96 MiB that cannot be reclaimed and 256 MiB that can, in one of 1 GiB."""
    still.stage.simulator.make("limited")
    still.stage.simulator.set_limits(
        still.stage.simulator.groups("limited")[0], {"max_bytes": 1024 * MIB}
    )
    still.stage.group("limited/group", anon=96 * MIB, cache=256 * MIB)
    yield "limited/group"
    with still.stage.simulator.machine() as machine:
        for path in ("limited/group", "limited"):
            if path in machine.cgroups:
                still.stage.vanish(path)


def patch(client: httpx.Client, group: str, **limits: object) -> httpx.Response:
    return client.patch(f"/v1/groups/{group}/limits", json=limits)


def test_limits_are_read_from_the_kernel_with_what_holds_above(still: Still, group: str) -> None:
    body = still.client.get(f"/v1/groups/{group}/limits").json()
    assert {name: body[name] for name in NAMES} == dict.fromkeys(NAMES)
    assert (body["effective_max_bytes"], body["limited_by"]) == (1024 * MIB, "limited")
    assert body["unsupported"] == ["high_bytes", "low_bytes", "min_bytes"]
    assert body["group"]["path"] == group


def test_a_limit_above_usage_is_set_and_read_back(still: Still, group: str) -> None:
    body = patch(still.client, group, max_bytes="400M").json()
    assert (body["max_bytes"], body["effective_max_bytes"], body["limited_by"]) == (
        400 * MIB,
        400 * MIB,
        group,
    )
    assert still.stage.limits()[group] == 400 * MIB


def test_what_is_absent_stays_and_null_takes_away(still: Still, group: str) -> None:
    patch(still.client, group, max_bytes="400M", soft_limit_bytes="380M")
    body = patch(still.client, group, soft_limit_bytes=None).json()
    assert (body["max_bytes"], body["soft_limit_bytes"]) == (400 * MIB, None)
    assert patch(still.client, group, max_bytes=None).json()["max_bytes"] is None


def test_an_empty_patch_changes_nothing(still: Still, group: str) -> None:
    before = still.stage.everything()
    assert patch(still.client, group).status_code == 200
    assert still.stage.everything() == before


def test_a_limit_is_echoed_in_whole_pages_as_the_kernel_holds_it(still: Still, group: str) -> None:
    assert (
        patch(still.client, group, max_bytes=400 * MIB + PAGE_BYTES - 1).json()["max_bytes"]
        == 400 * MIB
    )


def test_a_limit_below_usage_is_refused_with_every_number(still: Still, group: str) -> None:
    before, client = still.stage.everything(), still.client
    stats = client.get(f"/v1/groups/{group}/stats").json()
    body = problem(patch(client, group, max_bytes="200M"), 409, "limit-below-usage")
    usage = stats["usage_bytes"]
    assert body == {
        "type": "/problems/limit-below-usage",
        "title": "The limit is below what the group uses",
        "status": 409,
        "errno": "EBUSY",
        "detail": f"Cannot set max_bytes to {200 * MIB} (200 MiB): the group uses {usage} bytes "
        "(352 MiB).",
        "instance": body["instance"],
        "group": stats["group"],
        "field": "max_bytes",
        "requested_bytes": 200 * MIB,
        "usage_bytes": usage,
        "shortfall_bytes": usage - 200 * MIB + 1,
        "reclaimable_estimate_bytes": 256 * MIB,
        "peak_bytes": stats["peak_bytes"],
        "current_max_bytes": None,
        "next": {
            "method": "POST",
            "href": f"/v1/groups/{group}/shrinks",
            "body": {"target_bytes": 200 * MIB, "set_max_bytes": 200 * MIB},
        },
    }
    assert still.stage.everything() == before


def test_next_is_the_request_that_makes_it_work(still: Still, group: str) -> None:
    following = problem(patch(still.client, group, max_bytes="200M"), 409, "limit-below-usage")[
        "next"
    ]
    shrink = still.client.request(
        following["method"],
        following["href"],
        json=following["body"],
        headers={"Prefer": "wait=60"},
    )
    assert (shrink.status_code, shrink.json()["state"]) == (200, "succeeded")
    assert still.stage.limits()[group] == 200 * MIB
    assert still.client.get(f"/v1/groups/{group}/stats").json()["usage_bytes"] < 200 * MIB


@pytest.mark.parametrize("name", ["odd name?", "unit:odd.service"])
def test_next_leads_to_a_group_of_any_name(still: Still, name: str) -> None:
    group = still.stage.group(name, cache=8 * MIB)
    following = problem(
        patch(still.client, f"id:{group.id}", max_bytes="1M"), 409, "limit-below-usage"
    )["next"]
    answer = still.client.post(
        following["href"], json=following["body"], headers={"Prefer": "wait=60"}
    )
    assert answer.json()["state"] == "succeeded"
    with still.stage.simulator.machine():
        still.stage.vanish(name)


@pytest.mark.parametrize("over", [0, 1, PAGE_BYTES - 1])
def test_usage_at_the_limit_is_not_below_it(still: Still, group: str, over: int) -> None:
    usage = still.client.get(f"/v1/groups/{group}/stats").json()["usage_bytes"]
    problem(patch(still.client, group, max_bytes=usage + over), 409, "limit-below-usage")


def test_usage_a_page_below_the_limit_is_below_it(still: Still, group: str) -> None:
    usage = still.client.get(f"/v1/groups/{group}/stats").json()["usage_bytes"]
    assert patch(still.client, group, max_bytes=usage + PAGE_BYTES).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("high_bytes", "1G"),
        ("high_bytes", 0),
        ("low_bytes", "1M"),
        ("low_bytes", "max"),
        ("min_bytes", "max"),
    ],
)
def test_a_limit_that_this_kernel_lacks_is_refused_by_name(
    still: Still, group: str, name: str, value: object
) -> None:
    before = still.stage.everything()
    body = problem(
        patch(still.client, group, max_bytes="400M", **{name: value}), 422, "unsupported-limit"
    )
    assert body["unsupported"] == [name]
    assert still.stage.everything() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("high_bytes", None), ("high_bytes", "max"), ("low_bytes", None), ("min_bytes", 0)],
)
def test_a_limit_that_this_kernel_lacks_may_stay_as_if_it_was_never_set(
    still: Still, group: str, name: str, value: object
) -> None:
    told = patch(still.client, group, max_bytes="400M", **{name: value})
    assert (told.status_code, told.json()["max_bytes"], told.json()[name]) == (200, 400 * MIB, None)


def test_limits_that_contradict_each_other_are_refused_and_none_is_set(
    still: Still, group: str
) -> None:
    patch(still.client, group, max_bytes="400M", swap_max_bytes="100M").raise_for_status()
    before = still.stage.everything()
    body = problem(
        patch(still.client, group, max_bytes="600M", soft_limit_bytes="1M"), 409, "limit-order"
    )
    assert (body["max_bytes"], body["memory_and_swap_max_bytes"]) == (600 * MIB, 500 * MIB)
    assert still.stage.everything() == before


def test_limits_that_would_contradict_each_other_alone_are_set_together(
    still: Still, group: str
) -> None:
    patch(still.client, group, max_bytes="400M", swap_max_bytes="100M").raise_for_status()
    body = patch(still.client, group, max_bytes="600M", swap_max_bytes="50M").json()
    assert (body["max_bytes"], body["swap_max_bytes"]) == (600 * MIB, 50 * MIB)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_bytes": "400M"},
        {"max_bytes": 400 * MIB + 5},
        {"max_bytes": "2G"},
        {"max_bytes": "1G"},
        {"max_bytes": None},
        {"soft_limit_bytes": "1M"},
        {"max_bytes": "500M", "swap_max_bytes": "1M", "soft_limit_bytes": "max"},
        {},
    ],
)
@pytest.mark.parametrize("before", [{}, {"max_bytes": "800M"}, {"max_bytes": "8G"}])
def test_a_dry_run_answers_as_the_change_would_and_changes_nothing(
    still: Still, group: str, before: dict[str, object], limits: dict[str, object]
) -> None:
    patch(still.client, group, **before).raise_for_status()
    all_before = still.stage.everything()
    tried = still.client.patch(f"/v1/groups/{group}/limits?dry_run=true", json=limits)
    assert still.stage.everything() == all_before
    assert tried.json() == patch(still.client, group, **limits).json() | {"dry_run": True}


def test_a_dry_run_of_a_maximum_tells_what_becomes_of_the_limit_of_swap(
    still: Still, group: str
) -> None:
    patch(still.client, group, max_bytes="800M", swap_max_bytes="200M").raise_for_status()
    tried = still.client.patch(
        f"/v1/groups/{group}/limits?dry_run=true", json={"max_bytes": "900M"}
    )
    assert (tried.json()["max_bytes"], tried.json()["swap_max_bytes"]) == (900 * MIB, 100 * MIB)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_bytes": "200M"},
        {"high_bytes": 1},
        {"max_bytes": "2G", "min_bytes": "1M"},
        {"swap_max_bytes": 1},
    ],
)
def test_a_dry_run_refuses_what_the_change_would_and_changes_nothing(
    still: Still, group: str, limits: dict[str, object]
) -> None:
    before = still.stage.everything()
    tried = still.client.patch(f"/v1/groups/{group}/limits?dry_run=true", json=limits).json()
    assert still.stage.everything() == before
    assert tried | {"instance": ""} == patch(still.client, group, **limits).json() | {
        "instance": ""
    }


def test_limits_stay_as_they_are_while_the_group_is_shrunk(still: Still, group: str) -> None:
    shrink = running(still.client, group, target_bytes="200M", max_bytes_per_second="128K")
    for query in ("", "?dry_run=true"):
        answer = still.client.patch(f"/v1/groups/{group}/limits{query}", json={"max_bytes": "1G"})
        body = problem(answer, 409, "shrink-in-progress")
        assert answer.headers["location"] == shrink["links"]["self"] == body["shrink"]["href"]
    assert still.stage.limits()[group] is None
    still.client.post(shrink["links"]["cancel"])
    finished(still.client, shrink)
    assert patch(still.client, group, max_bytes="1G").status_code == 200


def test_of_two_who_change_the_same_etag_at_once_one_wins(still: Still, group: str) -> None:
    path = f"/v1/groups/{group}/limits"
    with httpx.Client(base_url=still.live.url, timeout=60) as other:
        for number in range(20):
            headers = {"If-Match": still.client.get(path).headers["etag"]}
            first, second = together(
                partial(
                    still.client.patch,
                    path,
                    json={"max_bytes": (500 + 2 * number) * MIB},
                    headers=headers,
                ),
                partial(
                    other.patch, path, json={"max_bytes": (501 + 2 * number) * MIB}, headers=headers
                ),
            )
            assert sorted((first.status_code, second.status_code)) == [200, 412]
            won = first if first.status_code == 200 else second
            assert won.json()["max_bytes"] == still.stage.limits()[group]


def test_of_two_who_change_different_limits_at_once_neither_undoes_the_other(
    still: Still, group: str
) -> None:
    path = f"/v1/groups/{group}/limits"
    with httpx.Client(base_url=still.live.url, timeout=60) as other:
        for number in range(1, 20):
            together(
                partial(still.client.patch, path, json={"max_bytes": (500 + number) * MIB}),
                partial(other.patch, path, json={"soft_limit_bytes": number * MIB}),
            )
            body = still.client.get(path).json()
            assert (body["max_bytes"], body["soft_limit_bytes"]) == (
                (500 + number) * MIB,
                number * MIB,
            )


def test_a_charge_between_the_look_and_the_write_is_caught_by_the_kernel(
    still: Still, group: str
) -> None:
    usage = still.client.get(f"/v1/groups/{group}/stats").json()["usage_bytes"]

    def grow() -> None:
        # within a verb, which has the lock
        machine = still.stage.simulator._machine  # noqa: SLF001
        machine.charge(next(iter(machine.cgroups[group].processes.values())), "anon", 100)

    before, refused = still.stage.limits(), 0
    for verb in range(1, 12):
        still.stage.at(verb, grow)
        answer = patch(still.client, group, max_bytes=usage + 50 * PAGE_BYTES)
        if not still.stage.did_happen() or answer.status_code == 200:
            break
        body = problem(answer, 409, "limit-below-usage")
        assert body["usage_bytes"] >= body["requested_bytes"]
        assert still.stage.limits() == before
        refused, usage = refused + 1, body["usage_bytes"]
    assert refused


def test_a_group_that_goes_between_any_two_steps_of_a_change_is_a_clear_problem(
    still: Still,
) -> None:
    outcomes = []
    for verb in range(1, 40):
        still.stage.group("going", anon=MIB)
        still.stage.at(verb, lambda: still.stage.vanish("going"))
        answer = patch(still.client, "going", max_bytes="1G")
        outcomes.append((answer.status_code, answer.json().get("type")))
        if not still.stage.did_happen():
            break
    with still.stage.simulator.machine():
        still.stage.vanish("going")
    assert outcomes.pop() == (200, None)
    assert set(outcomes) <= {(404, "/problems/group-not-found"), (410, "/problems/group-gone")}
    assert (410, "/problems/group-gone") in outcomes


def test_the_pass_of_a_policy_ends_for_a_change_and_not_for_one_that_is_refused(
    still: Still, group: str
) -> None:
    jobs, found = still.live.parts.jobs, still.stage.simulator.groups(group)[0]
    job = jobs.submit(
        found, Request(60, target_bytes=200 * MIB, max_bytes_per_second=1), policy="room"
    )
    refused = [
        patch(still.client, group, max_bytes="64M"),
        patch(still.client, group, low_bytes="64M"),
        still.client.patch(
            f"/v1/groups/{group}/limits",
            json={"max_bytes": "900M"},
            headers={"If-Match": '"stale"'},
        ),
    ]
    assert [answer.status_code for answer in refused] == [409, 422, 412]
    assert not job.run.signal_pending()
    assert patch(still.client, group, max_bytes="900M").status_code == 200
    assert job.state is State.CANCELLED
