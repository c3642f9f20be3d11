"""Evaluate the policies that are due: read their groups, decide, and let the arbiter grant.

The evaluator changes no group and has no clock. Its driver (the daemon's controller with the host's
time, a simulation with its machine's) passes in policies, groups and time, executes the actions
that a tick grants, and reports the outcome of each to finish(). Not thread-safe.
"""

import logging
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any

from shrinkd.backends import Backend, Group, UsageCrosses
from shrinkd.errors import GroupNotFound, ShrinkdError, errno_symbol, error_text
from shrinkd.paths import is_at_or_below
from shrinkd.policies.arbiter import Moment, Proposal, arbitrate
from shrinkd.policies.bindings import BindingTable, Key, PolicyBinding
from shrinkd.policies.guards import Guards
from shrinkd.policies.kind import Observation, Outcome, Verdict
from shrinkd.policies.policy import Policy
from shrinkd.policies.readings import HostReading, Readings, host_of
from shrinkd.policies.records import (
    Record,
    Tick,
    action_of,
    record_of,
    record_of_failure,
    record_of_removal,
)
from shrinkd.sizes import PAGE_BYTES

_RETRY_SECONDS = 1.0
_BINDINGS_PER_TICK = 64
"""Maximum bindings evaluated per tick; the rest stay due, so wake-ups are not delayed."""
_FULL_READING_SECONDS = 60.0
"""Where only usage matters a group is read in full this often; between, one file is read."""
_UNREPORTED_BYTES = 192 * PAGE_BYTES * (os.cpu_count() or 1)
"""How far usage may be below a threshold while v1 still has it above, and so reports no crossing:
it compares every 128 pages of each CPU, and charges 64 pages of each ahead."""

log = logging.getLogger(__name__)


class Evaluator:
    """Evaluates all policies at their groups. Times are seconds of one monotonic clock.

    `watched` has the keys of the bindings whose usage a watch reports, and changes while this
    object lives; those are evaluated seldom.
    """

    def __init__(
        self,
        backend: Backend,
        guards: Guards,
        restored: Mapping[Key, Mapping[str, Any]] | None = None,
        watched: AbstractSet[Key] = frozenset(),
    ) -> None:
        self._backend = backend
        self._guards = guards
        self._watched = watched
        self._host = HostReading(backend)
        self.bindings = BindingTable(restored)
        self.errors: Counter[tuple[str, str]] = Counter()
        """Unexpected errors since the start, by policy and errno."""

    def assign(
        self, policies: Iterable[tuple[Policy, int]], groups: list[Group], now: float
    ) -> None:
        """Bind each enabled policy to every group that it selects (`groups` are all there are)."""
        self.bindings.assign(policies, groups, now)
        bound = self.bindings.policies()
        self.errors = Counter({key: count for key, count in self.errors.items() if key[0] in bound})
        self._guards.forget(frozenset(group.id for group in groups))

    # -- time ----------------------------------------------------------------------------------

    def wake(self, key: Key, now: float) -> None:
        """Make a binding due now, with a full reading.

        Does nothing while an action runs for it: that ends with an evaluation.
        """
        if (binding := self.bindings.get(key)) and binding.can_be_evaluated:
            binding.read_at = -math.inf
            self.bindings.schedule(binding, now)

    def limits_changed(self, path: str, now: float) -> None:
        """Make all bindings at a group and below it due: percentages of its limit have changed."""
        for binding in self.bindings:
            if any(is_at_or_below(group.path, path) for group in binding.groups):
                self.wake(binding.key, now)

    def finish(self, key: Key, group: Group, outcome: Outcome, now: float) -> None:
        """Take the outcome of an action, exactly once for each action.

        Until then its binding is granted nothing more for this group. An urgent kind is evaluated
        again at once; others in their own time, and all after a setback's delay.
        """
        binding = self.bindings.get(key)
        self._guards.add_reclaim_seconds(
            outcome.seconds, now, is_urgent=binding is not None and binding.kind.is_urgent
        )
        if binding is None:
            return
        binding.running.discard(group.id)
        binding.outcomes[group.id] = outcome
        binding.usage_bytes -= outcome.freed_bytes
        binding.breaker.note(outcome.errname, now)
        if outcome.fault is not None:
            errname = outcome.errname or "EIO"
            self._set_back(binding, (group,), errname, outcome.fault, now, is_action=True)
        elif binding.setback.end(is_action=True):
            log.info("the policy %s acts at %a again", binding.policy.name, group.path)
        soon = (
            now
            if binding.kind.is_urgent
            else max(now, min(binding.due_at, binding.read_at + self._delay_seconds(binding)))
        )
        self.bindings.schedule(binding, max(soon, binding.setback.until))

    def _set_back(  # noqa: PLR0913  # all but self by the caller's own names
        self,
        binding: PolicyBinding,
        groups: Iterable[Group],
        errname: str,
        detail: str,
        now: float,
        *,
        is_action: bool,
    ) -> None:
        """Delay a binding after an unexpected error, count the error and log it."""
        binding.setback.note(errname, detail, now, is_action=is_action)
        self.errors[binding.policy.name, errname] += 1
        log.warning(
            "the policy %s failed at %s with %s (%d in a row), and tries again in %g s: %s",
            binding.policy.name,
            ", ".join(ascii(group.path) for group in groups),
            errname,
            binding.setback.times,
            binding.setback.until - now,
            detail,
        )

    # -- one tick ------------------------------------------------------------------------------

    def tick(self, now: float, wall: datetime, busy: Collection[str] = ()) -> Tick:
        """Evaluate what is due, and return its decisions and the actions that were granted.

        `busy` are the paths of the groups in which a change or a shrink runs, actions of this
        evaluator included. Where the host cannot be read this raises, and everything stays due.
        """
        if self.bindings.next_due_at() > now and not self.bindings.removed:
            return Tick()
        moment, readings = Moment(now, wall, self._host.at(now)), Readings(self._backend)
        failures: list[Record] = []
        with self._taken_due(now) as (taken, removed):
            due = [binding for binding in taken if not self._is_unchanged(binding, now)]
            proposals = [
                proposal
                for binding in due
                for proposal in self._propose(binding, moment, readings, failures)
            ]
            granted = arbitrate(proposals, self._guards, moment, busy)
            for proposal in proposals:
                self._restore_refused(proposal, now)
            records = (
                *(record_of_removal(binding, moment) for binding in removed),
                *failures,
                *(record_of(proposal, moment) for proposal in proposals),
            )
            tick = Tick(
                tuple(action_of(proposal) for proposal in granted),
                records,
                tuple(due),
                readings.stats,
            )
            for proposal in granted:  # last, for from here on only finish() frees the binding
                proposal.binding.running.add(proposal.group.id)
        return tick

    @contextmanager
    def _taken_due(self, now: float) -> Iterator[tuple[list[PolicyBinding], list[PolicyBinding]]]:
        """Take the bindings that are due, and those that were removed, out of the table.

        However the block ends, each that was due is scheduled again; where it raises, the removed
        ones are put back, to be recorded by the next tick.
        """
        removed, self.bindings.removed = self.bindings.removed, []
        due: list[PolicyBinding] = []
        try:
            due += islice(self.bindings.pop_due(now), _BINDINGS_PER_TICK)
            yield due, removed
        except BaseException:
            self.bindings.removed = removed + self.bindings.removed
            raise
        finally:
            for binding in due:
                if binding.due_at == math.inf:
                    self.bindings.schedule(binding, now + _RETRY_SECONDS)

    def preview(
        self, policy: Policy, generation: int, groups: list[Group], now: float, wall: datetime
    ) -> list[Record]:
        """Decide what a policy would do now at each group that it selects, as a dry run."""
        moment, readings = Moment(now, wall, host_of(self._backend)), Readings(self._backend)
        observing = policy.model_copy(update={"mode": "observe"})
        proposals: list[Proposal] = []
        failures: list[Record] = []
        for bound in self.bindings.bind(policy, generation, groups, now):
            copy = replace(bound, policy=observing, outcomes={}, running=set())
            try:
                proposals += self._decide(copy, moment, readings)
            except GroupNotFound:
                continue
            except Exception as error:  # noqa: BLE001  # the answer has it as a record
                delay_seconds = max(_RETRY_SECONDS, copy.breaker.until - now)
                failures += _failed(copy, error, moment, delay_seconds=delay_seconds)
        arbitrate(proposals, self._guards, moment, ())
        records = (*failures, *(record_of(proposal, moment) for proposal in proposals))
        return [replace(record, mode=policy.mode) for record in records]

    def _is_unchanged(self, binding: PolicyBinding, now: float) -> bool:
        """Read only the usage of a group that waits for it to rise, and schedule the next reading.

        True where usage has come less than half the way to the awaited value since the last full
        reading, so that no evaluation is needed.
        """
        awaited = self._awaited_usage(binding)
        if awaited is None or now >= binding.read_at + _FULL_READING_SECONDS:
            return False
        try:
            usage = self._backend.usage(binding.groups[0])
        except (ShrinkdError, OSError):  # the full reading will report the error
            return False
        if 2 * (usage - binding.usage_bytes) >= awaited - binding.usage_bytes:
            return False
        self.bindings.schedule(binding, now + self._delay_seconds(binding))
        return True

    def _delay_seconds(self, binding: PolicyBinding) -> float:
        """Return the time to the next evaluation: long where a watch reports what is awaited."""
        awaited = self._awaited_usage(binding) if binding.key in self._watched else None
        if awaited is not None and awaited - binding.usage_bytes > _UNREPORTED_BYTES:
            return _FULL_READING_SECONDS
        return max(min((decision.look_seconds for decision in binding.decisions), default=0.0), 0.0)

    def _awaited_usage(self, binding: PolicyBinding) -> int | None:
        """Return the usage that a binding waits for, in bytes, if it waits for nothing else."""
        if len(binding.decisions) != 1:
            return None
        (decision,) = binding.decisions
        is_done = bool(binding.outcomes) and not any(
            outcome.errname for outcome in binding.outcomes.values()
        )
        if not (
            is_done and binding.key in self._watched
            if decision.ask
            else decision.verdict is Verdict.HOLD
        ):
            return None
        usages = [
            trigger.usage_bytes for trigger in decision.wake_on if isinstance(trigger, UsageCrosses)
        ]
        return usages[0] if len(usages) == 1 and usages[0] > binding.usage_bytes else None

    def _propose(
        self, binding: PolicyBinding, moment: Moment, readings: Readings, failures: list[Record]
    ) -> list[Proposal]:
        """Return what a binding proposes; an error is added to `failures` and delays it alone."""
        try:
            proposals = self._decide(binding, moment, readings)
        except GroupNotFound:
            # unless the next assignment removes the binding
            self.bindings.schedule(binding, moment.now + _RETRY_SECONDS)
            return []
        except Exception as error:  # noqa: BLE001  # supervised: the other bindings go on
            errname = errno_symbol(error)
            binding.breaker.note(errname, moment.now)
            self._set_back(
                binding, binding.groups, errname, error_text(error), moment.now, is_action=False
            )
            retry_at = max(binding.setback.until, binding.breaker.until)
            self.bindings.schedule(binding, retry_at)
            failures += _failed(binding, error, moment, delay_seconds=retry_at - moment.now)
            return []
        if binding.setback.end(is_action=False):
            paths = ", ".join(ascii(group.path) for group in binding.groups)
            log.info("the policy %s evaluates %s again", binding.policy.name, paths)
        self.bindings.schedule(binding, moment.now + self._delay_seconds(binding))
        return proposals

    def _decide(self, binding: PolicyBinding, moment: Moment, readings: Readings) -> list[Proposal]:
        """Read the groups of a binding and let its kind decide; raises whatever that raises."""
        members = readings.members(binding)
        for member in members.values():
            self._guards.note_oom_kills(member.group, member.stat, moment.now)
        observation = Observation(moment.now, moment.wall, moment.host, tuple(members.values()))
        state, decisions = binding.kind.decide(binding.policy.spec, binding.state, observation)
        binding.state_before, binding.state = binding.state, state
        binding.outcomes_before, binding.outcomes = binding.outcomes, {}
        binding.decisions, binding.read_at = tuple(decisions), moment.now
        binding.usage_bytes = sum(member.stat.usage_bytes for member in members.values())
        return [
            Proposal(
                binding, decision, members[decision.group.id], decision.verdict, decision.reason
            )
            for decision in decisions
        ]

    def _restore_refused(self, proposal: Proposal, now: float) -> None:
        """Restore the state before a refused ask, and delay the next one until it can succeed."""
        binding = proposal.binding
        if proposal.decision.ask is None or binding.kind.decides_together:
            return
        if proposal.verdict not in {Verdict.ACT, Verdict.WOULD_ACT}:
            binding.state, binding.outcomes = binding.state_before, binding.outcomes_before
        if proposal.delay_seconds:
            self.bindings.schedule(binding, max(binding.due_at, now + proposal.delay_seconds))


def _failed(
    binding: PolicyBinding, error: Exception, moment: Moment, *, delay_seconds: float
) -> list[Record]:
    """Record an error at each group of a binding; a bug is logged with its traceback."""
    if not isinstance(error, ShrinkdError | OSError | MemoryError):
        paths = ", ".join(ascii(group.path) for group in binding.groups)
        log.error("the policy %s failed at %s", binding.policy.name, paths, exc_info=error)
    errname = errno_symbol(error)
    return [
        record_of_failure(binding, group, errname, moment, delay_seconds)
        for group in binding.groups
    ]
