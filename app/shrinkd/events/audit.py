"""Record attempted changes: before they are made, and completed with their outcome afterwards.

One thread writes the attempts of all requests since its last transaction, so a change pays for a
part of one durable write. Attempts that changed nothing (refused, or a dry run) are
recorded after the fact, and equal ones of a second as one row that counts them: callers without a
right to call cannot fill the disk. A full or locked database does not delay a change.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from shrinkd.storage import AuditOutcome, AuditRepository, AuditRow, WriteBehind, now

_LATE_SECONDS = 1.0
"""Outcomes and refusals are written so long after the last transaction, or with an attempt."""
_MOST_UNWRITTEN = 10_000
_MOST_GROUPS = 100
"""Groups of equal refusals in a second; those beyond are counted together."""

_GroupKey = tuple[object, ...]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """An attempt, an outcome, or a group of equal attempts that changed nothing."""

    attempt: AuditRow | None = None
    outcome: tuple[str, AuditOutcome] | None = None
    written: Future[None] | None = None
    group: _GroupKey | None = None


class Audit:
    """Records attempts. Thread-safe; its thread begins with the first one and ends with close()."""

    def __init__(self, repository: AuditRepository) -> None:
        self._repository = repository
        self._writer = WriteBehind[_GroupKey, _Unwritten](
            "audit", self._write, bound=2 * _MOST_UNWRITTEN, merge=_added_up
        )
        self._lock = threading.Lock()
        self._groups: set[_GroupKey] = set()
        """The groups of equal attempts that are not written yet."""
        self._is_closed = False

    def begin(self, row: AuditRow) -> Future[None]:
        """Record an attempt before it is made; the future is done when the row is durable.

        While the database cannot be written, the future is done at once: the log gets the attempt
        now and the database gets it later.
        """
        written: Future[None] = Future()
        if self._writer.is_behind or self._is_closed:
            _log_attempt(row)
            written.set_result(None)
        self._writer.put(("attempt", row.id), _Unwritten(attempt=row, written=written))
        self._begin_thread()
        return written

    def finish(self, attempt_id: str, outcome: AuditOutcome) -> None:
        """Record the outcome of an attempt that begin() has recorded."""
        item = _Unwritten(outcome=(attempt_id, outcome))
        self._writer.put(("outcome", attempt_id), item, _LATE_SECONDS)
        self._begin_thread()

    def note(self, row: AuditRow) -> None:
        """Record an attempt that changed nothing, with its outcome; equal ones of 1 s as one."""
        group: _GroupKey = (
            "equal",
            row.caller,
            row.method,
            row.operation,
            row.status,
            row.problem,
            row.dry_run,
        )
        with self._lock:
            if group not in self._groups and len(self._groups) >= _MOST_GROUPS:
                group = ("others",)
            self._groups.add(group)
            item = _Unwritten(attempt=row, group=group)
            self._writer.put(group, item, _LATE_SECONDS)
        self._begin_thread()

    def close(self) -> None:
        """Write what is not written yet, if the database lets it, and end the thread."""
        self._is_closed = True
        self._writer.close()
        _release(self._writer.items(), is_recorded=False)

    def _begin_thread(self) -> None:
        """Begin the writer; where no thread can be started, no request waits for one."""
        try:
            self._writer.start()
        except RuntimeError as error:
            log.warning("the audit has no thread yet, and tries again: %s", error)
            _release(self._writer.items(), is_recorded=False)

    def _write(self, items: Sequence[_Unwritten]) -> None:
        groups = {item.group for item in items if item.group}
        with self._lock:  # without those that the writer has discarded
            self._groups = {item.group for item in self._writer.items() if item.group} - groups
        attempts = [item.attempt for item in items if item.attempt]
        try:
            self._repository.record(attempts, dict(item.outcome for item in items if item.outcome))
        except BaseException:
            with self._lock:
                self._groups |= groups
            _release(self._writer.items(), is_recorded=False)
            raise
        _release(items, is_recorded=True)


def outcome(status: int, problem: str | None, group: Mapping[str, Any] | None) -> AuditOutcome:
    """Make the outcome of an attempt that ends now. `group` has the keys id and path."""
    found = group or {}
    return AuditOutcome(status, problem, found.get("id"), found.get("path"), now())


def _added_up(older: _Unwritten, newer: _Unwritten) -> _Unwritten:
    if older.attempt is None or newer.attempt is None:
        return newer
    times = older.attempt.times + newer.attempt.times
    return replace(older, attempt=replace(older.attempt, times=times))


def _release(items: Sequence[_Unwritten], *, is_recorded: bool) -> None:
    """Let the requests go on that wait for their attempts to be recorded."""
    for item in items:
        if item.attempt and item.written and not item.written.done():
            if not is_recorded:
                _log_attempt(item.attempt)
            item.written.set_result(None)


def _log_attempt(row: AuditRow) -> None:
    log.warning(
        "the audit cannot be written, so the log has this: %s",
        row.id,
        extra={"fields": {"attempt": _by_name(row)}},
    )


def _by_name(row: AuditRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__slots__}
