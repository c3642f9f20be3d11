"""Where the daemon is, and whether a token may go there.

A token goes to an address that somebody named: the argument, or SHRINKD_URL. On the unix socket
where a daemon listens by default it goes to root or to the user who has it, which the kernel tells.
Everything else that answers, such as on the port where a simulator listens by default, could be
anybody of this host, and gets none.
"""

import ipaddress
import logging
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from shrinkd.client.errors import NotTrusted

_SOCKET = "/run/shrinkd/api.sock"
_SIMULATOR = "http://127.0.0.1:8080"
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
# an event of httpcore's "trace": nothing has been sent by then
_CONNECTED = "connection.connect_unix_socket.complete"

log = logging.getLogger("shrinkd.client")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon is: unix:/PATH, http://HOST:PORT or https://HOST:PORT."""

    url: str
    is_named: bool
    """Whether it was given, by an argument or by SHRINKD_URL, and not assumed."""

    @property
    def socket(self) -> str | None:
        """The path of a unix socket; None for TCP."""
        return self.url.removeprefix("unix:") if self.url.startswith("unix:") else None

    @property
    def is_clear(self) -> bool:
        """Whether others between here and there could read what is sent."""
        return self.url.startswith("http:") and not _is_loopback(urlsplit(self.url).hostname or "")


def find_address(url: str | None = None, environ: Mapping[str, str] = os.environ) -> Address:
    """What is given, or SHRINKD_URL, or where SHRINKD_LISTEN has the daemon listen, or where it
    does by default.

    That is unix:/run/shrinkd/api.sock where it exists, and otherwise where a simulator listens.
    ValueError for what is no address.
    """
    named = url or environ.get("SHRINKD_URL")
    listens = environ.get("SHRINKD_LISTEN", "").partition(",")[0].strip()
    usual = f"unix:{_SOCKET}" if Path(_SOCKET).exists() else _SIMULATOR
    address = named or listens.replace("tcp:", "http://") or usual
    if not address.startswith(("unix:/", "http://", "https://")):
        raise ValueError(
            f"{address!r} is no address of a daemon: write unix:/PATH or http://HOST:PORT, or https"
        )
    return Address(address.rstrip("/"), is_named=bool(named))


def token_for(
    address: Address, given: str | None, environ: Mapping[str, str] = os.environ
) -> str | None:
    """The token to send to an address.

    What is given, else SHRINKD_TOKEN, which stays here where nobody named the address.

    ValueError where one that is given must not go there, and for any that others could read on its
    way.
    """
    token = given or environ.get("SHRINKD_TOKEN")
    if not token:
        return None
    if address.is_clear:
        raise ValueError(
            f"{address.url} would have the token sent in the clear, for others to read: use https, "
            "or unix:/PATH"
        )
    if address.is_named or address.socket:
        return token
    if given:
        raise ValueError(
            f"the token stays here, since nobody said that {address.url} is where it belongs: give "
            "the url, or SHRINKD_URL"
        )
    log.warning(
        "SHRINKD_TOKEN is not sent to %s, where anybody may listen: set SHRINKD_URL if it belongs "
        "there",
        address.url,
    )
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class OwnedTransport(httpx.HTTPTransport):
    """To a unix socket, and only while root or our own user listens there.

    NotTrusted before anything is sent to another.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "trace": _check_peer}
        return super().handle_request(request)


class AsyncOwnedTransport(httpx.AsyncHTTPTransport):
    """As OwnedTransport."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "trace": _check_peer_awaited}
        return await super().handle_async_request(request)


def _check_peer(event: str, info: Mapping[str, Any]) -> None:
    if refusal := _refusal(event, info):
        info["return_value"].close()
        raise refusal


async def _check_peer_awaited(event: str, info: Mapping[str, Any]) -> None:
    if refusal := _refusal(event, info):
        await info["return_value"].aclose()
        raise refusal


def _refusal(event: str, info: Mapping[str, Any]) -> NotTrusted | None:
    """Why a connection that was just made must not be used; None if it may be."""
    if event != _CONNECTED:
        return None
    connection: socket.socket = info["return_value"].get_extra_info("socket")
    _, uid, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    if uid in {0, os.geteuid()}:
        return None
    return NotTrusted(
        f"The user {uid} listens on {connection.getpeername()}, who is neither root nor you: no "
        "token is sent there unless SHRINKD_URL, "
        "or the url that is given, names that socket."
    )
