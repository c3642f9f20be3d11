"""What has happened, in the order in which it did.

Written down in batches by one thread, and then read by whoever follows.

Ids count up by one, over restarts too, so a reader is no more than the last id that it has seen:
what came behind that is in memory if it is recent, in the database if it is not, and told to be
missing if it is in neither. Nobody has a queue.

An event is published when the kernel and the database hold what it tells of; that costs an append,
and waits for no database. A death of the daemon can take the last ones with it, which is why
`daemon.started` is one.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any, Protocol

from shrinkd.backends import Group
from shrinkd.errors import EventsExpired, StoreUnavailable
from shrinkd.paths import is_at_or_below
from shrinkd.storage import Row, Store, now

RECENT = 1024
"""How many are kept in memory."""
_MOST_WAITING = 10_000
_BATCH = 500
_REST_SECONDS = 0.25
"""Between two batches: what comes meanwhile shares one commit."""
_ROUTINE_SECONDS = 1.0
"""The same, where policies alone have something to tell: beside a fast writer they have it twenty
times a second."""
_RETRY_SECONDS = 1.0
_SWEEP_SECONDS = 3600.0

log = logging.getLogger(__name__)


class EventType(StrEnum):
    """What an event can tell of, with what is in its data."""

    DAEMON_STARTED = "daemon.started"
    """version, interrupted_shrinks: what was queued or running when the daemon ended is interrupted
    now."""
    GROUP_MADE = "group.made"
    """Through this API; with the limits that it was given."""
    GROUP_REMOVED = "group.removed"
    PROCESS_ADDED = "process.added"
    """pid."""
    LIMITS_CHANGED = "limits.changed"
    """The limits that were set, as read back; policy or shrink_id where one of those did it."""
    SHRINK_STATE = "shrink.state"
    """shrink_id, state, policy, errno, reclaimed_bytes; of a policy's shrink that sets no limit,
    only how it ended."""
    POLICY_CHANGED = "policy.changed"
    """name, kind, generation, enabled: it was made, changed or switched."""
    POLICY_DELETED = "policy.deleted"
    """name."""
    DECISION = "decision"
    """policy, generation, mode, verdict, reason, asked_bytes, granted_bytes: an act, or a change of
    mind."""
    SIMULATION_STATE = "simulation.state"
    """simulation_id, state."""
    GAP = "gap"
    """dropped: so many events are missing here, since the database stayed away for too long.
    Whatever is asked for, it is told."""


_ROUTINE = frozenset((EventType.DECISION, EventType.SHRINK_STATE))
"""Of what a policy does, these are told once a second."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One thing that happened, `at` microseconds since the epoch.

    A group of None is the whole node.
    """

    id: int
    at: int
    type: EventType
    group: Group | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events.

    Of these types (none given: all), and at or below one path of each of `within`.
    """

    types: frozenset[EventType] = frozenset()
    within: tuple[frozenset[str], ...] = ()

    def takes(self, event: Event) -> bool:
        if event.type is EventType.GAP:
            return True
        if self.types and event.type not in self.types:
            return False
        return all(
            event.group is not None
            and any(is_at_or_below(event.group.path, subtree) for subtree in subtrees)
            for subtrees in self.within
        )


class Publish(Protocol):
    """Tell what has happened. Thread-safe; waits for nothing."""

    def __call__(self, what: EventType, group: Group | None = None, /, **data: object) -> None: ...


def nobody(what: EventType, group: Group | None = None, /, **data: object) -> None:
    """A Publish that nobody hears."""


class Events:
    """The log of one daemon. start() begins the writing, close() ends it; reading needs neither."""

    def __init__(self, store: Store, most_waiting: int = _MOST_WAITING) -> None:
        self._store, self._most_waiting = store, most_waiting
        self.oldest, self.newest = store.event_span()
        """The ids that can be read, both included."""
        self._given = self.newest
        self._waiting: deque[Event] = deque()
        self._is_news = False
        """Whether anything that waits is more than the routine of policies."""
        self._lost = 0
        self._recent: deque[Event] = deque(maxlen=RECENT)
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._sweep_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="events")
        self.on_news: Callable[[], None] = lambda: None
        """Called by the writer when there is more to read."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write down what waits, if the database lets us, and end."""
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def publish(self, what: EventType, group: Group | None = None, /, **data: object) -> None:
        """Tell what has happened.

        Of more than 10 000 that wait for the database the later ones are dropped, and counted.
        """
        with self._changed:
            self._own_up()
            if len(self._waiting) >= self._most_waiting:
                self._lost += 1
                return
            is_first = not self._waiting
            self._append(what, group, data)
            self._is_news |= what not in _ROUTINE or not data.get("policy")
            if is_first or self._is_news:
                self._changed.notify()

    def recent(self, after: int, most: int) -> list[Event] | None:
        """Events behind an id, whatever they tell of, from memory alone.

        None where that does not reach back so far.
        """
        with self._changed:
            if after == self.newest:
                return []
            if not self._recent or not self._recent[0].id - 1 <= after < self.newest:
                return None
            missing = self.newest - after
            return [self._recent[-back] for back in range(missing, max(missing - most, 0), -1)]

    def read(self, after: int, most: int, wanted: Selection) -> tuple[list[Event], int]:
        """Events behind an id, the oldest first, from the database.

        And the id up to which these are all that are wanted.

        EventsExpired for an id whose successor is not kept any more, or that was never given out.
        """
        newest = self.newest
        rows = self._store.list_events(
            after, most, types=wanted.types, within=wanted.within, always=EventType.GAP
        )
        self._check_kept(
            after, newest
        )  # behind the reading: what is to be forgotten is out of bounds before it is gone
        found = [
            _event(row) for row in rows if row["id"] <= newest
        ]  # a younger one is not told yet
        return found, found[-1].id if len(found) == most else newest

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

    def _append(self, what: EventType, group: Group | None, data: dict[str, object]) -> None:
        self._given += 1
        self._waiting.append(Event(self._given, now(), what, group, data))

    def _own_up(self) -> None:
        """Say how many were dropped, once there is room to."""
        if self._lost and len(self._waiting) < self._most_waiting:
            self._append(EventType.GAP, None, {"dropped": self._lost})
            self._lost = 0

    # -- the writer ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        is_last, written_at = False, -math.inf
        while not is_last:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
                spare = max(written_at + _ROUTINE_SECONDS - time.monotonic(), 0)
                self._changed.wait_for(lambda: self._is_news or self._stopping.is_set(), spare)
                self._is_news = False
            is_last = self._stopping.is_set()
            try:
                self.write()
            except StoreUnavailable as error:
                log.warning("%d events are not written down yet: %s", len(self._waiting), error)
                is_last = self._stopping.wait(
                    _RETRY_SECONDS
                )  # a stop is held up by one try at most
            written_at = time.monotonic()
            self._stopping.wait(_REST_SECONDS)

    def write(self) -> None:
        """Write down all that waits, and tell whoever follows.

        StoreUnavailable, and then it waits for the next time.
        """
        while self._waiting:
            with self._changed:
                batch = list(islice(self._waiting, _BATCH))
            self._store.add_events([_row(event) for event in batch])
            with self._changed:
                for _ in batch:
                    self._waiting.popleft()
                self._own_up()
                self._recent.extend(batch)
                self.newest = batch[-1].id
            self.on_news()
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + _SWEEP_SECONDS
            self.forget(now())

    def forget(self, at: int) -> None:
        """Forget what is older than 7 days at that moment, and the oldest of too many."""
        self.oldest = max(self.oldest, self._store.oldest_event_to_keep(at))
        self._store.forget_events(self.oldest)


def _row(event: Event) -> Row:
    group = event.group
    where = (
        {"group_id": group.id, "group_path": group.path}
        if group
        else {"group_id": None, "group_path": None}
    )
    return {"id": event.id, "at": event.at, "type": str(event.type), "data": event.data} | where


def _event(row: Row) -> Event:
    group = None if row["group_path"] is None else Group(row["group_path"], row["group_id"])
    return Event(row["id"], row["at"], EventType(row["type"]), group, row["data"])
