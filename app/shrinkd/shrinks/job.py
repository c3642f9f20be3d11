"""One shrink.

What was asked for, how far it is, and where it stands; to memcontrol it is the `current` that runs
the routine.

Its signal_pending() is the cancel flag and the deadline, its allowance() the rate limit, its
cond_resched() the progress report. Time between two moments is monotonic; the wall clock, which may
jump, only labels them.
"""

import math
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from shrinkd import memcontrol
from shrinkd.errors import ShrinkdError, TimedOut
from shrinkd.sizes import page_floor
from shrinkd.storage import ACTIVE_STATES, ShrinkRow, new_id, now, serialize_error

_SMALLEST_ALLOWANCE = (
    128 << 10
)  # one SWAP_CLUSTER_MAX batch of 32 pages: no controller reclaims less
_PRESSURE_LOOK_SECONDS = 0.5  # PSI averages move every 2 s


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
    """What a client or a policy wants.

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
    """How far a shrink is. Sizes in bytes; target_bytes is what usage has to be below."""

    start_bytes: int
    usage_bytes: int
    target_bytes: int
    reclaimed_bytes: int = 0
    passes: int = 0
    retries_left: int = memcontrol.MEM_CGROUP_RECLAIM_RETRIES


_REQUESTED, _TOLD = (
    tuple(each.name for each in fields(kind)) for kind in (Request, Progress)
)  # asdict() looks for what to copy


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Where a shrink stands.

    One value, so that whoever looks never sees half of a move. Times as the store keeps them.
    """

    state: State = State.QUEUED
    started_at: int | None = None
    finished_at: int | None = None
    error: ShrinkdError | None = None


class Job:
    """One shrink.

    Its worker thread alone moves `progress`; `kill` comes from any thread, and so does a look at
    row().
    """

    def __init__(
        self,
        memcg: memcontrol.Memcg,
        request: Request,
        boot_id: str,
        policy: str | None = None,
        shrink_id: str | None = None,
    ) -> None:
        usage = memcg.usage()
        target = (
            request.target_bytes
            if request.target_bytes is not None
            else max(usage - (request.reclaim_bytes or 0) + 1, 0)
        )
        self.id = shrink_id or new_id()
        self.boot_id = boot_id
        self.memcg = memcg
        self.request = request
        self.policy = policy
        """Whose it is; None for one that a caller asked for."""
        self.owner = ""
        """The name of the caller who asked for it."""
        self.lock = threading.Lock()
        """Held by who moves the shrink, from the look at `standing` until the store has its
        successor."""
        self.progress = Progress(start_bytes=usage, usage_bytes=usage, target_bytes=target)
        self.standing = JobStatus()
        self.created_at = now()
        self.finished: Future[None] = Future()
        # waiters that give up must not cancel it for the others
        self.finished.set_running_or_notify_cancel()
        self._signal: ShrinkdError | None = None
        self._signalled = threading.Event()
        self._began = self._ended = self._deadline = math.inf
        self._slept = 0.0

    @property
    def state(self) -> State:
        return self.standing.state

    @property
    def leaves_nothing(self) -> bool:
        """No death in the middle of it needs an answer.

        Nobody waits for it by its id, and it moves no limit.
        """
        return self.policy is not None and self.request.set_max_bytes is None

    @property
    def reclaim_seconds(self) -> float:
        """How long it ran, less what it waited for its rate and for the pressure."""
        return max(self._elapsed() - self._slept, 0.0)

    def run(self) -> None:
        """Shrink, then set the limit if one is wanted.

        Patch 4/4 or 3/4. Raises what the routine raises.
        """
        self._began = time.monotonic()
        self._deadline = self._began + self.request.timeout_seconds
        try:
            usage = self.memcg.usage()  # it may have waited long for its worker
            self.progress = replace(self.progress, start_bytes=usage, usage_bytes=usage)
            self._hold_while_pressed()
            memcontrol.shrink_usage_to(self.memcg, self.progress.target_bytes, self)
            if self.request.set_max_bytes is not None:
                memcontrol.resize_limit(self.memcg, page_floor(self.request.set_max_bytes), self)
        finally:
            self._ended = time.monotonic()

    def kill(self, signal: ShrinkdError) -> None:
        """Send the signal that ends the shrink between two passes; the first one counts."""
        self._signal = self._signal or signal
        self._signalled.set()

    # -- what memcontrol asks of its `current` ------------------------------------------------------------------

    def signal_pending(self) -> ShrinkdError | None:
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
        if self.request.max_bytes_per_second is None:
            return excess_bytes
        return min(excess_bytes, max(self.request.max_bytes_per_second // 20, _SMALLEST_ALLOWANCE))

    def cond_resched(self, usage_bytes: int, progress: int, retry_count: int) -> None:
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
            pressure = self.memcg.backend.stat(self.memcg.group).pressure
            if pressure is None or pressure.some.avg10_percent <= limit:
                return
            self._sleep(_PRESSURE_LOOK_SECONDS)

    def _sleep(self, seconds: float) -> None:
        began = time.monotonic()
        self._signalled.wait(min(seconds, self._deadline - began)) if seconds > 0 else None
        self._slept += time.monotonic() - began

    def _elapsed(self) -> float:
        return max(min(time.monotonic(), self._ended) - self._began, 0.0)

    def row(self, standing: JobStatus | None = None) -> ShrinkRow:
        """The job as the store keeps it, or is to keep it once it has moved."""
        standing = standing or self.standing
        return ShrinkRow(
            id=self.id,
            boot_id=self.boot_id,
            group_id=self.memcg.group.id,
            group_path=self.memcg.group.path,
            state=str(standing.state),
            request={name: getattr(self.request, name) for name in _REQUESTED},
            progress={name: getattr(self.progress, name) for name in _TOLD}
            | {"elapsed_seconds": self._elapsed()},
            error=serialize_error(standing.error),
            policy=self.policy,
            created_at=self.created_at,
            started_at=standing.started_at,
            finished_at=standing.finished_at,
        )
