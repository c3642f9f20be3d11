"""Serve one HTTP connection with uvicorn's protocol, bounded in time, size and number.

A request that arrives in one piece, as nearly all do, starts no timer. What is refused here never
became a request. It is answered with a problem all the same, unless that would cut into an answer
that is being sent.
"""

import asyncio
import resource

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shrinkd.api import unreadable
from shrinkd.auth import Caller
from shrinkd.server.peer_identity import identify_peer

_STREAM_END_SECONDS = 0.5
LARGEST_HEAD_BYTES = 64 << 10
"""Limit of a request line with its header, and of chunk sizes, extensions and trailers between two
bytes of a body or behind its last."""
MOST_HEADER_FIELDS = 128
"""Limit beside that of bytes: a field of four bytes takes a hundred and fifty in memory."""
MOST_CONNECTIONS = 2048
_ANNOUNCE_BODY = frozenset((b"content-length", b"transfer-encoding"))


def most_connections() -> int:
    """Compute how many connections may be open at once.

    That is a quarter of the descriptors of this process, since control files take half, and 2048
    at most.
    """
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, MOST_CONNECTIONS)


class BoundedConnection(HttpToolsProtocol):
    """Uvicorn's HTTP protocol with a time limit on everything that it waits for.

    The limits are class attributes; a subclass may set others, as the tests do.
    """

    arrival_seconds = 10.0
    """Limit from the first byte of a request to its last, and from the start of a connection to its
    first byte."""
    taking_seconds = 30.0
    """Limit of the time in which a client reads nothing of the answer that is being sent."""
    most_pipelined = 16
    """Limit of the requests that wait behind the one that is being answered."""
    most_connections = staticmethod(most_connections)
    """Limit of open connections in total; one peer gets half of them."""

    peer = ""
    """Key by which connections of one peer are counted: its caller name, or its address."""
    _caller: Caller | None = None
    _head_bytes = 0
    """Bytes of the complete lines of the head."""
    _pending_bytes = 0
    """Bytes received since the request began, or since the last byte of its body."""
    _rejection_status = 400
    _in_head = False
    _in_body = False
    _arrival_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    # the type of the argument is narrowed as in uvicorn's own method
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._caller = identify_peer(transport)
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
            self._start_arrival_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_arrival_timer()
        self._stop_write_timer()

    # -- receiving -----------------------------------------------------------------------------

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
        elif is_partial or self._is_idle():
            # an idle connection has received blank lines, which stop uvicorn's keep-alive timer
            self._start_arrival_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["peer"] = self._caller
        self._stop_arrival_timer()
        self._in_head, self._head_bytes, self._rejection_status = True, 0, 400

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record a header field, and drop one of the trailers.

        A trailer must not change the identity or the meaning of the request.
        """
        if self._in_head:
            super().on_header(name, value)
            self._count_head(len(name) + len(value) + len(": \r\n"))

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > LARGEST_HEAD_BYTES or len(self.headers) > MOST_HEADER_FIELDS:
            self._rejection_status = 431
            raise ValueError("the head of the request is too large")

    def on_headers_complete(self) -> None:
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts != 1 or not self.url.startswith(b"/") or len(self.pipeline) >= self.most_pipelined:
            # the parser passes any exception on as a malformed request
            raise ValueError("the request has no single Host, no path, or too many before it")
        is_upgrade = self.parser.should_upgrade()
        if is_upgrade and any(name in _ANNOUNCE_BODY for name, _ in self.headers):
            raise ValueError("the parser would read the body of an upgrade as the next request")
        super().on_headers_complete()
        self._in_head, self._in_body = False, True
        if is_upgrade:
            self.cycle.keep_alive = False  # the bytes behind an upgrade are of another protocol

    def on_body(self, body: bytes) -> None:
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stop_arrival_timer()
        self._in_body = False

    def _start_arrival_timer(self) -> None:
        if self._arrival_timer is None and not self.transport.is_closing():
            self._arrival_timer = self.loop.call_later(
                self.arrival_seconds, self._arrival_timed_out
            )

    def _stop_arrival_timer(self) -> None:
        if self._arrival_timer is not None:
            self._arrival_timer.cancel()
            self._arrival_timer = None

    def _arrival_timed_out(self) -> None:
        self._arrival_timer = None
        if self.flow.read_paused:  # the daemon has stopped reading, so the client is not late
            self._start_arrival_timer()
        elif self._in_head or self._in_body:
            self._refuse(408)
        else:
            self.transport.close()
            self._watch_closing()

    # -- sending -------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()
        self._watch_closing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_closing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_closing()

    def _watch_closing(self) -> None:
        """Limit how long a closed connection waits for its client to read the last answer.

        That answer may be too small for pause_writing() to be called.
        """
        if self.transport.is_closing():
            self._start_write_timer()

    def _start_write_timer(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left and self._write_timer is None:
            self._write_timer = self.loop.call_later(self.taking_seconds, self._check_written, left)

    def _check_written(self, before: int) -> None:
        self._write_timer = None
        if self.transport.get_write_buffer_size() < before:
            self._start_write_timer()
        else:
            self.transport.abort()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    # -- shutdown ------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Start the end of the connection; abort a stream that is still open after 0.5 s.

        Its client does not read, and would delay the end of the daemon.
        """
        super().shutdown()
        self.loop.call_later(_STREAM_END_SECONDS, self._abort_stream)

    def _abort_stream(self) -> None:
        # only the streams have an answer of no known length
        if getattr(self.cycle, "chunked_encoding", False):
            self.transport.abort()

    # -- refusals ------------------------------------------------------------------------------

    def send_400_response(self, _msg: str) -> None:  # uvicorn has logged the message
        self._refuse(self._rejection_status)

    def _refuse(self, status: int) -> None:
        """Answer with a problem and close the connection.

        Answers to earlier requests are sent first. One that has been started is cut off.
        """
        self._stop_arrival_timer()
        if not self._in_body and not self._is_idle():
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not self._in_body or not (self.cycle.response_started or self.pipeline):
            body, headers = unreadable(status)
            lines = (f"{name}: {value}\r\n".encode() for name, value in headers.items())
            self.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        self.transport.close()
        self._watch_closing()

    def _is_idle(self) -> bool:
        """Return True when no request is being answered."""
        # before the first request there is no cycle
        return getattr(self.cycle, "response_complete", True)
