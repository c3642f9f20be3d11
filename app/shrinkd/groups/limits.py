"""Change the limits of one group: the use case behind PATCH, batches, shrinks and policies.

Every change is locked, journaled and read back. Then `limits.changed` is published with each limit
that has moved, as the kernel holds it: in whole pages, and also one that the change did not name,
such as v1's swap, which shares a counter with the maximum. Nothing is published when nothing moved.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from shrinkd import memcontrol
from shrinkd.backends import (
    LIMIT_NAMES,
    Backend,
    Group,
    LimitName,
    Limits,
    is_unset,
    limits_to_json,
)
from shrinkd.errors import UnsupportedLimit
from shrinkd.events import EventType, Publish
from shrinkd.groups.limit_journal import LimitJournal
from shrinkd.groups.locks import GroupLocks

Changes = Mapping[LimitName, int | None]
"""New limits in bytes; None is as if the limit was never set."""
Precondition = Callable[[Limits], None]
"""Is called with the limits before a change, under the group's lock, and raises to refuse it."""


@dataclass(frozen=True, slots=True)
class Actor:
    """The originator of a change of limits, as its event names it: a caller, policy or shrink."""

    policy: str | None = None
    shrink_id: str | None = None

    def members(self) -> dict[str, str | None]:
        """Return the members of the event's data that name the actor."""
        if self.shrink_id is not None:
            return {"policy": self.policy, "shrink_id": self.shrink_id}
        return {} if self.policy is None else {"policy": self.policy}


CALLER = Actor()


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """Changes limits of groups. Thread-safe."""

    backend: Backend
    journal: LimitJournal
    locks: GroupLocks
    publish: Publish

    def change_limits(
        self,
        group: Group,
        changes: Changes,
        actor: Actor = CALLER,
        *,
        precondition: Precondition | None = None,
        dry_run: bool = False,
    ) -> Limits:
        """Set limits of a group, all or none, and return all its limits as read back.

        No other change comes between `precondition` and the change. A caller's change ends a
        policy's shrink of the group; it is checked by a dry run before, so that a refused one ends
        nothing. LimitBelowUsage, LimitOrder, UnsupportedLimit, GroupBusy, ShrinkInProgress, and
        what `precondition` raises.
        """
        if actor.policy is None and not dry_run and self.locks.has_policy_shrink(group):
            self.change_limits(group, changes, actor, precondition=precondition, dry_run=True)
        with self.locks.hold(group, actor.policy, dry_run=dry_run):
            before = self.backend.stat(group).limits
            if precondition:
                precondition(before)
            wanted = self.supported(changes, before.unsupported)
            after = self._set(group, wanted, dry_run=dry_run)
            if not dry_run:
                self._publish_moved(group, before, after, actor)
            return after

    def set_first_limits(self, group: Group, changes: Changes) -> Limits:
        """Set the limits of a group that was just made, and return all as read back.

        Publishes nothing: `group.made` has these limits. Policies are not kept away.
        """
        with self.locks.hold(group, is_new=True):
            return self._set(group, changes, dry_run=False)

    def resize_limit(
        self, memcg: memcontrol.Memcg, limit: int, current: memcontrol.Current, actor: Actor
    ) -> None:
        """Run memcontrol.resize_limit() for a shrink that occupies the group, and publish.

        `limit` is in bytes, whole pages.
        """
        before = self.backend.stat(memcg.group).limits
        after = memcontrol.resize_limit(memcg, limit, current)
        self._publish_moved(memcg.group, before, after, actor)

    def memcg(self, group: Group, swappiness: int | None = None) -> memcontrol.Memcg:
        """Return a group for the routines of memcontrol, its changes journaled."""
        return memcontrol.Memcg(self.backend, group, swappiness, self.journal)

    def supported(self, changes: Changes, lacking: Collection[LimitName]) -> Changes:
        """Return the changes without those that set a limit in `lacking` to its unset value.

        A limit that does not exist counts as never set, so that what GET answers can be sent back.
        UnsupportedLimit for others that this node cannot set.
        """
        wanted = {
            name: value
            for name, value in changes.items()
            if name not in lacking or not is_unset(name, value)
        }
        unsupported = [name for name in wanted if name not in self.backend.settable_limits]
        if unsupported:
            raise UnsupportedLimit(
                f"{', '.join(unsupported)} cannot be set on this node: its memory controller has "
                "no such limit.",
                unsupported=unsupported,
            )
        return wanted

    def _set(self, group: Group, changes: Changes, *, dry_run: bool) -> Limits:
        if not changes:
            return self.backend.stat(group).limits
        return memcontrol.set_limits(self.memcg(group), changes, dry_run=dry_run)

    def _publish_moved(self, group: Group, before: Limits, after: Limits, actor: Actor) -> None:
        moved = [name for name in LIMIT_NAMES if getattr(after, name) != getattr(before, name)]
        if moved:
            self.publish(
                EventType.LIMITS_CHANGED, group, **limits_to_json(after, moved), **actor.members()
            )
