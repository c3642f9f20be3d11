"""Bring the schema of a database up to date in one transaction.

Whatever ends the process, nothing of it stays, or all.

On SQLite, what an older daemon wrote is copied before it is changed.
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
"""In the package where that is installed; beside `app` in a checkout."""
_BEGIN_ALONE = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(hashtext('shrinkd schema'))",
}

log = logging.getLogger(__name__)


def upgrade(url: sa.URL, folder: Path = MIGRATIONS) -> None:
    """Make all migrations that the database lacks, or none, and keep what is in it.

    Of several who try at once, one does it.

    What a start that died left half migrated is completed. Raises SettingsError for a database of a
    newer release or of another program, which is left as it is; DBAPIError, sqlite3.Error or
    OSError when there is no room, no right or no answer.
    """
    revisions = Revisions(folder)
    # An engine of its own: the daemon's would make the file a WAL database before anybody knows
    # whose it is.
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        if revisions.is_newest(connection):
            return
    with alone(engine) as connection:
        if revisions.is_newest(connection):  # by now: who was alone before us did it
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
    """A transaction that may change the schema.

    All or nothing, and others who want one wait for its end. Readers do not.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Left to itself, the driver begins a transaction before an INSERT, and none before a
            # CREATE TABLE.
            connection.execution_options(isolation_level="AUTOCOMMIT")
        with connection.begin():
            connection.exec_driver_sql(_BEGIN_ALONE[engine.dialect.name])
            yield connection


def _copy(engine: sa.Engine, database: Path, place: Place) -> None:
    """Copy the database, what its WAL holds included, to a file beside it that is named by the
    revision of what is in it.

    So a copy takes the place of an older one of the same revision alone, and not before it is whole
    and on the disk. Nobody writes meanwhile, for the caller is alone; it is another connection that
    reads, for SQLite copies from none that may write.
    """
    copy = database.with_name(
        f"{database.name}.revision-{place.recorded or 'none'}{'' if place.is_whole else '-unfinished'}"
    )
    partial = database.with_name(f"{database.name}.copying")
    partial.unlink(missing_ok=True)
    file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with (
            engine.connect() as source,
            closing(sqlite3.connect(partial, isolation_level=None)) as target,
        ):
            target.execute("PRAGMA journal_mode = OFF")  # who finds a half copy begins anew
            driver: Any = source.connection.driver_connection
            driver.backup(target)
        os.fsync(file)
        partial.replace(copy)
    finally:
        os.close(file)
        partial.unlink(missing_ok=True)
    _sync_folder(database.parent)


def _sync_folder(folder: Path) -> None:
    """What a file is called survives a power cut when its folder is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
