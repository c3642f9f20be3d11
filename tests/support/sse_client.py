"""Read server-sent events, also with many slow clients on bare sockets."""

import json
import re
import selectors
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx

from tests.support.live_server import Daemon, Live

STREAM = {"Accept": "text/event-stream"}


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event."""

    name: str
    data: dict[str, Any]
    id: int | None


def frames(answer: httpx.Response) -> Iterator[Frame]:
    """Yield the events of a stream until it ends, without comments and hints."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        fields[name] = value
        if not line:
            if "data" in fields:
                yield Frame(
                    fields.get("event", "message"),
                    json.loads(fields["data"]),
                    int(fields["id"]) if "id" in fields else None,
                )
            fields = {}


class Follower:
    """A client on a bare socket with a small buffer, which reads only on request.

    It records ids and names of events.
    """

    def __init__(self, server: Live | Daemon, path: str) -> None:
        self.socket = socket.socket() if isinstance(server, Live) else socket.socket(socket.AF_UNIX)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(
            ("127.0.0.1", server.port) if isinstance(server, Live) else str(server.socket)
        )
        headers = "Host: 127.0.0.1\r\nAccept: text/event-stream\r\nConnection: close"
        self.socket.sendall(f"GET {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        self.ids: list[int] = []
        self.names: set[str] = set()
        self.has_ended = False
        self._has_begun = False
        self._rest = b""

    def begun(self) -> Self:
        """Wait for the start of the answer: from then on no event is missed."""
        while not self._has_begun:
            self.read()
        return self

    def read(self) -> None:
        """Read what is there, or wait until something is."""
        chunk = self.socket.recv(1 << 20)
        self.has_ended = not chunk
        lines, _, self._rest = (self._rest + chunk).rpartition(b"\n")
        self._has_begun = self._has_begun or b"retry: " in lines
        self.ids += map(int, re.findall(rb"^id: (\d+)", lines, re.MULTILINE))
        self.names.update(
            name.decode() for name in re.findall(rb"^event: (\S+)", lines, re.MULTILINE)
        )

    def close(self) -> None:
        self.socket.close()


def read_all(followers: Sequence[Follower], last_id: int | None) -> None:
    """Read from all clients until each has this event, or its end where that is None."""
    with selectors.DefaultSelector() as selector:
        for follower in followers:
            selector.register(follower.socket, selectors.EVENT_READ, follower)
        while selector.get_map():
            for key, _ in selector.select():
                key.data.read()
                if key.data.has_ended or (
                    last_id is not None and key.data.ids and key.data.ids[-1] >= last_id
                ):
                    selector.unregister(key.fileobj)
