"""limit.

The wanted limits of each group, kept. A new group gets them when it appears; drift is reported, and
repaired.

Lowering a maximum goes through a shrink first, never through an OOM kill: where usage cannot be
brought below it, the limits stay as they are and the next tries come later and later. So they do
where a change was taken and is gone at once, for then somebody else keeps other limits.
"""

from dataclasses import dataclass
from typing import Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from shrinkd.backends import LIMIT_NAMES, LimitName, in_pages, told_limit
from shrinkd.policies.kind import (
    Decision,
    Example,
    Kind,
    Member,
    Observation,
    Reason,
    Resize,
    Verdict,
)
from shrinkd.strict_model import Limit, Protection, Strict

_BACKOFF_SECONDS = (10.0, 300.0)


class WantedLimits(Strict):
    """The limits to keep, one at least, in bytes.

    Null is as if never set (no limit, no protection), and what is absent is left alone.
    """

    max_bytes: Limit = None
    """What usage is never above."""
    high_bytes: Limit = None
    """Where v2 begins to slow the group down."""
    low_bytes: Protection = None
    """What reclaim from above leaves the group while it finds others (v2)."""
    min_bytes: Protection = None
    """What reclaim from above leaves the group in any case (v2)."""
    swap_max_bytes: Limit = None
    """What the group may have in swap."""
    soft_limit_bytes: Limit = None
    """What v1 brings the group down to when the host is short."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name at least one limit to keep")
        return self

    @model_serializer(mode="wrap")
    def _named(self, dump: SerializerFunctionWrapHandler) -> dict[LimitName, int | str | None]:
        """Leave out what is absent: as null it would come back as a limit to take away."""
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


class KeepLimits(Strict):
    """What each group's limits ought to be."""

    limits: WantedLimits
    """The limits to keep; one that this kernel does not have is left out."""
    interval_seconds: float = Field(10, ge=1, le=3600)
    """How often it looks for drift. A group that appears is looked at at once."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long it waits after a change that was refused or did not last; 0 while the limits are
    kept.
    """

    backoff_seconds: float = 0.0
    until_seconds: float = 0.0


def decide(
    spec: KeepLimits, state: Waiting, observation: Observation
) -> tuple[Waiting, list[Decision]]:
    (member,) = observation.members
    now = observation.now_seconds
    limits, wanted = member.stat.limits, drift(spec.limits, member)
    signals: dict[str, int | str | None] = {
        name: told_limit(name, getattr(limits, name)) for name in wanted
    }
    signals |= {f"wanted_{name}": told_limit(name, value) for name, value in wanted.items()}
    if not wanted:
        return Waiting(), [
            Decision(
                member.group, Verdict.HOLD, why_none(spec.limits, member), spec.interval_seconds
            )
        ]
    if member.outcome:
        shortest, longest = _BACKOFF_SECONDS
        wait = min(max(2 * state.backoff_seconds, shortest), longest)
        state = Waiting(wait, now + wait)
    if now < state.until_seconds:
        return state, [
            Decision(
                member.group,
                Verdict.BACKOFF,
                Reason.LIMITS_DRIFTED,
                state.until_seconds - now,
                signals,
            )
        ]
    return state, [
        Decision(
            member.group,
            Verdict.ACT,
            Reason.LIMITS_DRIFTED,
            spec.interval_seconds,
            signals,
            Resize(wanted),
        )
    ]


def drift(wanted: WantedLimits, member: Member) -> dict[LimitName, int | None]:
    """What has to be written, in bytes as the kernel will have them; what it lacks cannot drift."""
    limits = member.stat.limits
    named = [
        name
        for name in LIMIT_NAMES
        if name in wanted.model_fields_set and name not in limits.unsupported
    ]
    kept = {
        name: in_pages(name, getattr(wanted, name)) for name in named
    }  # as the API has it for a client's PATCH
    return {name: size for name, size in kept.items() if getattr(limits, name) != size}


def why_none(wanted: WantedLimits, member: Member) -> Reason:
    """Why there is nothing to write: the limits are as wanted, or this kernel has none of them."""
    return (
        Reason.NO_SIGNAL
        if wanted.model_fields_set <= set(member.stat.limits.unsupported)
        else Reason.LIMITS_KEPT
    )


kind = Kind(
    spec=KeepLimits,
    state=Waiting,
    decide=decide,
    rank=30,
    example=Example(
        "Limits that stay as they are",
        {"name": "keep", "selector": {"group": "web"}, "spec": {"limits": {"max_bytes": "8G"}}},
    ),
)
