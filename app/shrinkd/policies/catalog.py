"""The policies of one daemon.

In memory for who looks, and in the database before anybody hears of a change.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from shrinkd.backends import Backend, Group
from shrinkd.errors import (
    InvalidRequest,
    PolicyConflict,
    PolicyNotFound,
    PolicyUnreadable,
    PreconditionFailed,
    leaving_out,
)
from shrinkd.events import EventType, Publish, nobody
from shrinkd.groups import covers
from shrinkd.policies.kind import Kind, kinds
from shrinkd.policies.policy import Policy, means_the_same, restore, written
from shrinkd.storage import Row, Store, now

_MOST_NAMED = 100
"""Groups that a conflict names: an answer has to end."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy as it is kept.

    Its generation grows by one with each change; times as the store keeps them.
    """

    policy: Policy
    generation: int
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A policy that another version of this daemon wrote.

    Kept as it is, and carried out by nobody here.
    """

    name: str
    kind: str
    generation: int
    reason: str


Check = Callable[[StoredPolicy | None], None]
"""Is shown what is there before a change is made (None: nothing), and raises PreconditionFailed or
PolicyExists against it."""


def selectable(backend: Backend, subtrees: tuple[str, ...]) -> list[Group]:
    """The root and all groups that this daemon may change, but the one that it is in and those
    around it.

    It would suffer first.
    """
    own = backend.own()
    return [
        group
        for group in backend.groups()
        if not group.path or (not own.is_around_us(group.path) and covers(subtrees, group.path))
    ]


class PolicyCatalog:
    """All policies, read without a lock.

    One change at a time, which the database has before memory.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store,
        subtrees: tuple[str, ...] = (),
        known: Mapping[str, Kind] | None = None,
        *,
        publish: Publish = nobody,
        notify_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._backend = backend
        self._store = store
        self._subtrees = subtrees
        self._kinds = kinds() if known is None else known
        self._lock = threading.Lock()
        self._kept: Mapping[str, StoredPolicy] = {}
        self._unreadable: Mapping[str, Unreadable] = {}
        self._notify_changed = notify_changed
        self._publish = publish
        self._load()

    def all(self) -> list[StoredPolicy]:
        """Those that can be read, by name."""
        return list(self._kept.values())

    def unreadable(self) -> list[Unreadable]:
        return list(self._unreadable.values())

    def get(self, name: str) -> StoredPolicy:
        """PolicyNotFound, and PolicyUnreadable for one that another version wrote."""
        kept = self._kept.get(name)
        if kept is None:
            self._check_readable(name)
            raise PolicyNotFound(f"There is no policy {name!a}.")
        return kept

    def of(self, group: Group) -> list[StoredPolicy]:
        """Those that select a group, by name."""
        groups = selectable(self._backend, self._subtrees)
        return [
            kept for kept in self._kept.values() if group in kept.policy.selector.select(groups)
        ]

    def put(self, policy: Policy, check: Check, *, dry_run: bool = False) -> StoredPolicy:
        """Write a policy down under its name, in the place of the one that is there.

        One that means the same leaves that as it is.

        PolicyConflict when another one of its kind has one of its groups at its priority,
        InvalidRequest when it cannot mean anything.
        """
        with self._changing():
            self._check_readable(policy.name)
            before = self._kept.get(policy.name)
            check(before)
            if before is not None and means_the_same(before.policy, policy):
                return before
            self._check(policy)
            return self._write(policy, before, dry_run=dry_run)

    def switch(self, name: str, *, enabled: bool) -> StoredPolicy:
        """Enable or disable a policy; PolicyNotFound."""
        with self._changing():
            kept = self.get(name)
            return (
                kept
                if kept.policy.enabled == enabled
                else self._write(kept.policy.model_copy(update={"enabled": enabled}), kept)
            )

    def delete(self, name: str, check: Check, *, dry_run: bool = False) -> None:
        """Forget a policy and what it remembers.

        Also one that cannot be read, of which `check` sees nothing. PolicyNotFound.
        """
        with self._changing():
            unreadable = self._unreadable.get(name)
            kept = None if unreadable else self.get(name)
            check(kept)
            before = unreadable or kept
            if before is None or dry_run:
                return
            if not self._store.delete_policy(name, before.generation):
                self._read_anew(name)
            self._kept = {other: kept for other, kept in self._kept.items() if other != name}
            self._unreadable = {
                other: row for other, row in self._unreadable.items() if other != name
            }
            self._publish(EventType.POLICY_DELETED, name=name)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        before = self._kept
        try:
            with self._lock:
                yield
        finally:
            if self._kept is not before:
                self._notify_changed()

    def _write(
        self, policy: Policy, before: StoredPolicy | None, *, dry_run: bool = False
    ) -> StoredPolicy:
        moment = now()
        kept = StoredPolicy(policy, 1, moment, moment)
        if before is not None:
            kept = replace(kept, generation=before.generation + 1, created_at=before.created_at)
        if not dry_run:
            if not self._store.put_policy(_row(kept), before.generation if before else None):
                self._read_anew(policy.name)
            self._kept = dict(sorted({**self._kept, policy.name: kept}.items()))
            told = {"name": policy.name, "kind": policy.kind, "enabled": policy.enabled}
            self._publish(EventType.POLICY_CHANGED, **told, generation=kept.generation)
        return kept

    def _read_anew(self, name: str) -> None:
        """The database and memory have parted.

        By another hand, or since a commit succeeded and its answer was lost.
        """
        self._load()
        raise PreconditionFailed(
            f"The policy {name!a} was another one in the database than here, and was read anew: "
            "look at it, and decide anew."
        )

    def _load(self) -> None:
        found: dict[str, StoredPolicy] = {}
        unreadable: dict[str, Unreadable] = {}
        for row in sorted(self._store.list_policies(), key=lambda row: str(row["name"])):
            name = row["name"]
            try:
                found[name] = StoredPolicy(
                    restore(row["body"]), row["generation"], row["created_at"], row["updated_at"]
                )
            except PolicyUnreadable as error:
                unreadable[name] = Unreadable(name, row["kind"], row["generation"], error.detail)
                log.warning(
                    "the policy %s, of the kind %s, is kept and not carried out, since it cannot "
                    "be read: %s",
                    name,
                    row["kind"],
                    error,
                )
        self._kept, self._unreadable = found, unreadable

    # -- what is looked at before a policy is written -----------------------------------------------------------

    def _check_readable(self, name: str) -> None:
        if found := self._unreadable.get(name):
            raise PolicyUnreadable(
                f"Another version of shrinkd wrote the policy {name!a} ({found.reason}).",
                kind=found.kind,
                generation=found.generation,
            )

    def _check(self, policy: Policy) -> None:
        for name in self._kinds[policy.kind].switches(policy.spec):
            if name not in self._kept:
                raise _invalid(f"there is no policy {name!a} to be switched")
        groups = selectable(self._backend, self._subtrees)
        selected = policy.selector.select(groups)
        for kept in self._kept.values():
            other = kept.policy
            if other.name != policy.name and (other.kind, other.priority) == (
                policy.kind,
                policy.priority,
            ):
                _check_apart(policy, other, selected, groups)
        total_bytes = self._backend.node().total_bytes
        for group in selected:
            self._check_at(policy, group, total_bytes)

    def _check_at(self, policy: Policy, group: Group, total_bytes: int) -> None:
        try:
            with leaving_out():
                self._kinds[policy.kind].check(policy.spec, self._backend.stat(group), total_bytes)
        except ValueError as error:
            raise _invalid(f"at the group {group.path!a}, {error}") from None


def _check_apart(policy: Policy, other: Policy, selected: list[Group], groups: list[Group]) -> None:
    shared = set(selected).intersection(other.selector.select(groups))
    if not shared and policy.selector != other.selector:
        return
    listed = sorted(shared, key=lambda group: group.path)[:_MOST_NAMED]
    example = f", such as {listed[0].path!a}" if listed else " now, and all later ones"
    raise PolicyConflict(
        f"{policy.name} and {other.name} are both of the kind {policy.kind}, with priority "
        f"{policy.priority}, "
        f"and share {len(shared)} groups{example}.",
        policies=[policy.name, other.name],
        kind=policy.kind,
        priority=policy.priority,
        shared=len(shared),
        groups=[{"id": str(group.id), "path": group.path} for group in listed],
    )


def _invalid(sentence: str) -> InvalidRequest:
    return InvalidRequest(
        f"#/spec: {sentence}.", errors=[{"pointer": "#/spec", "detail": sentence}]
    )


def _row(kept: StoredPolicy) -> Row:
    policy = kept.policy
    return {
        "name": policy.name,
        "kind": policy.kind,
        "priority": policy.priority,
        "enabled": policy.enabled,
        "body": written(policy),
        "generation": kept.generation,
        "created_at": kept.created_at,
        "updated_at": kept.updated_at,
    }
