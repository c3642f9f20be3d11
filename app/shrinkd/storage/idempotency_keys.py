"""Idempotency keys and the answers to their requests, as they are stored."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from shrinkd.storage.database import Database, values_of
from shrinkd.storage.tables import idempotency_keys

KEEP_SECONDS = 24 * 3600
KEEP_ROWS = 20_000
"""Of each caller."""


class Key(NamedTuple):
    """An Idempotency-Key; the same text of another caller or for another route is another key."""

    caller: str
    route: str
    key: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to a request: status, headers and body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class IdempotencyRow:
    """One key, with the response to its request once that is known."""

    caller: str
    route: str
    key: str
    request: str
    """A digest of the request."""
    makes: str
    """The id of what the request makes."""
    created_at: int
    status: int | None = None
    headers: Sequence[Sequence[str]] | None = None
    body: bytes | None = None
    """Compressed by zlib: that of a full batch is 100 KiB, and a tenth of that compressed."""

    @property
    def answer(self) -> Answer | None:
        """The response; None while the request runs."""
        if self.status is None:
            return None
        headers = tuple((name, value) for name, value in self.headers or ())
        return Answer(self.status, headers, zlib.decompress(self.body or b""))


class IdempotencyKeyRepository:
    """The table `idempotency_keys`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, row: IdempotencyRow) -> IdempotencyRow | None:
        """Record a key before its request begins.

        If it is there already, and no older than 24 h, answer that row and change nothing.
        """
        matches = _is_key(Key(row.caller, row.route, row.key))
        with self._database.transaction() as connection:
            found = connection.execute(sa.select(idempotency_keys).where(matches)).mappings()
            known = [IdempotencyRow(**values) for values in found]
            if known and known[0].created_at >= row.created_at - KEEP_SECONDS * 1_000_000:
                return known[0]
            connection.execute(idempotency_keys.delete().where(matches))
            connection.execute(idempotency_keys.insert().values(values_of(row)))
        return None

    def settle(self, answers: Mapping[Key, Answer | None]) -> None:
        """Record responses, and delete the keys whose response is None: all or none."""
        with self._database.transaction() as connection:
            for key, answer in answers.items():
                if answer is None:
                    connection.execute(idempotency_keys.delete().where(_is_key(key)))
                    continue
                values = values_of(answer) | {"body": zlib.compress(answer.body)}
                connection.execute(idempotency_keys.update().where(_is_key(key)).values(values))

    def expire(self, now: int, most: int = KEEP_ROWS) -> int:
        """Delete keys older than 24 h, and each caller's oldest beyond `most`; answer how many."""
        names = [idempotency_keys.c[name] for name in Key._fields]
        age = sa.func.row_number().over(
            partition_by=idempotency_keys.c.caller, order_by=idempotency_keys.c.created_at.desc()
        )
        ranked = sa.select(*names, age.label("age")).subquery()
        beyond = sa.select(*(ranked.c[name] for name in Key._fields)).where(ranked.c.age > most)
        old = (idempotency_keys.c.created_at < now - KEEP_SECONDS * 1_000_000) | sa.tuple_(
            *names
        ).in_(beyond)
        with self._database.transaction() as connection:
            return connection.execute(idempotency_keys.delete().where(old)).rowcount


def _is_key(key: Key) -> sa.ColumnElement[bool]:
    return sa.and_(*(idempotency_keys.c[name] == part for name, part in key._asdict().items()))
