"""What the policies decided, on its way into the database.

Acts and changes of mind at once, what stays the same once a minute.
"""

import threading
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from operator import attrgetter

from shrinkd.errors import StoreUnavailable
from shrinkd.events import EventType, Publish, nobody
from shrinkd.policies.bindings import Key
from shrinkd.policies.kind import Verdict
from shrinkd.policies.records import Record
from shrinkd.storage import Row, Store

_FOLD_MICROSECONDS = 60_000_000
_MOST_UNWRITTEN = 100_000
_DONE = frozenset((Verdict.ACT, Verdict.WOULD_ACT))
_STEADY = ("verdict", "reason", "generation", "mode")
_TOLD = ("policy", *_STEADY, "asked_bytes", "granted_bytes")
_steady_of, _told_of = attrgetter(*_STEADY), attrgetter(*_TOLD)


@dataclass(slots=True)
class _Line:
    """One row to be, or that is: `row_id` once it is written."""

    record: Record
    began_at: int
    row_id: int | None = None


class DecisionLog:
    """Folds, remembers the last decision of each post, and writes.

    Thread-safe; no database is touched but in write().
    """

    def __init__(self, store: Store, most_unwritten: int = _MOST_UNWRITTEN) -> None:
        self._store = store
        self._most_unwritten = most_unwritten
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._lines: dict[tuple[str, int], _Line] = {}
        self._acts: dict[tuple[str, int], _Line] = {}
        """Those whose end is not known yet: a policy that looks at its groups together decides anew
        meanwhile, and one may be deleted."""
        self._last: dict[str, Record] = {}
        self.verdicts: Counter[str] = Counter()
        """How many decisions there were since the start, by verdict."""
        self._unwritten: dict[int, _Line] = {}
        """By the identity of the line, in the order in which they changed."""
        self.publish: Publish = nobody

    def add(self, records: Iterable[Record]) -> None:
        with self._lock:
            for record in records:
                self._add(record)

    def _add(self, record: Record) -> None:
        key = (record.policy, record.group.id)
        self.verdicts[str(record.verdict)] += 1
        line = self._lines.get(key)
        self._last[record.policy] = record
        if line is not None and _is_the_same(record, line):
            line.record = replace(record, times=line.record.times + 1)
            return
        if (
            line is None
            or record.verdict is Verdict.ACT
            or not _means_the_same(record, line.record)
        ):
            self._tell(record)
        if line is not None and line.record.times > 1:
            self._touch(line)
        self._lines[key] = fresh = _Line(record, record.at)
        if record.verdict is Verdict.ACT:
            self._acts[key] = fresh
        self._touch(fresh)

    def _tell(self, record: Record) -> None:
        self.publish(
            EventType.DECISION, record.group, **dict(zip(_TOLD, _told_of(record), strict=True))
        )

    def finish(
        self, key: Key, group_id: int, *, freed_bytes: int, shrink_id: str | None, errno: str | None
    ) -> None:
        """Tell what became of the last act of a policy for a group."""
        with self._lock:
            line = self._acts.pop((key[0], group_id), None)
            if line is None:
                return
            is_last = self._last.get(key[0]) is line.record
            line.record = replace(
                line.record, freed_bytes=freed_bytes, shrink_id=shrink_id, errno=errno
            )
            self._touch(line)
            if is_last:
                self._last[key[0]] = line.record

    def last(self, policy: str) -> Record | None:
        return self._last.get(policy)

    def forget(self, live: Collection[tuple[str, int]]) -> None:
        """Drop what is remembered of policies and groups that are no more, but for what is still to
        be written, or to end.
        """
        with self._lock:
            for key, line in self._lines.items():
                if key not in live and line.record.times > 1:
                    self._touch(line)
            self._lines = {key: line for key, line in self._lines.items() if key in live}
            policies = {policy for policy, _ in live}
            self._last = {
                policy: record for policy, record in self._last.items() if policy in policies
            }

    def write(self) -> None:
        """Write down what has changed. StoreUnavailable, and then it waits for the next time."""
        with self._writing:
            with self._lock:
                lines, self._unwritten = self._unwritten, {}
                rows = [(line.row_id, _row(line.record)) for line in lines.values()]
            try:
                ids = self._store.write_decisions(rows)
            except StoreUnavailable:
                with self._lock:
                    self._unwritten = lines | self._unwritten
                raise
            for line, row_id in zip(lines.values(), ids, strict=True):
                line.row_id = row_id

    def _touch(self, line: _Line) -> None:
        self._unwritten[id(line)] = line
        while len(self._unwritten) > self._most_unwritten:  # a database that stays away
            del self._unwritten[next(iter(self._unwritten))]


def _is_the_same(record: Record, line: _Line) -> bool:
    return (
        _means_the_same(record, line.record)
        and record.verdict not in _DONE
        and 0 <= record.at - line.began_at < _FOLD_MICROSECONDS
    )


def _means_the_same(record: Record, before: Record) -> bool:
    return bool(_steady_of(record) == _steady_of(before))


def _row(record: Record) -> Row:
    row = {name: getattr(record, name) for name in record.__slots__ if name != "group"}
    return row | {
        "group_id": record.group.id,
        "group_path": record.group.path,
        "signals": dict(record.signals),
    }
