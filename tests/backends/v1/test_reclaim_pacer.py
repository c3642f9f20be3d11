"""The pace is arithmetic: what writes have shown, and how long the next one may run."""

import pytest

from shrinkd.backends.v1.reclaim_pacer import ReclaimPacer
from tests.backends.hosts import MIB

SMALL_FOLIOS = 6 * 2.0**30
LARGE_FOLIOS = 200 * 2.0**30
DRAIN = 50e-6


def pace_after(speed: float, writes: int) -> ReclaimPacer:
    pace = ReclaimPacer()
    for _ in range(writes):
        write(pace, 1024 * MIB, speed)
    return pace


def write(pace: ReclaimPacer, goal: int, speed: float) -> float:
    """Answer what one write would free of a memory that frees at a speed."""
    quantum = pace.quantum(goal)
    freed = (quantum - DRAIN) * speed
    pace.learn(int(freed), quantum)
    return freed


def writes_to_free(pace: ReclaimPacer, goal: int, speed: float) -> int:
    for count in range(1, 1000):
        goal -= int(write(pace, goal, speed)) + 4096
        if goal <= 0:
            return count
    return 1000


@pytest.mark.parametrize("goal", [1, MIB, 64 * MIB, 1024 * MIB])
def test_a_new_group_frees_no_more_than_its_goal_at_any_speed(goal: int) -> None:
    assert write(ReclaimPacer(), goal, LARGE_FOLIOS) <= goal


@pytest.mark.parametrize("speed", [SMALL_FOLIOS, LARGE_FOLIOS])
@pytest.mark.parametrize("goal", [MIB, 64 * MIB, 1024 * MIB])
def test_a_steady_speed_never_leads_beyond_the_goal(goal: int, speed: float) -> None:
    pace = pace_after(speed, 20)
    assert write(pace, goal, speed) <= goal


@pytest.mark.parametrize("speed", [SMALL_FOLIOS, LARGE_FOLIOS])
def test_the_writes_for_a_goal_are_few(speed: float) -> None:
    assert writes_to_free(ReclaimPacer(), 1024 * MIB, speed) < 80


def test_large_folios_after_small_ones_cost_a_bounded_surplus() -> None:
    pace = pace_after(SMALL_FOLIOS, 20)
    assert write(pace, 8 * MIB, LARGE_FOLIOS) <= 128 * MIB


def test_a_group_that_showed_large_folios_is_distrusted_at_once() -> None:
    pace = pace_after(SMALL_FOLIOS, 20)
    write(pace, 64 * MIB, LARGE_FOLIOS)
    assert write(pace, 64 * MIB, LARGE_FOLIOS) <= 64 * MIB


def test_a_write_that_freed_nothing_is_followed_by_longer_ones_up_to_a_bound() -> None:
    pace, quanta = ReclaimPacer(), []
    for _ in range(20):
        quanta.append(pace.quantum(4096))
        pace.learn(0, quanta[-1])
    assert quanta == sorted(quanta)
    assert quanta[1] > quanta[0]
    assert quanta[-1] == quanta[-2]


def test_one_write_that_frees_something_ends_the_longer_ones() -> None:
    fresh, tried = ReclaimPacer(), ReclaimPacer()
    for _ in range(5):
        tried.learn(0, 1e-3)
    tried.learn(4096, 1e-3)
    fresh.learn(4096, 1e-3)
    assert tried.quantum(MIB) == fresh.quantum(MIB)
