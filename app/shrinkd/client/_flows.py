"""The core.

A conversation with the daemon as a generator of steps, which does no I/O and reads no clock of its
own.

A flow yields a step, and is sent what came of it. So every rule (what is tried again, how long, how
a stream is taken up where it broke off) is here once, and whoever carries the steps out, at once or
with await, has nothing left to decide.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from uuid import uuid4

from shrinkd.client.errors import NotUnderstood, TooLate, Unreachable, problem_from

_T = TypeVar("_T")
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
_PASSING = frozenset({429, 502, 503, 504})
"""The statuses by which somebody says that it may work later."""
_ELSEWHERE = frozenset({301, 302, 303, 307, 308})
_PAGE_ITEMS = 200
_REPEATABLE = frozenset({"GET", "HEAD", "PUT"})


@dataclass(frozen=True, slots=True)
class Question:
    """A request. `header` has all that is not on every request of the client."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    header: Mapping[str, str] = field(default_factory=dict)
    holds_seconds: float = 0
    """So long the daemon may take for it because it was asked to."""

    @property
    def is_repeatable(self) -> bool:
        """Whether it takes effect once, however often it arrives.

        By its method, its condition or its key.
        """
        return self.method in _REPEATABLE or not self.header.keys().isdisjoint(
            {"If-Match", "Idempotency-Key"}
        )


def posted(path: str, body: Any = None, params: Mapping[str, Any] | None = None) -> Question:
    """A POST with a key of its own, so that it takes effect once however often it arrives."""
    return Question("POST", path, params or {}, body, {"Idempotency-Key": str(uuid4())})


@dataclass(frozen=True, slots=True)
class Send:
    """A step: send it. What comes of it is an Answer or Lost."""

    question: Question
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Listen:
    """A step.

    As Send, but of an answer that is a stream only the header is awaited; the rest comes by
    NextPart.
    """

    question: Question
    timeout_seconds: float
    quiet_seconds: float = 60
    """A stream from which nothing came for so long, not even a comment, is dead: the daemon sends
    one every 15 s."""


@dataclass(frozen=True, slots=True)
class NextPart:
    """A step.

    Some more of the stream that was opened last. What comes of it is bytes, none at its end, or
    Lost.
    """


@dataclass(frozen=True, slots=True)
class Pause:
    """A step: do nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Give(Generic[_T]):
    """What an iteration yields among its steps: the next item for who iterates."""

    item: _T


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered; names of the header in lower case."""

    status: int
    header: Mapping[str, str]
    content: bytes
    """Empty for a stream."""

    @property
    def is_stream(self) -> bool:
        return self.header.get("content-type", "").startswith("text/event-stream")


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer, or not all of it."""

    reason: str
    was_sent: bool
    """Whether the daemon may have seen the request."""


Step = Send | Listen | NextPart | Pause
Outcome = Answer | Lost | bytes | None
Flow = Generator[Step, Any, _T]
"""A call that answers one thing."""
Items = Generator[Step | Give[_T], Any, None]
"""One that gives many."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How patient a client is, and the clock and the dice that it goes by."""

    timeout_seconds: float = 30
    """For one call in all, with what is tried again; of a stream, for being taken up again after it
    broke off."""
    attempts: int = 4
    clock: Callable[[], float] = time.monotonic
    dice: Callable[[], float] = random.random
    """From 0 to below 1: of the back-off, which part is waited."""

    def pause_seconds(self, attempt: int, outcome: Outcome = None) -> float:
        """Wait so long after an attempt, counted from 0.

        What the answer asks for, or else a back-off with full jitter.
        """
        asked = outcome.header.get("retry-after", "") if isinstance(outcome, Answer) else ""
        if asked.isascii() and asked.isdigit():
            return float(asked)
        return self.dice() * min(
            _FIRST_PAUSE_SECONDS * 2.0 ** min(attempt, 10), _LONGEST_PAUSE_SECONDS
        )

    def patient(self) -> "Terms":
        """The same, but with as many attempts as fit into the time.

        For who has begun to wait, and lives through a restart.
        """
        return replace(self, attempts=sys.maxsize)


def ask(terms: Terms, question: Question, step: type[Send | Listen] = Send) -> Flow[Answer]:
    """Put a question until it is answered, as often as that is safe.

    Raises what the answer says is wrong.

    A request that cannot have arrived is safe to repeat, and one that takes effect once. A 409 is
    never tried again: it is about the state of things, and its sender has to look at that.
    """
    ends = terms.clock() + terms.timeout_seconds + question.holds_seconds
    attempt = 0
    while True:
        outcome = yield step(question, max(ends - terms.clock(), 0.001))
        pause = terms.pause_seconds(attempt, outcome)
        attempt += 1
        is_last = attempt >= terms.attempts or terms.clock() + pause >= ends
        if is_last or not _may_pass(question, outcome):
            return _settled(question, outcome, is_late=terms.clock() >= ends)
        yield Pause(pause)


def _may_pass(question: Question, outcome: Answer | Lost) -> bool:
    if isinstance(outcome, Lost):
        return question.is_repeatable or not outcome.was_sent
    return question.is_repeatable and outcome.status in _PASSING


def _settled(question: Question, outcome: Answer | Lost, *, is_late: bool) -> Answer:
    if isinstance(outcome, Lost):
        raise (TooLate if is_late else Unreachable)(outcome.reason)
    if outcome.status >= 400:
        raise problem_from(outcome.status, outcome.content, outcome.header.get("request-id"))
    if "location" in outcome.header and outcome.status in _ELSEWHERE:
        raise NotUnderstood(
            f"{question.method} {question.path} was sent on to elsewhere, which no daemon does and "
            "is not followed."
        )
    return outcome


def ask_json(terms: Terms, question: Question) -> Flow[Any]:
    """The JSON of an answer, as parsed() has it."""
    answer = yield from ask(terms, question)
    return parsed(question, answer)


def parsed(question: Question, answer: Answer) -> Any:
    """The JSON of an answer, with its ETag as a member where it has one.

    None where there is no body.
    """
    if not answer.content:
        return None
    try:
        body = json.loads(answer.content)
    except ValueError:
        raise NotUnderstood(
            f"{question.method} {question.path} was answered with something that is no JSON."
        ) from None
    if isinstance(body, dict) and "etag" in answer.header:
        body["etag"] = answer.header["etag"]
    return body


def ask_pages(terms: Terms, question: Question) -> Items[Any]:
    """Give the items of a list, a page at a time."""
    params = {"page_size": _PAGE_ITEMS, **question.params}
    while True:
        page = yield from ask_json(terms, replace(question, params=params))
        for item in page["items"]:
            yield Give(item)
        if page["next_page_token"] is None:
            return
        params["page_token"] = page["next_page_token"]
