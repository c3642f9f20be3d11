"""One look at the policies that are due: readings, decisions, and what the arbiter grants of them.

The engine reads and decides; it changes nothing and has no clock. Who drives it (the daemon with
the host's time, a simulation with its machine's) tells it the groups, the policies and what became
of its grants. Not thread-safe.
"""

import heapq
import logging
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from itertools import islice
from typing import Any

from shrinkd.backends import Backend, Group, MemStat, UsageCrosses
from shrinkd.errors import (
    GroupNotFound,
    ShrinkdError,
    errno_symbol,
    error_text,
    ignoring_unreadable,
)
from shrinkd.paths import is_at_or_below
from shrinkd.policies.arbiter import Key, Moment, PolicyBinding, Proposal, arbitrate
from shrinkd.policies.guards import Guards, Setback, floor_of
from shrinkd.policies.kind import Host, Member, Observation, Outcome, Verdict, kinds
from shrinkd.policies.policy import Policy
from shrinkd.policies.records import (
    Looked,
    Record,
    classify_failure,
    farewell_of,
    grant_of,
    record_of,
)
from shrinkd.sizes import PAGE_BYTES

_LOST_SECONDS = 1.0
_HOST_SECONDS = 1.0
_POSTS_A_LOOK = 64
"""The others are due still: what happens meanwhile is not to wait for all of a thousand."""
_UNHURRIED_SECONDS = 60.0
"""A group whose usage alone matters is read whole so often; in between one file tells."""
_UNTOLD_BYTES = 192 * PAGE_BYTES * (os.cpu_count() or 1)
"""How far usage may be below a mark of v1 while the kernel, which looks every 128 pages of each
CPU, has it above still, and will not tell that it crosses; and 64 pages of each are charged
ahead."""

log = logging.getLogger(__name__)


class _Readings:
    """Every group is read at most once in a look, and all who ask see the same."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.stats: dict[int, MemStat] = {}
        self.failures: list[Record] = []
        """Of those who could not be looked at."""

    def members(self, binding: PolicyBinding) -> dict[int, Member]:
        """Read the groups of a post that are there and can be read.

        GroupNotFound where there is none.
        """
        found: dict[int, Member] = {}
        for group in binding.groups:
            with ignoring_unreadable():
                stat = self.stats.get(group.id)
                if stat is None:
                    stat = self.stats[group.id] = self._backend.stat(group)
                activity = self._backend.activity(group) if binding.kind.wants_activity else None
                found[group.id] = Member(
                    group,
                    stat,
                    floor_of(binding.policy, stat),
                    activity,
                    binding.outcomes.get(group.id),
                )
        if not found:
            raise GroupNotFound(f"{binding.groups[0].path!a} is gone, or cannot be read.")
        return found


def host_of(backend: Backend) -> Host:
    node = backend.node()
    return Host(
        node.total_bytes,
        node.available_bytes,
        node.swap_total_bytes,
        node.swap_free_bytes,
        node.pressure,
    )


class Evaluator:
    """The posts of all policies, and their next looks. Times are seconds of one monotonic clock."""

    def __init__(
        self,
        backend: Backend,
        guards: Guards,
        restored: Mapping[Key, Mapping[str, Any]] | None = None,
        *,
        is_trial: bool = False,
    ) -> None:
        self._backend = backend
        self._is_trial = is_trial
        self._guards = guards
        self._posts: dict[Key, PolicyBinding] = {}
        self._posts_by_policy: dict[str, list[PolicyBinding]] = {}
        """Never changed, but replaced: whoever asks, on any thread, has the posts of one
        assignment."""
        self._queue: list[tuple[float, Key]] = []
        self._restored = dict(restored or {})
        """The states of an earlier life, as states() gave them."""
        self._saved: dict[Key, Any] = {}
        self._gone: list[PolicyBinding] = []
        """Whose group was removed, since the last look."""
        self._host: Host | None = None
        self._host_seen = -math.inf
        self.armed: set[Key] = set()
        """The posts whose usage somebody watches: they are looked at seldom."""
        self.errors: Counter[tuple[str, str]] = Counter()
        """What broke since the start and nobody expects to, by policy and errno."""

    # -- who watches what ---------------------------------------------------------------------------------------

    def assign(
        self, policies: Iterable[tuple[Policy, int]], groups: list[Group], now: float
    ) -> None:
        """Give each enabled policy a post at each group that it selects (`groups` are all there
        are).

        A post that is there goes on.
        """
        wanted: dict[Key, PolicyBinding] = {}
        for policy, generation in policies:
            if policy.enabled:
                wanted |= {
                    binding.key: binding
                    for binding in self._posts_of(policy, generation, groups, now)
                }
        fresh = [binding for key, binding in wanted.items() if self._posts.get(key) is not binding]
        by_policy: dict[str, list[PolicyBinding]] = {}
        for binding in wanted.values():
            by_policy.setdefault(binding.policy.name, []).append(binding)
        self._gone += [
            binding
            for key, binding in self._posts.items()
            if key not in wanted and binding.policy.name in by_policy
        ]
        self._posts, self._posts_by_policy = wanted, by_policy
        self.errors = Counter(
            {key: count for key, count in self.errors.items() if key[0] in by_policy}
        )
        self._restored = {}  # a policy that goes and comes again begins anew
        self.armed &= wanted.keys()
        self._saved = {key: state for key, state in self._saved.items() if key in wanted}
        self._guards.forget(frozenset(group.id for group in groups))
        for binding in fresh:
            self._schedule(binding, binding.look_at)

    def _posts_of(
        self, policy: Policy, generation: int, groups: list[Group], now: float
    ) -> Iterator[PolicyBinding]:
        kind = kinds()[policy.kind]
        selected = policy.selector.select(groups)
        for part in (
            ([tuple(selected)] if selected else [])
            if kind.together
            else [(group,) for group in selected]
        ):
            fresh = PolicyBinding(policy, generation, kind, part, kind.state(), now)
            binding = self._posts.get(fresh.key)
            if binding is not None and binding.policy == policy:
                binding.generation, binding.groups = generation, part
                yield binding
                continue
            if binding is None:
                fresh.state = self._restore(fresh)
            else:  # a policy that was changed begins anew, but for what is still going on
                fresh.breaker, fresh.setback, fresh.running = (
                    binding.breaker,
                    binding.setback,
                    binding.running,
                )
            yield fresh

    def _restore(self, binding: PolicyBinding) -> Any:  # a kind's own state
        known = self._restored.get(binding.key, {})
        try:
            return binding.kind.state(**known)
        except TypeError:  # an older version wrote it, whose fields were others
            return binding.kind.state()

    def states(self) -> dict[Key, dict[str, Any]]:
        """The states that have changed since the last call, as JSON values."""
        changed = {
            key: binding.state
            for key, binding in self._posts.items()
            if self._saved.get(key) is not binding.state
        }
        self._saved |= changed
        return {key: asdict(state) for key, state in changed.items()}

    @property
    def is_idle(self) -> bool:
        """Whether nobody looks at anything."""
        return not self._posts

    def binding(self, key: Key) -> PolicyBinding | None:
        return self._posts.get(key)

    def bindings(self, policy: str) -> list[PolicyBinding]:
        """From any thread: no look is waited for."""
        return self._posts_by_policy.get(policy, [])

    # -- time ---------------------------------------------------------------------------------------------------

    def next_look(self) -> float:
        """When a look is due; infinity when none is."""
        while self._queue and not self._is_current(*self._queue[0]):
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else math.inf

    def wake(self, key: Key, now: float) -> None:
        """Look at a post at once, and whole.

        Something has happened there. In what is carried out something always does.
        """
        if (binding := self._posts.get(key)) and _is_free(binding):
            binding.read_at = -math.inf
            self._schedule(binding, now)

    def limits_moved(self, path: str, now: float) -> None:
        """Look at all in a group at once: what a share of its limit is has changed there."""
        for binding in self._posts.values():
            if any(is_at_or_below(group.path, path) for group in binding.groups):
                self.wake(binding.key, now)

    def finish(self, key: Key, group: Group, outcome: Outcome, now: float) -> None:
        """Tell what became of a grant, once for each.

        Until then nothing more is granted to its post there.

        The post is looked at again at once where that is urgent; others go by what they see
        meanwhile, and all wait behind a fault.
        """
        binding = self._posts.get(key)
        self._guards.took(
            outcome.seconds, now, is_urgent=binding is not None and binding.kind.is_urgent
        )
        if binding is None:
            return
        binding.running.discard(group.id)
        binding.outcomes[group.id] = outcome
        binding.usage_bytes -= outcome.freed_bytes
        binding.breaker.tell(outcome.errname, now)
        if outcome.fault is not None:
            self._set_back(
                binding, (group,), outcome.errname or "EIO", outcome.fault, now, is_act=True
            )
        elif binding.setback.is_over(is_act=True):
            log.info("the policy %s acts at %a again", binding.policy.name, group.path)
        soon = (
            now
            if binding.kind.is_urgent
            else max(now, min(binding.look_at, binding.read_at + self._look_seconds(binding)))
        )
        self._schedule(binding, max(soon, binding.setback.until))

    def _set_back(
        self,
        binding: PolicyBinding,
        groups: Iterable[Group],
        errname: str,
        detail: str,
        now: float,
        *,
        is_act: bool,
    ) -> None:
        """Note what broke for a post, so that it waits, and say it once for each time."""
        binding.setback.tell(errname, detail, now, is_act=is_act)
        self.errors[binding.policy.name, errname] += 1
        if self._is_trial:  # nobody tries again, and the answer has it
            return
        log.warning(
            "the policy %s failed at %s with %s (%d in a row), and tries again in %g s: %s",
            binding.policy.name,
            ", ".join(ascii(group.path) for group in groups),
            errname,
            binding.setback.times,
            binding.setback.until - now,
            detail,
        )

    def _is_current(self, look_at: float, key: Key) -> bool:
        binding = self._posts.get(key)
        return binding is not None and binding.look_at == look_at

    def _schedule(self, binding: PolicyBinding, look_at: float) -> None:
        binding.look_at = look_at
        heapq.heappush(self._queue, (look_at, binding.key))

    def _due(self, now: float) -> Iterator[PolicyBinding]:
        while self.next_look() <= now:
            binding = self._posts[heapq.heappop(self._queue)[1]]
            binding.look_at = math.inf
            if _is_free(binding):
                yield binding

    # -- a look -------------------------------------------------------------------------------------------------

    def look(self, now: float, wall: datetime, busy: Collection[str] = ()) -> Looked:
        """Look at what is due.

        `busy` are the paths of the groups that something is being done to, grants of this engine
        included.
        """
        if self.next_look() > now and not self._gone:
            return Looked()
        moment, readings = (
            Moment(now, wall, self._host_at(now)),
            _Readings(self._backend),
        )  # where that fails, all are still due
        with self._taken_out(now) as (taken, gone):
            due = [binding for binding in taken if not self._is_quiet(binding, now)]
            proposals = [
                proposal for binding in due for proposal in self._decide(binding, moment, readings)
            ]
            granted = arbitrate(proposals, self._guards, moment, busy)
            for proposal in proposals:
                self._settle(proposal, now)
            records = (
                *(farewell_of(binding, moment) for binding in gone),
                *readings.failures,
                *(record_of(proposal, moment) for proposal in proposals),
            )
            looked = Looked(
                tuple(grant_of(proposal) for proposal in granted),
                records,
                tuple(due),
                readings.stats,
            )
            for (
                proposal
            ) in granted:  # last, for from here on somebody has to tell its end: see finish()
                proposal.binding.running.add(proposal.group.id)
        return looked

    @contextmanager
    def _taken_out(self, now: float) -> Iterator[tuple[list[PolicyBinding], list[PolicyBinding]]]:
        """The posts that are due and those whose group is gone, out of where they were kept.

        However this ends, each that is due has its next look behind it, and of those that are gone
        none is forgotten before it was told.
        """
        gone, self._gone = self._gone, []
        due: list[PolicyBinding] = []
        try:
            due += islice(self._due(now), _POSTS_A_LOOK)
            yield due, gone
        except BaseException:
            self._gone = gone + self._gone
            raise
        finally:
            for binding in due:
                if binding.look_at == math.inf:
                    self._schedule(binding, now + _LOST_SECONDS)

    def _host_at(self, now: float) -> Host:
        """The host as it was within the last second: five files tell of it."""
        if self._host is None or not self._host_seen <= now < self._host_seen + _HOST_SECONDS:
            self._host, self._host_seen = host_of(self._backend), now
        return self._host

    def evaluate(
        self, policy: Policy, generation: int, groups: list[Group], now: float, wall: datetime
    ) -> list[Record]:
        """Say what a policy would do now to each group that it selects, and why or why not.

        Nothing is remembered or done.
        """
        moment, readings = Moment(now, wall, host_of(self._backend)), _Readings(self._backend)
        observing = policy.model_copy(update={"mode": "observe"})
        trial = Evaluator(self._backend, self._guards, is_trial=True)
        proposals = []
        for found in self._posts_of(policy, generation, groups, now):
            binding = replace(
                found,
                policy=observing,
                outcomes={},
                running=set(),
                breaker=replace(found.breaker),
                setback=Setback(),
            )
            proposals += trial._decide(binding, moment, readings)
        arbitrate(proposals, self._guards, moment, ())
        return [
            replace(record, mode=policy.mode)
            for record in (
                *readings.failures,
                *(record_of(proposal, moment) for proposal in proposals),
            )
        ]

    def _is_quiet(self, binding: PolicyBinding, now: float) -> bool:
        """One cheap reading instead of a whole one.

        Of a group that waits for its usage to rise, and has not come half the way.
        """
        mark = self._waits_for(binding)
        if mark is None or now >= binding.read_at + _UNHURRIED_SECONDS:
            return False
        try:
            usage = self._backend.usage(binding.groups[0])
        except (ShrinkdError, OSError):  # the whole look tells what is wrong
            return False
        if 2 * (usage - binding.usage_bytes) >= mark - binding.usage_bytes:
            return False
        self._schedule(binding, now + self._look_seconds(binding))
        return True

    def _look_seconds(self, binding: PolicyBinding) -> float:
        """When to look again.

        Seldom, where somebody watches for what it waits for, and will be told.
        """
        mark = self._waits_for(binding) if binding.key in self.armed else None
        if mark is not None and mark - binding.usage_bytes > _UNTOLD_BYTES:
            return _UNHURRIED_SECONDS
        return max(min((decision.look_seconds for decision in binding.decisions), default=0.0), 0.0)

    def _waits_for(self, binding: PolicyBinding) -> int | None:
        """The usage that a post waits for and that is all it waits for.

        None where it wants something, or waits for more.
        """
        if len(binding.decisions) != 1:
            return None
        (decision,) = binding.decisions
        is_done = bool(binding.outcomes) and not any(
            outcome.errname for outcome in binding.outcomes.values()
        )
        if not (
            is_done and binding.key in self.armed
            if decision.ask
            else decision.verdict is Verdict.HOLD
        ):
            return None
        marks = [
            trigger.usage_bytes for trigger in decision.wakes if isinstance(trigger, UsageCrosses)
        ]
        return marks[0] if len(marks) == 1 and marks[0] > binding.usage_bytes else None

    def _decide(
        self, binding: PolicyBinding, moment: Moment, readings: _Readings
    ) -> list[Proposal]:
        try:
            members = readings.members(binding)
            for member in members.values():
                self._guards.see(member.group, member.stat, moment.now)
            observation = Observation(moment.now, moment.wall, moment.host, tuple(members.values()))
            state, decisions = binding.kind.decide(binding.policy.spec, binding.state, observation)
        except GroupNotFound:
            self._schedule(
                binding, moment.now + _LOST_SECONDS
            )  # unless the next assignment takes it away
            return []
        except (ShrinkdError, OSError, MemoryError) as error:
            return self._failed(binding, error, moment, readings)
        except Exception as error:  # a bug in one kind, or what nobody expected of one group: the others keep their ticks
            log.exception(
                "the policy %s failed at %s",
                binding.policy.name,
                ", ".join(ascii(group.path) for group in binding.groups),
            )
            return self._failed(binding, error, moment, readings)
        if binding.setback.is_over(is_act=False):
            log.info(
                "the policy %s looks at %s again",
                binding.policy.name,
                ", ".join(ascii(group.path) for group in binding.groups),
            )
        binding.state_before, binding.state = binding.state, state
        binding.outcomes_before, binding.outcomes = binding.outcomes, {}
        binding.decisions, binding.read_at = tuple(decisions), moment.now
        binding.usage_bytes = sum(member.stat.usage_bytes for member in members.values())
        self._schedule(binding, moment.now + self._look_seconds(binding))
        return [
            Proposal(
                binding, decision, members[decision.group.id], decision.verdict, decision.reason
            )
            for decision in decisions
        ]

    def _settle(self, proposal: Proposal, now: float) -> None:
        """Let a post whose ask came to nothing go on as if it had not asked, and not before asking
        is of use again.
        """
        binding = proposal.binding
        if proposal.decision.ask is None or binding.kind.together:
            return
        if proposal.verdict not in {Verdict.ACT, Verdict.WOULD_ACT}:
            binding.state, binding.outcomes = binding.state_before, binding.outcomes_before
        if proposal.put_off_seconds:
            self._schedule(binding, max(binding.look_at, now + proposal.put_off_seconds))

    def _failed(
        self, binding: PolicyBinding, error: Exception, moment: Moment, readings: _Readings
    ) -> list[Proposal]:
        """Let a post that could not be looked at come again later, as if this look had not been."""
        errname = errno_symbol(error)
        binding.breaker.tell(errname, moment.now)
        self._set_back(
            binding, binding.groups, errname, error_text(error), moment.now, is_act=False
        )
        self._schedule(binding, max(binding.setback.until, binding.breaker.until))
        readings.failures += [
            classify_failure(binding, group, errname, moment) for group in binding.groups
        ]
        return []


def _is_free(binding: PolicyBinding) -> bool:
    """Whether it may be looked at: what is being carried out ends with a look of its own."""
    return binding.kind.together or not binding.running
