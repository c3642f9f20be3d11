"""Faults on order: a verb of the simulator fails at its n-th use as the kernel would, for those who want to see what then."""

import os
from collections import Counter

from app.errors import map_oserror


class Faults:
    """What is to fail, and how often each verb was used. Not thread-safe, as the machine."""

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()
        self._planned: dict[tuple[str, int], int] = {}

    def plan(self, verb: str, number: int, use: int = 1) -> None:
        """Let a verb fail with an errno at its n-th use from now; it then does nothing else."""
        self._planned[verb, self._uses[verb] + use] = number

    def clear(self) -> None:
        """Forget what was planned."""
        self._planned.clear()

    def meet(self, verb: str, path: str) -> None:
        """Count a use, and raise what was planned for it."""
        self._uses[verb] += 1
        if number := self._planned.pop((verb, self._uses[verb]), None):
            raise map_oserror(OSError(number, os.strerror(number)), path)
