"""Readings of one tick: each group is read once, and the host at most once a second."""

import math

from shrinkd.backends import Backend, MemStat
from shrinkd.errors import GroupNotFound, ignoring_unreadable
from shrinkd.policies.bindings import PolicyBinding
from shrinkd.policies.guards import floor_of
from shrinkd.policies.kind import Host, Member

_HOST_SECONDS = 1.0


class Readings:
    """Read the groups of a tick's bindings, each group at most once."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.stats: dict[int, MemStat] = {}
        """By group id."""

    def members(self, binding: PolicyBinding) -> dict[int, Member]:
        """Read the groups of a binding; groups that are gone or cannot be read are left out.

        Raises GroupNotFound where none is left.
        """
        found: dict[int, Member] = {}
        for group in binding.groups:
            with ignoring_unreadable():
                stat = self.stats.get(group.id)
                if stat is None:
                    stat = self.stats[group.id] = self._backend.stat(group)
                activity = self._backend.activity(group) if binding.kind.needs_activity else None
                found[group.id] = Member(
                    group,
                    stat,
                    floor_of(binding.policy, stat),
                    activity,
                    binding.outcomes.get(group.id),
                )
        if not found:
            raise GroupNotFound(f"{binding.groups[0].path!a} is gone, or cannot be read.")
        return found


def host_of(backend: Backend) -> Host:
    """Read the memory, swap and pressure of the host."""
    node = backend.node()
    return Host(
        node.total_bytes,
        node.available_bytes,
        node.swap_total_bytes,
        node.swap_free_bytes,
        node.pressure,
    )


class HostReading:
    """The host as it was read within the last second: one reading opens five files."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._host: Host | None = None
        self._read_at = -math.inf

    def at(self, now: float) -> Host:
        if self._host is None or not self._read_at <= now < self._read_at + _HOST_SECONDS:
            self._host, self._read_at = host_of(self._backend), now
        return self._host
