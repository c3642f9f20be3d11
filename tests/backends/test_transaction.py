"""Test several writes as one: what is undone, in which order, and when an intent is settled."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from shrinkd.backends import LimitName
from shrinkd.backends.transaction import limit_steps, write_all
from shrinkd.errors import Busy, StoreUnavailable

HELD: dict[LimitName, int] = {"max_bytes": 1, "high_bytes": 2, "low_bytes": 3}
WRITES: list[tuple[LimitName, int]] = [("max_bytes", 10), ("high_bytes", 20), ("low_bytes", 30)]


class Files:
    """Refuse a value of `refused`, and record all calls of limits and intent."""

    def __init__(self, *refused: int, sticks: bool = False) -> None:
        self.values = dict(HELD)
        self.said: list[object] = []
        self._refused = refused
        self._sticks = sticks

    def write(self) -> None:
        write_all(HELD, WRITES, self._commit, self._intent())

    def _commit(self, name: LimitName, value: int) -> None:
        if value in self._refused:
            raise Busy("No.")
        self.values[name] = value
        self.said.append(value)

    @contextmanager
    def _intent(self) -> Iterator[Callable[[], None]]:
        self.said.append("intended")
        try:
            yield self._settle
        finally:
            self.said.append("over")

    def _settle(self) -> None:
        self.said.append("settled")
        if self._sticks:
            raise StoreUnavailable("It stays.")


def named(values: Mapping[LimitName, int]) -> dict[LimitName, int | None]:
    return dict(values)


def test_an_intent_is_settled_behind_the_last_write() -> None:
    files = Files()
    files.write()
    assert files.said == ["intended", 10, 20, 30, "settled", "over"]


def test_what_was_written_before_a_refusal_is_put_back_inside_of_the_intent() -> None:
    files = Files(30)
    with pytest.raises(Busy):
        files.write()
    assert files.said == ["intended", 10, 20, 2, 1, "over"]
    assert files.values == HELD


def test_an_intent_that_cannot_be_settled_is_a_refusal() -> None:
    files = Files(sticks=True)
    with pytest.raises(StoreUnavailable):
        files.write()
    assert files.said == ["intended", 10, 20, 30, "settled", 3, 2, 1, "over"]


def test_what_cannot_be_put_back_stays_and_the_rest_is_put_back() -> None:
    files = Files(30, 2)
    with pytest.raises(Busy):
        files.write()
    assert files.values == HELD | {"high_bytes": 20}


def test_the_way_stations_are_what_a_death_between_two_writes_leaves() -> None:
    assert limit_steps(HELD, WRITES[:2], named) == [
        {"max_bytes": 1, "high_bytes": 2},
        {"max_bytes": 10, "high_bytes": 2},
        {"max_bytes": 10, "high_bytes": 20},
    ]


def test_a_limit_that_passes_through_another_value_belongs_to_the_way() -> None:
    def apart(values: Mapping[LimitName, int]) -> dict[LimitName, int | None]:
        return {
            "max_bytes": values["max_bytes"],
            "swap_max_bytes": values["high_bytes"] - values["max_bytes"],
        }

    assert [
        step["swap_max_bytes"] for step in limit_steps(HELD, [WRITES[1], WRITES[0]], apart)
    ] == [1, 19, 10]
