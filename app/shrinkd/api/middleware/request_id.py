"""Outermost middleware: request id, access log, request metrics, and HEAD for every GET.

HEAD follows RFC 9110, section 9.3.2. Pure ASGI, because Starlette's BaseHTTPMiddleware costs more
than the rest of a request.
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
_PROCESS_ID = secrets.token_hex(4)
"""First part of generated request ids. The second is a counter, which costs less than a random
number from the kernel for each request."""
_numbers = itertools.count(1)
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_OPERATION = "none"
_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Request ids that are taken from the client: safe in a header, a log line and a document."""


class RequestId:
    """Starts the context of each request, and adds Request-Id to its response.

    The id is the client's own Request-Id if it has a safe form, else a generated one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id, began, status, ended = _request_id(scope), time.monotonic(), 500, False
        context = start(scope, request_id)
        logs.request_id.set(request_id)  # ends with the task of this request
        header, is_head = (b"request-id", request_id.encode()), scope["method"] == "HEAD"
        # a copy, because the server reads from the original that no body follows
        inner = {**scope, "method": "GET"} if is_head else scope

        async def send_with_id(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], header, _NOSNIFF]}
            elif is_head:
                message = {"type": "http.response.body"}  # ends the response, also of a stream
            if not ended:
                ended = is_head and message["type"] == "http.response.body"
                await send(message)

        try:
            return await self._app(inner, receive, send_with_id)
        finally:
            seconds = time.monotonic() - began
            scope["app"].state.parts.requests.note(
                context.operation or _NO_OPERATION, status, seconds
            )
            _log_access(scope, status, seconds)


def _request_id(scope: Scope) -> str:
    given = next(
        (value.decode("latin-1") for name, value in scope["headers"] if name == b"request-id"), ""
    )
    return given if _CLIENT_REQUEST_ID.fullmatch(given) else f"{_PROCESS_ID}-{next(_numbers):x}"


def _log_access(scope: Scope, status: int, seconds: float) -> None:
    """Log changes and problems at INFO, and successful reads, which are frequent, at DEBUG."""
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
