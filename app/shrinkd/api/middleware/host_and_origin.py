"""What a browser was talked into.

Requests for a name that is not ours (DNS rebinding), and changes sent by a page from elsewhere.

A page can make a browser send a POST without a body anywhere, such as a cancel, and asks nobody.
And where its own name is made to lead to this address, it may read the answers as well. Neither can
hide its name: it stands in Host or in Origin.
"""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from shrinkd.api.http import problems
from shrinkd.api.http.dependencies import Parts
from shrinkd.errors import CrossSiteRequest, MisdirectedRequest, ShrinkdError

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_SHARED = frozenset({"", "localhost"})  # with other servers of this host, each on a port of its own
_OUR_SITES = frozenset({b"same-origin", b"none"})


class HostAndOriginCheck:
    """Answers 421 and 403 to such requests, before anything looks at them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope) if scope["type"] == "http" else None
        if refusal is not None:
            return await problems.answer(scope, refusal)(scope, receive, send)
        return await self._app(scope, receive, send)


def _refusal(scope: Scope) -> ShrinkdError | None:
    wiring: Parts = scope["app"].state.wiring
    ours = wiring.settings.host_names
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    is_tcp = scope["server"] is not None and scope["server"][1] is not None
    if is_tcp and _host_name(host) not in ours:
        return MisdirectedRequest(
            f"The request is for {host[:255].decode('latin-1')!a}, which is no name of this daemon."
        )
    if scope["method"] not in _READING and not _is_own(dict(scope["headers"]), host, ours):
        return CrossSiteRequest("A browser sent this change for a page that is not of this daemon.")
    return None


def _is_own(headers: dict[bytes, bytes], host: bytes, ours: frozenset[str]) -> bool:
    """Whether a program sent it, or a browser for a page of ours.

    Where Sec-Fetch-Site stands, the browser has compared the two.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        return site in _OUR_SITES
    if origin is None:
        return True
    authority = origin.partition(b"://")[2]
    return authority == host or _host_name(authority) in ours - _SHARED


@lru_cache(256)
def _host_name(host: bytes) -> str | None:
    """The name in a host with a port, "" for an address, which nobody can make lead elsewhere.

    None for what is neither.
    """
    name = None
    try:
        name = urlsplit(f"//{host.decode('ascii')}").hostname
        ipaddress.ip_address(name or "")
    except UnicodeDecodeError:
        return None
    except ValueError:
        return name.removesuffix(".") if name else None
    return ""
