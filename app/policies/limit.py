"""limit: the wanted limits of each group, kept. A new group gets them when it appears; drift is reported, and repaired.

Lowering a maximum goes through a shrink first, never through an OOM kill: where usage cannot be brought below it, the
limits stay as they are and the next looks come later and later.
"""

from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from app.backends import LIMIT_NAMES, LimitName
from app.closed import Limit, Strict
from app.memparse import page_floor
from app.policies import Decision, Kind, Member, Observation, Reason, Resize, Verdict

_BACKOFF_SECONDS = (10.0, 300.0)


class WantedLimits(Strict):
    """The limits to keep, one at least; null is no limit, and what is absent is left alone."""

    max_bytes: Limit = None
    high_bytes: Limit = None
    low_bytes: Limit = None
    min_bytes: Limit = None
    swap_max_bytes: Limit = None
    soft_limit_bytes: Limit = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name at least one limit to keep")
        return self


class KeepLimits(Strict):
    """What each group's limits ought to be."""

    limits: WantedLimits
    interval_seconds: float = Field(10, ge=1, le=3600)
    """How often it looks for drift. A group that appears is looked at at once."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long it waits after a refusal; 0 when the last change was taken."""

    backoff_seconds: float = 0.0
    until_seconds: float = 0.0


def decide(spec: KeepLimits, state: Waiting, observation: Observation) -> tuple[Waiting, list[Decision]]:
    (member,) = observation.members
    now = observation.now_seconds
    drift = _drift(spec.limits, member)
    signals = {name: getattr(member.stat.limits, name) for name in drift} | {f"wanted_{name}": value for name, value in drift.items()}
    if not drift:
        return Waiting(), [Decision(member.group, Verdict.HOLD, Reason.LIMITS_KEPT, spec.interval_seconds, signals)]
    if member.outcome and member.outcome.errname:
        shortest, longest = _BACKOFF_SECONDS
        wait = min(max(2 * state.backoff_seconds, shortest), longest)
        state = Waiting(wait, now + wait)
    if now < state.until_seconds:
        return state, [Decision(member.group, Verdict.BACKOFF, Reason.LIMITS_DRIFTED, state.until_seconds - now, signals)]
    return state, [Decision(member.group, Verdict.ACT, Reason.LIMITS_DRIFTED, spec.interval_seconds, signals, Resize(drift))]


def _drift(wanted: WantedLimits, member: Member) -> dict[LimitName, int | None]:
    """What has to be written; the kernel keeps whole pages, and what it lacks cannot drift."""
    limits = member.stat.limits
    named = [name for name in LIMIT_NAMES if name in wanted.model_fields_set and name not in limits.unsupported]
    given: dict[LimitName, int | None] = {name: getattr(wanted, name) for name in named}
    rounded = {name: None if value is None else page_floor(value) for name, value in given.items()}
    return {name: value for name, value in rounded.items() if getattr(limits, name) != value}


kind = Kind(spec=KeepLimits, state=Waiting, decide=decide, rank=60)
