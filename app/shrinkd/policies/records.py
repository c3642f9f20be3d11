"""What comes of one look at the policies.

Decisions as they are remembered and shown, and what is granted of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shrinkd.backends import Group, MemStat
from shrinkd.policies.arbiter import Key, Moment, Post, Wish
from shrinkd.policies.kind import Ask, Reason, Reclaim, Verdict
from shrinkd.policies.policy import Envelope


@dataclass(frozen=True, slots=True)
class Record:
    """A decision as it is remembered and shown.

    `at` in microseconds since the epoch; sizes in bytes.
    """

    at: int
    policy: str
    generation: int
    group: Group
    mode: Literal["enforce", "observe"]
    verdict: Verdict
    reason: Reason
    signals: Mapping[str, float | int | str | None]
    look_seconds: float
    """When it looks again, at the latest."""
    asked_bytes: int | None = None
    """What the kind wanted to reclaim; None where it wanted nothing of the sort."""
    granted_bytes: int | None = None
    freed_bytes: int | None = None
    """By how much usage fell; None until the shrink has ended."""
    shrink_id: str | None = None
    errno: str | None = None
    """What the kernel or a guard of the daemon answered, as a symbol."""
    times: int = 1
    """How many equal decisions, one after another, are folded into this one; `at` is that of the
    last."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What is to be done for a policy now."""

    key: Key
    policy: Envelope
    group: Group
    ask: Ask
    amount_bytes: int
    """What is to be reclaimed; 0 for what is no reclaim."""
    floor_bytes: int
    """What usage is not to be brought below, wherever it is by then."""
    target_bytes: int | None
    """What usage is to be below, whatever comes in between; None for an amount."""
    is_urgent: bool
    swappiness: int | None


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of one look."""

    grants: tuple[Grant, ...] = ()
    records: tuple[Record, ...] = ()
    posts: tuple[Post, ...] = ()
    """Those that were looked at."""
    readings: Mapping[int, MemStat] = field(default_factory=dict)
    """By group id."""


def grant_of(wish: Wish) -> Grant:
    ask = wish.decision.ask
    assert ask is not None  # the arbiter grants nothing else
    is_whole = (
        isinstance(ask, Reclaim) and ask.target_bytes is not None and wish.granted == wish.amount
    )
    target = (
        wish.member.stat.usage_bytes - wish.amount if is_whole else None
    )  # which is not below its floor
    return Grant(
        key=wish.post.key,
        policy=wish.post.policy,
        group=wish.group,
        ask=ask,
        amount_bytes=wish.granted,
        floor_bytes=wish.floor,
        target_bytes=target,
        is_urgent=wish.post.kind.is_urgent,
        swappiness=wish.swappiness,
    )


def farewell_of(post: Post, moment: Moment) -> Record:
    at, policy = int(moment.wall.timestamp() * 1e6), post.policy
    return Record(
        at,
        policy.name,
        post.generation,
        post.groups[0],
        policy.mode,
        Verdict.GONE,
        Reason.GROUP_GONE,
        {},
        0.0,
    )


def failure_of(post: Post, group: Group, errname: str, moment: Moment) -> Record:
    at, policy, seconds = int(moment.wall.timestamp() * 1e6), post.policy, post.look_at - moment.now
    return Record(
        at,
        policy.name,
        post.generation,
        group,
        policy.mode,
        Verdict.HOLD,
        Reason.UNREADABLE,
        {},
        max(seconds, 0.0),
        errno=errname,
    )


def record_of(wish: Wish, moment: Moment) -> Record:
    asked = wish.amount if isinstance(wish.decision.ask, Reclaim) else None
    seen = {"usage_bytes": wish.member.stat.usage_bytes, "floor_bytes": wish.member.floor_bytes}
    return Record(
        at=int(moment.wall.timestamp() * 1e6),
        policy=wish.post.policy.name,
        generation=wish.post.generation,
        group=wish.group,
        mode=wish.post.policy.mode,
        verdict=wish.verdict,
        reason=wish.reason,
        signals=dict(wish.decision.signals) | seen,
        look_seconds=max(wish.decision.look_seconds, wish.put_off_seconds),
        asked_bytes=asked,
        granted_bytes=wish.granted if asked is not None and wish.verdict is Verdict.ACT else None,
    )
