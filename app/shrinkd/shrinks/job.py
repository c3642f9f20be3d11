"""One shrink: its request, its progress and its states, and the run through memcontrol.

To memcontrol a job is the `current` that runs the routine: signal_pending() is the cancel flag and
the deadline, allowance() the rate limit, cond_resched() the progress report. Durations are
monotonic; the wall clock, which may jump, only labels them.

States change by compare-and-set in the database, so of two threads that end a shrink one succeeds:

    queued ──► running ──► succeeded | failed | cancelled | interrupted
      │           └──► cancelling ──► the same (succeeded where the work was done before the cancel)
      └──► cancelled | interrupted
"""

import logging
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from shrinkd import memcontrol
from shrinkd.backends import Group
from shrinkd.errors import (
    DaemonStopped,
    InternalError,
    Interrupted,
    ShrinkdError,
    StoreUnavailable,
    TimedOut,
)
from shrinkd.events import EventType, Publish
from shrinkd.groups import Actor, GroupLimits
from shrinkd.sizes import page_floor
from shrinkd.storage import ACTIVE_STATES, Row, Store, describe, new_id, now

_SMALLEST_ALLOWANCE = (
    128 << 10
)  # one SWAP_CLUSTER_MAX batch of 32 pages: no controller reclaims less
_PRESSURE_LOOK_SECONDS = 0.5  # PSI averages move every 2 s
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
    """What was reclaimed stays reclaimed; no limit was changed."""
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """The daemon stopped or died in it."""

    @property
    def done(self) -> bool:
        return self not in ACTIVE_STATES


@dataclass(frozen=True, slots=True)
class Request:
    """The parameters of a shrink, from a caller or a policy.

    Sizes in bytes. Exactly one of target_bytes and reclaim_bytes is given.
    """

    timeout_seconds: float
    target_bytes: int | None = None
    reclaim_bytes: int | None = None
    set_max_bytes: int | None = None
    max_bytes_per_second: int | None = None
    swappiness: int | None = None
    pressure_pause_percent: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a shrink. Sizes in bytes; usage has to get below target_bytes."""

    start_bytes: int
    usage_bytes: int
    target_bytes: int
    reclaimed_bytes: int = 0
    passes: int = 0
    retries_left: int = memcontrol.MEM_CGROUP_RECLAIM_RETRIES


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

    store: Store
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
        usage = self._memcg.usage()
        target = (
            request.target_bytes
            if request.target_bytes is not None
            else max(usage - (request.reclaim_bytes or 0) + 1, 0)
        )
        self.id = origin.shrink_id or new_id()
        self.group = group
        self.request = request
        self.policy = origin.policy
        self.owner = origin.owner
        self.progress = Progress(start_bytes=usage, usage_bytes=usage, target_bytes=target)
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
        self._signal: ShrinkdError | None = None
        self._signalled = threading.Event()
        self._began = self._ended = self._deadline = math.inf
        self._slept = 0.0

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
    def reclaim_seconds(self) -> float:
        """How long it has run, without its pauses for the rate and for the pressure."""
        return max(self._elapsed() - self._slept, 0.0)

    def row(self, status: JobStatus | None = None) -> Row:
        """Return the shrink as a row of the store, with its own status or with a new one."""
        status = status or self.status
        return {
            "id": self.id,
            "boot_id": self._context.boot_id,
            "group_id": self.group.id,
            "group_path": self.group.path,
            "state": str(status.state),
            "request": {name: getattr(self.request, name) for name in _REQUEST_FIELDS},
            "progress": {name: getattr(self.progress, name) for name in _PROGRESS_FIELDS}
            | {"elapsed_seconds": self._elapsed()},
            "error": describe(status.error),
            "policy": self.policy,
            "created_at": self.created_at,
            "started_at": status.started_at,
            "finished_at": status.finished_at,
        }

    # -- transitions --------------------------------------------------------------------------------

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
            self._context.store.add_shrink(self.row())
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
            self._move(state=State.INTERRUPTED, finished_at=now(), error=never)

    def cancel(self) -> bool:
        """Cancel a queued shrink, or ask a running one to stop; a finished one stays as it is.

        Returns True where that has ended it: then no worker will. StoreUnavailable, and then a
        running one stops all the same.
        """
        with self._transition:
            if self.state is State.QUEUED:
                return self._compare_and_set(state=State.CANCELLED, finished_at=now())
            if not self.state.done:
                # before the row: a full disk must not keep a shrink from stopping
                self.kill(Interrupted("The shrink was cancelled."))
                self._compare_and_set(state=State.CANCELLING)
            return False

    def kill(self, signal: ShrinkdError) -> None:
        """Send the signal that ends the shrink between two passes; the first one counts."""
        self._signal = self._signal or signal
        self._signalled.set()

    def execute(self, stopping: threading.Event) -> None:
        """Begin, shrink and end, recording each state, unless the shrink is over already.

        `stopping` is set when the daemon stops: then the shrink is not begun, and no database is
        waited for.
        """
        if not stopping.is_set() and self._persist(stopping, state=State.RUNNING, started_at=now()):
            error = self._outcome()
            state = _final_state(error)
            error = None if state is State.CANCELLED else error
            self._persist(stopping, state=state, finished_at=now(), error=error)

    def _outcome(self) -> ShrinkdError | None:
        """Shrink, and return what that raised."""
        try:
            self._run()
        except ShrinkdError as raised:
            return raised
        except Exception:  # a bug ends this job as failed; its worker and the other jobs go on
            log.exception("shrink %s of %a failed", self.id, self.group.path)
            return InternalError(
                "The shrink met a fault of this daemon, which its log describes; GET its limits to "
                "see how they are."
            )
        return None

    def _persist(self, stopping: threading.Event, **changes: Any) -> bool:  # fields of JobStatus
        """Move to a state, trying again until that is recorded or the daemon stops.

        A full or locked database delays the news, it does not change them.
        """
        while True:
            try:
                return self._move(**changes)
            except StoreUnavailable as unavailable:
                log.warning(
                    "shrink %s is %s, which could not be written down: %s",
                    self.id,
                    changes["state"],
                    unavailable,
                )
                if stopping.wait(_STORE_RETRY_SECONDS):
                    return False

    def _move(self, **changes: Any) -> bool:  # fields of JobStatus
        with self._transition:
            return self._compare_and_set(**changes)

    def _compare_and_set(self, **changes: Any) -> bool:  # fields of JobStatus
        """Move to a state if the row is in the one that this job is in, with the lock held.

        The row decides and the job follows it.
        """
        status = replace(self.status, **changes)
        moved = not self.state.done and (
            self.is_stored_at_end
            or self._context.store.move_shrink(self.id, str(self.state), self.row(status))
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

    # -- the run ------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Shrink, then set the limit if one is wanted: patch 4/4 or 3/4.

        Raises what the routine raises.
        """
        self._began = time.monotonic()
        self._deadline = self._began + self.request.timeout_seconds
        try:
            usage = self._memcg.usage()  # it may have waited long for its worker
            self.progress = replace(self.progress, start_bytes=usage, usage_bytes=usage)
            self._hold_while_pressed()
            memcontrol.shrink_usage_to(self._memcg, self.progress.target_bytes, self)
            if self.request.set_max_bytes is not None:
                self._resize(page_floor(self.request.set_max_bytes))
        finally:
            self._ended = time.monotonic()

    def _resize(self, limit: int) -> None:
        self._context.limits.resize_limit(self._memcg, limit, self, Actor(self.policy, self.id))
        self.has_set_limit = True

    def signal_pending(self) -> ShrinkdError | None:
        """See memcontrol.Current."""
        if self._signal is None and time.monotonic() >= self._deadline:
            seconds, usage = self.request.timeout_seconds, self.progress.usage_bytes
            return TimedOut(
                f"The {seconds:g} seconds are over with usage at {usage} bytes; what was reclaimed "
                "stays so, and no limit was changed.",
                timeout_seconds=seconds,
                usage_bytes=usage,
                target_bytes=self.progress.target_bytes,
            )
        return self._signal

    def allowance(self, excess_bytes: int) -> int:
        """See memcontrol.Current."""
        if self.request.max_bytes_per_second is None:
            return excess_bytes
        return min(excess_bytes, max(self.request.max_bytes_per_second // 20, _SMALLEST_ALLOWANCE))

    def cond_resched(self, usage_bytes: int, progress: int, retry_count: int) -> None:
        """See memcontrol.Current."""
        before, reclaimed = self.progress, self.progress.reclaimed_bytes + progress
        self.progress = Progress(
            before.start_bytes,
            usage_bytes,
            before.target_bytes,
            reclaimed,
            before.passes + 1,
            retry_count,
        )
        if self.request.max_bytes_per_second is not None:
            self._sleep(reclaimed / self.request.max_bytes_per_second - self._elapsed())
        self._hold_while_pressed()

    def _hold_while_pressed(self) -> None:
        limit = self.request.pressure_pause_percent
        while (
            limit is not None and not self._signalled.is_set() and time.monotonic() < self._deadline
        ):
            pressure = self._memcg.backend.stat(self.group).pressure
            if pressure is None or pressure.some.avg10_percent <= limit:
                return
            self._sleep(_PRESSURE_LOOK_SECONDS)

    def _sleep(self, seconds: float) -> None:
        began = time.monotonic()
        self._signalled.wait(min(seconds, self._deadline - began)) if seconds > 0 else None
        self._slept += time.monotonic() - began

    def _elapsed(self) -> float:
        return max(min(time.monotonic(), self._ended) - self._began, 0.0)


def _final_state(error: ShrinkdError | None) -> State:
    if error is None:
        return State.SUCCEEDED
    if isinstance(error, DaemonStopped):
        return State.INTERRUPTED
    return State.CANCELLED if isinstance(error, Interrupted) else State.FAILED
