"""A client of the daemon, in Python: Client, and AsyncClient for who awaits. It needs httpx, and nothing else of shrinkd.

with Client() as shrinkd:
    shrinkd.set_limits("web", max_bytes="400M")
    for shrink in shrinkd.shrink("web", target_bytes="200M", set_max_bytes="200M"):
        print(shrink["progress"]["usage_bytes"])
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Self

import httpx

from app.client._bodies import (
    Decision,
    Evaluation,
    Event,
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
from app.client._flows import Terms
from app.client._operations import Operations
from app.client._problems import (
    ClientError,
    LimitBelowUsage,
    NotFound,
    NotUnderstood,
    PreconditionFailed,
    Problem,
    ShrinkFailed,
    ShrinkInProgress,
    TooLate,
    TryAgain,
    Unreachable,
)
from app.client._shells import Awaiting, Blocking
from app.client._shrinking import AsyncShrinkHandle, ShrinkHandle

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
]
_SOCKET = "/run/shrinkd/api.sock"
_SIMULATOR = "http://127.0.0.1:8080"
_TERMS = Terms()


def address_of(url: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Where the daemon is: what is given, or SHRINKD_URL, or where SHRINKD_LISTEN has it listen, or where it does by default.

    That is unix:/run/shrinkd/api.sock where it exists, and otherwise where a simulator listens. ValueError for what is no address.
    """
    listens = environ.get("SHRINKD_LISTEN", "").partition(",")[0].strip()
    usual = f"unix:{_SOCKET}" if Path(_SOCKET).exists() else _SIMULATOR
    address = url or environ.get("SHRINKD_URL") or listens.replace("tcp:", "http://") or usual
    if not address.startswith(("unix:/", "http://", "https://")):
        raise ValueError(f"{address!r} is no address of a daemon: write unix:/PATH or http://HOST:PORT, or https")
    return address.rstrip("/")


def _header(token: str | None) -> dict[str, str]:
    token = token or os.environ.get("SHRINKD_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _base(address: str) -> str:
    return "http://localhost" if address.startswith("unix:") else address


def _way(address: str) -> tuple[str | None, bool]:
    """The socket of an address, if it has one, and whether there is a certificate to look at."""
    return address.removeprefix("unix:") if address.startswith("unix:") else None, address.startswith("https:")


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
        """Connect to what address_of() finds. The token, else SHRINKD_TOKEN, is sent and never shown.

        A transport of one's own, such as one with a client certificate, is used as it is.
        """
        address = address_of(url)
        socket, is_tls = _way(address)
        transport = transport or httpx.HTTPTransport(uds=socket, verify=is_tls)
        http = httpx.Client(base_url=_base(address), headers=_header(token), transport=transport)
        super().__init__(address, http, terms, sleep)

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
    """The daemon, from code that awaits. Use it as an asynchronous context manager, or aclose() it."""

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
        address = address_of(url)
        socket, is_tls = _way(address)
        transport = transport or httpx.AsyncHTTPTransport(uds=socket, verify=is_tls)
        http = httpx.AsyncClient(base_url=_base(address), headers=_header(token), transport=transport)
        super().__init__(address, http, terms, sleep)

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r})"

    async def aclose(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
