"""Lowering a maximum where the kernel never refuses one: it stores the value first, and makes it true by killing.

memory_max_write() of cgroup v2 stores the maximum, then loops: done if usage fits, done if a signal is pending, else reclaim;
after 16 fruitless rounds it kills. v1 refused with -EBUSY instead, and so do we, in three steps that hang on no version:

- Usage is compared first, so the kernel has something to do only where a charge came between our reading and its write.
- Within `slack` of usage that would be one charge, for the kernel charges 64 pages at a time to each CPU. A group that
  stands still is no risk there; so it is looked at for some milliseconds, and one that grows is refused untouched.
- Then the loop is left alone: the file is O_NONBLOCK, by which Linux 6.16 stores the value and returns, and a timer signals
  the writer, by which an older one mostly leaves the loop before its 16th round. In both cases the value stands, so usage
  is read again, and what is above the new maximum gets the old one back.

What is left is what a limit is for: a process that charges beyond it in those microseconds is reclaimed from, or killed,
as it would have been had the write come first.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

_LOOKS, _LOOK_SECONDS = 5, 2e-3
"""What grows too slowly to be seen in these, less than a charge of 256 KiB in 10 ms, hardly meets the 20 us of a write."""


@dataclass(frozen=True, slots=True)
class Maximum:
    """The maximum of one group: `read` and `store` it, beside the `usage` it is for. A store reclaims a few pages at most."""

    usage: Callable[[], int]
    read: Callable[[], int]
    store: Callable[[int], None]
    slack: int
    sleep: Callable[[float], None] = time.sleep

    def commit(self, value: int) -> int | None:
        """Make `value` the maximum if usage is below it. Answers None, or the usage in its way, and then nothing has changed.

        Strictly below at first, as the seed compares; at the end usage may have come up to the value, which is then felt as a limit.
        """
        used, before = self.usage(), self.read()
        if used >= value:
            return used
        if used + self.slack > value < before and (grown := self._growth(used)):
            return grown
        self.store(value)
        if value >= before or (used := self.usage()) <= value:
            return None
        if self.read() == value:  # another writer's value is another writer's to keep: the kernel has no compare-and-set
            self.store(before)
        return used

    def _growth(self, used: int) -> int | None:
        """Look for a while, and answer a usage that is above the first one."""
        for _ in range(_LOOKS):
            self.sleep(_LOOK_SECONDS)
            if (now := self.usage()) > used:
                return now
        return None
