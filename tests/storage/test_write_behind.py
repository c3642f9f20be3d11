"""The buffer between what happens and the database: order, bound, retries and the end."""

import threading
from collections.abc import Sequence

import pytest

from shrinkd.errors import StoreUnavailable
from shrinkd.storage import WriteBehind
from tests.support.polling import until


class Table:
    """A table that can be unavailable, or be in the middle of a write."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.tries = 0
        self.is_away = False
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def write(self, items: Sequence[str]) -> None:
        self.tries += 1
        self.may_go_on.wait()
        if self.is_away:
            raise StoreUnavailable("It is away.")
        self.batches.append([*items])

    @property
    def rows(self) -> list[str]:
        return [row for batch in self.batches for row in batch]


def buffer_of(table: Table, bound: int = 100, batch: int | None = None) -> WriteBehind[str, str]:
    return WriteBehind(
        "rows", table.write, bound=bound, batch=batch, merge=lambda older, newer: older + newer
    )


def put(buffer: WriteBehind[str, str], *items: str) -> None:
    for item in items:
        buffer.put(item, item)


def test_items_are_written_in_order_and_in_batches() -> None:
    table = Table()
    buffer = buffer_of(table, batch=2)
    put(buffer, "a", "b", "c")
    buffer.flush()
    buffer.flush()
    assert table.batches == [["a", "b"], ["c"]]


def test_an_item_is_found_until_it_is_written_and_not_afterwards() -> None:
    table = Table()
    buffer = buffer_of(table)
    put(buffer, "a", "b")
    assert (buffer.get("a"), buffer.get("z"), buffer.items()) == ("a", None, ["a", "b"])
    table.may_go_on.clear()
    writer = threading.Thread(target=buffer.flush)
    writer.start()
    until(lambda: table.tries)
    assert (buffer.get("a"), buffer.items()) == ("a", ["a", "b"])
    table.may_go_on.set()
    writer.join()
    assert (buffer.get("a"), buffer.items()) == (None, [])


def test_items_of_one_key_are_merged_in_the_place_of_the_first() -> None:
    table = Table()
    buffer = buffer_of(table)
    put(buffer, "a", "b", "a")
    buffer.flush()
    assert table.rows == ["aa", "b"]


def test_what_cannot_be_written_waits_before_what_came_meanwhile_and_is_merged_with_it() -> None:
    table = Table()
    table.is_away = True
    buffer = buffer_of(table)
    put(buffer, "a", "b")
    with pytest.raises(StoreUnavailable):
        buffer.flush()
    assert buffer.is_behind
    put(buffer, "c", "a")
    table.is_away = False
    buffer.flush()
    assert (table.rows, buffer.is_behind) == (["aa", "b", "c"], False)


def test_an_item_that_comes_during_the_write_of_its_key_is_written_after_it() -> None:
    table = Table()
    buffer = buffer_of(table)
    put(buffer, "a")
    table.may_go_on.clear()
    writer = threading.Thread(target=buffer.flush)
    writer.start()
    until(lambda: table.tries)
    put(buffer, "a")
    table.may_go_on.set()
    writer.join()
    assert (table.batches, buffer.items()) == ([["a"]], ["a"])
    buffer.flush()
    assert table.batches == [["a"], ["a"]]


def test_beyond_the_bound_the_oldest_is_discarded_and_the_owner_can_know_before() -> None:
    table = Table()
    buffer = buffer_of(table, bound=2)
    put(buffer, "a")
    assert not buffer.is_full
    put(buffer, "b")
    assert buffer.is_full
    put(buffer, "c", "d")
    assert buffer.items() == ["c", "d"]


def test_what_is_put_back_counts_for_the_bound_and_what_is_being_written_is_not_discarded() -> None:
    table = Table()
    table.is_away = True
    table.may_go_on.clear()
    buffer = buffer_of(table, bound=2)
    put(buffer, "a", "b")
    failed: list[StoreUnavailable] = []

    def flush() -> None:
        try:
            buffer.flush()
        except StoreUnavailable as error:
            failed.append(error)

    writer = threading.Thread(target=flush)
    writer.start()
    until(lambda: table.tries)
    put(buffer, "c")
    assert buffer.items() == ["a", "b"]
    table.may_go_on.set()
    writer.join()
    assert (len(failed), buffer.items()) == (1, ["a", "b"])


def test_the_thread_keeps_what_can_wait_until_there_is_more_to_write_or_the_end() -> None:
    table = Table()
    buffer = buffer_of(table)
    buffer.start()
    put(buffer, "first")
    until(lambda: table.rows == ["first"])
    buffer.put("late", "late", 3600.0)
    assert table.tries == 1
    put(buffer, "now")
    until(lambda: table.rows == ["first", "late", "now"])
    buffer.put("later", "later", 3600.0)
    buffer.close()
    assert table.batches == [["first"], ["late", "now"], ["later"]]


def test_what_comes_during_a_write_waits_for_its_spacing_after_that_write() -> None:
    table = Table()
    table.may_go_on.clear()
    buffer = buffer_of(table)
    buffer.start()
    put(buffer, "first")
    until(lambda: table.tries)
    buffer.put("late", "late", 3600.0)
    table.may_go_on.set()
    until(lambda: buffer.items() == ["late"])
    put(buffer, "now")
    until(lambda: table.rows == ["first", "late", "now"])
    buffer.close()


def test_the_thread_tries_again_less_and_less_often_until_the_database_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = Table()
    table.is_away = True
    buffer = buffer_of(table)
    buffer.start()
    put(buffer, "a")
    until(lambda: table.tries == 2)
    table.is_away = False
    put(buffer, "b")
    until(lambda: table.rows == ["a", "b"])
    buffer.close()
    assert "1 rows are not written down yet: It is away." in caplog.text


def test_the_end_waits_for_one_try_and_for_no_retry() -> None:
    table = Table()
    table.is_away = True
    buffer = buffer_of(table)
    buffer.start()
    put(buffer, "a")
    until(lambda: table.tries)
    buffer.close()
    assert (table.tries, table.rows) == (2, [])


@pytest.mark.parametrize("is_away", [False, True])
def test_without_a_thread_the_end_tries_once(*, is_away: bool) -> None:
    table = Table()
    table.is_away = is_away
    buffer = buffer_of(table)
    put(buffer, "a")
    buffer.close()
    assert (table.tries, table.rows) == (1, [] if is_away else ["a"])


def test_a_fault_of_the_writer_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[int] = []

    def write(items: Sequence[str]) -> None:
        tries.append(len(items))
        if len(tries) == 1:
            raise ZeroDivisionError

    buffer = WriteBehind[str, str]("rows", write, bound=9)
    buffer.start()
    put(buffer, "a")
    until(lambda: len(tries) == 2)
    buffer.close()
    assert "ZeroDivisionError" in caplog.text


def test_a_batch_is_reported_when_it_is_no_longer_found() -> None:
    table = Table()
    seen: list[tuple[list[str], list[str]]] = []
    buffer = WriteBehind[str, str](
        "rows",
        table.write,
        bound=9,
        batch=1,
        on_written=lambda batch: seen.append(([*batch], buffer.items())),
    )
    put(buffer, "a", "b")
    buffer.flush()
    assert seen == [(["a"], ["b"]), (["b"], [])]


def test_what_is_put_when_the_last_batch_is_reported_is_written_before_the_end() -> None:
    table = Table()
    buffer: WriteBehind[str, str] = WriteBehind(
        "rows",
        table.write,
        bound=9,
        on_written=lambda batch: buffer.put("gap", "gap") if "a" in batch else None,
    )
    buffer.start()
    put(buffer, "a")
    buffer.close()
    assert table.rows == ["a", "gap"]


def test_a_thread_that_cannot_be_started_is_tried_again_by_the_next_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    written: list[str] = []
    writer = WriteBehind[int, str]("things", written.extend, bound=10)
    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            writer.start()
    writer.put(1, "a")
    writer.start()
    until(lambda: written == ["a"])
    writer.close()


def test_what_is_left_behind_a_fault_in_the_callback_is_written_all_the_same() -> None:
    written: list[str] = []
    faults = ["a fault of a listener"]

    def on_written(_: Sequence[str]) -> None:
        if faults:
            raise RuntimeError(faults.pop())

    writer = WriteBehind[int, str](
        "things", written.extend, bound=10, batch=2, on_written=on_written
    )
    for number in range(6):
        writer.put(number, str(number))
    writer.start()
    until(lambda: len(written) == 6)
    writer.close()
