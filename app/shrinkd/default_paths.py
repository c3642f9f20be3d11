"""Default places of the database and the unix socket: system directories for root, XDG for others.

Both the daemon and its clients import this module, so it imports no dependency.
"""

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEM_SOCKET = Path("/run/shrinkd/api.sock")
_SYSTEM_STATE = Path("/var/lib/shrinkd")
_STATE_HOME = Path(".local/state")  # of the home directory, by the XDG Base Directory Specification


def state_directory(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Return /var/lib/shrinkd for root, $XDG_STATE_HOME/shrinkd for another user.

    XDG_STATE_HOME defaults to ~/.local/state. RuntimeError for a user without a home directory.
    """
    if _is_root(uid):
        return _SYSTEM_STATE
    given = _directory(environ, "XDG_STATE_HOME")
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    return (given or home / _STATE_HOME) / "shrinkd"


def socket_path(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path | None:
    """Return /run/shrinkd/api.sock for root, $XDG_RUNTIME_DIR/shrinkd/api.sock for another user.

    None for a user without XDG_RUNTIME_DIR. There is no substitute: a directory below /tmp may
    belong to another user, and a socket in a home directory may outlive its host or be shared with
    other hosts.
    """
    if _is_root(uid):
        return SYSTEM_SOCKET
    directory = _directory(environ, "XDG_RUNTIME_DIR")
    return directory / "shrinkd" / SYSTEM_SOCKET.name if directory else None


def make_private_directory(directory: Path) -> None:
    """Make a directory and its missing parents, readable by their owner alone (0700)."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        if directory.parent == directory:  # "." of a working directory that was removed
            raise
        make_private_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _is_root(uid: int | None) -> bool:
    return (os.geteuid() if uid is None else uid) == 0


def _directory(environ: Mapping[str, str], name: str) -> Path | None:
    """Return what a variable names; None where it is unset, empty or, as XDG has it, relative."""
    path = Path(environ.get(name, ""))
    return path if path.is_absolute() else None
