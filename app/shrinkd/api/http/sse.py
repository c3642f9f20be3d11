"""Server-sent events: encode one event, and send a stream of events as a response.

The wire format is FastAPI's (`fastapi.sse.format_sse_event`). The response is our own, because
FastAPI sends events only from generator endpoints with its `EventSourceResponse`, and these

- end without a word when the generator raises, where we promise a `problem` event
  (test_a_generator_endpoint_of_fastapi_ends_a_failed_stream_without_an_event);
- read several frames ahead of a slow client, where a slow reader of statistics has to skip samples
  (test_a_generator_endpoint_of_fastapi_reads_ahead_of_a_slow_client);
- send keep-alive comments from a timer that runs nothing else, where ours authenticates the caller
  again (test_a_stream_ends_when_the_token_that_opened_it_is_revoked) and ends the stream with
  `closing` at shutdown (test_a_stop_is_told_and_ends_the_stream_and_what_fed_it);
- stream every answer of the endpoint, where `GET /v1/events` is a page unless `Accept` asks for a
  stream.

When FastAPI offers these, `EventStream` can go.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi.sse import format_sse_event
from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shrinkd.api.http.dependencies import Parts
from shrinkd.api.http.problems import body_of
from shrinkd.api.http.request_context import request_context
from shrinkd.api.middleware.authentication import find_caller
from shrinkd.errors import ShrinkdError, TokenRefused

KEEP_ALIVE_SECONDS = 15.0
_RETRY_HINT = format_sse_event(retry=1000)
_KEEP_ALIVE = format_sse_event(comment="still here")


def encode_event(name: str, data: bytes, event_id: int | None = None) -> bytes:
    """Encode one event. `data` is JSON in UTF-8."""
    number = None if event_id is None else str(event_id)
    return format_sse_event(event=name, data_str=data.decode(), id=number)


class EventStream(StreamingResponse):
    """Stream encoded events until they end, the client disconnects or the daemon stops.

    Sends a comment after 15 s without an event. The last event is `problem` when the frames raise a
    ShrinkdError, or when the caller, who is authenticated again every 15 s, has lost access; it is
    `closing` when the daemon stops. Raises TooManyStreams before the response starts.
    """

    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncGenerator[bytes], keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    ) -> None:
        # X-Accel-Buffering: nginx would hold events back otherwise
        super().__init__(frames, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._frames, self._keep_alive_seconds = frames, keep_alive_seconds
        self._has_sent_lately = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts: Parts = scope["app"].state.parts
        with parts.streams.admitted(request_context(scope).caller.name):
            async with aclosing(self._frames):
                await self._send_all(scope, parts.closing, receive, send)

    async def _send_all(
        self, scope: Scope, closing: asyncio.Event, receive: Receive, send: Send
    ) -> None:
        """Send frames and keep-alive comments until the first of three tasks ends.

        The frames are at their end, the stream must close, or the client has disconnected.
        """
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        frames = asyncio.create_task(self._send_frames(send))
        keep_alive = asyncio.create_task(self._keep_alive(scope, closing, send))
        tasks = {frames, keep_alive, asyncio.create_task(self.listen_for_disconnect(receive))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not frames.cancelled():
            frames.result()
        elif not keep_alive.cancelled():
            await _send_chunk(send, keep_alive.result())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_frames(self, send: Send) -> None:
        await _send_chunk(send, _RETRY_HINT)
        try:
            async for frame in self._frames:
                self._has_sent_lately = True
                await _send_chunk(send, frame)
        except ShrinkdError as error:
            await _send_chunk(send, _problem_event(error))

    async def _keep_alive(self, scope: Scope, closing: asyncio.Event, send: Send) -> bytes:
        """Send comments while there are no events.

        Returns the last event of the stream when the daemon stops or the caller has lost access.
        """
        while not closing.is_set():
            try:
                async with asyncio.timeout(self._keep_alive_seconds):
                    await closing.wait()
            except TimeoutError:
                if error := _lost_access(scope):
                    return _problem_event(error)
                if not self._has_sent_lately:
                    await _send_chunk(send, _KEEP_ALIVE)
                self._has_sent_lately = False
        return encode_event("closing", b"{}")


def _lost_access(scope: Scope) -> ShrinkdError | None:
    """Authenticate the request again; return the error if it fails or its scopes have changed."""
    try:
        caller = find_caller(scope)
    except ShrinkdError as error:
        return error
    return (
        None
        if caller == request_context(scope).caller
        else TokenRefused("The scopes of the caller have changed: connect again.")
    )


def _problem_event(error: ShrinkdError) -> bytes:
    return encode_event("problem", to_json(body_of(error)))


async def _send_chunk(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})
