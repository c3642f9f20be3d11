"""Find the revision of the schema that a database is at, by its record and by its tables.

A start of an earlier release could die between two statements of a migration. That is recognised
here: the database has the tables of one revision, and some of those that the next one makes.
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
"""The columns of each table and index by its name, in terms that SQLite and PostgreSQL share."""


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a database among the revisions."""

    recorded: str | None
    """The revision in its own record; None for a database without one."""
    begin: str | None
    """The last revision whose tables are all there: the migrations after it are to be run."""
    is_empty: bool
    is_whole: bool
    """Whether its tables are exactly those of the recorded revision."""


class Revisions:
    """The migrations in a folder."""

    def __init__(self, folder: Path) -> None:
        self._config = Config()
        self._config.set_main_option("script_location", str(folder))
        self._names = [
            script.revision for script in ScriptDirectory.from_config(self._config).walk_revisions()
        ][::-1]

    def is_newest(self, connection: sa.Connection) -> bool:
        """Tell whether the database records the newest revision."""
        return _recorded(connection) == (self._names[-1],)

    def upgrade(self, connection: sa.Connection, revision: str = "head") -> None:
        """Run the migrations from the recorded revision up to this one."""
        self._config.attributes["connection"] = connection
        command.upgrade(self._config, revision)

    def record(self, connection: sa.Connection, revision: str) -> None:
        """Record this revision in a database, and change nothing else."""
        self._config.attributes["connection"] = connection
        command.stamp(self._config, revision)

    def locate(self, connection: sa.Connection) -> Place:
        """Find the position of a database among the revisions.

        SettingsError for a database of another program or of a newer release, or with tables of no
        revision.
        """
        recorded = self._known(connection)
        inspector = sa.inspect(connection)
        there = {*inspector.get_table_names(), *inspector.get_view_names()} - {_VERSION_TABLE}
        if recorded is None and not there:
            return Place(None, None, is_empty=True, is_whole=True)
        shapes = self._shapes()
        known = {name for shape in shapes.values() for name in shape}
        # A database on a server may be shared with other programs; a file has one owner.
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
        """Answer the tables of each revision, beginning with None for an empty database.

        Each one is made in memory and inspected.
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
    """Answer the recorded revision if its tables are there.

    Otherwise the last later revision whose tables are all there, with some of the next one's.
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
