"""Lower memory.max without killing, on a kernel that stores the value first and kills to meet it.

memory_max_write() of cgroup v2 stores the maximum, then loops: done if usage fits, done if a signal
is pending, else reclaim; after 16 fruitless rounds it kills. v1 refused with -EBUSY instead, and so
does this module, in three steps that depend on no kernel version:

- Usage is compared first, so the kernel has work only if a charge comes between our reading
  and its write.
- From the write on, the new maximum answers every charge. So a group that is near the maximum is
  sampled for some milliseconds, and one that grows needs room for what it would charge in
  100 ms, or is refused untouched: it would reach that maximum that soon anyway, and the write
  may be delayed that long on a busy host.
- Then the loop is prevented: the file is O_NONBLOCK, with which Linux 6.16 stores the value and
  returns, and a timer signals the writer, on which older kernels mostly leave the loop before
  its 16th round. In both cases the value is stored, so usage is read again, and a maximum below
  usage is replaced by the old one.

The remaining risk is a group that stood still while it was sampled, and begins to grow in the
microseconds of the write.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

_SAMPLE_SECONDS = 2e-3
_SAMPLES = 50
"""Together 100 ms: a process that fills huge pages one after the other is charged no more often
than that on a slow machine."""
_MIN_SAMPLES, _RATE_SAMPLES = 2, 10
"""Samples that suffice for a group that is not close and does not grow; samples needed to measure
growth."""
_FAR_SLACKS = 128
"""Distances above this many times `slack` need no sampling: more than is charged in 100 ms."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Report the usage that prevents a maximum, and how far below it usage has to be (bytes)."""

    usage: int
    room: int = 1


@dataclass(frozen=True, slots=True)
class Maximum:
    """Lower the maximum of one group through three functions of its backend (bytes).

    `usage` and `read` return usage and maximum, `store` writes a maximum and reclaims a few pages
    at most. `slack` is how much may be charged at once, between a reading and the write.
    """

    usage: Callable[[], int]
    read: Callable[[], int]
    store: Callable[[int], None]
    slack: int
    sleep: Callable[[float], None] = time.sleep

    def commit(self, value: int) -> Refusal | None:
        """Set the maximum to `value` if usage is below it, else change nothing: returns a Refusal.

        Usage has to be strictly below at first, as the seed compares; during the write usage may
        rise to the value, which then acts as a limit.
        """
        # Usage is read last: a charge between it and the write goes unseen.
        before, used = (
            self.read(),
            self.usage(),
        )
        if used >= value:
            return Refusal(used)
        if (
            value < before
            and value - used < _FAR_SLACKS * self.slack
            and (refusal := self._growth(value, used))
        ):
            return refusal
        self.store(value)
        if value >= before or (used := self.usage()) <= value:
            return None
        # The kernel has no compare-and-set: a value that another writer stored meanwhile stays.
        if self.read() == value:
            self.store(before)
        return Refusal(used)

    def _growth(self, value: int, used: int) -> Refusal | None:
        """Sample usage, and refuse if its growth would reach the maximum within 100 ms."""
        now, samples = used, 0
        while samples < _SAMPLES and not (
            now > used and (samples >= _RATE_SAMPLES or now + self.slack > value)
        ):
            if samples == _MIN_SAMPLES and now == used and used + self.slack <= value:
                return None
            self.sleep(_SAMPLE_SECONDS)
            now, samples = max(now, self.usage()), samples + 1
        room = self.slack + (now - used) * _SAMPLES // max(samples, _RATE_SAMPLES)
        return Refusal(now, room) if now > used and now + room > value else None
