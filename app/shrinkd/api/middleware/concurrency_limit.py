"""How many requests of one caller may wait for their answers.

Whoever asks for more in one instant is told to come back.
"""

from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shrinkd.api.http import problems
from shrinkd.api.http.request_context import request_context
from shrinkd.errors import TooManyRequests

# more than the connections that client libraries open by themselves, and 50 clients on one socket
MOST_WAITING = 128


class ConcurrencyLimit:
    """Answers 429 to a caller of whose requests that many wait.

    One whose answer has begun, as a stream's has, waits no more.
    """

    def __init__(self, app: ASGIApp, most: int = MOST_WAITING) -> None:
        self._app = app
        self._most = most
        self._waiting: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        name, waits = request_context(scope).caller.name, True
        if self._waiting[name] >= self._most:
            error = TooManyRequests(
                f"{self._most} requests of {name} wait for their answers already.",
                waiting=self._most,
            )
            return await problems.answer(scope, error)(scope, receive, send)

        async def send_begun(message: Message) -> None:
            nonlocal waits
            if waits:
                waits = self._leave(name)
            await send(message)

        self._waiting[name] += 1
        try:
            return await self._app(scope, receive, send_begun)
        finally:
            if waits:
                self._leave(name)

    def _leave(self, name: str) -> bool:
        """Count one less, and forget who has none. Answers False: it waits no more."""
        self._waiting[name] -= 1
        if not self._waiting[name]:
            del self._waiting[name]
        return False
