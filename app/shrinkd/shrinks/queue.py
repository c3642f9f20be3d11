"""The queue of shrinks: admit them, hand them to workers, cancel and list them.

A caller's shrink, and one that sets a limit, has a row before it starts. A policy's shrink that
sets no limit gets its row after its end, together with others.
"""

import threading
from collections import Counter
from contextlib import suppress

from shrinkd.backends import Group
from shrinkd.errors import (
    DaemonStopped,
    NotReady,
    ShrinkFinished,
    StoreUnavailable,
    TooManyShrinks,
)
from shrinkd.events import Publish
from shrinkd.groups import GroupLimits
from shrinkd.shrinks.job import Job, JobContext, Origin, State
from shrinkd.shrinks.run import Request
from shrinkd.shrinks.workers import ShrinkWorkers
from shrinkd.storage import (
    ACTIVE_STATES,
    GroupFilter,
    ShrinkRepository,
    ShrinkRow,
    WriteBehind,
    group_matches,
    now,
)

MAX_WAITING_SHRINKS = 256
"""How many may be queued beyond the running ones before 429."""
_MOST_UNWRITTEN = 10_000


class ShrinkQueue:
    """All shrinks of one daemon. Thread-safe.

    At most `max_running` shrinks of callers run at a time. Policies have workers and places in the
    queue of their own.
    """

    def __init__(
        self, repository: ShrinkRepository, limits: GroupLimits, publish: Publish, max_running: int
    ) -> None:
        self._repository = repository
        self._locks = limits.locks
        self._context = JobContext(repository, limits, publish, limits.backend.node().boot_id)
        self._limit = max_running + MAX_WAITING_SHRINKS
        self._workers = ShrinkWorkers(max_running, self._retire)
        self._lock = threading.Lock()
        """Guards the four attributes below. Acquired inside GroupLocks.admit(), and never around
        a call of GroupLocks."""
        self._active: dict[str, Job] = {}
        self._unwritten = WriteBehind[str, Job](
            "shrinks",
            lambda finished: repository.record_finished([job.row() for job in finished]),
            bound=_MOST_UNWRITTEN,
        )
        """Finished shrinks of policies, which the thread of the policies writes once a second."""
        self.ended: Counter[tuple[str, str]] = Counter()
        """Shrinks that ended since the start, by state and submitter: "caller" or "policy"."""
        self.reclaimed_bytes = 0
        """Bytes that all of those have reclaimed."""

    def recover(self) -> int:
        """Interrupt the shrinks that a dead daemon left, and return how many there were.

        To be called before the first request. Their limits are settled by the limits' journal.
        """
        died = DaemonStopped(
            "The daemon died in this shrink; what was reclaimed stays so. GET its limits to see "
            "whether one was set."
        )
        return self._repository.interrupt_active(now(), died)

    def close(self) -> None:
        """Interrupt all shrinks: running ones end between two passes, waiting ones do not begin."""
        stopped = DaemonStopped(
            "The daemon was stopped in this shrink; what was reclaimed stays so. GET its limits to "
            "see whether one was set."
        )
        self._workers.stopping.set()
        with self._lock:
            active = list(self._active.values())
        for job in active:
            job.kill(stopped)
        self._workers.close()
        with suppress(StoreUnavailable):  # the next start interrupts them
            self.write_finished()
            self._repository.interrupt_active(now(), stopped)

    def submit(  # noqa: PLR0913  # all but two by name
        self,
        group: Group,
        request: Request,
        *,
        policy: str | None = None,
        owner: str = "",
        shrink_id: str | None = None,
        dry_run: bool = False,
    ) -> Job:
        """Queue a shrink, for a policy or for the caller named `owner`, and return its job.

        A caller's shrink ends a policy's shrink of the group first. ShrinkInProgress when the group
        has another one, GroupBusy while its limits are being changed, TooManyShrinks when the queue
        is full or half full with those of the same owner, StoreUnavailable, NotReady.
        """
        job = Job(self._context, group, request, Origin(policy, owner, shrink_id))
        with self._locks.admit(job, dry_run=dry_run), self._lock:
            self._check_room(policy, owner)
            if dry_run:
                return job
            self._active[job.id] = job
        try:
            with job.recorded():
                self._workers.start(job)
        except BaseException:
            self._retire(job)
            raise
        return job

    def cancel(self, shrink_id: str, *, dry_run: bool = False) -> ShrinkRow:
        """Ask a shrink to stop and return its row: cancelling, or cancelled if it was waiting.

        ShrinkNotFound, ShrinkFinished for one that ended otherwise. StoreUnavailable, and then a
        running one stops all the same.
        """
        job = self._active.get(shrink_id)
        if job is not None and not dry_run and job.cancel():
            self._retire(job)
        row = self.shrink(shrink_id)
        if row.state not in (*ACTIVE_STATES, State.CANCELLED):
            raise ShrinkFinished(
                f"The shrink has {row.state}: there is nothing left to cancel.",
                state=row.state,
            )
        return row

    def job(self, shrink_id: str) -> Job | None:
        """Return the job of an active shrink, None where it is finished or unknown."""
        return self._active.get(shrink_id)

    def shrink(self, shrink_id: str) -> ShrinkRow:
        """Return one shrink as a row, live while it is active. ShrinkNotFound."""
        with self._lock:  # _retire() moves a job from the one to the other
            job = self._active.get(shrink_id) or self._unwritten.get(shrink_id)
        return job.row() if job is not None else self._repository.get(shrink_id)

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
        with self._lock:
            live = {job.id: job.row() for job in self._active.values()}
            unwritten = {
                job.id: job.row()
                for job in (*self._unwritten.items(), *self._active.values())
                if job.is_stored_at_end
            }

        def is_wanted(row: ShrinkRow) -> bool:
            return (
                (before is None or _place(row) < before)
                and (not states or row.state in states)
                and group_matches(row.group_path, group)
                and (since is None or row.created_at >= since)
            )

        found = {shrink_id: row for shrink_id, row in unwritten.items() if is_wanted(row)}
        for row in self._repository.list(
            limit=limit, before=before, states=states, groups=group, since=since
        ):
            found[row.id] = live.get(row.id, row)
        return sorted(found.values(), key=_place, reverse=True)[:limit]

    def active_counts(self) -> Counter[str]:
        """Return how many shrinks are in each state that is not done."""
        with self._lock:
            return Counter(str(job.state) for job in self._active.values())

    def write_finished(self) -> None:
        """Write the rows of the policies' finished shrinks, all at once.

        StoreUnavailable, and then they are kept for the next time.
        """
        self._unwritten.flush()

    def _check_room(self, policy: str | None, owner: str) -> None:
        """Raise NotReady or TooManyShrinks where a shrink has no place, with the lock held.

        Policies have as many places as all callers, and no owner has more than half of those.
        """
        if self._workers.stopping.is_set():
            raise NotReady("The daemon is stopping: try again when it is back.")
        active = sum((job.policy is None) == (policy is None) for job in self._active.values())
        if active >= self._limit or self._workers.count >= 4 * self._limit:
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

    def _retire(self, job: Job) -> None:
        """Take a job that is over out of the queue, and release its group. Idempotent."""
        with self._lock:
            if self._active.pop(job.id, None) is None:
                return
            self.ended[str(job.state), "policy" if job.policy else "caller"] += 1
            self.reclaimed_bytes += job.progress.reclaimed_bytes
            if job.is_stored_at_end and job.state.done:
                self._unwritten.put(job.id, job)
        try:
            self._locks.leave(job)
        finally:
            job.finished.set_result(None)


def _place(row: ShrinkRow) -> tuple[int, str]:
    return row.created_at, row.id
