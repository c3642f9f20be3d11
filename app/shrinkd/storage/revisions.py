"""The revisions of the schema that this release knows, and which of them a database is at, by what
it says and what it has.

A start of an earlier release could die between two statements of a migration. What it left is
recognised here: the tables of one revision, and some of what the next one makes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from shrinkd.errors import SettingsError

_VERSION_TABLE = "alembic_version"
_ADVICE = "let SHRINKD_DATABASE_URL name another, or one that is not there yet"

_Shape = dict[str, tuple[object, ...]]
"""What each table and each index is made of, by its name, in words that SQLite and PostgreSQL have
in common."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a database stands among the revisions."""

    recorded: str | None
    """What it says itself; None: nothing."""
    begin: str | None
    """The last revision that it has all tables of: what is behind that is to be made."""
    is_empty: bool
    is_whole: bool
    """Whether its tables are those of the recorded revision, and no more."""


class Revisions:
    """The migrations in a folder."""

    def __init__(self, folder: Path) -> None:
        self._config = Config()
        self._config.set_main_option("script_location", str(folder))
        self._names = [
            script.revision for script in ScriptDirectory.from_config(self._config).walk_revisions()
        ][::-1]

    def is_newest(self, connection: sa.Connection) -> bool:
        """Whether the database says that it is at the newest revision."""
        return _recorded(connection) == (self._names[-1],)

    def upgrade(self, connection: sa.Connection, revision: str = "head") -> None:
        """Make the migrations from the recorded revision up to this one."""
        self._config.attributes["connection"] = connection
        command.upgrade(self._config, revision)

    def record(self, connection: sa.Connection, revision: str) -> None:
        """Write down that a database is at this revision, and change nothing else."""
        self._config.attributes["connection"] = connection
        command.stamp(self._config, revision)

    def locate(self, connection: sa.Connection) -> Place:
        """Find where a database stands.

        SettingsError for that of another program or of a newer release, or with tables of no
        revision.
        """
        recorded = self._known(connection)
        inspector = sa.inspect(connection)
        there = {*inspector.get_table_names(), *inspector.get_view_names()} - {_VERSION_TABLE}
        if recorded is None and not there:
            return Place(None, None, is_empty=True, is_whole=True)
        shapes = self._shapes()
        known = {name for shape in shapes.values() for name in shape}
        # A database of a server may be shared; a file has one owner.
        if recorded is None and there - known and connection.dialect.name == "sqlite":
            raise _not_ours(f"it has {_listed(there - known)}")
        found = {name: made_of for name, made_of in _shape_of(connection).items() if name in known}
        return Place(
            recorded,
            _begin(recorded, found, shapes),
            is_empty=not found,
            is_whole=found == shapes[recorded],
        )

    def _known(self, connection: sa.Connection) -> str | None:
        recorded = _recorded(connection)
        if not recorded:
            return None
        if len(recorded) == 1 and recorded[0] in self._names:
            return recorded[0]
        if not sa.inspect(connection).has_table("shrinks"):
            raise _not_ours(f"it is at revision {_listed(recorded)} of its own")
        raise SettingsError(
            f"A newer shrinkd wrote this database (revision {_listed(recorded)}): run that one, or "
            "restore the copy beside it."
        )

    def _shapes(self) -> dict[str | None, _Shape]:
        """What each revision comes to, the oldest first, and before it nothing.

        Made in memory, and looked at.
        """
        shapes: dict[str | None, _Shape] = {None: {}}
        engine = sa.create_engine("sqlite://")
        with engine.begin() as connection:
            for name in self._names:
                self.upgrade(connection, name)
                shapes[name] = _shape_of(connection)
        engine.dispose()
        return shapes


def _recorded(connection: sa.Connection) -> tuple[str, ...]:
    return MigrationContext.configure(connection).get_current_heads()


def _begin(recorded: str | None, found: _Shape, shapes: dict[str | None, _Shape]) -> str | None:
    """The recorded revision if its tables are there.

    Or else the last behind it of which all are, with some of the next one's.
    """
    if found == shapes[recorded]:
        return recorded
    behind = [*shapes][[*shapes].index(recorded) :]
    fitting = [
        revision
        for revision, following in pairwise([*behind, behind[-1]])
        if shapes[revision].items() <= found.items() <= shapes[following].items()
    ]
    if fitting:
        return fitting[-1]
    strange = min((found.items() ^ shape.items() for shape in shapes.values()), key=len)
    raise SettingsError(
        "This database has tables of no revision that is known here (recorded: "
        f"{recorded or 'none'}; of the nearest one differ: "
        f"{_listed({name for name, _ in strange})}), and is left as it is: restore a copy of it, "
        f"or {_ADVICE}."
    )


def _shape_of(connection: sa.Connection) -> _Shape:
    inspector = sa.inspect(connection)
    shape: _Shape = {}
    for table in set(inspector.get_table_names()) - {_VERSION_TABLE}:
        columns = (
            (column["name"], bool(column["nullable"])) for column in inspector.get_columns(table)
        )
        shape[table] = (*columns, *inspector.get_pk_constraint(table)["constrained_columns"])
        for index in inspector.get_indexes(table):
            shape[str(index["name"])] = (table, bool(index["unique"]), *index["column_names"])
    return shape


def _not_ours(reason: str) -> SettingsError:
    return SettingsError(
        f"This is the database of another program ({reason}), and is left as it is: {_ADVICE}."
    )


def _listed(names: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, names)))
