"""Decisions of policies, as they are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from shrinkd.storage.database import Database, values_of
from shrinkd.storage.group_filter import GroupFilter, group_condition
from shrinkd.storage.keyset import newest_beyond, newest_first
from shrinkd.storage.tables import decisions

KEEP_SECONDS = 7 * 24 * 3600
KEEP_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One decision of a policy for a group; several equal ones in succession are one row.

    Sizes in bytes; policies.Record describes each column.
    """

    id: int | None
    """Counts up by one in the database; None for a row that is not recorded yet."""
    at: int
    policy: str
    generation: int
    group_id: int
    group_path: str
    mode: str
    verdict: str
    reason: str
    signals: Mapping[str, float | int | str | None]
    look_seconds: float
    asked_bytes: int | None = None
    granted_bytes: int | None = None
    freed_bytes: int | None = None
    shrink_id: str | None = None
    errno: str | None = None
    times: int = 1


class DecisionRepository:
    """The table `decisions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, rows: Sequence[DecisionRow]) -> Sequence[int]:
        """Record decisions, all or none, and answer their ids in the same order.

        A row with an id replaces the one that is there; it is discarded if that has expired.
        """
        fresh = [_without_id(row) for row in rows if row.id is None]
        known = [_without_id(row) | {"known_id": row.id} for row in rows if row.id is not None]
        ids: list[int] = []
        with self._database.transaction() as connection:
            if known:
                connection.execute(
                    decisions.update().where(decisions.c.id == sa.bindparam("known_id")), known
                )
            if fresh:
                insert = decisions.insert().returning(decisions.c.id, sort_by_parameter_order=True)
                ids = [*connection.execute(insert, fresh).scalars()]
        new = iter(ids)
        return [next(new) if row.id is None else row.id for row in rows]

    def list(
        self,
        *,
        limit: int,
        before: tuple[int] | None = None,
        verdicts: Sequence[str] = (),
        within: GroupFilter = None,
        since: int | None = None,
        **exact: str,
    ) -> Sequence[DecisionRow]:
        """List decisions, the newest first.

        `before` holds the id of the last one of the page before; `since` is a time; `exact` is
        a policy, a group_path or both.
        """
        query = newest_first(sa.select(decisions), [decisions.c.id], limit, before)
        query = query.where(*(decisions.c[name] == value for name, value in exact.items()))
        query = query.where(group_condition(decisions.c.group_path, within))
        if verdicts:
            query = query.where(decisions.c.verdict.in_(verdicts))
        if since is not None:
            query = query.where(decisions.c.at >= since)
        return self._database.rows(DecisionRow, query)

    def expire(self, now: int, most: int = KEEP_ROWS) -> int:
        """Delete decisions older than 7 days, and the oldest beyond `most`; answer how many."""
        old = (decisions.c.at < now - KEEP_SECONDS * 1_000_000) | (
            decisions.c.id <= newest_beyond(decisions.c.id, most)
        )
        with self._database.transaction() as connection:
            return connection.execute(decisions.delete().where(old)).rowcount


def _without_id(row: DecisionRow) -> dict[str, Any]:
    values = values_of(row)
    del values["id"]
    return values
