"""The kind schedule: shrink, set limits or switch another policy at moments of the calendar.

The state is the last moment that is done. So a clock that is put back runs no moment twice, and one
that is put forward misses the moments between. A new state assumes that its ask is granted: when it
is refused, the evaluator restores the state before it, and the moment is still due.
"""

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from shrinkd.backends import Group
from shrinkd.policies.cron import Cron, Timezone, next_moment
from shrinkd.policies.kind import (
    MIN_ASK_BYTES,
    NAME,
    Ask,
    Decision,
    Example,
    Kind,
    Member,
    Observation,
    Reason,
    Reclaim,
    Resize,
    Switch,
    Verdict,
)
from shrinkd.policies.kinds.limit import WantedLimits, drift, reason_for_none
from shrinkd.strict_model import Size, Strict

_LOOK_SECONDS = (0.05, 60.0)
"""At most a minute: the calendar's clock may be put forward meanwhile."""
_REFUSED_LOOK_SECONDS = 5.0
"""Time to the next evaluation after an ask that was refused; a granted one ends with its own."""
_CLOCK_WAS_WRONG = timedelta(days=1)
"""A clock that was put back by more was wrong when the last moment was done; waiting for that
moment again could take years."""


class ScheduledShrink(Strict):
    """The goal of a shrink: exactly one of target_bytes, reclaim_bytes and reclaim_percent.

    No limit moves.
    """

    target_bytes: Size | None = None
    """Bring usage below this."""
    reclaim_bytes: Size | None = None
    """Bring usage down by this much."""
    reclaim_percent: float | None = Field(None, gt=0, le=100)
    """Bring usage down by this percentage of it."""
    timeout_seconds: float = Field(300, gt=0, le=86400)
    """A shrink that takes longer ends where it is."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (
            sum(
                way is not None
                for way in (self.target_bytes, self.reclaim_bytes, self.reclaim_percent)
            )
            != 1
        ):
            raise ValueError("give exactly one of target_bytes, reclaim_bytes and reclaim_percent")
        return self


class ScheduledSwitch(Strict):
    """A policy to enable or disable."""

    policy: str = Field(pattern=NAME, examples=["squeeze-at-night"])
    """The name of the policy. If there is none when the moment comes, nothing happens."""
    enabled: bool
    """true enables it, false disables it."""


class Schedule(Strict):
    """A cron expression, and exactly one of shrink, limits and switch to carry out."""

    cron: Cron
    """A cron expression of five fields. A fixed hour that summer time skips is made up for, one
    that comes twice counts once."""
    timezone: Timezone = "UTC"
    """The time zone of the cron expression."""
    shrink: ScheduledShrink | None = None
    """Bring the usage of each group down, not below its floor."""
    limits: WantedLimits | None = None
    """Set limits of each group, once; a maximum below usage is set after a shrink."""
    switch: ScheduledSwitch | None = None
    """Enable or disable another policy, once. The selector has to match a group at that moment."""
    jitter_seconds: float = Field(0, ge=0, le=3600)
    """Spread the groups over this time after the moment, each with the same delay every time. Not
    for a switch."""
    misfire: Literal["skip", "run_once"] = "skip"
    """Skip moments that were missed by more than grace_seconds, or run once for all of them."""
    grace_seconds: float = Field(60, ge=1, le=86400)
    """The delay up to which a moment is not missed."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(action is not None for action in (self.shrink, self.limits, self.switch)) != 1:
            raise ValueError("give exactly one of shrink, limits and switch")
        if self.switch is not None and self.jitter_seconds:
            raise ValueError(
                "a switch belongs to no group, so there is nothing to spread: leave jitter_seconds "
                "out"
            )
        return self

    @property
    def action(self) -> ScheduledShrink | WantedLimits | ScheduledSwitch:
        return next(
            action for action in (self.shrink, self.limits, self.switch) if action is not None
        )


@dataclass(frozen=True, slots=True)
class Calendar:
    """The state: all moments up to `done_at` are done.

    In microseconds since the epoch; None before the first evaluation.
    """

    done_at: int | None = None


def decide(
    spec: Schedule, state: Calendar, observation: Observation
) -> tuple[Calendar, list[Decision]]:
    (member,) = observation.members
    wall = observation.wall
    if state.done_at is None or _moment(state.done_at) > wall + _CLOCK_WAS_WRONG:
        return _hold(spec, Calendar(_microseconds(wall)), observation, Reason.FIRST_LOOK)
    now, done = wall - _delay(spec, member.group), _moment(state.done_at)
    due = next_moment(spec.cron, spec.timezone, done)
    if due is None or due > now:
        return _hold(spec, state, observation, Reason.NOT_DUE)
    state = Calendar(_microseconds(now))
    in_time = next_moment(
        spec.cron, spec.timezone, max(done, now - timedelta(seconds=spec.grace_seconds))
    )
    if in_time is not None and in_time <= now:
        due = in_time
    elif spec.misfire == "skip":
        return _hold(spec, state, observation, Reason.MISSED, due)
    ask = _ask(spec, member)
    if isinstance(ask, Reason):
        return _hold(spec, state, observation, ask, due)
    return state, [
        Decision(
            member.group, Verdict.ACT, Reason.DUE, _REFUSED_LOOK_SECONDS, _signals(due, now), ask
        )
    ]


def _hold(
    spec: Schedule,
    state: Calendar,
    observation: Observation,
    reason: Reason,
    due: datetime | None = None,
) -> tuple[Calendar, list[Decision]]:
    """Hold until the next moment."""
    (member,), wall = observation.members, observation.wall
    delay = _delay(spec, member.group)
    ahead = next_moment(spec.cron, spec.timezone, _moment(state.done_at or 0))
    shortest, longest = _LOOK_SECONDS
    wait_seconds = (
        longest
        if ahead is None
        else min(max((ahead + delay - wall).total_seconds(), shortest), longest)
    )
    signals = _signals(due, wall - delay)
    signals["next_moment"] = None if ahead is None else (ahead + delay).isoformat()
    return state, [Decision(member.group, Verdict.HOLD, reason, wait_seconds, signals)]


def _ask(spec: Schedule, member: Member) -> Ask | Reason:
    """Return what to ask for this group, or the reason for asking nothing."""
    match spec.action:
        case ScheduledShrink() as shrink:
            return _shrink(shrink, member)
        case WantedLimits() as limits:
            wanted = drift(limits, member)
            return Resize(wanted) if wanted else reason_for_none(limits, member)
        case ScheduledSwitch() as switch:
            return Switch(switch.policy, switch.enabled)


def _shrink(wanted: ScheduledShrink, member: Member) -> Ask | Reason:
    usage, floor = member.stat.usage_bytes, member.floor_bytes
    if wanted.target_bytes is not None:
        amount = usage - max(wanted.target_bytes, floor)
        ask = Reclaim(
            target_bytes=usage - amount, timeout_seconds=wanted.timeout_seconds, is_one_pass=True
        )
    else:
        part = (
            int(usage * (wanted.reclaim_percent or 0) / 100)
            if wanted.reclaim_bytes is None
            else wanted.reclaim_bytes
        )
        amount = min(part, usage - floor)
        ask = Reclaim(
            reclaim_bytes=amount, timeout_seconds=wanted.timeout_seconds, is_one_pass=True
        )
    if amount >= MIN_ASK_BYTES:
        return ask
    if usage - floor < MIN_ASK_BYTES:
        return Reason.AT_FLOOR
    return Reason.AT_TARGET if amount < 0 else Reason.ASK_TOO_SMALL


def _delay(spec: Schedule, group: Group) -> timedelta:
    """Return a group's delay within the jitter, from a hash: the same in a replay."""
    place = zlib.crc32(f"{group.id} {spec.model_dump_json()}".encode()) / 2**32
    return timedelta(seconds=place * spec.jitter_seconds)


def _signals(due: datetime | None, now: datetime) -> dict[str, float | int | str | None]:
    return (
        {}
        if due is None
        else {"moment": due.isoformat(), "late_seconds": (now - due).total_seconds()}
    )


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


def _microseconds(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def _switches(spec: Schedule) -> list[str]:
    return [spec.switch.policy] if spec.switch else []


kind = Kind(
    spec=Schedule,
    state=Calendar,
    decide=decide,
    switches=_switches,
    rank=30,
    pauses_under_host_pressure=True,
    example=Example(
        "A shrink at night",
        {
            "name": "at-night",
            "selector": {"group": "web"},
            "spec": {
                "cron": "0 3 * * *",
                "timezone": "Europe/Berlin",
                "shrink": {"reclaim_percent": 25},
            },
        },
    ),
)
