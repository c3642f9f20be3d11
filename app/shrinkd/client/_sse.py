"""Server-sent events by the HTML standard, on a connection that is opened again when it breaks.

The parser is ours. httpx-sse 0.4.3 reads a response and does its own I/O, where this client is a
core without I/O; and it gives an empty event after each keep-alive comment that follows an id,
keeps a byte order mark, and takes retry times that are no digits:
test_httpx_sse_reads_this_stream_otherwise_than_the_standard in tests/client/test_sse.py.
"""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from shrinkd.client._flows import (
    Flow,
    NoAnswer,
    OpenStream,
    Pause,
    ReadStream,
    Request,
    Step,
    Terms,
    fetch,
)
from shrinkd.client.errors import NotUnderstood, Unreachable, problem_from

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")
"""A CR at the end of a part is left: the next part may begin with its LF."""
_LARGEST_EVENT_BYTES = 16 << 20
"""The daemon's own events are a few KiB; what sends more is no daemon."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """An event: its type, its data, and the id after which the stream can be continued."""

    type: str
    text: str
    id: str


@dataclass(slots=True)
class EventParser:
    """Parse the bytes of a stream into events. Its last id outlives a connection."""

    last_id: str = ""
    """The id of the last complete event: one that was cut short is requested again."""
    retry_seconds: float | None = None
    """The pause before the next connection that the server asks for; None if it asks for none."""
    _rest: bytes = b""
    _id: str = ""
    _type: str = ""
    _lines: list[str] = field(default_factory=list)

    def reset(self) -> None:
        """Discard the event that a lost connection cut short."""
        self._rest, self._id, self._type, self._lines = b"", self.last_id, "", []

    def parse(self, part: bytes) -> Iterator[ServerEvent]:
        """Yield the events that some bytes, cut anywhere, complete.

        Comments, unknown fields and events without data are skipped. NotUnderstood for an event of
        more than 16 MiB.
        """
        *lines, self._rest = _LINE_END.split(self._rest + part)
        for line in lines:
            if line:
                name, _, value = line.decode(errors="replace").removeprefix("\ufeff").partition(":")
                self._set_field(name, value.removeprefix(" "))
            else:
                yield from self._dispatch()
        if len(self._rest) + sum(map(len, self._lines)) > _LARGEST_EVENT_BYTES:
            raise NotUnderstood(
                f"A stream has an event of more than {_LARGEST_EVENT_BYTES} bytes, which no daemon "
                "sends."
            )

    def _dispatch(self) -> Iterator[ServerEvent]:
        self.last_id = self._id
        if self._lines:
            yield ServerEvent(self._type or "message", "\n".join(self._lines), self.last_id)
        self._type, self._lines = "", []

    def _set_field(self, name: str, value: str) -> None:
        if name == "event":
            self._type = value
        elif name == "data":
            self._lines.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_seconds = int(value) / 1000


EventSteps = Generator[Step | ServerEvent, Any, None]
"""A flow that yields events among its steps. Its user takes the events and passes the steps on."""


def listen(terms: Terms, request: Request, last_id: str = "") -> EventSteps:
    """Yield the events of a stream, opening it again after its last event when it breaks or ends.

    It goes on until it is closed. A problem event, and the answer to a request for the stream,
    raise their Problem. Unreachable when nothing was received for `terms.timeout_seconds`.
    """
    parser = EventParser(last_id)
    last_received, attempt = terms.clock(), 0
    while True:
        parser.reset()
        yield from _open(terms, request, parser.last_id)
        while isinstance(part := (yield ReadStream()), bytes) and part:
            last_received, attempt = terms.clock(), 0
            yield from map(_raise_problem, filter(_is_not_closing, parser.parse(part)))
        pause = (
            terms.pause_seconds(attempt) if parser.retry_seconds is None else parser.retry_seconds
        )
        attempt += 1
        if terms.clock() + pause - last_received >= terms.timeout_seconds:
            raise Unreachable(
                part.reason
                if isinstance(part, NoAnswer)
                else "The stream ends as soon as it begins."
            )
        yield Pause(pause)


def _is_not_closing(event: ServerEvent) -> bool:
    """Tell whether an event is for the user: `closing` only says that the daemon stops."""
    return event.type != "closing"


def _raise_problem(event: ServerEvent) -> ServerEvent:
    """Return an event; raise the Problem that the daemon could not send as the status."""
    if event.type == "problem":
        raise problem_from(500, event.text.encode(), None)
    return event


def _open(terms: Terms, request: Request, last_id: str) -> Flow[None]:
    header = {"Accept": "text/event-stream", "Cache-Control": "no-store", **request.header}
    if last_id:
        header["Last-Event-ID"] = last_id
    answer = yield from fetch(terms.patient(), replace(request, header=header), OpenStream)
    if not answer.is_stream:
        raise NotUnderstood(
            f"{request.method} {request.path} was not answered with a stream of events."
        )
