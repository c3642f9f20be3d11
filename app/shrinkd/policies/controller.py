"""The controller: decide when policies are evaluated, and pass each tick on.

One thread waits for wake-ups and for the next time that something is due. A tick flows from here to
the evaluator (what each policy proposes), its arbiter (what is granted) and the executor (what is
done); outcomes and wake-ups come back as data that the next tick takes.
"""

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shrinkd.backends import Group
from shrinkd.errors import NotReady, ShrinkdError, errno_symbol, error_text
from shrinkd.events import EventBus, Unsubscribe
from shrinkd.groups import GroupLimits
from shrinkd.policies.bindings import Key
from shrinkd.policies.catalog import PolicyCatalog, StoredPolicy, selectable
from shrinkd.policies.conditions import Status, conditions_of
from shrinkd.policies.decision_log import DecisionLog
from shrinkd.policies.evaluator import Evaluator
from shrinkd.policies.executor import Executor, Finished
from shrinkd.policies.guards import Guards
from shrinkd.policies.notifier import Notifier
from shrinkd.policies.records import Action, Record
from shrinkd.policies.wakeups import Wakeups, Woken
from shrinkd.policies.writer import PolicyWriter
from shrinkd.shrinks import ShrinkQueue
from shrinkd.storage import Store

_WALK_SECONDS = 0.8
"""How often the tree is walked: a group has its policies within a second of appearing."""
_PAUSE_SECONDS = 0.01
"""Between two ticks: a group that thrashes at its watermark wakes hundreds of times a second."""
_RETRY_SECONDS, _PATIENCE_SECONDS = 1.0, 3.0
"""Between two ticks that fail, and how long they may fail before the daemon is not ready."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of the policies: that of the host, or of a simulated machine."""

    now: Callable[[], float] = time.monotonic
    speed: Callable[[], float] = lambda: 1.0
    """Seconds that pass there in one of the host's; 0 while that time stands still."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The time and the groups in which policies are carried out."""

    clock: Clock = field(default_factory=Clock)
    subtrees: tuple[str, ...] = ()
    """Globs of the groups that may be changed; none given means all."""


class PolicyController:
    """Carries the policies out, from start() to close().

    Neither close() nor the daemon's death undoes what the policies have done.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # the parts that it drives
        self,
        limits: GroupLimits,
        store: Store,
        policies: PolicyCatalog,
        jobs: ShrinkQueue,
        scope: Scope,
        bus: EventBus,
    ) -> None:
        self._backend, self._policies, self._locks = limits.backend, policies, limits.locks
        self._clock, self._subtrees = scope.clock, scope.subtrees
        self._bus = bus
        self._unsubscribe: list[Unsubscribe] = []
        self._notifier = Notifier()
        self.decisions = DecisionLog(store.decisions, bus.publish)
        boot_id = self._backend.node().boot_id
        self._wakeups = Wakeups(self._backend, self._notifier)
        self._evaluator = Evaluator(
            self._backend,
            Guards(self._backend.has_swappiness, self._locks.manual_age),
            store.policy_states.load(boot_id),
            self._wakeups.usage_watched,
        )
        self._executor = Executor(limits, policies, jobs, self._take_outcome)
        self._writer = PolicyWriter(
            store.policy_states, boot_id, self.decisions, jobs, self._notifier.notify
        )
        self._lock = threading.Lock()
        """Held by the thread that runs a tick, or previews a policy."""
        self._groups: list[Group] = []
        """The groups of the last assignment."""
        self._tree: list[Group] | None = None
        """The groups of the last complete walk."""
        self._is_walk_failing = False
        """Whether a later walk failed."""
        self._failing: tuple[float, str] | None = None
        """Since when every tick has failed, and the error of the last one."""
        self._outcomes: deque[Finished] = deque()
        self._waits_until = math.inf
        """When the thread will run a tick in any case; of the monotonic clock."""
        self._stopping = threading.Event()
        self._walk_at = math.inf
        self._thread = threading.Thread(target=self._run, name="policies")
        self.round_errors: Counter[str] = Counter()
        """Ticks that failed since the start, by errno."""

    def start(self) -> None:
        self._unsubscribe = [
            self._bus.policies.subscribe(self._notifier.notify_policies),
            self._bus.limits.subscribe(self._notifier.notify_limits),
        ]
        self._notifier.notify_policies()
        self._thread.start()

    def stop(self) -> None:
        """End between two ticks: no new action is started."""
        with self._lock:
            self._stopping.set()
        self._notifier.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Write the last decisions and states, and close all parts.

        The shrink queue has to be closed first, so that the outcomes of its shrinks are recorded.
        """
        self.stop()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._wakeups.stop()
        self._executor.close()
        self._writer.stop()
        self._drain()
        self.decisions.forget(())
        self._writer.write_last(self._evaluator.bindings.changed_states())
        self._wakeups.close()
        self._notifier.close()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def ping(self) -> None:
        """Raise NotReady where policies are not carried out."""
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
        """Count the unexpected errors since the start, by policy and errno."""
        return self._evaluator.errors.copy()

    def status(self, name: str) -> Status:
        """Return the status of a policy, without waiting for a tick that runs."""
        bindings = self._evaluator.bindings.of_policy(name)
        conditions = conditions_of(bindings, self._clock.now(), datetime.now(UTC))
        generation = bindings[0].generation if bindings else 0
        return Status(
            generation,
            sum(len(binding.groups) for binding in bindings),
            self.decisions.last(name),
            conditions,
        )

    def evaluate(self, stored: StoredPolicy) -> list[Record]:
        """Decide what a policy would do now at each group that it selects, as a dry run."""
        groups = selectable(self._backend, self._subtrees)
        with self._lock:
            return self._evaluator.preview(
                stored.policy, stored.generation, groups, self._clock.now(), datetime.now(UTC)
            )

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                keys = self._wait()
                with self._lock:
                    self._tick(keys)
                self._failing = None
            except Exception as error:  # noqa: BLE001  # supervised: nothing that is due is lost
                self._note_failure(error)
                self._stopping.wait(_RETRY_SECONDS)
                self._notifier.notify()

    def _note_failure(self, error: Exception) -> None:
        """Count and log a tick that failed. What was due then is due in the next one."""
        self.round_errors[errno_symbol(error)] += 1
        self._failing = self._failing[0] if self._failing else time.monotonic(), error_text(error)
        is_bug = not isinstance(error, ShrinkdError | OSError | MemoryError)
        log.warning(
            "the policies could not be evaluated, and will be again: %s",
            error_text(error),
            exc_info=is_bug,
        )

    def _wait(self) -> list[Key]:
        """Wait until something is due or notified; return the keys whose watch is ready."""
        with self._lock:
            self._waits_until = self._next_due_at()
        ahead = self._waits_until - time.monotonic()
        return self._wakeups.wait(None if ahead == math.inf else max(ahead, _PAUSE_SECONDS))

    def _next_due_at(self) -> float:
        """Return when an evaluation, a walk or a write is due next; of the monotonic clock."""
        due, ahead = self._evaluator.bindings.next_due_at(), math.inf
        if due < math.inf and (speed := self._clock.speed()):
            ahead = (due - self._clock.now()) / speed
        return min(time.monotonic() + ahead, self._walk_at, self._writer.due_at)

    def _tick(self, keys: Iterable[Key]) -> None:
        """Take changes, outcomes and wake-ups; evaluate what is due; execute what is granted."""
        if self._stopping.is_set():
            return
        if self._notifier.policies_changed.is_set() or time.monotonic() >= self._walk_at:
            self._assign()
        self._drain()
        self._writer.write_if_due(self._evaluator.bindings.changed_states)
        changed_paths = self._notifier.take_limits()
        if not self._evaluator.bindings:
            return
        now = self._clock.now()
        for path in changed_paths:
            self._evaluator.limits_changed(path, now)
        self._wake(self._wakeups.read(keys), now)
        tick = self._evaluator.tick(now, datetime.now(UTC), self._locks.busy())
        try:
            self._writer.schedule()
            self.decisions.add(tick.records)
            for binding in tick.bindings:
                self._wakeups.watch(binding)
            self._bus.readings.publish(tick.readings)
        finally:  # a granted action that is not executed would never free its binding
            self._execute(tick.actions)

    def _execute(self, actions: Iterable[Action]) -> None:
        with ExitStack() as stack:  # each action is executed, even where one before it fails
            for action in reversed(tuple(actions)):
                stack.callback(self._executor.execute, action)
                stack.callback(self._wakeups.suspend, action.key)

    def _wake(self, woken: Woken, now: float) -> None:
        for key in woken.keys:
            self._evaluator.wake(key, now)
        if woken.removed:
            self._notifier.policies_changed.set()

    def _assign(self) -> None:
        """Walk the tree, and bind the policies to the groups that they select."""
        is_changed = self._notifier.policies_changed.is_set()
        self._notifier.policies_changed.clear()
        try:
            enabled = [stored for stored in self._policies.all() if stored.policy.enabled]
            groups = self._walk() if enabled else []
            if groups is not None and (groups != self._groups or is_changed):
                self._bind(enabled, groups)
                self._groups = groups
        except BaseException:
            self._notifier.policies_changed.set()  # the change is still to be taken in
            raise
        self._walk_at = time.monotonic() + _WALK_SECONDS if enabled else math.inf

    def _bind(self, enabled: list[StoredPolicy], groups: list[Group]) -> None:
        self._evaluator.assign(
            [(stored.policy, stored.generation) for stored in enabled],
            groups,
            self._clock.now() if enabled else 0.0,
        )
        self._wakeups.retain(self._evaluator.bindings.keys())
        self.decisions.forget(
            {(stored.policy.name, group.id) for stored in enabled for group in groups}
        )

    def _walk(self) -> list[Group] | None:
        """Return the groups that policies may select.

        Where the tree cannot be walked, those of the last walk, or None without one: a group that
        was not seen is not taken for removed, or its policies would lose their state.
        """
        try:
            self._tree = selectable(self._backend, self._subtrees)
            self._is_walk_failing = False
        except (ShrinkdError, OSError) as error:
            if not self._is_walk_failing:
                log.warning(
                    "the groups could not be listed, and will be again; policies go on with those "
                    "of the last time: %s",
                    error,
                )
            self._is_walk_failing = True
        return self._tree

    # -- outcomes ------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Pass the outcomes of actions on to the decisions, the wake-ups and the evaluator."""
        while self._outcomes:
            finished = self._outcomes.popleft()
            action, outcome, now = finished.action, finished.outcome, self._clock.now()
            try:
                self._writer.schedule()
                self.decisions.finish(
                    action.key,
                    action.group.id,
                    freed_bytes=outcome.freed_bytes,
                    shrink_id=finished.shrink_id,
                    errno=outcome.errname,
                )
                self._wake(self._wakeups.resume(action.key), now)
            finally:
                self._evaluator.finish(action.key, action.group, outcome, now)

    def _take_outcome(self, finished: Finished) -> None:
        """Note an outcome, and run a tick on this thread unless one runs already.

        With cold caches, waking the controller's thread costs more than the tick.
        """
        self._outcomes.append(finished)
        is_done = False
        if self._lock.acquire(blocking=False):
            try:
                self._tick(())
                is_done = self._next_due_at() >= self._waits_until
            except Exception as error:  # noqa: BLE001  # supervised: the controller tries again
                self._note_failure(error)
            finally:
                self._lock.release()
        if not is_done:
            self._notifier.notify()
