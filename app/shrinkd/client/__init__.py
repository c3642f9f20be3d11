"""A client of the daemon, in Python.

Client, and AsyncClient for who awaits. It needs httpx, and nothing else of shrinkd.

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
from shrinkd.client._transports import Awaiting, Blocking
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
    """Where the daemon is.

    What is given, or SHRINKD_URL, or where SHRINKD_LISTEN has it listen, or where it does by
    default.

    That is unix:/run/shrinkd/api.sock where it exists, and otherwise where a simulator listens.
    ValueError for what is no address.
    """
    return find_address(url, environ).url


def is_unverified(url: str | None = None, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether address_of() finds a TCP port that nobody named, on which any user of this host
    may listen.

    ValueError as there.
    """
    address = find_address(url, environ)
    return not address.is_named and address.socket is None


def _header(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _base(address: Address) -> str:
    return "http://localhost" if address.socket else address.url


def _is_tls(address: Address) -> bool:
    """Whether there is a certificate to look at."""
    return address.url.startswith("https:")


class Client(Operations, Blocking):
    """The daemon, from code that blocks. Use it as a context manager, or close() it."""

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        terms: Terms = _TERMS,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect to what address_of() finds.

        The token, else SHRINKD_TOKEN, is sent and never shown.

        It goes to an address that is given or that SHRINKD_URL names, else to root or the own user
        on a unix socket, and never in the clear beyond this host: ValueError, or NotTrusted from
        the first call. No proxy, no redirect and no netrc has a part in it. A transport of one's
        own, such as one with a client certificate, is used as it is, with the token.
        """
        address = find_address(url)
        known = (
            (token or os.environ.get("SHRINKD_TOKEN")) if transport else token_for(address, token)
        )
        if transport is None:
            kind = (
                OwnedTransport
                if known and address.socket and not address.is_named
                else httpx.HTTPTransport
            )
            transport = kind(uds=address.socket, verify=_is_tls(address))
        http = httpx.Client(
            base_url=_base(address),
            headers=_header(known),
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


class AsyncClient(Operations, Awaiting):
    """The daemon, from code that awaits.

    Use it as an asynchronous context manager, or aclose() it.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        terms: Terms = _TERMS,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """As Client has it."""
        address = find_address(url)
        known = (
            (token or os.environ.get("SHRINKD_TOKEN")) if transport else token_for(address, token)
        )
        if transport is None:
            kind = (
                AsyncOwnedTransport
                if known and address.socket and not address.is_named
                else httpx.AsyncHTTPTransport
            )
            transport = kind(uds=address.socket, verify=_is_tls(address))
        http = httpx.AsyncClient(
            base_url=_base(address),
            headers=_header(known),
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
