"""State that a policy keeps between two evaluations of a group."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from shrinkd.storage.clock import now
from shrinkd.storage.database import Database
from shrinkd.storage.tables import policy_states

StateKey = tuple[str, int]
"""The name of a policy, and the id of a group: 0 for a kind that keeps one state for all."""


class PolicyStateRepository:
    """The table `policy_states`: one row for each policy, boot and group."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, boot_id: str) -> dict[StateKey, dict[str, Any]]:
        """Read the states of this boot."""
        query = sa.select(policy_states).where(policy_states.c.boot_id == boot_id)
        with self._database.reading() as connection:
            found = connection.execute(query).mappings()
            return {(row["policy"], row["group_id"]): row["state"] for row in found}

    def save(self, boot_id: str, states: Mapping[StateKey, Mapping[str, Any]]) -> None:
        """Record states in the place of earlier ones, all or none; delete those of other boots."""
        if not states:
            return
        moment = now()
        rows = [
            {
                "policy": policy,
                "boot_id": boot_id,
                "group_id": group_id,
                "state": dict(state),
                "updated_at": moment,
            }
            for (policy, group_id), state in states.items()
        ]
        keys = [{"known_policy": policy, "known_group": group_id} for policy, group_id in states]
        known = (policy_states.c.policy == sa.bindparam("known_policy")) & (
            policy_states.c.group_id == sa.bindparam("known_group")
        )
        with self._database.transaction() as connection:
            connection.execute(policy_states.delete().where(policy_states.c.boot_id != boot_id))
            connection.execute(policy_states.delete().where(known), keys)
            connection.execute(policy_states.insert(), rows)
