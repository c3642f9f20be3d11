"""The Python client of the daemon, blocking (Client) and asynchronous (AsyncClient).

It needs httpx, and none of the server's dependencies.

with Client() as shrinkd:
    shrinkd.set_limits("web", max_bytes="400M")
    for shrink in shrinkd.shrink("web", target_bytes="200M", set_max_bytes="200M"):
        print(shrink["progress"]["usage_bytes"])
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

import httpx

from shrinkd.client._addresses import (
    Address,
    AsyncOwnedTransport,
    OwnedTransport,
    find_address,
    token_for,
)
from shrinkd.client._events import Event
from shrinkd.client._flows import Terms
from shrinkd.client._operations import Operations
from shrinkd.client._shrink_handle import AsyncShrinkHandle, ShrinkHandle
from shrinkd.client._transports import AsyncRunner, BlockingRunner
from shrinkd.client.errors import (
    ClientError,
    LimitBelowUsage,
    NotFound,
    NotTrusted,
    NotUnderstood,
    PreconditionFailed,
    Problem,
    ShrinkFailed,
    ShrinkInProgress,
    TooLate,
    TryAgain,
    Unreachable,
)
from shrinkd.client.types import (
    Decision,
    Evaluation,
    Group,
    History,
    Limits,
    LimitsPatch,
    NewShrink,
    Node,
    Policy,
    Progress,
    Shrink,
    Size,
    Stats,
    StatsList,
    Version,
)

__all__ = [
    "AsyncClient",
    "AsyncShrinkHandle",
    "Client",
    "ClientError",
    "Decision",
    "Evaluation",
    "Event",
    "Group",
    "History",
    "LimitBelowUsage",
    "Limits",
    "LimitsPatch",
    "NewShrink",
    "Node",
    "NotFound",
    "NotTrusted",
    "NotUnderstood",
    "Policy",
    "PreconditionFailed",
    "Problem",
    "Progress",
    "Shrink",
    "ShrinkFailed",
    "ShrinkHandle",
    "ShrinkInProgress",
    "Size",
    "Stats",
    "StatsList",
    "Terms",
    "TooLate",
    "TryAgain",
    "Unreachable",
    "Version",
    "address_of",
    "is_unverified",
]
_TERMS = Terms()


def address_of(url: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the address of the daemon that a client without `transport` connects to.

    The first of: `url`, SHRINKD_URL, the first address of SHRINKD_LISTEN, the socket of this user's
    daemon if it exists, the socket of the system's daemon if it exists, and the default port of the
    simulator, http://127.0.0.1:8080. ValueError if it is malformed.
    """
    return find_address(url, environ).url


def is_unverified(url: str | None = None, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether address_of() is a TCP port that neither `url` nor SHRINKD_URL named.

    Any user of this host may listen there. ValueError as there.
    """
    address = find_address(url, environ)
    return not address.is_named and address.socket is None


def _token(address: Address, given: str | None, *, is_trusted: bool) -> str | None:
    """Return the token to send; an own transport is trusted to connect to the right daemon."""
    if is_trusted:
        return given or os.environ.get("SHRINKD_TOKEN")
    return token_for(address, given)


def _header(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _base(address: Address) -> str:
    return "http://localhost" if address.socket else address.url


def _is_tls(address: Address) -> bool:
    """Tell whether there is a certificate to verify."""
    return address.url.startswith("https:")


class Client(Operations, BlockingRunner):
    """The blocking client. Use it as a context manager, or close() it."""

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        terms: Terms = _TERMS,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make a client of the daemon at address_of(url).

        `token`, else SHRINKD_TOKEN, is sent to an address that `url` or SHRINKD_URL names, and on a
        default unix socket to root and this user: NotTrusted from the first call otherwise.
        ValueError if the token would be sent to another host without TLS. Proxies, redirects and
        .netrc are not used. A `transport`, such as one with a client certificate, gets the token
        without these checks.
        """
        address = find_address(url)
        token = _token(address, token, is_trusted=transport is not None)
        if transport is None:
            kind = (
                OwnedTransport
                if token and address.socket and not address.is_named
                else httpx.HTTPTransport
            )
            transport = kind(uds=address.socket, verify=_is_tls(address))
        http = httpx.Client(
            base_url=_base(address),
            headers=_header(token),
            transport=transport,
            trust_env=False,
            follow_redirects=False,
        )
        super().__init__(address.url, http, terms, sleep)

    def __repr__(self) -> str:
        return f"Client({self.address!r})"

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(Operations, AsyncRunner):
    """The asynchronous client. Use it as an asynchronous context manager, or aclose() it."""

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        terms: Terms = _TERMS,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Make a client, as Client() does."""
        address = find_address(url)
        token = _token(address, token, is_trusted=transport is not None)
        if transport is None:
            kind = (
                AsyncOwnedTransport
                if token and address.socket and not address.is_named
                else httpx.AsyncHTTPTransport
            )
            transport = kind(uds=address.socket, verify=_is_tls(address))
        http = httpx.AsyncClient(
            base_url=_base(address),
            headers=_header(token),
            transport=transport,
            trust_env=False,
            follow_redirects=False,
        )
        super().__init__(address.url, http, terms, sleep)

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r})"

    async def aclose(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
