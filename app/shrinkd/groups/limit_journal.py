"""Record each change of limits before it is made, so that a start can settle one cut short.

The row is committed before the first write and deleted after the last check, so a row that a start
finds is of a change that the daemon died in. A row that outlives its change would be dangerous: its
steps may one day be limits that a caller has set. So a change whose row cannot be deleted is undone
(the backend puts the limits back, the client gets 503), and a row that was left is deleted or
replaced before the next change of its group, or that one is refused.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from shrinkd.backends import PROTECTIONS, Backend, Group, LimitName, Steps
from shrinkd.errors import Busy, GroupGone, GroupNotFound, ShrinkdError, StoreUnavailable
from shrinkd.sizes import UNLIMITED
from shrinkd.storage import LimitIntentRepository, LimitIntentRow, now

log = logging.getLogger(__name__)


class LimitJournal:
    """The journal of one daemon, to be given to backends as an Intent.

    The caller makes one change of a group at a time.
    """

    def __init__(self, backend: Backend, repository: LimitIntentRepository) -> None:
        self._backend = backend
        self._repository = repository
        self._boot_id = backend.node().boot_id
        self._recorded: set[int] = set()
        """The ids of groups whose row is, or may be, in the database."""

    @contextmanager
    def __call__(self, group: Group, steps: Steps) -> Iterator[Callable[[], None]]:
        """Record a change around its steps; see Intent.

        StoreUnavailable before any limit is written, or from the function that it yields.
        """
        if steps:
            self._recorded.add(group.id)  # a commit may succeed and lose its answer
            row = LimitIntentRow(self._boot_id, group.id, group.path, list(steps), now())
            self._repository.record(row)
        else:
            self._delete(group)
        try:
            yield lambda: self._delete(group)
        finally:
            with suppress(StoreUnavailable):  # the next change of the group tries again
                self._delete(group)

    def settle(self) -> None:
        """Undo or complete the changes that a daemon died in; call it before the first response.

        Changes whose limits cannot be written now are left to the next start.
        """
        for row in self._repository.list(self._boot_id):
            group = Group(row.path, row.group_id)
            self._recorded.add(group.id)
            try:
                outcome = self._settle(group, row.steps)
            except (GroupGone, GroupNotFound):
                outcome = "the group is gone"
            except ShrinkdError as error:
                log.warning(
                    "the daemon died in a change of the limits of %a, and the next start has to "
                    "settle it: %s",
                    group.path,
                    error,
                )
                continue
            self._delete(group)
            log.warning("the daemon died in a change of the limits of %a: %s", group.path, outcome)

    def _settle(self, group: Group, steps: Steps) -> str:
        stat, steps = self._backend.stat(group), [_upgraded(step) for step in steps]
        held = {name: getattr(stat.limits, name) for name in steps[0]}
        if held not in steps:
            return f"they are {held} by another hand, and stay so"
        reached, maximum = steps.index(held), stat.limits.max_bytes
        if reached == len(steps) - 1 and (maximum is None or stat.usage_bytes <= maximum):
            return "it had taken effect"
        try:
            self._walk(group, steps[:reached][::-1])
        except Busy:
            self._walk(group, steps[reached:])
            return "the group has grown since, so it was made whole"
        return f"they are {dict(steps[0])}, as before it"

    def _walk(self, group: Group, steps: Steps) -> None:
        """Write the limits of each step.

        A daemon that dies here leaves the limits of one step, and the same row for the next start.
        """
        for step in steps:
            self._backend.set_limits(group, step)

    def _delete(self, group: Group) -> None:
        if group.id in self._recorded:
            self._repository.delete(self._boot_id, group.id)
            self._recorded.discard(group.id)


def _upgraded(step: Mapping[LimitName, int | None]) -> dict[LimitName, int | None]:
    """Turn a step of an older row into one of this version.

    Until 0.2.0 an infinite protection was None. Remove this when no such row can be left.
    """
    return {
        name: UNLIMITED if value is None and name in PROTECTIONS else value
        for name, value in step.items()
    }
