"""Compute pressure stall information: totals, and averages over 10, 60 and 300 seconds."""

import math
from dataclasses import dataclass, field

PSI_PERIOD_US = 2_000_000  # PSI_FREQ of kernel/sched/psi.c: 2 s
PSI_WINDOWS = (10, 60, 300)
_DECAYS = tuple(math.exp(-PSI_PERIOD_US / 1_000_000 / window) for window in PSI_WINDOWS)


@dataclass(slots=True)
class Stalls:
    """Hold one line of memory.pressure; averages are updated once per period, on reading."""

    total_us: int = 0
    averages: list[float] = field(default_factory=lambda: [0.0] * len(PSI_WINDOWS))
    _settled_us: int = 0
    _settled_total_us: int = 0

    def add(self, microseconds: int, now_us: int, over_us: int = 0) -> None:
        """Count a stall that was spread evenly over the last `over_us`."""
        self.settle(now_us - over_us)
        self.total_us += microseconds
        if over_us > PSI_PERIOD_US:
            self._move((now_us - self._settled_us) // PSI_PERIOD_US, 0)

    def settle(self, now_us: int) -> None:
        """Update the averages: one period with the recorded stalls, then quiet ones."""
        if periods := (now_us - self._settled_us) // PSI_PERIOD_US:
            self._move(1, periods - 1)

    def _move(self, busy: int, quiet: int) -> None:
        percent = min(
            100 * (self.total_us - self._settled_total_us) / (busy * PSI_PERIOD_US), 100.0
        )
        for i, decay in enumerate(_DECAYS):
            kept = decay**busy
            self.averages[i] = (self.averages[i] * kept + percent * (1 - kept)) * decay**quiet
        self._settled_us += (busy + quiet) * PSI_PERIOD_US
        self._settled_total_us = self.total_us
