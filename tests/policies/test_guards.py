"""What no policy may do, each guard by itself."""

import math
from dataclasses import replace

import pytest

from shrinkd.policies import Reason, kinds
from shrinkd.policies.guards import (
    GROUP_BYTES_PER_SECOND,
    HOST_BYTES_PER_SECOND,
    OOM_SECONDS,
    Breaker,
    Bucket,
    Guards,
    floor_of,
)
from shrinkd.policies.policy import Floor
from shrinkd.sizes import UNLIMITED
from tests.support.policy_samples import HOST, MIB, group, kills, policy, pressed, stat

WEB, DB, LOG, API = group("web"), group("db"), group("log"), group("api")
SWAP = replace(HOST, swap_total_bytes=1000 * MIB, swap_free_bytes=500 * MIB)


def test_a_bucket_holds_a_second_and_fills_with_the_time() -> None:
    bucket = Bucket(100.0)
    bucket.take(100, now=0)
    assert [bucket.available(0), bucket.available(0.5), bucket.available(9)] == [0, 50, 100]


def test_a_bucket_that_was_overdrawn_is_empty_until_that_is_made_up_for() -> None:
    bucket = Bucket(100.0)
    bucket.take(300, now=0)
    assert bucket.available(1) < 0
    assert bucket.available(2.5) == 50


def test_a_bucket_is_overdrawn_by_ten_seconds_at_most_and_by_what_is_urgent_not_at_all() -> None:
    slow, urgent = Bucket(100.0), Bucket(100.0)
    slow.take(1e9, now=0)
    urgent.take(1e9, now=0, is_urgent=True)
    assert (slow.available(9.5), slow.available(10.5)) == (-50, 50)
    assert (urgent.available(0), urgent.available(0.5)) == (0, 50)
    slow.take(2e3, now=11)
    slow.take(1, now=11, is_urgent=True)
    assert slow.available(20) < 0


def test_a_clock_that_went_back_fills_no_bucket() -> None:
    bucket = Bucket(100.0)
    bucket.take(100, now=50)
    assert bucket.available(10) == 0


def test_three_hard_errors_in_a_row_open_a_breaker_and_the_next_one_for_twice_as_long() -> None:
    breaker = Breaker()
    for _ in range(3):
        assert not breaker.is_open(0)
        breaker.note("EIO", 0)
    assert (breaker.is_open(59.9), breaker.is_open(60)) == (True, False)
    breaker.note("EIO", 60)
    assert (breaker.is_open(179.9), breaker.is_open(180)) == (True, False)


def test_a_breaker_is_open_for_an_hour_at_most() -> None:
    breaker, now = Breaker(), 0.0
    for _ in range(20):
        breaker.note("EIO", now)
        now = max(now, breaker.until)
    began = now
    breaker.note("EIO", began)
    assert breaker.until - began == 3600


def test_what_went_well_closes_a_breaker_for_good() -> None:
    breaker = Breaker()
    for errname in ("EIO", "EIO", None, "EIO", "EIO"):
        breaker.note(errname, 0)
    assert not breaker.is_open(0)


@pytest.mark.parametrize("errname", ["EBUSY", "EINTR", "ETIMEDOUT", "EAGAIN"])
def test_what_a_kind_deals_with_by_itself_opens_no_breaker(errname: str) -> None:
    breaker = Breaker()
    for _ in range(10):
        breaker.note(errname, 0)
    assert not breaker.is_open(0)


def test_a_group_that_lost_a_process_to_an_oom_kill_is_left_alone_for_a_while() -> None:
    guards = Guards(has_swappiness=True)
    guards.note_oom_kills(WEB, stat(events=kills(3)), 0)
    assert guards.veto(kinds()["watermark"], WEB, HOST, 0) is None, "kills of long ago are no news"
    guards.note_oom_kills(WEB, stat(events=kills(4)), 10)
    assert guards.veto(kinds()["watermark"], WEB, HOST, 10 + OOM_SECONDS - 1) is Reason.OOM_KILLED
    assert guards.veto(kinds()["watermark"], DB, HOST, 10) is None
    assert guards.veto(kinds()["watermark"], WEB, HOST, 10 + OOM_SECONDS) is None


def test_a_callers_own_change_comes_first_while_it_goes_on_and_for_a_while_behind_it() -> None:
    ages = {WEB: 0.0, DB: 29.0, API: 30.0}
    guards = Guards(has_swappiness=True, manual_age=lambda group: ages.get(group, math.inf))
    assert [guards.veto(kinds()["limit"], group, HOST, 0) for group in (WEB, DB, API)] == [
        Reason.MANUAL_CHANGE,
        Reason.MANUAL_CHANGE,
        None,
    ]
    assert guards.veto(kinds()["limit"], LOG, HOST, 0) is None


@pytest.mark.parametrize(
    ("kind", "waits"),
    [
        ("pressure", True),
        ("idle", True),
        ("schedule", True),
        ("watermark", False),
        ("balance", False),
    ],
)
def test_a_host_that_stalls_is_not_given_more_to_do_but_for_what_helps_it(
    kind: str, *, waits: bool
) -> None:
    suffering = replace(HOST, pressure=pressed(5.1))
    assert (
        Guards(has_swappiness=True).veto(kinds()[kind], WEB, suffering, 0) is Reason.HOST_PRESSED
    ) == waits
    assert (
        Guards(has_swappiness=True).veto(
            kinds()[kind], WEB, replace(HOST, pressure=pressed(5.0)), 0
        )
        is None
    )


def test_a_group_and_the_host_have_their_rates() -> None:
    guards = Guards(has_swappiness=True)
    assert guards.allowance(WEB, 0) == GROUP_BYTES_PER_SECOND
    guards.add_grant(WEB, GROUP_BYTES_PER_SECOND, 0)
    assert guards.allowance(WEB, 0) == 0
    guards.add_grant(DB, GROUP_BYTES_PER_SECOND, 0)
    assert guards.allowance(LOG, 0) == HOST_BYTES_PER_SECOND - 2 * GROUP_BYTES_PER_SECOND == 0
    assert guards.allowance(LOG, 0.25) == HOST_BYTES_PER_SECOND // 4


def test_nothing_is_granted_while_reclaim_has_had_more_than_its_time() -> None:
    guards = Guards(has_swappiness=True)
    guards.allowance(WEB, 0)
    guards.add_reclaim_seconds(0.25, 0)
    assert [guards.allowance(WEB, now) > 0 for now in (0, 3.9, 4.1)] == [False, False, True]


@pytest.mark.parametrize(
    ("swap", "reading", "host", "has_swappiness", "wanted"),
    [
        ("allow", stat(), HOST, True, None),
        ("allow", stat(), SWAP, True, None),
        ("allow", stat(), replace(SWAP, swap_free_bytes=99 * MIB), True, 0),
        ("allow", stat(), replace(SWAP, swap_free_bytes=99 * MIB), False, Reason.SWAP_SCARCE),
        ("allow", stat(swap_bytes=81, limits={"swap_max_bytes": 100}), SWAP, True, 0),
        ("allow", stat(swap_bytes=80, limits={"swap_max_bytes": 100}), SWAP, True, None),
        ("file_only", stat(), SWAP, True, 0),
        ("file_only", stat(), SWAP, False, Reason.SWAP_SCARCE),
        ("file_only", stat(), HOST, False, None),
        ("anon_only", stat(), SWAP, True, 200),
        ("anon_only", stat(), HOST, True, Reason.SWAP_SCARCE),
    ],
)
def test_swap_is_filled_only_where_there_is_room_and_the_policy_lets_it(
    swap: str, reading: object, host: object, *, has_swappiness: bool, wanted: object
) -> None:
    assert Guards(has_swappiness).swappiness(policy(swap=swap), reading, host) == wanted  # type: ignore[arg-type]  # of a table


@pytest.mark.parametrize(
    ("floor", "reading", "wanted"),
    [
        (Floor(bytes=64 * MIB), stat(512 * MIB), 64 * MIB),
        (
            Floor(bytes=64 * MIB, percent_of_limit=25),
            stat(512 * MIB, limits={"effective_max_bytes": 1024 * MIB}),
            256 * MIB,
        ),
        (Floor(bytes=64 * MIB, percent_of_limit=25), stat(512 * MIB), 64 * MIB),
        (
            Floor(bytes=64 * MIB),
            stat(512 * MIB, limits={"min_bytes": 100 * MIB, "low_bytes": 90 * MIB}),
            100 * MIB,
        ),
        (
            Floor(bytes=64 * MIB),
            stat(512 * MIB, limits={"min_bytes": 0, "low_bytes": UNLIMITED}),
            UNLIMITED,
        ),
        # a protection covers all usage, what cannot go as well; a floor is what is left beside that
        (
            Floor(bytes=64 * MIB),
            stat(512 * MIB, limits={"min_bytes": 100 * MIB}, reclaimable_estimate_bytes=500 * MIB),
            100 * MIB,
        ),
        (
            Floor(bytes=64 * MIB),
            stat(512 * MIB, limits={"min_bytes": 100 * MIB}, reclaimable_estimate_bytes=400 * MIB),
            176 * MIB,
        ),
        (
            Floor(bytes=64 * MIB),
            stat(512 * MIB, reclaimable_estimate_bytes=200 * MIB, inactive_file_bytes=200 * MIB),
            376 * MIB,
        ),
    ],
)
def test_the_floor_is_what_protects_most_beside_what_cannot_go(
    floor: Floor, reading: object, wanted: int
) -> None:
    assert floor_of(policy(floor=floor), reading) == wanted  # type: ignore[arg-type]  # of a table


@pytest.mark.parametrize(
    ("swap", "wanted"), [("allow", 212), ("file_only", 412), ("anon_only", 312)]
)
def test_what_a_policy_leaves_alone_counts_as_what_cannot_go(swap: str, wanted: int) -> None:
    reading = stat(512 * MIB, inactive_file_bytes=100 * MIB, reclaimable_estimate_bytes=300 * MIB)
    assert floor_of(policy(swap=swap), reading) == wanted * MIB


def test_groups_that_are_gone_are_forgotten() -> None:
    guards = Guards(has_swappiness=True)
    guards.note_oom_kills(WEB, stat(events=kills(0)), 0)
    guards.note_oom_kills(WEB, stat(events=kills(1)), 0)
    guards.add_grant(WEB, GROUP_BYTES_PER_SECOND, 0)
    guards.forget(frozenset())
    assert guards.veto(kinds()["limit"], WEB, HOST, 0) is None
    assert guards.allowance(WEB, 0) > 0
