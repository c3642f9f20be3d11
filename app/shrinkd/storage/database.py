"""Open a database for one daemon, and read and write it in transactions.

Call it from worker threads, not from the event loop. A database that is full, locked or gone raises
StoreUnavailable.
"""

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from shrinkd.default_paths import make_private_directory
from shrinkd.errors import SettingsError, StoreUnavailable
from shrinkd.storage import migration
from shrinkd.storage.tables import shrinks

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_WRITER_SECONDS = 5.0
"""How long a transaction waits for the other ones of this daemon."""

R = TypeVar("R")


def values_of(row: "DataclassInstance") -> dict[str, Any]:
    """Answer the columns of a row by name; what they hold is not copied."""
    return {field.name: getattr(row, field.name) for field in fields(row)}


class Database:
    """The database of one daemon, which no second daemon can open meanwhile."""

    def __init__(self, url: str, migrations: Path = migration.MIGRATIONS) -> None:
        self._migrations = migrations
        try:
            self._engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        except (SQLAlchemyError, ImportError) as error:
            raise SettingsError(f"SHRINKD_DATABASE_URL cannot be used: {error}.") from None
        self._claim: int | sa.Connection | None = None
        self._writer = threading.Lock() if url.startswith("sqlite") else None
        """Held by the one that writes: SQLite has one writer, and lets others poll for its lock."""
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _tune_sqlite)

    def open(self) -> None:
        """Claim the database against a second daemon, and bring its schema up to date.

        SettingsError when another daemon has it, or a newer release wrote it.
        """
        with _unavailable():
            self._acquire_claim()
            migration.upgrade(self._engine.url, self._migrations)
            # The first connection may have to turn the file into a WAL database: do that here.
            self._engine.connect().close()

    def close(self) -> None:
        """Release the claim and close all connections."""
        if isinstance(self._claim, sa.Connection):
            # Without this the server would notice the end of the connection a moment after the next
            # daemon has asked for the lock.
            with suppress(SQLAlchemyError):
                self._claim.execute(sa.text("SELECT pg_advisory_unlock_all()"))
            self._claim.close()
        self._engine.dispose()
        if isinstance(self._claim, int):
            # Last: closing any descriptor of the file releases the locks that SQLite has on it.
            os.close(self._claim)
        self._claim = None

    def ping(self) -> None:
        """Prove that the database can be written, or raise StoreUnavailable."""
        with _unavailable():
            if isinstance(self._claim, int) and not os.fstat(self._claim).st_nlink:
                raise FileNotFoundError(errno.ENOENT, f"{self._engine.url.database} was removed")
        with self.transaction() as connection:
            connection.execute(sa.select(shrinks.c.id).limit(1))
            connection.execute(sa.text("UPDATE alembic_version SET version_num = version_num"))

    def _acquire_claim(self) -> None:
        """Lock the database for this process. SettingsError when another daemon has it.

        Two daemons on one database would each set the other's shrinks to interrupted.
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
        """Run statements in one transaction: all take effect, or none. Transactions do not nest."""
        if self._writer and not self._writer.acquire(timeout=_WRITER_SECONDS):
            raise StoreUnavailable(
                "The database cannot be used: other requests of this daemon wait for it, too. "
                "Nothing was changed."
            )
        try:
            with self.reading() as connection:
                yield connection
        finally:
            if self._writer:
                self._writer.release()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Run queries in one transaction, which waits for no writer."""
        with _unavailable(), self._engine.begin() as connection:
            yield connection

    def rows(self, kind: type[R], query: sa.Select[Any]) -> list[R]:
        """Run a query and answer its rows as objects of a class with one field for each column."""
        with self.reading() as connection:
            return [kind(**row) for row in connection.execute(query).mappings()]

    def insert_missing(
        self,
        table: sa.Table,
        rows: "Sequence[DataclassInstance]",
        more: Callable[[sa.Connection], None] = lambda _: None,
    ) -> None:
        """Insert rows, and run `more` in the same transaction: all or nothing.

        A row whose id is there already stays as it is, because a commit can succeed and lose its
        answer, and is then tried again. Only a failed insert looks for such ids: they are rare, and
        rows are inserted every second beside a fast writer.
        """
        values = [values_of(row) for row in rows]
        try:
            self._insert(table, values, more)
        except IntegrityError:
            ids = sa.select(table.c.id).where(table.c.id.in_([row["id"] for row in values]))
            with self.reading() as connection:
                known = set(connection.execute(ids).scalars())
            self._insert(table, [row for row in values if row["id"] not in known], more)

    def _insert(
        self,
        table: sa.Table,
        values: list[dict[str, Any]],
        more: Callable[[sa.Connection], None],
    ) -> None:
        with self.transaction() as connection:
            if values:
                connection.execute(table.insert(), values)
            more(connection)


def _tune_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # FULL, not NORMAL: a change that was answered must survive a power cut after the answer. A
    # locked database is waited for as long as the driver does: 5 s, or ?timeout= in the URL.
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _try_lock(descriptor: int) -> bool:
    # flock() does not conflict with SQLite's own locks, which are POSIX record locks, and ends with
    # the process even after kill -9.
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
            "record."
        ) from error


def _lacks_room(cause: BaseException) -> bool:
    # For the index of the WAL, which is mapped and not written as the other files are, SQLite says
    # "disk I/O error".
    codes = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
    return getattr(cause, "sqlite_errorcode", None) in codes or getattr(cause, "errno", None) in {
        errno.ENOSPC,
        errno.EDQUOT,
    }
