"""Policies as they are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from shrinkd.storage.database import Database, values_of
from shrinkd.storage.tables import policies, policy_states


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One policy. `body` is its document; the other columns repeat what queries and people need."""

    name: str
    kind: str
    priority: int
    enabled: bool
    body: Mapping[str, Any]
    generation: int
    """Grows by one with each change."""
    created_at: int
    updated_at: int


class PolicyRepository:
    """The table `policies`: one row a name, changed by compare-and-set of the generation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> Sequence[PolicyRow]:
        """List all policies by name."""
        return self._database.rows(PolicyRow, sa.select(policies).order_by(policies.c.name))

    def put(self, row: PolicyRow, expected: int | None) -> bool:
        """Record a policy if its row has the expected generation (None: if there is no row).

        Answers whether it did.
        """
        try:
            with self._database.transaction() as connection:
                if expected is None:
                    connection.execute(policies.insert().values(values_of(row)))
                    return True
                matches = (policies.c.name == row.name) & (policies.c.generation == expected)
                update = policies.update().where(matches).values(values_of(row))
                return connection.execute(update).rowcount == 1
        except IntegrityError:
            return False

    def delete(self, name: str, expected: int) -> bool:
        """Delete a policy of the expected generation with its states; its decisions stay.

        Answers whether it did.
        """
        matches = (policies.c.name == name) & (policies.c.generation == expected)
        with self._database.transaction() as connection:
            deleted = connection.execute(policies.delete().where(matches)).rowcount == 1
            if deleted:
                connection.execute(policy_states.delete().where(policy_states.c.policy == name))
        return deleted
