"""The database under the store.

Opened, claimed against a second daemon, and read and written in transactions.

It is called from worker threads, never from the event loop; what it refuses (full, locked, gone) is
StoreUnavailable.
"""

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from shrinkd.default_paths import make_private_directory
from shrinkd.errors import SettingsError, StoreUnavailable
from shrinkd.storage import migration
from shrinkd.storage.tables import shrinks

_TURN_SECONDS = 5.0


class Database:
    """The database of one daemon.

    Opening it brings the schema up to date and claims it against a second daemon.
    """

    def __init__(self, url: str, migrations: Path = migration.MIGRATIONS) -> None:
        self._migrations = migrations
        try:
            self._engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        except (SQLAlchemyError, ImportError) as error:
            raise SettingsError(f"SHRINKD_DATABASE_URL cannot be used: {error}.") from None
        self._claim: int | sa.Connection | None = None
        self._turn = threading.Lock() if url.startswith("sqlite") else None
        """SQLite has one writer, and lets the others try again and again: ours take turns instead."""
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _tune_sqlite)

    def open(self) -> None:
        """Claim the database and migrate it.

        SettingsError when another daemon has it or a newer one wrote it.
        """
        with _unavailable():
            self._claim_it()
            migration.upgrade(self._engine.url, self._migrations)
            # the first one may have to make it a WAL database: no reader should wait for that
            self._engine.connect().close()

    def close(self) -> None:
        if isinstance(self._claim, sa.Connection):
            with suppress(
                SQLAlchemyError
                # the server would notice by itself that we are gone, a moment after the next one has
                # asked
            ):
                self._claim.execute(sa.text("SELECT pg_advisory_unlock_all()"))
            self._claim.close()
        self._engine.dispose()
        if isinstance(self._claim, int):
            os.close(
                self._claim
            )  # the last one: a close of any descriptor drops the locks that SQLite has on the file
        self._claim = None

    def ping(self) -> None:
        """Prove that the database can be written, or raise StoreUnavailable."""
        with _unavailable():
            if isinstance(self._claim, int) and not os.fstat(self._claim).st_nlink:
                raise FileNotFoundError(errno.ENOENT, f"{self._engine.url.database} was removed")
        with self.transaction() as connection:
            connection.execute(sa.select(shrinks.c.id).limit(1))
            connection.execute(sa.text("UPDATE alembic_version SET version_num = version_num"))

    def _claim_it(self) -> None:
        """Two daemons on one database would each call the other's shrinks interrupted, so the
        second does not start.
        """
        path = self._engine.url.database
        if self._engine.dialect.name == "postgresql":
            self._claim = self._engine.connect()
            free = self._claim.execute(
                sa.text("SELECT pg_try_advisory_lock(hashtext('shrinkd'))")
            ).scalar()
            self._claim.commit()
        elif path and path != ":memory:" and not path.startswith("file:"):
            make_private_directory(Path(path).parent)
            self._claim = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            free = _try_lock(self._claim)
        else:
            raise SettingsError(
                "SHRINKD_DATABASE_URL names no file: an SQLite database in memory would forget "
                "every shrink."
            )
        if not free:
            raise SettingsError(
                "Another shrinkd has this database: stop it, or give this one its own "
                "SHRINKD_DATABASE_URL."
            )

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """All that is done in it, or nothing. Not for one in another."""
        if self._turn and not self._turn.acquire(timeout=_TURN_SECONDS):
            raise StoreUnavailable(
                "The database cannot be used: others of this daemon wait for it, too. Nothing was "
                "changed."
            )
        try:
            with self.reading() as connection:
                yield connection
        finally:
            if self._turn:
                self._turn.release()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that writes nothing, and so waits for nobody."""
        with _unavailable(), self._engine.begin() as connection:
            yield connection


# the driver's own connection, of any driver
def _tune_sqlite(connection: Any, _record: object) -> None:
    # FULL, not NORMAL: a transition that was answered must survive the power cut after the answer.
    # A locked database is waited for as long as the driver does: 5 s, or what ?timeout= in the URL
    # says.
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _try_lock(descriptor: int) -> bool:
    # SQLite's own locks are POSIX record locks; flock() is another kind, gone with its process even
    # after kill -9.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, sa.exc.TimeoutError, sqlite3.Error, OSError) as error:
        cause = getattr(error, "orig", None) or error
        advice = (
            "Make room where SHRINKD_DATABASE_URL is, and try again. " if _lacks_room(cause) else ""
        )
        reason = " ".join(str(cause).split())
        raise StoreUnavailable(
            f"The database cannot be used: {reason}. {advice}Nothing was changed that it did not "
            "write down."
        ) from error


def _lacks_room(cause: BaseException) -> bool:
    # SQLite says "disk I/O error" of its index of the WAL, which is mapped and so not written as
    # the other files are.
    codes = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
    return getattr(cause, "sqlite_errorcode", None) in codes or getattr(cause, "errno", None) in {
        errno.ENOSPC,
        errno.EDQUOT,
    }
