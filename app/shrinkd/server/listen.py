"""Bind the sockets of the daemon and serve on them until a signal, which ends it within seconds."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import ECONNREFUSED
from functools import partial
from pathlib import Path
from stat import S_ISSOCK
from types import FrameType

import uvicorn
from fastapi import FastAPI

from shrinkd import __version__, default_paths
from shrinkd.api import Parts
from shrinkd.errors import SettingsError
from shrinkd.server.connection import BoundedConnection
from shrinkd.server.peer_identity import reload_certificate, tls_context
from shrinkd.server.tls_handshakes import TlsListener
from shrinkd.settings import Settings

_BACKLOG = 2048
_DRAIN_SECONDS = 8
IDLE_SECONDS = 15
_DATE_SECONDS = 1.0
KERNEL_BUFFER_BYTES = 256 << 10
_DEFAULT_SIMULATED = ("tcp:127.0.0.1:8080",)

log = logging.getLogger("shrinkd")


class Server(uvicorn.Server):
    """Uvicorn's server, changed in four points.

    Unix sockets are served without TLS beside addresses with TLS. SIGHUP reads the tokens and the
    certificate again. A shutdown ends the streams. A signal that has been handled is not raised
    again.
    """

    def __init__(self, app: FastAPI, protocol: type[BoundedConnection] = BoundedConnection) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                # httptools: "auto" falls back to h11 in silence, at 3.6 times the CPU
                http=protocol,
                ws="none",
                loop="uvloop",
                lifespan="on",
                log_config=None,
                access_log=False,  # the middleware's costs less and has the request id
                server_header=False,
                proxy_headers=False,  # no proxy is trusted to name the client
                # longer than clients keep an idle connection, so that they close it and no POST
                # meets a closed one
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=_DRAIN_SECONDS,
            )
        )
        self._parts: Parts = app.state.parts
        self._protocol = protocol
        self._tls = tls_context(self._parts.settings)
        self._tls_listeners: list[TlsListener] = []
        self._end_requested = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        with_tls = [
            bound for bound in sockets or () if self._tls and bound.family != socket.AF_UNIX
        ]
        await super().startup([bound for bound in sockets or () if bound not in with_tls])
        self._tls_listeners = [
            self._start_tls_listener(self._tls, bound) for bound in with_tls if self._tls
        ]
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)

    def _start_tls_listener(self, tls: ssl.SSLContext, bound: socket.socket) -> TlsListener:
        make = partial(self._protocol, self.config, self.server_state, self.lifespan.state)
        listener = TlsListener(bound, tls, make, lambda: self._protocol.most_connections() // 4)
        listener.start()
        return listener

    async def main_loop(self) -> None:
        """Update the Date header once a second, and return when the server is to end.

        Uvicorn's own loop wakes ten times a second.
        """
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end_requested.wait(), _DATE_SECONDS)

    def end(self) -> None:
        """End the server as a signal does. Call it from any thread or a signal handler."""
        self.should_exit = True
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_requested.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.end()

    def reload(self) -> None:
        """Read the tokens file and the certificate again.

        A file that cannot be used changes nothing, and the log says why.
        """
        if self._parts.tokens:
            self._parts.tokens.reload()
        if self._tls:
            try:
                reload_certificate(self._tls, self._parts.settings)
            except SettingsError as error:
                # no traceback: the file is wrong, and not the code
                log.error("the certificate stays as it was: %s", error)  # noqa: TRY400
            else:
                log.info("the certificate was read from %s", self._parts.settings.tls_certificate)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._parts.closing.set()
        for listener in self._tls_listeners:
            listener.close()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def run(app: FastAPI, settings: Settings) -> None:
    """Serve the application until a signal.

    SettingsError, before any socket is open, for an address that is unsafe or cannot be bound.
    """
    backend = app.state.parts.backend
    addresses = settings.listen or default_addresses(simulated=backend.is_simulated)
    check_listen(addresses, settings, simulated=backend.is_simulated)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal that started a daemon may close
    server = Server(app)
    with listening(addresses) as sockets:
        log.info("shrinkd %s serves %s on %s", __version__, backend.name, ", ".join(addresses))
        server.run(sockets)


def default_addresses(*, simulated: bool) -> tuple[str, ...]:
    """Return the addresses to listen on where SHRINKD_LISTEN names none.

    SettingsError for a user other than root without XDG_RUNTIME_DIR.
    """
    if simulated:
        return _DEFAULT_SIMULATED
    path = default_paths.socket_path()
    if path is None:
        raise SettingsError(
            "XDG_RUNTIME_DIR is not set, and users other than root have their socket there: set "
            "SHRINKD_LISTEN=unix:/PATH, or XDG_RUNTIME_DIR as a login session does."
        )
    return (f"unix:{path}",)


def check_listen(addresses: tuple[str, ...], settings: Settings, *, simulated: bool) -> None:
    """Refuse TCP addresses on which real limits could be changed without a token or without TLS.

    SettingsError names the settings that are missing.
    """
    for address in addresses:
        if not address.startswith("tcp:"):
            continue
        if not simulated and not settings.tokens:
            raise SettingsError(
                f"SHRINKD_LISTEN={address} would let every user of this host change real limits: "
                "set SHRINKD_TOKENS, or use unix:/PATH."
            )
        wanted = {
            "TOKENS": settings.tokens,
            "TLS_CERTIFICATE": settings.tls_certificate,
            "TLS_KEY": settings.tls_key,
        }
        missing = [f"SHRINKD_{name}" for name, value in wanted.items() if not value]
        if missing and not _is_loopback(address):
            raise SettingsError(
                f"SHRINKD_LISTEN={address} is reachable from elsewhere: set "
                f"{' and '.join(missing)}, or use a loopback address."
            )


def _is_loopback(address: str) -> bool:
    host, _ = _host_and_port(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    return host.strip("[]"), int(port)


@contextmanager
def listening(addresses: tuple[str, ...]) -> Iterator[list[socket.socket]]:
    """Bind every address, and remove the unix sockets at the end.

    SettingsError names an address that cannot be bound.
    """
    sockets: list[socket.socket] = []
    with ExitStack() as stack:
        for address in addresses:
            try:
                sockets.append(
                    _bind_unix(Path(address.removeprefix("unix:")))
                    if address.startswith("unix:")
                    else _bind_tcp(address)
                )
            except OSError as error:
                raise SettingsError(
                    f"SHRINKD_LISTEN={address} cannot be bound: {error.strerror or error}."
                ) from None
            if address.startswith("unix:"):
                path = Path(address.removeprefix("unix:"))
                stack.callback(_remove_socket, path, os.open(path, os.O_PATH | os.O_CLOEXEC))
            stack.callback(sockets[-1].close)
        yield sockets


def _remove_socket(path: Path, ours: int) -> None:
    """Remove the socket, unless another daemon has bound the same path since.

    That daemon could start once this one had stopped listening. `ours` is a descriptor of this
    daemon's socket: while it is open, no other socket has the same inode number.
    """
    with suppress(FileNotFoundError):
        if os.path.samestat(path.lstat(), os.fstat(ours)):
            path.unlink()
    os.close(ours)


def _bind_tcp(address: str) -> socket.socket:
    """Bind a TCP address, with buffers of a fixed size that each connection inherits.

    The kernel would grow them to megabytes a connection.
    """
    bound = socket.create_server(
        _host_and_port(address),
        family=socket.AF_INET6 if "[" in address else socket.AF_INET,
        backlog=_BACKLOG,
    )
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        bound.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER_BYTES)
    return bound


def _bind_unix(path: Path) -> socket.socket:
    """Bind a unix socket with mode 0660: its group may connect, others may not.

    No client can connect before listen(), so the chmod is early enough.
    """
    if os.geteuid() == 0:  # the group that the socket is for has to get through the directory
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        default_paths.make_private_directory(path.parent)
    if path.is_symlink() or path.exists():
        _remove_stale(path)
    with ExitStack() as undo:
        bound = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        bound.bind(str(path))
        path.chmod(0o660)
        bound.listen(_BACKLOG)
        undo.pop_all()
    return bound


def _remove_stale(path: Path) -> None:
    """Remove the socket that a killed daemon left.

    SettingsError for a file of another type, and for a socket that a daemon listens on.
    """
    if not S_ISSOCK(path.lstat().st_mode):
        raise SettingsError(f"{path} exists and is not a socket: move it, or listen elsewhere.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)  # connect() would wait for a daemon that hangs with a full backlog
        if probe.connect_ex(str(path)) != ECONNREFUSED:
            raise SettingsError(
                f"Somebody answers on {path} already: stop that daemon, or listen elsewhere."
            )
    path.unlink()
