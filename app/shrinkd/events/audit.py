"""Who tried to change what, and what came of it.

Written down before it is done, and completed after.

One thread writes for everybody, and at once all that has gathered meanwhile: so a change pays for a
part of one durable write. What changed nothing (refused, or a dry run) is told after the fact, and
equal ones of a second are one row that counts them: who may not call cannot fill the disk. A
database that is full or locked does not keep anybody from raising a limit.
"""

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from shrinkd.errors import StoreUnavailable
from shrinkd.storage import Row, Store, now

_LATE_SECONDS = 1.0
"""How much later than the answer an outcome is written down."""
_SWEEP_SECONDS = 3600.0
_MOST_UNWRITTEN = 10_000
_MOST_KINDS = 100
"""Of refusals in a second; what goes beyond that is not told apart."""

_Begun = tuple[Row, Future[None]]
_Sort = tuple[object, ...]

log = logging.getLogger(__name__)


class Audit:
    """Writes attempts down.

    Thread-safe; its thread begins with the first one and ends with close().
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._begun: list[_Begun] = []
        self._ended: dict[str, Row] = {}
        self._noted: dict[_Sort, dict[str, Any]] = {}
        self._is_behind = False
        """The last write failed."""
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._sweep_at = time.monotonic()

    def begin(self, row: Row) -> Future[None]:
        """Write an attempt down before it is made: done when it cannot be lost any more.

        Where the database cannot be written the log has the attempt, the audit has it later, and
        nobody waits for that.
        """
        written: Future[None] = Future()
        with self._changed:
            self._begun.append((row, written))
            if self._is_behind or self._is_closing:
                _log(row)
                written.set_result(None)
            self._wake()
        return written

    def finish(self, attempt_id: str, outcome: Row) -> None:
        """Tell what came of an attempt that begin() wrote down."""
        with self._changed:
            self._ended[attempt_id] = outcome
            while len(self._ended) > _MOST_UNWRITTEN:  # a database that stays away
                del self._ended[next(iter(self._ended))]
            self._wake()

    def note(self, row: Row) -> None:
        """Keep an attempt that has changed nothing, with its outcome.

        Equal ones of a second as one.
        """
        kind: _Sort = (
            row["caller"],
            row["method"],
            row["operation"],
            row["status"],
            row["problem"],
            row["dry_run"],
        )
        with self._changed:
            if kind not in self._noted and len(self._noted) >= _MOST_KINDS:
                kind = ("others",)
            earlier = self._noted.get(kind)
            if earlier:
                earlier["times"] += 1
            else:
                self._noted[kind] = {**row, "times": 1}
            self._wake()

    def close(self) -> None:
        """Write down what is still to be written, and end."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

    def _wake(self) -> None:
        """With the lock held."""
        if self._thread is None and not self._is_closing:
            self._thread = threading.Thread(target=self._run, name="audit")
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_closing or self._begun or self._ended or self._noted
                )
                self._changed.wait_for(
                    lambda: self._is_closing or (self._begun and not self._is_behind), _LATE_SECONDS
                )
                is_last, begun, ended, noted = (
                    self._is_closing,
                    self._begun,
                    self._ended,
                    self._noted,
                )
                self._begun, self._ended, self._noted = [], {}, {}
            self._write(begun, ended, noted)
            if is_last:
                return
            self._sweep()

    def _write(
        self, begun: list[_Begun], ended: dict[str, Row], noted: dict[_Sort, dict[str, Any]]
    ) -> None:
        """Write all of it, or none: then it is for the next time, and who waits goes on."""
        try:
            self._store.write_audit([*(row for row, _ in begun), *noted.values()], ended)
        except StoreUnavailable as unavailable:
            log.warning("the audit is not written down yet: %s", unavailable)
            with self._changed:
                self._is_behind = True
                self._begun = [*begun, *self._begun][-_MOST_UNWRITTEN:]
                self._ended = ended | self._ended
                for kind, row in noted.items():
                    row["times"] += self._noted[kind]["times"] if kind in self._noted else 0
                self._noted |= noted
        else:
            self._is_behind = False
        for attempt, written in begun:
            if not written.done():
                if self._is_behind:
                    _log(attempt)
                written.set_result(None)

    def _sweep(self) -> None:
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + _SWEEP_SECONDS
            with suppress(StoreUnavailable):
                self._store.forget_audit(now())


def outcome(status: int, problem: str | None, group: Mapping[str, Any] | None) -> Row:
    """What came of an attempt, for finish()."""
    found = group or {}
    return {
        "status": status,
        "problem": problem,
        "group_id": found.get("id"),
        "group_path": found.get("path"),
        "finished_at": now(),
    }


def _log(row: Row) -> None:
    log.warning(
        "the audit cannot be written, so the log has this: %s",
        row["id"],
        extra={"fields": {"attempt": dict(row)}},
    )
