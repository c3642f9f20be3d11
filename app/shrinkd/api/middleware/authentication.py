"""Authenticate every request, by its bearer token or else by the peer of its connection.

Pure ASGI middleware outside of every route, so that a new route requires a caller unless its path
is listed here as public.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from shrinkd.api.http import problems
from shrinkd.api.http.dependencies import Parts
from shrinkd.api.http.request_context import request_context
from shrinkd.auth import ANYONE, NOBODY, Caller, Level
from shrinkd.errors import ShrinkdError, TokenRefused, Unauthenticated

_PUBLIC_PATHS = frozenset(
    ("/", "/livez", "/readyz", "/version", "/docs", "/openapi.json", "/problems")
)
"""Paths that need no caller, because they disclose nothing of the node: probes of supervisors,
which have no token, and pages that explain how to get one."""
_PUBLIC_PREFIXES = ("/problems/", "/ui/")


class Authentication:
    """Stores the caller of a request in its context; answers 401 or 403 if there is none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                request_context(scope).caller = find_caller(scope)
            except ShrinkdError as error:
                return await problems.answer(scope, error)(scope, receive, send)
        return await self._app(scope, receive, send)


def find_caller(scope: Scope) -> Caller:
    """Authenticate a request by the tokens that are valid now.

    Raises Unauthenticated without credentials, TokenRefused for an invalid token, Forbidden for a
    caller without any scope.
    """
    path: str = scope["path"]
    if path in _PUBLIC_PATHS or path.startswith(_PUBLIC_PREFIXES):
        return NOBODY
    credentials = [value for name, value in scope["headers"] if name == b"authorization"]
    parts: Parts = scope["app"].state.parts
    caller = (
        _by_token(parts, credentials)
        if credentials
        else _by_peer(parts, request_context(scope).peer)
    )
    if not caller.grants:
        caller.require(Level.READ)
    return caller


def _by_token(parts: Parts, credentials: list[bytes]) -> Caller:
    """Authenticate by the Authorization header, which goes before the peer of the connection.

    The client has chosen the token, and its scopes may be narrower.
    """
    scheme, _, secret = credentials[0].partition(b" ")
    if len(credentials) > 1 or scheme.lower() != b"bearer":
        raise Unauthenticated("Send one Authorization header, of the form: Bearer TOKEN.")
    if parts.tokens is None:
        raise TokenRefused("The token is not valid.")
    return parts.tokens.bearer(secret.strip())


def _by_peer(parts: Parts, peer: Caller | None) -> Caller:
    if parts.tokens is None:
        # without tokens, server/listen.py serves TCP for the simulator only
        return peer or ANYONE
    if peer is None:
        raise Unauthenticated(
            "A token is required: send Authorization: Bearer and a token of `shrinkd token make`."
        )
    return parts.tokens.certified(peer)
