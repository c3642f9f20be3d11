"""Record the decisions of policies: acts and changes at once, equal ones once a minute."""

import threading
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from shrinkd.events import EventType, Publish, discard
from shrinkd.policies.bindings import Key
from shrinkd.policies.kind import Verdict
from shrinkd.policies.records import Record
from shrinkd.storage import DecisionRepository, DecisionRow, WriteBehind

_FOLD_MICROSECONDS = 60_000_000
_MOST_UNWRITTEN = 100_000
_DONE = frozenset((Verdict.ACT, Verdict.WOULD_ACT))
_STEADY = ("verdict", "reason", "generation", "mode")
_PUBLISHED = ("policy", *_STEADY, "asked_bytes", "granted_bytes")
_steady_of, _published_of = attrgetter(*_STEADY), attrgetter(*_PUBLISHED)


@dataclass(slots=True)
class _Line:
    """One row of the table, which has a `row_id` once it is written."""

    record: Record
    began_at: int
    row_id: int | None = None


class DecisionLog:
    """Folds equal decisions into one, keeps the last one of each policy, and records them.

    Thread-safe. Only write() waits for the database; the thread of the policies calls it, so that
    decisions, shrinks and states of one second are written one after the other.
    """

    def __init__(
        self,
        repository: DecisionRepository,
        publish: Publish = discard,
        most_unwritten: int = _MOST_UNWRITTEN,
    ) -> None:
        self._repository, self._publish = repository, publish
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, int], _Line] = {}
        self._acts: dict[tuple[str, int], _Line] = {}
        """Acts whose end is not known yet. Meanwhile a policy that evaluates its groups together
        decides again, and one may be deleted."""
        self._last: dict[str, Record] = {}
        self.verdicts: Counter[str] = Counter()
        """The number of decisions since the start, by verdict."""
        self._unwritten = WriteBehind[int, _Line]("decisions", self._write, bound=most_unwritten)
        """By the identity of the line."""

    def add(self, records: Iterable[Record]) -> None:
        """Add decisions, and publish those that act or differ from the one before."""
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
            self._publish_decision(record)
        if line is not None and line.record.times > 1:
            self._touch(line)
        self._lines[key] = fresh = _Line(record, record.at)
        if record.verdict is Verdict.ACT:
            self._acts[key] = fresh
        self._touch(fresh)

    def _publish_decision(self, record: Record) -> None:
        self._publish(
            EventType.DECISION,
            record.group,
            **dict(zip(_PUBLISHED, _published_of(record), strict=True)),
        )

    def finish(
        self, key: Key, group_id: int, *, freed_bytes: int, shrink_id: str | None, errno: str | None
    ) -> None:
        """Add the outcome of the last act of a policy for a group to its decision."""
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
        """Answer the last decision of a policy, or None."""
        return self._last.get(policy)

    def forget(self, live: Collection[tuple[str, int]]) -> None:
        """Drop the last decisions of policies and groups that are not among the live ones.

        Those that are not written yet are written, and acts that run still get their outcome.
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
        """Record what has changed. StoreUnavailable, and then it waits for the next time."""
        self._unwritten.flush()

    def _write(self, lines: Sequence[_Line]) -> None:
        with self._lock:
            rows = [decision_row(line.record, line.row_id) for line in lines]
        for line, row_id in zip(lines, self._repository.record(rows), strict=True):
            line.row_id = row_id

    def _touch(self, line: _Line) -> None:
        self._unwritten.put(id(line), line)


def _is_the_same(record: Record, line: _Line) -> bool:
    return (
        _means_the_same(record, line.record)
        and record.verdict not in _DONE
        and 0 <= record.at - line.began_at < _FOLD_MICROSECONDS
    )


def _means_the_same(record: Record, before: Record) -> bool:
    return bool(_steady_of(record) == _steady_of(before))


def decision_row(record: Record, row_id: int | None = None) -> DecisionRow:
    """Make the row of a decision."""
    values = {name: getattr(record, name) for name in record.__slots__ if name != "group"}
    values |= {"verdict": str(record.verdict), "reason": str(record.reason)}
    values |= {"group_id": record.group.id, "group_path": record.group.path}
    return DecisionRow(id=row_id, **values | {"signals": dict(record.signals)})
