"""One shrink as a job: its states, each recorded and published.

A state changes under the lock of its job, and by compare-and-set in the database where the shrink
has a row, so of two threads that end a shrink one succeeds:

    queued ──► running ──► succeeded | failed | cancelled | interrupted
      │           └──► cancelling ──► the same (succeeded where the work was done before the cancel)
      └──► cancelled | interrupted
"""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from shrinkd.backends import Group
from shrinkd.errors import (
    DaemonStopped,
    InternalError,
    Interrupted,
    ShrinkdError,
    StoreUnavailable,
)
from shrinkd.events import EventType, Publish
from shrinkd.groups import Actor, GroupLimits
from shrinkd.shrinks.run import Progress, ReclaimRun, Request
from shrinkd.storage import ACTIVE_STATES, ShrinkRepository, ShrinkRow, new_id, now, serialize_error

_STORE_RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


class State(StrEnum):
    QUEUED = "queued"
    """Written down, waiting for a worker."""
    RUNNING = "running"
    CANCELLING = "cancelling"
    """Asked to stop; ends between two passes."""
    SUCCEEDED = "succeeded"
    """Usage was below the target, and the limit is set if one was asked for."""
    FAILED = "failed"
    """What was reclaimed stays reclaimed. Unless the error is InternalError, no limit was
    changed."""
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """The daemon stopped or died in it."""

    @property
    def done(self) -> bool:
        return self not in ACTIVE_STATES


_REQUEST_FIELDS, _PROGRESS_FIELDS = (
    tuple(each.name for each in fields(kind)) for kind in (Request, Progress)
)  # asdict() would look for nested values to copy


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The state of a shrink with its times and error, as one value: a reader sees no half change.

    Times in microseconds since the epoch.
    """

    state: State = State.QUEUED
    started_at: int | None = None
    finished_at: int | None = None
    error: ShrinkdError | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """The submitter of a shrink: a policy by its name, or else a caller by its name, `owner`.

    `shrink_id` is the id that the shrink gets; None for a new one.
    """

    policy: str | None = None
    owner: str = ""
    shrink_id: str | None = None


@dataclass(frozen=True, slots=True)
class JobContext:
    """The parts of the daemon that a job works with."""

    repository: ShrinkRepository
    limits: GroupLimits
    publish: Publish
    boot_id: str


class Job:
    """One shrink.

    One worker thread calls execute(); all other methods may be called from any thread.
    """

    def __init__(self, context: JobContext, group: Group, request: Request, origin: Origin) -> None:
        self._context = context
        self._memcg = context.limits.memcg(group, request.swappiness)
        self.run = ReclaimRun(self._memcg, request)
        self.id = origin.shrink_id or new_id()
        self.group = group
        self.request = request
        self.policy = origin.policy
        self.owner = origin.owner
        self.status = JobStatus()
        self.has_set_limit = False
        """Whether the limit of the group was changed at the end of the shrink."""
        self.created_at = now()
        self.finished: Future[None] = Future()
        """Done once the shrink is over and its group is released."""
        # waiters that give up must not cancel it for the others
        self.finished.set_running_or_notify_cancel()
        self._transition = threading.Lock()
        """Held from the look at `status` until the store and the events have its successor."""

    @property
    def state(self) -> State:
        return self.status.state

    @property
    def is_stored_at_end(self) -> bool:
        """Tell whether the shrink gets its row when it is done, not before it starts.

        True for a policy's shrink that sets no limit: if the daemon dies in it, nothing has to be
        settled and no caller knows its id.
        """
        return self.policy is not None and self.request.set_max_bytes is None

    @property
    def progress(self) -> Progress:
        """The progress of its run."""
        return self.run.progress

    def row(self, status: JobStatus | None = None) -> ShrinkRow:
        """Return the shrink as a row of the store, with its own status or with a new one."""
        status = status or self.status
        return ShrinkRow(
            id=self.id,
            boot_id=self._context.boot_id,
            group_id=self.group.id,
            group_path=self.group.path,
            state=str(status.state),
            request={name: getattr(self.request, name) for name in _REQUEST_FIELDS},
            progress={name: getattr(self.progress, name) for name in _PROGRESS_FIELDS}
            | {"elapsed_seconds": self.run.elapsed_seconds},
            error=serialize_error(status.error),
            policy=self.policy,
            created_at=self.created_at,
            started_at=status.started_at,
            finished_at=status.finished_at,
        )

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record and publish the new shrink, then run the body, which hands it to a worker.

        When the body raises, the shrink is interrupted. A cancel from another thread waits until
        the shrink is recorded. StoreUnavailable.
        """
        if self.is_stored_at_end:
            yield
            return
        with self._transition:
            self._context.repository.record(self.row())
            self._publish_state()
        try:
            yield
        except BaseException:
            self._withdraw()
            raise

    def _withdraw(self) -> None:
        never = DaemonStopped(
            "The daemon could not begin with this shrink: nothing was changed. Try again."
        )
        with suppress(StoreUnavailable):  # a row that stays is settled by the next start
            self._move(self._ended(State.INTERRUPTED, never))

    def cancel(self) -> bool:
        """Cancel a queued shrink, or ask a running one to stop; a finished one stays as it is.

        Returns True where that has ended it: then no worker will. StoreUnavailable, and then a
        running one stops all the same.
        """
        with self._transition:
            if self.state is State.QUEUED:
                return self._compare_and_set(self._ended(State.CANCELLED))
            if not self.state.done:
                # before the row: a full disk must not keep a shrink from stopping
                self.kill(Interrupted("The shrink was cancelled."))
                self._compare_and_set(replace(self.status, state=State.CANCELLING))
            return False

    def kill(self, signal: ShrinkdError) -> None:
        """End the run between two passes, with this error; the first one counts."""
        self.run.kill(signal)

    def execute(self, stopping: threading.Event) -> None:
        """Begin, shrink and end, recording each state, unless the shrink is over already.

        `stopping` is set when the daemon stops: then the shrink is not begun, and no database is
        waited for.
        """
        running = replace(self.status, state=State.RUNNING, started_at=now())
        if not stopping.is_set() and self._persist(running, stopping):
            error = self._outcome()
            state = _final_state(error)
            ended = self._ended(state, None if state is State.CANCELLED else error)
            self._persist(ended, stopping)

    def _ended(self, state: State, error: ShrinkdError | None = None) -> JobStatus:
        return replace(self.status, state=state, finished_at=now(), error=error)

    def _outcome(self) -> ShrinkdError | None:
        """Shrink, and return what that raised."""
        try:
            self.run.execute(self._set_limit)
        except ShrinkdError as raised:
            return raised
        except Exception:  # a bug ends this job as failed; its worker and the other jobs go on
            log.exception("shrink %s of %a failed", self.id, self.group.path)
            return InternalError(
                "The shrink met a fault of this daemon, which its log describes; GET its limits to "
                "see how they are."
            )
        return None

    def _set_limit(self, limit: int) -> None:
        limits, actor = self._context.limits, Actor(self.policy, self.id)
        limits.resize_limit(self._memcg, limit, self.run, actor)
        self.has_set_limit = True

    def _persist(self, status: JobStatus, stopping: threading.Event) -> bool:
        """Move to a status, trying again until that is recorded or the daemon stops.

        A full or locked database delays the news, it does not change them.
        """
        while True:
            try:
                return self._move(status)
            except StoreUnavailable as unavailable:
                log.warning(
                    "shrink %s is %s, which could not be written down: %s",
                    self.id,
                    status.state,
                    unavailable,
                )
                if stopping.wait(_STORE_RETRY_SECONDS):
                    return False

    def _move(self, status: JobStatus) -> bool:
        with self._transition:
            return self._compare_and_set(status)

    def _compare_and_set(self, status: JobStatus) -> bool:
        """Move to a status if the row is in the state that this job is in, with the lock held.

        The row decides and the job follows it.
        """
        moved = not self.state.done and (
            self.is_stored_at_end
            or self._context.repository.move(self.id, str(self.state), self.row(status))
        )
        if moved:
            self.status = status
            self._publish_state()
        return moved

    def _publish_state(self) -> None:
        """Publish the state, with the lock held: so the events have the order of the states."""
        if self.state.done or not self.is_stored_at_end:
            error = self.status.error
            self._context.publish(
                EventType.SHRINK_STATE,
                self.group,
                shrink_id=self.id,
                state=self.state,
                policy=self.policy,
                errno=error.errname if error else None,
                reclaimed_bytes=self.progress.reclaimed_bytes,
            )


def _final_state(error: ShrinkdError | None) -> State:
    if error is None:
        return State.SUCCEEDED
    if isinstance(error, DaemonStopped):
        return State.INTERRUPTED
    return State.CANCELLED if isinstance(error, Interrupted) else State.FAILED
