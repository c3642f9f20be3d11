"""Server-sent events as the HTML standard has them, taken up again where a connection breaks off."""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from shrinkd.client._flows import Flow, Listen, Lost, NextPart, Pause, Question, Step, Terms, ask
from shrinkd.client.errors import NotUnderstood, Unreachable, problem_from

_LINE_END = re.compile(
    rb"\r\n|\n|\r(?!\Z)"
)  # after a CR at the end of a part, the next one may begin with its LF


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: its type, its data, and the id by which the stream goes on behind it."""

    type: str
    text: str
    id: str


@dataclass(slots=True)
class Reader:
    """The parser: parts of a stream in, events out. Outlives a connection, for the last id does."""

    last_id: str = ""
    """Of the last event that came whole: one that was cut short is wanted again."""
    retry_seconds: float | None = None
    """What the server asks to wait before one comes back."""
    _rest: bytes = b""
    _id: str = ""
    _type: str = ""
    _lines: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Forget what a lost connection cut short."""
        self._rest, self._id, self._type, self._lines = b"", self.last_id, "", []

    def read(self, part: bytes) -> Iterator[ServerEvent]:
        """Take some bytes, cut anywhere.

        Comments and unknown fields are passed over, and events without data.
        """
        *lines, self._rest = _LINE_END.split(self._rest + part)
        for line in lines:
            if line:
                name, _, value = line.decode(errors="replace").removeprefix("\ufeff").partition(":")
                self._note(name, value.removeprefix(" "))
            else:
                yield from self._ended()

    def _ended(self) -> Iterator[ServerEvent]:
        self.last_id = self._id
        if self._lines:
            yield ServerEvent(self._type or "message", "\n".join(self._lines), self.last_id)
        self._type, self._lines = "", []

    def _note(self, name: str, value: str) -> None:
        if name == "event":
            self._type = value
        elif name == "data":
            self._lines.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_seconds = int(value) / 1000


Listening = Generator[Step | ServerEvent, Any, None]
"""A flow with events among its steps: who uses it makes something of those, and passes the steps
on."""


def listen(terms: Terms, question: Question, last_id: str = "") -> Listening:
    """Yield the events of a stream without an end.

    It is left by closing it, or by what is wrong: a problem, or nobody there.

    A stream that breaks off, or ends, is taken up again behind its last event. The patience for
    that begins anew with all that comes.
    """
    reader = Reader(last_id)
    heard, attempt = terms.clock(), 0
    while True:
        reader.begin()
        yield from _open(terms, question, reader.last_id)
        while isinstance(part := (yield NextPart()), bytes) and part:
            heard, attempt = terms.clock(), 0
            yield from map(_checked, filter(_is_news, reader.read(part)))
        pause = (
            terms.pause_seconds(attempt) if reader.retry_seconds is None else reader.retry_seconds
        )
        attempt += 1
        if terms.clock() + pause - heard >= terms.timeout_seconds:
            raise Unreachable(
                part.reason if isinstance(part, Lost) else "The stream ends as soon as it begins."
            )
        yield Pause(pause)


def _is_news(event: ServerEvent) -> bool:
    return event.type != "closing"  # the daemon stops; the next one is asked for what comes then


def _checked(event: ServerEvent) -> ServerEvent:
    """Raise what the daemon could not say by its status, as the stream had begun."""
    if event.type == "problem":
        raise problem_from(500, event.text.encode(), None)
    return event


def _open(terms: Terms, question: Question, last_id: str) -> Flow[None]:
    header = {"Accept": "text/event-stream", "Cache-Control": "no-store", **question.header}
    known = {"Last-Event-ID": last_id} if last_id else {}
    answer = yield from ask(terms.patient(), replace(question, header=header | known), Listen)
    if not answer.is_stream:
        raise NotUnderstood(
            f"{question.method} {question.path} was not answered with a stream of events."
        )
