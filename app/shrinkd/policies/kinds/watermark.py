"""watermark.

Room below the limit, kept. At a high mark a pass of reclaim begins, and it ends below a low one.

What kswapd does for a node, for one group: whoever writes finds free memory, instead of a limit at
which it has to reclaim by itself. A pass that made it may be followed by the next one at once,
since the writer does not wait either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from shrinkd.backends import EventsMove, MemStat, Trigger, UsageCrosses
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
from shrinkd.policies.kinds._share import Share, bytes_of, percent_of
from shrinkd.sizes import format_size
from shrinkd.strict_model import Strict

_LEAST_BAND_PERCENT, _LEAST_BAND_BYTES = 1, 16 << 20
_BACKOFF_SECONDS = (10.0, 300.0)
_LOOK_SECONDS = (0.1, 5.0)
_LEAST_GROWTH = 64 << 20
"""Bytes a second: what a group that stands still may begin with before the next look."""
_REFUSED_LOOK_SECONDS = 1.0
"""The end of a pass is told at once; this is for an ask that was not granted."""


class Watermark(Strict):
    """Where a pass begins and where it ends.

    Both in percent of the effective limit, or both in bytes.
    """

    high: Share = "90%"
    """Usage at or above this starts a pass. A percentage is of the least limit of the group and
    those above it."""
    low: Share = "85%"
    """A pass ends when usage is below this: at least 1 % or 16 MiB below high."""
    max_pass_seconds: float = Field(30, ge=1, le=3600)
    """A pass that takes longer ends where it is."""
    cooldown_seconds: float = Field(5, ge=0, le=3600)
    """The rest after a pass that did not come to low. One that by itself freed less than a tenth of
    its goal rests 10 s, each time twice as long, up to 300 s."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.high, str) and isinstance(self.low, str):
            if percent_of(self.high) - percent_of(self.low) < _LEAST_BAND_PERCENT:
                raise ValueError(
                    "low has to be at least 1 % below high, or a pass ends where it begins"
                )
        elif isinstance(self.high, str) or isinstance(self.low, str):
            raise ValueError(
                "give high and low both in percent or both in bytes: else a change of the limit "
                "could turn them round"
            )
        elif self.high - self.low < _LEAST_BAND_BYTES:
            raise ValueError(
                "low has to be at least 16 MiB below high, or a pass ends where it begins"
            )
        return self


class Marks(NamedTuple):
    """The two marks of one group, in bytes."""

    high_bytes: int
    low_bytes: int


def marks(spec: Watermark, stat: MemStat, total_bytes: int) -> Marks | None:
    """Tell what the marks are for a group.

    None for a percentage where no limit is felt: there is none below the host's total.

    The band is never smaller than the least that is worth an ask, whatever a percentage makes of a
    small limit.
    """
    if isinstance(spec.high, int) and isinstance(spec.low, int):
        return Marks(spec.high, spec.low)
    limit = stat.limits.effective_max_bytes
    if limit is None or limit >= total_bytes:
        return None
    high = bytes_of(spec.high, limit)
    return Marks(high, max(min(bytes_of(spec.low, limit), high - MIN_ASK_BYTES), 0))


def check(spec: Watermark, stat: MemStat, total_bytes: int) -> None:
    found, limit = marks(spec, stat, total_bytes), stat.limits.effective_max_bytes
    if found is None:
        raise ValueError(
            "there is no limit to take a percentage of: set one, there or above it, or give high "
            "and low in bytes"
        )
    if limit is not None and found.high_bytes > limit:
        raise ValueError(
            f"usage never comes to a high of {format_size(found.high_bytes)}: the limit is "
            f"{format_size(limit)}"
        )


@dataclass(frozen=True, slots=True)
class Course:
    """Where usage was and how fast it grew lately, and the rest after a pass that did not make it."""

    seen_seconds: float | None = None
    seen_bytes: int = 0
    growth: float = 0.0
    """Bytes a second: the fastest seen, halved every 5 s."""
    backoff_seconds: float = 0.0
    """How long it rests because little was freed; 0 when that is not why."""
    until_seconds: float = 0.0


def decide(
    spec: Watermark, state: Course, observation: Observation
) -> tuple[Course, list[Decision]]:
    (member,) = observation.members
    state = _rested(
        spec,
        _followed(state, member, observation.now_seconds),
        member.outcome,
        observation.now_seconds,
    )
    found = marks(spec, member.stat, observation.host.total_bytes)
    if found is None:
        return state, [
            Decision(
                member.group,
                Verdict.HOLD,
                Reason.NO_LIMIT,
                _LOOK_SECONDS[1],
                _signals(state, member),
            )
        ]
    if member.stat.usage_bytes < found.low_bytes:  # whoever did it, the goal is reached
        state = replace(state, backoff_seconds=0.0, until_seconds=0.0)
    return state, [_decided(spec, state, member, found, observation.now_seconds)]


def _decided(spec: Watermark, state: Course, member: Member, found: Marks, now: float) -> Decision:
    usage, group, signals = member.stat.usage_bytes, member.group, _signals(state, member, found)
    if usage < found.high_bytes:
        headroom = found.high_bytes - usage
        return Decision(
            group,
            Verdict.HOLD,
            Reason.BELOW_HIGH,
            _poll(headroom, state.growth),
            signals,
            wake_on=_wakes(member.stat, found),
        )
    target = max(found.low_bytes, member.floor_bytes)
    if usage - target < MIN_ASK_BYTES:
        why = Reason.AT_FLOOR if usage <= target else Reason.ASK_TOO_SMALL
        return Decision(group, Verdict.HOLD, why, _LOOK_SECONDS[1], signals)
    if now < state.until_seconds:
        rest = (
            (Verdict.BACKOFF, Reason.LITTLE_FREED)
            if state.backoff_seconds
            else (Verdict.COOLDOWN, Reason.COOLING_DOWN)
        )
        return Decision(group, *rest, state.until_seconds - now, signals)
    ask = Reclaim(target_bytes=target, timeout_seconds=spec.max_pass_seconds)
    return Decision(
        group,
        Verdict.ACT,
        Reason.ABOVE_HIGH,
        _REFUSED_LOOK_SECONDS,
        signals,
        ask,
        wake_on=_wakes(member.stat, found),
    )


def _followed(state: Course, member: Member, now: float) -> Course:
    """Follow usage: how fast it grew since the last look, and what a pass took away in between."""
    usage, (shortest, longest) = member.stat.usage_bytes, _LOOK_SECONDS
    if state.seen_seconds is None or now < state.seen_seconds:
        return replace(state, seen_seconds=now, seen_bytes=usage)
    seconds, before = (
        now - state.seen_seconds,
        state.seen_bytes - (member.outcome.freed_bytes if member.outcome else 0),
    )
    if (
        seconds < shortest / 2
    ):  # a wake-up right after a look: one batch of charges would be a torrent
        return replace(state, seen_bytes=before)
    faded = state.growth * 0.5 ** (seconds / longest)
    return replace(
        state, seen_seconds=now, seen_bytes=usage, growth=max((usage - before) / seconds, faded)
    )


def _rested(spec: Watermark, state: Course, outcome: Outcome | None, now: float) -> Course:
    """Learn from how the last pass ended."""
    if outcome is None:
        return state
    if outcome.errname is None:
        return replace(state, backoff_seconds=0.0, until_seconds=0.0)
    if (
        outcome.errname == "EINTR" or 10 * outcome.freed_bytes >= outcome.asked_bytes
    ):  # one that was cut says nothing of what there is
        return replace(state, backoff_seconds=0.0, until_seconds=now + spec.cooldown_seconds)
    shortest, longest = _BACKOFF_SECONDS
    wait = max(min(max(2 * state.backoff_seconds, shortest), longest), spec.cooldown_seconds)
    return replace(state, backoff_seconds=wait, until_seconds=now + wait)


def _poll(headroom: int, growth: float) -> float:
    shortest, longest = _LOOK_SECONDS
    return min(max(headroom / max(2 * growth, _LEAST_GROWTH), shortest), longest)


def _wakes(stat: MemStat, found: Marks) -> tuple[Trigger, ...]:
    """What tells of a faster writer than the poll allows for.

    Its usage, or on v2, which is silent about that, the limit that it hit.
    """
    crossing = UsageCrosses(found.high_bytes)
    return (crossing,) if stat.events.max is None else (crossing, EventsMove())


def _signals(
    state: Course, member: Member, found: Marks | None = None
) -> Mapping[str, float | int | str | None]:
    return {
        "usage_bytes": member.stat.usage_bytes,
        "high_bytes": found and found.high_bytes,
        "low_bytes": found and found.low_bytes,
        "floor_bytes": member.floor_bytes,
        "limit_bytes": member.stat.limits.effective_max_bytes,
        "growth_bytes_per_second": state.growth,
    }


kind = Kind(
    spec=Watermark,
    state=Course,
    decide=decide,
    check=check,
    rank=10,
    is_urgent=True,
    example=Example(
        "Room below the limit",
        {"name": "headroom", "selector": {"group": "db"}, "spec": {"high": "90%", "low": "85%"}},
    ),
)
