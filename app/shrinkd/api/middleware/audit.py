"""Record every attempted change in the audit log.

A change is recorded before it is made, and its outcome afterwards. A dry run, and a request that
reached no route, are recorded with their outcome only.

The route calls `begin_attempt`, because it knows the operation and the parsed body; the middleware
records the outcome, because it also sees requests that reached no route.
"""

import asyncio
import json

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shrinkd.api.http.dependencies import Parts, is_dry_run
from shrinkd.api.http.request_context import request_context
from shrinkd.events import outcome
from shrinkd.storage import AuditRow, new_id, now

_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_READ_ONLY_OPERATIONS = frozenset(("evaluate_policy",))
_MAX_CHARACTERS = 2048
"""Characters of a path or body that are recorded; the rest is cut off."""


async def begin_attempt(request: Request, operation: str, body: object) -> None:
    """Record a change that is about to be made; return when the row is in the database.

    Reads are not recorded, dry runs only when they are done.
    """
    scope = request.scope
    context = request_context(scope)
    context.operation = operation
    if scope["method"] in _SAFE_METHODS or operation in _READ_ONLY_OPERATIONS:
        return
    context.audit_row = row = _row(scope, operation, body, dry_run=is_dry_run(request))
    if row.dry_run:
        return
    parts: Parts = scope["app"].state.parts
    await asyncio.wrap_future(parts.audit.begin(row))
    context.is_audit_row_stored = True


class AuditMiddleware:
    """Records the outcome of every request that could have changed something."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _SAFE_METHODS:
            return await self._app(scope, receive, send)
        status = 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            return await self._app(scope, receive, send_and_note_status)
        finally:
            _record_outcome(scope, status)


def _record_outcome(scope: Scope, status: int) -> None:
    context, parts = request_context(scope), scope["app"].state.parts
    if context.operation in _READ_ONLY_OPERATIONS:
        return
    row, group = context.audit_row or _row(scope, None, None, dry_run=False), context.group
    found = None if group is None else {"id": group.id, "path": group.path}
    ended = outcome(status, context.problem, found)
    if context.is_audit_row_stored:
        parts.audit.finish(row.id, ended)
    else:
        parts.audit.note(row.ended(ended))


def _row(scope: Scope, operation: str | None, body: object, *, dry_run: bool) -> AuditRow:
    """Build the audit row of an attempt without an outcome."""
    context, text = request_context(scope), json.dumps(body)
    return AuditRow(
        id=new_id(),
        at=now(),
        caller=context.caller.name,
        operation=operation,
        method=scope["method"][:16],
        path=scope["raw_path"].decode("latin-1")[:_MAX_CHARACTERS],
        request_id=context.request_id,
        dry_run=dry_run,
        body=body if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…",
    )
