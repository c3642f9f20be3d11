"""Log the events of a daemon in order, and read them from memory or from the database.

Ids count up by one, over restarts too, so the position of a reader is the last id that it has seen.
Recent events are read from memory, older ones from the database, and an id whose successor is not
kept any more raises EventsExpired. There are no queues of readers.

An event is published when the kernel and the database hold what it describes. publish() waits for
no database: one thread writes events in batches, and readers see an event once it is written. A
daemon that dies can lose the last ones, which is why `daemon.started` is an event.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from shrinkd.backends import Group
from shrinkd.errors import EventsExpired
from shrinkd.paths import is_at_or_below
from shrinkd.storage import EventRepository, EventRow, WriteBehind, now

RECENT = 1024
"""The number of events that are kept in memory."""
_MOST_WAITING = 10_000
_BATCH = 500
_REST_SECONDS = 0.25
"""Between two batches: events that come meanwhile share one commit."""
_ROUTINE_SECONDS = 1.0
"""Between two batches of routine events alone: beside a fast writer policies publish twenty of them
a second."""


class EventType(StrEnum):
    """The types of events, each with the members of its data."""

    DAEMON_STARTED = "daemon.started"
    """version, interrupted_shrinks: those that were queued or running when the daemon ended."""
    GROUP_MADE = "group.made"
    """Through this API; the limits that it was given."""
    GROUP_REMOVED = "group.removed"
    PROCESS_ADDED = "process.added"
    """pid."""
    LIMITS_CHANGED = "limits.changed"
    """Each limit that moved, as read back, also one that was not named; policy or shrink_id of what
    changed it."""
    SHRINK_STATE = "shrink.state"
    """shrink_id, state, policy, errno, reclaimed_bytes; for a policy's shrink that sets no limit,
    only its end."""
    POLICY_CHANGED = "policy.changed"
    """name, kind, generation, enabled; the policy was made, changed or switched."""
    POLICY_DELETED = "policy.deleted"
    """name."""
    DECISION = "decision"
    """policy, generation, mode, verdict, reason, asked_bytes, granted_bytes; the policy acts, or
    decides otherwise than before."""
    SIMULATION_STATE = "simulation.state"
    """simulation_id, state."""
    GAP = "gap"
    """dropped: the number of events that are missing here because the database was unavailable for
    too long. Every selection has these."""


_ROUTINE = frozenset((EventType.DECISION, EventType.SHRINK_STATE))
"""Those that policies publish all the time; from a policy they are written once a second."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One event, `at` microseconds since the epoch; without a group it is about the whole node."""

    id: int
    at: int
    type: EventType
    group: Group | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Selection:
    """A filter: events of these types (none given: all), at or below a path of each of `within`."""

    types: frozenset[EventType] = frozenset()
    within: tuple[frozenset[str], ...] = ()

    def takes(self, event: Event) -> bool:
        """Tell whether the filter selects an event."""
        if event.type is EventType.GAP:
            return True
        if self.types and event.type not in self.types:
            return False
        return all(
            event.group is not None
            and any(is_at_or_below(event.group.path, subtree) for subtree in subtrees)
            for subtrees in self.within
        )


class Events:
    """The event log of one daemon. start() begins its writer, close() ends it."""

    def __init__(self, repository: EventRepository, most_waiting: int = _MOST_WAITING) -> None:
        self._repository = repository
        self.oldest, self.newest = repository.span()
        """The ids that can be read, both included."""
        self._last_id = self.newest
        self._dropped = 0
        self._recent: deque[Event] = deque(maxlen=RECENT)
        self._lock = threading.Lock()
        self._on_written: Callable[[], None] = lambda: None
        self._writer = WriteBehind[int, Event](
            "events",
            lambda batch: repository.record([_row(event) for event in batch]),
            bound=most_waiting,
            batch=_BATCH,
            rest_seconds=_REST_SECONDS,
            on_written=self._note_written,
        )

    def start(self, on_written: Callable[[], None] = lambda: None) -> None:
        """Begin the writer's thread, which calls `on_written` when there is more to read."""
        self._on_written = on_written
        self._writer.start()

    def close(self) -> None:
        """Write the events that wait, if the database lets it, and end the writer."""
        self._writer.close()

    def publish(self, what: EventType, group: Group | None = None, /, **data: object) -> None:
        """Publish an event.

        While 10 000 wait for the database, new ones are dropped and counted; a `gap` follows.
        """
        is_routine = what in _ROUTINE and data.get("policy")
        with self._lock:
            self._record_gap()
            if self._writer.is_full:
                self._dropped += 1
                return
            self._append(what, group, data, _ROUTINE_SECONDS if is_routine else 0.0)

    def recent(self, after: int, most: int) -> list[Event] | None:
        """Read events with ids above `after` from memory, of all types and groups.

        None where memory does not reach back so far.
        """
        with self._lock:
            if after == self.newest:
                return []
            if not self._recent or not self._recent[0].id - 1 <= after < self.newest:
                return None
            missing = self.newest - after
            return [self._recent[-back] for back in range(missing, max(missing - most, 0), -1)]

    def read(self, after: int, most: int, wanted: Selection) -> tuple[list[Event], int]:
        """Read selected events with ids above `after` from the database, the oldest first.

        Also answers the id up to which these are all that the selection has. EventsExpired for an
        id whose successor is not kept any more, or that was never given out.
        """
        newest = self.newest
        rows = self._repository.list(
            after, most, types=wanted.types, within=wanted.within, always=EventType.GAP
        )
        # After the query: expire() moves `oldest` before it deletes rows.
        self._check_kept(after, newest)
        # The writer may have recorded younger ones meanwhile, which are not published yet.
        found = [_event(row) for row in rows if row.id <= newest]
        return found, found[-1].id if len(found) == most else newest

    def flush(self) -> None:
        """Write all that waits, in this thread. StoreUnavailable, and then it goes on waiting."""
        self._writer.flush()

    def expire(self, at: int) -> None:
        """Delete events that are older than 7 days at this time, and the oldest of too many."""
        self.oldest = max(self.oldest, self._repository.oldest_to_keep(at))
        self._repository.delete_before(self.oldest)

    def _check_kept(self, after: int, newest: int) -> None:
        if self.oldest - 1 <= after <= newest:
            return
        why = (
            "never came from this database"
            if after > newest
            else f"is too old: event {self.oldest} is the oldest that is kept"
        )
        raise EventsExpired(
            f"The event {after} {why}.", after=after, oldest_id=self.oldest, newest_id=newest
        )

    def _append(
        self,
        what: EventType,
        group: Group | None,
        data: dict[str, object],
        spacing_seconds: float = 0.0,
    ) -> None:
        self._last_id += 1
        self._writer.put(
            self._last_id, Event(self._last_id, now(), what, group, data), spacing_seconds
        )

    def _record_gap(self) -> None:
        """Append a gap for the events that were dropped, once there is room for it."""
        if self._dropped and not self._writer.is_full:
            data: dict[str, object] = {"dropped": self._dropped}
            self._dropped = 0
            self._append(EventType.GAP, None, data)

    def _note_written(self, batch: Sequence[Event]) -> None:
        with self._lock:
            self._record_gap()
            self._recent.extend(batch)
            self.newest = batch[-1].id
        self._on_written()


def _row(event: Event) -> EventRow:
    group_id, path = (event.group.id, event.group.path) if event.group else (None, None)
    return EventRow(event.id, event.at, str(event.type), group_id, path, event.data)


def _event(row: EventRow) -> Event:
    group = None
    if row.group_path is not None and row.group_id is not None:
        group = Group(row.group_path, row.group_id)
    return Event(row.id, row.at, EventType(row.type), group, dict(row.data))
