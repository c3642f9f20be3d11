"""Events, as they are stored."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from shrinkd.storage.database import Database
from shrinkd.storage.group_filter import at_or_below_any
from shrinkd.storage.tables import events

KEEP_SECONDS = 7 * 24 * 3600
KEEP_ROWS = 200_000


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event. Without a group it is about the whole node."""

    id: int
    """Given by the writer: counts up by one, over restarts too."""
    at: int
    type: str
    group_id: int | None
    group_path: str | None
    data: Mapping[str, Any]


class EventRepository:
    """The table `events`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def span(self) -> tuple[int, int]:
        """Answer the ids of the oldest and the newest event; (1, 0) if there has never been one."""
        query = sa.select(sa.func.min(events.c.id), sa.func.max(events.c.id))
        with self._database.reading() as connection:
            oldest, newest = connection.execute(query).one()
        return oldest or 1, newest or 0

    def record(self, rows: Sequence[EventRow]) -> None:
        """Record events, all or none; those whose id is there already stay as they are."""
        self._database.insert_missing(events, rows)

    def list(
        self,
        after: int,
        limit: int,
        *,
        types: Collection[str] = (),
        within: Sequence[Collection[str]] = (),
        always: str | None = None,
    ) -> Sequence[EventRow]:
        """List events with ids above `after`, the oldest first.

        Of these types (none given: all), and at or below one path of each collection in `within`.
        Events of the type `always` are listed whatever the other filters are.
        """
        wanted: list[sa.ColumnElement[bool]] = [events.c.type.in_(types)] if types else []
        wanted += [at_or_below_any(events.c.group_path, paths) for paths in within]
        query = sa.select(events).where(
            events.c.id > after, sa.or_(events.c.type == always, sa.and_(sa.true(), *wanted))
        )
        return self._database.rows(EventRow, query.order_by(events.c.id).limit(limit))

    def oldest_to_keep(self, now: int, most: int = KEEP_ROWS) -> int:
        """Answer the first id that is neither older than 7 days nor beyond the `most` newest.

        It is at most the newest id, which is always kept because the next one counts on from it.
        """
        horizon = now - KEEP_SECONDS * 1_000_000
        with self._database.reading() as connection:
            newest = connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0
            young = connection.execute(
                sa.select(sa.func.min(events.c.id)).where(events.c.at >= horizon)
            ).scalar()
        return max(young or newest, newest - most + 1, 1)

    def delete_before(self, oldest: int) -> None:
        """Delete the events with ids below this one."""
        with self._database.transaction() as connection:
            connection.execute(events.delete().where(events.c.id < oldest))
