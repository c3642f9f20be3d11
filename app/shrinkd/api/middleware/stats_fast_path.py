"""The short way to one group's stats, the request that is repeated most.

Around what only other requests need.

FastAPI's routing and solver would be two thirds of it. A request that is anything but plain (a
query, a condition, an error) takes the long way, where the same function answers it; so the lane
decides nothing, it only saves.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from shrinkd.api.http.dependencies import Parts
from shrinkd.api.http.etags import etag_of_bytes
from shrinkd.api.http.group_reference import resolve
from shrinkd.api.http.request_context import request_context
from shrinkd.api.routes.stats import stats_bytes
from shrinkd.errors import ShrinkdError

_BEFORE, _BEHIND = "/v1/groups/", "/stats"


class StatsFastPath:
    """Answers a plain GET /v1/groups/{group}/stats, and hands everything else on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = _content(scope) if _is_plain(scope) else None
        if content is None:
            return await self._app(scope, receive, send)
        request_context(scope).operation = "get_stats"
        length, etag = str(len(content)).encode(), etag_of_bytes(content).encode()
        headers = [
            (b"content-length", length),
            (b"content-type", b"application/json"),
            (b"etag", etag),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        return await send({"type": "http.response.body", "body": content})


def _is_plain(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
        return False
    path: str = scope["path"]
    return (
        path.startswith(_BEFORE)
        and path.endswith(_BEHIND)
        and not any(name.startswith(b"if-") for name, _ in scope["headers"])
    )


def _content(scope: Scope) -> bytes | None:
    wiring: Parts = scope["app"].state.wiring
    reference = scope["path"][len(_BEFORE) : -len(_BEHIND)]
    try:
        group = resolve(wiring.backend, reference, request_context(scope).caller)
        return stats_bytes(group, wiring.backend.stat(group))
    except ShrinkdError:
        return None  # the long way finds the same, and words it
