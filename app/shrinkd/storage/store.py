"""What outlives the process, in the words of this daemon.

On SQLite by default and on PostgreSQL by URL.

A Store is called from worker threads, never from the event loop; what its database refuses (full,
locked, gone) is StoreUnavailable. Times are microseconds since the epoch.
"""

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from shrinkd.backends import Group
from shrinkd.errors import ShrinkdError, ShrinkInProgress, ShrinkNotFound
from shrinkd.paths import is_at_or_below
from shrinkd.storage.ledger import Ledger
from shrinkd.storage.tables import decisions, intents, made_groups, policies, policy_states, shrinks

ACTIVE_STATES = ("queued", "running", "cancelling")
KEEP_FINISHED_SECONDS = 7 * 24 * 3600
KEEP_OF_POLICIES = 100_000
"""Finished shrinks of policies: one that meets a fast writer makes ten a second."""
KEEP_DECISIONS_SECONDS = 7 * 24 * 3600
KEEP_DECISIONS = 1_000_000
_SHRINK_ID = re.compile(r"[0-9a-f]{32}")

Row = Mapping[str, Any]
GroupFilter = str | tuple[str, ...] | None
"""Of which groups: of the one of a path, of those at or below one of several, or of all."""


def now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def new_id() -> str:
    """An id for what is written down: 32 hexadecimal digits, in the order in which they were given
    out, by the millisecond.
    """
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def describe(error: ShrinkdError | None) -> dict[str, object] | None:
    """An error as the store keeps it: the name of its class, its sentence and its members."""
    if error is None:
        return None
    members = {
        name: asdict(value) if isinstance(value, Group) else value
        for name, value in error.members.items()
    }
    return {"kind": type(error).__name__, "detail": error.detail, "members": members}


def no_shrink(shrink_id: str) -> ShrinkNotFound:
    return ShrinkNotFound(f"There is no shrink {shrink_id!a}; finished ones are kept for 7 days.")


def is_of(path: str, whose: GroupFilter) -> bool:
    """Tell whether the group of a path is among those that are meant."""
    return (
        any(is_at_or_below(path, subtree) for subtree in whose)
        if isinstance(whose, tuple)
        else whose in {None, path}
    )


def _of(path: sa.Column[str], whose: str | tuple[str, ...]) -> sa.ColumnElement[bool]:
    """As is_of.

    By substr, for LIKE takes capitals for small letters on SQLite, and the order of strings depends
    on the database.
    """
    if isinstance(whose, str):
        return path == whose
    ways = (
        (path == subtree) | (sa.func.substr(path, 1, len(subtree) + 1) == f"{subtree}/")
        for subtree in whose
    )
    return sa.or_(sa.false(), *ways)


class Store(Ledger):
    """The rows of one daemon: what is, beside what happened."""

    # -- shrinks ------------------------------------------------------------------------------------------------

    def add_shrink(self, row: Row) -> None:
        """Write a new shrink down.

        ShrinkInProgress when its group has an active one, which the index sees to.
        """
        try:
            with self.transaction() as connection:
                connection.execute(shrinks.insert().values(row))
        except IntegrityError:
            raise ShrinkInProgress(
                "A shrink of this group is in progress: wait for it, or cancel it."
            ) from None

    def add_shrinks(self, rows: Sequence[Row]) -> None:
        """Write finished shrinks down, all or none; see add_once."""
        self.add_once(shrinks, rows)

    def move_shrink(self, shrink_id: str, expected: str, row: Row) -> bool:
        """Compare and set.

        Answer whether the shrink was in the expected state and is now as the row says.

        It may be there already: a commit can succeed and lose its answer, and is then tried again.
        """
        matches = (shrinks.c.id == shrink_id) & shrinks.c.state.in_((expected, row["state"]))
        with self.transaction() as connection:
            return connection.execute(shrinks.update().where(matches).values(row)).rowcount == 1

    def shrink(self, shrink_id: str) -> Row:
        row = None
        if _SHRINK_ID.fullmatch(
            shrink_id
        ):  # PostgreSQL is not even to be asked for text with a NUL in it
            with self.reading() as connection:
                row = (
                    connection.execute(sa.select(shrinks).where(shrinks.c.id == shrink_id))
                    .mappings()
                    .first()
                )
        if row is None:
            raise no_shrink(shrink_id)
        return dict(row)

    def list_shrinks(
        self,
        *,
        limit: int,
        before: tuple[int, str] | None = None,
        states: tuple[str, ...] = (),
        group_path: GroupFilter = None,
        since: int | None = None,
    ) -> list[Row]:
        """List shrinks, the newest first.

        `before` is the (created_at, id) of the last one of the page before.
        """
        query = (
            sa.select(shrinks)
            .order_by(shrinks.c.created_at.desc(), shrinks.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(sa.tuple_(shrinks.c.created_at, shrinks.c.id) < sa.tuple_(*before))
        if states:
            query = query.where(shrinks.c.state.in_(states))
        if group_path is not None:
            query = query.where(_of(shrinks.c.group_path, group_path))
        if since is not None:
            query = query.where(shrinks.c.created_at >= since)
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def interrupt_active(self, now: int, error: ShrinkdError) -> int:
        """Settle what a daemon that died left active, and answer how many there were."""
        leftover = shrinks.update().where(shrinks.c.state.in_(ACTIVE_STATES))
        with self.transaction() as connection:
            return connection.execute(
                leftover.values(state="interrupted", finished_at=now, error=describe(error))
            ).rowcount

    def forget_finished(self, now: int, most: int = KEEP_OF_POLICIES) -> int:
        """Delete the shrinks that finished more than 7 days ago, and a policy's oldest beyond so
        many.

        Answer how many there were.
        """
        of_policies = shrinks.c.policy.is_not(None) & shrinks.c.finished_at.is_not(None)
        newest = (
            sa.select(shrinks.c.id)
            .where(of_policies)
            .order_by(shrinks.c.id.desc())
            .offset(most)
            .limit(1)
            .scalar_subquery()
        )
        old = (shrinks.c.finished_at < now - KEEP_FINISHED_SECONDS * 1_000_000) | (
            of_policies & (shrinks.c.id <= newest)
        )
        with self.transaction() as connection:
            return connection.execute(shrinks.delete().where(old)).rowcount

    # -- groups made through the API ----------------------------------------------------------------------------

    def add_made_group(self, boot_id: str, group_id: int, path: str, now: int) -> None:
        """Remember that this incarnation was made here.

        Those of other boots are forgotten on the way.
        """
        row = {"boot_id": boot_id, "group_id": group_id, "path": path, "created_at": now}
        with self.transaction() as connection:
            connection.execute(made_groups.delete().where(made_groups.c.boot_id != boot_id))
            connection.execute(made_groups.insert().values(row))

    def made_group_ids(self, boot_id: str) -> set[int]:
        with self.reading() as connection:
            return set(
                connection.execute(
                    sa.select(made_groups.c.group_id).where(made_groups.c.boot_id == boot_id)
                ).scalars()
            )

    def forget_made_group(self, boot_id: str, group_id: int) -> None:
        matches = (made_groups.c.boot_id == boot_id) & (made_groups.c.group_id == group_id)
        with self.transaction() as connection:
            connection.execute(made_groups.delete().where(matches))

    # -- changes of limits that a death could leave half made ----------------------------------------------------

    def add_intent(self, row: Row) -> None:
        """Write a change down, in the place of an earlier one of its group.

        Those of other boots are forgotten on the way.
        """
        earlier = (intents.c.boot_id != row["boot_id"]) | (intents.c.group_id == row["group_id"])
        with self.transaction() as connection:
            connection.execute(intents.delete().where(earlier))
            connection.execute(intents.insert().values(row))

    def list_intents(self, boot_id: str) -> list[Row]:
        with self.reading() as connection:
            return [
                dict(row)
                for row in connection.execute(
                    sa.select(intents).where(intents.c.boot_id == boot_id)
                ).mappings()
            ]

    def forget_intent(self, boot_id: str, group_id: int) -> None:
        matches = (intents.c.boot_id == boot_id) & (intents.c.group_id == group_id)
        with self.transaction() as connection:
            connection.execute(intents.delete().where(matches))

    # -- policies -----------------------------------------------------------------------------------------------

    def list_policies(self) -> list[Row]:
        with self.reading() as connection:
            return [
                dict(row)
                for row in connection.execute(
                    sa.select(policies).order_by(policies.c.name)
                ).mappings()
            ]

    def put_policy(self, row: Row, expected: int | None) -> bool:
        """Compare and set.

        Answer whether the policy had the expected generation (None: was not there) and is now as
        the row says.
        """
        try:
            with self.transaction() as connection:
                if expected is None:
                    connection.execute(policies.insert().values(row))
                    return True
                matches = (policies.c.name == row["name"]) & (policies.c.generation == expected)
                return (
                    connection.execute(policies.update().where(matches).values(row)).rowcount == 1
                )
        except IntegrityError:
            return False

    def delete_policy(self, name: str, expected: int) -> bool:
        """Compare and set, as put_policy.

        The policy, and with it all that it remembers. Its decisions stay.
        """
        matches = (policies.c.name == name) & (policies.c.generation == expected)
        with self.transaction() as connection:
            deleted = connection.execute(policies.delete().where(matches)).rowcount == 1
            if deleted:
                connection.execute(policy_states.delete().where(policy_states.c.policy == name))
        return deleted

    # -- what they decided --------------------------------------------------------------------------------------

    def write_decisions(self, rows: Sequence[tuple[int | None, Row]]) -> list[int]:
        """Write decisions down, all or none, and answer their ids.

        One with an id is written in its own place, unless it is forgotten.
        """
        fresh = [dict(row) for row_id, row in rows if row_id is None]
        known = [dict(row) | {"known_id": row_id} for row_id, row in rows if row_id is not None]
        ids: list[int] = []
        with self.transaction() as connection:
            if known:
                connection.execute(
                    decisions.update().where(decisions.c.id == sa.bindparam("known_id")), known
                )
            if fresh:
                insert = decisions.insert().returning(decisions.c.id, sort_by_parameter_order=True)
                ids = list(connection.execute(insert, fresh).scalars())
        new = iter(ids)
        return [next(new) if row_id is None else row_id for row_id, _ in rows]

    def list_decisions(
        self,
        *,
        limit: int,
        before: int | None = None,
        verdicts: tuple[str, ...] = (),
        within: GroupFilter = None,
        since: int | None = None,
        **of: str,
    ) -> list[Row]:
        """List decisions, the newest first.

        `of` a policy or a group_path, by these names; `before` is the id of the last one before.
        """
        query = sa.select(decisions).order_by(decisions.c.id.desc()).limit(limit)
        for name, value in of.items():
            query = query.where(decisions.c[name] == value)
        if before is not None:
            query = query.where(decisions.c.id < before)
        if verdicts:
            query = query.where(decisions.c.verdict.in_(verdicts))
        if within is not None:
            query = query.where(_of(decisions.c.group_path, within))
        if since is not None:
            query = query.where(decisions.c.at >= since)
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def forget_decisions(self, now: int, most: int = KEEP_DECISIONS) -> int:
        """Delete the decisions that are older than 7 days, and the oldest beyond so many.

        Answer how many there were.
        """
        newest = (
            sa.select(decisions.c.id)
            .order_by(decisions.c.id.desc())
            .offset(most)
            .limit(1)
            .scalar_subquery()
        )
        old = (decisions.c.at < now - KEEP_DECISIONS_SECONDS * 1_000_000) | (
            decisions.c.id <= newest
        )
        with self.transaction() as connection:
            return connection.execute(decisions.delete().where(old)).rowcount

    # -- what they remember between two looks -------------------------------------------------------------------

    def load_states(self, boot_id: str) -> dict[tuple[str, int], dict[str, Any]]:
        """The states by policy and group id, which is 0 for a kind that decides over all of its
        groups together.
        """
        query = sa.select(policy_states).where(policy_states.c.boot_id == boot_id)
        with self.reading() as connection:
            return {
                (row["policy"], row["group_id"]): row["state"]
                for row in connection.execute(query).mappings()
            }

    def save_states(
        self, boot_id: str, states: Mapping[tuple[str, int], Mapping[str, Any]]
    ) -> None:
        """Write states in the place of earlier ones, all or none.

        Those of other boots are forgotten on the way.
        """
        if not states:
            return
        rows = [
            {
                "policy": policy,
                "boot_id": boot_id,
                "group_id": group_id,
                "state": dict(state),
                "updated_at": now(),
            }
            for (policy, group_id), state in states.items()
        ]
        keys = [{"known_policy": policy, "known_group": group_id} for policy, group_id in states]
        known = (policy_states.c.policy == sa.bindparam("known_policy")) & (
            policy_states.c.group_id == sa.bindparam("known_group")
        )
        with self.transaction() as connection:
            connection.execute(policy_states.delete().where(policy_states.c.boot_id != boot_id))
            connection.execute(policy_states.delete().where(known), keys)
            connection.execute(policy_states.insert(), rows)
