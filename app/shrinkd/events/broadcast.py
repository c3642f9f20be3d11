"""Share live data between many open streams, and bound the number of streams.

A feed keeps only the newest item and a count, so a slow subscriber misses items and learns how
many; there is no queue that could grow. Everything here runs on the event loop's thread.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from shrinkd.errors import ShrinkdError, TooManyStreams

MOST_STREAMS = 1024
MOST_OF_A_CALLER = 512

T = TypeVar("T")


class Notification:
    """Wakes the coroutines that wait at this moment; later ones wait for the next time."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all that wait now."""
        self._event.set()
        self._event.clear()

    async def wait(self) -> None:
        """Wait for the next notify()."""
        await self._event.wait()


class Feed(Generic[T]):
    """The newest item of one source, for all its subscribers."""

    def __init__(self) -> None:
        self._newest: T | None = None
        self._count = 0
        self._has_ended = False
        self._error: ShrinkdError | None = None
        self._changed = Notification()

    def publish(self, newest: T) -> None:
        """Replace the newest item."""
        self._newest = newest
        self._count += 1
        self._changed.notify()

    def end(self, error: ShrinkdError | None = None) -> None:
        """End the subscriptions after the newest item; an error is raised in each of them."""
        self._error, self._has_ended = error, True
        self._changed.notify()

    async def subscribe(self) -> AsyncGenerator[tuple[T, int]]:
        """Yield the newest item, then each new one until end(), with the number missed before."""
        position = 0
        while True:
            if self._newest is not None and self._count > position:
                missed = self._count - position - 1 if position else 0
                position = self._count
                yield self._newest, missed
            elif self._has_ended:
                break
            else:
                await self._changed.wait()
        if self._error is not None:
            raise self._error


@dataclass(slots=True)
class _Shared:
    feed: Feed[Any]
    task: asyncio.Task[None]
    subscribers: int = 0


class StreamHub:
    """The open streams of one daemon."""

    def __init__(self, most: int = MOST_STREAMS, most_of_a_caller: int = MOST_OF_A_CALLER) -> None:
        self._most, self._most_of_a_caller = most, most_of_a_caller
        self._open: Counter[str] = Counter()
        self._shared: dict[Hashable, _Shared] = {}
        self.new_events = Notification()
        """Notified when there are more events to read."""

    @contextmanager
    def admitted(self, caller: str) -> Iterator[None]:
        """Count a stream of a caller while it is open. TooManyStreams."""
        count, of_caller = self._open.total(), self._open[caller]
        if count >= self._most or of_caller >= self._most_of_a_caller:
            raise TooManyStreams(
                f"{count} streams are open, {of_caller} of them yours: at most {self._most} may "
                f"be, and {self._most_of_a_caller} of one.",
                open=count,
                yours=of_caller,
                most=self._most,
                most_of_a_caller=self._most_of_a_caller,
            )
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            self._open += Counter()  # drops the callers with no open stream

    @asynccontextmanager
    async def subscribed(
        self, key: Hashable, produce: Callable[[Feed[T]], Awaitable[None]]
    ) -> AsyncIterator[Feed[T]]:
        """Open the feed of a key; one task runs `produce` for it while it has a subscriber."""
        shared = self._shared.get(key)
        if shared is None:
            feed: Feed[T] = Feed()
            shared = self._shared[key] = _Shared(feed, asyncio.create_task(_run(feed, produce)))
        shared.subscribers += 1
        try:
            yield shared.feed
        finally:
            shared.subscribers -= 1
            if not shared.subscribers:
                del self._shared[key]
                shared.task.cancel()


async def _run(feed: Feed[T], produce: Callable[[Feed[T]], Awaitable[None]]) -> None:
    error = None
    try:
        await produce(feed)
    except ShrinkdError as raised:
        error = raised
    finally:
        feed.end(error)
