"""When to act.

One thread that waits for the groups' events and for the next look, and carries out what the engine
grants.
"""

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shrinkd.backends import Group
from shrinkd.errors import (
    InternalError,
    KernelRefused,
    NotReady,
    ShrinkdError,
    StoreUnavailable,
    errno_symbol,
    error_text,
)
from shrinkd.events import EventBus, Unsubscribe
from shrinkd.groups import Actor, GroupLimits
from shrinkd.policies.arbiter import Key
from shrinkd.policies.catalog import PolicyCatalog, StoredPolicy, selectable
from shrinkd.policies.conditions import Status, conditions_of
from shrinkd.policies.decision_log import DecisionLog
from shrinkd.policies.evaluator import Evaluator
from shrinkd.policies.guards import GROUP_BYTES_PER_SECOND, Guards
from shrinkd.policies.kind import Outcome, Reclaim, Resize, Switch
from shrinkd.policies.records import Action, Record
from shrinkd.policies.wakeups import Wakeups
from shrinkd.shrinks import Job, Request, ShrinkQueue, State
from shrinkd.storage import Store
from shrinkd.worker_pool import submit_once

_WALK_SECONDS = 0.8
"""How often the tree is walked: a group has its policies within a second of appearing."""
_REST_SECONDS = 0.01
"""Between two rounds: a group that thrashes at its watermark wakes us hundreds of times a second."""
_WRITE_SECONDS = 1.0
_SAVE_SECONDS = 10.0
_RESIZE_SECONDS = 60.0
_RETRY_SECONDS, _PATIENCE_SECONDS = 1.0, 3.0
"""Between two rounds that fail, and how long they may before readiness tells."""
_HANDS = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clock:
    """The time that policies live in: the host's, or that of a simulated machine."""

    now: Callable[[], float] = time.monotonic
    speed: Callable[[], float] = lambda: 1.0
    """Seconds that pass there in one of ours."""


@dataclass(frozen=True, slots=True)
class Scope:
    """When and where policies are carried out."""

    clock: Clock = field(default_factory=Clock)
    subtrees: tuple[str, ...] = ()
    """Globs of the groups that may be changed; none given means all."""


class PolicyController:
    """Carries the policies out.

    start() begins, close() ends it; nothing of what it has done is undone by that, nor by its
    death.
    """

    def __init__(  # the composition root passes each part by name
        self,
        limits: GroupLimits,
        store: Store,
        policies: PolicyCatalog,
        jobs: ShrinkQueue,
        scope: Scope,
        bus: EventBus,
    ) -> None:
        backend = limits.backend
        self._backend, self._store, self._policies, self._jobs = backend, store, policies, jobs
        self._limits, self._bus = limits, bus
        self._unsubscribe: list[Unsubscribe] = []
        self._clock, self._subtrees = scope.clock, scope.subtrees
        self._boot_id = backend.node().boot_id
        self.decisions = DecisionLog(store.decisions, bus.publish)
        self._engine = Evaluator(
            backend,
            Guards(backend.has_swappiness, limits.locks.manual_age),
            store.policy_states.load(self._boot_id),
        )
        self._lock = threading.Lock()
        """Over the engine and what wakes it: who has it does a round, or looks at what they know."""
        self._wakes = Wakeups(backend, self._engine, self._clock.now, self._lock)
        self._groups: list[Group] = []
        """Those that the policies were assigned to."""
        self._tree: list[Group] | None = None
        self._is_lost = False
        """As the tree was when a walk last came to its end, and whether the last one did not."""
        self._failing: tuple[float, str] | None = None
        """Since when every round has failed, and why the last one did."""
        self._unsaved: dict[Key, dict[str, Any]] = {}
        self._outcomes: deque[tuple[Action, Outcome, str | None]] = deque()
        self._moved: deque[str] = deque()
        """The paths of groups whose limits we have changed."""
        self._waits_until = math.inf
        """When the thread will do a round, whatever happens; of the monotonic clock."""
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._hands = ThreadPoolExecutor(_HANDS, thread_name_prefix="policy")
        self._scribe = ThreadPoolExecutor(1, thread_name_prefix="decisions")
        self._writing: Future[None] | None = None
        self._walk_at = self._write_at = math.inf
        self._save_at = 0.0
        self._thread = threading.Thread(target=self._run, name="policies")
        self.round_errors: Counter[str] = Counter()
        """Rounds that were cut short since the start, by errno."""

    def start(self) -> None:
        self._unsubscribe = [
            self._bus.policies.subscribe(self._tell_changed),
            self._bus.limits.subscribe(self._tell_limits),
        ]
        self._tell_changed()
        self._thread.start()

    def stop(self) -> None:
        """End between two rounds: nothing new is begun."""
        with self._lock:
            self._stopping.set()
        self._wakes.ring()
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Write down what is known, and give everything back.

        When the jobs are closed: how they ended is told, too.
        """
        self.stop()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._wakes.stop()
        self._hands.shutdown(wait=True)
        self._scribe.shutdown(wait=True)
        self._drain()
        self.decisions.forget(())
        with suppress(ShrinkdError):
            self.decisions.write()
            self._store.policy_states.save(self._boot_id, self._unsaved | self._engine.states())
        self._wakes.close()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def ping(self) -> None:
        """Prove that policies are carried out, or raise NotReady."""
        if not self.is_alive:
            raise NotReady(
                "The policies are not carried out any more, for a reason that the log has: restart "
                "the daemon."
            )
        if (failing := self._failing) and (
            seconds := time.monotonic() - failing[0]
        ) > _PATIENCE_SECONDS:
            raise NotReady(
                f"The policies have not been carried out for {seconds:.0f} s, and are tried each "
                f"second: {failing[1]}"
            )

    def errors(self) -> Counter[tuple[str, str]]:
        """What broke since the start and was tried again, by policy and errno."""
        return self._engine.errors.copy()

    def status(self, name: str) -> Status:
        """What the daemon makes of a policy.

        Waits for no look: a list of policies would wait for one look for each of them.
        """
        bindings = self._engine.bindings(name)
        conditions = conditions_of(bindings, self._clock.now(), datetime.now(UTC))
        generation = bindings[0].generation if bindings else 0
        return Status(
            generation,
            sum(len(binding.groups) for binding in bindings),
            self.decisions.last(name),
            conditions,
        )

    def evaluate(self, kept: StoredPolicy) -> list[Record]:
        """Say what a policy would do now to each group that it selects, and why or why not.

        Never acts.
        """
        groups = selectable(self._backend, self._subtrees)
        with self._lock:
            return self._engine.evaluate(
                kept.policy, kept.generation, groups, self._clock.now(), datetime.now(UTC)
            )

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                fired = self._wait()
                with self._lock:
                    self._round(fired)
                self._failing = None
            except (
                Exception
            ) as error:  # supervised: the thread goes on, and what it held is where it was
                self._note_cut_short(error)
                self._stopping.wait(_RETRY_SECONDS)
                self._wakes.ring()

    def _note_cut_short(self, error: Exception) -> None:
        """Say why a round ended early.

        What it had taken is put back, so the next round meets it again.
        """
        self.round_errors[errno_symbol(error)] += 1
        self._failing = self._failing[0] if self._failing else time.monotonic(), error_text(error)
        is_bug = not isinstance(error, ShrinkdError | OSError | MemoryError)
        log.warning(
            "the policies could not be looked at, and will be again: %s",
            error_text(error),
            exc_info=is_bug,
        )

    def _wait(self) -> list[Key]:
        """Wait for the next round, a bell or a watch; answer the posts whose watch fired."""
        with self._lock:
            self._waits_until = self._next_round()
        ahead = self._waits_until - time.monotonic()
        return self._wakes.wait(None if ahead == math.inf else max(ahead, _REST_SECONDS))

    def _next_round(self) -> float:
        """When something is due next: a look, a walk or a writing. With the lock held."""
        due, ahead = self._engine.next_look(), math.inf
        if due < math.inf and (speed := self._clock.speed()):
            ahead = (due - self._clock.now()) / speed
        return min(time.monotonic() + ahead, self._walk_at, self._write_at)

    def _round(self, fired: list[Key]) -> None:
        if self._stopping.is_set():
            return
        if self._changed.is_set() or time.monotonic() >= self._walk_at:
            self._assign()
        self._drain()
        self._write()
        if self._engine.is_idle:
            self._moved.clear()
            return
        moment = self._clock.now()
        while self._moved:
            self._engine.limits_moved(self._moved.popleft(), moment)
        heard = [self._wakes.hear(key, moment) for key in fired]
        if not all(heard):
            self._changed.set()
        looked = self._engine.look(moment, datetime.now(UTC), self._limits.locks.busy())
        try:
            self._write_at = min(self._write_at, time.monotonic() + _WRITE_SECONDS)
            self.decisions.add(looked.records)
            for binding in looked.bindings:
                self._wakes.arm(binding)
            self._bus.readings.publish(looked.readings)
        finally:  # what was granted is carried out, or its end is told: nothing else would ever free its post
            for grant in looked.grants:
                self._carry_out(grant)

    def _assign(self) -> None:
        """Walk the tree, and see to it that each policy watches what it selects."""
        is_changed = self._changed.is_set()
        self._changed.clear()
        try:
            enabled = [kept for kept in self._policies.all() if kept.policy.enabled]
            groups = self._walk() if enabled else []
            if groups is not None and (groups != self._groups or is_changed):
                self._engine.assign(
                    [(kept.policy, kept.generation) for kept in enabled],
                    groups,
                    self._clock.now() if enabled else 0.0,
                )
                self._wakes.forget_gone()
                self.decisions.forget(
                    {(kept.policy.name, group.id) for kept in enabled for group in groups}
                )
                self._groups = groups
        except BaseException:
            self._changed.set()  # what was changed is still to be seen to
            raise
        self._walk_at = time.monotonic() + _WALK_SECONDS if enabled else math.inf

    def _walk(self) -> list[Group] | None:
        """The groups that policies may select.

        Where the tree cannot be walked those of the last walk, None where there was none.

        A group is never taken for gone because we could not look: its policies would forget what
        they know of it.
        """
        try:
            self._tree = selectable(self._backend, self._subtrees)
            self._is_lost = False
        except (ShrinkdError, OSError) as error:
            if not self._is_lost:
                log.warning(
                    "the groups could not be looked for, and will be again; policies go on with "
                    "those of the last time: %s",
                    error,
                )
            self._is_lost = True
        return self._tree

    def _drain(self) -> None:
        while self._outcomes:
            grant, outcome, shrink_id = self._outcomes.popleft()
            freed, errname = outcome.freed_bytes, outcome.errname
            moment = self._clock.now()
            try:
                self._write_at = min(self._write_at, time.monotonic() + _WRITE_SECONDS)
                self.decisions.finish(
                    grant.key, grant.group.id, freed_bytes=freed, shrink_id=shrink_id, errno=errname
                )
                if not self._wakes.unmute(grant.key, moment):
                    self._changed.set()
            finally:
                self._engine.finish(grant.key, grant.group, outcome, moment)

    def _write(self) -> None:
        """Have somebody write down what is new.

        A database that is locked must not hold the looks.
        """
        if time.monotonic() < self._write_at or (self._writing and not self._writing.done()):
            return
        if time.monotonic() >= self._save_at:
            self._unsaved |= self._engine.states()
            self._save_at = time.monotonic() + _SAVE_SECONDS
        states, self._write_at = self._unsaved, math.inf

        def write() -> None:
            try:
                self.decisions.write()
                self._jobs.write_finished()
                self._store.policy_states.save(self._boot_id, states)
                self._unsaved = {}
            except (
                Exception
            ) as error:  # a worker's end, where nobody would see it: the next writing tries again
                say_not_written(error)

        def say_not_written(error: Exception) -> None:
            log.warning(
                "what the policies decided is not written down yet: %s",
                error,
                exc_info=not isinstance(error, ShrinkdError),
            )
            self._write_at = time.monotonic() + _WRITE_SECONDS
            self._wakes.ring()

        try:
            self._writing = submit_once(self._scribe, write)
        except ShrinkdError as error:
            say_not_written(error)

    def _tell_changed(self) -> None:
        self._changed.set()
        self._wakes.ring()

    def _tell_limits(self, group: Group) -> None:
        self._moved.append(group.path)
        self._wakes.ring()

    # -- what is granted ----------------------------------------------------------------------------------------

    @contextmanager
    def _to_its_end(self, grant: Action, shrink: Job | None = None) -> Iterator[None]:
        """Around each part of carrying a grant out.

        Whatever ends it early is told as its end, since nobody else would tell one.
        """
        began = time.monotonic()
        try:
            yield
        except Exception as error:  # the grant ends, and its policy goes on behind a rest
            if not isinstance(error, ShrinkdError | OSError | MemoryError):
                log.exception(
                    "what the policy %s was granted at %a failed",
                    grant.policy.name,
                    grant.group.path,
                )
            freed = shrink.progress.reclaimed_bytes if shrink else 0
            outcome = Outcome(
                grant.amount_bytes,
                freed,
                time.monotonic() - began,
                errno_symbol(error),
                _fault(error),
            )
            self._tell(grant, outcome, shrink.id if shrink else None)

    def _carry_out(self, grant: Action) -> None:
        with self._to_its_end(grant):
            self._wakes.mute(grant.key)
            if isinstance(grant.ask, Reclaim):
                self._reclaim(grant, grant.ask)
            else:
                submit_once(self._hands, self._change, grant)

    def _reclaim(self, grant: Action, ask: Reclaim) -> None:
        request = Request(
            timeout_seconds=ask.timeout_seconds,
            target_bytes=grant.target_bytes,
            reclaim_bytes=None if grant.target_bytes is not None else self._above_floor(grant),
            max_bytes_per_second=None if grant.is_urgent else GROUP_BYTES_PER_SECOND,
            swappiness=grant.swappiness,
            reason=f"the policy {grant.policy.name}",
        )
        job = self._jobs.submit(grant.group, request, policy=grant.policy.name)
        job.finished.add_done_callback(lambda _: self._tell_job(grant, job))

    def _above_floor(self, grant: Action) -> int:
        """How much is left of an amount, for usage may have fallen since it was granted."""
        return max(min(grant.amount_bytes, self._backend.usage(grant.group) - grant.floor_bytes), 0)

    def _tell_job(self, grant: Action, job: Job) -> None:
        error = job.status.error
        errname = error.errname if error else None if job.state is State.SUCCEEDED else "EINTR"
        outcome = Outcome(
            grant.amount_bytes,
            job.progress.reclaimed_bytes,
            job.run.reclaim_seconds,
            errname,
            _fault(error) if error else None,
        )
        self._outcomes.append((grant, outcome, job.id))
        self._go_round()

    def _go_round(self) -> None:
        """Do a round here and now, unless one goes on.

        Where caches are cold, to wake the thread for it costs more than the round.
        """
        is_done = False
        if self._lock.acquire(blocking=False):
            try:
                self._round([])
                is_done = self._next_round() >= self._waits_until
            except Exception as error:  # a worker of the jobs, which goes on; the policies' thread does the next round
                self._note_cut_short(error)
            finally:
                self._lock.release()
        if not is_done:
            self._wakes.ring()

    def _tell(self, grant: Action, outcome: Outcome, shrink_id: str | None = None) -> None:
        self._outcomes.append((grant, outcome, shrink_id))
        self._wakes.ring()

    def _change(self, grant: Action, shrink: Job | None = None) -> None:
        """Switch another policy, or set limits, behind the shrink that those needed.

        On a thread of its own: both may take their time.
        """
        began = time.monotonic()
        with self._to_its_end(grant, shrink):
            if isinstance(grant.ask, Switch):
                self._policies.switch(grant.ask.policy, enabled=grant.ask.enabled)
            elif isinstance(grant.ask, Resize):
                if shrink is None and self._is_shrunk_first(grant, grant.ask):
                    return
                self._limits.change_limits(grant.group, grant.ask.limits, Actor(grant.policy.name))
            freed = shrink.progress.reclaimed_bytes if shrink else 0
            self._tell(
                grant, Outcome(0, freed, time.monotonic() - began), shrink.id if shrink else None
            )

    def _is_shrunk_first(self, grant: Action, ask: Resize) -> bool:
        """Begin the shrink that a maximum below usage wants.

        Nobody waits for it: the limits follow when it ends.
        """
        maximum = ask.limits.get("max_bytes")
        if maximum is None or self._backend.usage(grant.group) < maximum:
            return False
        request = Request(
            _RESIZE_SECONDS,
            target_bytes=maximum,
            set_max_bytes=maximum,
            swappiness=grant.swappiness,
            reason=f"the policy {grant.policy.name}",
        )
        job = self._jobs.submit(grant.group, request, policy=grant.policy.name)
        job.finished.add_done_callback(lambda _: self._go_on(grant, job))
        return True

    def _go_on(self, grant: Action, shrink: Job) -> None:
        if shrink.state is not State.SUCCEEDED:
            self._tell_job(grant, shrink)
            return
        with self._to_its_end(grant, shrink):
            submit_once(self._hands, self._change, grant, shrink)


def _fault(error: Exception) -> str | None:
    """What broke, in words.

    None where the answer is one that a policy has to expect: a group that is busy, gone, or not to
    be shrunk.
    """
    if isinstance(error, ShrinkdError) and not isinstance(
        error, KernelRefused | StoreUnavailable | InternalError | NotReady
    ):
        return None
    return error_text(error)
