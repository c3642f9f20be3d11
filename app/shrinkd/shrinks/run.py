"""The run of a shrink through memcontrol.

To memcontrol a run is the `current` that runs the routine: signal_pending() is the cancel flag and
the deadline, allowance() the rate limit, cond_resched() the progress report. Durations are
monotonic, since the wall clock may jump.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from shrinkd import memcontrol
from shrinkd.errors import ShrinkdError, TimedOut
from shrinkd.sizes import page_floor

_SMALLEST_ALLOWANCE = (
    128 << 10
)  # one SWAP_CLUSTER_MAX batch of 32 pages: no controller reclaims less
_PRESSURE_LOOK_SECONDS = 0.5  # PSI averages move every 2 s


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


class ReclaimRun:
    """One run of a shrink, a memcontrol.Current.

    One thread calls execute(); kill() and the properties may be used from any thread.
    """

    def __init__(self, memcg: memcontrol.Memcg, request: Request) -> None:
        self._memcg, self._request = memcg, request
        usage = memcg.usage()
        target = (
            request.target_bytes
            if request.target_bytes is not None
            else max(usage - (request.reclaim_bytes or 0) + 1, 0)
        )
        self.progress = Progress(start_bytes=usage, usage_bytes=usage, target_bytes=target)
        self._signal: ShrinkdError | None = None
        self._signalled = threading.Event()
        self._began = self._ended = self._deadline = math.inf
        self._slept = 0.0

    def execute(self, set_limit: Callable[[int], None]) -> None:
        """Shrink, then set the limit if the request wants one: patch 4/4 or 3/4.

        `set_limit` is called with that limit in bytes, whole pages. Raises what the routine raises.
        """
        self._began = time.monotonic()
        self._deadline = self._began + self._request.timeout_seconds
        try:
            usage = self._memcg.usage()  # it may have waited long for its worker
            self.progress = replace(self.progress, start_bytes=usage, usage_bytes=usage)
            self._hold_while_pressed()
            memcontrol.shrink_usage_to(self._memcg, self.progress.target_bytes, self)
            if self._request.set_max_bytes is not None:
                set_limit(page_floor(self._request.set_max_bytes))
        finally:
            self._ended = time.monotonic()

    def kill(self, signal: ShrinkdError) -> None:
        """Send the signal that ends the run between two passes; the first one counts."""
        self._signal = self._signal or signal
        self._signalled.set()

    @property
    def elapsed_seconds(self) -> float:
        """How long it has run; 0 before it began."""
        return max(min(time.monotonic(), self._ended) - self._began, 0.0)

    @property
    def reclaim_seconds(self) -> float:
        """How long it has run, without its pauses for the rate and for the pressure."""
        return max(self.elapsed_seconds - self._slept, 0.0)

    def signal_pending(self) -> ShrinkdError | None:
        """Return the signal that kill() has sent, or TimedOut past the deadline."""
        if self._signal is None and time.monotonic() >= self._deadline:
            seconds, usage = self._request.timeout_seconds, self.progress.usage_bytes
            return TimedOut(
                f"The {seconds:g} seconds are over with usage at {usage} bytes; what was reclaimed "
                "stays so, and no limit was changed.",
                timeout_seconds=seconds,
                usage_bytes=usage,
                target_bytes=self.progress.target_bytes,
            )
        return self._signal

    def allowance(self, excess_bytes: int) -> int:
        """Return how much of the excess the next pass may free: at a rate, that of 50 ms."""
        rate = self._request.max_bytes_per_second
        if rate is None:
            return excess_bytes
        return min(excess_bytes, max(rate // 20, _SMALLEST_ALLOWANCE))

    def cond_resched(self, usage_bytes: int, progress: int, retry_count: int) -> None:
        """Note the progress of a pass, then pause for the rate and for the pressure."""
        before, reclaimed = self.progress, self.progress.reclaimed_bytes + progress
        self.progress = Progress(
            before.start_bytes,
            usage_bytes,
            before.target_bytes,
            reclaimed,
            before.passes + 1,
            retry_count,
        )
        if self._request.max_bytes_per_second is not None:
            self._sleep(reclaimed / self._request.max_bytes_per_second - self.elapsed_seconds)
        self._hold_while_pressed()

    def _hold_while_pressed(self) -> None:
        limit = self._request.pressure_pause_percent
        while (
            limit is not None and not self._signalled.is_set() and time.monotonic() < self._deadline
        ):
            pressure = self._memcg.backend.stat(self._memcg.group).pressure
            if pressure is None or pressure.some.avg10_percent <= limit:
                return
            self._sleep(_PRESSURE_LOOK_SECONDS)

    def _sleep(self, seconds: float) -> None:
        began = time.monotonic()
        self._signalled.wait(min(seconds, self._deadline - began)) if seconds > 0 else None
        self._slept += time.monotonic() - began
