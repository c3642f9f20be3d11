"""Combine the triggers of a group in one epoll descriptor.

The wake-up is not the result. A PSI trigger forgets its event when its descriptor is polled, and a
loop that polls this epoll does so; v1 signals every eventfd when a group is removed. So each source
keeps its last value, and read() compares all of them.
"""

import os
import select
import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from typing import ClassVar, Protocol, Self

from shrinkd.backends.protocol import Backend, Watch
from shrinkd.backends.readings import Group
from shrinkd.backends.trigger_types import Trigger
from shrinkd.errors import GroupGone, GroupNotFound, Unsupported, map_oserror


class Source(Protocol):
    """Wake for one trigger, and report whether it really fired."""

    mask: ClassVar[int]
    """The epoll event mask."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def arm(self) -> None:
        """Start watching: later events fire."""

    def has_fired(self) -> bool:
        """Return whether it fired since the last call, and rearm it.

        Never blocks. GroupGone if it can never fire again.
        """

    def close(self) -> None:
        """Close the descriptor."""


class EventfdSource:
    """Wake through an eventfd that a kernel or a simulator writes."""

    mask: ClassVar[int] = select.EPOLLIN

    def __init__(self) -> None:
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._eventfd

    def has_fired(self) -> bool:
        with suppress(BlockingIOError):
            return os.eventfd_read(self._eventfd) > 0
        return False

    def close(self) -> None:
        os.close(self._eventfd)


class _EpollWatch:
    """Implement Watch; it has no sources after close() or after its group was removed."""

    def __init__(self, check_exists: Callable[[], object]) -> None:
        self._check_exists = check_exists
        self._lock = threading.Lock()
        self._sources: dict[Trigger, Source] = {}
        self._gone_detail = ""
        self._epoll = select.epoll()

    def add(self, trigger: Trigger, source: Source) -> None:
        self._sources[trigger] = source
        source.arm()
        self._epoll.register(source.fileno(), source.mask)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def read(self) -> frozenset[Trigger]:
        with self._lock:
            if self._gone_detail:
                raise GroupGone(self._gone_detail)
            if self._epoll.closed:
                return frozenset()
            try:
                fired = frozenset(
                    [trigger for trigger, source in self._sources.items() if source.has_fired()]
                )
                # after the sources, since v1 removes a group before it signals
                self._check_exists()
            except GroupGone as gone:
                self._gone_detail = gone.detail
                self._close_sources()
                raise
            return fired

    def close(self) -> None:
        with self._lock:
            self._close_sources()
            self._epoll.close()

    def _close_sources(self) -> None:
        while self._sources:
            self._sources.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_watch(
    backend: Backend,
    group: Group,
    triggers: Collection[Trigger],
    source_of: Callable[[Group, Trigger], Source],
) -> Watch:
    """Open the watch of a backend; `source_of` makes the source of each watchable trigger."""
    for trigger in triggers:
        if type(trigger) not in backend.watchable:
            raise Unsupported(
                f"This kernel has nothing that wakes for {type(trigger).__name__}: read the group "
                "now and then.",
                group=group,
            )
    backend.usage(group)
    with ExitStack() as undo:
        try:
            watch = undo.enter_context(_EpollWatch(lambda: backend.usage(group)))
            for trigger in dict.fromkeys(triggers):
                watch.add(trigger, source_of(group, trigger))
        except OSError as error:
            raise map_oserror(error, group.path) from error
        # The file is missing: the next line raises if the group is.
        except (GroupGone, GroupNotFound) as error:
            backend.usage(group)
            sentence = (
                f"{group.path or '/'!a} has no file that wakes for "
                f"{type(trigger).__name__}: read it now and then."
            )
            raise Unsupported(sentence, group=group) from error
        undo.pop_all()
    return watch
