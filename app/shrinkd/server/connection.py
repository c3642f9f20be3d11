"""One connection.

Uvicorn's protocol within bounds of time, size and number, so that no client holds what others need.

A request that arrives whole, as nearly all do, costs no timer. Whatever is refused here never
became a request, and is answered with a problem all the same, unless another answer would be torn
apart by it.
"""

import asyncio
import resource

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shrinkd.api.http import problems
from shrinkd.auth import Caller
from shrinkd.server.peer_identity import peer_of

_LAST_WORDS_SECONDS = 0.5
LARGEST_HEAD_BYTES = 64 << 10
"""Of a request line with its header, and of what may come between two bytes of a body or behind the
last: chunk sizes, trailers."""
MOST_HEADER_FIELDS = 128
"""A field of four bytes takes a hundred and fifty when it is kept, so bytes alone are no bound."""
MOST_CONNECTIONS = 2048
_ANNOUNCE_BODY = frozenset((b"content-length", b"transfer-encoding"))


def most_connections() -> int:
    """How many may be open at once.

    A quarter of the files of this process, for control files take half, and no more than 2048.
    """
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, MOST_CONNECTIONS)


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's, with an end to everything that it waits for.

    What the limits are is for who starts it, as tests do, to change.
    """

    arrival_seconds = 10.0
    """From the first byte of a request to its last, and from the begin of a connection to the
    first."""
    taking_seconds = 30.0
    """For how long a client may take nothing of an answer that it is sent."""
    most_pipelined = 16
    """Requests that wait behind the one which is answered."""
    most_connections = staticmethod(most_connections)
    """For all; half of them for one peer."""

    peer = ""
    """Whom a connection is counted for: the caller that the other end is, or its address."""
    _caller: Caller | None = None
    _head_bytes = 0
    """Of the lines of the head that came to their end."""
    _pending_bytes = 0
    """Of all that came since the request began, or since a byte of its body came."""
    _verdict = 400
    _in_head = False
    _in_body = False
    _arrival: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    # as uvicorn's own
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._caller = peer_of(transport)
        self.peer = (
            self._caller.name
            if self._caller
            else str((transport.get_extra_info("peername") or ("",))[0])
        )
        most = self.most_connections()
        of_peer = sum(
            isinstance(other, BoundedConnection) and other.peer == self.peer
            for other in self.connections
        )
        if len(self.connections) > most:
            self._refuse(503)
        elif of_peer > most // 2:
            self._refuse(429)
        else:
            self._arrive_in_time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_clock()
        self._stop_watching()

    # -- what arrives -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._pending_bytes += len(data)
        super().data_received(data)
        is_partial = self._in_head or self._in_body
        if not is_partial:
            self._pending_bytes = 0
        if self._pending_bytes > LARGEST_HEAD_BYTES:
            self._refuse(431)
        elif (
            is_partial or self._is_at_rest()
        ):  # then blank lines came, and uvicorn has stopped its clock for them
            self._arrive_in_time()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["peer"] = self._caller
        self._stop_clock()
        self._in_head, self._head_bytes, self._verdict = True, 0, 400

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the header.

        One of the trailers is dropped: it must not change who sends the request, or what it asks
        for.
        """
        if self._in_head:
            super().on_header(name, value)
            self._count(len(name) + len(value) + len(": \r\n"))

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > LARGEST_HEAD_BYTES or len(self.headers) > MOST_HEADER_FIELDS:
            self._verdict = 431
            raise ValueError("larger than any")

    def on_headers_complete(self) -> None:
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts != 1 or not self.url.startswith(b"/") or len(self.pipeline) >= self.most_pipelined:
            raise ValueError(
                "not for us"
            )  # the parser's caller hears of it as of every other request that is none
        is_upgrade = self.parser.should_upgrade()
        if is_upgrade and any(name in _ANNOUNCE_BODY for name, _ in self.headers):
            raise ValueError("a body that the parser would take for the next request")
        super().on_headers_complete()
        self._in_head, self._in_body = False, True
        if is_upgrade:
            self.cycle.keep_alive = False  # what follows is of another protocol, or was meant to be

    def on_body(self, body: bytes) -> None:
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stop_clock()
        self._in_body = False

    def _arrive_in_time(self) -> None:
        if self._arrival is None and not self.transport.is_closing():
            self._arrival = self.loop.call_later(self.arrival_seconds, self._came_late)

    def _stop_clock(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _came_late(self) -> None:
        self._arrival = None
        if self.flow.read_paused:  # it is we who do not read
            self._arrive_in_time()
        elif self._in_head or self._in_body:
            self._refuse(408)
        else:
            self.transport.close()
            self._watch_leaving()

    # -- what is sent -----------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_watching()
        self._watch_leaving()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_leaving()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_leaving()

    def _watch_leaving(self) -> None:
        """A connection that was closed stays until its last answer is taken, and that may be too
        small to be paused for.
        """
        if self.transport.is_closing():
            self._watch_taking()

    def _watch_taking(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left and self._taking is None:
            self._taking = self.loop.call_later(self.taking_seconds, self._take_stock, left)

    def _take_stock(self, before: int) -> None:
        self._taking = None
        if self.transport.get_write_buffer_size() < before:
            self._watch_taking()
        else:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    # -- what ends --------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Begin to end.

        A stream that is still there after a moment has a client that does not read, and would hold
        everything up.
        """
        super().shutdown()
        self.loop.call_later(_LAST_WORDS_SECONDS, self._abort_stream)

    def _abort_stream(self) -> None:
        if getattr(
            self.cycle, "chunked_encoding", False
        ):  # of no length known before, as only our streams are
            self.transport.abort()

    # -- what is refused --------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:  # the caller has logged it
        self._refuse(self._verdict)

    def _refuse(self, status: int) -> None:
        """Answer with a problem and close.

        What came before goes first; what is being answered already ends where it is.
        """
        self._stop_clock()
        if not self._in_body and not self._is_at_rest():
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not self._in_body or not (self.cycle.response_started or self.pipeline):
            body, headers = problems.unreadable(status)
            lines = (f"{name}: {value}\r\n".encode() for name, value in headers.items())
            self.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        self.transport.close()
        self._watch_leaving()

    def _is_at_rest(self) -> bool:
        """Whether nothing is being answered: there is no cycle before the first request."""
        return getattr(self.cycle, "response_complete", True)
