"""Endless answers: how many may be open, and what many of them listen to, made once for all.

A feed holds the newest thing that was told and how many there were, so who is slow misses some and
knows how many; nobody has a queue that could grow. All of it lives on the event loop's thread.
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

Told = TypeVar("Told")


class Bell:
    """Wakes all who wait for it, and nobody who comes later."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event.clear()

    async def wait(self) -> None:
        await self._event.wait()


class Feed(Generic[Told]):
    """What its listeners hear: told by one task, which runs while somebody listens."""

    def __init__(self) -> None:
        self._newest: Told | None = None
        self._count = 0
        self._has_ended = False
        self._error: ShrinkdError | None = None
        self._bell = Bell()

    def tell(self, newest: Told) -> None:
        self._newest = newest
        self._count += 1
        self._bell.ring()

    def end(self, error: ShrinkdError | None = None) -> None:
        """Let the listeners go when they have heard the last.

        The error is raised to each of them.
        """
        self._error, self._has_ended = error, True
        self._bell.ring()

    async def hear(self) -> AsyncGenerator[tuple[Told, int]]:
        """The newest thing, then each as it comes, with how many were missed before it.

        Until there is no more to come.
        """
        heard = 0
        while True:
            if self._newest is not None and self._count > heard:
                missed, heard = (self._count - heard - 1 if heard else 0), self._count
                yield self._newest, missed
            elif self._has_ended:
                break
            else:
                await self._bell.wait()
        if self._error is not None:
            raise self._error


@dataclass(slots=True)
class _Shared:
    feed: Feed[Any]
    task: asyncio.Task[None]
    listeners: int = 0


class StreamHub:
    """The streams that are open in one daemon."""

    def __init__(self, most: int = MOST_STREAMS, most_of_a_caller: int = MOST_OF_A_CALLER) -> None:
        self._most, self._most_of_a_caller = most, most_of_a_caller
        self._open: Counter[str] = Counter()
        self._shared: dict[Hashable, _Shared] = {}
        self.news = Bell()
        """Rung when there are more events to read."""

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
            self._open += Counter()  # who has none open leaves no trace

    @asynccontextmanager
    async def listening(
        self, key: Hashable, tell: Callable[[Feed[Told]], Awaitable[None]]
    ) -> AsyncIterator[Feed[Told]]:
        """The feed of a key, which `tell` fills as long as anybody listens to it."""
        shared = self._shared.get(key)
        if shared is None:
            feed: Feed[Told] = Feed()
            shared = self._shared[key] = _Shared(feed, asyncio.create_task(_run(feed, tell)))
        shared.listeners += 1
        try:
            yield shared.feed
        finally:
            shared.listeners -= 1
            if not shared.listeners:
                del self._shared[key]
                shared.task.cancel()


async def _run(feed: Feed[Told], tell: Callable[[Feed[Told]], Awaitable[None]]) -> None:
    error = None
    try:
        await tell(feed)
    except ShrinkdError as raised:
        error = raised
    finally:
        feed.end(error)
