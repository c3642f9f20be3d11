"""A shrink that is under way, to be waited for, watched or cancelled.

And the handles that hold one.
"""

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Self, overload

from shrinkd.client._flows import (
    Flow,
    Give,
    Items,
    Outcome,
    Pause,
    Question,
    Terms,
    ask,
    ask_json,
    parsed,
    posted,
)
from shrinkd.client._sse import EventSteps, ServerEvent, listen
from shrinkd.client._transports import Awaiting, Blocking, many, one
from shrinkd.client.errors import NotUnderstood, ShrinkFailed, TooLate
from shrinkd.client.types import Shrink

_P = ParamSpec("_P")
_LONGEST_WAIT_SECONDS = 60
_POLL_SECONDS = 1


class Shrinking:
    """What can be done with a shrink that was started; `now` is how it was when last heard of."""

    terms: Terms
    now: Shrink

    @one
    def wait(self, within_seconds: float | None = None) -> Flow[Shrink]:
        """Wait until it has succeeded.

        Raises ShrinkFailed when it ends in another way, and TooLate when it is not done in time.

        Lives through a restart of the daemon, which leaves a shrink `interrupted`; a limit in time
        ends the waiting, not the shrink.
        """
        ends = None if within_seconds is None else self.terms.clock() + within_seconds
        while not self.now["done"]:
            left = _LONGEST_WAIT_SECONDS if ends is None else ends - self.terms.clock()
            if left <= 0:
                raise TooLate(
                    f"The shrink {self.now['id']} is {self.now['state']} still; it goes on."
                )
            yield from _look(self, min(left, _LONGEST_WAIT_SECONDS))
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
        """Give it as it is, whenever that changes, until it is done.

        How it ended is for the caller to see, or for wait() to raise.

        By its stream of events, taken up again where that breaks off; where somebody on the way
        lets no stream through, by asking.
        """
        try:
            yield from _stepwise(
                self, listen(self.terms, Question("GET", self.now["links"]["events"]))
            )
        except NotUnderstood:
            yield from _asking(self)

    @one
    def cancel(self) -> Flow[Shrink]:
        """Ask it to stop.

        What was reclaimed stays reclaimed. Answers without waiting for the end: `state` may be
        `cancelling`.
        """
        self.now = yield from ask_json(self.terms, posted(self.now["links"]["cancel"]))
        return self.now


def _look(shrinking: Shrinking, wait_seconds: float) -> Flow[None]:
    """Ask how it is, when it is done or after a while."""
    header = {"Prefer": f"wait={max(round(wait_seconds), 1)}"}
    question = Question(
        "GET", shrinking.now["links"]["self"], header=header, holds_seconds=wait_seconds
    )
    answer = yield from ask(shrinking.terms.patient(), question)
    shrinking.now = parsed(question, answer)
    if not shrinking.now["done"] and "preference-applied" not in answer.header:
        yield Pause(_POLL_SECONDS)


def _asking(shrinking: Shrinking) -> Items[Shrink]:
    while True:
        yield Give(shrinking.now)
        if shrinking.now["done"]:
            return
        yield from _look(shrinking, _POLL_SECONDS)


def _stepwise(shrinking: Shrinking, listening: EventSteps) -> Items[Shrink]:
    """Make a shrink of every event.

    The stream begins with its state, also when it is taken up again.
    """
    outcome: Outcome = None
    while True:
        step = listening.send(outcome)
        outcome = None
        if not isinstance(step, ServerEvent):
            outcome = yield step
            continue
        shrinking.now = _heard(shrinking.now, step)
        yield Give(shrinking.now)
        if shrinking.now["done"]:
            return


def _heard(shrink: Shrink, event: ServerEvent) -> Shrink:
    said = json.loads(event.text)
    if event.type == "progress":
        return {**shrink, "progress": said}
    state: Shrink = said
    return state


class ShrinkHandle(Shrinking, Blocking):
    """A shrink that was started by a Client. Iterate over it for its progress."""

    def __init__(self, shell: Blocking, now: Shrink) -> None:
        super().__init__(shell.address, shell.http, shell.terms, shell.sleep)
        self.now = now

    def __iter__(self) -> Iterator[Shrink]:
        return self.progress()


class AsyncShrinkHandle(Shrinking, Awaiting):
    """A shrink that was started by an AsyncClient. Iterate over it for its progress."""

    def __init__(self, shell: Awaiting, now: Shrink) -> None:
        super().__init__(shell.address, shell.http, shell.terms, shell.sleep)
        self.now = now

    def __aiter__(self) -> AsyncIterator[Shrink]:
        return self.progress()


class _Started(Generic[_P]):
    def __init__(self, flow: Callable[Concatenate[Any, _P], Flow[Shrink]]) -> None:
        self._flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, shell: Blocking, owner: object = None) -> Callable[_P, ShrinkHandle]: ...
    @overload
    def __get__(
        self, shell: Awaiting, owner: object = None
    ) -> Callable[_P, Coroutine[Any, Any, AsyncShrinkHandle]]: ...
    @overload
    def __get__(self, shell: None, owner: object = None) -> Self: ...
    def __get__(self, shell: Blocking | Awaiting | None, owner: object = None) -> Any:
        if shell is None:
            return self
        if isinstance(shell, Blocking):
            return lambda *args, **named: ShrinkHandle(
                shell, shell.answered(self._flow(shell, *args, **named))
            )

        async def start(*args: Any, **named: Any) -> AsyncShrinkHandle:
            return AsyncShrinkHandle(shell, await shell.answered(self._flow(shell, *args, **named)))

        return start


def started(flow: Callable[Concatenate[Any, _P], Flow[Shrink]]) -> _Started[_P]:
    """Make a method of both shells from a flow that answers a shrink.

    The method answers a handle of it.
    """
    return _Started(flow)
