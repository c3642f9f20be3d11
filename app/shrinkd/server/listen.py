"""Sockets and the server on them.

Bound by the daemon itself, and ended by a signal within seconds.
"""

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
from shrinkd.server.peer_identity import renew, tls_context
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
    """uvicorn, with some differences.

    Unix sockets stay in the clear beside TLS, SIGHUP reads the tokens and the certificate again,
    endless answers are told to end, and a signal that it obeyed is not raised again.
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
                access_log=False,  # ours costs less and carries the request id
                server_header=False,
                proxy_headers=False,  # nobody in front is trusted to say who calls
                # longer than clients keep one: theirs to close, so that no POST meets the end
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=_DRAIN_SECONDS,
            )
        )
        self._wiring: Parts = app.state.wiring
        self._protocol = protocol
        self._tls = tls_context(self._wiring.settings)
        self._private: list[TlsListener] = []
        self._told_to_end = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        private = [bound for bound in sockets or () if self._tls and bound.family != socket.AF_UNIX]
        await super().startup([bound for bound in sockets or () if bound not in private])
        self._private = [self._serve_privately(self._tls, bound) for bound in private if self._tls]
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)

    def _serve_privately(self, tls: ssl.SSLContext, bound: socket.socket) -> TlsListener:
        make = partial(self._protocol, self.config, self.server_state, self.lifespan.state)
        listener = TlsListener(bound, tls, make, lambda: self._protocol.most_connections() // 4)
        listener.start()
        return listener

    async def main_loop(self) -> None:
        """Keep the date of the answers until the end.

        uvicorn's own asks ten times a second whether that has come.
        """
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told_to_end.wait(), _DATE_SECONDS)

    def end(self) -> None:
        """End as a signal would have it; from any thread, and from a handler of signals."""
        self.should_exit = True
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._told_to_end.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.end()

    def reload(self) -> None:
        """Read the files again that say who may come in and who we are.

        One that cannot be used changes nothing, and the log says why.
        """
        if self._wiring.tokens:
            self._wiring.tokens.reload()
        if self._tls:
            try:
                renew(self._tls, self._wiring.settings)
            except SettingsError as error:
                # where in the code is nobody's question
                log.error("the certificate stays as it was: %s", error)
            else:
                log.info("the certificate was read from %s", self._wiring.settings.tls_certificate)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._wiring.closing.set()
        for listener in self._private:
            listener.close()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def run(app: FastAPI, settings: Settings) -> None:
    """Serve until a signal.

    SettingsError for an address that is unsafe or cannot be had, before anything is open.
    """
    backend = app.state.wiring.backend
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
    """Refuse to offer a memory controller to whoever can reach a TCP port.

    SettingsError says what to set.
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
    """Bind every address, and take the unix sockets away again at the end.

    SettingsError names the one that cannot be had.
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
                    f"SHRINKD_LISTEN={address} cannot be had: {error.strerror or error}."
                ) from None
            if address.startswith("unix:"):
                path = Path(address.removeprefix("unix:"))
                stack.callback(_take_away, path, os.open(path, os.O_PATH | os.O_CLOEXEC))
            stack.callback(sockets[-1].close)
        yield sockets


def _take_away(path: Path, ours: int) -> None:
    """Take our socket away, unless its name leads to that of another daemon by now.

    It could start when we had stopped to listen.

    `ours` is open, or else the number of its inode might be that of the other's.
    """
    with suppress(FileNotFoundError):
        if os.path.samestat(path.lstat(), os.fstat(ours)):
            path.unlink()
    os.close(ours)


def _bind_tcp(address: str) -> socket.socket:
    """Bind, with buffers of a fixed size, which each connection inherits.

    The kernel's own would grow to megabytes for each.
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
    """Bind at 0660.

    Group members may connect, others may not. Nobody can before listen(), so chmod comes in time.
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
    """Take away the socket that a killed daemon left.

    Never a file, never a socket that somebody answers on.
    """
    if not S_ISSOCK(path.lstat().st_mode):
        raise SettingsError(f"{path} is there and is no socket: move it, or listen elsewhere.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)  # a daemon that hangs has a full backlog, where connect() would wait
        if probe.connect_ex(str(path)) != ECONNREFUSED:
            raise SettingsError(
                f"Somebody answers on {path} already: stop that daemon, or listen elsewhere."
            )
    path.unlink()
