"""Define the triggers of a watch: usage, events and stalls."""

from dataclasses import dataclass
from typing import Literal

from shrinkd.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class UsageCrosses:
    """Fire when usage rises to a value or falls below it.

    It fires late: usage may be about 1 MiB beyond (v1 checks every 128 pages a CPU).
    """

    usage_bytes: int


@dataclass(frozen=True, slots=True)
class EventsMove:
    """Fire when a counter of MemStat.events changes.

    v1 wakes for an OOM, before its kill is counted, and for the group's own reclaim, in steps of 2
    MiB scanned; a charge that failed with less reclaim than that is reported with the next one.
    """


@dataclass(frozen=True, slots=True)
class Stalled:
    """Fire when tasks of the group stall for memory long enough within a window of at most 10 s.

    `some` means at least one task, `full` means all of them.
    """

    line: Literal["some", "full"]
    stall_microseconds: int
    window_microseconds: int

    def __post_init__(self) -> None:
        if (
            not 0 < self.stall_microseconds <= self.window_microseconds <= 10_000_000
        ):  # WINDOW_MAX_US, kernel/sched/psi.c
            raise InvalidRequest(
                "A stall is longer than nothing and no longer than its window, which is at most 10 "
                "s."
            )


Trigger = UsageCrosses | EventsMove | Stalled
