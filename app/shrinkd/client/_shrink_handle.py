"""Handles of shrinks: wait for a shrink, iterate over its progress, or cancel it."""

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Self, overload

from shrinkd.client._flows import (
    Flow,
    Item,
    Items,
    Outcome,
    Pause,
    Request,
    Terms,
    fetch,
    fetch_json,
    parsed,
    post,
)
from shrinkd.client._sse import EventSteps, ServerEvent, listen
from shrinkd.client._transports import AsyncRunner, BlockingRunner, many, one
from shrinkd.client.errors import NotUnderstood, ShrinkFailed, TooLate
from shrinkd.client.types import Shrink

_P = ParamSpec("_P")
_LONGEST_WAIT_SECONDS = 60
_POLL_SECONDS = 1


class Shrinking:
    """The methods of a handle; `now` is the last known state of its shrink."""

    terms: Terms
    now: Shrink

    @one
    def wait(self, within_seconds: float | None = None) -> Flow[Shrink]:
        """Wait until the shrink has succeeded, and return it.

        ShrinkFailed if it ends in another way; TooLate if it has not ended within `within_seconds`,
        which does not cancel it. A restart of the daemon is waited for, and leaves the shrink
        `interrupted`.
        """
        ends = None if within_seconds is None else self.terms.clock() + within_seconds
        while not self.now["done"]:
            left = _LONGEST_WAIT_SECONDS if ends is None else ends - self.terms.clock()
            if left <= 0:
                raise TooLate(
                    f"The shrink {self.now['id']} is {self.now['state']} still; it goes on."
                )
            yield from _refresh(self, min(left, _LONGEST_WAIT_SECONDS))
        if self.now["state"] != "succeeded":
            raise ShrinkFailed(
                self.now["error"]
                or {
                    "type": f"/problems/shrink-{self.now['state']}",
                    "status": 409,
                    "title": f"The shrink was {self.now['state']}.",
                }
            )
        return self.now

    @many
    def progress(self) -> Items[Shrink]:
        """Give the shrink whenever it changes, until it is done. It raises nothing if it failed.

        It reads the stream of the shrink's events, or polls where a proxy lets no stream through.
        """
        try:
            yield from _streamed(
                self, listen(self.terms, Request("GET", self.now["links"]["events"]))
            )
        except NotUnderstood:
            yield from _polled(self)

    @one
    def cancel(self) -> Flow[Shrink]:
        """Cancel the shrink; what was reclaimed stays reclaimed.

        It does not wait for the end: `state` may be `cancelling`.
        """
        self.now = yield from fetch_json(self.terms, post(self.now["links"]["cancel"]))
        return self.now


def _refresh(shrinking: Shrinking, wait_seconds: float) -> Flow[None]:
    """Read the shrink when it is done, or after `wait_seconds`."""
    header = {"Prefer": f"wait={max(round(wait_seconds), 1)}"}
    request = Request(
        "GET", shrinking.now["links"]["self"], header=header, wait_seconds=wait_seconds
    )
    answer = yield from fetch(shrinking.terms.patient(), request)
    shrinking.now = parsed(request, answer)
    if not shrinking.now["done"] and "preference-applied" not in answer.header:
        yield Pause(_POLL_SECONDS)


def _polled(shrinking: Shrinking) -> Items[Shrink]:
    while True:
        yield Item(shrinking.now)
        if shrinking.now["done"]:
            return
        yield from _refresh(shrinking, _POLL_SECONDS)


def _streamed(shrinking: Shrinking, events: EventSteps) -> Items[Shrink]:
    """Give the shrink after each event; the first of each stream is its state."""
    outcome: Outcome = None
    while True:
        step = events.send(outcome)
        outcome = None
        if not isinstance(step, ServerEvent):
            outcome = yield step
            continue
        shrinking.now = _updated(shrinking.now, step)
        yield Item(shrinking.now)
        if shrinking.now["done"]:
            return


def _updated(shrink: Shrink, event: ServerEvent) -> Shrink:
    """Return the shrink after an event: `progress` has that member alone, `state` all of it."""
    data: Any = json.loads(event.text)
    updated: Shrink = {**shrink, "progress": data} if event.type == "progress" else data
    return updated


class ShrinkHandle(Shrinking, BlockingRunner):
    """The handle of a shrink, from a Client. Iterate over it for its progress."""

    def __init__(self, runner: BlockingRunner, now: Shrink) -> None:
        super().__init__(runner.address, runner.http, runner.terms, runner.sleep)
        self.now = now

    def __iter__(self) -> Iterator[Shrink]:
        return self.progress()


class AsyncShrinkHandle(Shrinking, AsyncRunner):
    """The handle of a shrink, from an AsyncClient. Iterate over it for its progress."""

    def __init__(self, runner: AsyncRunner, now: Shrink) -> None:
        super().__init__(runner.address, runner.http, runner.terms, runner.sleep)
        self.now = now

    def __aiter__(self) -> AsyncIterator[Shrink]:
        return self.progress()


class _Started(Generic[_P]):
    def __init__(self, flow: Callable[Concatenate[Any, _P], Flow[Shrink]]) -> None:
        self._flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(
        self, runner: BlockingRunner, owner: object = None
    ) -> Callable[_P, ShrinkHandle]: ...
    @overload
    def __get__(
        self, runner: AsyncRunner, owner: object = None
    ) -> Callable[_P, Coroutine[Any, Any, AsyncShrinkHandle]]: ...
    @overload
    def __get__(self, runner: None, owner: object = None) -> Self: ...
    def __get__(self, runner: BlockingRunner | AsyncRunner | None, owner: object = None) -> Any:
        if runner is None:
            return self
        if isinstance(runner, BlockingRunner):
            return lambda *args, **named: ShrinkHandle(
                runner, runner.run(self._flow(runner, *args, **named))
            )

        async def start(*args: Any, **named: Any) -> AsyncShrinkHandle:
            return AsyncShrinkHandle(runner, await runner.run(self._flow(runner, *args, **named)))

        return start


def started(flow: Callable[Concatenate[Any, _P], Flow[Shrink]]) -> _Started[_P]:
    """Make a method of both clients that returns a handle, from a flow that returns a shrink."""
    return _Started(flow)
