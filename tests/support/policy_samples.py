"""Samples for the tests of guards, arbiter and evaluator: policies, readings, hosts, proposals."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shrinkd.backends import Events, Group, Limits, MemStat, Pressure, Stall
from shrinkd.policies import (
    Ask,
    Decision,
    Host,
    Kind,
    Member,
    Observation,
    Reason,
    Reclaim,
    Verdict,
)
from shrinkd.policies.arbiter import Moment, Proposal
from shrinkd.policies.bindings import PolicyBinding
from shrinkd.policies.kinds.limit import KeepLimits
from shrinkd.policies.policy import Floor, Policy, Selector

MIB = 1 << 20
DAWN = datetime(2026, 1, 1, tzinfo=UTC)
HOST = Host(total_bytes=16 << 30, available_bytes=8 << 30)


@dataclass(frozen=True, slots=True)
class Nothing:
    """A state."""


def decide(
    _spec: object, state: Nothing, observation: Observation
) -> tuple[Nothing, list[Decision]]:
    return state, [
        Decision(member.group, Verdict.HOLD, Reason.AT_TARGET, 1.0)
        for member in observation.members
    ]


def kind(rank: int = 50, *, is_urgent: bool = False) -> Kind:
    return Kind(KeepLimits, Nothing, decide, rank=rank, is_urgent=is_urgent)


def group(path: str) -> Group:
    return Group(path, sum(path.encode()) + 1)


def stat(usage: int = 512 * MIB, **given: Any) -> MemStat:
    limits: Mapping[str, Any] = given.pop("limits", {})
    told: dict[str, Any] = {
        "active_file_bytes": 0,
        "inactive_file_bytes": usage,
        "reclaimable_estimate_bytes": usage,
    }
    return MemStat(
        usage,
        Limits(limits.get("max_bytes"), **{k: v for k, v in limits.items() if k != "max_bytes"}),
        **(told | given),
    )


def kills(count: int) -> Events:
    return Events(oom_kill=count)


def pressed(full_avg10: float) -> Pressure:
    return Pressure(some=Stall(full_avg10, 0, 0, 0), full=Stall(full_avg10, 0, 0, 0))


def policy(name: str = "p", **given: Any) -> Policy:
    told: dict[str, Any] = {
        "kind": "limit",
        "selector": Selector(group="*"),
        "floor": Floor(bytes=0),
        "spec": None,
    }
    return Policy.model_construct(**(Policy(name=name, **told).__dict__ | given))


def proposal(  # noqa: PLR0913  # each with a default, and all but one by name
    path: str = "web",
    amount: int = 64 * MIB,
    *,
    of: Policy | None = None,
    as_kind: Kind | None = None,
    reading: MemStat | None = None,
    floor: int = 0,
    ask: Ask | None = None,
) -> Proposal:
    asked = Reclaim(reclaim_bytes=amount) if ask is None else ask
    where, made = group(path), of or policy()
    decision = Decision(where, Verdict.ACT, Reason.BELOW_TARGET, 2.0, ask=asked)
    binding = PolicyBinding(made, 1, as_kind or kind(), (where,), Nothing(), 0.0)
    return Proposal(
        binding,
        decision,
        Member(where, reading or stat(), floor),
        decision.verdict,
        decision.reason,
    )


def moment(now: float = 0.0, host: Host = HOST, wall: datetime = DAWN) -> Moment:
    return Moment(now, wall, host)
