"""Observations for tests of kinds: readings of groups, without a backend."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from shrinkd.backends import Activity, Group, Limits, MemStat, Pressure, Stall
from shrinkd.policies import Decision, Host, Kind, Member, Observation, Outcome

MIB = 2**20
GIB = 2**30
WALL = datetime(2026, 1, 5, tzinfo=UTC)
HOST = Host(total_bytes=16 * GIB, available_bytes=8 * GIB)


def stat_of(
    usage_bytes: int, *, some_us: int | None = 0, limits: Limits | None = None, **sizes: Any
) -> MemStat:
    """One reading; `some_us` is the total of memory.pressure's some, None where there is no PSI."""
    pressure = None if some_us is None else Pressure(Stall(0, 0, 0, some_us), Stall(0, 0, 0, 0))
    return MemStat(usage_bytes, limits or Limits(max_bytes=None), pressure=pressure, **sizes)


def member_of(
    stat: MemStat,
    floor_bytes: int = 64 * MIB,
    *,
    path: str = "web",
    outcome: Outcome | None = None,
    activity: Activity | None = None,
) -> Member:
    return Member(Group(path, 7), stat, floor_bytes, activity, outcome)


class Policy:
    """A policy whose state is kept from one evaluation to the next."""

    def __init__(self, kind: Kind, **spec: Any) -> None:
        self.kind = kind
        self.spec = kind.spec(**spec)
        self.state = kind.state()

    def look_at(
        self, now_seconds: float, *members: Member, host: Host = HOST
    ) -> Sequence[Decision]:
        self.state, decisions = self.kind.decide(
            self.spec, self.state, Observation(now_seconds, WALL, host, members)
        )
        return decisions

    def look(self, now_seconds: float, member: Member, *, host: Host = HOST) -> Decision:
        (decision,) = self.look_at(now_seconds, member, host=host)
        return decision
