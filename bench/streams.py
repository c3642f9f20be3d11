"""What streams cost: the CPU of 200 that follow one group every second, beside that of one, and beside as many that ask."""

import os
import selectors
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bench.table import Row, median
from tests.live import Daemon

_STREAMS = 200
_SECONDS = 5.0
_PATH = "/v1/groups/web/stats/stream?interval_seconds=1"


def measure(rounds: int) -> dict[str, list[Row]]:
    """Measure on a simulator whose time stands still, so that the daemon does nothing else."""
    with tempfile.TemporaryDirectory() as folder, closing(Daemon(Path(folder))) as daemon:
        daemon.client.post("/v1/simulator/clock", json={"speed": 0}).raise_for_status()
        rows = [(_stream(daemon, 0), _stream(daemon, 1), _stream(daemon, _STREAMS), _ask(daemon)) for _ in range(rounds)]
        daemon.stop()
    idle, one, many, asked = (median([row[column] for row in rows]) for column in range(4))
    return {
        "Streams of one group's statistics at 1 s": [
            Row("CPU of no stream", idle * 100, "% of a core"),
            Row("of one", one * 100, "% of a core"),
            Row(f"of {_STREAMS}", many * 100, "% of a core", "<=", 5),
            Row(f"of each of the {_STREAMS}", (many - idle) / _STREAMS * 1e6, "us a second"),
            Row(f"{_STREAMS} GETs a second, on kept connections", (asked - idle) * 100, "% of a core"),
            Row("streams, beside asking", (many - idle) / (asked - idle), "", "<=", 1),
        ]
    }


def _stream(daemon: Daemon, count: int) -> float:
    """CPU seconds a second of the daemon while so many streams are read."""
    with _connected(daemon, count) as connections, selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.sendall(f"GET {_PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            selector.register(connection, selectors.EVENT_READ)
        _read(selector, 1.0)
        with_cpu = _cpu_seconds(daemon.pid)
        took = _read(selector, _SECONDS)
        return (_cpu_seconds(daemon.pid) - with_cpu) / took


def _read(selector: selectors.BaseSelector, seconds: float) -> float:
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            os.read(key.fd, 1 << 16)
    return time.monotonic() - began


def _ask(daemon: Daemon) -> float:
    """The same for as many readings that are asked for."""
    with _connected(daemon, _STREAMS) as connections:
        began, before = time.monotonic(), _cpu_seconds(daemon.pid)
        for second in range(int(_SECONDS)):
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
