"""Bound the requests of one caller that wait for their responses; refuse more with 429."""

from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shrinkd.api.http import problems
from shrinkd.api.http.request_context import request_context
from shrinkd.errors import TooManyRequests

MAX_WAITING = 128
"""More than the connections that client libraries open by themselves, and enough for 50 clients on
one unix socket, which all count as one caller."""


class ConcurrencyLimit:
    """Answers 429 to a caller with `limit` requests waiting.

    A request whose response has started, such as a stream, does not count.
    """

    def __init__(self, app: ASGIApp, limit: int = MAX_WAITING) -> None:
        self._app = app
        self._limit = limit
        self._waiting: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        name, is_waiting = request_context(scope).caller.name, True
        if self._waiting[name] >= self._limit:
            error = TooManyRequests(
                f"{self._limit} requests of {name} are waiting for their responses already.",
                waiting=self._limit,
            )
            return await problems.answer(scope, error)(scope, receive, send)

        async def send_and_release(message: Message) -> None:
            nonlocal is_waiting
            if is_waiting:
                is_waiting = False
                self._release(name)
            await send(message)

        self._waiting[name] += 1
        try:
            return await self._app(scope, receive, send_and_release)
        finally:
            if is_waiting:
                self._release(name)

    def _release(self, name: str) -> None:
        """Count one waiting request less; drop a caller's entry with its last one."""
        self._waiting[name] -= 1
        if not self._waiting[name]:
            del self._waiting[name]
