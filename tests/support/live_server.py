"""Live servers: the application on uvicorn in a thread, and the daemon as a process."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import httpx

from shrinkd.backends import Backend
from shrinkd.settings import Settings

_CLIENT_SECONDS = 600  # generous, so that a busy machine fails no test
_POLL_SECONDS = 0.01


class OwnConnections(httpx.BaseTransport):
    """An httpx transport with separate connections for each thread.

    A pool that threads share may close a connection as idle while another thread takes it.
    """

    def __init__(self, uds: str | None = None) -> None:
        self._uds = uds
        self._mine = threading.local()
        self._all: list[httpx.HTTPTransport] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not hasattr(self._mine, "transport"):
            self._mine.transport = httpx.HTTPTransport(uds=self._uds)
            self._all.append(self._mine.transport)
        answer: httpx.Response = self._mine.transport.handle_request(request)
        return answer

    def close(self) -> None:
        for transport in self._all:
            transport.close()


class Live:
    """The application on an ephemeral port of the loopback, with a client.

    Use it as a context manager, or call stop(). With TLS in its settings the url begins with https,
    and the client cannot be used.
    """

    alive: ClassVar[set["Live"]] = set()

    def __init__(
        self,
        settings: Settings,
        make_backend: Callable[[Settings], Backend] | None = None,
        beside: tuple[str, ...] = (),
        middleware: Callable[..., Any] | None = None,
        **limits: object,
    ) -> None:
        """Start the server.

        `beside` are further addresses to listen on. `limits` are attributes of
        shrinkd.server.connection.BoundedConnection, by name.
        """
        from shrinkd.main import create_app
        from shrinkd.server.connection import BoundedConnection
        from shrinkd.server.listen import Server, listening

        self.app = create_app(settings, make_backend)
        if middleware:
            self.app.add_middleware(middleware)
        self.parts = self.app.state.parts
        self._stack = ExitStack()
        sockets = self._stack.enter_context(listening(("tcp:127.0.0.1:0", *beside)))
        self.port = sockets[0].getsockname()[1]
        self.url = f"{'https' if settings.tls_certificate else 'http'}://127.0.0.1:{self.port}"
        self.client = self._stack.enter_context(
            httpx.Client(transport=OwnConnections(), base_url=self.url, timeout=_CLIENT_SECONDS)
        )
        self.server = Server(self.app, type("Limited", (BoundedConnection,), limits))
        self._thread = threading.Thread(target=self.server.run, args=(sockets,), name="live server")
        self._thread.start()
        self.alive.add(self)

    def connections(self) -> int:
        """Count the open connections, those of the client included."""
        return len(self.server.server_state.connections)

    def stop(self) -> None:
        """Stop as by a signal: streams and shrinks end, and everything is closed.

        A second call does nothing.
        """
        self.alive.discard(self)
        self.client.close()
        self.server.end()
        self._thread.join()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Process(Protocol):
    """The part of subprocess.Popen that Daemon uses."""

    @property
    def pid(self) -> int:
        """Process id."""

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""

    def wait(self) -> int:
        """Wait for its end and return its exit code."""

    def send_signal(self, which: signal.Signals, /) -> None:
        """Send a signal, unless it has ended."""

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""


def command(environ: Mapping[str, str], log: Path) -> Process:
    """Start `shrinkd serve` as a subprocess."""
    with log.open("ab") as lines:
        return subprocess.Popen(
            [sys.executable, "-m", "shrinkd", "serve"],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=lines,
            process_group=0,
        )


class Daemon:
    """`shrinkd serve` as a process, on a unix socket in `folder`.

    The constructor returns once /readyz has answered.
    """

    def __init__(
        self,
        folder: Path,
        begin: Callable[[Mapping[str, str], Path], Process] = command,
        **settings: str,
    ) -> None:
        """Start the daemon; settings have no prefix: Daemon(folder, backend="v1")."""
        self.socket = folder / "api.sock"
        self.log = folder / "daemon.log"
        given = {
            "listen": f"unix:{self.socket}",
            "database_url": f"sqlite:///{folder}/daemon.db",
            "backend": "simulator",
        } | settings
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith("SHRINKD_")
        }
        self._process = begin(
            environ | {f"SHRINKD_{name.upper()}": value for name, value in given.items()}, self.log
        )
        self.pid = self._process.pid
        self.client = self.another_client()
        self._wait_until_it_answers()

    def another_client(self) -> httpx.Client:
        return httpx.Client(
            transport=OwnConnections(str(self.socket)),
            base_url="http://shrinkd",
            timeout=_CLIENT_SECONDS,
        )

    def kill(self) -> None:
        """Send SIGKILL, so that it cleans up nothing."""
        self._process.kill()
        self._process.wait()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop it with a signal and return its exit code."""
        self._process.send_signal(how)
        return self._process.wait()

    def close(self) -> None:
        """End the process and the connections, in whatever state they are."""
        self.client.close()
        if self._process.poll() is None:
            self.kill()

    def _wait_until_it_answers(self) -> None:
        while not _accepts(self.socket):
            if (code := self._process.poll()) is not None:
                self.close()
                raise AssertionError(f"the daemon ended with {code}: {self.log.read_text()}")
            time.sleep(_POLL_SECONDS)
        self.client.get("/readyz").raise_for_status()


def _accepts(path: Path) -> bool:
    """Return whether a unix socket accepts connections.

    Not with httpcore, which leaks the socket of a failed attempt.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
