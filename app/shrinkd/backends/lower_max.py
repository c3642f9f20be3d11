"""Lowering a maximum where the kernel never refuses one.

It stores the value first, and makes it true by killing.

memory_max_write() of cgroup v2 stores the maximum, then loops: done if usage fits, done if a signal
is pending, else reclaim; after 16 fruitless rounds it kills. v1 refused with -EBUSY instead, and so
do we, in three steps that hang on no version:

- Usage is compared first, so the kernel has something to do only where a charge came between our reading and its write.
- Between the two the kernel's answer to a charge is the new maximum's. So a group that is near is looked at for some
  milliseconds, and one that grows needs room for what it would take in 100 ms, or is refused untouched: it would meet that
  maximum so soon anyway, and our write may be held up for as long on a host that is busy.
- Then the loop is left alone: the file is O_NONBLOCK, by which Linux 6.16 stores the value and returns, and a timer signals
  the writer, by which an older one mostly leaves the loop before its 16th round. In both cases the value stands, so usage
  is read again, and what is above the new maximum gets the old one back.

What is left is a group that stood still while it was looked at, and begins to grow in the
microseconds of the write.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

_LOOK_SECONDS = 2e-3
_LOOKS = 50
"""In all, 100 ms: a process that fills one huge page after the other is charged no more often than
that on a slow machine."""
_FIRST_LOOKS, _RATE_LOOKS = 2, 10
"""Enough for a group that is not close, if nothing grows in them; and to tell how fast it grows."""
_FAR = 128
"""How many times `slack` is too far for a look: more than is charged in 100 ms."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The usage in the way of a maximum, and how far below it usage would have to be."""

    usage: int
    room: int = 1


@dataclass(frozen=True, slots=True)
class Maximum:
    """The maximum of one group.

    `read` and `store` it, beside the `usage` it is for. A store reclaims a few pages at most.

    `slack` is what may be charged at once, between our reading and the write.
    """

    usage: Callable[[], int]
    read: Callable[[], int]
    store: Callable[[int], None]
    slack: int
    sleep: Callable[[float], None] = time.sleep

    def commit(self, value: int) -> Refusal | None:
        """Make `value` the maximum if usage is below it.

        Answers None, or what is in its way, and then nothing has changed.

        Strictly below at first, as the seed compares; at the end usage may have come up to the
        value, which is then felt as a limit.
        """
        before, used = (
            self.read(),
            self.usage(),
        )  # usage last: what comes behind it and before the write goes unseen
        if used >= value:
            return Refusal(used)
        if (
            value < before
            and value - used < _FAR * self.slack
            and (refusal := self._growth(value, used))
        ):
            return refusal
        self.store(value)
        if value >= before or (used := self.usage()) <= value:
            return None
        if (
            self.read() == value
        ):  # another writer's value is another writer's to keep: the kernel has no compare-and-set
            self.store(before)
        return Refusal(used)

    def _growth(self, value: int, used: int) -> Refusal | None:
        """Look for a while, and refuse what grows and would be there in 100 ms."""
        now, looks = used, 0
        while looks < _LOOKS and not (
            now > used and (looks >= _RATE_LOOKS or now + self.slack > value)
        ):
            if looks == _FIRST_LOOKS and now == used and used + self.slack <= value:
                return None
            self.sleep(_LOOK_SECONDS)
            now, looks = max(now, self.usage()), looks + 1
        room = self.slack + (now - used) * _LOOKS // max(looks, _RATE_LOOKS)
        return Refusal(now, room) if now > used and now + room > value else None
