"""The kind pressure: reclaim memory that a group does not need, until it stalls for memory.

Each evaluation asks for a small step. The step grows while pressure is far below the target and the
kernel frees what it was asked for; it shrinks above the target, and less is asked the nearer
pressure comes to it. The stalls that followed the last steps give the price of a byte for this
group and its swap, and with that the amount that the target still allows. Stalls beyond the target
are a debt, paid off by asking for nothing: so the target bounds the mean, on a slow disk as on
zram.

Three results of measurements shape the law (kernel 6.12, zram). The first pages reclaimed are hot
ones, whatever follows, so the first grants are small and the first brake proves nothing. The kernel
frees more than it was asked for, so the overshoot is learned and kept clear of the floor. A group
at its working set stalls at each new attempt, so from the second brake at about the same usage on
the rest becomes longer and longer.

Every brake expires, and none begins during another or because of pressure that was there before: a
group that stalls by itself is left alone, and not locked out.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

from pydantic import Field, WithJsonSchema

from shrinkd.backends import Trigger, UsageCrosses
from shrinkd.policies.kind import (
    MIN_ASK_BYTES,
    Decision,
    Example,
    Kind,
    Member,
    Observation,
    Outcome,
    Reason,
    Reclaim,
    Verdict,
)
from shrinkd.policies.kinds._overshoot import learned
from shrinkd.sizes import page_floor
from shrinkd.strict_model import Size, Strict, size_schema

_EWMA_SECONDS = 20.0
_GROW, _CUT = 1.5, 0.5
_BRAKE_FACTOR = 10
"""Pressure between two evaluations that is a brake, in multiples of the target."""
_REST_SECONDS = (6.0, 40.0, 300.0)
"""After a first brake, after a second at a similar usage, and at most."""
_CREDIT_SECONDS, _DEBT_SECONDS = 20.0, 600.0
"""The most time at the target that may be saved up, or owed. Stalls beyond that, which a group
causes itself, are forgiven."""
_SIMILAR = 0.1
_OVERSHOT_BYTES = 4 << 20
_PRICE_KEPT = 0.8
"""The weight of what was learned before, at each outcome."""
_QUIET_SECONDS = 60.0
"""Time between two evaluations while nothing can be asked for: a thousand such groups are 17
readings a second."""
_HELD_INTERVALS = 3
"""The least number of intervals to the next evaluation while pressure is above the target."""
_ROOM_BYTES = 4 << 20
"""Growth of a group at its floor, above the smallest ask, that brings the next evaluation
earlier."""
Step = Annotated[
    Size,
    Field(ge=2 * MIN_ASK_BYTES),
    WithJsonSchema(size_schema(2**63 - 1, 2 * MIN_ASK_BYTES), mode="validation"),
]


class KeepPressure(Strict):
    """The pressure that a group may have, and the speed of reclaim."""

    target_some_percent: float = Field(default=0.1, gt=0, le=50)
    """The share of time, in percent, in which some task of the group may stall for memory."""
    interval_seconds: float = Field(default=2, ge=0.5, le=60)
    """Time between two evaluations. A minute at the floor, or while less than 1 MiB would be asked
    for; less where the kernel reports that usage grows (v1)."""
    step_bytes: Step = Field(default=2 << 20)
    """The first step, which is also the smallest."""
    cap_percent: float = Field(default=3, gt=0, le=100)
    """The largest step, in percent of the usage above the floor."""
    refault_microseconds: float = Field(default=100, gt=0, le=1_000_000)
    """The assumed stall for reading one page back, where the kernel reports no pressure: about 10
    for zram, 100 for a fast disk. Pressure is then estimated from refaults; without those either,
    nothing is done."""


@dataclass(frozen=True, slots=True)
class Course:
    """The state: pressure, its cost, the step, and the brakes.

    Times are those of the observations.
    """

    source: str = ""
    """The source of the last pressure reading; "" before the first."""
    seen_seconds: float = 0.0
    stalled_microseconds: float = 0.0
    """The total of stalls at that time."""
    ewma_percent: float = 0.0
    is_pressed: bool = False
    credit_microseconds: float = 0.0
    """Stalls that the target still allows: those allowed so far less those that happened."""
    felt_microseconds: float = 0.0
    """Stalls since the last outcome."""
    paid_microseconds: float = 0.0
    taken_bytes: float = 0.0
    """Bytes freed by the last few asks, and above the stalls that followed them."""
    step_bytes: int = 0
    overshoot_bytes: int = 0
    asked_seconds: float = 0.0
    rest_until_seconds: float = 0.0
    brakes: int = 0
    """Brakes in a row at about the same usage."""
    braked_bytes: int = 0


class _Stalls(NamedTuple):
    """The total of stalls in microseconds, and its source."""

    source: str
    microseconds: float


class _Interval(NamedTuple):
    """The stalls between two evaluations."""

    now_seconds: float
    seconds: float
    stalls: _Stalls
    microseconds: float

    @property
    def percent(self) -> float:
        return self.microseconds / self.seconds / 1e4


def decide(
    spec: KeepPressure, state: Course, observation: Observation
) -> tuple[Course, list[Decision]]:
    (member,) = observation.members
    now = observation.now_seconds
    stalls = _stalls(spec, member)
    if stalls is None:
        return Course(), [Decision(member.group, Verdict.HOLD, Reason.NO_SIGNAL, _QUIET_SECONDS)]
    if (
        stalls.source != state.source
        or now <= state.seen_seconds
        or stalls.microseconds < state.stalled_microseconds
    ):
        begun = replace(
            state,
            source=stalls.source,
            seen_seconds=now,
            stalled_microseconds=stalls.microseconds,
            asked_seconds=now,
        )
        return begun, [
            Decision(member.group, Verdict.HOLD, Reason.FIRST_LOOK, spec.interval_seconds)
        ]
    interval = _Interval(
        now, now - state.seen_seconds, stalls, stalls.microseconds - state.stalled_microseconds
    )
    state, brake = _learn(spec, state, interval, member)
    state, decision = _decide_rested(spec, state, member, brake)
    signals: dict[str, float | int | str | None] = {
        "some_percent": round(interval.percent, 4),
        "some_ewma_percent": round(state.ewma_percent, 4),
        "pressure_source": state.source,
        "credit_microseconds": round(state.credit_microseconds),
        "microseconds_per_mib": round(_price(state) * 2**20, 1),
        "usage_bytes": member.stat.usage_bytes,
        "floor_bytes": member.floor_bytes,
        "overshoot_bytes": state.overshoot_bytes,
        "step_bytes": state.step_bytes,
    }
    return state, [replace(decision, signals=signals)]


def _stalls(spec: KeepPressure, member: Member) -> _Stalls | None:
    if pressure := member.stat.pressure:
        return _Stalls("psi", pressure.some.total_microseconds)
    counters = member.stat.counters
    known = [
        count for count in (counters.refaults_file, counters.refaults_anon) if count is not None
    ]
    return _Stalls("refaults", sum(known) * spec.refault_microseconds) if known else None


def _learn(
    spec: KeepPressure, state: Course, interval: _Interval, member: Member
) -> tuple[Course, Reason | None]:
    """Update the state with the stalls since the last evaluation; return the reason for a brake."""
    ewma = interval.percent + (state.ewma_percent - interval.percent) * math.exp(
        -interval.seconds / _EWMA_SECONDS
    )
    is_pressed = interval.percent >= _BRAKE_FACTOR * spec.target_some_percent
    brake = Reason.ABOVE_TARGET if is_pressed and not state.is_pressed else None
    allowed = _allowed(spec)
    credit = state.credit_microseconds + allowed * interval.seconds - interval.microseconds
    state = replace(
        state,
        source=interval.stalls.source,
        seen_seconds=interval.now_seconds,
        stalled_microseconds=interval.stalls.microseconds,
        ewma_percent=ewma,
        is_pressed=is_pressed,
        credit_microseconds=min(max(credit, -_DEBT_SECONDS * allowed), _CREDIT_SECONDS * allowed),
        felt_microseconds=state.felt_microseconds + interval.microseconds,
        step_bytes=_next_step(spec, state, ewma, member.outcome),
    )
    if member.outcome:
        state = _price_in(state, member.outcome)
        beyond = member.outcome.freed_bytes - member.outcome.asked_bytes
        if beyond > max(_OVERSHOT_BYTES, member.outcome.asked_bytes):
            brake = brake or Reason.OVERSHOT
    if state.brakes > 1 and member.stat.usage_bytes > _regrown_bytes(state):
        state = replace(state, brakes=0, rest_until_seconds=0.0)
    return state, brake


def _price_in(state: Course, outcome: Outcome) -> Course:
    return replace(
        state,
        overshoot_bytes=learned(state.overshoot_bytes, outcome),
        paid_microseconds=state.paid_microseconds * _PRICE_KEPT + state.felt_microseconds,
        taken_bytes=state.taken_bytes * _PRICE_KEPT + max(outcome.freed_bytes, 0),
        felt_microseconds=0.0,
    )


def _price(state: Course) -> float:
    """Return the recent cost of a byte, in microseconds of stall."""
    return state.paid_microseconds / max(state.taken_bytes, MIN_ASK_BYTES)


def _allowed(spec: KeepPressure) -> float:
    """Return the microseconds of stall that the target allows in a second."""
    return 1e4 * spec.target_some_percent


def _next_step(spec: KeepPressure, state: Course, ewma: float, outcome: Outcome | None) -> int:
    """Return the next step: larger while pressure is low and the last ask freed at least half.

    An ask that was refused changes nothing.
    """
    step = max(state.step_bytes, spec.step_bytes)
    if ewma >= spec.target_some_percent:
        return max(int(step * _CUT), spec.step_bytes)
    is_worth_it = outcome is not None and 2 * outcome.freed_bytes >= outcome.asked_bytes
    return int(step * _GROW) if is_worth_it and 2 * ewma < spec.target_some_percent else step


def _decide_rested(
    spec: KeepPressure, state: Course, member: Member, brake: Reason | None
) -> tuple[Course, Decision]:
    group, usage, now = member.group, member.stat.usage_bytes, state.seen_seconds
    if brake and now >= state.rest_until_seconds:
        state = _braked(spec, state, usage)
        return state, Decision(
            group, Verdict.BRAKE, brake, state.rest_until_seconds - now, wake_on=_regrown(state)
        )
    if now < state.rest_until_seconds:
        rest = state.rest_until_seconds - now
        return state, Decision(
            group, Verdict.COOLDOWN, Reason.COOLING_DOWN, rest, wake_on=_regrown(state)
        )
    room = usage - member.floor_bytes - state.overshoot_bytes
    if room < MIN_ASK_BYTES:
        wake = UsageCrosses(usage - room + MIN_ASK_BYTES + _ROOM_BYTES)
        return state, Decision(
            group, Verdict.HOLD, Reason.AT_FLOOR, _QUIET_SECONDS, wake_on=(wake,)
        )
    if (quiet := _quiet_seconds(spec, state)) > 0:
        return state, Decision(
            group,
            Verdict.HOLD,
            Reason.ABOVE_TARGET,
            _within(spec, max(quiet, _HELD_INTERVALS * spec.interval_seconds)),
        )
    return _ask(spec, state, member, room)


def _quiet_seconds(spec: KeepPressure, state: Course) -> float:
    """Return the seconds until the smallest ask is possible, if no more stalls follow.

    By then pressure is below half of the target, and the credit covers the ask.
    """
    excess = state.ewma_percent / spec.target_some_percent
    least = min(_price(state) * MIN_ASK_BYTES, _CREDIT_SECONDS * _allowed(spec))
    owed = (least - state.credit_microseconds) / _allowed(spec) / max(1 - excess, 0.5)
    return max(owed, _EWMA_SECONDS * math.log(2 * excess) if excess >= 1 else 0.0)


def _ask(spec: KeepPressure, state: Course, member: Member, room: int) -> tuple[Course, Decision]:
    """Ask for the amount that step, cap, pressure and credit allow.

    An amount that is too small waits until it has grown to 1 MiB.
    """
    now = state.seen_seconds
    cap = (member.stat.usage_bytes - member.floor_bytes) * spec.cap_percent / 100
    step = max(min(state.step_bytes, int(cap)), spec.step_bytes)
    grant = min(step, cap) * (1 - state.ewma_percent / spec.target_some_percent)
    wait = state.asked_seconds + spec.interval_seconds * MIN_ASK_BYTES / grant - now
    if grant < MIN_ASK_BYTES and wait > 0:
        return state, Decision(
            member.group, Verdict.HOLD, Reason.ASK_TOO_SMALL, _within(spec, wait)
        )
    if price := _price(state):
        grant = min(grant, state.credit_microseconds / price)
    size = page_floor(min(max(int(grant), MIN_ASK_BYTES), room))
    state = replace(state, asked_seconds=now, step_bytes=step)
    ask = Reclaim(reclaim_bytes=size)
    return state, Decision(
        member.group, Verdict.ACT, Reason.BELOW_TARGET, spec.interval_seconds, ask=ask
    )


def _braked(spec: KeepPressure, state: Course, usage: int) -> Course:
    first, second, longest = _REST_SECONDS
    is_similar = (
        state.brakes > 0 and abs(usage - state.braked_bytes) <= _SIMILAR * state.braked_bytes
    )
    brakes = state.brakes + 1 if is_similar else 1
    rest = first if brakes == 1 else min(second * 2.0 ** min(brakes - 2, 8), longest)
    return replace(
        state,
        brakes=brakes,
        braked_bytes=state.braked_bytes if is_similar else usage,
        rest_until_seconds=state.seen_seconds + rest,
        step_bytes=max(int(state.step_bytes * _CUT), spec.step_bytes),
    )


def _regrown(state: Course) -> tuple[Trigger, ...]:
    """Return the event that ends a long rest early: usage grew, so its reason has gone."""
    return (UsageCrosses(_regrown_bytes(state) + 1),) if state.brakes > 1 else ()


def _regrown_bytes(state: Course) -> int:
    return int(state.braked_bytes * (1 + _SIMILAR))


def _within(spec: KeepPressure, seconds: float) -> float:
    return min(max(seconds, spec.interval_seconds), max(_QUIET_SECONDS, spec.interval_seconds))


kind = Kind(
    spec=KeepPressure,
    state=Course,
    decide=decide,
    rank=50,
    pauses_under_host_pressure=True,
    example=Example(
        "Reclaim until the first stalls",
        {"name": "squeeze", "mode": "observe", "selector": {"parent": ""}},
    ),
)
