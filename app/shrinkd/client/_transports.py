"""The I/O, twice: the steps of a flow carried out at once, and with await. Nothing is decided here.

A method marked `one` or `many` is written once, as the flow that it is, and each shell makes its
own of it:

              on a Blocking      on an Awaiting
    one       T                  a coroutine of T
    many      Iterator[T]        AsyncIterator[T]
"""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import httpx

from shrinkd.client._flows import (
    Answer,
    Flow,
    Give,
    Items,
    Listen,
    Lost,
    Outcome,
    Pause,
    Send,
    Step,
    Terms,
)

_P = ParamSpec("_P")
_S = TypeVar("_S")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _End(Generic[_T]):
    answer: _T


def _advanced(flow: Generator[_S, Any, _T], outcome: Outcome = None) -> _S | _End[_T]:
    """The next step of a flow, or its end."""
    try:
        return flow.send(outcome)
    except StopIteration as end:
        return _End(end.value)


class Blocking:
    """A shell that is done when it returns."""

    def __init__(
        self, address: str, http: httpx.Client, terms: Terms, sleep: Callable[[float], None]
    ) -> None:
        self.address, self.http, self.terms, self.sleep = address, http, terms, sleep

    def answered(self, flow: Flow[_T]) -> _T:
        with _Wire(self) as wire:
            step = _advanced(flow)
            while not isinstance(step, _End):
                step = _advanced(flow, wire.carry_out(step))
            return step.answer

    def given(self, flow: Items[_T]) -> Generator[_T, None, None]:
        with _Wire(self) as wire:
            step = _advanced(flow)
            while not isinstance(step, _End):
                if isinstance(step, Give):
                    yield step.item
                step = _advanced(flow, None if isinstance(step, Give) else wire.carry_out(step))


class _Wire(ExitStack):
    """What is open while one flow runs."""

    def __init__(self, shell: Blocking) -> None:
        super().__init__()
        self._shell = shell
        self._parts: Iterator[bytes] = iter(())

    def carry_out(self, step: Step) -> Outcome:
        try:
            return self._carry_out(step)
        except httpx.RequestError as error:
            return _lost(self._shell.address, error)

    def _carry_out(self, step: Step) -> Outcome:
        if isinstance(step, Send):
            response = self._shell.http.send(_request(self._shell.http, step))
            return _answer(response, response.content)
        if isinstance(step, Listen):
            self.close()
            response = self._shell.http.send(_request(self._shell.http, step), stream=True)
            self.callback(response.close)
            self._parts = response.iter_bytes()
            return (
                answer
                if (answer := _answer(response)).is_stream
                else _answer(response, response.read())
            )
        if isinstance(step, Pause):
            self._shell.sleep(step.seconds)
            return None
        return next(self._parts, b"")


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


class Awaiting:
    """A shell that lets others run meanwhile."""

    def __init__(
        self,
        address: str,
        http: httpx.AsyncClient,
        terms: Terms,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.address, self.http, self.terms, self.sleep = address, http, terms, sleep

    async def answered(self, flow: Flow[_T]) -> _T:
        async with _AsyncWire(self) as wire:
            step = _advanced(flow)
            while not isinstance(step, _End):
                step = _advanced(flow, await wire.carry_out(step))
            return step.answer

    async def given(self, flow: Items[_T]) -> AsyncGenerator[_T, None]:
        async with _AsyncWire(self) as wire:
            step = _advanced(flow)
            while not isinstance(step, _End):
                if isinstance(step, Give):
                    yield step.item
                step = _advanced(
                    flow, None if isinstance(step, Give) else await wire.carry_out(step)
                )


class _AsyncWire(AsyncExitStack):
    """As _Wire."""

    def __init__(self, shell: Awaiting) -> None:
        super().__init__()
        self._shell = shell
        self._parts: AsyncIterator[bytes] = _nothing()

    async def carry_out(self, step: Step) -> Outcome:
        try:
            return await self._carry_out(step)
        except httpx.RequestError as error:
            return _lost(self._shell.address, error)

    async def _carry_out(self, step: Step) -> Outcome:
        if isinstance(step, Send):
            response = await self._shell.http.send(_request(self._shell.http, step))
            return _answer(response, response.content)
        if isinstance(step, Listen):
            await self.aclose()
            response = await self._shell.http.send(_request(self._shell.http, step), stream=True)
            self.push_async_callback(response.aclose)
            self._parts = response.aiter_bytes()
            return (
                answer
                if (answer := _answer(response)).is_stream
                else _answer(response, await response.aread())
            )
        if isinstance(step, Pause):
            await self._shell.sleep(step.seconds)
            return None
        return await anext(self._parts, b"")


def _request(http: httpx.Client | httpx.AsyncClient, step: Send | Listen) -> httpx.Request:
    question = step.question
    return http.build_request(
        question.method,
        question.path,
        params={name: value for name, value in question.params.items() if value is not None},
        json=question.body,
        headers=dict(question.header),
        timeout=httpx.Timeout(step.timeout_seconds, read=step.quiet_seconds)
        if isinstance(step, Listen)
        else step.timeout_seconds,
    )


def _answer(response: httpx.Response, content: bytes = b"") -> Answer:
    return Answer(response.status_code, response.headers, content)


def _lost(address: str, error: httpx.RequestError) -> Lost:
    reason = (str(error) or type(error).__name__).rstrip(".")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return Lost(f"Nobody answers at {address}: {reason}.", was_sent=False)
    return Lost(f"{address} did not answer to the end: {reason}.", was_sent=True)


class _One(Generic[_P, _T]):
    def __init__(self, flow: Callable[Concatenate[Any, _P], Flow[_T]]) -> None:
        self._flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, shell: Blocking, owner: object = None) -> Callable[_P, _T]: ...
    @overload
    def __get__(
        self, shell: Awaiting, owner: object = None
    ) -> Callable[_P, Coroutine[Any, Any, _T]]: ...
    @overload
    def __get__(self, shell: None, owner: object = None) -> Self: ...
    def __get__(self, shell: Blocking | Awaiting | None, owner: object = None) -> Any:
        return (
            self
            if shell is None
            else lambda *args, **named: shell.answered(self._flow(shell, *args, **named))
        )


class _Many(Generic[_P, _T]):
    def __init__(self, flow: Callable[Concatenate[Any, _P], Items[_T]]) -> None:
        self._flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(
        self, shell: Blocking, owner: object = None
    ) -> Callable[_P, Generator[_T, None, None]]: ...
    @overload
    def __get__(
        self, shell: Awaiting, owner: object = None
    ) -> Callable[_P, AsyncGenerator[_T, None]]: ...
    @overload
    def __get__(self, shell: None, owner: object = None) -> Self: ...
    def __get__(self, shell: Blocking | Awaiting | None, owner: object = None) -> Any:
        return (
            self
            if shell is None
            else lambda *args, **named: shell.given(self._flow(shell, *args, **named))
        )


def one(flow: Callable[Concatenate[Any, _P], Flow[_T]]) -> _One[_P, _T]:
    """Make a method of both shells from a flow that answers one thing."""
    return _One(flow)


def many(flow: Callable[Concatenate[Any, _P], Items[_T]]) -> _Many[_P, _T]:
    """Make a method of both shells from a flow that gives many."""
    return _Many(flow)
