"""Locks of groups: a group has at most one change of its limits, or one shrink, at a time.

A change of limits is short and holds its group. A shrink is long and occupies its group from its
submission to its end. A caller's change or shrink ends a policy's shrink and waits for its
end; a policy never waits: it is refused.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from shrinkd.backends import Group
from shrinkd.errors import GroupBusy, Interrupted, ShrinkdError, ShrinkInProgress

_MAKE_WAY_SECONDS = 30.0
_EXPIRE_SECONDS = 3600.0


class Occupant(Protocol):
    """A shrink, as its group's lock sees it."""

    @property
    def id(self) -> str:
        """The id of the shrink."""

    @property
    def group(self) -> Group:
        """The group that it occupies."""

    @property
    def policy(self) -> str | None:
        """The name of the policy that submitted it; None for a caller's."""

    @property
    def state(self) -> str:
        """Its state, for the error that others get."""

    @property
    def has_set_limit(self) -> bool:
        """Tell whether it has changed a limit of the group."""

    def kill(self, signal: ShrinkdError) -> None:
        """Make it end soon, with this error. From any thread."""


class GroupLocks:
    """All locks of one daemon, and the time of each caller's last change of a group.

    Thread-safe. `notify` is called with a group whose limits may have changed, once its lock is
    released.
    """

    def __init__(self, notify: Callable[[Group], None] = lambda _: None) -> None:
        self._notify = notify
        self._changed = threading.Condition()
        self._held: dict[int, Group] = {}
        """Groups whose limits are being changed, by id."""
        self._occupants: dict[str, Occupant] = {}
        self._manual: dict[int, float] = {}
        """The monotonic time when a caller's last change of a group ended, by the group's id;
        infinity while it goes on."""
        self._expire_at = time.monotonic() + _EXPIRE_SECONDS

    @contextmanager
    def hold(
        self,
        group: Group,
        policy: str | None = None,
        *,
        dry_run: bool = False,
        is_new: bool = False,
    ) -> Iterator[None]:
        """Lock a group for a change of its limits: no shrink starts there, no other change runs.

        `policy` is the one that makes the change, None for a caller. A dry run is refused as the
        change would be, and takes no lock. A caller's change keeps policies away from the group for
        a while, unless it raised (repeated refusals would keep them away for good) or the group
        `is_new`. GroupBusy, ShrinkInProgress.
        """
        is_manual = policy is None and not is_new
        with self._changed:
            self._make_way(group, policy, dry_run=dry_run)
            moment = self._manual.get(group.id, -math.inf)
            if not dry_run:
                self._held[group.id] = group
                self._note(group, math.inf, is_manual=is_manual)
        try:
            yield
            moment = time.monotonic()
        finally:
            if not dry_run:
                self._release(group, moment, is_manual=is_manual)

    @contextmanager
    def admit(self, shrink: Occupant, *, dry_run: bool = False) -> Iterator[None]:
        """Let a shrink occupy its group, unless the body raises; leave() ends that.

        The body runs with the mutex of the whole table acquired, so it must be short. A dry run is
        refused as the shrink would be, and occupies nothing. GroupBusy, ShrinkInProgress.
        """
        with self._changed:
            self._make_way(shrink.group, shrink.policy, dry_run=dry_run)
            yield
            if not dry_run:
                self._occupants[shrink.id] = shrink
                self._note(shrink.group, math.inf, is_manual=shrink.policy is None)

    def leave(self, shrink: Occupant) -> None:
        """Release the group of a shrink that admit() let in."""
        with self._changed:
            del self._occupants[shrink.id]
            self._note(shrink.group, time.monotonic(), is_manual=shrink.policy is None)
            self._changed.notify_all()
        if shrink.has_set_limit:
            self._notify(shrink.group)
        self._expire()

    def busy(self) -> set[str]:
        """Return the paths of all locked groups."""
        with self._changed:
            occupied = {shrink.group.path for shrink in self._occupants.values()}
            return occupied | {group.path for group in self._held.values()}

    def has_policy_shrink(self, group: Group) -> bool:
        """Tell whether a caller's change of this group would end a policy's shrink."""
        with self._changed:
            return any(shrink.policy is not None for shrink in self._shrinks_of(group))

    def manual_age(self, group: Group) -> float:
        """Return the seconds since a caller's last change of a group ended.

        0 while one goes on, infinity where none is known.
        """
        return max(time.monotonic() - self._manual.get(group.id, -math.inf), 0.0)

    def _make_way(self, group: Group, policy: str | None, *, dry_run: bool) -> None:
        """Wait until a group is free, with the condition's lock held.

        For a caller a policy's shrink is ended first; a policy does not wait. GroupBusy,
        ShrinkInProgress.
        """
        if policy is None:
            ending = (
                []
                if dry_run
                else [shrink for shrink in self._shrinks_of(group) if shrink.policy is not None]
            )
            for shrink in ending:
                shrink.kill(Interrupted("A caller's own change of this group goes first."))
            self._changed.wait_for(
                lambda: (
                    group.id not in self._held
                    and not any(shrink.id in self._occupants for shrink in ending)
                ),
                _MAKE_WAY_SECONDS,
            )
        if group.id in self._held:
            raise GroupBusy(
                f"The limits of {group.path!a} are being changed: try again.", group=group
            )
        for shrink in self._shrinks_of(group):
            if shrink.policy is None or not dry_run:
                raise ShrinkInProgress(
                    "A shrink of this group is in progress: wait for it, or cancel it.",
                    group=group,
                    shrink_id=shrink.id,
                    state=str(shrink.state),
                )

    def _shrinks_of(self, group: Group) -> list[Occupant]:
        return [shrink for shrink in self._occupants.values() if shrink.group.id == group.id]

    def _note(self, group: Group, moment: float, *, is_manual: bool) -> None:
        if is_manual:
            self._manual[group.id] = moment

    def _release(self, group: Group, moment: float, *, is_manual: bool) -> None:
        with self._changed:
            del self._held[group.id]
            self._note(group, moment, is_manual=is_manual)
            self._changed.notify_all()
        self._notify(group)
        self._expire()

    def _expire(self) -> None:
        """Once an hour, forget the callers' changes that are older than an hour."""
        moment = time.monotonic()
        if moment >= self._expire_at:
            self._expire_at = moment + _EXPIRE_SECONDS
            with self._changed:
                self._manual = {
                    group_id: ended
                    for group_id, ended in self._manual.items()
                    if ended > moment - _EXPIRE_SECONDS
                }
