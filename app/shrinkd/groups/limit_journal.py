"""What makes a change of limits safe against the death of the daemon.

A row around it, and a settling of the row that was left.

The row is committed before the first write and deleted behind the last check, so a row that a start
finds is of a change that the daemon died in. A row that outlives its change would be dangerous: its
steps may one day be the limits of somebody who wants them. So a change whose row cannot be deleted
does not stand (the backend puts it back, the client hears 503), and a row that was left is deleted
or replaced before the next change of its group, or that one is refused.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from shrinkd.backends import PROTECTIONS, Backend, Group, LimitName, Steps
from shrinkd.errors import Busy, GroupGone, GroupNotFound, ShrinkdError, StoreUnavailable
from shrinkd.sizes import UNLIMITED
from shrinkd.storage import Store, now

log = logging.getLogger(__name__)


class LimitJournal:
    """The changes of one daemon, as an Intent of the backends.

    One at a time for each group, which Jobs sees to.
    """

    def __init__(self, backend: Backend, store: Store) -> None:
        self._backend = backend
        self._store = store
        self._boot_id = backend.node().boot_id
        self._left: set[int] = set()
        """The groups whose row is, or may be, in the database."""

    @contextmanager
    def __call__(self, group: Group, steps: Steps) -> Iterator[Callable[[], None]]:
        """See Intent. StoreUnavailable before anything is written, or from what it yields."""
        if steps:
            self._left.add(group.id)  # a commit may succeed and lose its answer
            row = {
                "boot_id": self._boot_id,
                "group_id": group.id,
                "path": group.path,
                "steps": list(steps),
            }
            self._store.add_intent(row | {"created_at": now()})
        else:
            self._forget(group)
        try:
            yield lambda: self._forget(group)
        finally:
            with suppress(StoreUnavailable):  # the next change will have to
                self._forget(group)

    def settle(self) -> None:
        """Finish what a daemon that died left half made.

        Before the first answer. What cannot be written now waits for the next start.
        """
        for row in self._store.list_intents(self._boot_id):
            group = Group(row["path"], row["group_id"])
            self._left.add(group.id)
            try:
                outcome = self._settle(group, row["steps"])
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
            self._forget(group)
            log.warning("the daemon died in a change of the limits of %a: %s", group.path, outcome)

    def _settle(self, group: Group, steps: Steps) -> str:
        stat, steps = self._backend.stat(group), [_as_now(step) for step in steps]
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
        """Go the steps one by one.

        Dying in between leaves one of them again, and so the same row for the next start.
        """
        for step in steps:
            self._backend.set_limits(group, step)

    def _forget(self, group: Group) -> None:
        if group.id in self._left:
            self._store.forget_intent(self._boot_id, group.id)
            self._left.discard(group.id)


def _as_now(step: Mapping[LimitName, int | None]) -> dict[LimitName, int | None]:
    """A step as this version writes it.

    Until 0.2.0 a protection that was infinite was None. Can go when no such row can be left.
    """
    return {
        name: UNLIMITED if value is None and name in PROTECTIONS else value
        for name, value in step.items()
    }
