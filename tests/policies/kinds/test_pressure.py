"""pressure: it takes what is not missed, stops when it is, and begins again."""

import dataclasses
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.loop import Loop
from shrinkd.backends import Counters, UsageCrosses
from shrinkd.backends.simulator.machine import scenarios
from shrinkd.policies import MIN_ASK_BYTES, Decision, Outcome, Reason, Reclaim, Verdict
from shrinkd.policies.kinds.pressure import Course, KeepPressure, kind
from shrinkd.sizes import PAGE_BYTES
from tests.support.observations import MIB, Policy, member_of, stat_of

TARGET_US = 1000
"""Stall in a second at the target of 0.1 %."""


class Watched:
    """A group that is looked at, and does with an ask what it is told to."""

    def __init__(self, usage_bytes: int = 1024 * MIB, **spec: float) -> None:
        self.policy = Policy(kind, **spec)
        self.usage_bytes = usage_bytes
        self.now = 100.0
        self.some_us = 5_000_000
        self.decision = self.look()

    def look(self, outcome: Outcome | None = None, floor_bytes: int = 64 * MIB) -> Decision:
        self.decision = self.policy.look(
            self.now,
            member_of(
                stat_of(self.usage_bytes, some_us=self.some_us), floor_bytes, outcome=outcome
            ),
        )
        return self.decision

    def after(
        self, seconds: float = 2.0, *, stalled_us: int = 0, freed_bytes: int | None = None
    ) -> Decision:
        """The next look.

        What was asked for at the last one was granted and freed so much (None: it was not granted).
        """
        self.now += seconds
        self.some_us += stalled_us
        outcome = None if freed_bytes is None else Outcome(self.asked, freed_bytes, 0.01)
        self.usage_bytes -= freed_bytes or 0
        return self.look(outcome)

    @property
    def asked(self) -> int:
        return asked_of(self.decision)


def asked_of(decision: Decision) -> int:
    return decision.ask.reclaim_bytes or 0 if isinstance(decision.ask, Reclaim) else 0


def braked(group: Watched) -> Decision:
    """Let it take something that is missed at once, after it has been quiet."""
    group.after(120.0)
    return group.after(stalled_us=40_000, freed_bytes=group.asked)


def test_the_first_look_asks_for_nothing() -> None:
    group = Watched()
    assert (group.decision.verdict, group.decision.reason) == (Verdict.HOLD, Reason.FIRST_LOOK)
    assert group.decision.look_seconds == 2


def test_a_group_without_pressure_gives_a_small_step_first_and_then_larger_ones() -> None:
    group = Watched()
    asks = [asked_of(group.after())]
    asks += [asked_of(group.after(freed_bytes=group.asked)) for _ in range(4)]
    assert asks[0] == 2 * MIB
    assert all(
        later == pytest.approx(1.5 * before, abs=4096) for before, later in itertools.pairwise(asks)
    )


@pytest.mark.parametrize("freed", [0.4, None], ids=["little was freed", "it was not granted"])
def test_a_step_does_not_grow_when(freed: float | None) -> None:
    group = Watched()
    first = asked_of(group.after())
    assert asked_of(group.after(freed_bytes=None if freed is None else int(first * freed))) == first


def test_a_step_is_never_more_than_the_cap() -> None:
    group = Watched()
    group.after()
    for _ in range(30):
        above = group.usage_bytes - group.asked - 64 * MIB
        assert asked_of(group.after(freed_bytes=group.asked)) <= 0.03 * above


def test_the_nearer_pressure_is_to_the_target_the_less_is_asked_for() -> None:
    quiet, felt = Watched(), Watched()
    for group in (quiet, felt):
        for _ in range(12):
            group.after(freed_bytes=group.asked)
    assert (
        0
        < asked_of(felt.after(stalled_us=TARGET_US, freed_bytes=felt.asked))
        < asked_of(quiet.after(freed_bytes=quiet.asked))
    )


def test_above_the_target_nothing_is_asked_for_and_it_looks_again_when_that_may_have_gone() -> None:
    group = Watched()
    group.after()
    decision = group.after(20.0, stalled_us=40 * TARGET_US, freed_bytes=2 * MIB)
    assert (decision.verdict, decision.reason, decision.ask) == (
        Verdict.HOLD,
        Reason.ABOVE_TARGET,
        None,
    )
    assert decision.look_seconds > 10


def test_the_average_is_the_same_whatever_the_looks_were_that_saw_the_pressure() -> None:
    often, once = Watched(), Watched()
    for _ in range(10):
        often.after(1.0, stalled_us=300)
    once.after(10.0, stalled_us=3000)
    assert often.decision.signals["some_ewma_percent"] == once.decision.signals["some_ewma_percent"]
    assert 0 < float(once.decision.signals["some_ewma_percent"] or 0) < 0.03


def test_stalls_beyond_the_target_are_worked_off_before_the_next_ask() -> None:
    group = Watched()
    group.after()
    group.after(stalled_us=15_000, freed_bytes=2 * MIB)  # 0.75 %, not yet a brake
    waited = 0.0
    while group.decision.ask is None:
        waited += group.decision.look_seconds
        group.after(group.decision.look_seconds)
    assert 15_000 / TARGET_US <= waited <= 60


@pytest.mark.parametrize(("cost_us", "mib"), [(1_000, 24), (60_000, 5.33)])
def test_what_the_last_ask_cost_in_stalls_bounds_the_next_one(cost_us: int, mib: float) -> None:
    group = Watched(step_bytes=16 * MIB)
    assert asked_of(group.after()) == 16 * MIB
    group.after(10.0, stalled_us=cost_us, freed_bytes=16 * MIB)
    assert asked_of(group.after(300.0)) == pytest.approx(
        mib * MIB, rel=0.01
    )  # of 20 s at the target


def test_ten_times_the_target_is_a_brake_that_ends_after_six_seconds() -> None:
    group = Watched()
    decision = braked(group)
    assert (decision.verdict, decision.reason, decision.look_seconds) == (
        Verdict.BRAKE,
        Reason.ABOVE_TARGET,
        6,
    )
    assert group.after(2.0).verdict is Verdict.COOLDOWN
    assert group.decision.look_seconds == 4
    assert group.after(4.0).verdict is Verdict.HOLD
    assert group.after(120.0).verdict is Verdict.ACT


def test_from_the_second_brake_at_a_similar_usage_on_the_rest_is_longer_until_usage_grows() -> None:
    group = Watched()
    assert [braked(group).look_seconds, *(braked_again(group) for _ in range(5))] == [
        6,
        40,
        80,
        160,
        300,
        300,
    ]
    assert group.decision.wake_on == (UsageCrosses(int((1024 - 2) * MIB * 1.1) + 1),)
    group.usage_bytes = 1200 * MIB
    assert group.after(1.0).verdict is not Verdict.COOLDOWN
    assert braked(group).look_seconds == 6


def braked_again(group: Watched) -> float:
    group.after(group.decision.look_seconds)
    return braked(group).look_seconds


def test_a_brake_at_another_usage_is_a_first_one() -> None:
    group = Watched()
    braked(group)
    group.usage_bytes = 512 * MIB
    assert braked(group).look_seconds == 6


def test_a_group_that_stalls_by_itself_is_braked_once_and_asked_again_when_it_is_quiet() -> None:
    group = Watched()
    verdicts = [group.after(6.0, stalled_us=1_200_000).verdict for _ in range(200)]
    assert verdicts.count(Verdict.BRAKE) == 1
    assert set(verdicts) == {Verdict.BRAKE, Verdict.HOLD}
    quiet = 0.0
    while group.decision.ask is None:
        quiet += group.decision.look_seconds
        group.after(group.decision.look_seconds)
    assert quiet <= 700


def test_pressure_that_comes_back_during_a_rest_does_not_lengthen_it() -> None:
    group = Watched()
    braked(group)
    group.after(1.0)
    assert group.after(1.0, stalled_us=500_000).verdict is Verdict.COOLDOWN
    assert group.decision.look_seconds == 4
    assert group.after(4.0).verdict is Verdict.HOLD


def test_what_the_kernel_takes_beyond_an_ask_brakes_and_is_kept_clear_of_the_floor() -> None:
    group = Watched(200 * MIB)
    group.after()
    decision = group.after(freed_bytes=30 * MIB)
    assert (decision.verdict, decision.reason) == (Verdict.BRAKE, Reason.OVERSHOT)
    group.after(300.0)
    group.after(freed_bytes=group.asked)  # once it took no more than that
    group.usage_bytes = (64 + 28) * MIB
    decision = group.after()
    assert (decision.verdict, decision.reason, decision.ask) == (
        Verdict.HOLD,
        Reason.AT_FLOOR,
        None,
    )
    group.usage_bytes = 200 * MIB
    assert group.after(60.0).verdict is Verdict.ACT


def test_memory_that_a_group_gives_up_by_itself_does_not_keep_the_policy_away() -> None:
    group = Watched(4096 * MIB)
    group.after()
    group.after(freed_bytes=3072 * MIB)
    assert group.after(60.0).verdict is Verdict.ACT


def test_a_group_at_its_floor_is_looked_at_once_a_minute_or_when_it_has_grown() -> None:
    group = Watched(64 * MIB + MIN_ASK_BYTES - 4096)
    decision = group.after()
    assert (decision.verdict, decision.reason, decision.look_seconds) == (
        Verdict.HOLD,
        Reason.AT_FLOOR,
        60,
    )
    assert decision.wake_on == (UsageCrosses((64 + 5) * MIB),)


def test_what_is_too_small_to_be_asked_for_is_waited_for() -> None:
    group = Watched((64 + 4) * MIB)  # 3 % of it are 0.12 MiB an interval
    decision = group.after()
    assert (decision.verdict, decision.reason) == (Verdict.HOLD, Reason.ASK_TOO_SMALL)
    assert 10 < decision.look_seconds < 60
    assert asked_of(group.after(decision.look_seconds)) == MIN_ASK_BYTES


def test_without_psi_pressure_is_estimated_from_refaults() -> None:
    policy = Policy(kind, refault_microseconds=50)

    def look(now: float, refaults: int) -> Decision:
        counters = Counters(refaults_file=refaults, refaults_anon=1000)
        return policy.look(now, member_of(stat_of(512 * MIB, some_us=None, counters=counters)))

    assert look(1.0, 500).reason is Reason.FIRST_LOOK
    assert look(3.0, 540).signals["some_percent"] == 40 * 50 / 2e6 * 100
    assert look(5.0, 540).signals["pressure_source"] == "refaults"
    assert look(7.0, 1540).verdict is Verdict.BRAKE


def test_without_psi_and_refaults_there_is_no_signal() -> None:
    decision = Policy(kind).look(1.0, member_of(stat_of(512 * MIB, some_us=None)))
    assert (decision.verdict, decision.reason, decision.look_seconds) == (
        Verdict.HOLD,
        Reason.NO_SIGNAL,
        60,
    )


@pytest.mark.parametrize("change", ["another signal", "a total that fell", "time that went back"])
def test_what_cannot_be_compared_is_a_first_look(change: str) -> None:
    group = Watched()
    group.after(stalled_us=100)
    counters = Counters(refaults_file=10)
    some_us = {"another signal": None, "a total that fell": 0}.get(change, group.some_us)
    now = group.now - 50 if change == "time that went back" else group.now + 2
    decision = group.policy.look(
        now, member_of(stat_of(group.usage_bytes, some_us=some_us, counters=counters))
    )
    assert (decision.verdict, decision.reason) == (Verdict.HOLD, Reason.FIRST_LOOK)


LOOKS = st.lists(
    st.tuples(
        st.floats(0.1, 400),  # seconds since the last look
        st.integers(0, 2**20),  # stalled since then, in microseconds
        st.integers(0, 4 * 2**30),  # usage
        st.integers(0, 2**30),  # floor
        st.one_of(st.none(), st.floats(-1, 30)),  # what was freed, of what was asked for
    ),
    max_size=40,
)


@given(looks=LOOKS)
def test_whatever_happens_no_ask_is_small_or_goes_below_the_floor_and_no_rest_is_for_ever(
    looks: list[tuple[float, int, int, int, float | None]],
) -> None:
    policy, now, some_us, asked = Policy(kind), 0.0, 0, 0
    for seconds, stalled_us, usage_bytes, floor_bytes, freed in looks:
        now, some_us = now + seconds, some_us + stalled_us
        outcome = None if freed is None or not asked else Outcome(asked, int(asked * freed), 0.01)
        decision = policy.look(
            now, member_of(stat_of(usage_bytes, some_us=some_us), floor_bytes, outcome=outcome)
        )
        asked = asked_of(decision)
        overshoot = int(decision.signals.get("overshoot_bytes") or 0)
        assert (decision.ask is None) == (decision.verdict is not Verdict.ACT)
        assert not asked or (
            asked >= MIN_ASK_BYTES and usage_bytes - asked - overshoot >= floor_bytes
        )
        assert 0 < decision.look_seconds <= 300
        assert Course(**json.loads(json.dumps(dataclasses.asdict(policy.state)))) == policy.state


HOUR = [
    ("heat", "mostly-cold", 500),
    ("heat", "mostly-hot", 8),
    ("heat-on-disk", "mostly-cold", 250),
    ("heat-on-disk", "mostly-hot", 5),
]


@pytest.mark.parametrize(("scenario", "path", "least_mib"), HOUR)
def test_in_an_hour_memory_is_saved_and_the_mean_pressure_stays_within_the_target(
    scenario: str, path: str, least_mib: int
) -> None:
    loop = Loop(scenarios.load_scenario(scenario).machine(), kind, KeepPressure(), [path])
    before = loop.cgroups[path].usage
    loop.run(3600, tick_seconds=1.0)
    course = loop.courses[path]
    assert course.mean_some_percent <= KeepPressure().target_some_percent
    assert (before - loop.cgroups[path].usage) * PAGE_BYTES >= least_mib * MIB
    assert course.least_margin_bytes is not None
    assert course.least_margin_bytes >= 0


def test_a_group_that_is_asleep_is_at_its_floor_in_minutes_and_then_seldom_evaluated() -> None:
    loop = Loop(scenarios.load_scenario("heat").machine(), kind, KeepPressure(), ["asleep"])
    loop.run(1200)
    course = loop.courses["asleep"]
    assert course.usage_bytes[-1] <= 66 * MIB
    assert (
        next(
            at
            for at, usage in zip(course.seconds, course.usage_bytes, strict=True)
            if usage < 128 * MIB
        )
        < 300
    )
    assert sum(at > 900 for at, _ in course.decisions) <= 5
