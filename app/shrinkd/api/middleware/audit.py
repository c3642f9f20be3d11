"""Every attempted change on its way into the audit.

Before it is made where it would change something, and after the fact where not.

The route knows the operation and the body, the middleware around everything knows how it ended, and
who never came to a route.
"""

import asyncio
import json

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shrinkd.api.http.dependencies import Parts, is_dry_run
from shrinkd.api.http.request_context import request_context
from shrinkd.events import outcome
from shrinkd.storage import Row, new_id, now

_READING = frozenset(("GET", "HEAD", "OPTIONS"))
_CHANGES_NOTHING = frozenset(("evaluate_policy",))
_MOST_CHARACTERS = 2048


async def attempt(request: Request, operation: str, body: object) -> None:
    """Write down what is about to be tried."""
    scope = request.scope
    context = request_context(scope)
    context.operation = operation
    if scope["method"] in _READING or operation in _CHANGES_NOTHING:
        return
    context.audit_row = row = _row(scope, operation, body, dry_run=is_dry_run(request))
    if row["dry_run"]:
        return
    wiring: Parts = scope["app"].state.wiring
    await asyncio.wrap_future(wiring.audit.begin(row))
    context.is_audit_row_stored = True


class AuditMiddleware:
    """Tells the audit what came of every request that could have changed something."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READING:
            return await self._app(scope, receive, send)
        status = 500

        async def send_on(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            return await self._app(scope, receive, send_on)
        finally:
            _tell(scope, status)


def _tell(scope: Scope, status: int) -> None:
    context, wiring = request_context(scope), scope["app"].state.wiring
    if context.operation in _CHANGES_NOTHING:
        return
    row, group = context.audit_row or _row(scope, None, None, dry_run=False), context.group
    found = None if group is None else {"id": group.id, "path": group.path}
    ended = outcome(status, context.problem, found)
    if context.is_audit_row_stored:
        wiring.audit.finish(row["id"], ended)
    else:
        wiring.audit.note({**row, **ended})


def _row(scope: Scope, operation: str | None, body: object, *, dry_run: bool) -> Row:
    text = json.dumps(body)
    return {
        "id": new_id(),
        "at": now(),
        "caller": request_context(scope).caller.name,
        "operation": operation,
        "method": scope["method"][:16],
        "path": scope["raw_path"].decode("latin-1")[:_MOST_CHARACTERS],
        "request_id": request_context(scope).request_id,
        "dry_run": dry_run,
        "body": body if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…",
        "group_id": None,
        "group_path": None,
        "status": None,
        "problem": None,
        "finished_at": None,
        "times": 1,
    }
