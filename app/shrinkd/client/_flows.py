"""Requests to the daemon as flows: generators of steps that do no I/O (sans-I/O).

A flow yields a step (send, listen, pause) and is sent its outcome. The rules for retries, deadlines
and pages are here once; _transports carries the steps out, blocking or with await, and decides
nothing.
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
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PAGE_ITEMS = 200
_IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT"})


@dataclass(frozen=True, slots=True)
class Request:
    """A request. `header` has the fields that are not on every request of the client."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    header: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float = 0
    """The time for which the request asks the daemon to wait before it answers."""

    @property
    def is_repeatable(self) -> bool:
        """True if the request takes effect once, however often it arrives.

        Its method, its condition (If-Match) or its Idempotency-Key ensures that.
        """
        return self.method in _IDEMPOTENT_METHODS or not self.header.keys().isdisjoint(
            {"If-Match", "Idempotency-Key"}
        )


def post(path: str, body: Any = None, params: Mapping[str, Any] | None = None) -> Request:
    """Return a POST with an Idempotency-Key, which takes effect once, however often it arrives."""
    return Request("POST", path, params or {}, body, {"Idempotency-Key": str(uuid4())})


@dataclass(frozen=True, slots=True)
class Send:
    """A step: send a request. The outcome is an Answer or NoAnswer."""

    request: Request
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A step: send a request for a stream. The outcome is an Answer without content, or NoAnswer.

    The content of a stream comes with ReadStream. An answer that is no stream has its content.
    """

    request: Request
    timeout_seconds: float
    silence_seconds: float = 60
    """The longest time without a byte: the daemon sends a comment every 15 s."""


@dataclass(frozen=True, slots=True)
class ReadStream:
    """A step: read more of the stream that was opened last. The outcome is bytes, or NoAnswer.

    At the end of the stream it is b"".
    """


@dataclass(frozen=True, slots=True)
class Pause:
    """A step: wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Item(Generic[_T]):
    """An item that a flow of many items yields among its steps."""

    item: _T


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the daemon; the names of its header are in lower case."""

    status: int
    header: Mapping[str, str]
    content: bytes
    """Empty for a stream."""

    @property
    def is_stream(self) -> bool:
        return self.header.get("content-type", "").startswith("text/event-stream")


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The outcome of a request without an answer, or with only a part of it."""

    reason: str
    was_sent: bool
    """True if the daemon may have received the request."""


Step = Send | OpenStream | ReadStream | Pause
Outcome = Answer | NoAnswer | bytes | None
Flow = Generator[Step, Any, _T]
"""A request with one result."""
Items = Generator[Step | Item[_T], Any, None]
"""Requests with many items as their result."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Deadlines and retries of a client, with the clock and the random numbers that it uses."""

    timeout_seconds: float = 30
    """The deadline of one call, retries included; for a stream, of opening it again after it
    broke."""
    attempts: int = 4
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    """A random number from 0 to below 1: the part of the back-off to wait."""

    def pause_seconds(self, attempt: int, outcome: Outcome = None) -> float:
        """Return the time to wait after an attempt, counted from 0.

        That is the answer's Retry-After, else an exponential back-off with full jitter.
        """
        asked = outcome.header.get("retry-after", "") if isinstance(outcome, Answer) else ""
        if asked.isascii() and asked.isdigit():
            return float(asked)
        return self.jitter() * min(
            _FIRST_PAUSE_SECONDS * 2.0 ** min(attempt, 10), _LONGEST_PAUSE_SECONDS
        )

    def patient(self) -> "Terms":
        """Return the same terms with as many attempts as the deadline allows.

        A call that waits for a shrink or reads a stream survives a restart of the daemon with them.
        """
        return replace(self, attempts=sys.maxsize)


def fetch(terms: Terms, request: Request, step: type[Send | OpenStream] = Send) -> Flow[Answer]:
    """Send a request, and send it again while that is safe and may help.

    A request is sent again if it cannot have arrived, or if it takes effect once however often it
    arrives. A 409 is never sent again: its sender has to look at the state that it reports. Raises
    the Problem of the answer, Unreachable or TooLate.
    """
    ends = terms.clock() + terms.timeout_seconds + request.wait_seconds
    attempt = 0
    while True:
        outcome = yield step(request, max(ends - terms.clock(), 0.001))
        pause = terms.pause_seconds(attempt, outcome)
        attempt += 1
        is_last = attempt >= terms.attempts or terms.clock() + pause >= ends
        if is_last or not _is_retried(request, outcome):
            return _checked_answer(request, outcome, is_late=terms.clock() >= ends)
        yield Pause(pause)


def _is_retried(request: Request, outcome: Answer | NoAnswer) -> bool:
    if isinstance(outcome, NoAnswer):
        return request.is_repeatable or not outcome.was_sent
    return request.is_repeatable and outcome.status in _RETRIED_STATUSES


def _checked_answer(request: Request, outcome: Answer | NoAnswer, *, is_late: bool) -> Answer:
    if isinstance(outcome, NoAnswer):
        raise (TooLate if is_late else Unreachable)(outcome.reason)
    if outcome.status >= 400:
        raise problem_from(outcome.status, outcome.content, outcome.header.get("request-id"))
    if "location" in outcome.header and outcome.status in _REDIRECTS:
        raise NotUnderstood(
            f"{request.method} {request.path} was answered with a redirect, which no daemon sends "
            "and is not followed."
        )
    return outcome


def fetch_json(terms: Terms, request: Request) -> Flow[Any]:
    """Send a request and return the JSON of its answer, as parsed() does."""
    answer = yield from fetch(terms, request)
    return parsed(request, answer)


def parsed(request: Request, answer: Answer) -> Any:
    """Return the JSON of an answer, with its ETag, if any, as the member `etag`.

    None for an answer without a body; NotUnderstood for one that is not JSON.
    """
    if not answer.content:
        return None
    try:
        body = json.loads(answer.content)
    except ValueError:
        raise NotUnderstood(
            f"{request.method} {request.path} was answered with something that is not JSON."
        ) from None
    if isinstance(body, dict) and "etag" in answer.header:
        body["etag"] = answer.header["etag"]
    return body


def fetch_pages(terms: Terms, request: Request) -> Items[Any]:
    """Give the items of a list, page by page."""
    params = {"page_size": _PAGE_ITEMS, **request.params}
    while True:
        page = yield from fetch_json(terms, replace(request, params=params))
        for item in page["items"]:
            yield Item(item)
        if page["next_page_token"] is None:
            return
        params["page_token"] = page["next_page_token"]
