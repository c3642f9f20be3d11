"""Changes of limits that are under way, so that the next start can finish those cut short."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from shrinkd.backends import Steps
from shrinkd.storage.database import Database, values_of
from shrinkd.storage.tables import intents


@dataclass(frozen=True, slots=True)
class LimitIntentRow:
    """One change of a group's limits that has begun and has not ended."""

    boot_id: str
    group_id: int
    path: str
    steps: Steps
    """The limits before the change, then those after each step of it, in bytes."""
    created_at: int


class LimitIntentRepository:
    """The table `intents`: at most one row a group."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, row: LimitIntentRow) -> None:
        """Record a change, replacing an earlier one of its group; delete those of other boots."""
        earlier = (intents.c.boot_id != row.boot_id) | (intents.c.group_id == row.group_id)
        with self._database.transaction() as connection:
            connection.execute(intents.delete().where(earlier))
            connection.execute(intents.insert().values(values_of(row)))

    def list(self, boot_id: str) -> Sequence[LimitIntentRow]:
        """List the changes of this boot that have not ended."""
        query = sa.select(intents).where(intents.c.boot_id == boot_id)
        return self._database.rows(LimitIntentRow, query)

    def delete(self, boot_id: str, group_id: int) -> None:
        """Delete the row of a group, if there is one."""
        matches = (intents.c.boot_id == boot_id) & (intents.c.group_id == group_id)
        with self._database.transaction() as connection:
            connection.execute(intents.delete().where(matches))
