"""Run a PostgreSQL server for tests, in a temporary folder and on a unix socket only."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

_NOBODY = 65534  # the server refuses to run as root
_POLL_SECONDS = 0.01


class Postgres:
    """A running server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def emptied(self) -> str:
        """Empty the database and return its URL. A new database would take ten times as long."""
        with psycopg.connect(
            host=str(self._folder), user="shrinkd", dbname="postgres"
        ) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return f"postgresql+psycopg://shrinkd@/postgres?host={self._folder}"


def absent() -> str | None:
    """Say why no server can run here, or return None."""
    return (
        None
        if _program("postgres") and _program("initdb")
        else "postgres and initdb are not installed"
    )


def _program(name: str) -> str | None:
    """Find a program of the server.

    Debian keeps them off the PATH, in a folder for each version.
    """
    folders = [
        os.environ.get("PATH", ""),
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),
    ]
    return shutil.which(name, path=os.pathsep.join(folders))


@contextmanager
def running() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="shrinkd-pg-") as name:
        folder = Path(name)
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(folder, _NOBODY, _NOBODY)
            as_user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        options = [
            "--username=shrinkd",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ]
        subprocess.run(
            [str(_program("initdb")), *options, f"--pgdata={folder}/data"],
            check=True,
            capture_output=True,
            cwd=folder,
            **as_user,
        )
        command = [
            str(_program("postgres")),
            "-D",
            f"{folder}/data",
            "-k",
            name,
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
        ]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **as_user)
        with server:
            try:
                _wait_until_it_answers(server, folder)
                yield Postgres(folder)
            finally:
                server.send_signal(
                    signal.SIGINT
                )  # PostgreSQL's "fast" shutdown, which ends connections


def _wait_until_it_answers(server: subprocess.Popen[bytes], folder: Path) -> None:
    while True:
        try:
            return psycopg.connect(host=str(folder), user="shrinkd", dbname="postgres").close()
        except psycopg.OperationalError:
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(_POLL_SECONDS)
