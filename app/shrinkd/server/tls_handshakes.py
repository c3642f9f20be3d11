"""Accept TLS connections, and bound the number of unfinished handshakes.

Until its handshake has ended, a connection has no protocol object and is not counted elsewhere.
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

HANDSHAKE_SECONDS, _SHUTDOWN_SECONDS = 10.0, 2.0
_NO_DESCRIPTOR_SECONDS = 1.0  # the pause of asyncio's own listener

log = logging.getLogger("shrinkd")


class TlsListener:
    """Listen for TLS on a bound socket.

    A connection is closed at once when `max_handshakes` are under way, or half of those from its
    address.
    """

    def __init__(
        self,
        bound: socket.socket,
        context: ssl.SSLContext,
        make_protocol: Callable[[], asyncio.Protocol],
        max_handshakes: Callable[[], int],
    ) -> None:
        self._bound, self._context = bound, context
        self._make_protocol, self._max_handshakes = make_protocol, max_handshakes
        self._handshakes: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Accept connections until close(). Call it in the running loop."""
        self._bound.settimeout(0)
        self._start_task(self._accept_all())

    def close(self) -> None:
        """Stop accepting, and cancel unfinished handshakes. Established connections stay open."""
        for task in tuple(self._tasks):
            task.cancel()

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._bound)
            except OSError as error:
                log.warning("a TLS connection could not be accepted: %s", error.strerror or error)
                await asyncio.sleep(_NO_DESCRIPTOR_SECONDS)
                continue
            peer, most = str(address[0]), self._max_handshakes()
            if self._handshakes.total() >= most or self._handshakes[peer] >= most // 2:
                connection.close()
            else:
                self._handshakes[peer] += 1
                self._start_task(self._handshake(connection, peer))

    async def _handshake(self, connection: socket.socket, peer: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except OSError as error:  # ssl.SSLError and TimeoutError are OSErrors
            log.debug("the TLS handshake with %s failed: %s", peer, error)
        finally:
            self._handshakes[peer] -= 1
            self._handshakes += Counter()  # drops the addresses whose count is 0

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
