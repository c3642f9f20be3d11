"""Around every answer.

A request id, a line in the log, and HEAD wherever there is GET (RFC 9110, section 9.3.2).

Pure ASGI, because Starlette's BaseHTTPMiddleware costs more than the rest of the request.
"""

import itertools
import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shrinkd import logs
from shrinkd.api.http.request_context import request_context, start

log = logging.getLogger("shrinkd.access")
_STARTED = secrets.token_hex(
    4
)  # and a number behind it: unique without asking the kernel for chance each time
_numbers = itertools.count(1)
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_NO_OPERATION = "none"
_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """Gives every request an id, the client's own where it is harmless, and every response the
    header Request-Id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id, began, status, ended = _request_id(scope), time.monotonic(), 500, False
        context = start(scope, request_id)
        logs.request_id.set(
            request_id
        )  # a request is a task of its own, and its context ends with it
        header, is_head = (b"request-id", request_id.encode()), scope["method"] == "HEAD"
        inner = (
            {**scope, "method": "GET"} if is_head else scope
        )  # a copy: the server has to know that no body follows

        async def send_with_id(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], header, _NO_SNIFFING]}
            elif is_head:
                message = {
                    "type": "http.response.body"
                }  # the end, before a stream has got any further
            if not ended:
                ended = is_head and message["type"] == "http.response.body"
                await send(message)

        try:
            return await self._app(inner, receive, send_with_id)
        finally:
            seconds = time.monotonic() - began
            scope["app"].state.wiring.requests.note(
                context.operation or _NO_OPERATION, status, seconds
            )
            _note(scope, status, seconds)


def _request_id(scope: Scope) -> str:
    given = next(
        (value.decode("latin-1") for name, value in scope["headers"] if name == b"request-id"), ""
    )
    return given if _HARMLESS.fullmatch(given) else f"{_STARTED}-{next(_numbers):x}"


def _note(scope: Scope, status: int, seconds: float) -> None:
    """Changes and problems are news.

    Reads, which clients repeat by the thousand, are only for debugging.
    """
    level = logging.DEBUG if scope["method"] in {"GET", "HEAD"} and status < 400 else logging.INFO
    if log.isEnabledFor(level):
        fields = {
            "caller": request_context(scope).caller.name,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
        }
        log.log(
            level,
            "%s %a %d",
            scope["method"],
            scope["path"],
            status,
            extra={"fields": {**fields, "seconds": round(seconds, 6)}},
        )
