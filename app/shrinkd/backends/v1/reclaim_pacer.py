"""How long the kernel may reclaim to free so much and hardly more.

A goal in bytes becomes a quantum of time.

The speed differs 35 fold with what lies at the end of the LRU lists (4 KiB folios 2-6 GiB/s, 2 MiB
folios up to 240), and it changes within one group. So a group that is new counts as the fastest
there is, the fastest of late is what counts after that, and trust in it grows from write to write.
Nothing here looks at a clock or a group: arithmetic, tested as such.
"""

_DRAIN = 50e-6
"""What a write spends before it frees anything, 40-50 us measured: lru_add_drain_all(), longer
while the CPUs are busy."""
_LONGEST_DRAIN = 12.8e-3
_LONGEST = 5e-3
"""The drain is 1 % of such a write, and a cancel, or an rmdir of the group, waits for no more than
that."""
_FASTEST = 240 * 2.0**30
_LARGE_FOLIOS = 12 * 2.0**30
"""Above this they are what is being freed, and their speed is no guide: a file that was read ahead
has ever larger ones."""
_FADE = 0.5
"""Five writes forget large folios that were met once, or that a new group might have had: a
millisecond or two of short ones."""
_CAUTION = 0.75
"""The part of what is left that a write aims at: one that comes short is repeated, one that goes
far is not undone."""
_MOST_TRUST = 16
"""How often the goal over, at the fastest, a write may free that was timed by slower ones: doubled
by each of those, 1 after a fast one."""
_ALWAYS = 0.25e-3
"""The seconds that are risked for any goal: shorter writes are mostly drain."""


class ReclaimPacer:
    """What one group's writes have shown.

    A race between two of them makes a guess poorer, and nothing else.
    """

    __slots__ = ("_drain", "_fastest", "_trust")

    def __init__(self) -> None:
        self._drain, self._fastest, self._trust = _DRAIN, _FASTEST, 1

    def quantum(self, goal_bytes: int) -> float:
        """Answer the seconds to write for a goal, the drain included."""
        likely, certain = goal_bytes * _CAUTION / self._fastest, goal_bytes / _FASTEST
        return self._drain + min(likely, max(certain * self._trust, _ALWAYS), _LONGEST)

    def learn(self, freed_bytes: int, seconds: float) -> None:
        """Note what a write freed in its quantum.

        Nothing means that the drain, or another process, took all of it.
        """
        if freed_bytes <= 0:
            self._drain = min(self._drain * 2, _LONGEST_DRAIN)
            return
        speed = freed_bytes / max(seconds - _DRAIN, _DRAIN)
        large = speed > _LARGE_FOLIOS
        self._trust = 1 if large else min(self._trust * 2, _MOST_TRUST)
        self._fastest = max(_FASTEST if large else speed, self._fastest * _FADE)
        self._drain = _DRAIN
