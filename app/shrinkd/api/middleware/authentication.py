"""Who sends a request, found before anything looks at it.

By the token that it carries, or else by the other end of its connection.

Pure ASGI and outside of all that answers, so that a new route asks for a caller unless it is named
here.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from shrinkd.api.http import problems
from shrinkd.api.http.dependencies import Parts
from shrinkd.api.http.request_context import request_context
from shrinkd.auth import ANYONE, NOBODY, Caller, Level
from shrinkd.errors import ShrinkdError, TokenRefused, Unauthenticated

_OPEN = frozenset(("/", "/livez", "/readyz", "/version", "/docs", "/openapi.json", "/problems"))
_OPEN_BELOW = ("/problems/", "/ui/")
"""What tells nothing of this node: for supervisors that have no token, and for pages that explain
how to get one."""


class Authentication:
    """Puts the caller of a request into its scope, and answers 401 or 403 where there is none."""

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
    """Who sends a request, by what holds now.

    Unauthenticated, TokenRefused, and Forbidden for who may do nothing.
    """
    path: str = scope["path"]
    if path in _OPEN or path.startswith(_OPEN_BELOW):
        return NOBODY
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    wiring: Parts = scope["app"].state.wiring
    caller = _bearer(wiring, given) if given else _peer(wiring, request_context(scope).peer)
    if not caller.grants:
        caller.require(Level.READ)
    return caller


def _bearer(wiring: Parts, given: list[bytes]) -> Caller:
    """Who sends a token counts as its bearer, also where the connection would do.

    Its scopes may be narrower, and were chosen.
    """
    scheme, _, secret = given[0].partition(b" ")
    if len(given) > 1 or scheme.lower() != b"bearer":
        raise Unauthenticated("Authorization is taken once, and as Bearer with a token.")
    if wiring.tokens is None:
        raise TokenRefused("The token that was sent is none that holds here now.")
    return wiring.tokens.bearer(secret.strip())


def _peer(wiring: Parts, peer: Caller | None) -> Caller:
    if wiring.tokens is None:
        return peer or ANYONE  # the server listens so only where that is safe
    if peer is None:
        raise Unauthenticated(
            "A token is wanted here: send Authorization: Bearer and one of `shrinkd token make`."
        )
    return wiring.tokens.certified(peer)
