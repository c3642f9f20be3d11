"""Who may do what he wants.

The wishes of one look held against the guards, and one of them let through in a chain of groups.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shrinkd.backends import Group
from shrinkd.paths import are_nested
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
from shrinkd.policies.policy import Policy

_VETOED_SECONDS = 5.0
_OUT_OF_HOURS_SECONDS = 60.0
_RATE_SECONDS = 1.0

Key = tuple[str, int]
"""A policy's name and a group's id, or 0 for a policy that decides over all of its groups together."""


@dataclass(slots=True)
class PolicyBinding:
    """Where a policy watches a group, or all of its groups together.

    Times are of the engine's clock.
    """

    policy: Policy
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
class Proposal:
    """A decision on its way to a grant.

    Verdict and reason are the decision's until something stands against it.
    """

    binding: PolicyBinding
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
    proposals: Iterable[Proposal], guards: Guards, moment: Moment, busy: Collection[str]
) -> list[Proposal]:
    """Answer the wishes that are granted.

    Manual work first, then by rank, priority and name. The others are told why not.

    `busy` are the paths of the groups that something is being done to.
    """
    asking = [proposal for proposal in proposals if proposal.decision.ask is not None]
    taken: dict[str, Proposal] = {}
    for proposal in sorted(
        asking,
        key=lambda proposal: (
            proposal.binding.kind.rank,
            proposal.binding.policy.priority,
            proposal.binding.policy.name,
        ),
    ):
        _check(proposal, guards, moment)
        if proposal.verdict is Verdict.ACT and proposal.binding.policy.mode == "observe":
            proposal.verdict = Verdict.WOULD_ACT
        elif proposal.verdict is Verdict.ACT:
            _place(proposal, taken, busy)
    for proposal in taken.values():
        guards.granted(
            proposal.group, proposal.granted, moment.now, is_urgent=proposal.binding.kind.is_urgent
        )
    return list(taken.values())


def _check(proposal: Proposal, guards: Guards, moment: Moment) -> None:
    """Hold a wish against the guards, and say how much of it may be granted."""
    policy, breaker = proposal.binding.policy, proposal.binding.breaker
    if breaker.is_open(moment.now):
        proposal.refuse(Verdict.TRIPPED, Reason.FAILED_THRICE, breaker.until - moment.now)
    elif policy.active is not None and not policy.active.covers(moment.wall):
        proposal.refuse(Verdict.VETOED, Reason.OUT_OF_HOURS, _OUT_OF_HOURS_SECONDS)
    elif reason := guards.veto(policy.kind, proposal.group, moment.host, moment.now):
        verdict = Verdict.TRIPPED if reason is Reason.OOM_KILLED else Verdict.VETOED
        proposal.refuse(
            verdict, reason, MANUAL_SECONDS if reason is Reason.MANUAL_CHANGE else _VETOED_SECONDS
        )
    elif isinstance(proposal.decision.ask, Reclaim | Resize):
        _measure(proposal, proposal.decision.ask, guards, moment)


def _measure(proposal: Proposal, ask: Reclaim | Resize, guards: Guards, moment: Moment) -> None:
    """Say how much is reclaimed, of what, and down to where; limits may be set behind a shrink."""
    stat, maximum = (
        proposal.member.stat,
        ask.limits.get("max_bytes") if isinstance(ask, Resize) else 0,
    )
    if isinstance(ask, Reclaim):
        goal = (
            stat.usage_bytes - ask.target_bytes
            if ask.target_bytes is not None
            else ask.reclaim_bytes or 0
        )
        proposal.floor = proposal.member.floor_bytes
        proposal.amount = proposal.granted = max(min(goal, stat.usage_bytes - proposal.floor), 0)
    swappiness = guards.swappiness(proposal.binding.policy, stat, moment.host)
    if not isinstance(swappiness, Reason):
        proposal.swappiness = swappiness
    elif maximum is not None and stat.usage_bytes >= maximum:
        proposal.refuse(Verdict.VETOED, swappiness, _VETOED_SECONDS)
        return
    if isinstance(ask, Reclaim):
        _hold_back(proposal, ask, guards, moment.now)


def _hold_back(proposal: Proposal, ask: Reclaim, guards: Guards, now: float) -> None:
    """Grant what the rates allow now.

    What is one pass is all or nothing, for it keeps to its group's rate by itself.
    """
    allowance = (
        proposal.amount
        if proposal.binding.kind.is_urgent
        else guards.allowance(proposal.group, now)
    )
    proposal.granted = min(proposal.amount, allowance)
    if proposal.amount < MIN_ASK_BYTES:
        proposal.refuse(Verdict.HOLD, Reason.AT_FLOOR)
    elif proposal.granted < MIN_ASK_BYTES:
        proposal.refuse(Verdict.VETOED, Reason.RATE_SPENT, _RATE_SECONDS)
    elif ask.is_one_pass:
        proposal.granted = proposal.amount


def _place(proposal: Proposal, taken: dict[str, Proposal], busy: Collection[str]) -> None:
    """Let one wish through in a chain of groups."""
    path = proposal.group.path
    rival = next((taken[other] for other in taken if are_nested(other, path)), None)
    is_busy = (
        proposal.group.id in proposal.binding.running
    )  # it may have ended, and is still to be told
    if rival is None and not is_busy and not any(are_nested(other, path) for other in busy):
        taken[path] = proposal
        return
    if rival is not None and rival.group == proposal.group and rival.granted:
        _join(rival, proposal)
    proposal.refuse(Verdict.SUPERSEDED, Reason.CHAIN_BUSY if rival is None else Reason.OUTRANKED)


def _join(rival: Proposal, proposal: Proposal) -> None:
    """Let one wish do for two.

    The larger amount, above the higher floor, by the stricter rule for swap.
    """
    rival.floor = max(rival.floor, proposal.floor)
    if rival.swappiness is None:
        rival.swappiness = proposal.swappiness
    most = (
        max(rival.granted, proposal.granted)
        if proposal.swappiness in {None, rival.swappiness}
        else rival.granted
    )
    rival.granted = max(min(most, proposal.member.stat.usage_bytes - rival.floor), 0)
