"""idle.

A group that does nothing gives its memory up. One that has used next to no CPU for a while is
brought to its floor.

That is each group by itself: whether the host is busy does not matter. A frozen group does nothing
for certain, so it does not have to wait. One busy window ends it, and what was swapped out comes
back when it is used.
"""

from dataclasses import dataclass, replace

from pydantic import Field

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
from shrinkd.policies.kinds._step import Step
from shrinkd.strict_model import Strict

_QUIET_SECONDS = 60.0
_STEP_SECONDS = 5.0
"""Between two steps: a group that wakes up loses no more than the one that is under way."""
_ROOM_BYTES = 16 << 20
"""How far above its floor a group that was shrunk has to grow to be looked at earlier."""
_BACKOFF_SECONDS = (30.0, 300.0)


class ShrinkIdle(Strict):
    """What counts as idle, and how large the steps are."""

    max_cpu_percent: float = Field(default=0.5, ge=0, le=100)
    """Of one CPU, on average between two looks: more is busy."""
    idle_seconds: float = Field(default=120, ge=10, le=86400)
    """For how long it has to be idle first. A frozen group counts at once."""
    interval_seconds: float = Field(default=15, ge=1, le=3600)
    """How long a window is: the time between two looks. Once the group is at its floor, a minute at
    least."""
    step_bytes: Step = Field(default=256 << 20)
    """The most that is asked for at once."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Since when a group has been idle, and its CPU time at the last look.

    The times are those of the observations.
    """

    seen_seconds: float | None = None
    cpu_seconds: float = 0.0
    idle_since_seconds: float | None = None
    backoff_seconds: float = 0.0
    until_seconds: float = 0.0
    """How long, and until when, it waits after a step that freed next to nothing."""


def decide(spec: ShrinkIdle, state: Rest, observation: Observation) -> tuple[Rest, list[Decision]]:
    (member,) = observation.members
    now, activity = observation.now_seconds, member.activity
    if activity is None:
        return Rest(), [Decision(member.group, Verdict.HOLD, Reason.NO_SIGNAL, _QUIET_SECONDS)]
    elapsed = 0.0 if state.seen_seconds is None else now - state.seen_seconds
    used = activity.cpu_seconds - state.cpu_seconds
    seen = replace(state, seen_seconds=now, cpu_seconds=activity.cpu_seconds)
    if not activity.is_frozen and (elapsed <= 0 or used < 0):
        return Rest(now, activity.cpu_seconds), [
            Decision(member.group, Verdict.HOLD, Reason.FIRST_LOOK, spec.interval_seconds)
        ]
    percent = 100 * used / elapsed if elapsed > 0 and used > 0 else 0.0
    signals = {
        "cpu_percent": round(percent, 3),
        "usage_bytes": member.stat.usage_bytes,
        "floor_bytes": member.floor_bytes,
    }
    if not activity.is_frozen and percent > spec.max_cpu_percent:
        return Rest(now, activity.cpu_seconds), [
            Decision(member.group, Verdict.HOLD, Reason.CPU_BUSY, spec.interval_seconds, signals)
        ]
    since = state.idle_since_seconds
    if since is None:  # a window that was not busy began when the last one ended
        since = now - max(elapsed, 0.0)
    state = _backed_off(replace(seen, idle_since_seconds=since), member.outcome)
    signals["idle_seconds"] = round(now - since, 3)
    return state, [
        replace(_answer(spec, state, member, is_frozen=activity.is_frozen), signals=signals)
    ]


def _answer(spec: ShrinkIdle, state: Rest, member: Member, *, is_frozen: bool) -> Decision:
    group, now = member.group, state.seen_seconds or 0.0
    room = member.stat.usage_bytes - member.floor_bytes
    waits = 0.0 if is_frozen else spec.idle_seconds - (now - (state.idle_since_seconds or 0.0))
    if room < MIN_ASK_BYTES:
        # nothing is to be had, so the windows may be long: a busy one resets the time all the same
        wake_on: tuple[Trigger, ...] = (UsageCrosses(member.floor_bytes + _ROOM_BYTES),)
        return Decision(
            group,
            Verdict.HOLD,
            Reason.AT_FLOOR,
            max(_QUIET_SECONDS, spec.interval_seconds),
            wake_on=wake_on,
        )
    if waits > 0:
        return Decision(group, Verdict.HOLD, Reason.CPU_IDLE, min(waits, spec.interval_seconds))
    if now < state.until_seconds:
        return Decision(
            group,
            Verdict.BACKOFF,
            Reason.LITTLE_FREED,
            min(state.until_seconds - now, _QUIET_SECONDS),
        )
    ask = Reclaim(target_bytes=max(member.stat.usage_bytes - spec.step_bytes, member.floor_bytes))
    return Decision(
        group, Verdict.ACT, Reason.FROZEN if is_frozen else Reason.CPU_IDLE, _STEP_SECONDS, ask=ask
    )


def _backed_off(state: Rest, outcome: Outcome | None) -> Rest:
    if outcome is None:
        return state
    if 10 * outcome.freed_bytes >= outcome.asked_bytes:
        return replace(state, backoff_seconds=0.0, until_seconds=0.0)
    shortest, longest = _BACKOFF_SECONDS
    wait = min(max(2 * state.backoff_seconds, shortest), longest)
    return replace(state, backoff_seconds=wait, until_seconds=(state.seen_seconds or 0.0) + wait)


kind = Kind(
    spec=ShrinkIdle,
    state=Rest,
    decide=decide,
    needs_activity=True,
    rank=40,
    pauses_under_host_pressure=True,
    example=Example(
        "What nobody uses, given back",
        {"name": "asleep", "selector": {"group": "*", "scope": "leaves"}},
    ),
)
