"""Shrinks as jobs.

Rows before they are work, one a group at a time, cancellable between any two passes.

States change by compare-and-set in the database, so that of two who would finish a shrink one wins:

    queued ──► running ──► succeeded | failed | cancelled | interrupted
      │           └──► cancelling ──► the same (a shrink that made it before it heard the cancel has succeeded)
      └──► cancelled | interrupted
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

from shrinkd import memcontrol
from shrinkd.backends import Backend, Group, LimitName, told_limits
from shrinkd.errors import (
    DaemonStopped,
    GroupBusy,
    InternalError,
    Interrupted,
    NotReady,
    ShrinkdError,
    ShrinkFinished,
    ShrinkInProgress,
    StoreUnavailable,
    TooManyShrinks,
)
from shrinkd.events import EventType, Publish, nobody
from shrinkd.groups import LimitJournal
from shrinkd.shrinks.job import Job, Request, State
from shrinkd.sizes import page_floor
from shrinkd.storage import (
    ACTIVE_STATES,
    GroupFilter,
    ShrinkRow,
    Store,
    WriteBehind,
    group_matches,
    now,
)
from shrinkd.worker_pool import hand_over

MAX_WAITING_SHRINKS = 256
"""How many may be queued beyond the running ones before 429."""
_STORE_RETRY_SECONDS = 1.0
_SWEEP_SECONDS = 3600.0
_POLICY_WORKERS = 8
"""For the shrinks of policies alone, so that neither they nor a caller's wait for the other."""
_MAKE_WAY_SECONDS = 30.0
_MOST_UNWRITTEN = 10_000

log = logging.getLogger(__name__)


class ShrinkQueue:
    """All shrinks of one daemon.

    Submits, runs, cancels and remembers them, and keeps limit writes out of their way.
    """

    def __init__(
        self, backend: Backend, store: Store, intents: LimitJournal, max_running: int
    ) -> None:
        self._backend = backend
        self._store = store
        self._intents = intents
        self._boot_id = backend.node().boot_id
        self._limit = max_running + MAX_WAITING_SHRINKS
        self._workers = ThreadPoolExecutor(max_running, thread_name_prefix="shrink")
        self._policy_workers = ThreadPoolExecutor(
            _POLICY_WORKERS, thread_name_prefix="policy shrink"
        )
        self._changed = threading.Condition()
        self._active: dict[str, Job] = {}
        self._held: dict[int, Group] = {}
        self._manual: dict[int, float] = {}
        """When a caller's own change of a group ended, by its id; infinity while it goes on."""
        self._unwritten = WriteBehind[str, Job](
            "shrinks",
            lambda finished: store.shrinks.record_finished([job.row() for job in finished]),
            bound=_MOST_UNWRITTEN,
        )
        """Finished shrinks of policies, which the thread of the policies writes once a second."""
        self._taken = 0
        """Shrinks that lie with the workers: also those that were cancelled while they waited."""
        self._stopping = threading.Event()
        self.ended: Counter[tuple[str, str]] = Counter()
        """Shrinks that are done since the start, by state and by who asked: "caller" or "policy"."""
        self.reclaimed_bytes = 0
        """By all of those."""
        self._sweep_at = time.monotonic()
        self.publish: Publish = nobody
        self.on_limits: Callable[[Group], None] = lambda _: None
        """Told of a group whose limits may have been changed."""

    def recover(self) -> int:
        """Settle what a daemon that died left behind.

        Before the first answer. Its limits are settled by its intents, so rows are all.
        """
        died = DaemonStopped(
            "The daemon died in this shrink; what was reclaimed stays so. GET its limits to see "
            "whether one was set."
        )
        return self._store.shrinks.interrupt_active(now(), died)

    def close(self) -> None:
        """Stop.

        Running shrinks end between two passes, waiting ones do not begin, and all of them are
        interrupted.
        """
        stopped = DaemonStopped(
            "The daemon was stopped in this shrink; what was reclaimed stays so. GET its limits to "
            "see whether one was set."
        )
        self._stopping.set()
        with self._changed:
            active = list(self._active.values())
        for job in active:
            job.kill(stopped)
        self._workers.shutdown(wait=True)
        self._policy_workers.shutdown(wait=True)
        with suppress(StoreUnavailable):  # the next start will say it
            self.write_finished()
            self._store.shrinks.interrupt_active(now(), stopped)

    def submit(  # all but two by name
        self,
        group: Group,
        request: Request,
        *,
        policy: str | None = None,
        owner: str = "",
        shrink_id: str | None = None,
        dry_run: bool = False,
    ) -> Job:
        """Write a shrink down, under an id of the caller's if there is one, and queue it.

        ShrinkInProgress when the group has one.

        TooManyShrinks when the queue is full, or half full with those of the same owner; the
        policies have one of their own. A caller's own goes before that of a policy, which ends for
        it. A policy's that moves no limit is written down when it is done.
        """
        job = Job(
            memcontrol.Memcg(self._backend, group, request.swappiness, self._intents),
            request,
            self._boot_id,
            policy,
            shrink_id,
        )
        job.owner = owner
        with self._changed:
            self._make_way(group, policy, dry_run=dry_run)
            self._check_room(policy, owner)
            if dry_run:
                return job
            self._active[job.id] = job
            self._taken += 1
            self._note(group, math.inf, by_hand=policy is None)
        with ExitStack() as undo:
            undo.callback(self._leave, job)
            if not job.leaves_nothing:
                # who has met it as the running one, and cancels it, waits until it is written down
                with job.lock:
                    self._store.shrinks.record(job.row())
                    undo.callback(self._withdraw, job)
                    self._tell(job)
            hand_over(self._policy_workers if policy else self._workers, self._work, job)
            undo.pop_all()
        return job

    def cancel(self, shrink_id: str, *, dry_run: bool = False) -> ShrinkRow:
        """Ask a shrink to stop and answer how it stands now.

        Cancelling, or cancelled when it was waiting or is already.
        """
        job = self._active.get(shrink_id)
        if job is not None:
            with job.lock:
                if not job.state.done and not dry_run:
                    self._cancel(job)
        row = self.shrink(shrink_id)
        if row.state not in (*ACTIVE_STATES, State.CANCELLED):
            raise ShrinkFinished(
                f"The shrink has {row.state}: there is nothing left to cancel.",
                state=row.state,
            )
        return row

    def job(self, shrink_id: str) -> Job | None:
        """The live job, or None when the shrink is finished or unknown."""
        return self._active.get(shrink_id)

    def shrink(self, shrink_id: str) -> ShrinkRow:
        """One shrink as a row, live while it is active. ShrinkNotFound."""
        job = self._active.get(shrink_id) or self._unwritten.get(shrink_id)
        return job.row() if job is not None else self._store.shrinks.get(shrink_id)

    def shrinks(
        self,
        *,
        limit: int,
        before: tuple[int, str] | None,
        states: tuple[str, ...],
        group: GroupFilter,
        since: int | None,
    ) -> list[ShrinkRow]:
        """List shrinks as rows, the newest first; see ShrinkRepository.list."""
        with self._changed:
            live = {job.id: job.row() for job in self._active.values()}
            rows = {job.id: job.row() for job in self._unwritten.items()}
            rows |= {
                shrink_id: row
                for shrink_id, row in live.items()
                if self._active[shrink_id].leaves_nothing
            }

        def is_wanted(row: ShrinkRow) -> bool:
            return (
                (before is None or _place(row) < before)
                and (not states or row.state in states)
                and group_matches(row.group_path, group)
                and (since is None or row.created_at >= since)
            )

        found = {shrink_id: row for shrink_id, row in rows.items() if is_wanted(row)}
        for row in self._store.shrinks.list(
            limit=limit, before=before, states=states, groups=group, since=since
        ):
            found[row.id] = live.get(row.id, row)
        return sorted(found.values(), key=_place, reverse=True)[:limit]

    def write_finished(self) -> None:
        """Record the finished shrinks of policies, all at once.

        StoreUnavailable, and then they wait.
        """
        self._unwritten.flush()

    @contextmanager
    def holding(
        self,
        group: Group,
        policy: str | None = None,
        *,
        dry_run: bool = False,
        is_new: bool = False,
    ) -> Iterator[None]:
        """Keep a group's limits to oneself.

        No shrink starts, no other change runs. ShrinkInProgress when one is.

        A trial is refused as a change would be, and else keeps nobody from anything. Policies keep
        away behind a change, but not behind one that was refused (who tries again and again would
        keep them away for good), nor from a group that `is_new`.
        """
        by_hand = policy is None and not is_new
        with self._changed:
            self._make_way(group, policy, dry_run=dry_run)
            moment = self._manual.get(group.id, -math.inf)
            if not dry_run:
                self._held[group.id] = group
                self._note(group, math.inf, by_hand=by_hand)
        try:
            yield
            moment = time.monotonic()
        finally:
            if not dry_run:
                self._let_go(group, moment, by_hand=by_hand)

    def _let_go(self, group: Group, moment: float, *, by_hand: bool) -> None:
        with self._changed:
            del self._held[group.id]
            self._note(group, moment, by_hand=by_hand)
            self._changed.notify_all()
        self.on_limits(group)
        self._sweep()

    def set_limits(
        self, group: Group, changes: Mapping[LimitName, int | None], policy: str
    ) -> None:
        """Set limits for a policy, with the group to itself; see memcontrol.set_limits."""
        with self.holding(group, policy):
            limits = memcontrol.set_limits(
                memcontrol.Memcg(self._backend, group, intent=self._intents), changes
            )
            self.publish(
                EventType.LIMITS_CHANGED, group, **told_limits(limits, changes), policy=policy
            )

    def busy(self) -> set[str]:
        """The paths of the groups that something is being done to."""
        with self._changed:
            return {job.memcg.group.path for job in self._active.values()} | {
                group.path for group in self._held.values()
            }

    def would_make_way(self, group: Group) -> bool:
        """Whether a shrink of a policy is in a group, which a caller's change would end."""
        with self._changed:
            return any(job.policy is not None for job in self._of(group))

    def active_counts(self) -> Counter[str]:
        """How many shrinks are in each state that is not done."""
        with self._changed:
            return Counter(str(job.state) for job in self._active.values())

    def manual_age(self, group: Group) -> float:
        """How many seconds ago a caller's own change of a group ended: 0 while one goes on,
        infinity if none did lately.
        """
        return max(time.monotonic() - self._manual.get(group.id, -math.inf), 0.0)

    def _note(self, group: Group, moment: float, *, by_hand: bool) -> None:
        if by_hand:
            self._manual[group.id] = moment

    def _make_way(self, group: Group, policy: str | None, *, dry_run: bool = False) -> None:
        """Wait until a group is free, with the lock held.

        A policy's shrink ends for a caller, and a policy waits for nobody.
        """
        if policy is None:
            yielding = [] if dry_run else [job for job in self._of(group) if job.policy is not None]
            for job in yielding:
                job.kill(Interrupted("A caller's own change of this group goes first."))
            self._changed.wait_for(
                lambda: (
                    group.id not in self._held
                    and not any(job.id in self._active for job in yielding)
                ),
                _MAKE_WAY_SECONDS,
            )
        if group.id in self._held:
            raise GroupBusy(
                f"The limits of {group.path!a} are being changed: try again.", group=group
            )
        for job in self._of(group):
            if job.policy is None or not dry_run:
                raise ShrinkInProgress(
                    "A shrink of this group is in progress: wait for it, or cancel it.",
                    group=group,
                    shrink_id=job.id,
                    state=str(job.state),
                )

    def _of(self, group: Group) -> list[Job]:
        return [job for job in self._active.values() if job.memcg.group.id == group.id]

    def _check_room(self, policy: str | None, owner: str) -> None:
        """The policies have as many places as all callers, and of those no owner has more than
        half.
        """
        if self._stopping.is_set():
            raise NotReady("The daemon is stopping: try again when it is back.")
        active = sum((job.policy is None) == (policy is None) for job in self._active.values())
        if active >= self._limit or self._taken >= 4 * self._limit:
            raise TooManyShrinks(
                f"{active} shrinks run or wait already: try again when some have finished.",
                active=active,
            )
        own = sum(job.owner == owner for job in self._active.values()) if owner else 0
        if own >= self._limit // 2:
            raise TooManyShrinks(
                f"{own} shrinks of {owner} run or wait already, half of all: the rest is for "
                "others.",
                active=own,
            )

    def _cancel(self, job: Job) -> None:
        """With the job's lock held."""
        if job.state is State.QUEUED:
            if self._move(job, state=State.CANCELLED, finished_at=now()):
                self._drop(job)
            return
        job.kill(
            Interrupted("The shrink was cancelled.")
        )  # first: a full disk must not take the brake away
        self._move(job, state=State.CANCELLING)

    def _work(self, job: Job) -> None:
        try:
            if not self._stopping.is_set() and self._persist(
                job, state=State.RUNNING, started_at=now()
            ):
                self._shrink(job)
        finally:
            self._leave(job)
        self._sweep()

    def _shrink(self, job: Job) -> None:
        error: ShrinkdError | None = None
        try:
            job.run()
        except ShrinkdError as raised:
            error = raised
        except Exception:  # a bug ends this job as failed; its worker and the other jobs go on
            log.exception("shrink %s of %a failed", job.id, job.memcg.group.path)
            error = InternalError(
                "The shrink met a fault of this daemon, which its log describes; GET its limits to "
                "see how they are."
            )
        state = _outcome(error)
        self._persist(
            job, state=state, finished_at=now(), error=None if state is State.CANCELLED else error
        )

    def _persist(self, job: Job, **changes: Any) -> bool:  # fields of its Standing
        """Move a job and stay until that is written down.

        A full or locked database delays the news, it does not change them.
        """
        while True:
            try:
                with job.lock:
                    return self._move(job, **changes)
            except StoreUnavailable as unavailable:
                log.warning(
                    "shrink %s is %s, which could not be written down: %s",
                    job.id,
                    changes["state"],
                    unavailable,
                )
                if self._stopping.wait(_STORE_RETRY_SECONDS):
                    return False

    def _move(self, job: Job, **changes: Any) -> bool:  # fields of its Standing
        """Compare and set, with the job's lock held.

        The row is the judge and the job follows it.
        """
        standing = replace(job.standing, **changes)
        moved = not job.state.done and (
            job.leaves_nothing
            or self._store.shrinks.move(job.id, str(job.state), job.row(standing))
        )
        if moved:
            job.standing = standing
            self._tell(job)
        if moved and job.leaves_nothing and standing.state.done:
            self._unwritten.put(job.id, job)
        return moved

    def _tell(self, job: Job) -> None:
        """Publish where a job stands, with its lock held.

        So that its states are told in their order.
        """
        group, request, state, error = job.memcg.group, job.request, job.state, job.standing.error
        if state is State.SUCCEEDED and request.set_max_bytes is not None:
            maximum = page_floor(request.set_max_bytes)
            self.publish(
                EventType.LIMITS_CHANGED,
                group,
                max_bytes=maximum,
                policy=job.policy,
                shrink_id=job.id,
            )
            self.on_limits(group)
        if state.done or not job.leaves_nothing:
            told = {
                "shrink_id": job.id,
                "state": state,
                "policy": job.policy,
                "errno": error.errname if error else None,
            }
            self.publish(
                EventType.SHRINK_STATE, group, **told, reclaimed_bytes=job.progress.reclaimed_bytes
            )

    def _withdraw(self, job: Job) -> None:
        """End a shrink that is written down and that no worker takes."""
        never = DaemonStopped(
            "The daemon could not begin with this shrink: nothing was changed. Try again."
        )
        with suppress(StoreUnavailable), job.lock:  # a row that stays is settled by the next start
            self._move(job, state=State.INTERRUPTED, finished_at=now(), error=never)

    def _leave(self, job: Job) -> None:
        with self._changed:
            self._taken -= 1
        self._drop(job)

    def _drop(self, job: Job) -> None:
        with self._changed:
            was_active = self._active.pop(job.id, None)
            if was_active:
                self._note(job.memcg.group, time.monotonic(), by_hand=job.policy is None)
                self.ended[str(job.state), "policy" if job.policy else "caller"] += 1
                self.reclaimed_bytes += job.progress.reclaimed_bytes
            self._changed.notify_all()
        if was_active:
            job.finished.set_result(None)

    def _sweep(self) -> None:
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + _SWEEP_SECONDS
            with self._changed:
                recent = time.monotonic() - _SWEEP_SECONDS
                self._manual = {
                    group_id: moment for group_id, moment in self._manual.items() if moment > recent
                }


def _place(row: ShrinkRow) -> tuple[int, str]:
    return row.created_at, row.id


def _outcome(error: ShrinkdError | None) -> State:
    if error is None:
        return State.SUCCEEDED
    if isinstance(error, DaemonStopped):
        return State.INTERRUPTED
    return State.CANCELLED if isinstance(error, Interrupted) else State.FAILED
