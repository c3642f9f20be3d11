"""Test the size of requests to memory.reclaim, which adapts to earlier writes."""

import pytest

from shrinkd.backends.v2.reclaim_sizer import ReclaimSizer
from shrinkd.sizes import PAGE_BYTES
from tests.backends.hosts import MIB

WANTED = 25e-3


def after(*writes: tuple[float, float], goal: int = 1 << 40) -> int:
    """Return the request after writes that took these seconds and freed this part of it."""
    sizer = ReclaimSizer()
    for seconds, part in writes:
        asked = sizer.request_bytes(goal)
        sizer.learn(asked, int(asked * part), seconds)
    return sizer.request_bytes(1 << 40)


@pytest.mark.parametrize(("goal", "asked"), [(0, 1), (1, 1), (4096, 1), (4097, 2), (1 << 20, 256)])
def test_a_goal_is_asked_for_in_whole_pages_and_at_least_one(goal: int, asked: int) -> None:
    assert ReclaimSizer().request_bytes(goal) == asked * PAGE_BYTES


def test_a_goal_beyond_the_first_chunk_is_cut() -> None:
    assert ReclaimSizer().request_bytes(1 << 40) == after() == 4 * MIB


def test_quick_writes_double_the_chunk_each_time() -> None:
    assert [after(*[(1e-3, 1.0)] * times) for times in range(4)] == [
        4 * MIB,
        8 * MIB,
        16 * MIB,
        32 * MIB,
    ]


def test_a_chunk_settles_where_a_write_takes_the_wanted_time() -> None:
    sizer = ReclaimSizer()
    for _ in range(20):
        asked = sizer.request_bytes(1 << 40)
        sizer.learn(asked, asked, asked / (2 << 30))
    assert sizer.request_bytes(1 << 40) == pytest.approx(WANTED * (2 << 30), rel=0.1)


def test_a_slow_write_shortens_the_next_and_no_speed_passes_the_ends() -> None:
    assert after((1e-3, 1.0), (1e-3, 1.0), (50e-3, 1.0)) == 8 * MIB
    assert after(*[(1.0, 0.0)] * 9) == MIB
    assert after(*[(1e-9, 1.0)] * 30) == 1 << 30


def test_a_write_that_freed_little_says_nothing_of_the_speed() -> None:
    assert after((1e-3, 0.1)) == after((1e-3, 0.0)) == 4 * MIB


def test_quick_writes_of_a_small_goal_say_nothing_of_a_large_one() -> None:
    assert after(*[(1e-4, 1.0)] * 9, goal=PAGE_BYTES) == 4 * MIB


def test_a_slow_write_of_a_small_goal_shortens_the_next() -> None:
    assert after((60e-3, 1.0), goal=3 * MIB) == 1.5 * MIB
