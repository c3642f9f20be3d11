"""Every attempted change on its way into the audit.

Before it is made where it would change something, and after the fact where not.

The route knows the operation and the body, the middleware around everything knows how it ended, and
who never came to a route.
"""

import asyncio
import json

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shrinkd.api.http.dependencies import Parts, caller_of, is_dry_run
from shrinkd.events import outcome
from shrinkd.storage import AuditRow, new_id, now

_READING = frozenset(("GET", "HEAD", "OPTIONS"))
_CHANGES_NOTHING = frozenset(("evaluate_policy",))
_MOST_CHARACTERS = 2048


async def attempt(request: Request, operation: str, body: object) -> None:
    """Write down what is about to be tried."""
    scope = request.scope
    state = scope.setdefault("state", {})
    state["operation"] = operation
    if scope["method"] in _READING or operation in _CHANGES_NOTHING:
        return
    state["attempt"] = row = _row(scope, operation, body, dry_run=is_dry_run(request))
    if row.dry_run:
        return
    wiring: Parts = scope["app"].state.wiring
    await asyncio.wrap_future(wiring.audit.begin(row))
    state["is_written"] = True


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
    state, wiring = scope["state"], scope["app"].state.wiring
    if state.get("operation") in _CHANGES_NOTHING:
        return
    row, group = state.get("attempt") or _row(scope, None, None, dry_run=False), state.get("group")
    ended = outcome(status, state.get("problem"), group and {"id": group.id, "path": group.path})
    if state.get("is_written"):
        wiring.audit.finish(row.id, ended)
    else:
        wiring.audit.note(row.ended(ended))


def _row(scope: Scope, operation: str | None, body: object, *, dry_run: bool) -> AuditRow:
    text = json.dumps(body)
    return AuditRow(
        id=new_id(),
        at=now(),
        caller=caller_of(scope).name,
        operation=operation,
        method=scope["method"][:16],
        path=scope["raw_path"].decode("latin-1")[:_MOST_CHARACTERS],
        request_id=scope["state"]["request_id"],
        dry_run=dry_run,
        body=body if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…",
    )
