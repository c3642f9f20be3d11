"""Attempted changes, as they are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import sqlalchemy as sa

from shrinkd.storage.database import Database, values_of
from shrinkd.storage.keyset import newest_beyond, newest_first
from shrinkd.storage.tables import audit

KEEP_SECONDS = 30 * 24 * 3600
KEEP_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """The end of one attempt: the HTTP status, the problem's name, and the group it was about."""

    status: int | None = None
    problem: str | None = None
    group_id: int | None = None
    group_path: str | None = None
    finished_at: int | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One attempted change; several equal ones that changed nothing are one row.

    The columns of AuditOutcome are None until the attempt has ended.
    """

    id: str
    at: int
    caller: str
    operation: str | None
    method: str
    path: str
    request_id: str
    dry_run: bool
    body: object
    group_id: int | None = None
    group_path: str | None = None
    status: int | None = None
    problem: str | None = None
    finished_at: int | None = None
    times: int = 1

    def ended(self, outcome: AuditOutcome) -> Self:
        """Answer the row with its outcome."""
        return replace(self, **values_of(outcome))


class AuditRepository:
    """The table `audit`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self, attempts: Sequence[AuditRow], outcomes: Mapping[str, AuditOutcome] | None = None
    ) -> None:
        """Record attempts, and the outcomes of attempts by their ids: all or none.

        An attempt whose id is there already stays as it is.
        """

        def record_outcomes(connection: sa.Connection) -> None:
            if outcomes:
                connection.execute(
                    audit.update().where(audit.c.id == sa.bindparam("known_id")),
                    [{"known_id": key, **values_of(end)} for key, end in outcomes.items()],
                )

        self._database.insert_missing(audit, attempts, record_outcomes)

    def list(
        self,
        *,
        limit: int,
        before: tuple[str] | None = None,
        since: int | None = None,
        least_status: int | None = None,
        **exact: str,
    ) -> Sequence[AuditRow]:
        """List attempts, the newest first.

        `before` holds the id of the last one of the page before; `since` is a time; `exact` is
        any of caller, operation and group_path.
        """
        query = newest_first(sa.select(audit), [audit.c.id], limit, before)
        query = query.where(*(audit.c[name] == value for name, value in exact.items()))
        if since is not None:
            query = query.where(audit.c.at >= since)
        if least_status is not None:
            query = query.where(audit.c.status >= least_status)
        return self._database.rows(AuditRow, query)

    def expire(self, now: int, most: int = KEEP_ROWS) -> int:
        """Delete attempts older than 30 days, and the oldest beyond `most`; answer how many."""
        old = (audit.c.at < now - KEEP_SECONDS * 1_000_000) | (
            audit.c.id <= newest_beyond(audit.c.id, most)
        )
        with self._database.transaction() as connection:
            return connection.execute(audit.delete().where(old)).rowcount
