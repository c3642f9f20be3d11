"""Bindings: one policy at one group, or at all of its groups together, with its state.

The table assigns policies to groups, keeps what each binding knows, and queues the bindings by the
time of their next evaluation. It reads no group and has no clock.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shrinkd.backends import Group
from shrinkd.policies.guards import Breaker, Setback
from shrinkd.policies.kind import Decision, Kind, Outcome, kinds
from shrinkd.policies.policy import Policy

Key = tuple[str, int]
"""A policy's name and a group's id; 0 for a policy that decides over all of its groups together."""


@dataclass(slots=True)
class PolicyBinding:
    """One policy at one group, or at all of its groups together.

    Times are seconds of the evaluator's clock.
    """

    policy: Policy
    generation: int
    kind: Kind
    groups: tuple[Group, ...]
    state: Any
    due_at: float
    """The time of the next evaluation."""
    state_before: Any = None
    """The state before the last evaluation, restored when its ask was refused."""
    breaker: Breaker = field(default_factory=Breaker)
    setback: Setback = field(default_factory=Setback)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """Outcomes of its actions since the last evaluation, by group id."""
    outcomes_before: dict[int, Outcome] = field(default_factory=dict)
    """The outcomes that the last evaluation used, restored together with `state_before`."""
    running: set[int] = field(default_factory=set)
    """The ids of the groups in which one of its actions is being executed."""
    decisions: tuple[Decision, ...] = ()
    """Of the last evaluation."""
    read_at: float = -math.inf
    usage_bytes: int = 0
    """At the last full reading, less what was freed since."""

    @property
    def key(self) -> Key:
        return self.policy.name, 0 if self.kind.decides_together else self.groups[0].id

    @property
    def can_be_evaluated(self) -> bool:
        """False while an action runs for one group: its outcome brings the next evaluation."""
        return self.kind.decides_together or not self.running


class BindingTable:
    """All bindings and the queue of their next evaluations. Not thread-safe but for of_policy()."""

    def __init__(self, restored: Mapping[Key, Mapping[str, Any]] | None = None) -> None:
        self._bindings: dict[Key, PolicyBinding] = {}
        self._by_policy: dict[str, list[PolicyBinding]] = {}
        """Replaced, never changed: a reader on any thread has the bindings of one assignment."""
        self._queue: list[tuple[float, Key]] = []
        self._restored = dict(restored or {})
        """The states that the last process saved, until the first assignment."""
        self._saved: dict[Key, Any] = {}
        self.removed: list[PolicyBinding] = []
        """Bindings whose group was removed, until a tick has recorded it."""

    def __bool__(self) -> bool:
        return bool(self._bindings)

    def __iter__(self) -> Iterator[PolicyBinding]:
        return iter(self._bindings.values())

    def get(self, key: Key) -> PolicyBinding | None:
        return self._bindings.get(key)

    def keys(self) -> frozenset[Key]:
        return frozenset(self._bindings)

    def of_policy(self, name: str) -> list[PolicyBinding]:
        """List the bindings of one policy. From any thread, without waiting for a tick."""
        return self._by_policy.get(name, [])

    def policies(self) -> frozenset[str]:
        """The names of the policies that have a binding."""
        return frozenset(self._by_policy)

    def assign(
        self, policies: Iterable[tuple[Policy, int]], groups: list[Group], now: float
    ) -> None:
        """Bind each enabled policy to every group that it selects (`groups` are all there are).

        An existing binding of an unchanged policy stays.
        """
        wanted: dict[Key, PolicyBinding] = {}
        for policy, generation in policies:
            if policy.enabled:
                wanted |= {
                    binding.key: binding for binding in self.bind(policy, generation, groups, now)
                }
        fresh = [
            binding for key, binding in wanted.items() if self._bindings.get(key) is not binding
        ]
        by_policy: dict[str, list[PolicyBinding]] = {}
        for binding in wanted.values():
            by_policy.setdefault(binding.policy.name, []).append(binding)
        self.removed += [
            binding
            for key, binding in self._bindings.items()
            if key not in wanted and binding.policy.name in by_policy
        ]
        self._bindings, self._by_policy = wanted, by_policy
        self._restored = {}  # a policy that goes and comes again begins anew
        self._saved = {key: state for key, state in self._saved.items() if key in wanted}
        for binding in fresh:
            self.schedule(binding, binding.due_at)

    def bind(
        self, policy: Policy, generation: int, groups: list[Group], now: float
    ) -> Iterator[PolicyBinding]:
        """Yield the bindings of a policy, existing ones with the new generation and groups."""
        kind = kinds()[policy.kind]
        selected = policy.selector.select(groups)
        for part in (
            ([tuple(selected)] if selected else [])
            if kind.decides_together
            else [(group,) for group in selected]
        ):
            fresh = PolicyBinding(policy, generation, kind, part, kind.state(), now)
            binding = self._bindings.get(fresh.key)
            if binding is not None and binding.policy == policy:
                binding.generation, binding.groups = generation, part
                yield binding
                continue
            if binding is None:
                fresh.state = self._restore(fresh)
            else:  # a changed policy begins anew, except for what is still going on
                fresh.breaker, fresh.setback, fresh.running = (
                    binding.breaker,
                    binding.setback,
                    binding.running,
                )
            yield fresh

    def _restore(self, binding: PolicyBinding) -> Any:  # noqa: ANN401  # a kind's own state
        known = self._restored.get(binding.key, {})
        try:
            return binding.kind.state(**known)
        except TypeError:  # saved by another version, whose state had other fields
            return binding.kind.state()

    def changed_states(self) -> dict[Key, dict[str, Any]]:
        """Return the states that have changed since the last call, as JSON values."""
        changed = {
            key: binding.state
            for key, binding in self._bindings.items()
            if self._saved.get(key) is not binding.state
        }
        self._saved |= changed
        return {key: asdict(state) for key, state in changed.items()}

    def schedule(self, binding: PolicyBinding, due_at: float) -> None:
        """Set the time of a binding's next evaluation."""
        binding.due_at = due_at
        heapq.heappush(self._queue, (due_at, binding.key))

    def next_due_at(self) -> float:
        """Return the time of the next evaluation; infinity when none is scheduled."""
        while self._queue and not self._is_current(*self._queue[0]):
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else math.inf

    def pop_due(self, now: float) -> Iterator[PolicyBinding]:
        """Take the bindings that are due out of the queue, except those whose action still runs.

        A binding that is not scheduled again has an infinite `due_at`.
        """
        while self.next_due_at() <= now:
            binding = self._bindings[heapq.heappop(self._queue)[1]]
            binding.due_at = math.inf
            if binding.can_be_evaluated:
                yield binding

    def _is_current(self, due_at: float, key: Key) -> bool:
        binding = self._bindings.get(key)
        return binding is not None and binding.due_at == due_at
