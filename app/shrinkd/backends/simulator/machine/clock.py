"""Whose time the machine lives in.

A clock that follows another one, at any speed, and can be stopped and put forward.
"""

from collections.abc import Callable


class Clock:
    """Seconds since it was made. It looks at its source once a question, and never goes back."""

    def __init__(self, source: Callable[[], float]) -> None:
        self._source = source
        self._since, self._base, self._last = source(), 0.0, 0.0
        self._speed = 1.0

    @property
    def speed(self) -> float:
        """How many seconds pass here in one of the source's; 0 is a clock that stands."""
        return self._speed

    def now(self) -> float:
        self._last = max(self._last, self._base + (self._source() - self._since) * self._speed)
        return self._last

    def run(self, speed: float) -> None:
        """Go on at another speed; 0 freezes it."""
        self._base, self._since = self.now(), self._source()
        self._speed = speed

    def advance(self, seconds: float) -> None:
        """Put it forward, also while it stands."""
        self._base += seconds
