"""Buffer rows in memory and write them to the database later, in batches."""

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from shrinkd.errors import StoreUnavailable

_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 8.0

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def _newer(_older: T, newer: T) -> T:
    return newer


class WriteBehind(Generic[K, T]):
    """A bounded buffer of items by key, which one writer at a time empties into the database.

    It promises:

    - put() waits for no database.
    - get() and items() find an item from put() until the database has it.
    - An item that is put under a key which waits already takes its place in the order; `merge`
      combines the two (by default the newer one stays).
    - `write` gets the items in the order in which their keys were put, at most `batch` at a time,
      and never two batches at once. It writes all of them or raises; then they wait for the next
      try with what has come meanwhile. A commit can succeed and lose its answer, so `write` must be
      repeatable.
    - `on_written` gets each batch after it was written, when get() does not find it any more.
    - At most `bound` items are kept. Beyond that put() discards the oldest that is not being
      written; an owner that must not lose the oldest looks at is_full first.

    start() begins a thread that writes what waits: at the earliest `rest_seconds` after the last
    batch, later where all items were put with a longer spacing. While the database is unavailable
    it tries again after 1, 2, 4 and then every 8 s. close() ends it after one last try; items that
    this does not write are lost, as are all that wait when the process dies. An owner without a
    thread calls flush(). Thread-safe.
    """

    def __init__(  # noqa: PLR0913
        self,
        name: str,
        write: Callable[[Sequence[T]], None],
        *,
        bound: int,
        batch: int | None = None,
        merge: Callable[[T, T], T] = _newer,
        on_written: Callable[[Sequence[T]], None] = lambda _: None,
        rest_seconds: float = 0.0,
    ) -> None:
        self._name, self._write, self._merge, self._on_written = name, write, merge, on_written
        self._bound, self._batch, self._rest_seconds = bound, batch, rest_seconds
        self._changed = threading.Condition()
        self._flushing = threading.Lock()
        self._waiting: dict[K, T] = {}
        self._in_flight: dict[K, T] = {}
        self._spacing_seconds = math.inf
        """The least of all that waits."""
        self._written_at = self._not_before = -math.inf
        """The end of the last batch, and of the rest after it or of the wait for a retry."""
        self._retry_seconds = _RETRY_SECONDS
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self.is_behind = False
        """The last try failed."""

    def start(self) -> None:
        """Begin the thread, unless it has begun already or close() was called.

        RuntimeError where the system starts no more threads: a later call tries again.
        """
        with self._changed:
            if self._thread is None and not self._is_closing:
                thread = threading.Thread(target=self._run, name=self._name)
                thread.start()
                self._thread = thread

    def close(self) -> None:
        """Try once to write what waits, and end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is None:
            self._flush_at_end()
        else:
            self._thread.join()

    def put(self, key: K, item: T, spacing_seconds: float = 0.0) -> None:
        """Add an item, to be written so long after the last batch, or with a more urgent item."""
        with self._changed:
            if key in self._waiting:
                item = self._merge(self._waiting[key], item)
            self._waiting[key] = item
            self._discard_oldest()
            if spacing_seconds < self._spacing_seconds:
                self._spacing_seconds = spacing_seconds
                self._changed.notify_all()

    def get(self, key: K) -> T | None:
        """Answer the item of a key that is not written yet, or None."""
        with self._changed:
            found = self._waiting.get(key)
            return self._in_flight.get(key) if found is None else found

    def items(self) -> list[T]:
        """List the items that are not written yet, in their order."""
        with self._changed:
            return [*(self._in_flight | self._waiting).values()]

    @property
    def is_full(self) -> bool:
        """Whether put() would discard an item."""
        with self._changed:
            return len(self._waiting) + len(self._in_flight) >= self._bound

    def flush(self) -> None:
        """Write all that waits now, in this thread. StoreUnavailable; then it goes on waiting."""
        with self._flushing:
            with self._changed:
                left, self._spacing_seconds = len(self._waiting), math.inf
            while left > 0 and (batch := self._take(left)):
                left -= len(batch)
                try:
                    self._write(batch)
                except BaseException:
                    self._put_back()
                    raise
                self._finish(batch)

    def _take(self, most: int) -> Sequence[T]:
        with self._changed:
            count = most if self._batch is None else min(most, self._batch)
            self._in_flight = dict(islice(self._waiting.items(), count))
            for key in self._in_flight:
                del self._waiting[key]
            return [*self._in_flight.values()]

    def _put_back(self) -> None:
        with self._changed:
            newer, self._waiting, self._in_flight = self._waiting, self._in_flight, {}
            for key, item in newer.items():
                older = self._waiting.get(key)
                self._waiting[key] = item if older is None else self._merge(older, item)
            self._discard_oldest()
            self.is_behind, self._spacing_seconds = True, 0.0
            self._not_before = time.monotonic() + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, _LONGEST_RETRY_SECONDS)
            self._changed.notify_all()

    def _finish(self, batch: Sequence[T]) -> None:
        with self._changed:
            self._in_flight = {}
            self.is_behind, self._retry_seconds = False, _RETRY_SECONDS
            self._written_at = time.monotonic()
            self._not_before = self._written_at + self._rest_seconds
        try:
            self._on_written(batch)
        except BaseException:
            with self._changed:  # what the flush has not reached is due all the same
                self._spacing_seconds = 0.0 if self._waiting else self._spacing_seconds
            raise

    def _discard_oldest(self) -> None:
        while self._waiting and len(self._waiting) + len(self._in_flight) > self._bound:
            del self._waiting[next(iter(self._waiting))]

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._wait_until_due():
            self._try_to_flush()
        self._flush_at_end()

    def _flush_at_end(self) -> None:
        self._try_to_flush()
        while self.items() and not self.is_behind:  # on_written may have put more
            self._try_to_flush()

    def _wait_until_due(self) -> bool:
        """Wait for the next batch or for close(), and answer whether it was close()."""
        with self._changed:
            while not self._is_closing:
                if self._spacing_seconds == math.inf:
                    self._changed.wait()
                    continue
                due_at = max(self._written_at + self._spacing_seconds, self._not_before)
                if due_at <= time.monotonic():
                    break
                self._changed.wait(due_at - time.monotonic())
            return self._is_closing

    def _try_to_flush(self) -> None:
        try:
            self.flush()
        except StoreUnavailable as error:
            log.warning("%d %s are not written down yet: %s", len(self.items()), self._name, error)
        except Exception:  # a fault of ours must not end the thread, on which callers may wait
            log.exception("%d %s are not written down yet", len(self.items()), self._name)
