"""Who may do what he wants: the wishes of one look held against the guards, and one of them let through in a chain of groups."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.backends import Group
from app.guards import MANUAL_SECONDS, Breaker, Guards
from app.policies import MIN_ASK_BYTES, Decision, Host, Kind, Member, Outcome, Reason, Reclaim, Verdict
from app.policies._envelope import Envelope

_VETOED_SECONDS = 5.0
_OUT_OF_HOURS_SECONDS = 60.0
_RATE_SECONDS = 1.0

Key = tuple[str, int]
"""A policy's name and a group's id, or 0 for a policy that decides over all of its groups together."""


@dataclass(slots=True)
class Post:
    """Where a policy watches a group, or all of its groups together. Times are of the engine's clock."""

    policy: Envelope
    generation: int
    kind: Kind
    groups: tuple[Group, ...]
    state: Any
    look_at: float
    state_before: Any = None
    """The last look's: what goes on when that look's ask came to nothing."""
    breaker: Breaker = field(default_factory=Breaker)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """What became of its grants since the last look, by group id."""
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
    """A decision on its way to a grant; verdict and reason are the decision's until something stands against it."""

    post: Post
    decision: Decision
    member: Member
    verdict: Verdict
    reason: Reason
    amount: int = 0
    """What it asks to reclaim, in bytes, less what would go below its floor."""
    granted: int = 0
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


def arbitrate(wishes: Iterable[Wish], guards: Guards, moment: Moment, busy: Collection[str]) -> list[Wish]:
    """Answer the wishes that are granted: manual work first, then by rank, priority and name. The others are told why not.

    `busy` are the paths of the groups that something is being done to.
    """
    asking = [wish for wish in wishes if wish.decision.ask is not None]
    taken: dict[str, Wish] = {}
    for wish in sorted(asking, key=lambda wish: (wish.post.kind.rank, wish.post.policy.priority, wish.post.policy.name)):
        _check(wish, guards, moment)
        if wish.verdict is Verdict.ACT and wish.post.policy.mode == "observe":
            wish.verdict = Verdict.WOULD_ACT
        elif wish.verdict is Verdict.ACT:
            _place(wish, taken, busy)
    for wish in taken.values():
        guards.granted(wish.group, wish.granted, moment.now)
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
        wish.refuse(verdict, reason, MANUAL_SECONDS if reason is Reason.MANUAL_CHANGE else _VETOED_SECONDS)
    elif isinstance(wish.decision.ask, Reclaim):
        _measure(wish, wish.decision.ask, guards, moment)


def _measure(wish: Wish, ask: Reclaim, guards: Guards, moment: Moment) -> None:
    stat = wish.member.stat
    swappiness = guards.swappiness(wish.post.policy, stat, moment.host)
    goal = stat.usage_bytes - ask.target_bytes if ask.target_bytes is not None else ask.reclaim_bytes or 0
    wish.amount = wish.granted = max(min(goal, stat.usage_bytes - wish.member.floor_bytes), 0)
    if not wish.post.kind.is_urgent:
        wish.granted = min(wish.amount, guards.allowance(wish.group, moment.now))
    if isinstance(swappiness, Reason):
        wish.refuse(Verdict.VETOED, swappiness, _VETOED_SECONDS)
        return
    wish.swappiness = swappiness
    if wish.amount < MIN_ASK_BYTES:
        wish.refuse(Verdict.HOLD, Reason.AT_FLOOR)
    elif wish.granted < MIN_ASK_BYTES:
        wish.refuse(Verdict.VETOED, Reason.RATE_SPENT, _RATE_SECONDS)


def _place(wish: Wish, taken: dict[str, Wish], busy: Collection[str]) -> None:
    """Let one wish through in a chain of groups; for one group the largest amount, above the highest floor."""
    path = wish.group.path
    rival = next((taken[other] for other in taken if are_in_line(other, path)), None)
    if rival is None and not any(are_in_line(other, path) for other in busy):
        taken[path] = wish
        return
    if rival is not None and rival.group == wish.group and rival.granted:
        floor = max(rival.member.floor_bytes, wish.member.floor_bytes)
        rival.granted = max(min(max(rival.granted, wish.granted), wish.member.stat.usage_bytes - floor), 0)
    wish.refuse(Verdict.SUPERSEDED, Reason.CHAIN_BUSY if rival is None else Reason.OUTRANKED)


def are_in_line(path: str, other: str) -> bool:
    """Whether one group is the other, or within it."""
    return path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/")
