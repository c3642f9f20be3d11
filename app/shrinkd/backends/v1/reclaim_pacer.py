"""Convert a reclaim goal in bytes to a write time that frees about that much.

The speed differs 35 fold with the pages at the end of the LRU lists (4 KiB folios 2-6 GiB/s, 2 MiB
folios up to 240), and it changes within one group. So a new group is assumed to be as fast as
possible, later the fastest recent speed counts, and trust in it grows from write to write. This
module reads no clock and no group, so it is tested as arithmetic.
"""

_DRAIN = 50e-6
"""The time a write takes before it frees anything, 40-50 us measured: lru_add_drain_all(), longer
on busy CPUs."""
_MAX_DRAIN = 12.8e-3
_MAX_SECONDS = 5e-3
"""The drain is 1 % of such a write, and a cancel, or an rmdir of the group, waits no longer than
that."""
_FASTEST = 240 * 2.0**30
_LARGE_FOLIOS = 12 * 2.0**30
"""Above this speed large folios are being freed, and their speed predicts nothing: read-ahead makes
ever larger ones."""
_DECAY = 0.5
"""Five writes forget large folios that were met once, or assumed for a new group: a millisecond or
two of short writes."""
_AIM_FRACTION = 0.75
"""The part of the remaining goal that a write aims at: too little is repeated, too much cannot be
undone."""
_MAX_TRUST = 16
"""The multiple of the goal that a write may free at the fastest speed if it was timed by slower
ones: doubled by each slow write, 1 after a fast one."""
_MIN_SECONDS = 0.25e-3
"""The time that is risked for any goal (seconds): shorter writes are mostly drain."""


class ReclaimPacer:
    """Learn the reclaim speed of one group from its writes.

    A race between two writes makes an estimate poorer, and has no other effect.
    """

    __slots__ = ("_drain", "_fastest", "_trust")

    def __init__(self) -> None:
        self._drain, self._fastest, self._trust = _DRAIN, _FASTEST, 1

    def quantum(self, goal_bytes: int) -> float:
        """Return the seconds to write for a goal, the drain included."""
        likely, certain = goal_bytes * _AIM_FRACTION / self._fastest, goal_bytes / _FASTEST
        return self._drain + min(likely, max(certain * self._trust, _MIN_SECONDS), _MAX_SECONDS)

    def learn(self, freed_bytes: int, seconds: float) -> None:
        """Record what a write freed; nothing means that the drain took its time."""
        if freed_bytes <= 0:
            self._drain = min(self._drain * 2, _MAX_DRAIN)
            return
        speed = freed_bytes / max(seconds - _DRAIN, _DRAIN)
        large = speed > _LARGE_FOLIOS
        self._trust = 1 if large else min(self._trust * 2, _MAX_TRUST)
        self._fastest = max(_FASTEST if large else speed, self._fastest * _DECAY)
        self._drain = _DRAIN
