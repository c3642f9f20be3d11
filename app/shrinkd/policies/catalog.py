"""The catalog of a daemon's policies: in memory for readers, in the database before each change."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter

from shrinkd.backends import Backend, Group
from shrinkd.errors import (
    InvalidRequest,
    PolicyConflict,
    PolicyNotFound,
    PolicyUnreadable,
    PreconditionFailed,
    ignoring_unreadable,
)
from shrinkd.events import EventBus, EventType
from shrinkd.groups import covers
from shrinkd.policies.kind import Kind, kinds
from shrinkd.policies.policy import Policy, means_the_same, restore, written
from shrinkd.storage import PolicyRepository, PolicyRow, now

_MAX_LISTED = 100
"""The number of groups that a conflict lists, so that the answer is bounded."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy with its generation, which grows by one with each change.

    Times in microseconds since the epoch.
    """

    policy: Policy
    generation: int
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A policy that another version of this daemon wrote: it is stored and not carried out."""

    name: str
    kind: str
    generation: int
    reason: str


Check = Callable[[StoredPolicy | None], None]
"""Is called with the stored policy before a change is made (None: there is none), and raises
PreconditionFailed or PolicyExists to refuse the change."""


def selectable(backend: Backend, subtrees: tuple[str, ...]) -> list[Group]:
    """List the root and the groups that this daemon may change.

    Its own group and the groups above that are left out: reclaim there would slow the daemon first.
    """
    own = backend.own_group()
    return [
        group
        for group in backend.groups()
        if not group.path
        or (not own.may_contain_daemon(group.path) and covers(subtrees, group.path))
    ]


class PolicyCatalog:
    """All policies of the daemon. Reads take no lock; changes are made one at a time.

    The bus is notified after each change, on the thread that made it.
    """

    def __init__(
        self,
        backend: Backend,
        repository: PolicyRepository,
        bus: EventBus,
        subtrees: tuple[str, ...] = (),
        known: Mapping[str, Kind] | None = None,
    ) -> None:
        self._backend = backend
        self._repository = repository
        self._subtrees = subtrees
        self._kinds = kinds() if known is None else known
        self._lock = threading.Lock()
        self._stored: Mapping[str, StoredPolicy] = {}
        self._unreadable: Mapping[str, Unreadable] = {}
        self._bus = bus
        self._load()

    def all(self) -> list[StoredPolicy]:
        """List the policies that can be read, by name."""
        return list(self._stored.values())

    def unreadable(self) -> list[Unreadable]:
        return list(self._unreadable.values())

    def get(self, name: str) -> StoredPolicy:
        """Return a policy. Raises PolicyNotFound, or PolicyUnreadable for another version's."""
        stored = self._stored.get(name)
        if stored is None:
            self._check_readable(name)
            raise PolicyNotFound(f"There is no policy {name!a}.")
        return stored

    def of(self, group: Group) -> list[StoredPolicy]:
        """List the policies that select a group, by name."""
        groups = selectable(self._backend, self._subtrees)
        return [
            stored
            for stored in self._stored.values()
            if group in stored.policy.selector.select(groups)
        ]

    def put(self, policy: Policy, check: Check, *, dry_run: bool = False) -> StoredPolicy:
        """Store a policy under its name, and replace the one that is there.

        A policy that means the same as the stored one changes nothing. Raises PolicyConflict when
        another one of its kind and priority selects one of its groups, InvalidRequest when its spec
        has no meaning for one of them.
        """
        with self._changing():
            self._check_readable(policy.name)
            before = self._stored.get(policy.name)
            check(before)
            if before is not None and means_the_same(before.policy, policy):
                return before
            self._check(policy)
            return self._write(policy, before, dry_run=dry_run)

    def switch(self, name: str, *, enabled: bool) -> StoredPolicy:
        """Enable or disable a policy. Raises PolicyNotFound."""
        with self._changing():
            stored = self.get(name)
            return (
                stored
                if stored.policy.enabled == enabled
                else self._write(stored.policy.model_copy(update={"enabled": enabled}), stored)
            )

    def delete(self, name: str, check: Check, *, dry_run: bool = False) -> None:
        """Delete a policy and its states. Raises PolicyNotFound.

        For a policy that cannot be read `check` is called with None.
        """
        with self._changing():
            unreadable = self._unreadable.get(name)
            stored = None if unreadable else self.get(name)
            check(stored)
            before = unreadable or stored
            if before is None or dry_run:
                return
            if not self._repository.delete(name, before.generation):
                self._read_anew(name)
            self._stored = {
                other: stored for other, stored in self._stored.items() if other != name
            }
            self._unreadable = {
                other: row for other, row in self._unreadable.items() if other != name
            }
            self._bus.publish(EventType.POLICY_DELETED, name=name)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        before = self._stored
        try:
            with self._lock:
                yield
        finally:
            if self._stored is not before:
                self._bus.policies.publish()

    def _write(
        self, policy: Policy, before: StoredPolicy | None, *, dry_run: bool = False
    ) -> StoredPolicy:
        moment = now()
        stored = StoredPolicy(policy, 1, moment, moment)
        if before is not None:
            stored = replace(stored, generation=before.generation + 1, created_at=before.created_at)
        if not dry_run:
            if not self._repository.put(_row(stored), before.generation if before else None):
                self._read_anew(policy.name)
            self._stored = dict(sorted({**self._stored, policy.name: stored}.items()))
            data = {"name": policy.name, "kind": policy.kind, "enabled": policy.enabled}
            self._bus.publish(EventType.POLICY_CHANGED, **data, generation=stored.generation)
        return stored

    def _read_anew(self, name: str) -> None:
        """Load all policies again and refuse the change, since the database differs from memory.

        Another writer changed it, or a commit succeeded whose answer was lost.
        """
        self._load()
        raise PreconditionFailed(
            f"The policy {name!a} in the database was not the one in memory, and was read again: "
            "GET it, and repeat the change if it is still wanted."
        )

    def _load(self) -> None:
        found: dict[str, StoredPolicy] = {}
        unreadable: dict[str, Unreadable] = {}
        for row in sorted(self._repository.list(), key=attrgetter("name")):
            name = row.name
            try:
                found[name] = StoredPolicy(
                    restore(row.body), row.generation, row.created_at, row.updated_at
                )
            except PolicyUnreadable as error:
                unreadable[name] = Unreadable(name, row.kind, row.generation, error.detail)
                log.warning(
                    "the policy %s, of the kind %s, is stored and not carried out, since it cannot "
                    "be read: %s",
                    name,
                    row.kind,
                    error,
                )
        self._stored, self._unreadable = found, unreadable

    # -- checks before a policy is written -----------------------------------------------------

    def _check_readable(self, name: str) -> None:
        if found := self._unreadable.get(name):
            raise PolicyUnreadable(
                f"Another version of shrinkd wrote the policy {name!a} ({found.reason}).",
                kind=found.kind,
                generation=found.generation,
            )

    def _check(self, policy: Policy) -> None:
        for name in self._kinds[policy.kind].switches(policy.spec):
            if name not in self._stored:
                raise _invalid(f"there is no policy {name!a} to be switched")
        groups = selectable(self._backend, self._subtrees)
        selected = policy.selector.select(groups)
        for stored in self._stored.values():
            other = stored.policy
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
            with ignoring_unreadable():
                self._kinds[policy.kind].check(policy.spec, self._backend.stat(group), total_bytes)
        except ValueError as error:
            raise _invalid(f"at the group {group.path!a}, {error}") from None


def _check_apart(policy: Policy, other: Policy, selected: list[Group], groups: list[Group]) -> None:
    shared = set(selected).intersection(other.selector.select(groups))
    if not shared and policy.selector != other.selector:
        return
    listed = sorted(shared, key=lambda group: group.path)[:_MAX_LISTED]
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


def _row(stored: StoredPolicy) -> PolicyRow:
    policy = stored.policy
    return PolicyRow(
        name=policy.name,
        kind=policy.kind,
        priority=policy.priority,
        enabled=policy.enabled,
        body=written(policy),
        generation=stored.generation,
        created_at=stored.created_at,
        updated_at=stored.updated_at,
    )
