"""The kind watermark: reclaim from a high mark down to a low one, to keep room below the limit.

It does for a group what kswapd does for a node: a task that writes finds free memory, instead of a
limit at which it has to reclaim itself. A pass that reached the low mark may be followed by the
next one at once, since the writer does not wait either.
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
"""Bytes a second: the growth that is assumed of a group that did not grow."""
_REFUSED_LOOK_SECONDS = 1.0
"""Time to the next evaluation after an ask that was refused; a pass ends with its own."""


class Watermark(Strict):
    """The usage at which a pass begins, and the usage at which it ends.

    Both in percent of the effective limit, or both in bytes.
    """

    high: Share = "90%"
    """Usage at or above this starts a pass. A percentage is of the lowest limit of the group and
    those above it."""
    low: Share = "85%"
    """A pass ends when usage is below this: at least 1 % or 16 MiB below high."""
    max_pass_seconds: float = Field(30, ge=1, le=3600)
    """A pass that takes longer ends where it is."""
    cooldown_seconds: float = Field(5, ge=0, le=3600)
    """The pause after a pass that did not reach low. After one that freed less than a tenth of its
    goal the pause is 10 s, and doubles up to 300 s."""

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
    """Return the marks of a group.

    None for a percentage where no limit of the group or above it is below the host's memory. The
    band is at least the smallest amount that is asked for, however small the limit is.
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
    """The state: usage and its growth, and the pause after a pass that did not reach its goal."""

    seen_seconds: float | None = None
    seen_bytes: int = 0
    growth: float = 0.0
    """Bytes a second: the highest value, halved every 5 s."""
    backoff_seconds: float = 0.0
    """Length of the pause because little was freed; 0 for another reason."""
    until_seconds: float = 0.0


def decide(
    spec: Watermark, state: Course, observation: Observation
) -> tuple[Course, list[Decision]]:
    (member,) = observation.members
    state = _update_pause(
        spec,
        _update_growth(state, member, observation.now_seconds),
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
    if member.stat.usage_bytes < found.low_bytes:  # the goal is reached, also by others
        state = replace(state, backoff_seconds=0.0, until_seconds=0.0)
    return state, [_decide_at(spec, state, member, found, observation.now_seconds)]


def _decide_at(
    spec: Watermark, state: Course, member: Member, found: Marks, now: float
) -> Decision:
    usage, group, signals = member.stat.usage_bytes, member.group, _signals(state, member, found)
    if usage < found.high_bytes:
        headroom = found.high_bytes - usage
        return Decision(
            group,
            Verdict.HOLD,
            Reason.BELOW_HIGH,
            _poll_seconds(headroom, state.growth),
            signals,
            wake_on=_wake_on(member.stat, found),
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
        wake_on=_wake_on(member.stat, found),
    )


def _update_growth(state: Course, member: Member, now: float) -> Course:
    """Update usage and growth with a reading; what a pass freed in between counts as growth."""
    usage, (shortest, longest) = member.stat.usage_bytes, _LOOK_SECONDS
    if state.seen_seconds is None or now < state.seen_seconds:
        return replace(state, seen_seconds=now, seen_bytes=usage)
    seconds, before = (
        now - state.seen_seconds,
        state.seen_bytes - (member.outcome.freed_bytes if member.outcome else 0),
    )
    if (
        seconds < shortest / 2
    ):  # too short for a rate: one batch of charges would look like fast growth
        return replace(state, seen_bytes=before)
    faded = state.growth * 0.5 ** (seconds / longest)
    return replace(
        state, seen_seconds=now, seen_bytes=usage, growth=max((usage - before) / seconds, faded)
    )


def _update_pause(spec: Watermark, state: Course, outcome: Outcome | None, now: float) -> Course:
    """Set or end the pause by the outcome of the last pass."""
    if outcome is None:
        return state
    if outcome.errname is None:
        return replace(state, backoff_seconds=0.0, until_seconds=0.0)
    if (
        outcome.errname == "EINTR" or 10 * outcome.freed_bytes >= outcome.asked_bytes
    ):  # an interrupted pass says nothing about reclaimable memory
        return replace(state, backoff_seconds=0.0, until_seconds=now + spec.cooldown_seconds)
    shortest, longest = _BACKOFF_SECONDS
    wait = max(min(max(2 * state.backoff_seconds, shortest), longest), spec.cooldown_seconds)
    return replace(state, backoff_seconds=wait, until_seconds=now + wait)


def _poll_seconds(headroom: int, growth: float) -> float:
    shortest, longest = _LOOK_SECONDS
    return min(max(headroom / max(2 * growth, _LEAST_GROWTH), shortest), longest)


def _wake_on(stat: MemStat, found: Marks) -> tuple[Trigger, ...]:
    """Return the events of a writer that is faster than the poll.

    Usage that crosses the high mark, and on v2, which does not report that, a limit that was hit.
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
        "Keep room below the limit",
        {"name": "headroom", "selector": {"group": "db"}, "spec": {"high": "90%", "low": "85%"}},
    ),
)
