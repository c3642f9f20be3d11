"""What comes of one look at the policies.

Decisions as they are remembered and shown, and what is granted of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shrinkd.backends import Group, MemStat
from shrinkd.policies.arbiter import Key, Moment, PolicyBinding, Proposal
from shrinkd.policies.kind import Ask, Reason, Reclaim, Verdict
from shrinkd.policies.policy import Policy


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
class Action:
    """What is to be done for a policy now."""

    key: Key
    policy: Policy
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

    grants: tuple[Action, ...] = ()
    records: tuple[Record, ...] = ()
    bindings: tuple[PolicyBinding, ...] = ()
    """Those that were looked at."""
    readings: Mapping[int, MemStat] = field(default_factory=dict)
    """By group id."""


def grant_of(proposal: Proposal) -> Action:
    ask = proposal.decision.ask
    assert ask is not None  # the arbiter grants nothing else
    is_whole = (
        isinstance(ask, Reclaim)
        and ask.target_bytes is not None
        and proposal.granted == proposal.amount
    )
    target = (
        proposal.member.stat.usage_bytes - proposal.amount if is_whole else None
    )  # which is not below its floor
    return Action(
        key=proposal.binding.key,
        policy=proposal.binding.policy,
        group=proposal.group,
        ask=ask,
        amount_bytes=proposal.granted,
        floor_bytes=proposal.floor,
        target_bytes=target,
        is_urgent=proposal.binding.kind.is_urgent,
        swappiness=proposal.swappiness,
    )


def farewell_of(binding: PolicyBinding, moment: Moment) -> Record:
    at, policy = int(moment.wall.timestamp() * 1e6), binding.policy
    return Record(
        at,
        policy.name,
        binding.generation,
        binding.groups[0],
        policy.mode,
        Verdict.GONE,
        Reason.GROUP_GONE,
        {},
        0.0,
    )


def classify_failure(binding: PolicyBinding, group: Group, errname: str, moment: Moment) -> Record:
    at, policy, seconds = (
        int(moment.wall.timestamp() * 1e6),
        binding.policy,
        binding.look_at - moment.now,
    )
    return Record(
        at,
        policy.name,
        binding.generation,
        group,
        policy.mode,
        Verdict.HOLD,
        Reason.UNREADABLE,
        {},
        max(seconds, 0.0),
        errno=errname,
    )


def record_of(proposal: Proposal, moment: Moment) -> Record:
    asked = proposal.amount if isinstance(proposal.decision.ask, Reclaim) else None
    seen = {
        "usage_bytes": proposal.member.stat.usage_bytes,
        "floor_bytes": proposal.member.floor_bytes,
    }
    return Record(
        at=int(moment.wall.timestamp() * 1e6),
        policy=proposal.binding.policy.name,
        generation=proposal.binding.generation,
        group=proposal.group,
        mode=proposal.binding.policy.mode,
        verdict=proposal.verdict,
        reason=proposal.reason,
        signals=dict(proposal.decision.signals) | seen,
        look_seconds=max(proposal.decision.look_seconds, proposal.put_off_seconds),
        asked_bytes=asked,
        granted_bytes=proposal.granted
        if asked is not None and proposal.verdict is Verdict.ACT
        else None,
    )
