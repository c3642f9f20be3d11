"""Measure the cost of streams.

The CPU of 200 that follow one group every second is compared with that of one, and with as many
polls.
"""

import math
import os
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bench.table import Extent, Row, Tables, median
from tests.support.live_server import Daemon

_STREAMS = 200
_SECONDS = 5.0
_PATH = "/v1/groups/web/stats/stream?interval_seconds=1"


def measure(folder: Path, extent: Extent) -> Tables:
    """Measure on a simulator whose time stands still, so that the daemon does nothing else."""
    seconds, streams = extent.seconds(_SECONDS, least=1.0), extent.count(_STREAMS)
    with closing(Daemon(folder)) as daemon:
        daemon.client.post("/v1/simulator/clock", json={"speed": 0}).raise_for_status()
        rows = [
            (
                *(_stream(daemon, count, seconds) for count in (0, 1, streams)),
                _ask(daemon, streams, seconds),
            )
            for _ in range(min(extent.rounds, 3))
        ]
        daemon.stop()
    idle, one, many, asked = (median([row[column] for row in rows]) for column in range(4))
    return {
        "Streams of one group's statistics at 1 s": [
            Row("CPU of no stream", idle * 100, "% of a core"),
            Row("of one", one * 100, "% of a core"),
            Row(f"of {streams}", many * 100, "% of a core", "<=", 5),
            Row(f"of each of the {streams}", (many - idle) / streams * 1e6, "us a second"),
            Row(
                f"{streams} GETs a second, on kept connections", (asked - idle) * 100, "% of a core"
            ),
            Row(
                "streams, beside asking",
                (many - idle) / (asked - idle) if asked > idle else math.inf,
                "",
                "<=",
                1,
            ),
        ]
    }


def _stream(daemon: Daemon, count: int, seconds: float) -> float:
    """Return the CPU seconds a second of the daemon while so many streams are read."""
    with _connected(daemon, count) as connections, selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.sendall(f"GET {_PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            selector.register(connection, selectors.EVENT_READ)
        _read(selector, 1.0)
        with_cpu = _cpu_seconds(daemon.pid)
        took = _read(selector, seconds)
        return (_cpu_seconds(daemon.pid) - with_cpu) / took


def _read(selector: selectors.BaseSelector, seconds: float) -> float:
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            os.read(key.fd, 1 << 16)
    return time.monotonic() - began


def _ask(daemon: Daemon, count: int, seconds: float) -> float:
    """Return the CPU seconds a second of the daemon for as many polls."""
    with _connected(daemon, count) as connections:
        began, before = time.monotonic(), _cpu_seconds(daemon.pid)
        for second in range(int(seconds)):
            for connection in connections:
                connection.sendall(b"GET /v1/groups/web/stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
                connection.recv(1 << 16)
            time.sleep(max(began + second + 1 - time.monotonic(), 0))
        return (_cpu_seconds(daemon.pid) - before) / (time.monotonic() - began)


@contextmanager
def _connected(daemon: Daemon, count: int) -> Iterator[list[socket.socket]]:
    connections = [socket.socket(socket.AF_UNIX) for _ in range(count)]
    try:
        for connection in connections:
            connection.connect(str(daemon.socket))
        yield connections
    finally:
        for connection in connections:
            connection.close()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
