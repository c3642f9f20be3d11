"""The event log.

In the order of what happened, counted without a hole, and honest about what is missing.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from shrinkd.backends import Group
from shrinkd.errors import EventsExpired, StoreUnavailable
from shrinkd.events.log import RECENT, Event, Events, EventType, Selection
from shrinkd.storage import EventRow, Store, now
from shrinkd.storage.events import KEEP_SECONDS as KEEP_EVENTS_SECONDS
from tests.support.locked_database import locked
from tests.support.polling import until
from tests.support.races import together

ALL = Selection()
WEB, CART = Group("web", 1), Group("web/cart", 2)
MADE, GAP = EventType.GROUP_MADE, EventType.GAP
_LATER = 2 * KEEP_EVENTS_SECONDS * 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(f"sqlite:///{tmp_path}/shrinkd.db?timeout=0.05")) as store:
        store.open()
        yield store


@pytest.fixture
def events(store: Store) -> Events:
    return Events(store.events)


def publish(events: Events, count: int, begin: int = 0) -> None:
    for number in range(begin, begin + count):
        events.publish(MADE, WEB, number=number)


def ids(found: list[Event]) -> list[int]:
    return [event.id for event in found]


def row(number: int) -> EventRow:
    return EventRow(number, now(), "group.made", 1, "web", {})


def read(events: Events, after: int = 0, wanted: Selection = ALL) -> list[Event]:
    return events.read(after, 100_000, wanted)[0]


def test_an_event_reads_the_same_from_memory_and_from_the_database(events: Events) -> None:
    before = now()
    events.publish(EventType.LIMITS_CHANGED, WEB, max_bytes=None, policy="night")
    events.publish(EventType.POLICY_DELETED, name="night")
    events.flush()
    recent = events.recent(0, 9)
    assert recent
    told = [(event.id, event.type, event.group, event.data) for event in recent]
    assert told == [
        (1, "limits.changed", WEB, {"max_bytes": None, "policy": "night"}),
        (2, "policy.deleted", None, {"name": "night"}),
    ]
    assert [(event.id, event.type, event.group, event.data) for event in read(events)] == told
    assert before <= recent[0].at <= recent[1].at <= now()


def test_nothing_is_read_before_it_is_written(events: Events, store: Store) -> None:
    publish(events, 3)
    assert (events.newest, read(events), store.events.list(0, 9)) == (0, [], [])
    events.flush()
    assert (events.newest, ids(read(events))) == (3, [1, 2, 3])


def test_ids_go_on_over_a_restart_also_when_all_but_one_are_forgotten(
    events: Events, store: Store
) -> None:
    publish(events, 5)
    events.flush()
    events.expire(now() + _LATER)
    again = Events(store.events)
    assert (again.oldest, again.newest) == (5, 5)
    publish(again, 1)
    again.flush()
    assert ids(read(again, 4)) == [5, 6]


def test_who_publishes_from_many_threads_gets_one_order(events: Events) -> None:
    together(*[lambda: publish(events, 50)] * 8)
    events.flush()
    assert ids(read(events)) == list(range(1, 401))


def test_memory_answers_what_is_recent_and_nothing_else(events: Events, store: Store) -> None:
    publish(events, RECENT + 10)
    events.flush()
    newest = RECENT + 10
    assert events.recent(newest, 9) == []
    assert events.recent(9, 9) is None
    assert ids(events.recent(10, 2) or []) == [11, 12]
    assert ids(events.recent(newest - 1, 9) or []) == [newest]
    assert events.recent(newest + 1, 9) is None
    assert (Events(store.events).recent(newest, 9), Events(store.events).recent(newest - 1, 9)) == (
        [],
        None,
    )


def test_a_read_answers_up_to_where_it_has_looked(events: Events) -> None:
    publish(events, 2)
    events.publish(MADE, CART)
    publish(events, 2)
    events.flush()
    cart = Selection(within=(frozenset({"web/cart"}),))
    found, position = events.read(0, 1, cart)
    assert (ids(found), position) == ([3], 3)
    assert events.read(3, 1, cart) == ([], 5)


def test_what_was_published_and_not_told_yet_is_not_read_ahead_of_its_time(
    events: Events, store: Store
) -> None:
    store.events.record([row(1)])
    assert events.read(0, 9, ALL) == ([], 0)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (2, "event 5 is the oldest that is kept"),
        (9, "never came from this database"),
        (-1, "too old"),
    ],
)
def test_what_is_not_kept_is_said_to_be_so(events: Events, after: int, why: str) -> None:
    publish(events, 5)
    events.flush()
    events.expire(now() + _LATER)
    with pytest.raises(EventsExpired, match=why) as expired:
        events.read(after, 9, ALL)
    assert expired.value.members == {"after": after, "oldest_id": 5, "newest_id": 5}
    assert ids(read(events, 4)) == [5]


def test_a_selection_takes_types_subtrees_and_every_gap() -> None:
    wanted = Selection(frozenset({MADE}), (frozenset({"web"}), frozenset({"web/cart", "db"})))

    def takes(what: EventType, path: str | None) -> bool:
        return wanted.takes(Event(1, 1, what, None if path is None else Group(path, 1), {}))

    assert takes(MADE, "web/cart")
    assert takes(MADE, "web/cart/deep")
    assert takes(GAP, None)
    refused = [
        (MADE, "web"),
        (MADE, "db"),
        (MADE, "web/cartoon"),
        (MADE, None),
        (EventType.GROUP_REMOVED, "web/cart"),
    ]
    assert [what for what in refused if takes(*what)] == []


def test_a_database_that_stays_away_delays_events_and_loses_none(
    events: Events, tmp_path: Path
) -> None:
    with locked(tmp_path / "shrinkd.db"):
        publish(events, 3)
        with pytest.raises(StoreUnavailable):
            events.flush()
        publish(events, 2)
    events.flush()
    assert ids(read(events)) == [1, 2, 3, 4, 5]


def test_a_commit_that_lost_its_answer_is_told_once(events: Events, store: Store) -> None:
    publish(events, 2)
    store.events.record([row(1), row(2)])
    publish(events, 1)
    events.flush()
    assert ids(read(events)) == [1, 2, 3]


def test_what_had_to_be_dropped_is_counted_where_it_is_missing(store: Store) -> None:
    events = Events(store.events, most_waiting=3)
    publish(events, 5)
    events.flush()
    publish(events, 1, begin=5)
    events.flush()
    assert [(event.type, event.data) for event in read(events)] == [
        *((MADE, {"number": number}) for number in (0, 1, 2)),
        (GAP, {"dropped": 2}),
        (MADE, {"number": 5}),
    ]


def test_the_writer_tells_when_there_is_more_and_writes_the_last_when_it_ends(
    events: Events,
) -> None:
    told = threading.Event()
    events.start(told.set)
    publish(events, 1)
    told.wait()
    assert events.newest == 1
    publish(events, 2)
    events.close()
    assert ids(read(events)) == [1, 2, 3]


def test_what_policies_have_to_tell_is_written_once_a_second_and_with_any_news_at_once(
    events: Events,
) -> None:
    batches: list[tuple[float, int]] = []
    events.start(lambda: batches.append((time.monotonic(), events.newest)))
    try:
        published = 0
        while len(batches) < 3:
            events.publish(
                (EventType.DECISION, EventType.SHRINK_STATE)[published % 2], WEB, policy="room"
            )
            published += 1
            time.sleep(0.025)
        # a busy machine writes later, and never earlier
        assert all(later - earlier > 0.9 for (earlier, _), (later, _) in pairwise(batches))
        events.publish(EventType.LIMITS_CHANGED, WEB, policy="room")
        until(lambda: batches[-1][1] == published + 1)
    finally:
        events.close()


def test_the_writer_tries_again_by_itself(
    events: Events, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = threading.Event()
    with locked(tmp_path / "shrinkd.db"):
        events.start(told.set)
        publish(events, 1)
        while "not written down yet" not in caplog.text:
            told.wait(0.01)
    told.wait()
    events.close()
    assert ids(read(events)) == [1]


def test_the_writer_ends_when_the_database_does_not_come_back(
    events: Events, tmp_path: Path
) -> None:
    with locked(tmp_path / "shrinkd.db"):
        events.start()
        publish(events, 1)
        events.close()
    assert events.newest == 0
