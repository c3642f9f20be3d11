"""Of all that is wanted at once: what is granted, and what the others are told."""

from dataclasses import replace

from shrinkd.policies import Reason, Reclaim, Resize, Verdict
from shrinkd.policies.arbiter import Proposal, arbitrate
from shrinkd.policies.guards import GROUP_BYTES_PER_SECOND, Guards
from shrinkd.policies.policy import Active
from tests.support.policy_samples import (
    HOST,
    MIB,
    kills,
    kind,
    moment,
    policy,
    pressed,
    proposal,
    stat,
)


def told(*proposals: Proposal) -> list[tuple[Verdict, Reason]]:
    return [(proposal.verdict, proposal.reason) for proposal in proposals]


def test_what_nothing_stands_against_is_granted() -> None:
    only = proposal(amount=10 * MIB)
    assert arbitrate([only], Guards(has_swappiness=True), moment(), ()) == [only]
    assert (only.verdict, only.granted_bytes) == (Verdict.ACT, 10 * MIB)


def test_in_observe_mode_nothing_is_granted_and_nobody_else_is_kept_from_it() -> None:
    watching, acting = proposal(of=policy("a", mode="observe")), proposal(of=policy("b"))
    assert arbitrate([watching, acting], Guards(has_swappiness=True), moment(), ()) == [acting]
    assert watching.verdict is Verdict.WOULD_ACT


def test_a_kind_of_lower_rank_waits_for_one_of_higher() -> None:
    late, first = (
        proposal(of=policy("a"), as_kind=kind(50)),
        proposal(of=policy("z"), as_kind=kind(10)),
    )
    assert arbitrate([late, first], Guards(has_swappiness=True), moment(), ()) == [first]
    assert told(late) == [(Verdict.SUPERSEDED, Reason.OUTRANKED)]


def test_of_one_rank_the_priority_decides_and_then_the_name() -> None:
    proposals = [
        proposal(of=policy("c", priority=5)),
        proposal(of=policy("a", priority=9)),
        proposal(of=policy("b", priority=5)),
    ]
    assert arbitrate(proposals, Guards(has_swappiness=True), moment(), ()) == [proposals[2]]


def test_in_a_chain_of_groups_one_is_granted() -> None:
    outer, inner, beside = (
        proposal("a", of=policy("1")),
        proposal("a/b/c", of=policy("2")),
        proposal("ab", of=policy("3")),
    )
    assert arbitrate([outer, inner, beside], Guards(has_swappiness=True), moment(), ()) == [
        outer,
        beside,
    ]
    assert told(inner) == [(Verdict.SUPERSEDED, Reason.OUTRANKED)]


def test_where_something_is_being_done_nothing_more_is() -> None:
    inner = proposal("a/b")
    assert arbitrate([inner], Guards(has_swappiness=True), moment(), ["a"]) == []
    assert told(inner) == [(Verdict.SUPERSEDED, Reason.CHAIN_BUSY)]


def test_two_who_want_the_same_of_one_group_get_the_larger_amount_once_above_the_higher_floor() -> (
    None
):
    first = proposal(amount=10 * MIB, of=policy("a"), reading=stat(100 * MIB))
    second = proposal(amount=90 * MIB, of=policy("b"), reading=stat(100 * MIB), floor=40 * MIB)
    arbitrate([first, second], Guards(has_swappiness=True), moment(), ())
    assert (first.granted_bytes, second.granted_bytes) == (60 * MIB, 0)


def test_an_action_for_two_keeps_the_stricter_rule_for_swap_and_takes_over_nothing_else() -> None:
    swapping = replace(HOST, swap_total_bytes=1 << 30, swap_free_bytes=1 << 30)
    reading = stat(
        100 * MIB,
        active_file_bytes=50 * MIB,
        inactive_file_bytes=0,
        reclaimable_estimate_bytes=100 * MIB,
    )
    granted = []
    for first, second in (
        ("allow", "file_only"),
        ("file_only", "allow"),
        ("file_only", "anon_only"),
        ("allow", "anon_only"),
    ):
        one, two = (
            proposal(amount=10 * MIB, of=policy("a", swap=first), reading=reading),
            proposal(amount=40 * MIB, of=policy("b", swap=second), reading=reading),
        )
        arbitrate([one, two], Guards(has_swappiness=True), moment(host=swapping), ())
        granted.append((one.granted_bytes // MIB, one.swappiness))
    assert granted == [(40, 0), (40, 0), (10, 0), (40, 200)]


def test_nothing_is_granted_below_the_floor() -> None:
    near, at = (
        proposal("near", 64 * MIB, reading=stat(100 * MIB), floor=90 * MIB),
        proposal("at", reading=stat(100 * MIB), floor=100 * MIB - 1),
    )
    assert arbitrate([near, at], Guards(has_swappiness=True), moment(), ()) == [near]
    assert near.granted_bytes == 10 * MIB
    assert told(at) == [(Verdict.HOLD, Reason.AT_FLOOR)]


def test_a_usage_to_reach_is_measured_from_where_usage_is() -> None:
    only = proposal(reading=stat(100 * MIB), ask=Reclaim(target_bytes=70 * MIB))
    arbitrate([only], Guards(has_swappiness=True), moment(), ())
    assert only.granted_bytes == 30 * MIB


def test_what_is_not_urgent_keeps_to_the_rates_and_what_is_does_not() -> None:
    slow, fast = (
        proposal("a", 1 << 30, reading=stat(2 << 30)),
        proposal("b", 1 << 30, reading=stat(2 << 30), as_kind=kind(is_urgent=True)),
    )
    guards = Guards(has_swappiness=True)
    arbitrate([slow, fast], guards, moment(), ())
    assert (slow.granted_bytes, fast.granted_bytes) == (GROUP_BYTES_PER_SECOND, 1 << 30)
    again = proposal("a", 1 << 30, reading=stat(2 << 30))
    arbitrate([again], guards, moment(), ())
    assert told(again) == [(Verdict.VETOED, Reason.RATE_SPENT)]


def test_what_is_one_pass_is_granted_whole_or_not_yet() -> None:
    guards, once = Guards(has_swappiness=True), Reclaim(reclaim_bytes=1 << 30, is_one_pass=True)
    first, again = (proposal("a", reading=stat(2 << 30), ask=once) for _ in range(2))
    assert arbitrate([first], guards, moment(), ()) == [first]
    assert arbitrate([again], guards, moment(5), ()) == []
    assert (first.granted_bytes, told(again)) == (1 << 30, [(Verdict.VETOED, Reason.RATE_SPENT)])
    assert arbitrate([again], guards, moment(12), ()) == []
    later = proposal("a", reading=stat(2 << 30), ask=once)
    assert arbitrate([later], guards, moment(12), ()) == [later]


def test_a_grant_whose_end_is_still_to_be_told_is_followed_by_no_other_there() -> None:
    only = proposal()
    only.binding.running.add(only.group.id)
    assert arbitrate([only], Guards(has_swappiness=True), moment(), ()) == []
    assert told(only) == [(Verdict.SUPERSEDED, Reason.CHAIN_BUSY)]


def test_limits_behind_a_shrink_keep_to_the_rule_for_swap() -> None:
    swapping, smaller = (
        replace(HOST, swap_total_bytes=1 << 30, swap_free_bytes=1 << 30),
        Resize({"max_bytes": 50 * MIB}),
    )
    made = [
        proposal(of=policy(swap="file_only"), reading=stat(usage), ask=smaller)
        for usage in (100 * MIB, 100 * MIB, 10 * MIB)
    ]
    for has_swappiness, each in zip((True, False, False), made, strict=True):
        arbitrate([each], Guards(has_swappiness), moment(host=swapping), ())
    assert [each.swappiness for each in made] == [0, None, None]
    assert told(*made) == [
        (Verdict.ACT, Reason.BELOW_TARGET),
        (Verdict.VETOED, Reason.SWAP_SCARCE),
        (Verdict.ACT, Reason.BELOW_TARGET),
    ]


def test_a_veto_says_why_and_how_long_asking_again_is_of_no_use() -> None:
    guards = Guards(has_swappiness=True)
    guards.note_oom_kills(proposal("killed").group, stat(events=kills(0)), 0)
    guards.note_oom_kills(proposal("killed").group, stat(events=kills(1)), 0)
    killed, pausing, scarce = (
        proposal("killed"),
        proposal("off", of=policy(active=Active(windows=["* 5 * * *"]))),
        proposal("s", of=policy(swap="anon_only")),
    )
    broken = proposal("broken")
    for _ in range(3):
        broken.binding.breaker.note("EIO", 0)
    assert arbitrate([killed, pausing, scarce, broken], guards, moment(), ()) == []
    assert told(killed, pausing, scarce, broken) == [
        (Verdict.TRIPPED, Reason.OOM_KILLED),
        (Verdict.VETOED, Reason.OUT_OF_HOURS),
        (Verdict.VETOED, Reason.SWAP_SCARCE),
        (Verdict.TRIPPED, Reason.FAILED_THRICE),
    ]
    assert all(
        proposal.delay_seconds > 0 and not proposal.granted_bytes
        for proposal in (killed, pausing, scarce, broken)
    )


def test_a_policy_in_its_hours_acts() -> None:
    only = proposal(of=policy(active=Active(windows=["* 0 * * *"])))
    assert arbitrate([only], Guards(has_swappiness=True), moment(), ()) == [only]


def test_limits_are_no_reclaim_and_need_no_allowance() -> None:
    only = proposal(reading=stat(10 * MIB), floor=10 * MIB, ask=Resize({"max_bytes": None}))
    assert arbitrate(
        [only], Guards(has_swappiness=True), moment(host=replace(HOST, pressure=pressed(1.0))), ()
    ) == [only]
    assert only.granted_bytes == 0
