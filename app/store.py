"""What outlives the process: the tables and one synchronous Store, on SQLite by default and on PostgreSQL by URL.

Times are whole microseconds since the epoch (UTC), because SQLite keeps no time zone. A Store is called from worker
threads, never from the event loop; what its database refuses (full, locked, gone) is StoreUnavailable.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from app.backends import Group
from app.errors import SettingsError, ShrinkdError, ShrinkInProgress, ShrinkNotFound, StoreUnavailable

ACTIVE_STATES = ("queued", "running", "cancelling")
KEEP_FINISHED_SECONDS = 7 * 24 * 3600
_MIGRATIONS = Path(__file__).parent.parent / "migrations"
_SHRINK_ID = re.compile(r"[0-9a-f]{32}")

metadata = sa.MetaData()

shrinks = sa.Table(
    "shrinks",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("boot_id", sa.String(64), nullable=False),
    sa.Column("group_id", sa.BigInteger, nullable=False),
    sa.Column("group_path", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("policy", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("finished_at", sa.BigInteger),
    sa.Index("shrinks_by_time", "created_at", "id"),
    sa.Index("shrinks_by_group", "group_path", "created_at"),
    sa.Index(
        "one_active_shrink_a_group",
        "group_id",
        unique=True,
        sqlite_where=sa.text("state IN ('queued', 'running', 'cancelling')"),
        postgresql_where=sa.text("state IN ('queued', 'running', 'cancelling')"),
    ),
)

made_groups = sa.Table(
    "made_groups",
    metadata,
    sa.Column("boot_id", sa.String(64), primary_key=True),
    sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("boot_id", sa.String(64), primary_key=True),
    sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("steps", sa.JSON, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

Row = Mapping[str, Any]


def now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def describe(error: ShrinkdError | None) -> dict[str, object] | None:
    """An error as the store keeps it: the name of its class, its sentence and its members."""
    if error is None:
        return None
    members = {name: asdict(value) if isinstance(value, Group) else value for name, value in error.members.items()}
    return {"kind": type(error).__name__, "detail": error.detail, "members": members}


class Store:
    """The database of one daemon. Opening it brings the schema up to date and claims it against a second daemon."""

    def __init__(self, url: str, migrations: Path = _MIGRATIONS) -> None:
        self._migrations = migrations
        try:
            self._engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        except (SQLAlchemyError, ImportError) as error:
            raise SettingsError(f"SHRINKD_DATABASE_URL cannot be used: {error}.") from None
        self._claim: int | sa.Connection | None = None
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _tune_sqlite)

    def open(self) -> None:
        """Claim the database and migrate it; SettingsError when another daemon has it or a newer one wrote it."""
        with _unavailable():
            self._claim_it()
            self._upgrade()

    def close(self) -> None:
        if isinstance(self._claim, sa.Connection):
            self._claim.close()
        self._engine.dispose()
        if isinstance(self._claim, int):
            os.close(self._claim)  # the last one: a close of any descriptor drops the locks that SQLite has on the file
        self._claim = None

    def ping(self) -> None:
        """Prove that the database can be written, or raise StoreUnavailable."""
        with _unavailable():
            if isinstance(self._claim, int) and not os.fstat(self._claim).st_nlink:
                raise FileNotFoundError(errno.ENOENT, f"{self._engine.url.database} was removed")
        with self._transaction() as connection:
            connection.execute(sa.select(shrinks.c.id).limit(1))
            connection.execute(sa.text("UPDATE alembic_version SET version_num = version_num"))

    # -- shrinks ------------------------------------------------------------------------------------------------

    def add_shrink(self, row: Row) -> None:
        """Write a new shrink down; ShrinkInProgress when its group has an active one, which the index sees to."""
        try:
            with self._transaction() as connection:
                connection.execute(shrinks.insert().values(row))
        except IntegrityError:
            raise ShrinkInProgress("A shrink of this group is in progress: wait for it, or cancel it.") from None

    def move_shrink(self, shrink_id: str, expected: str, row: Row) -> bool:
        """Compare and set: answer whether the shrink was in the expected state and is now as the row says.

        It may be there already: a commit can succeed and lose its answer, and is then tried again.
        """
        matches = (shrinks.c.id == shrink_id) & shrinks.c.state.in_((expected, row["state"]))
        with self._transaction() as connection:
            return connection.execute(shrinks.update().where(matches).values(row)).rowcount == 1

    def shrink(self, shrink_id: str) -> Row:
        row = None
        if _SHRINK_ID.fullmatch(shrink_id):  # PostgreSQL is not even to be asked for text with a NUL in it
            with self._transaction() as connection:
                row = connection.execute(sa.select(shrinks).where(shrinks.c.id == shrink_id)).mappings().first()
        if row is None:
            raise ShrinkNotFound(f"There is no shrink {shrink_id!a}; finished ones are kept for 7 days.")
        return dict(row)

    def list_shrinks(
        self,
        *,
        limit: int,
        before: tuple[int, str] | None = None,
        states: tuple[str, ...] = (),
        group_path: str | None = None,
        since: int | None = None,
    ) -> list[Row]:
        """List shrinks, the newest first; `before` is the (created_at, id) of the last one of the page before."""
        query = sa.select(shrinks).order_by(shrinks.c.created_at.desc(), shrinks.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(sa.tuple_(shrinks.c.created_at, shrinks.c.id) < sa.tuple_(*before))
        if states:
            query = query.where(shrinks.c.state.in_(states))
        if group_path is not None:
            query = query.where(shrinks.c.group_path == group_path)
        if since is not None:
            query = query.where(shrinks.c.created_at >= since)
        with self._transaction() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def interrupt_active(self, now: int, error: ShrinkdError) -> int:
        """Settle what a daemon that died left active, and answer how many there were."""
        leftover = shrinks.update().where(shrinks.c.state.in_(ACTIVE_STATES))
        with self._transaction() as connection:
            return connection.execute(leftover.values(state="interrupted", finished_at=now, error=describe(error))).rowcount

    def forget_finished(self, now: int) -> int:
        """Delete the shrinks that finished more than 7 days ago, and answer how many there were."""
        old = shrinks.delete().where(shrinks.c.finished_at < now - KEEP_FINISHED_SECONDS * 1_000_000)
        with self._transaction() as connection:
            return connection.execute(old).rowcount

    # -- groups made through the API ----------------------------------------------------------------------------

    def add_made_group(self, boot_id: str, group_id: int, path: str, now: int) -> None:
        """Remember that this incarnation was made here; those of other boots are forgotten on the way."""
        row = {"boot_id": boot_id, "group_id": group_id, "path": path, "created_at": now}
        with self._transaction() as connection:
            connection.execute(made_groups.delete().where(made_groups.c.boot_id != boot_id))
            connection.execute(made_groups.insert().values(row))

    def made_group_ids(self, boot_id: str) -> set[int]:
        with self._transaction() as connection:
            return set(connection.execute(sa.select(made_groups.c.group_id).where(made_groups.c.boot_id == boot_id)).scalars())

    def forget_made_group(self, boot_id: str, group_id: int) -> None:
        matches = (made_groups.c.boot_id == boot_id) & (made_groups.c.group_id == group_id)
        with self._transaction() as connection:
            connection.execute(made_groups.delete().where(matches))

    # -- changes of limits that a death could leave half made ----------------------------------------------------

    def add_intent(self, row: Row) -> None:
        """Write a change down, in the place of an earlier one of its group; those of other boots are forgotten on the way."""
        earlier = (intents.c.boot_id != row["boot_id"]) | (intents.c.group_id == row["group_id"])
        with self._transaction() as connection:
            connection.execute(intents.delete().where(earlier))
            connection.execute(intents.insert().values(row))

    def list_intents(self, boot_id: str) -> list[Row]:
        with self._transaction() as connection:
            return [dict(row) for row in connection.execute(sa.select(intents).where(intents.c.boot_id == boot_id)).mappings()]

    def forget_intent(self, boot_id: str, group_id: int) -> None:
        matches = (intents.c.boot_id == boot_id) & (intents.c.group_id == group_id)
        with self._transaction() as connection:
            connection.execute(intents.delete().where(matches))

    # -- the schema ---------------------------------------------------------------------------------------------

    def _claim_it(self) -> None:
        """Two daemons on one database would each call the other's shrinks interrupted, so the second does not start."""
        path = self._engine.url.database
        if self._engine.dialect.name == "postgresql":
            self._claim = self._engine.connect()
            free = self._claim.execute(sa.text("SELECT pg_try_advisory_lock(hashtext('shrinkd'))")).scalar()
            self._claim.commit()
        elif path and path != ":memory:" and not path.startswith("file:"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._claim = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            free = _try_lock(self._claim)
        else:
            raise SettingsError("SHRINKD_DATABASE_URL names no file: an SQLite database in memory would forget every shrink.")
        if not free:
            raise SettingsError("Another shrinkd has this database: stop it, or give this one its own SHRINKD_DATABASE_URL.")

    def _upgrade(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(self._migrations))
        scripts = ScriptDirectory.from_config(config)
        with self._engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            known = {script.revision for script in scripts.walk_revisions()}
            if current is not None and current not in known:
                raise SettingsError(
                    f"A newer shrinkd wrote this database (revision {current}): run that one, or restore the backup beside it."
                )
            if current is not None and current != scripts.get_current_head() and connection.dialect.name == "sqlite":
                copy = f"{self._engine.url.database}.before-{scripts.get_current_head()}"
                # VACUUM fills an empty file but no other, and would make one that everybody may read.
                os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
                connection.execute(sa.text("VACUUM INTO :copy"), {"copy": copy})
            connection.rollback()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with _unavailable(), self._engine.begin() as connection:
            yield connection


def _tune_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401  # the driver's own connection, of any driver
    # FULL, not NORMAL: a transition that was answered must survive the power cut after the answer.
    # A locked database is waited for as long as the driver does: 5 s, or what ?timeout= in the URL says.
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _try_lock(descriptor: int) -> bool:
    # SQLite's own locks are POSIX record locks; flock() is another kind, gone with its process even after kill -9.
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
    except (DBAPIError, sa.exc.TimeoutError, OSError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StoreUnavailable(f"The database cannot be used: {reason}. Nothing was changed that it did not write down.") from error
