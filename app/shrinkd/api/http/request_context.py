"""Typed state of one request, shared by the middleware, the dependencies and the routes.

The outermost middleware (`middleware/request_id.py`) calls `start`; everything inside reads and
fills the same object through `request_context`. It replaces string keys in `scope["state"]`.
"""

from dataclasses import dataclass

from starlette.types import Scope

from shrinkd.auth import NOBODY, Caller
from shrinkd.backends import Group
from shrinkd.storage import AuditRow

_SCOPE_KEY = "shrinkd.request"


@dataclass(slots=True)
class RequestContext:
    """State of one request. Each field names the part that sets it."""

    request_id: str = ""
    """Set by the outermost middleware; repeated in `Request-Id`, the log and `instance`."""
    peer: Caller | None = None
    """Caller known from the connection alone (unix socket, client certificate), set by the server;
    None over plain TCP."""
    caller: Caller = NOBODY
    """Authenticated caller, set by `middleware/authentication.py`. Until then NOBODY, who holds no
    scope."""
    operation: str | None = None
    """operationId of the matched route, set by the route or the fast path."""
    group: Group | None = None
    """Group that the path names, set when it has been resolved."""
    problem: str | None = None
    """Slug of the problem that the response carries, set by `http/problems.py`."""
    audit_row: AuditRow | None = None
    """Audit row of the attempted change, set when the route has read the body."""
    is_audit_row_stored: bool = False
    """True once `audit_row` is in the database; until then it is written with its outcome."""
    resource_id: str | None = None
    """Id reserved by the Idempotency-Key for the resource that the request creates, so that a retry
    creates the same one; None without a key."""


def start(scope: Scope, request_id: str) -> RequestContext:
    """Create the context of a request and store it in its ASGI scope.

    The server room puts the peer of the connection into `scope["state"]["peer"]`.
    """
    peer: Caller | None = scope.get("state", {}).get("peer")
    context = scope[_SCOPE_KEY] = RequestContext(request_id=request_id, peer=peer)
    return context


def request_context(scope: Scope) -> RequestContext:
    """Return the context of a request; an empty one, without a caller, if none was started."""
    context: RequestContext | None = scope.get(_SCOPE_KEY)
    if context is None:
        context = scope[_SCOPE_KEY] = RequestContext()
    return context
