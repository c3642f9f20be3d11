"""Bring the schema of a database up to date in one transaction.

A process that dies in it leaves the old schema or the new one. A SQLite database of an older
release is copied before it is changed.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from shrinkd.storage.revisions import Place, Revisions

_PACKAGE = Path(__file__).parent.parent
MIGRATIONS = next(
    filter(Path.is_dir, (_PACKAGE / "migrations", _PACKAGE.parent.parent / "migrations"))
)
"""Inside the package when that is installed; beside `app` in a checkout."""
_BEGIN_ALONE = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(hashtext('shrinkd schema'))",
}

log = logging.getLogger(__name__)


def upgrade(url: sa.URL, folder: Path = MIGRATIONS) -> None:
    """Run all migrations that the database lacks, or none; its rows are kept.

    Of several processes that call it at once, one migrates. A migration that an earlier start left
    half done is completed. Raises SettingsError for a database of a newer release or of another
    program, which is left as it is; DBAPIError, sqlite3.Error or OSError when there is no space, no
    permission or no answer.
    """
    revisions = Revisions(folder)
    # An engine of its own: the daemon's would turn the file into a WAL database before it is known
    # to be one of shrinkd.
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        if revisions.is_newest(connection):
            return
    with alone(engine) as connection:
        if revisions.is_newest(connection):  # another process has migrated it meanwhile
            return
        place = revisions.locate(connection)
        if engine.dialect.name == "sqlite" and not place.is_empty:
            _copy(engine, Path(str(url.database)), place)
        if place.begin is not None and place.begin != place.recorded:
            revisions.record(connection, place.begin)
        revisions.upgrade(connection)
    if not place.is_whole:
        log.warning(
            "the database had been left in the middle of a migration from revision %s: it is "
            "complete now",
            place.recorded or "none",
        )


@contextmanager
def alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run statements in a transaction that may change the schema: all take effect, or none.

    Other such transactions wait for its end. Readers do not.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # By default the driver begins a transaction before an INSERT, and none before a CREATE
            # TABLE.
            connection.execution_options(isolation_level="AUTOCOMMIT")
        with connection.begin():
            connection.exec_driver_sql(_BEGIN_ALONE[engine.dialect.name])
            yield connection


def _copy(engine: sa.Engine, database: Path, place: Place) -> None:
    """Copy the database with its WAL to a file beside it, which is named by its revision.

    A copy replaces an older one of the same revision only, once it is complete and on the disk.
    There is no writer meanwhile, because the caller holds the write transaction; another connection
    reads, because SQLite cannot copy from one that writes.
    """
    label = f"revision-{place.recorded or 'none'}{'' if place.is_whole else '-unfinished'}"
    copy = database.with_name(f"{database.name}.{label}")
    partial = database.with_name(f"{database.name}.copying")
    partial.unlink(missing_ok=True)
    file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with (
            engine.connect() as source,
            closing(sqlite3.connect(partial, isolation_level=None)) as target,
        ):
            target.execute("PRAGMA journal_mode = OFF")  # a partial copy is never used
            driver: Any = source.connection.driver_connection
            driver.backup(target)
        os.fsync(file)
        partial.replace(copy)
    finally:
        os.close(file)
        partial.unlink(missing_ok=True)
    _sync_folder(database.parent)


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names of its files survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
