"""A proxy on the loopback that carries one request a connection and drops some of them."""

import random
import socket
import threading
from contextlib import suppress
from typing import Literal, Self
from urllib.parse import urlsplit

Fate = Literal["carried", "request lost", "answer lost", "hung up"]
_READ_BYTES = 65536


class LossyProxy:
    """The proxy, as a context manager.

    `url` leads to the server at `target`, for clients that open a connection for each request.
    """

    def __init__(self, target: str, lost: float, seed: int) -> None:
        """Drop a share `lost` (0 to 1) of the requests.

        Either the request is lost, or its answer, or the client while it waits.
        """
        there = urlsplit(target)
        self._target = there.hostname or "", there.port or 0
        self._lost, self._chance = lost, random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.settimeout(0.05)
        self._closing = threading.Event()
        self._carriers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept)
        self.url = "http://127.0.0.1:{1}".format(*self._listener.getsockname())
        self.fates: list[Fate] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for thread in (self._thread, *self._carriers):
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                fate: Fate = (
                    self._chance.choice(("request lost", "answer lost", "hung up"))
                    if self._chance.random() < self._lost
                    else "carried"
                )
                self.fates.append(fate)
                carrier = threading.Thread(target=self._carry, args=(client, fate))
                self._carriers = [thread for thread in self._carriers if thread.is_alive()] + [
                    carrier
                ]
                carrier.start()

    def _carry(self, client: socket.socket, fate: Fate) -> None:
        with client, suppress(ConnectionError):
            request = _read_request(client)
            if fate == "request lost" or not request:
                return
            with socket.create_connection(self._target) as server:
                server.sendall(request)
                if fate == "hung up":
                    return
                answer = b"".join(iter(lambda: server.recv(_READ_BYTES), b""))
            if fate == "carried":
                client.sendall(answer)


def _read_request(client: socket.socket) -> bytes:
    """A request to its end, which its Content-Length tells.

    It is told to be the last of its connection.
    """
    read = b""
    while b"\r\n\r\n" not in read:
        if not (more := client.recv(_READ_BYTES)):
            return b""
        read += more
    head, _, body = read.partition(b"\r\n\r\n")
    lengths = [
        line.partition(b":")[2]
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    ]
    while len(body) < int(lengths[0] if lengths else 0):
        body += client.recv(_READ_BYTES)
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close", b"", body])
