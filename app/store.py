"""What outlives the process, in the words of this daemon: on SQLite by default and on PostgreSQL by URL.

A Store is called from worker threads, never from the event loop; what its database refuses (full, locked, gone) is
StoreUnavailable. Times are microseconds since the epoch.
"""

import re
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from app.backends import Group
from app.database import Database
from app.errors import ShrinkdError, ShrinkInProgress, ShrinkNotFound
from app.tables import decisions, events, idempotency_keys, intents, made_groups, policies, policy_states, shrinks

ACTIVE_STATES = ("queued", "running", "cancelling")
KEEP_FINISHED_SECONDS = 7 * 24 * 3600
KEEP_OF_POLICIES = 100_000
"""Finished shrinks of policies: one that meets a fast writer makes ten a second."""
KEEP_DECISIONS_SECONDS = 7 * 24 * 3600
KEEP_DECISIONS = 1_000_000
KEEP_EVENTS_SECONDS = 7 * 24 * 3600
KEEP_EVENTS = 200_000
KEEP_KEYS_SECONDS = 24 * 3600
KEEP_KEYS = 20_000
"""Of each caller."""
_KEY = ("caller", "route", "key")
_SHRINK_ID = re.compile(r"[0-9a-f]{32}")

Row = Mapping[str, Any]
Whose = str | tuple[str, ...] | None
"""Of which groups: of the one of a path, of those at or below one of several, or of all."""


def now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def new_id() -> str:
    """An id for what is written down: 32 hexadecimal digits, in the order in which they were given out, by the millisecond."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def describe(error: ShrinkdError | None) -> dict[str, object] | None:
    """An error as the store keeps it: the name of its class, its sentence and its members."""
    if error is None:
        return None
    members = {name: asdict(value) if isinstance(value, Group) else value for name, value in error.members.items()}
    return {"kind": type(error).__name__, "detail": error.detail, "members": members}


def no_shrink(shrink_id: str) -> ShrinkNotFound:
    return ShrinkNotFound(f"There is no shrink {shrink_id!a}; finished ones are kept for 7 days.")


def is_of(path: str, whose: Whose) -> bool:
    """Tell whether the group of a path is among those that are meant."""
    return any(f"{path}/".startswith(f"{subtree}/") for subtree in whose) if isinstance(whose, tuple) else whose in {None, path}


def _of(path: sa.Column[str], whose: str | tuple[str, ...]) -> sa.ColumnElement[bool]:
    """As is_of. By substr, for LIKE takes capitals for small letters on SQLite, and the order of strings depends on the database."""
    if isinstance(whose, str):
        return path == whose
    ways = ((path == subtree) | (sa.func.substr(path, 1, len(subtree) + 1) == f"{subtree}/") for subtree in whose)
    return sa.or_(sa.false(), *ways)


class Store(Database):
    """The rows of one daemon."""

    # -- shrinks ------------------------------------------------------------------------------------------------

    def add_shrink(self, row: Row) -> None:
        """Write a new shrink down; ShrinkInProgress when its group has an active one, which the index sees to."""
        try:
            with self.transaction() as connection:
                connection.execute(shrinks.insert().values(row))
        except IntegrityError:
            raise ShrinkInProgress("A shrink of this group is in progress: wait for it, or cancel it.") from None

    def add_shrinks(self, rows: Sequence[Row]) -> None:
        """Write finished shrinks down, all or none; one that is there already stays as it is: a commit can succeed and lose its answer."""
        with self.transaction() as connection:
            known = set(connection.execute(sa.select(shrinks.c.id).where(shrinks.c.id.in_([row["id"] for row in rows]))).scalars())
            fresh = [dict(row) for row in rows if row["id"] not in known]
            if fresh:
                connection.execute(shrinks.insert(), fresh)

    def move_shrink(self, shrink_id: str, expected: str, row: Row) -> bool:
        """Compare and set: answer whether the shrink was in the expected state and is now as the row says.

        It may be there already: a commit can succeed and lose its answer, and is then tried again.
        """
        matches = (shrinks.c.id == shrink_id) & shrinks.c.state.in_((expected, row["state"]))
        with self.transaction() as connection:
            return connection.execute(shrinks.update().where(matches).values(row)).rowcount == 1

    def shrink(self, shrink_id: str) -> Row:
        row = None
        if _SHRINK_ID.fullmatch(shrink_id):  # PostgreSQL is not even to be asked for text with a NUL in it
            with self.transaction() as connection:
                row = connection.execute(sa.select(shrinks).where(shrinks.c.id == shrink_id)).mappings().first()
        if row is None:
            raise no_shrink(shrink_id)
        return dict(row)

    def list_shrinks(
        self,
        *,
        limit: int,
        before: tuple[int, str] | None = None,
        states: tuple[str, ...] = (),
        group_path: Whose = None,
        since: int | None = None,
    ) -> list[Row]:
        """List shrinks, the newest first; `before` is the (created_at, id) of the last one of the page before."""
        query = sa.select(shrinks).order_by(shrinks.c.created_at.desc(), shrinks.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(sa.tuple_(shrinks.c.created_at, shrinks.c.id) < sa.tuple_(*before))
        if states:
            query = query.where(shrinks.c.state.in_(states))
        if group_path is not None:
            query = query.where(_of(shrinks.c.group_path, group_path))
        if since is not None:
            query = query.where(shrinks.c.created_at >= since)
        with self.transaction() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def interrupt_active(self, now: int, error: ShrinkdError) -> int:
        """Settle what a daemon that died left active, and answer how many there were."""
        leftover = shrinks.update().where(shrinks.c.state.in_(ACTIVE_STATES))
        with self.transaction() as connection:
            return connection.execute(leftover.values(state="interrupted", finished_at=now, error=describe(error))).rowcount

    def forget_finished(self, now: int, most: int = KEEP_OF_POLICIES) -> int:
        """Delete the shrinks that finished more than 7 days ago, and a policy's oldest beyond so many; answer how many there were."""
        of_policies = shrinks.c.policy.is_not(None) & shrinks.c.finished_at.is_not(None)
        newest = sa.select(shrinks.c.id).where(of_policies).order_by(shrinks.c.id.desc()).offset(most).limit(1).scalar_subquery()
        old = (shrinks.c.finished_at < now - KEEP_FINISHED_SECONDS * 1_000_000) | (of_policies & (shrinks.c.id <= newest))
        with self.transaction() as connection:
            return connection.execute(shrinks.delete().where(old)).rowcount

    # -- groups made through the API ----------------------------------------------------------------------------

    def add_made_group(self, boot_id: str, group_id: int, path: str, now: int) -> None:
        """Remember that this incarnation was made here; those of other boots are forgotten on the way."""
        row = {"boot_id": boot_id, "group_id": group_id, "path": path, "created_at": now}
        with self.transaction() as connection:
            connection.execute(made_groups.delete().where(made_groups.c.boot_id != boot_id))
            connection.execute(made_groups.insert().values(row))

    def made_group_ids(self, boot_id: str) -> set[int]:
        with self.transaction() as connection:
            return set(connection.execute(sa.select(made_groups.c.group_id).where(made_groups.c.boot_id == boot_id)).scalars())

    def forget_made_group(self, boot_id: str, group_id: int) -> None:
        matches = (made_groups.c.boot_id == boot_id) & (made_groups.c.group_id == group_id)
        with self.transaction() as connection:
            connection.execute(made_groups.delete().where(matches))

    # -- changes of limits that a death could leave half made ----------------------------------------------------

    def add_intent(self, row: Row) -> None:
        """Write a change down, in the place of an earlier one of its group; those of other boots are forgotten on the way."""
        earlier = (intents.c.boot_id != row["boot_id"]) | (intents.c.group_id == row["group_id"])
        with self.transaction() as connection:
            connection.execute(intents.delete().where(earlier))
            connection.execute(intents.insert().values(row))

    def list_intents(self, boot_id: str) -> list[Row]:
        with self.transaction() as connection:
            return [dict(row) for row in connection.execute(sa.select(intents).where(intents.c.boot_id == boot_id)).mappings()]

    def forget_intent(self, boot_id: str, group_id: int) -> None:
        matches = (intents.c.boot_id == boot_id) & (intents.c.group_id == group_id)
        with self.transaction() as connection:
            connection.execute(intents.delete().where(matches))

    # -- policies -----------------------------------------------------------------------------------------------

    def list_policies(self) -> list[Row]:
        with self.transaction() as connection:
            return [dict(row) for row in connection.execute(sa.select(policies).order_by(policies.c.name)).mappings()]

    def put_policy(self, row: Row, expected: int | None) -> bool:
        """Compare and set: answer whether the policy had the expected generation (None: was not there) and is now as the row says."""
        try:
            with self.transaction() as connection:
                if expected is None:
                    connection.execute(policies.insert().values(row))
                    return True
                matches = (policies.c.name == row["name"]) & (policies.c.generation == expected)
                return connection.execute(policies.update().where(matches).values(row)).rowcount == 1
        except IntegrityError:
            return False

    def delete_policy(self, name: str, expected: int) -> bool:
        """Compare and set, as put_policy: the policy, and with it all that it remembers. Its decisions stay."""
        matches = (policies.c.name == name) & (policies.c.generation == expected)
        with self.transaction() as connection:
            deleted = connection.execute(policies.delete().where(matches)).rowcount == 1
            if deleted:
                connection.execute(policy_states.delete().where(policy_states.c.policy == name))
        return deleted

    # -- what they decided --------------------------------------------------------------------------------------

    def write_decisions(self, rows: Sequence[tuple[int | None, Row]]) -> list[int]:
        """Write decisions down, all or none, and answer their ids: one with an id is written in its own place, unless it is forgotten."""
        fresh = [dict(row) for row_id, row in rows if row_id is None]
        known = [dict(row) | {"known_id": row_id} for row_id, row in rows if row_id is not None]
        ids: list[int] = []
        with self.transaction() as connection:
            if known:
                connection.execute(decisions.update().where(decisions.c.id == sa.bindparam("known_id")), known)
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
        within: Whose = None,
        since: int | None = None,
        **of: str,
    ) -> list[Row]:
        """List decisions, the newest first: `of` a policy or a group_path, by these names; `before` is the id of the last one before."""
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
        with self.transaction() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def forget_decisions(self, now: int, most: int = KEEP_DECISIONS) -> int:
        """Delete the decisions that are older than 7 days, and the oldest beyond so many; answer how many there were."""
        newest = sa.select(decisions.c.id).order_by(decisions.c.id.desc()).offset(most).limit(1).scalar_subquery()
        old = (decisions.c.at < now - KEEP_DECISIONS_SECONDS * 1_000_000) | (decisions.c.id <= newest)
        with self.transaction() as connection:
            return connection.execute(decisions.delete().where(old)).rowcount

    # -- what they remember between two looks -------------------------------------------------------------------

    def load_states(self, boot_id: str) -> dict[tuple[str, int], dict[str, Any]]:
        """The states by policy and group id, which is 0 for a kind that decides over all of its groups together."""
        query = sa.select(policy_states).where(policy_states.c.boot_id == boot_id)
        with self.transaction() as connection:
            return {(row["policy"], row["group_id"]): row["state"] for row in connection.execute(query).mappings()}

    def save_states(self, boot_id: str, states: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
        """Write states in the place of earlier ones, all or none; those of other boots are forgotten on the way."""
        if not states:
            return
        rows = [
            {"policy": policy, "boot_id": boot_id, "group_id": group_id, "state": dict(state), "updated_at": now()}
            for (policy, group_id), state in states.items()
        ]
        keys = [{"known_policy": policy, "known_group": group_id} for policy, group_id in states]
        known = (policy_states.c.policy == sa.bindparam("known_policy")) & (policy_states.c.group_id == sa.bindparam("known_group"))
        with self.transaction() as connection:
            connection.execute(policy_states.delete().where(policy_states.c.boot_id != boot_id))
            connection.execute(policy_states.delete().where(known), keys)
            connection.execute(policy_states.insert(), rows)

    # -- what has happened --------------------------------------------------------------------------------------

    def event_span(self) -> tuple[int, int]:
        """The ids of the oldest and of the newest event; (1, 0) when there has never been one."""
        with self.transaction() as connection:
            oldest, newest = connection.execute(sa.select(sa.func.min(events.c.id), sa.func.max(events.c.id))).one()
        return oldest or 1, newest or 0

    def add_events(self, rows: Sequence[Row]) -> None:
        """Write events down in the order of their ids, all or none; those that are there already stay: a commit can lose its answer."""
        with self.transaction() as connection:
            newest = connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0
            if fresh := [dict(row) for row in rows if row["id"] > newest]:
                connection.execute(events.insert(), fresh)

    def list_events(
        self, after: int, limit: int, *, types: Collection[str] = (), within: Sequence[Collection[str]] = (), always: str | None = None
    ) -> list[Row]:
        """List events behind an id, the oldest first: of these types (none given: all) and at or below one path of each of `within`.

        Those of the type `always` are listed whatever else is wanted.
        """
        wanted: list[sa.ColumnElement[bool]] = [events.c.type.in_(types)] if types else []
        for paths in within:
            # Not LIKE, to which SQLite's letters have no case.
            below = [sa.func.substr(events.c.group_path, 1, len(path) + 1) == f"{path}/" for path in paths]
            wanted.append(sa.or_(events.c.group_path.in_(paths), *below))
        query = sa.select(events).where(events.c.id > after, sa.or_(events.c.type == always, sa.and_(sa.true(), *wanted)))
        with self.transaction() as connection:
            return [dict(row) for row in connection.execute(query.order_by(events.c.id).limit(limit)).mappings()]

    def oldest_event_to_keep(self, now: int, most: int = KEEP_EVENTS) -> int:
        """The first id that is neither older than 7 days nor beyond so many; the newest at the latest, for ids are counted on from it."""
        horizon = now - KEEP_EVENTS_SECONDS * 1_000_000
        with self.transaction() as connection:
            newest = connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0
            young = connection.execute(sa.select(sa.func.min(events.c.id)).where(events.c.at >= horizon)).scalar()
        return max(young or newest, newest - most + 1, 1)

    def forget_events(self, oldest: int) -> None:
        """Delete what came before this id."""
        with self.transaction() as connection:
            connection.execute(events.delete().where(events.c.id < oldest))

    # -- requests that take effect once ------------------------------------------------------------------------

    def claim_key(self, row: Row) -> Row | None:
        """Write a key down before its request begins; if it is there already, and no older than 24 h, answer that row instead."""
        named, expired = _is_key(row), row["created_at"] - KEEP_KEYS_SECONDS * 1_000_000
        with self.transaction() as connection:
            known = connection.execute(sa.select(idempotency_keys).where(named)).mappings().first()
            if known is not None and known["created_at"] >= expired:
                return dict(known)
            connection.execute(idempotency_keys.delete().where(named))
            connection.execute(idempotency_keys.insert().values(row))
        return None

    def settle_keys(self, answered: Sequence[Row], freed: Sequence[Row]) -> None:
        """Write down what requests came to, and forget the keys of others: all or none."""
        with self.transaction() as connection:
            for row in answered:
                connection.execute(idempotency_keys.update().where(_is_key(row)).values(row))
            for row in freed:
                connection.execute(idempotency_keys.delete().where(_is_key(row)))

    def forget_keys(self, now: int, most: int = KEEP_KEYS) -> int:
        """Delete the keys that are older than 24 h, and each caller's oldest beyond so many; answer how many there were."""
        names = [idempotency_keys.c[name] for name in _KEY]
        age = sa.func.row_number().over(partition_by=idempotency_keys.c.caller, order_by=idempotency_keys.c.created_at.desc())
        ranked = sa.select(*names, age.label("age")).subquery()
        beyond = sa.select(*(ranked.c[name] for name in _KEY)).where(ranked.c.age > most)
        old = (idempotency_keys.c.created_at < now - KEEP_KEYS_SECONDS * 1_000_000) | sa.tuple_(*names).in_(beyond)
        with self.transaction() as connection:
            return connection.execute(idempotency_keys.delete().where(old)).rowcount


def _is_key(row: Row) -> sa.ColumnElement[bool]:
    return sa.and_(*(idempotency_keys.c[name] == row[name] for name in _KEY))
