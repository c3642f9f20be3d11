"""Send bytes that no client library would send."""

import socket
from contextlib import suppress

import httpx

from tests.support.live_server import Live


def connected(live: Live, *, window_bytes: int = 0) -> socket.socket:
    """Open a connection; with `window_bytes` its receive buffer has that size."""
    host, port = live.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.settimeout(60)
    if window_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
    connection.connect((host, int(port)))
    return connection


def received(connection: socket.socket) -> bytes:
    """Receive until the other end closes or resets the connection."""
    parts: list[bytes] = []
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def answers(text: bytes) -> list[httpx.Response]:
    """Split received bytes into responses, by their Content-Length."""
    found = []
    while text:
        head, _, rest = text.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        size = next(int(value) for name, value in headers if name.lower() == "content-length")
        found.append(httpx.Response(int(status.split()[1]), headers=headers, content=rest[:size]))
        text = rest[size:]
    return found


def said(live: Live, *parts: bytes) -> list[httpx.Response]:
    """Send bytes in parts and nothing more; return all answers until the daemon closes."""
    with connected(live) as connection:
        for part in parts:
            with suppress(ConnectionError):
                connection.sendall(part)
        return answers(received(connection))
