"""How much to ask of memory.reclaim at once, so that one write takes a wanted time.

Arithmetic, tested as such.

memory.reclaim knows an amount, and frees it to within 64 pages or one large folio. But a write
holds its group: rmdir waits for it with cgroup_mutex held, and everybody's mkdir with it; and a
kernel before 6.9 looks for a signal only when the whole of the amount is through. So the amount is
what the group's last writes freed in the time that is wanted.
"""

from shrinkd.sizes import PAGE_BYTES

_WANTED_SECONDS = 25e-3
_FIRST = 4 << 20
_LEAST = 1 << 20
"""Smaller ones are mostly the way into the kernel and back."""
_MOST = 1 << 30
"""25 ms of the fastest there is, 2 MiB folios: asked for more, the kernel would only look for
signals less often (remaining/4)."""


class ReclaimSizer:
    """What one group's writes have shown.

    A race between two of them makes a guess poorer, and nothing else.
    """

    __slots__ = ("_size",)

    def __init__(self) -> None:
        self._size = _FIRST

    def ask(self, goal_bytes: int) -> int:
        """Answer the whole pages to ask for.

        Never more than the goal's, and at least one, for the kernel takes 0 as done.
        """
        return max(-(-min(goal_bytes, self._size) // PAGE_BYTES), 1) * PAGE_BYTES

    def learn(self, asked_bytes: int, freed_bytes: int, seconds: float) -> None:
        """Note a write.

        One of full size that freed most of it shows the speed; any that was slow was too large.
        """
        if asked_bytes >= self._size and freed_bytes >= asked_bytes / 2:
            fitting = int(freed_bytes * _WANTED_SECONDS / max(seconds, 1e-6))
            self._size = max(_LEAST, min(fitting, self._size * 2, _MOST))
        elif seconds > _WANTED_SECONDS:
            self._size = max(_LEAST, min(self._size, asked_bytes) // 2)
