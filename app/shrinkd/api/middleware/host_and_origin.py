"""Refuse requests that a foreign web page makes a browser send.

Two attacks are covered. Cross-site request forgery: a page can make a browser send a POST without a
body, such as a cancel, to any address without a preflight; Sec-Fetch-Site or Origin names the page.
DNS rebinding: a page can make its own host name resolve to this daemon, and would then read the
responses as well; Host names that foreign host.

Starlette's TrustedHostMiddleware is no replacement: it answers 400 in plain text, where every error
is a problem, and it does not look at Origin or exempt unix sockets.
"""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from shrinkd.api.http import problems
from shrinkd.api.http.dependencies import Parts
from shrinkd.errors import CrossSiteRequest, MisdirectedRequest, ShrinkdError

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SHARED_NAMES = frozenset({"", "localhost"})
"""Names that other servers on this host answer to as well, on other ports: as an Origin they prove
nothing unless the port is ours, too."""
_OWN_SITES = frozenset({b"same-origin", b"none"})
"""Values of Sec-Fetch-Site for our own pages and for an address that a user typed."""


class HostAndOriginCheck:
    """Answers 421 to a foreign Host, and 403 to a change that a foreign page sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope) if scope["type"] == "http" else None
        if refusal is not None:
            return await problems.answer(scope, refusal)(scope, receive, send)
        return await self._app(scope, receive, send)


def _refusal(scope: Scope) -> ShrinkdError | None:
    parts: Parts = scope["app"].state.parts
    own_names = parts.settings.host_names
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    is_tcp = scope["server"] is not None and scope["server"][1] is not None
    if is_tcp and _host_name(host) not in own_names:
        return MisdirectedRequest(
            f"The request is for the host {host[:255].decode('latin-1')!a}, which is not a name of "
            "this daemon."
        )
    if scope["method"] not in _SAFE_METHODS and not _is_own(
        dict(scope["headers"]), host, own_names
    ):
        return CrossSiteRequest("A browser sent this change on behalf of a page of another site.")
    return None


def _is_own(headers: dict[bytes, bytes], host: bytes, own_names: frozenset[str]) -> bool:
    """Tell whether a change comes from a program or from a page of this daemon.

    With Sec-Fetch-Site the browser has compared the origins itself; without Origin the sender is
    not a browser.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        return site in _OWN_SITES
    if origin is None:
        return True
    authority = origin.partition(b"://")[2]
    return authority == host or _host_name(authority) in own_names - _SHARED_NAMES


@lru_cache(256)
def _host_name(host: bytes) -> str | None:
    """Return the host name in "host:port"; "" for an IP address, None for neither.

    An address cannot be rebound, so it counts as ours.
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
