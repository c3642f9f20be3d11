"""Commit several limit writes as one: all or none, also when one is refused or the process dies."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from itertools import accumulate
from typing import TypeVar

from shrinkd.backends.protocol import Steps
from shrinkd.backends.readings import LimitName
from shrinkd.errors import ShrinkdError

Name = TypeVar("Name", bound=str)


def limit_steps(
    held: Mapping[Name, int],
    writes: Sequence[tuple[Name, int]],
    to_limits: Callable[[Mapping[Name, int]], Mapping[LimitName, int | None]],
) -> Steps:
    """Return the values of the changing limits before the writes and after each of them."""
    steps = list(
        map(
            to_limits,
            accumulate(writes, lambda values, write: {**values, write[0]: write[1]}, initial=held),
        )
    )
    changing = [name for name in steps[0] if any(step[name] != steps[0][name] for step in steps)]
    return [{name: step[name] for name in changing} for step in steps]


def write_all(
    held: Mapping[Name, int],
    writes: Sequence[tuple[Name, int]],
    commit: Callable[[Name, int], None],
    intent: AbstractContextManager[Callable[[], None]],
) -> None:
    """Commit the writes in order; if one raises, undo the earlier ones, the last first.

    A journal entry that remained would undo the change at the next start of the daemon. So it is
    settled while everything can still be undone, and a refusal there is handled like any other.
    """
    with intent as settle, ExitStack() as undo:
        for name, value in writes:
            commit(name, value)
            undo.callback(_restore, commit, name, held[name])
        settle()
        undo.pop_all()


def _restore(commit: Callable[[Name, int], None], name: Name, value: int) -> None:
    """Write the old value again; a group that outgrew it meanwhile keeps the new one.

    The caller reports the refusal, not a failure of the undo.
    """
    with suppress(ShrinkdError):
        commit(name, value)
