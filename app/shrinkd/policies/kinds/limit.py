"""The kind limit: keep the wanted limits of each group, and set them again where they drift.

A new group gets them when it appears. A maximum below usage is set after a shrink, so that no task
is OOM-killed: where usage cannot be brought below it, the limits stay as they are, and the delay to
the next attempt grows. It grows as well where a change does not last, since then another writer
keeps other limits.
"""

from dataclasses import dataclass
from typing import Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from shrinkd.backends import LIMIT_NAMES, LimitName, in_pages, limit_to_json
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
    """The limits to keep, at least one, in bytes.

    null stands for no limit or no protection; limits that are absent are not changed.
    """

    max_bytes: Limit = None
    """The hard limit of usage."""
    high_bytes: Limit = None
    """Usage above which v2 slows the group down."""
    low_bytes: Protection = None
    """Usage that reclaim from above leaves the group while other groups have memory (v2)."""
    min_bytes: Protection = None
    """Usage that reclaim from above always leaves the group (v2)."""
    swap_max_bytes: Limit = None
    """The limit of the group's swap."""
    soft_limit_bytes: Limit = None
    """Usage that v1 brings the group down to when the host is short of memory."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name at least one limit to keep")
        return self

    @model_serializer(mode="wrap")
    def _named(self, dump: SerializerFunctionWrapHandler) -> dict[LimitName, int | str | None]:
        """Leave out what is absent: written as null it would be read as a limit to remove."""
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


class KeepLimits(Strict):
    """The limits that each group should have."""

    limits: WantedLimits
    """The limits to keep; those that this kernel does not have are ignored."""
    interval_seconds: float = Field(10, ge=1, le=3600)
    """Time between two checks for drift. A group that appears is checked at once."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The state: length and end of the wait after a change that was refused or did not last."""

    backoff_seconds: float = 0.0
    until_seconds: float = 0.0


def decide(
    spec: KeepLimits, state: Waiting, observation: Observation
) -> tuple[Waiting, list[Decision]]:
    (member,) = observation.members
    now = observation.now_seconds
    limits, wanted = member.stat.limits, drift(spec.limits, member)
    signals: dict[str, int | str | None] = {
        name: limit_to_json(name, getattr(limits, name)) for name in wanted
    }
    signals |= {f"wanted_{name}": limit_to_json(name, value) for name, value in wanted.items()}
    if not wanted:
        return Waiting(), [
            Decision(
                member.group,
                Verdict.HOLD,
                reason_for_none(spec.limits, member),
                spec.interval_seconds,
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
    """Return the limits to write, in bytes as the kernel rounds them, without unsupported ones."""
    limits = member.stat.limits
    named = [
        name
        for name in LIMIT_NAMES
        if name in wanted.model_fields_set and name not in limits.unsupported
    ]
    rounded = {
        name: in_pages(name, getattr(wanted, name)) for name in named
    }  # rounded as for a PATCH of the limits
    return {name: size for name, size in rounded.items() if getattr(limits, name) != size}


def reason_for_none(wanted: WantedLimits, member: Member) -> Reason:
    """Return the reason for no change: the limits are as wanted, or the kernel has none of them."""
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
        "Keep limits",
        {"name": "keep", "selector": {"group": "web"}, "spec": {"limits": {"max_bytes": "8G"}}},
    ),
)
