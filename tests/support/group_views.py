"""Observations of one group for tests of kinds, made from the few numbers that a test is about."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from shrinkd.backends import Group, Limits, MemStat
from shrinkd.policies import Decision, Host, Kind, Member, Observation, Outcome

MIB = 1 << 20
GROUP = Group("group", 7)
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOST = Host(total_bytes=8192 * MIB, available_bytes=4096 * MIB)
MADE = Outcome(asked_bytes=20 * MIB, freed_bytes=20 * MIB, seconds=0.5)


def member(
    usage: int = 0, *, limit: int | None = None, group: Group = GROUP, **more: Any
) -> Member:
    """Usage and the effective limit in bytes; `more` are members of Member, or `limits`."""
    limits = more.pop("limits", None) or Limits(limit, effective_max_bytes=limit)
    stat = more.pop("stat", None) or MemStat(usage, limits)
    return Member(group, stat, **more)


def seen(
    *members: Member, at: float = 0.0, wall: datetime = NOON, host: Host = HOST
) -> Observation:
    """An observation at `at` seconds of the monotonic clock."""
    return Observation(at, wall, host, members)


class Looks:
    """One group under one policy.

    Each evaluation has the state of the last one, as it comes back from JSON.
    """

    def __init__(self, kind: Kind, **spec: Any) -> None:
        self.kind = kind
        self.spec = kind.spec(**spec)
        self.state = kind.state()

    def look(self, observation: Observation) -> Decision:
        state, (decision,) = self.kind.decide(self.spec, self.state, observation)
        self.state = self.kind.state(**json.loads(json.dumps(asdict(state))))
        assert self.state == state
        return decision
