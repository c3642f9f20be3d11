"""The I/O of the client: the steps of a flow carried out, blocking and with await.

A method marked `one` or `many` is written once, as a flow. It becomes:

              on BlockingRunner  on AsyncRunner
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
    Item,
    Items,
    NoAnswer,
    OpenStream,
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


def _advance(flow: Generator[_S, Any, _T], outcome: Outcome = None) -> _S | _End[_T]:
    """Return the next step of a flow, or its end."""
    try:
        return flow.send(outcome)
    except StopIteration as end:
        return _End(end.value)


class BlockingRunner:
    """Run flows, blocking."""

    def __init__(
        self, address: str, http: httpx.Client, terms: Terms, sleep: Callable[[float], None]
    ) -> None:
        self.address, self.http, self.terms, self.sleep = address, http, terms, sleep

    def run(self, flow: Flow[_T]) -> _T:
        with _BlockingSteps(self) as steps:
            step = _advance(flow)
            while not isinstance(step, _End):
                step = _advance(flow, steps.carry_out(step))
            return step.answer

    def iterate(self, flow: Items[_T]) -> Generator[_T, None, None]:
        with _BlockingSteps(self) as steps:
            step = _advance(flow)
            while not isinstance(step, _End):
                if isinstance(step, Item):
                    yield step.item
                step = _advance(flow, None if isinstance(step, Item) else steps.carry_out(step))


class _BlockingSteps(ExitStack):
    """Carry out the steps of one flow, and close at its end the stream that it opened."""

    def __init__(self, runner: BlockingRunner) -> None:
        super().__init__()
        self._runner = runner
        self._parts: Iterator[bytes] = iter(())

    def carry_out(self, step: Step) -> Outcome:
        try:
            return self._carry_out(step)
        except httpx.RequestError as error:
            return _no_answer(self._runner.address, error)

    def _carry_out(self, step: Step) -> Outcome:
        if isinstance(step, Send):
            response = self._runner.http.send(_build(self._runner.http, step))
            return _answer(response, response.content)
        if isinstance(step, OpenStream):
            self.close()
            response = self._runner.http.send(_build(self._runner.http, step), stream=True)
            self.callback(response.close)
            self._parts = response.iter_bytes()
            return (
                answer
                if (answer := _answer(response)).is_stream
                else _answer(response, response.read())
            )
        if isinstance(step, Pause):
            self._runner.sleep(step.seconds)
            return None
        return next(self._parts, b"")


async def _no_parts() -> AsyncIterator[bytes]:
    return
    yield b""


class AsyncRunner:
    """Run flows with await."""

    def __init__(
        self,
        address: str,
        http: httpx.AsyncClient,
        terms: Terms,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.address, self.http, self.terms, self.sleep = address, http, terms, sleep

    async def run(self, flow: Flow[_T]) -> _T:
        async with _AsyncSteps(self) as steps:
            step = _advance(flow)
            while not isinstance(step, _End):
                step = _advance(flow, await steps.carry_out(step))
            return step.answer

    async def iterate(self, flow: Items[_T]) -> AsyncGenerator[_T, None]:
        async with _AsyncSteps(self) as steps:
            step = _advance(flow)
            while not isinstance(step, _End):
                if isinstance(step, Item):
                    yield step.item
                step = _advance(
                    flow, None if isinstance(step, Item) else await steps.carry_out(step)
                )


class _AsyncSteps(AsyncExitStack):
    """_BlockingSteps for AsyncRunner."""

    def __init__(self, runner: AsyncRunner) -> None:
        super().__init__()
        self._runner = runner
        self._parts: AsyncIterator[bytes] = _no_parts()

    async def carry_out(self, step: Step) -> Outcome:
        try:
            return await self._carry_out(step)
        except httpx.RequestError as error:
            return _no_answer(self._runner.address, error)

    async def _carry_out(self, step: Step) -> Outcome:
        if isinstance(step, Send):
            response = await self._runner.http.send(_build(self._runner.http, step))
            return _answer(response, response.content)
        if isinstance(step, OpenStream):
            await self.aclose()
            response = await self._runner.http.send(_build(self._runner.http, step), stream=True)
            self.push_async_callback(response.aclose)
            self._parts = response.aiter_bytes()
            return (
                answer
                if (answer := _answer(response)).is_stream
                else _answer(response, await response.aread())
            )
        if isinstance(step, Pause):
            await self._runner.sleep(step.seconds)
            return None
        return await anext(self._parts, b"")


def _build(http: httpx.Client | httpx.AsyncClient, step: Send | OpenStream) -> httpx.Request:
    request = step.request
    return http.build_request(
        request.method,
        request.path,
        params={name: value for name, value in request.params.items() if value is not None},
        json=request.body,
        headers=dict(request.header),
        timeout=httpx.Timeout(step.timeout_seconds, read=step.silence_seconds)
        if isinstance(step, OpenStream)
        else step.timeout_seconds,
    )


def _answer(response: httpx.Response, content: bytes = b"") -> Answer:
    return Answer(response.status_code, response.headers, content)


def _no_answer(address: str, error: httpx.RequestError) -> NoAnswer:
    reason = (str(error) or type(error).__name__).rstrip(".")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return NoAnswer(f"There is no answer at {address}: {reason}.", was_sent=False)
    return NoAnswer(f"The answer of {address} is not complete: {reason}.", was_sent=True)


class _One(Generic[_P, _T]):
    def __init__(self, flow: Callable[Concatenate[Any, _P], Flow[_T]]) -> None:
        self._flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, runner: BlockingRunner, owner: object = None) -> Callable[_P, _T]: ...
    @overload
    def __get__(
        self, runner: AsyncRunner, owner: object = None
    ) -> Callable[_P, Coroutine[Any, Any, _T]]: ...
    @overload
    def __get__(self, runner: None, owner: object = None) -> Self: ...
    def __get__(self, runner: BlockingRunner | AsyncRunner | None, owner: object = None) -> Any:
        return (
            self
            if runner is None
            else lambda *args, **named: runner.run(self._flow(runner, *args, **named))
        )


class _Many(Generic[_P, _T]):
    def __init__(self, flow: Callable[Concatenate[Any, _P], Items[_T]]) -> None:
        self._flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(
        self, runner: BlockingRunner, owner: object = None
    ) -> Callable[_P, Generator[_T, None, None]]: ...
    @overload
    def __get__(
        self, runner: AsyncRunner, owner: object = None
    ) -> Callable[_P, AsyncGenerator[_T, None]]: ...
    @overload
    def __get__(self, runner: None, owner: object = None) -> Self: ...
    def __get__(self, runner: BlockingRunner | AsyncRunner | None, owner: object = None) -> Any:
        return (
            self
            if runner is None
            else lambda *args, **named: runner.iterate(self._flow(runner, *args, **named))
        )


def one(flow: Callable[Concatenate[Any, _P], Flow[_T]]) -> _One[_P, _T]:
    """Make a method of both clients from a flow with one result."""
    return _One(flow)


def many(flow: Callable[Concatenate[Any, _P], Items[_T]]) -> _Many[_P, _T]:
    """Make a method of both clients from a flow of many items."""
    return _Many(flow)
