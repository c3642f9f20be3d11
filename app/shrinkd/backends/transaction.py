"""Several writes as one.

All of them or none, whichever of them is refused and whenever this process dies.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from itertools import accumulate
from typing import TypeVar

from shrinkd.backends.protocol import LimitName, Steps
from shrinkd.errors import ShrinkdError

Name = TypeVar("Name", bound=str)


def limit_steps(
    held: Mapping[Name, int],
    writes: Sequence[tuple[Name, int]],
    named: Callable[[Mapping[Name, int]], Mapping[LimitName, int | None]],
) -> Steps:
    """Answer what the limits that change are before the writes and behind each of them.

    The others are left to others.
    """
    steps = list(
        map(
            named,
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
    """Commit the writes in their order.

    When one raises, those before it get back what was held, the last one first.

    An intent that is still written down at the end would undo the change later, at a start of the
    daemon. So it is settled while everything can still be put back, and a refusal here is one like
    any other.
    """
    with intent as settle, ExitStack() as undo:
        for name, value in writes:
            commit(name, value)
            undo.callback(_restore, commit, name, held[name])
        settle()
        undo.pop_all()


def _restore(commit: Callable[[Name, int], None], name: Name, value: int) -> None:
    """What was refused is the answer.

    A group that grew above its old limit meanwhile keeps the new one.
    """
    with suppress(ShrinkdError):
        commit(name, value)
