"""What is written as it happens, and only forgotten by age.

Events, requests that take effect once, and who tried to change what.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from shrinkd.storage.database import Database
from shrinkd.storage.tables import audit, events, idempotency_keys

KEEP_EVENTS_SECONDS = 7 * 24 * 3600
KEEP_EVENTS = 200_000
KEEP_KEYS_SECONDS = 24 * 3600
KEEP_KEYS = 20_000
"""Of each caller."""
_KEY = ("caller", "route", "key")
KEEP_AUDIT_SECONDS = 30 * 24 * 3600
KEEP_AUDIT = 1_000_000

_Row = Mapping[str, Any]


class Ledger(Database):
    """The rows that only grow; each kind is swept by who writes it."""

    def add_once(self, table: sa.Table, rows: Sequence[_Row]) -> None:
        """Insert rows, all or none.

        One whose id is there already stays as it is, for a commit can succeed and lose its answer.

        That is asked when the insert has failed: it hardly ever does, and these are written each
        second beside a fast writer.
        """
        with suppress(IntegrityError), self.transaction() as connection:
            connection.execute(table.insert(), [dict(row) for row in rows])
            return
        with self.transaction() as connection:
            known = set(
                connection.execute(
                    sa.select(table.c.id).where(table.c.id.in_([row["id"] for row in rows]))
                ).scalars()
            )
            if fresh := [dict(row) for row in rows if row["id"] not in known]:
                connection.execute(table.insert(), fresh)

    # -- what has happened --------------------------------------------------------------------------------------

    def event_span(self) -> tuple[int, int]:
        """The ids of the oldest and of the newest event; (1, 0) when there has never been one."""
        with self.reading() as connection:
            oldest, newest = connection.execute(
                sa.select(sa.func.min(events.c.id), sa.func.max(events.c.id))
            ).one()
        return oldest or 1, newest or 0

    def add_events(self, rows: Sequence[_Row]) -> None:
        """Write events down, all or none; see add_once."""
        self.add_once(events, rows)

    def list_events(
        self,
        after: int,
        limit: int,
        *,
        types: Collection[str] = (),
        within: Sequence[Collection[str]] = (),
        always: str | None = None,
    ) -> list[_Row]:
        """List events behind an id, the oldest first.

        Of these types (none given: all) and at or below one path of each of `within`.

        Those of the type `always` are listed whatever else is wanted.
        """
        wanted: list[sa.ColumnElement[bool]] = [events.c.type.in_(types)] if types else []
        for paths in within:
            # Not LIKE, to which SQLite's letters have no case.
            below = [
                sa.func.substr(events.c.group_path, 1, len(path) + 1) == f"{path}/"
                for path in paths
            ]
            wanted.append(sa.or_(events.c.group_path.in_(paths), *below))
        query = sa.select(events).where(
            events.c.id > after, sa.or_(events.c.type == always, sa.and_(sa.true(), *wanted))
        )
        with self.reading() as connection:
            return [
                dict(row)
                for row in connection.execute(query.order_by(events.c.id).limit(limit)).mappings()
            ]

    def oldest_event_to_keep(self, now: int, most: int = KEEP_EVENTS) -> int:
        """The first id that is neither older than 7 days nor beyond so many.

        The newest at the latest, for ids are counted on from it.
        """
        horizon = now - KEEP_EVENTS_SECONDS * 1_000_000
        with self.reading() as connection:
            newest = connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0
            young = connection.execute(
                sa.select(sa.func.min(events.c.id)).where(events.c.at >= horizon)
            ).scalar()
        return max(young or newest, newest - most + 1, 1)

    def forget_events(self, oldest: int) -> None:
        """Delete what came before this id."""
        with self.transaction() as connection:
            connection.execute(events.delete().where(events.c.id < oldest))

    # -- requests that take effect once ------------------------------------------------------------------------

    def claim_key(self, row: _Row) -> _Row | None:
        """Write a key down before its request begins.

        If it is there already, and no older than 24 h, answer that row instead.
        """
        named, expired = _is_key(row), row["created_at"] - KEEP_KEYS_SECONDS * 1_000_000
        with self.transaction() as connection:
            known = connection.execute(sa.select(idempotency_keys).where(named)).mappings().first()
            if known is not None and known["created_at"] >= expired:
                return dict(known)
            connection.execute(idempotency_keys.delete().where(named))
            connection.execute(idempotency_keys.insert().values(row))
        return None

    def settle_keys(self, answered: Sequence[_Row], freed: Sequence[_Row]) -> None:
        """Write down what requests came to, and forget the keys of others: all or none."""
        with self.transaction() as connection:
            for row in answered:
                connection.execute(idempotency_keys.update().where(_is_key(row)).values(row))
            for row in freed:
                connection.execute(idempotency_keys.delete().where(_is_key(row)))

    def forget_keys(self, now: int, most: int = KEEP_KEYS) -> int:
        """Delete the keys that are older than 24 h, and each caller's oldest beyond so many.

        Answer how many there were.
        """
        names = [idempotency_keys.c[name] for name in _KEY]
        age = sa.func.row_number().over(
            partition_by=idempotency_keys.c.caller, order_by=idempotency_keys.c.created_at.desc()
        )
        ranked = sa.select(*names, age.label("age")).subquery()
        beyond = sa.select(*(ranked.c[name] for name in _KEY)).where(ranked.c.age > most)
        old = (idempotency_keys.c.created_at < now - KEEP_KEYS_SECONDS * 1_000_000) | sa.tuple_(
            *names
        ).in_(beyond)
        with self.transaction() as connection:
            return connection.execute(idempotency_keys.delete().where(old)).rowcount

    # -- who tried to change what -------------------------------------------------------------------------------

    def write_audit(self, attempts: Sequence[_Row], ended: Mapping[str, _Row]) -> None:
        """Write attempts down, and what came of those that were written down before.

        All or none.
        """
        with self.transaction() as connection:
            if attempts:
                connection.execute(audit.insert(), [dict(row) for row in attempts])
            if ended:
                outcomes = [
                    {"known_id": attempt_id, **outcome} for attempt_id, outcome in ended.items()
                ]
                connection.execute(
                    audit.update().where(audit.c.id == sa.bindparam("known_id")), outcomes
                )

    def list_audit(
        self,
        *,
        limit: int,
        before: str | None = None,
        since: int | None = None,
        least_status: int | None = None,
        **of: str,
    ) -> list[_Row]:
        """List attempts, the newest first.

        `of` a caller, an operation or a group_path; `before` is the id of the last one before.
        """
        query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
        for name, value in of.items():
            query = query.where(audit.c[name] == value)
        if before is not None:
            query = query.where(audit.c.id < before)
        if since is not None:
            query = query.where(audit.c.at >= since)
        if least_status is not None:
            query = query.where(audit.c.status >= least_status)
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def forget_audit(self, now: int, most: int = KEEP_AUDIT) -> int:
        """Delete the attempts that are older than 30 days, and the oldest beyond so many.

        Answer how many there were.
        """
        newest = (
            sa.select(audit.c.id)
            .order_by(audit.c.id.desc())
            .offset(most)
            .limit(1)
            .scalar_subquery()
        )
        old = (audit.c.at < now - KEEP_AUDIT_SECONDS * 1_000_000) | (audit.c.id <= newest)
        with self.transaction() as connection:
            return connection.execute(audit.delete().where(old)).rowcount


def _is_key(row: _Row) -> sa.ColumnElement[bool]:
    return sa.and_(*(idempotency_keys.c[name] == row[name] for name in _KEY))
