"""Server-sent events (the HTML standard, section 9.2).

One event as bytes, and the answer that sends them until somebody ends it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shrinkd.api.http.dependencies import Parts
from shrinkd.api.http.problems import body_of
from shrinkd.api.http.request_context import request_context
from shrinkd.api.middleware.authentication import find_caller
from shrinkd.errors import ShrinkdError, TokenRefused

KEEP_ALIVE_SECONDS = 15.0
_BEGIN = b"retry: 1000\n\n"
_PING = b": still here\n\n"


def sse(name: str, data: bytes, event_id: int | None = None) -> bytes:
    """One event. `data` is JSON, which has no line break in it."""
    number = b"" if event_id is None else b"id: %d\n" % event_id
    return b"event: %s\n%sdata: %s\n\n" % (name.encode(), number, data)


class EventStream(StreamingResponse):
    """An answer without an end of its own.

    It goes on until its frames do, the client hangs up or the daemon stops.

    It sends a comment where nothing was said for 15 s, `problem` when its frames cannot go on or
    its reader is let in no more, which is looked at every 15 s, and `closing` when the daemon
    stops. TooManyStreams is raised before anything is sent.
    """

    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncGenerator[bytes], keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    ) -> None:
        super().__init__(
            frames, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )  # the latter is nginx's
        self._frames, self._keep_alive_seconds = frames, keep_alive_seconds
        self._has_spoken = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wiring: Parts = scope["app"].state.wiring
        with wiring.streams.admitted(request_context(scope).caller.name):
            async with aclosing(self._frames):
                await self._send_all(scope, wiring.closing, receive, send)

    async def _send_all(
        self, scope: Scope, closing: asyncio.Event, receive: Receive, send: Send
    ) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        sending = asyncio.create_task(self._tell(send))
        keeping = asyncio.create_task(self._keep_alive(scope, closing, send))
        tasks = {sending, keeping, asyncio.create_task(self.listen_for_disconnect(receive))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not sending.cancelled():
            sending.result()
        elif not keeping.cancelled():
            await _say(send, keeping.result())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, send: Send) -> None:
        await _say(send, _BEGIN)
        try:
            async for frame in self._frames:
                self._has_spoken = True
                await _say(send, frame)
        except ShrinkdError as error:
            await _say(send, _problem(error))

    async def _keep_alive(self, scope: Scope, closing: asyncio.Event, send: Send) -> bytes:
        """Answer the last event, when the daemon stops or what let the reader in holds no more."""
        while not closing.is_set():
            try:
                async with asyncio.timeout(self._keep_alive_seconds):
                    await closing.wait()
            except TimeoutError:
                if error := _shut_out(scope):
                    return _problem(error)
                if not self._has_spoken:
                    await _say(send, _PING)
                self._has_spoken = False
        return sse("closing", b"{}")


def _shut_out(scope: Scope) -> ShrinkdError | None:
    """Why the caller would not be let in as it was.

    A token that was revoked or has expired, scopes that are others now.
    """
    try:
        caller = find_caller(scope)
    except ShrinkdError as error:
        return error
    return (
        None
        if caller == request_context(scope).caller
        else TokenRefused("What the caller may do has changed: connect again.")
    )


def _problem(error: ShrinkdError) -> bytes:
    return sse("problem", to_json(body_of(error)))


async def _say(send: Send, frame: bytes) -> None:
    await send({"type": "http.response.body", "body": frame, "more_body": True})
