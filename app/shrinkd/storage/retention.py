"""Delete old rows of all tables, in one thread."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shrinkd.errors import StoreUnavailable
from shrinkd.storage.clock import now

HOUR_SECONDS = 3600.0
_RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ExpiryTask:
    """One table's expire(now), and how often to call it; the first time at once."""

    expire: Callable[[int], object]
    every_seconds: float = HOUR_SECONDS
    due_at: float = 0.0
    """Of the monotonic clock."""


class Retention:
    """Expires the rows of each table by its own rule, on schedule, until it is closed.

    A table that cannot be written is tried again after a minute, and does not delay the others.
    """

    def __init__(self, tasks: Sequence[ExpiryTask]) -> None:
        self._tasks = tasks
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention")

    def start(self) -> None:
        """Begin the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread after the table that it is at."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def run_due(self) -> float:
        """Expire the rows of each table that is due; answer the seconds until the next one is."""
        for task in self._tasks:
            if task.due_at <= time.monotonic() and not self._stopping.is_set():
                task.due_at = time.monotonic() + _expire(task)
        return min(task.due_at for task in self._tasks) - time.monotonic()

    def _run(self) -> None:
        while not self._stopping.wait(max(self.run_due(), 0.0)):
            pass


def _expire(task: ExpiryTask) -> float:
    try:
        task.expire(now())
    except StoreUnavailable as error:
        log.warning("old rows could not be deleted, which is tried again in a minute: %s", error)
        return min(_RETRY_SECONDS, task.every_seconds)
    except Exception:  # a fault in one table must not end the expiry of the others
        log.exception("old rows could not be deleted, which is tried again in a minute")
        return min(_RETRY_SECONDS, task.every_seconds)
    return task.every_seconds
