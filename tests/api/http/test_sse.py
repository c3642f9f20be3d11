"""Event streams: the wire format, keep-alive comments, and every way in which a stream ends.

The last tests show what FastAPI's generator endpoints do instead. When one of them fails, look
whether `EventStream` can be replaced.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse
from starlette.types import Message

from shrinkd.api.http.request_context import request_context
from shrinkd.api.http.sse import EventStream, encode_event
from shrinkd.auth.scopes import ANYONE, Caller, Grant, Level
from shrinkd.auth.tokens import Tokens, make, revoke
from shrinkd.errors import StoreUnavailable, TooManyStreams
from shrinkd.events.broadcast import StreamHub

_SHORT_SECONDS = 0.01


class Client:
    """ASGI server with one client, which records chunks, can stop reading and can disconnect."""

    def __init__(self, streams: StreamHub | None = None) -> None:
        self.parts = SimpleNamespace(
            streams=streams or StreamHub(), closing=asyncio.Event(), tokens=None
        )
        self.scope: dict[str, Any] = {
            "type": "http",
            "path": "/v1/events",
            "headers": [],
            "app": SimpleNamespace(state=SimpleNamespace(parts=self.parts)),
        }
        request_context(self.scope).caller = ANYONE
        self.chunks: list[bytes] = []
        self.has_ended = False
        self.reads = asyncio.Event()
        self.reads.set()
        self.hung_up = asyncio.Event()
        self.on_chunk: Callable[[bytes], None] = lambda _: None

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.body":
            self.chunks += [message["body"]] if message["body"] else []
            self.has_ended = not message.get("more_body")
            self.on_chunk(message["body"])

    async def receive(self) -> Message:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def follow(self, frames: AsyncGenerator[bytes], seconds: float = 60) -> None:
        await EventStream(frames, seconds)(self.scope, self.receive, self.send)


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scene()

    asyncio.run(bounded())


class Frames:
    """Yields the given frames, then waits until it is closed; records that it was closed."""

    has_ended = False

    async def __call__(self, *frames: bytes) -> AsyncGenerator[bytes]:
        try:
            for frame in frames:
                yield frame
            await asyncio.Event().wait()
        finally:
            self.has_ended = True


def test_an_event_is_written_as_the_standard_has_it() -> None:
    assert encode_event("state", b'{"a":1}', 7) == b'event: state\ndata: {"a":1}\nid: 7\n\n'
    assert encode_event("gone", b"{}") == b"event: gone\ndata: {}\n\n"


def test_a_stream_begins_with_a_hint_and_ends_with_its_frames() -> None:
    async def frames() -> AsyncGenerator[bytes]:
        yield b"one"
        yield b"two"

    async def scene() -> None:
        client = Client()
        await client.follow(frames())
        assert (client.chunks, client.has_ended) == ([b"retry: 1000\n\n", b"one", b"two"], True)

    run(scene)


def authenticate_client(client: Client, path: Path, *scopes: str) -> Tokens:
    """Authenticate the client by a token with these scopes; return the tokens of the daemon."""
    secret = make(path, "reader", list(scopes), "1d") or ""
    tokens = client.parts.tokens = Tokens(str(path), lambda: 0.0)
    client.scope["headers"] = [(b"authorization", b"Bearer " + secret.encode())]
    request_context(client.scope).caller = tokens.bearer(secret.encode())
    return tokens


def test_a_stream_ends_when_the_token_that_opened_it_is_revoked(tmp_path: Path) -> None:
    async def scene() -> None:
        client, frames = Client(), Frames()
        tokens = authenticate_client(client, tmp_path / "tokens", "read")
        revoke(tmp_path / "tokens", "reader")
        client.on_chunk = lambda _: tokens.reload() if len(client.chunks) == 3 else None
        await client.follow(frames(b"one"), _SHORT_SECONDS)
        assert (client.chunks[2], client.has_ended, frames.has_ended) == (
            b": still here\n\n",
            True,
            True,
        )
        assert client.chunks[-1].startswith(
            b'event: problem\ndata: {"type":"/problems/token-refused"'
        )

    run(scene)


def test_a_stream_ends_when_its_reader_has_other_scopes_than_it_began_with(tmp_path: Path) -> None:
    async def scene() -> None:
        client = Client()
        authenticate_client(client, tmp_path / "tokens", "read@web")
        request_context(client.scope).caller = Caller("token:reader", (Grant(Level.READ),))
        await client.follow(Frames()(b"one"), _SHORT_SECONDS)
        assert b"connect again" in client.chunks[-1]

    run(scene)


def test_silence_is_broken_by_comments() -> None:
    async def scene() -> None:
        client, frames = Client(), Frames()
        client.on_chunk = lambda _: client.hung_up.set() if len(client.chunks) == 5 else None
        await client.follow(frames(b"one"), _SHORT_SECONDS)
        comment = b": still here\n\n"
        assert client.chunks[:5] == [b"retry: 1000\n\n", b"one", comment, comment, comment]
        assert set(client.chunks[5:]) <= {comment}  # a busy machine notices the end later

    run(scene)


def test_a_stop_is_told_and_ends_the_stream_and_what_fed_it() -> None:
    async def scene() -> None:
        client, frames = Client(), Frames()
        client.on_chunk = lambda chunk: client.parts.closing.set() if chunk == b"one" else None
        await client.follow(frames(b"one"))
        assert (client.chunks[-1], client.has_ended, frames.has_ended) == (
            b"event: closing\ndata: {}\n\n",
            True,
            True,
        )

    run(scene)


def test_a_client_that_hangs_up_ends_the_stream_also_where_it_was_not_reading() -> None:
    async def scene() -> None:
        client, frames = Client(), Frames()

        def stall(chunk: bytes) -> None:
            if chunk == b"one":
                client.reads.clear()
                client.hung_up.set()
                asyncio.get_running_loop().call_later(
                    _SHORT_SECONDS, client.reads.set
                )  # as a lost connection does

        client.on_chunk = stall
        await client.follow(frames(b"one", b"two"))
        assert (b"two" in client.chunks, frames.has_ended) == (False, True)

    run(scene)


def test_what_cannot_go_on_is_told_as_a_problem() -> None:
    async def frames() -> AsyncGenerator[bytes]:
        yield b"one"
        raise StoreUnavailable("The database cannot be used.")

    async def scene() -> None:
        client = Client()
        await client.follow(frames())
        assert client.chunks[-1].startswith(
            b'event: problem\ndata: {"type":"/problems/store-unavailable"'
        )
        assert client.has_ended

    run(scene)


def test_a_fault_is_the_servers_to_hear() -> None:
    async def frames() -> AsyncGenerator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    async def scene() -> None:
        with pytest.raises(ZeroDivisionError):
            await Client().follow(frames())

    run(scene)


def test_one_too_many_is_refused_before_a_word() -> None:
    async def scene() -> None:
        client = Client(StreamHub(most=0))
        with pytest.raises(TooManyStreams):
            await client.follow(Frames()(b"one"))
        assert client.chunks == []

    run(scene)


def test_a_stream_reads_no_frame_ahead_of_a_client_that_does_not_read() -> None:
    async def scene() -> None:
        client, source = Client(), CountedFrames()

        def stop_reading(chunk: bytes) -> None:
            if chunk == b"1":
                client.reads.clear()

        client.on_chunk = stop_reading
        following = asyncio.create_task(client.follow(source()))
        await idle_turns()
        assert source.yielded == 2  # the one that was sent, and the one that waits to be
        client.reads.set()
        client.hung_up.set()
        await following

    run(scene)


class CountedFrames:
    """Yields numbers without end, and counts them."""

    yielded = 0

    async def __call__(self) -> AsyncGenerator[bytes]:
        while True:
            self.yielded += 1
            yield b"%d" % self.yielded
            await asyncio.sleep(0)


async def idle_turns() -> None:
    """Give every other task of the loop far more turns than a few frames take."""
    for _ in range(200):
        await asyncio.sleep(0)


def fastapi_stream(frames: Callable[[], AsyncGenerator[Any]]) -> FastAPI:
    """Build an application whose `GET /` is a generator endpoint of FastAPI's."""
    app = FastAPI()
    app.get("/", response_class=EventSourceResponse)(frames)
    return app


async def follow_fastapi(client: Client, app: FastAPI) -> None:
    scope = client.scope | {"path": "/", "method": "GET", "query_string": b""}
    await app(scope, client.receive, client.send)


def test_a_generator_endpoint_of_fastapi_ends_a_failed_stream_without_an_event() -> None:
    async def frames() -> AsyncGenerator[str]:
        yield "one"
        raise StoreUnavailable("The database cannot be used.")

    async def scene() -> None:
        client = Client()
        with pytest.raises(ExceptionGroup):
            await follow_fastapi(client, fastapi_stream(frames))
        assert (client.chunks, client.has_ended) == ([], False)  # the first event is lost, too

    run(scene)


def test_a_generator_endpoint_of_fastapi_reads_ahead_of_a_slow_client() -> None:
    async def scene() -> None:
        client, source = Client(), CountedFrames()

        async def frames() -> AsyncGenerator[str]:
            async for frame in source():
                yield frame.decode()

        client.on_chunk = lambda _: client.reads.clear()
        following = asyncio.create_task(follow_fastapi(client, fastapi_stream(frames)))
        await idle_turns()
        assert source.yielded > 3
        following.cancel()
        await asyncio.wait({following})

    run(scene)
