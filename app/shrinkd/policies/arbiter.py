"""Who may do what he wants.

The wishes of one look held against the guards, and one of them let through in a chain of groups.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shrinkd.backends import Group
from shrinkd.policies.guards import MANUAL_SECONDS, Breaker, Guards, Setback
from shrinkd.policies.kind import (
    MIN_ASK_BYTES,
    Decision,
    Host,
    Kind,
    Member,
    Outcome,
    Reason,
    Reclaim,
    Resize,
    Verdict,
)
from shrinkd.policies.policy import Envelope

_VETOED_SECONDS = 5.0
_OUT_OF_HOURS_SECONDS = 60.0
_RATE_SECONDS = 1.0

Key = tuple[str, int]
"""A policy's name and a group's id, or 0 for a policy that decides over all of its groups together."""


@dataclass(slots=True)
class Post:
    """Where a policy watches a group, or all of its groups together.

    Times are of the engine's clock.
    """

    policy: Envelope
    generation: int
    kind: Kind
    groups: tuple[Group, ...]
    state: Any
    look_at: float
    state_before: Any = None
    """The last look's: what goes on when that look's ask came to nothing."""
    breaker: Breaker = field(default_factory=Breaker)
    setback: Setback = field(default_factory=Setback)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """What became of its grants since the last look, by group id."""
    outcomes_before: dict[int, Outcome] = field(default_factory=dict)
    """What the last look was told, which goes on with `state_before`."""
    running: set[int] = field(default_factory=set)
    """The ids of the groups in which a grant of it is carried out."""
    decisions: tuple[Decision, ...] = ()
    """Of the last look."""
    read_at: float = -math.inf
    usage_bytes: int = 0
    """At the last whole look, less what was freed since."""

    @property
    def key(self) -> Key:
        return self.policy.name, 0 if self.kind.together else self.groups[0].id


@dataclass(slots=True)
class Wish:
    """A decision on its way to a grant.

    Verdict and reason are the decision's until something stands against it.
    """

    post: Post
    decision: Decision
    member: Member
    verdict: Verdict
    reason: Reason
    amount: int = 0
    """What it asks to reclaim, in bytes, less what would go below its floor."""
    granted: int = 0
    floor: int = 0
    """What usage is not to be brought below: its own, or a higher one of somebody who wanted the
    same."""
    swappiness: int | None = None
    put_off_seconds: float = 0.0
    """How long nothing can come of asking again."""

    @property
    def group(self) -> Group:
        return self.decision.group

    def refuse(self, verdict: Verdict, reason: Reason, put_off_seconds: float = 0.0) -> None:
        self.verdict, self.reason, self.granted = verdict, reason, 0
        self.put_off_seconds = put_off_seconds


@dataclass(frozen=True, slots=True)
class Moment:
    """When it is (monotonic, and by the calendar), and how the host is."""

    now: float
    wall: datetime
    host: Host


def arbitrate(
    wishes: Iterable[Wish], guards: Guards, moment: Moment, busy: Collection[str]
) -> list[Wish]:
    """Answer the wishes that are granted.

    Manual work first, then by rank, priority and name. The others are told why not.

    `busy` are the paths of the groups that something is being done to.
    """
    asking = [wish for wish in wishes if wish.decision.ask is not None]
    taken: dict[str, Wish] = {}
    for wish in sorted(
        asking,
        key=lambda wish: (wish.post.kind.rank, wish.post.policy.priority, wish.post.policy.name),
    ):
        _check(wish, guards, moment)
        if wish.verdict is Verdict.ACT and wish.post.policy.mode == "observe":
            wish.verdict = Verdict.WOULD_ACT
        elif wish.verdict is Verdict.ACT:
            _place(wish, taken, busy)
    for wish in taken.values():
        guards.granted(wish.group, wish.granted, moment.now, is_urgent=wish.post.kind.is_urgent)
    return list(taken.values())


def _check(wish: Wish, guards: Guards, moment: Moment) -> None:
    """Hold a wish against the guards, and say how much of it may be granted."""
    policy, breaker = wish.post.policy, wish.post.breaker
    if breaker.is_open(moment.now):
        wish.refuse(Verdict.TRIPPED, Reason.FAILED_THRICE, breaker.until - moment.now)
    elif policy.active is not None and not policy.active.covers(moment.wall):
        wish.refuse(Verdict.VETOED, Reason.OUT_OF_HOURS, _OUT_OF_HOURS_SECONDS)
    elif reason := guards.veto(policy.kind, wish.group, moment.host, moment.now):
        verdict = Verdict.TRIPPED if reason is Reason.OOM_KILLED else Verdict.VETOED
        wish.refuse(
            verdict, reason, MANUAL_SECONDS if reason is Reason.MANUAL_CHANGE else _VETOED_SECONDS
        )
    elif isinstance(wish.decision.ask, Reclaim | Resize):
        _measure(wish, wish.decision.ask, guards, moment)


def _measure(wish: Wish, ask: Reclaim | Resize, guards: Guards, moment: Moment) -> None:
    """Say how much is reclaimed, of what, and down to where; limits may be set behind a shrink."""
    stat, maximum = wish.member.stat, ask.limits.get("max_bytes") if isinstance(ask, Resize) else 0
    if isinstance(ask, Reclaim):
        goal = (
            stat.usage_bytes - ask.target_bytes
            if ask.target_bytes is not None
            else ask.reclaim_bytes or 0
        )
        wish.floor = wish.member.floor_bytes
        wish.amount = wish.granted = max(min(goal, stat.usage_bytes - wish.floor), 0)
    swappiness = guards.swappiness(wish.post.policy, stat, moment.host)
    if not isinstance(swappiness, Reason):
        wish.swappiness = swappiness
    elif maximum is not None and stat.usage_bytes >= maximum:
        wish.refuse(Verdict.VETOED, swappiness, _VETOED_SECONDS)
        return
    if isinstance(ask, Reclaim):
        _hold_back(wish, ask, guards, moment.now)


def _hold_back(wish: Wish, ask: Reclaim, guards: Guards, now: float) -> None:
    """Grant what the rates allow now.

    What is one pass is all or nothing, for it keeps to its group's rate by itself.
    """
    allowance = wish.amount if wish.post.kind.is_urgent else guards.allowance(wish.group, now)
    wish.granted = min(wish.amount, allowance)
    if wish.amount < MIN_ASK_BYTES:
        wish.refuse(Verdict.HOLD, Reason.AT_FLOOR)
    elif wish.granted < MIN_ASK_BYTES:
        wish.refuse(Verdict.VETOED, Reason.RATE_SPENT, _RATE_SECONDS)
    elif ask.is_one_pass:
        wish.granted = wish.amount


def _place(wish: Wish, taken: dict[str, Wish], busy: Collection[str]) -> None:
    """Let one wish through in a chain of groups."""
    path = wish.group.path
    rival = next((taken[other] for other in taken if are_in_line(other, path)), None)
    is_busy = wish.group.id in wish.post.running  # it may have ended, and is still to be told
    if rival is None and not is_busy and not any(are_in_line(other, path) for other in busy):
        taken[path] = wish
        return
    if rival is not None and rival.group == wish.group and rival.granted:
        _join(rival, wish)
    wish.refuse(Verdict.SUPERSEDED, Reason.CHAIN_BUSY if rival is None else Reason.OUTRANKED)


def _join(rival: Wish, wish: Wish) -> None:
    """Let one wish do for two.

    The larger amount, above the higher floor, by the stricter rule for swap.
    """
    rival.floor = max(rival.floor, wish.floor)
    if rival.swappiness is None:
        rival.swappiness = wish.swappiness
    most = (
        max(rival.granted, wish.granted)
        if wish.swappiness in {None, rival.swappiness}
        else rival.granted
    )
    rival.granted = max(min(most, wish.member.stat.usage_bytes - rival.floor), 0)


def are_in_line(path: str, other: str) -> bool:
    """Whether one of two groups is within the other."""
    return is_within(path, other) or is_within(other, path)


def is_within(path: str, top: str) -> bool:
    """Whether a group is another, or below it."""
    return path == top or path.startswith(f"{top}/") or not top
