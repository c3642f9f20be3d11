"""idle: who does nothing gives its memory up, and who does something keeps it."""

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from shrinkd.backends import Activity, UsageCrosses
from shrinkd.policies import Decision, Outcome, Reason, Reclaim, Verdict
from shrinkd.policies.kinds.idle import Rest, kind
from tests.support.observations import MIB, Policy, member_of, stat_of


class Sleeper:
    """A group that is looked at when it is due, and uses so much CPU in between."""

    def __init__(self, usage_bytes: int = 1024 * MIB) -> None:
        self.policy = Policy(kind)
        self.now, self.cpu_seconds, self.usage_bytes = 50.0, 7.0, usage_bytes
        self.decision = self.look()

    def look(self, *, is_frozen: bool = False, outcome: Outcome | None = None) -> Decision:
        activity = Activity(self.cpu_seconds, is_frozen=is_frozen)
        self.decision = self.policy.look(
            self.now, member_of(stat_of(self.usage_bytes), outcome=outcome, activity=activity)
        )
        return self.decision

    def after(
        self,
        seconds: float,
        cpu_percent: float = 0.0,
        *,
        is_frozen: bool = False,
        outcome: Outcome | None = None,
    ) -> Decision:
        self.now += seconds
        self.cpu_seconds += seconds * cpu_percent / 100
        return self.look(is_frozen=is_frozen, outcome=outcome)

    def idle_for(self, seconds: float) -> Decision:
        ends = self.now + seconds
        while self.now < ends:
            self.after(min(self.decision.look_seconds, ends - self.now), 0.4)
        return self.decision


def test_a_group_is_shrunk_in_steps_once_it_has_been_idle_for_two_minutes() -> None:
    group = Sleeper()
    assert group.decision.reason is Reason.FIRST_LOOK
    decision = group.idle_for(119)
    assert (decision.verdict, decision.reason, decision.look_seconds) == (
        Verdict.HOLD,
        Reason.CPU_IDLE,
        1,
    )
    targets = []
    while group.after(group.decision.look_seconds).verdict is Verdict.ACT:
        assert isinstance(group.decision.ask, Reclaim)
        targets.append(group.decision.ask.target_bytes)
        group.usage_bytes = group.decision.ask.target_bytes or 0
    assert targets == [768 * MIB, 512 * MIB, 256 * MIB, 64 * MIB]


def test_a_busy_window_begins_the_wait_anew() -> None:
    group = Sleeper()
    group.idle_for(105)
    assert group.after(15, 0.6).reason is Reason.CPU_BUSY
    assert group.idle_for(119).verdict is Verdict.HOLD
    assert group.after(1).verdict is Verdict.ACT


def test_a_group_that_wakes_up_between_two_steps_keeps_the_rest() -> None:
    group = Sleeper()
    assert group.idle_for(120).verdict is Verdict.ACT
    assert group.after(group.decision.look_seconds, 30.0).reason is Reason.CPU_BUSY
    assert group.decision.ask is None


def test_a_frozen_group_does_not_have_to_wait() -> None:
    decision = Sleeper().after(1, is_frozen=True)
    assert (decision.verdict, decision.reason, decision.ask) == (
        Verdict.ACT,
        Reason.FROZEN,
        Reclaim(target_bytes=768 * MIB),
    )


def test_a_group_that_is_found_frozen_is_shrunk_at_the_first_look() -> None:
    group = Sleeper()
    group.policy.state = Rest()
    assert group.look(is_frozen=True).verdict is Verdict.ACT


def test_a_group_that_was_thawed_and_works_is_left_alone() -> None:
    group = Sleeper()
    group.after(1, is_frozen=True)
    assert group.after(5, 50.0).reason is Reason.CPU_BUSY


def test_a_group_at_its_floor_is_looked_at_once_a_minute_or_when_it_has_grown() -> None:
    group = Sleeper(64 * MIB)
    decision = group.idle_for(130)
    assert (decision.verdict, decision.reason, decision.look_seconds) == (
        Verdict.HOLD,
        Reason.AT_FLOOR,
        60,
    )
    assert decision.wake_on == (UsageCrosses(80 * MIB),)


def test_steps_that_free_next_to_nothing_come_later_and_later() -> None:
    group = Sleeper()
    group.idle_for(120)
    waits = []
    for _ in range(5):
        asked = group.now
        group.after(5, outcome=Outcome(256 * MIB, MIB, 1.0))
        while group.decision.verdict is Verdict.BACKOFF:
            group.after(group.decision.look_seconds)
        waits.append(group.now - asked - 5)
    assert waits == [30, 60, 120, 240, 300]
    group.after(5, outcome=Outcome(256 * MIB, 200 * MIB, 1.0))
    assert (group.decision.verdict, group.decision.look_seconds) == (Verdict.ACT, 5)
    group.after(5, outcome=Outcome(256 * MIB, MIB, 1.0))
    assert group.decision.look_seconds == 30


def test_without_its_cpu_time_a_group_is_left_alone() -> None:
    decision = Policy(kind).look(1.0, member_of(stat_of(512 * MIB)))
    assert (decision.verdict, decision.reason) == (Verdict.HOLD, Reason.NO_SIGNAL)


def test_cpu_time_that_fell_is_a_first_look() -> None:
    group = Sleeper()
    group.idle_for(110)
    group.cpu_seconds = 0.0
    assert group.after(15).reason is Reason.FIRST_LOOK
    assert group.idle_for(100).verdict is Verdict.HOLD


@given(
    windows=st.lists(
        st.tuples(st.floats(0.1, 100), st.floats(0, 2), st.booleans(), st.integers(0, 2**31)),
        max_size=40,
    )
)
def test_nothing_is_asked_of_a_group_that_was_busy_in_the_last_two_minutes_nor_below_its_floor(
    windows: list[tuple[float, float, bool, int]],
) -> None:
    group, busy_at = Sleeper(), 50.0
    for seconds, cpu_percent, is_frozen, usage_bytes in windows:
        group.usage_bytes = usage_bytes
        decision = group.after(seconds, cpu_percent, is_frozen=is_frozen)
        if cpu_percent > 0.51 and not is_frozen:
            busy_at = group.now
        if decision.ask:
            assert isinstance(decision.ask, Reclaim)
            assert is_frozen or group.now - busy_at >= 119.9
            assert 64 * MIB <= (decision.ask.target_bytes or 0) < usage_bytes
        assert (
            Rest(**json.loads(json.dumps(dataclasses.asdict(group.policy.state))))
            == group.policy.state
        )
