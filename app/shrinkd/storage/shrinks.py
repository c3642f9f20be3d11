"""Shrinks, as they are stored."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from shrinkd.backends import Group
from shrinkd.errors import ShrinkdError, ShrinkInProgress, ShrinkNotFound
from shrinkd.storage.database import Database, values_of
from shrinkd.storage.group_filter import GroupFilter, group_condition
from shrinkd.storage.keyset import newest_beyond, newest_first
from shrinkd.storage.tables import shrinks

ACTIVE_STATES = ("queued", "running", "cancelling")
KEEP_SECONDS = 7 * 24 * 3600
KEEP_ROWS_OF_POLICIES = 100_000
"""Finished shrinks of policies: beside a fast writer a policy makes ten a second."""
_SHRINK_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class ShrinkRow:
    """One shrink: the request, how far it is and how it ended."""

    id: str
    boot_id: str
    group_id: int
    group_path: str
    state: str
    request: Mapping[str, Any]
    """shrinks.Request, by field."""
    progress: Mapping[str, Any]
    """shrinks.Progress, by field, and elapsed_seconds."""
    error: Mapping[str, Any] | None
    """See serialize_error()."""
    policy: str | None
    """The policy that asked for it; None for a caller's."""
    created_at: int
    started_at: int | None
    finished_at: int | None


def serialize_error(error: ShrinkdError | None) -> dict[str, object] | None:
    """Turn an error into the JSON that a row keeps: its class's name, its text, its members."""
    if error is None:
        return None
    members = {
        name: asdict(value) if isinstance(value, Group) else value
        for name, value in error.members.items()
    }
    return {"kind": type(error).__name__, "detail": error.detail, "members": members}


def shrink_not_found(shrink_id: str) -> ShrinkNotFound:
    """Make the error for an id that no shrink has."""
    return ShrinkNotFound(f"There is no shrink {shrink_id!a}; finished ones are kept for 7 days.")


class ShrinkRepository:
    """The table `shrinks`: at most one active row a group; states change by compare-and-set."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, row: ShrinkRow) -> None:
        """Record a new shrink. ShrinkInProgress when its group has an active one."""
        try:
            with self._database.transaction() as connection:
                connection.execute(shrinks.insert().values(values_of(row)))
        except IntegrityError:
            raise ShrinkInProgress(
                "A shrink of this group is in progress: wait for it, or cancel it."
            ) from None

    def record_finished(self, rows: Sequence[ShrinkRow]) -> None:
        """Record finished shrinks, all or none; those that are there already stay as they are."""
        self._database.insert_missing(shrinks, rows)

    def move(self, shrink_id: str, expected: str, row: ShrinkRow) -> bool:
        """Replace a row if its state is the expected one, and answer whether it was.

        It may have the new state already: a commit can succeed and lose its answer, and is then
        tried again.
        """
        matches = (shrinks.c.id == shrink_id) & shrinks.c.state.in_((expected, row.state))
        update = shrinks.update().where(matches).values(values_of(row))
        with self._database.transaction() as connection:
            return connection.execute(update).rowcount == 1

    def get(self, shrink_id: str) -> ShrinkRow:
        """Read one shrink. ShrinkNotFound."""
        found: Sequence[ShrinkRow] = ()
        # PostgreSQL refuses a query for a text with a NUL in it.
        if _SHRINK_ID.fullmatch(shrink_id):
            query = sa.select(shrinks).where(shrinks.c.id == shrink_id)
            found = self._database.rows(ShrinkRow, query)
        if not found:
            raise shrink_not_found(shrink_id)
        return found[0]

    def list(
        self,
        *,
        limit: int,
        before: tuple[int, str] | None = None,
        states: Sequence[str] = (),
        groups: GroupFilter = None,
        since: int | None = None,
    ) -> Sequence[ShrinkRow]:
        """List shrinks, the newest first.

        `before` is the (created_at, id) of the last one of the page before; `since` is a time.
        """
        key = [shrinks.c.created_at, shrinks.c.id]
        query = newest_first(sa.select(shrinks), key, limit, before)
        query = query.where(group_condition(shrinks.c.group_path, groups))
        if states:
            query = query.where(shrinks.c.state.in_(states))
        if since is not None:
            query = query.where(shrinks.c.created_at >= since)
        return self._database.rows(ShrinkRow, query)

    def interrupt_active(self, now: int, error: ShrinkdError) -> int:
        """Set all active shrinks to interrupted, with this error; answer how many there were."""
        leftover = shrinks.update().where(shrinks.c.state.in_(ACTIVE_STATES))
        update = leftover.values(state="interrupted", finished_at=now, error=serialize_error(error))
        with self._database.transaction() as connection:
            return connection.execute(update).rowcount

    def expire(self, now: int, most: int = KEEP_ROWS_OF_POLICIES) -> int:
        """Delete shrinks that finished more than 7 days ago, and policies' oldest beyond `most`.

        Answers how many.
        """
        of_policies = shrinks.c.policy.is_not(None) & shrinks.c.finished_at.is_not(None)
        old = (shrinks.c.finished_at < now - KEEP_SECONDS * 1_000_000) | (
            of_policies & (shrinks.c.id <= newest_beyond(shrinks.c.id, most, of_policies))
        )
        with self._database.transaction() as connection:
            return connection.execute(shrinks.delete().where(old)).rowcount
