"""schedule.

Something done at moments of the calendar: a shrink, limits that are set, or another policy that is
switched.

What is remembered is how far the calendar is done with. So a clock that is put back runs no moment
twice, and one that is put forward has missed what lies between. A state assumes that an ask was
granted: for one that was not, the state before it goes on, and the moment is still to be done.
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
from shrinkd.policies.kinds.limit import WantedLimits, drift, why_none
from shrinkd.strict_model import Size, Strict

_LOOK_SECONDS = (0.05, 60.0)
"""Not later than a minute: the clock of the calendar may be put forward meanwhile."""
_REFUSED_LOOK_SECONDS = 5.0
"""The end of a grant is told at once; this is for an ask that was not granted."""
_CLOCK_WAS_WRONG = timedelta(days=1)
"""A clock put back by more had been wrong when the last moment was done: else the next one would
come in years."""


class ScheduledShrink(Strict):
    """How far usage is brought down.

    Exactly one of target_bytes, reclaim_bytes and reclaim_percent. No limit moves.
    """

    target_bytes: Size | None = None
    """Bring usage below this."""
    reclaim_bytes: Size | None = None
    """Bring usage down by this much."""
    reclaim_percent: float | None = Field(None, gt=0, le=100)
    """Bring usage down by this part of it."""
    timeout_seconds: float = Field(300, gt=0, le=86400)
    """What takes longer ends where it is."""

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
    """Another policy, enabled or disabled."""

    policy: str = Field(pattern=NAME, examples=["squeeze-at-night"])
    """Its name. One that is not there when it is due is left alone."""
    enabled: bool
    """true enables it, false disables it."""


class Schedule(Strict):
    """When, and exactly one of shrink, limits and switch: what."""

    cron: Cron
    """A cron expression of five fields. A fixed hour that summer time skips is made up for, one
    that comes twice counts once."""
    timezone: Timezone = "UTC"
    """Whose clock on the wall it goes by."""
    shrink: ScheduledShrink | None = None
    """Bring the usage of each group down, not below its floor."""
    limits: WantedLimits | None = None
    """Set limits of each group, once; a maximum below usage by a shrink first."""
    switch: ScheduledSwitch | None = None
    """Enable or disable another policy, once. Every group of the selector asks for it, so there has
    to be one at that moment."""
    jitter_seconds: float = Field(0, ge=0, le=3600)
    """Spread the groups over this time after the moment, each always to the same place in it. Not
    for a switch."""
    misfire: Literal["skip", "run_once"] = "skip"
    """What becomes of a moment that was missed by more than grace_seconds; of several missed ones,
    run_once does one."""
    grace_seconds: float = Field(60, ge=1, le=86400)
    """How late is not too late."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(what is not None for what in (self.shrink, self.limits, self.switch)) != 1:
            raise ValueError("give exactly one of shrink, limits and switch")
        if self.switch is not None and self.jitter_seconds:
            raise ValueError(
                "a switch is no group's own, so there is nothing to spread: leave jitter_seconds "
                "out"
            )
        return self

    @property
    def what(self) -> ScheduledShrink | WantedLimits | ScheduledSwitch:
        return next(what for what in (self.shrink, self.limits, self.switch) if what is not None)


@dataclass(frozen=True, slots=True)
class Calendar:
    """How far the calendar is done with.

    Every moment up to this one, in microseconds since the epoch; None before the first look.
    """

    done_at: int | None = None


def decide(
    spec: Schedule, state: Calendar, observation: Observation
) -> tuple[Calendar, list[Decision]]:
    (member,) = observation.members
    wall = observation.wall
    if state.done_at is None or _moment(state.done_at) > wall + _CLOCK_WAS_WRONG:
        return _quiet(spec, Calendar(_microseconds(wall)), observation, Reason.FIRST_LOOK)
    now, done = wall - _delay(spec, member.group), _moment(state.done_at)
    due = next_moment(spec.cron, spec.timezone, done)
    if due is None or due > now:
        return _quiet(spec, state, observation, Reason.NOT_DUE)
    state = Calendar(_microseconds(now))
    in_time = next_moment(
        spec.cron, spec.timezone, max(done, now - timedelta(seconds=spec.grace_seconds))
    )
    if in_time is not None and in_time <= now:
        due = in_time
    elif spec.misfire == "skip":
        return _quiet(spec, state, observation, Reason.MISSED, due)
    ask = _ask(spec, member)
    if isinstance(ask, Reason):
        return _quiet(spec, state, observation, ask, due)
    return state, [
        Decision(
            member.group, Verdict.ACT, Reason.DUE, _REFUSED_LOOK_SECONDS, _signals(due, now), ask
        )
    ]


def _quiet(
    spec: Schedule,
    state: Calendar,
    observation: Observation,
    why: Reason,
    due: datetime | None = None,
) -> tuple[Calendar, list[Decision]]:
    """Hold until the next moment comes."""
    (member,), wall = observation.members, observation.wall
    delay = _delay(spec, member.group)
    ahead = next_moment(spec.cron, spec.timezone, _moment(state.done_at or 0))
    shortest, longest = _LOOK_SECONDS
    look = (
        longest
        if ahead is None
        else min(max((ahead + delay - wall).total_seconds(), shortest), longest)
    )
    signals = _signals(due, wall - delay)
    signals["next_moment"] = None if ahead is None else (ahead + delay).isoformat()
    return state, [Decision(member.group, Verdict.HOLD, why, look, signals)]


def _ask(spec: Schedule, member: Member) -> Ask | Reason:
    """What is wanted of this group, or why nothing is."""
    match spec.what:
        case ScheduledShrink() as shrink:
            return _shrink(shrink, member)
        case WantedLimits() as limits:
            wanted = drift(limits, member)
            return Resize(wanted) if wanted else why_none(limits, member)
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
    """The place of a group in the jitter: no chance, so that a replay has the same."""
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
