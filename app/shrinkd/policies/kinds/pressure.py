"""pressure.

What a group does not miss, taken until it begins to. Its own stalls for memory say how much that
is.

A small step is asked for at every look: larger while pressure is far below the target and the
kernel finds what it was asked for, smaller above it, and less the nearer pressure comes. What the
last ones cost in stalls, which is the price of a refault as this group and its swap have it, says
how much the target still pays for. Stalls beyond that are owed, and worked off by asking for
nothing: so the target bounds the mean, on a slow disk as on zram.

Three things the kernel taught (6.12, zram). The first pages taken are hot ones, whatever is taken
later, so the first grants are small and the first brake proves nothing. An amount is no bound, so
what the kernel takes beyond it is learned and kept clear of the floor. And what is once at its knee
only suffers from being tried again: from the second brake at about the same usage on, the rest
becomes longer and longer.

Every brake expires, and none begins while another lasts or because of pressure that was there
before: a group that stalls by itself is left alone, not locked out.
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
"""How many times the target, between two looks, is a brake."""
_REST_SECONDS = (6.0, 40.0, 300.0)
"""After a first brake, after a second at a similar usage, and at most."""
_CREDIT_SECONDS, _DEBT_SECONDS = 20.0, 600.0
"""How long a time at the target may be saved up, or owed. What a group does to itself is forgiven
beyond that."""
_SIMILAR = 0.1
_OVERSHOT_BYTES = 4 << 20
_PRICE_KEPT = 0.8
"""How much of what was learned an outcome leaves."""
_QUIET_SECONDS = 60.0
"""How rarely it looks while there is nothing to ask for: a thousand such groups are 17 readings a
second."""
_HELD_INTERVALS = 3
"""How many intervals it leaves out at least while pressure holds it."""
_ROOM_BYTES = 4 << 20
"""How far above the least that can be asked for a group at its floor has to grow to be looked at
earlier."""
Step = Annotated[
    Size,
    Field(ge=2 * MIN_ASK_BYTES),
    WithJsonSchema(size_schema(2**63 - 1, 2 * MIN_ASK_BYTES), mode="validation"),
]


class KeepPressure(Strict):
    """How much a group may feel it, and how fast to go about it."""

    target_some_percent: float = Field(default=0.1, gt=0, le=50)
    """The share of time, in percent, in which some task of the group may stall for memory."""
    interval_seconds: float = Field(default=2, ge=0.5, le=60)
    """How often it looks while there is something to ask for. At the floor, or while less than 1
    MiB would be asked for, it looks once a minute, and earlier where the kernel tells that usage
    grows (v1)."""
    step_bytes: Step = Field(default=2 << 20)
    """The first step, and the least."""
    cap_percent: float = Field(default=3, gt=0, le=100)
    """The largest step: this much of what usage is above the floor."""
    refault_microseconds: float = Field(default=100, gt=0, le=1_000_000)
    """Only where the kernel tells no pressure: what one page that had to be read back is taken to
    cost. Some 10 for zram, 100 for a fast disk. Pressure is then estimated from the refaults;
    without these either, nothing is done."""


@dataclass(frozen=True, slots=True)
class Course:
    """Pressure as it was seen, what it has cost, the step, and the brakes.

    Times are those of the observations.
    """

    source: str = ""
    """What pressure was last read from; "" is a course that begins."""
    seen_seconds: float = 0.0
    stalled_microseconds: float = 0.0
    """The total then."""
    ewma_percent: float = 0.0
    is_pressed: bool = False
    credit_microseconds: float = 0.0
    """What it may still feel: the target less what it has felt."""
    felt_microseconds: float = 0.0
    """Since the last outcome."""
    paid_microseconds: float = 0.0
    taken_bytes: float = 0.0
    """What was freed, and above what was felt for it, the last few times."""
    step_bytes: int = 0
    overshoot_bytes: int = 0
    asked_seconds: float = 0.0
    rest_until_seconds: float = 0.0
    brakes: int = 0
    """How many at about the same usage."""
    braked_bytes: int = 0


class _Stalls(NamedTuple):
    """The total in microseconds, and what tells it."""

    source: str
    microseconds: float


class _Look(NamedTuple):
    """What was felt between two looks."""

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
    look = _Look(
        now, now - state.seen_seconds, stalls, stalls.microseconds - state.stalled_microseconds
    )
    state, brake = _learn(spec, state, look, member)
    state, decision = _answer(spec, state, member, brake)
    signals: dict[str, float | int | str | None] = {
        "some_percent": round(look.percent, 4),
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
    spec: KeepPressure, state: Course, look: _Look, member: Member
) -> tuple[Course, Reason | None]:
    """Take in what was felt since the last look; answers why it has to brake, if it has to."""
    ewma = look.percent + (state.ewma_percent - look.percent) * math.exp(
        -look.seconds / _EWMA_SECONDS
    )
    is_pressed = look.percent >= _BRAKE_FACTOR * spec.target_some_percent
    brake = Reason.ABOVE_TARGET if is_pressed and not state.is_pressed else None
    allowed = _allowed(spec)
    credit = state.credit_microseconds + allowed * look.seconds - look.microseconds
    state = replace(
        state,
        source=look.stalls.source,
        seen_seconds=look.now_seconds,
        stalled_microseconds=look.stalls.microseconds,
        ewma_percent=ewma,
        is_pressed=is_pressed,
        credit_microseconds=min(max(credit, -_DEBT_SECONDS * allowed), _CREDIT_SECONDS * allowed),
        felt_microseconds=state.felt_microseconds + look.microseconds,
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
    """What a byte has cost of late, in microseconds of stall."""
    return state.paid_microseconds / max(state.taken_bytes, MIN_ASK_BYTES)


def _allowed(spec: KeepPressure) -> float:
    """The microseconds of stall in a second at the target."""
    return 1e4 * spec.target_some_percent


def _next_step(spec: KeepPressure, state: Course, ewma: float, outcome: Outcome | None) -> int:
    """Grow while there is much room and the last grant was worth it.

    An ask that was not granted tells nothing.
    """
    step = max(state.step_bytes, spec.step_bytes)
    if ewma >= spec.target_some_percent:
        return max(int(step * _CUT), spec.step_bytes)
    is_worth_it = outcome is not None and 2 * outcome.freed_bytes >= outcome.asked_bytes
    return int(step * _GROW) if is_worth_it and 2 * ewma < spec.target_some_percent else step


def _answer(
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
    """How long nothing can be asked for even if nothing more is felt.

    Until half of the target is free, and the least is paid for.
    """
    excess = state.ewma_percent / spec.target_some_percent
    least = min(_price(state) * MIN_ASK_BYTES, _CREDIT_SECONDS * _allowed(spec))
    owed = (least - state.credit_microseconds) / _allowed(spec) / max(1 - excess, 0.5)
    return max(owed, _EWMA_SECONDS * math.log(2 * excess) if excess >= 1 else 0.0)


def _ask(spec: KeepPressure, state: Course, member: Member, room: int) -> tuple[Course, Decision]:
    """Ask for what step, cap, pressure and credit leave.

    A grant that is too small waits until it has come to 1 MiB.
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
    """What ends a stretched rest early: it is about a knee that is not there any more."""
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
        "As little memory as does no harm",
        {"name": "squeeze", "mode": "observe", "selector": {"parent": ""}},
    ),
)
