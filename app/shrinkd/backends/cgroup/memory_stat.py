"""Parse the wanted lines of a memory.stat fast.

Readings are parsed a thousand times per sweep, and the order of the lines seldom changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter


@dataclass(frozen=True, slots=True)
class _Learned:
    words: int
    names: tuple[bytes, ...]
    fields: tuple[str, ...]
    keys: Callable[[list[bytes]], tuple[bytes, ...]]
    values: Callable[[list[bytes]], tuple[bytes, ...]]


class StatLines:
    """Parse wanted lines of memory.stat by name.

    Their positions are learned from a text, and again from one with other positions.
    """

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = frozenset(name.encode() for name in wanted)
        self._learned: _Learned | None = None

    def parse(self, text: bytes) -> dict[str, int]:
        words = text.split()
        learned = self._learned
        if learned is None or len(words) != learned.words or learned.keys(words) != learned.names:
            learned = self._learned = self._learn(words)
        return dict(zip(learned.fields, map(int, learned.values(words)), strict=True))

    def _learn(self, words: list[bytes]) -> _Learned:
        positions = [
            position for position in range(0, len(words), 2) if words[position] in self._wanted
        ]
        keys = itemgetter(*positions)
        return _Learned(
            words=len(words),
            names=keys(words),
            fields=tuple(words[position].decode() for position in positions),
            keys=keys,
            values=itemgetter(*(position + 1 for position in positions)),
        )
