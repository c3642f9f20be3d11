"""Follow another clock at any speed; it can be stopped and advanced."""

from collections.abc import Callable


class Clock:
    """Count the seconds since it was made; reads its source once per call and never goes back."""

    def __init__(self, source: Callable[[], float]) -> None:
        self._source = source
        self._since, self._base, self._last = source(), 0.0, 0.0
        self._speed = 1.0

    @property
    def speed(self) -> float:
        """Seconds per second of the source; 0 is a stopped clock."""
        return self._speed

    def now(self) -> float:
        self._last = max(self._last, self._base + (self._source() - self._since) * self._speed)
        return self._last

    def run(self, speed: float) -> None:
        """Change the speed; 0 stops it."""
        self._base, self._since = self.now(), self._source()
        self._speed = speed

    def advance(self, seconds: float) -> None:
        """Advance it, also while it is stopped."""
        self._base += seconds
