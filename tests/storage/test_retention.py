"""One task expires the rows of all tables, each on its own schedule."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shrinkd.errors import StoreUnavailable
from shrinkd.settings import Settings
from shrinkd.storage import AuditRow, ExpiryTask, Key, Retention, Store, now
from shrinkd.storage.idempotency_keys import IdempotencyRow
from tests.storage.test_store import decision, event
from tests.storage.test_store import row as shrink
from tests.support.live_server import Live
from tests.support.polling import until
from tests.support.scripted_simulator import Stage


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(f"sqlite:///{tmp_path}/shrinkd.db")) as store:
        store.open()
        yield store


def test_old_rows_are_deleted_as_soon_as_the_task_begins(store: Store) -> None:
    key = Key("token:ci", "create_shrink", "8e03978e")
    store.idempotency_keys.claim(IdempotencyRow(*key, request="a", makes="0" * 32, created_at=1))
    is_done = threading.Event()

    def expire(now: int) -> None:
        assert store.idempotency_keys.expire(now) == 1
        is_done.set()

    with closing(Retention([ExpiryTask(expire)])) as retention:
        retention.start()
        is_done.wait()


def test_each_table_has_its_own_schedule_and_one_that_fails_is_tried_again() -> None:
    calls: list[str] = []

    def away(_now: int) -> None:
        calls.append("away")
        raise StoreUnavailable("It is away.")

    tasks = [
        ExpiryTask(away, 60.0),
        ExpiryTask(lambda _: calls.append("often"), 0.0),
        ExpiryTask(lambda _: calls.append("hourly")),
    ]
    retention = Retention(tasks)
    assert retention.run_due() <= 0.0
    assert retention.run_due() <= 0.0
    assert calls == ["away", "often", "hourly", "often"]
    tasks[0].due_at = 0.0
    retention.run_due()
    assert calls[4:] == ["away", "often"]


def test_the_task_goes_on_after_a_failure_and_ends_when_it_is_told_to() -> None:
    calls: list[int] = []

    def expire(now: int) -> None:
        calls.append(now)
        if len(calls) == 1:
            raise StoreUnavailable("It is away.")

    retention = Retention([ExpiryTask(expire, 0.01)])
    retention.start()
    until(lambda: len(calls) >= 3)
    retention.close()
    ended = len(calls)
    assert calls == sorted(calls)
    assert ended == len(calls)


def test_one_that_was_never_begun_ends_at_once() -> None:
    Retention([]).close()


def test_a_daemon_deletes_the_old_rows_of_all_tables(tmp_path: Path) -> None:
    settings = Settings(database_url=f"sqlite:///{tmp_path}/shrinkd.db")
    key = Key("token:ci", "create_shrink", "8e03978e")
    with closing(Store(settings.database_url)) as store:
        store.open()
        store.shrinks.record(shrink(1, state="failed", finished_at=1))
        store.decisions.record([decision(at=1)])
        store.events.record([event(1, 1), event(2, 1)])
        store.audit.record([AuditRow("1", 1, "ci", None, "PUT", "/", "r", dry_run=False, body={})])
        store.idempotency_keys.claim(IdempotencyRow(*key, request="a", makes="0", created_at=1))
    with Live(settings, Stage().make_backend) as live:
        store = live.parts.store

        def rows() -> list[object]:
            old = [row.id for row in store.events.list(0, 1)] == [1]
            left = [store.shrinks.list(limit=9), store.decisions.list(limit=9), old]
            return [*left, [row for row in store.audit.list(limit=9) if row.at == 1]]

        until(lambda: not any(rows()))
        assert store.idempotency_keys.expire(now()) == 0


def test_a_fault_in_one_table_ends_the_expiry_of_no_other() -> None:
    def fail(_: int) -> None:
        raise MemoryError

    expired: list[int] = []
    tasks = [ExpiryTask(fail), ExpiryTask(expired.append)]
    assert Retention(tasks).run_due() > 0
    assert len(expired) == 1
