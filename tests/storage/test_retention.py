"""One task expires the rows of all tables, each on its own schedule."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shrinkd.errors import StoreUnavailable
from shrinkd.storage import ExpiryTask, Key, Retention, Store
from shrinkd.storage.idempotency_keys import IdempotencyRow
from tests.support.polling import until


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
