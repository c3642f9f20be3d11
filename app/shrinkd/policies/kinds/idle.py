"""The kind idle: shrink a group that has used next to no CPU for a while to its floor, in steps.

Each group is taken by itself: whether the host is busy does not matter. A frozen group is idle at
once. One busy window ends the shrinking, and what was swapped out is read back when it is used.
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
"""Between two steps: a group that becomes busy loses no more than the step that runs."""
_ROOM_BYTES = 16 << 20
"""Growth above the floor that brings the next evaluation of a shrunk group earlier."""
_BACKOFF_SECONDS = (30.0, 300.0)


class ShrinkIdle(Strict):
    """The definition of idle, and the size of the steps."""

    max_cpu_percent: float = Field(default=0.5, ge=0, le=100)
    """Percent of one CPU, on average over a window: a group that uses more is busy."""
    idle_seconds: float = Field(default=120, ge=10, le=86400)
    """Time that a group has to be idle before it is shrunk; none for a frozen group."""
    interval_seconds: float = Field(default=15, ge=1, le=3600)
    """Length of a window: the time between two evaluations. At least a minute once the group is at
    its floor."""
    step_bytes: Step = Field(default=256 << 20)
    """The most that is reclaimed in one step."""


@dataclass(frozen=True, slots=True)
class Rest:
    """The state: since when a group has been idle, and its CPU time at the last evaluation.

    Times are those of the observations.
    """

    seen_seconds: float | None = None
    cpu_seconds: float = 0.0
    idle_since_seconds: float | None = None
    backoff_seconds: float = 0.0
    until_seconds: float = 0.0
    """Length and end of the wait after a step that freed next to nothing."""


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
    if since is None:  # the first idle window began when the last one ended
        since = now - max(elapsed, 0.0)
    state = _backed_off(replace(seen, idle_since_seconds=since), member.outcome)
    signals["idle_seconds"] = round(now - since, 3)
    return state, [
        replace(_decide_idle(spec, state, member, is_frozen=activity.is_frozen), signals=signals)
    ]


def _decide_idle(spec: ShrinkIdle, state: Rest, member: Member, *, is_frozen: bool) -> Decision:
    group, now = member.group, state.seen_seconds or 0.0
    room = member.stat.usage_bytes - member.floor_bytes
    waits = 0.0 if is_frozen else spec.idle_seconds - (now - (state.idle_since_seconds or 0.0))
    if room < MIN_ASK_BYTES:
        # nothing can be reclaimed, so windows may be long: a busy one resets the time all the same
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
        "Reclaim from idle groups",
        {"name": "asleep", "selector": {"group": "*", "scope": "leaves"}},
    ),
)
