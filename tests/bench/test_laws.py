"""Check the published laws: each answers one reading as its formula does by hand."""

import math
from typing import Any

import pytest

from bench.fields import Cell, drawn, house
from bench.laws import PUBLISHED, alike, by_size, largest_first, polled
from shrinkd.backends import Limits, MemStat, Pressure, Stall
from shrinkd.policies import Decision, Kind, Reclaim, Resize
from tests.support.observations import MIB, Policy, member_of

FLOOR = 64 * MIB


class Group:
    """One group of 1 GiB above its floor, under a law."""

    def __init__(self, law: Kind, **spec: Any) -> None:
        self.policy = Policy(law, **spec)
        self.now = 0.0
        self.total_us = 0

    def look(
        self,
        avg10: float = 0.0,
        avg60: float = 0.0,
        *,
        after: float = 1.0,
        stalled_us: int = 0,
        **sizes: Any,
    ) -> Decision:
        self.now += after
        self.total_us += stalled_us
        usage = sizes.pop("usage_bytes", 1024 * MIB + FLOOR)
        limits = sizes.pop("limits", Limits(max_bytes=None))
        pressure = Pressure(Stall(avg10, avg60, 0.0, self.total_us), Stall(0, 0, 0, 0))
        return self.policy.look(
            self.now, member_of(MemStat(usage, limits, pressure=pressure, **sizes), FLOOR)
        )

    def asked(self, *averages: float, **reading: Any) -> int:
        return asked_of(self.look(*averages, **reading))


def asked_of(decision: Decision) -> int:
    return decision.ask.reclaim_bytes or 0 if isinstance(decision.ask, Reclaim) else 0


def high_of(decision: Decision) -> int | None:
    return decision.ask.limits["high_bytes"] if isinstance(decision.ask, Resize) else None


def pages(size: float) -> int:
    return int(size) // 4096 * 4096


def test_senpai_begins_at_usage_and_tightens_by_a_hundredth_when_six_seconds_brought_no_stall() -> (
    None
):
    group = Group(PUBLISHED["senpai"])
    start = high_of(group.look())
    assert start == 1024 * MIB + FLOOR
    assert [high_of(group.look()) for _ in range(6)] == [None] * 6
    assert high_of(group.look()) == pages(start * 0.99)
    assert [high_of(group.look()) for _ in range(5)] == [None] * 5


@pytest.mark.parametrize(
    ("stalled_us", "factor"),
    [
        (5_000, 1 - (10_000 / 5_000 / 10) ** 2 * 0.01),
        (20_000, 1 + (20_000 / 10_000 / 20) ** 2),
        (10**6, 2.0),
    ],
    ids=["half of the target", "twice the target", "a hundred times"],
)
def test_senpai_moves_by_the_square_of_how_far_it_is_from_ten_milliseconds(
    stalled_us: int, factor: float
) -> None:
    group = Group(PUBLISHED["senpai"])
    start = high_of(group.look()) or 0
    moves = [
        high_of(group.look(stalled_us=stalled_us if second == 0 else 0)) for second in range(7)
    ]
    assert next(move for move in moves if move) == pages(start * factor)


def test_senpai_never_holds_less_than_the_floor() -> None:
    group = Group(PUBLISHED["senpai"])
    assert high_of(group.look(usage_bytes=32 * MIB)) == FLOOR


def test_oomd_takes_a_hundredth_of_what_is_above_the_floor_and_leaves_out_six_rounds() -> None:
    group = Group(PUBLISHED["oomd, immediate back-off"])
    assert [group.asked() for _ in range(14)] == [*[0] * 6, pages(1024 * MIB / 100)] * 2


def test_oomd_waits_for_both_averages() -> None:
    group = Group(PUBLISHED["oomd, immediate back-off"])
    for _ in range(6):
        group.look()
    assert [group.asked(0.1, 0.0), group.asked(0.0, 0.1), group.asked(0.09, 0.09)] == [
        0,
        0,
        pages(1024 * MIB / 100),
    ]


@pytest.mark.parametrize(
    ("avg10", "share"), [(0.0, 0.0005), (0.05, 0.00025), (0.1, 0.0), (3.0, 0.0)]
)
def test_tmo_takes_less_of_usage_the_nearer_pressure_comes_to_a_thousandth(
    avg10: float, share: float
) -> None:
    decision = Group(PUBLISHED["TMO"]).look(avg10)
    assert (asked_of(decision), decision.look_seconds) == (pages((1024 * MIB + FLOOR) * share), 6)


@pytest.mark.parametrize(
    ("avg60", "cache", "asked"),
    [(0.0, 512, 5.44), (0.05, 512, 2.72), (0.0, 3, 3), (0.2, 512, 0)],
    ids=["calm", "half", "little cache", "over"],
)
def test_katalyst_takes_half_a_percent_of_usage_and_no_more_than_there_is_cache(
    avg60: float, cache: int, asked: float
) -> None:
    decision = Group(PUBLISHED["katalyst"]).look(9.0, avg60, file_bytes=cache * MIB)
    assert (asked_of(decision), decision.look_seconds) == (pages(asked * MIB), 30)


def test_etmem_takes_a_twentieth_more_after_five_calm_rounds_and_less_after_two_others() -> None:
    group = Group(PUBLISHED["etmem"])
    shares = [group.asked() / (1024 * MIB) for _ in range(6)]
    assert shares == pytest.approx([0.05] * 5 + [0.06], rel=1e-3)
    assert [group.asked(0.1), group.asked(0.0, 0.1), group.asked(0.1)] == [
        0,
        0,
        0,
    ]  # the first only ends the count of calm ones
    assert group.asked() / (1024 * MIB) == pytest.approx(0.05, rel=1e-3)


def test_a_poll_looks_each_second_and_takes_what_is_above_low() -> None:
    limits = Limits(1000 * MIB, effective_max_bytes=1000 * MIB)
    below, above = (
        Group(polled).look(usage_bytes=size * MIB, limits=limits) for size in (899, 901)
    )
    assert (below.ask, above.ask) == (None, Reclaim(target_bytes=850 * MIB))
    assert below.look_seconds == above.look_seconds == 1


def test_what_each_pays_of_a_need_of_90() -> None:
    assert list(by_size([100, 200, 600], 90)) == [10, 20, 60]
    assert list(alike([10, 200, 600], 90)) == [10, 40, 40]
    assert list(largest_first([100, 200, 600], 90)) == [0, 0, 90]


def test_the_optimum_takes_what_is_idle_and_then_what_the_target_pays_for() -> None:
    pieces: list[tuple[str, str, float | str]] = [
        ("anon", "512M", "idle"),
        ("anon", "256M", 100),
        ("file", "256M", "hot"),
    ]
    cell = Cell("by hand", house({"web": pieces}, 10))
    # 256 MiB of 10 us each 100 s are 6553.6 us a second, of which the target pays 1000; the hot
    # ones cost most and come last
    assert cell.optimum_bytes == pytest.approx(512 * MIB + 1000 / (10 / 100) * 4096)
    spared = Cell("all of it idle", house({"web": [("anon", "512M", "idle")]}, 10))
    assert spared.optimum_bytes == 512 * MIB - FLOOR


def test_the_groups_from_seeds_are_the_same_every_time_and_each_has_something_to_save() -> None:
    cells = [*drawn()]
    assert [cell.scenario for cell in cells] == [cell.scenario for cell in drawn()]
    assert all(0 < cell.optimum_bytes < math.inf for cell in cells)
    assert len({cell.name for cell in cells}) == len(cells)
