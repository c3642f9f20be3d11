"""The answer that does not end.

What it says while nobody tells it anything, and all the ways in which it ends.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from shrinkd.api.http.request_context import request_context
from shrinkd.api.http.sse import EventStream, sse
from shrinkd.auth.scopes import ANYONE, Caller, Grant, Level
from shrinkd.auth.tokens import Tokens, make, revoke
from shrinkd.errors import StoreUnavailable, TooManyStreams
from shrinkd.events.broadcast import StreamHub

_SHORT_SECONDS = 0.01


class Client:
    """An ASGI server with one client: keeps what it was sent, may stop reading, and may hang up."""

    def __init__(self, streams: StreamHub | None = None) -> None:
        self.wiring = SimpleNamespace(
            streams=streams or StreamHub(), closing=asyncio.Event(), tokens=None
        )
        self.scope: dict[str, Any] = {
            "type": "http",
            "path": "/v1/events",
            "headers": [],
            "app": SimpleNamespace(state=SimpleNamespace(wiring=self.wiring)),
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
    """Says some frames, then nothing until it is ended; knows whether it was."""

    has_ended = False

    async def __call__(self, *frames: bytes) -> AsyncGenerator[bytes]:
        try:
            for frame in frames:
                yield frame
            await asyncio.Event().wait()
        finally:
            self.has_ended = True


def test_an_event_is_written_as_the_standard_has_it() -> None:
    assert sse("state", b'{"a":1}', 7) == b'event: state\nid: 7\ndata: {"a":1}\n\n'
    assert sse("gone", b"{}") == b"event: gone\ndata: {}\n\n"


def test_a_stream_begins_with_a_hint_and_ends_with_its_frames() -> None:
    async def frames() -> AsyncGenerator[bytes]:
        yield b"one"
        yield b"two"

    async def scene() -> None:
        client = Client()
        await client.follow(frames())
        assert (client.chunks, client.has_ended) == ([b"retry: 1000\n\n", b"one", b"two"], True)

    run(scene)


def bearing(client: Client, path: Path, *scopes: str) -> Tokens:
    """Let the client in by a token with these scopes; the tokens of the daemon, then."""
    secret = make(path, "reader", list(scopes), "1d") or ""
    tokens = client.wiring.tokens = Tokens(str(path), lambda: 0.0)
    client.scope["headers"] = [(b"authorization", b"Bearer " + secret.encode())]
    request_context(client.scope).caller = tokens.bearer(secret.encode())
    return tokens


def test_a_stream_ends_when_the_token_that_opened_it_is_revoked(tmp_path: Path) -> None:
    async def scene() -> None:
        client, frames = Client(), Frames()
        tokens = bearing(client, tmp_path / "tokens", "read")
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
        bearing(client, tmp_path / "tokens", "read@web")
        request_context(client.scope).caller = Caller("token:reader", (Grant(Level.READ),))
        await client.follow(Frames()(b"one"), _SHORT_SECONDS)
        assert b"connect again" in client.chunks[-1]

    run(scene)


def test_silence_is_broken_by_comments() -> None:
    async def scene() -> None:
        client, frames = Client(), Frames()
        client.on_chunk = lambda _: client.hung_up.set() if len(client.chunks) == 5 else None
        await client.follow(frames(b"one"), _SHORT_SECONDS)
        assert client.chunks == [b"retry: 1000\n\n", b"one", *[b": still here\n\n"] * 3]

    run(scene)


def test_a_stop_is_told_and_ends_the_stream_and_what_fed_it() -> None:
    async def scene() -> None:
        client, frames = Client(), Frames()
        client.on_chunk = lambda chunk: client.wiring.closing.set() if chunk == b"one" else None
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
