"""The arbiter: check each proposed action against the guards, and grant at most one per chain.

A chain is a group with the groups above and below it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from shrinkd.backends import Group
from shrinkd.paths import are_nested
from shrinkd.policies.bindings import PolicyBinding
from shrinkd.policies.guards import MANUAL_SECONDS, Guards
from shrinkd.policies.kind import (
    MIN_ASK_BYTES,
    Decision,
    Host,
    Member,
    Reason,
    Reclaim,
    Resize,
    Verdict,
)

_VETOED_SECONDS = 5.0
_OUT_OF_HOURS_SECONDS = 60.0
_RATE_SECONDS = 1.0


@dataclass(slots=True)
class Proposal:
    """A decision of a kind, with what the arbiter makes of it.

    Verdict and reason are the decision's until a guard or another proposal stands against it.
    """

    binding: PolicyBinding
    decision: Decision
    member: Member
    verdict: Verdict
    reason: Reason
    amount_bytes: int = 0
    """The amount that it asks to reclaim, less what would go below its floor."""
    granted_bytes: int = 0
    floor_bytes: int = 0
    """Usage must not be brought below this: its floor, or a joined proposal's higher one."""
    swappiness: int | None = None
    delay_seconds: float = 0.0
    """For how long the same ask would be refused again."""

    @property
    def group(self) -> Group:
        return self.decision.group

    def refuse(self, verdict: Verdict, reason: Reason, delay_seconds: float = 0.0) -> None:
        self.verdict, self.reason, self.granted_bytes = verdict, reason, 0
        self.delay_seconds = delay_seconds


@dataclass(frozen=True, slots=True)
class Moment:
    """The time of a tick (monotonic seconds, and the calendar's), and the host at that time."""

    now: float
    wall: datetime
    host: Host


def arbitrate(
    proposals: Iterable[Proposal], guards: Guards, moment: Moment, busy: Collection[str]
) -> list[Proposal]:
    """Return the proposals that are granted; the others get the verdict and reason of the refusal.

    They go by rank of the kind, then priority, then name. `busy` are the paths of the groups in
    which a change or a shrink runs.
    """
    asking = [proposal for proposal in proposals if proposal.decision.ask is not None]
    granted: dict[str, Proposal] = {}
    for proposal in sorted(asking, key=_order):
        _check(proposal, guards, moment)
        if proposal.verdict is Verdict.ACT and proposal.binding.policy.mode == "observe":
            proposal.verdict = Verdict.WOULD_ACT
        elif proposal.verdict is Verdict.ACT:
            _grant(proposal, granted, busy)
    for proposal in granted.values():
        guards.add_grant(
            proposal.group,
            proposal.granted_bytes,
            moment.now,
            is_urgent=proposal.binding.kind.is_urgent,
        )
    return list(granted.values())


def _order(proposal: Proposal) -> tuple[int, int, str]:
    policy = proposal.binding.policy
    return proposal.binding.kind.rank, policy.priority, policy.name


def _check(proposal: Proposal, guards: Guards, moment: Moment) -> None:
    """Check a proposal against the guards, and measure the amount that may be granted."""
    binding, policy = proposal.binding, proposal.binding.policy
    if binding.breaker.is_open(moment.now):
        delay = binding.breaker.until - moment.now
        proposal.refuse(Verdict.TRIPPED, Reason.FAILED_THRICE, delay)
    elif policy.active is not None and not policy.active.covers(moment.wall):
        proposal.refuse(Verdict.VETOED, Reason.OUT_OF_HOURS, _OUT_OF_HOURS_SECONDS)
    elif reason := guards.veto(binding.kind, proposal.group, moment.host, moment.now):
        verdict = Verdict.TRIPPED if reason is Reason.OOM_KILLED else Verdict.VETOED
        is_manual = reason is Reason.MANUAL_CHANGE
        proposal.refuse(verdict, reason, MANUAL_SECONDS if is_manual else _VETOED_SECONDS)
    elif isinstance(proposal.decision.ask, Reclaim | Resize):
        _measure(proposal, proposal.decision.ask, guards, moment)


def _measure(proposal: Proposal, ask: Reclaim | Resize, guards: Guards, moment: Moment) -> None:
    """Set amount, floor and swappiness of a reclaim, or of the shrink before a lower limit."""
    stat = proposal.member.stat
    maximum = ask.limits.get("max_bytes") if isinstance(ask, Resize) else 0
    if isinstance(ask, Reclaim):
        goal = (
            stat.usage_bytes - ask.target_bytes
            if ask.target_bytes is not None
            else ask.reclaim_bytes or 0
        )
        proposal.floor_bytes = proposal.member.floor_bytes
        proposal.amount_bytes = max(min(goal, stat.usage_bytes - proposal.floor_bytes), 0)
        proposal.granted_bytes = proposal.amount_bytes
    swappiness = guards.swappiness(proposal.binding.policy, stat, moment.host)
    if not isinstance(swappiness, Reason):
        proposal.swappiness = swappiness
    elif maximum is not None and stat.usage_bytes >= maximum:
        proposal.refuse(Verdict.VETOED, swappiness, _VETOED_SECONDS)
        return
    if isinstance(ask, Reclaim):
        _limit_to_rate(proposal, ask, guards, moment.now)


def _limit_to_rate(proposal: Proposal, ask: Reclaim, guards: Guards, now: float) -> None:
    """Grant what the rates allow now; an ask that is one pass is granted whole or not at all.

    Such a pass is long, and its shrink keeps to the group's rate itself.
    """
    allowance = (
        proposal.amount_bytes
        if proposal.binding.kind.is_urgent
        else guards.allowance(proposal.group, now)
    )
    proposal.granted_bytes = min(proposal.amount_bytes, allowance)
    if proposal.amount_bytes < MIN_ASK_BYTES:
        proposal.refuse(Verdict.HOLD, Reason.AT_FLOOR)
    elif proposal.granted_bytes < MIN_ASK_BYTES:
        proposal.refuse(Verdict.VETOED, Reason.RATE_SPENT, _RATE_SECONDS)
    elif ask.is_one_pass:
        proposal.granted_bytes = proposal.amount_bytes


def _grant(proposal: Proposal, granted: dict[str, Proposal], busy: Collection[str]) -> None:
    """Grant a proposal unless its chain is busy or has a granted one, which it may join."""
    path = proposal.group.path
    rival = next((granted[other] for other in granted if are_nested(other, path)), None)
    # its action may have ended with the outcome still to be reported
    is_running = proposal.group.id in proposal.binding.running
    if rival is None and not is_running and not any(are_nested(other, path) for other in busy):
        granted[path] = proposal
        return
    if rival is not None and rival.group == proposal.group and rival.granted_bytes:
        _join(rival, proposal)
    proposal.refuse(Verdict.SUPERSEDED, Reason.CHAIN_BUSY if rival is None else Reason.OUTRANKED)


def _join(rival: Proposal, proposal: Proposal) -> None:
    """Let a granted proposal do for another one of the same group.

    It gets the larger amount, the higher floor, and the stricter rule for swap.
    """
    rival.floor_bytes = max(rival.floor_bytes, proposal.floor_bytes)
    if rival.swappiness is None:
        rival.swappiness = proposal.swappiness
    most = (
        max(rival.granted_bytes, proposal.granted_bytes)
        if proposal.swappiness in {None, rival.swappiness}
        else rival.granted_bytes
    )
    room = proposal.member.stat.usage_bytes - rival.floor_bytes
    rival.granted_bytes = max(min(most, room), 0)
