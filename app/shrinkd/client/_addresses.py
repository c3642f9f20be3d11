"""The address of the daemon, and the rule by which a token may be sent to an address.

A token is sent to an address that the caller named, by the argument or by SHRINKD_URL. On the unix
socket where a daemon listens by default, the kernel tells which user listens: the token is sent to
root and to the caller's own user. Any user of this host may listen on the default TCP port of the
simulator, so no token is sent there.
"""

import ipaddress
import logging
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from shrinkd import default_paths
from shrinkd.client.errors import NotTrusted

_SIMULATOR = "http://127.0.0.1:8080"
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_CONNECTED = "connection.connect_unix_socket.complete"
"""An event of httpcore's "trace", at which nothing has been sent yet."""

log = logging.getLogger("shrinkd.client")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a daemon: unix:/PATH, http://HOST:PORT or https://HOST:PORT."""

    url: str
    is_named: bool
    """Given by an argument or by SHRINKD_URL, and not a default."""

    @property
    def socket(self) -> str | None:
        """The path of a unix socket; None for TCP."""
        return self.url.removeprefix("unix:") if self.url.startswith("unix:") else None

    @property
    def is_clear(self) -> bool:
        """True if other hosts could read what is sent: plain HTTP beyond this host."""
        return self.url.startswith("http:") and not _is_loopback(urlsplit(self.url).hostname or "")


def find_address(url: str | None = None, environ: Mapping[str, str] = os.environ) -> Address:
    """Return the address of the daemon.

    The first of: `url`, SHRINKD_URL, the first address of SHRINKD_LISTEN, the socket of this user's
    daemon if it exists ($XDG_RUNTIME_DIR/shrinkd/api.sock), the socket of the system's daemon if it
    exists (/run/shrinkd/api.sock), the default port of the simulator. ValueError if malformed.
    """
    named = url or environ.get("SHRINKD_URL")
    listens = environ.get("SHRINKD_LISTEN", "").partition(",")[0].strip()
    address = named or listens.replace("tcp:", "http://") or _default_url(environ)
    if not address.startswith(("unix:/", "http://", "https://")):
        raise ValueError(
            f"{address!r} is no address of a daemon: write unix:/PATH or http://HOST:PORT, or https"
        )
    return Address(address.rstrip("/"), is_named=bool(named))


def _default_url(environ: Mapping[str, str]) -> str:
    for path in (default_paths.socket_path(environ), default_paths.SYSTEM_SOCKET):
        if path is not None and path.exists():
            return f"unix:{path}"
    return _SIMULATOR


def token_for(
    address: Address, given: str | None, environ: Mapping[str, str] = os.environ
) -> str | None:
    """Return the token to send to an address: `given`, else SHRINKD_TOKEN, else None.

    SHRINKD_TOKEN is not sent to the default TCP port; a warning in the log says so. ValueError for
    a `given` token there, and for any token over plain HTTP to another host.
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
            f"the token is not sent to {address.url}, where any user of this host may listen: give "
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
    """A transport to a unix socket on which root or the caller's own user listens.

    NotTrusted, before anything is sent, where another user listens.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "trace": _check_peer}
        return super().handle_request(request)


class AsyncOwnedTransport(httpx.AsyncHTTPTransport):
    """OwnedTransport for AsyncClient."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "trace": _check_peer_awaited}
        return await super().handle_async_request(request)


def _check_peer(event: str, info: Mapping[str, Any]) -> None:
    if refusal := _peer_refusal(event, info):
        info["return_value"].close()
        raise refusal


async def _check_peer_awaited(event: str, info: Mapping[str, Any]) -> None:
    if refusal := _peer_refusal(event, info):
        await info["return_value"].aclose()
        raise refusal


def _peer_refusal(event: str, info: Mapping[str, Any]) -> NotTrusted | None:
    """Return the reason not to use a connection that was just made; None if it may be used."""
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
        "token is sent there unless SHRINKD_URL, or the url that is given, names that socket."
    )
