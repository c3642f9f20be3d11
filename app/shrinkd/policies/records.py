"""Results of a tick: the actions that were granted, and every decision as a record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shrinkd.backends import Group, MemStat
from shrinkd.policies.arbiter import Moment, Proposal
from shrinkd.policies.bindings import Key, PolicyBinding
from shrinkd.policies.kind import Ask, Reason, Reclaim, Verdict
from shrinkd.policies.policy import Policy


@dataclass(frozen=True, slots=True)
class Record:
    """A decision as it is recorded and shown.

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
    """Time to the next evaluation, at most."""
    asked_bytes: int | None = None
    """The amount that the kind asked to reclaim; None where it asked for none."""
    granted_bytes: int | None = None
    freed_bytes: int | None = None
    """By how much usage fell; None until the shrink has ended."""
    shrink_id: str | None = None
    errno: str | None = None
    """The errno's symbol that the kernel or a guard of the daemon answered."""
    times: int = 1
    """How many equal decisions in a row this record stands for; `at` is that of the last."""


@dataclass(frozen=True, slots=True)
class Action:
    """An ask that was granted: what the executor has to do now."""

    key: Key
    policy: Policy
    group: Group
    ask: Ask
    amount_bytes: int
    """The amount to reclaim; 0 for what is no reclaim."""
    floor_bytes: int
    """Usage must not be brought below this, whatever it is by then."""
    target_bytes: int | None
    """The usage to reach, whatever is charged meanwhile; None where an amount is granted."""
    is_urgent: bool
    swappiness: int | None


@dataclass(frozen=True, slots=True)
class Tick:
    """The result of one tick."""

    actions: tuple[Action, ...] = ()
    records: tuple[Record, ...] = ()
    bindings: tuple[PolicyBinding, ...] = ()
    """The bindings that were evaluated."""
    readings: Mapping[int, MemStat] = field(default_factory=dict)
    """By group id."""


def action_of(proposal: Proposal) -> Action:
    """Make the action of a granted proposal."""
    ask = proposal.decision.ask
    assert ask is not None  # noqa: S101  # the arbiter grants nothing else
    is_whole = (
        isinstance(ask, Reclaim)
        and ask.target_bytes is not None
        and proposal.granted_bytes == proposal.amount_bytes
    )
    # never below the floor: the amount was measured down to it
    target = proposal.member.stat.usage_bytes - proposal.amount_bytes if is_whole else None
    return Action(
        key=proposal.binding.key,
        policy=proposal.binding.policy,
        group=proposal.group,
        ask=ask,
        amount_bytes=proposal.granted_bytes,
        floor_bytes=proposal.floor_bytes,
        target_bytes=target,
        is_urgent=proposal.binding.kind.is_urgent,
        swappiness=proposal.swappiness,
    )


def record_of_removal(binding: PolicyBinding, moment: Moment) -> Record:
    """Record that the group of a binding was removed."""
    return Record(
        at=_microseconds(moment),
        policy=binding.policy.name,
        generation=binding.generation,
        group=binding.groups[0],
        mode=binding.policy.mode,
        verdict=Verdict.GONE,
        reason=Reason.GROUP_GONE,
        signals={},
        look_seconds=0.0,
    )


def record_of_failure(
    binding: PolicyBinding, group: Group, errname: str, moment: Moment, delay_seconds: float
) -> Record:
    """Record that a group could not be evaluated; it is tried again after `delay_seconds`."""
    return Record(
        at=_microseconds(moment),
        policy=binding.policy.name,
        generation=binding.generation,
        group=group,
        mode=binding.policy.mode,
        verdict=Verdict.HOLD,
        reason=Reason.UNREADABLE,
        signals={},
        look_seconds=max(delay_seconds, 0.0),
        errno=errname,
    )


def record_of(proposal: Proposal, moment: Moment) -> Record:
    """Record a decision with the verdict of the arbiter."""
    asked = proposal.amount_bytes if isinstance(proposal.decision.ask, Reclaim) else None
    is_granted = asked is not None and proposal.verdict is Verdict.ACT
    sizes = {
        "usage_bytes": proposal.member.stat.usage_bytes,
        "floor_bytes": proposal.member.floor_bytes,
    }
    return Record(
        at=_microseconds(moment),
        policy=proposal.binding.policy.name,
        generation=proposal.binding.generation,
        group=proposal.group,
        mode=proposal.binding.policy.mode,
        verdict=proposal.verdict,
        reason=proposal.reason,
        signals=dict(proposal.decision.signals) | sizes,
        look_seconds=max(proposal.decision.look_seconds, proposal.delay_seconds),
        asked_bytes=asked,
        granted_bytes=proposal.granted_bytes if is_granted else None,
    )


def _microseconds(moment: Moment) -> int:
    return int(moment.wall.timestamp() * 1e6)
