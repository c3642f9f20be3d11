"""Size the requests to memory.reclaim so that one write takes a chosen time.

memory.reclaim takes an amount, and frees it to within 64 pages or one large folio. But a write pins
its group: rmdir waits for it with cgroup_mutex held, and every mkdir with it; and a kernel before
6.9 checks for signals only after the whole amount. So the amount is what the group's last writes
freed in that time. This module is tested as arithmetic.
"""

from shrinkd.sizes import PAGE_BYTES

_TARGET_SECONDS = 25e-3
_INITIAL_BYTES = 4 << 20
_MIN_BYTES = 1 << 20
"""Smaller requests are mostly the overhead of the system call."""
_MAX_BYTES = 1 << 30
"""25 ms of the fastest case, 2 MiB folios: for larger requests the kernel would only check for
signals less often (remaining/4)."""


class ReclaimSizer:
    """Learn the reclaim speed of one group from its writes.

    A race between two writes makes an estimate poorer, and has no other effect.
    """

    __slots__ = ("_size",)

    def __init__(self) -> None:
        self._size = _INITIAL_BYTES

    def request_bytes(self, goal_bytes: int) -> int:
        """Return the whole pages to request, in bytes.

        Never more than the goal's, and at least one, since the kernel treats 0 as done.
        """
        return max(-(-min(goal_bytes, self._size) // PAGE_BYTES), 1) * PAGE_BYTES

    def learn(self, asked_bytes: int, freed_bytes: int, seconds: float) -> None:
        """Record a write and adapt the size.

        A write of full size that freed most of it shows the speed; any slow one was too large.
        """
        if asked_bytes >= self._size and freed_bytes >= asked_bytes / 2:
            fitting = int(freed_bytes * _TARGET_SECONDS / max(seconds, 1e-6))
            self._size = max(_MIN_BYTES, min(fitting, self._size * 2, _MAX_BYTES))
        elif seconds > _TARGET_SECONDS:
            self._size = max(_MIN_BYTES, min(self._size, asked_bytes) // 2)
