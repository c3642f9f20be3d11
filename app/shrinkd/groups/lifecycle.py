"""Make and remove groups, and move processes into them: the use cases behind the groups' routes."""

import logging
from contextlib import ExitStack, suppress

from shrinkd.backends import LIMIT_NAMES, Backend, Group, Limits, limits_to_json
from shrinkd.errors import (
    GroupGone,
    GroupNotFound,
    GroupNotManaged,
    ProcessNotFound,
    ShrinkdError,
    StoreUnavailable,
)
from shrinkd.events import EventType
from shrinkd.groups.limits import Changes, GroupLimits, Precondition
from shrinkd.groups.names import covers
from shrinkd.storage import MadeGroupRepository, now

log = logging.getLogger(__name__)


def check_in_subtrees(subtrees: tuple[str, ...], group: Group) -> Group:
    """Return the group if SHRINKD_SUBTREES lets this daemon change it, else GroupNotFound."""
    if not covers(subtrees, group.path):
        raise GroupNotFound(
            f"{group.path!a} is outside the subtrees that this daemon may change "
            f"({', '.join(subtrees)})."
        )
    return group


class GroupLifecycle:
    """Makes and removes groups and moves processes. Thread-safe.

    `subtrees` are the globs of the groups that this daemon may change; none means all.
    """

    def __init__(
        self,
        backend: Backend,
        repository: MadeGroupRepository,
        limits: GroupLimits,
        subtrees: tuple[str, ...] = (),
    ) -> None:
        self._backend, self._repository, self._limits = backend, repository, limits
        self._subtrees = subtrees
        self._boot_id = backend.node().boot_id
        self.made: set[int] = repository.list_ids(self._boot_id)
        """Ids of the groups that were made through this API in this boot."""

    def make_group(
        self, path: str, changes: Changes, *, dry_run: bool = False
    ) -> tuple[Group, Limits]:
        """Make a group with limits: in the kernel, then in the database; all of it, or nothing.

        Returns its limits as read back. A dry run checks the limits against an empty group.
        GroupExists, GroupNotFound, LimitBelowUsage, LimitOrder, UnsupportedLimit, StoreUnavailable.
        """
        check_in_subtrees(self._subtrees, Group(path, 0))
        lacking = set(LIMIT_NAMES) - self._backend.settable_limits
        wanted = self._limits.supported(changes, lacking)
        group = self._backend.make(path, dry_run=dry_run)
        if dry_run:
            return group, self._limits.change_limits(group, wanted, dry_run=True)
        with ExitStack() as undo:
            undo.callback(self._unmake, group)
            limits = self._limits.set_first_limits(group, wanted)
            self._repository.record(self._boot_id, group.id, path, now())
            undo.pop_all()
        self.made.add(group.id)
        self._limits.publish(EventType.GROUP_MADE, group, **limits_to_json(limits, wanted))
        return group, limits

    def remove_group(
        self, group: Group, *, precondition: Precondition | None = None, dry_run: bool = False
    ) -> None:
        """Remove an empty group that was made through this API.

        First from the kernel, then from the database: a row without a group does no harm, since ids
        are not used twice. GroupNotManaged, GroupNotEmpty, GroupBusy, ShrinkInProgress, and what
        `precondition` raises.
        """
        with self._limits.locks.hold(group, dry_run=dry_run):
            if precondition:
                precondition(self._backend.stat(group).limits)
            if group.id not in self.made:
                raise GroupNotManaged(
                    f"{group.path!a} was not made through this API, so it is not removed through "
                    "it.",
                    group=group,
                )
            self._backend.remove(group, dry_run=dry_run)
            if not dry_run:
                self.made.discard(group.id)
                with suppress(StoreUnavailable):
                    self._repository.delete(self._boot_id, group.id)
                self._limits.publish(EventType.GROUP_REMOVED, group)

    def attach_process(self, group: Group, pid: int, *, dry_run: bool = False) -> None:
        """Move a process into a group.

        ProcessNotFound for a process that is in no group that this daemon may change.
        """
        try:
            check_in_subtrees(self._subtrees, self._backend.group_of(pid))
        except GroupNotFound as outside:
            raise ProcessNotFound(
                f"The process {pid} cannot be moved. {outside.detail}", pid=pid
            ) from outside
        self._backend.attach(group, pid, dry_run=dry_run)
        if not dry_run:
            self._limits.publish(EventType.PROCESS_ADDED, group, pid=pid)

    def _unmake(self, group: Group) -> None:
        """Remove a group whose set-up failed; its error is what the caller gets.

        A group that got processes meanwhile stays, and the log says so.
        """
        try:
            self._backend.remove(group)
        except (GroupGone, GroupNotFound):
            return
        except ShrinkdError as error:
            log.warning(
                "the group %a was made, could not be set up, and was not removed again: %s",
                group.path,
                error,
            )
