"""Accept TLS connections, and bound those whose handshake has not ended.

Until then, no protocol knows of them and could count them.
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

HANDSHAKE_SECONDS, _GOODBYE_SECONDS = 10.0, 2.0
_NO_DESCRIPTOR_SECONDS = 1.0  # as asyncio's own listener waits

log = logging.getLogger("shrinkd")


class TlsListener:
    """Listens on a bound socket.

    A connection beyond `most` handshakes at once, or half of that from one address, is closed
    unheard.
    """

    def __init__(
        self,
        bound: socket.socket,
        context: ssl.SSLContext,
        make_protocol: Callable[[], asyncio.Protocol],
        most: Callable[[], int],
    ) -> None:
        self._bound, self._context, self._make_protocol, self._most = (
            bound,
            context,
            make_protocol,
            most,
        )
        self._handshakes: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Accept connections until close(); needs the running loop."""
        self._bound.settimeout(0)
        self._begin(self._accept_all())

    def close(self) -> None:
        """Accept no more, and end the handshakes. Connections that are past theirs stay."""
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
            peer, most = str(address[0]), self._most()
            if self._handshakes.total() >= most or self._handshakes[peer] >= most // 2:
                connection.close()
            else:
                self._handshakes[peer] += 1
                self._begin(self._shake_hands(connection, peer))

    async def _shake_hands(self, connection: socket.socket, peer: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_GOODBYE_SECONDS,
            )
        except (
            OSError
        ) as error:  # what TLS refuses is one, too, and so is a handshake that took too long
            log.debug("no TLS with %s: %s", peer, error)
        finally:
            self._handshakes[peer] -= 1
            self._handshakes += Counter()  # who has none leaves no trace

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
