"""Control the time of a simulated machine: stop it, set its speed, or advance it."""

import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from shrinkd.backends.simulator.machine.clock import Clock
from shrinkd.backends.simulator.machine.machine import Machine

_SLICE_SECONDS = 10.0
_TURN_SECONDS, _REST_SECONDS = 0.005, 0.001


class TimeControl:
    """Control the clock of a machine, which advances whenever it is locked. Thread-safe."""

    def __init__(
        self, clock: Clock, machine: Callable[[], AbstractContextManager[Machine]]
    ) -> None:
        self._clock, self._machine = clock, machine
        self._switching = threading.Lock()
        self._stop = threading.Event()
        self._runner: threading.Thread | None = None

    @property
    def speed(self) -> float:
        """Simulated seconds per real second; 0 is stopped, infinity as fast as possible."""
        return math.inf if self._runner else self._clock.speed

    def now(self) -> float:
        """Return the simulated seconds since the start."""
        with self._machine() as machine:
            return machine.now_us / 1e6

    def run(self, speed: float) -> None:
        """Change the speed."""
        with self._switching:
            self._end_run()
            with self._machine():
                self._clock.run(0 if speed == math.inf else speed)
            if speed == math.inf:
                self._stop.clear()
                self._runner = threading.Thread(
                    target=self.advance,
                    args=(math.inf, self._stop.is_set),
                    name="hurried time",
                    daemon=True,
                )
                self._runner.start()

    def advance(self, seconds: float, must_stop: Callable[[], bool] = lambda: False) -> None:
        """Advance by so many seconds at once, or until must_stop(), in slices.

        Pauses between slices let other threads use the machine.
        """
        rest_at = time.monotonic() + _TURN_SECONDS
        while seconds > 0 and not must_stop():
            part = min(seconds, _SLICE_SECONDS)
            with self._machine():
                self._clock.advance(part)
            with self._machine():
                seconds -= part
            if seconds > 0 and time.monotonic() >= rest_at:
                # A thread that releases a lock and acquires it at once starves the others.
                time.sleep(_REST_SECONDS)
                rest_at = time.monotonic() + _TURN_SECONDS

    def close(self) -> None:
        with self._switching:
            self._end_run()

    def _end_run(self) -> None:
        if self._runner:
            self._stop.set()
            self._runner.join()
            self._runner = None
