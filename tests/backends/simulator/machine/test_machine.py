"""The rules of the simulated machine.

Charging, killing, protection, throttling, and how stalls add up.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkd.backends.simulator.machine.machine import MEMCG_CHARGE_BATCH, Machine, high_delay_us
from shrinkd.backends.simulator.machine.pressure import PSI_PERIOD_US, Stalls
from tests.support.simulated_machines import MIB, add, grown, machine_of, only_process, pages_of


@pytest.fixture
def machine() -> Machine:
    return machine_of()


# Charging


def test_a_charge_over_the_limit_reclaims_and_counts_the_failure(machine: Machine) -> None:
    cgroup = grown(machine, "group", file=900)
    cgroup.max = 1000
    assert machine.charge(only_process(cgroup), "anon", 300)
    assert cgroup.usage <= 1000
    assert cgroup.failcnt == -(-200 // MEMCG_CHARGE_BATCH)
    assert (pages_of(cgroup, "anon"), cgroup.events["oom_kill"]) == (300, 0)


def test_the_largest_process_is_killed_and_the_smaller_one_gets_its_memory(
    machine: Machine,
) -> None:
    cgroup = grown(machine, "group", anon=800)
    cgroup.max = 1000
    large = only_process(cgroup)
    small = machine.start(cgroup)
    assert machine.charge(small, "anon", 400)
    assert large.pid not in machine.processes
    assert (cgroup.usage, cgroup.events["oom_kill"], machine.root.events["oom_kill"]) == (400, 1, 1)


def test_a_process_outside_the_tight_group_is_never_killed_for_it(machine: Machine) -> None:
    outsider = grown(machine, "outsider", anon=100_000)
    tight = grown(machine, "tight", anon=10)
    tight.max = 100
    assert not machine.charge(only_process(tight), "anon", 1000)
    assert (len(outsider.processes), outsider.events["oom_kill"], tight.usage) == (1, 0, 0)


def test_a_group_that_dies_as_one_leaves_nobody_behind(
    machine: Machine,
) -> None:  # selftests oom_group_parent_events
    parent = grown(machine, "parent", anon=100)
    child = grown(machine, "child", parent, anon=500)
    parent.oom_group, parent.max = 1, 1000
    assert not machine.charge(only_process(child), "anon", 1000)
    assert (len(parent.processes), len(child.processes), parent.events["oom_kill"]) == (0, 0, 2)


def test_a_child_that_dies_as_one_spares_its_parent(
    machine: Machine,
) -> None:  # selftests oom_group_leaf_events
    parent = grown(machine, "parent", anon=600)
    child = grown(machine, "child", parent, anon=100)
    machine.charge(machine.start(child), "anon", 10)
    child.oom_group, child.max = 1, 500
    assert not machine.charge(only_process(grown(machine, "inner", child)), "anon", 1000)
    assert (len(parent.processes), len(child.processes)) == (1, 0)


def test_the_machine_itself_is_a_limit(machine: Machine) -> None:
    cgroup = grown(machine, "group", anon=machine.hardware.pages + 1)
    assert (cgroup.events["oom_kill"], machine.root.usage) == (1, 0)


def test_memory_of_a_removed_group_stays_with_its_parent_until_its_process_ends(
    machine: Machine,
) -> None:
    cgroup = grown(machine, "group", anon=100, file=50)
    process = only_process(cgroup)
    process.move(grown(machine, "other"))
    machine.remove(cgroup)
    assert pages_of(machine.root, "anon") == 100
    machine.exit(process)
    assert machine.root.usage == 50


def test_what_a_removed_group_has_counted_stays_in_its_parents_counts(machine: Machine) -> None:
    parent = machine.make(machine.root, "parent")
    cgroup = grown(machine, "child", parent, anon=100)
    machine.exit(only_process(cgroup))
    machine.remove(cgroup)
    assert parent.all_counts().faults == 100


def test_a_limit_on_memory_and_swap_is_met_without_swap() -> None:
    machine = machine_of(swap=1000)
    cgroup = grown(machine, "group", anon=100, file=50)
    cgroup.memsw = cgroup.max = 200
    assert machine.charge(only_process(cgroup), "anon", 90)
    assert (cgroup.swap, pages_of(cgroup, "anon"), cgroup.usage) == (
        0,
        190,
        190 + pages_of(cgroup, "file"),
    )


# Counting ahead


def test_each_cpu_charges_ahead_for_the_group_that_used_it_last() -> None:
    machine = machine_of(cpus=1)
    first, second = grown(machine, "first", anon=1), grown(machine, "second")
    assert first.usage == MEMCG_CHARGE_BATCH
    machine.charge(only_process(second), "anon", 1)
    assert (first.usage, second.usage) == (1, MEMCG_CHARGE_BATCH)


def test_what_was_charged_ahead_is_used_up_before_more_is_charged() -> None:
    machine = machine_of(cpus=1)
    cgroup = grown(machine, "group", anon=1)
    machine.charge(only_process(cgroup), "anon", MEMCG_CHARGE_BATCH - 1)
    assert (cgroup.usage, machine.stocked(cgroup)) == (MEMCG_CHARGE_BATCH, 0)


def test_what_was_charged_ahead_kills_nobody() -> None:
    machine = machine_of(cpus=4)
    cgroup = grown(machine, "group", anon=1)
    cgroup.max = MEMCG_CHARGE_BATCH
    for _ in range(3):
        assert machine.charge(machine.start(cgroup), "anon", 20)
    assert cgroup.events["oom_kill"] == 0


# Protection


def _protected(limit: str) -> tuple[Machine, dict[str, int]]:
    """The tree of the kernel's test_memcg_protection.

    A (max 200M) has B (50M) and G; B has C (75M), D (25M), E and F (500M).
    """
    machine = machine_of("v2")
    top = machine.make(machine.root, "A")
    top.max = 200 * MIB
    shielded = machine.make(top, "B")
    setattr(shielded, limit, 50 * MIB)
    children = {name: grown(machine, name, shielded, file=50 * MIB) for name in ("C", "D", "E")} | {
        "F": grown(machine, "F", shielded)
    }
    for name, size in (("C", 75), ("D", 25), ("F", 500)):
        setattr(children[name], limit, size * MIB)
    hungry = grown(machine, "G", top)
    assert machine.charge(only_process(hungry), "anon", 148 * MIB)
    return machine, {cgroup.path.rpartition("/")[2]: cgroup.usage for cgroup in top.subtree()}


@pytest.mark.parametrize("limit", ["min", "low"])
def test_protection_is_shared_out_as_in_the_kernels_own_test(
    limit: str,
) -> None:  # selftests min, low
    _, usage = _protected(limit)
    assert usage["B"] == pytest.approx(50 * MIB, rel=0.06)
    assert usage["C"] == pytest.approx(29 * MIB, rel=0.2)
    assert usage["D"] == pytest.approx(21 * MIB, rel=0.2)
    assert usage["E"] < MIB
    assert usage["F"] == 0


def test_a_min_is_never_broken(machine: Machine) -> None:  # selftests min: 170M fail
    machine, _ = _protected("min")
    hungry = machine.cgroups["A/G"]
    assert not machine.charge(only_process(hungry), "anon", 22 * MIB)
    assert machine.cgroups["A/B"].usage == pytest.approx(50 * MIB, rel=0.06)


def test_a_low_is_broken_when_nothing_else_is_left_and_that_is_counted() -> (
    None
):  # selftests low: 170M succeed, B is left 30M
    machine, _ = _protected("low")
    assert machine.charge(only_process(machine.cgroups["A/G"]), "anon", 22 * MIB)
    assert machine.cgroups["A/B"].usage == pytest.approx(30 * MIB, rel=0.06)
    lows = {name: machine.cgroups[f"A/B/{name}"].events["low"] for name in "CDEF"}
    assert lows["C"] > 0
    assert lows["D"] > 0
    assert (lows["E"], lows["F"]) == (0, 0)


def test_a_group_protects_nothing_against_its_own_shrink(machine: Machine) -> None:
    cgroup = grown(machine, "group", file=100)
    cgroup.min = 100
    machine.reclaim(cgroup, 100)
    assert cgroup.usage == 0


# High


@pytest.mark.parametrize(("above", "seconds"), [(1, 0.09), (2, 0.36), (3, 1.1), (4, 1.7), (5, 2.6)])
def test_a_mebibyte_above_high_takes_as_long_as_on_6_12(above: int, seconds: float) -> None:
    """Measured with memory.high=50M, on a process that has some 400 KiB besides what it counts."""
    machine = machine_of("v2")
    cgroup = grown(machine, "group", kernel=100, anon=(49 + above) * MIB)
    cgroup.high = 50 * MIB
    process = only_process(cgroup)
    for _ in range(MIB // MEMCG_CHARGE_BATCH):
        machine.charge(process, "anon", MEMCG_CHARGE_BATCH)
    assert process.wakes_us / 1e6 == pytest.approx(seconds, rel=0.3)


def test_no_sleep_above_high_is_longer_than_two_seconds() -> None:
    machine = machine_of("v2")
    cgroup = grown(machine, "group", anon=1000)
    cgroup.high = 1
    assert high_delay_us(cgroup) == 2_000_000


def test_a_high_is_kept_by_reclaim_where_there_is_cache_and_kills_nobody() -> (
    None
):  # selftests high
    machine = machine_of("v2")
    cgroup = machine.make(machine.root, "group")
    cgroup.high = 30 * MIB
    process = machine.start(cgroup)
    assert machine.charge(process, "file", 50 * MIB)
    assert cgroup.usage == pytest.approx(30 * MIB, rel=0.05)
    assert cgroup.events["high"] > 0
    assert machine.charge(process, "anon", 31 * MIB)


# Pressure


def test_one_whole_period_of_stall_moves_the_averages_as_the_kernel_does() -> None:
    stalls = Stalls()
    stalls.add(PSI_PERIOD_US, now_us=0)
    stalls.settle(PSI_PERIOD_US)
    assert stalls.averages == pytest.approx(
        [100 * (1 - math.exp(-2 / window)) for window in (10, 60, 300)]
    )


def test_a_long_stall_told_at_once_is_the_same_as_told_in_periods() -> None:
    once, often = Stalls(), Stalls()
    once.add(30_000_000, 60_000_000, 60_000_000)
    for end_us in range(PSI_PERIOD_US, 60_000_001, PSI_PERIOD_US):
        often.add(PSI_PERIOD_US // 2, end_us, PSI_PERIOD_US)
    often.settle(60_000_000)
    assert once.averages == pytest.approx(often.averages)
    assert once.total_us == often.total_us


@given(st.lists(st.tuples(st.integers(0, 10_000_000), st.integers(0, 2_000_000)), max_size=20))
def test_averages_do_not_depend_on_how_often_they_are_read(stalls: list[tuple[int, int]]) -> None:
    lazy, eager, now_us = Stalls(), Stalls(), 0
    for pause_us, stall_us in stalls:
        for us in range(now_us, now_us + pause_us, 500_000):
            eager.settle(us)
        now_us += pause_us
        lazy.add(stall_us, now_us)
        eager.add(stall_us, now_us)
    lazy.settle(now_us + 5_000_000)
    eager.settle(now_us + 5_000_000)
    assert lazy.averages == pytest.approx(eager.averages)
    assert all(0 <= average <= 100 for average in lazy.averages)


def test_two_of_two_who_wait_are_full_and_one_of_two_is_some(machine: Machine) -> None:
    cgroup = machine.make(machine.root, "group")
    first, second = machine.start(cgroup), machine.start(cgroup)
    machine.stall(first, 1_000_000)
    machine.advance(1)
    assert (cgroup.some.total_us, cgroup.full.total_us) == (1_000_000, 0)
    machine.stall(first, 1_000_000)
    machine.stall(second, 1_000_000)
    machine.advance(1)
    assert (cgroup.some.total_us, cgroup.full.total_us) == (2_000_000, 1_000_000)


def test_nobody_waits_longer_than_time_goes_by(machine: Machine) -> None:
    cgroup = machine.make(machine.root, "group")
    machine.stall(machine.start(cgroup), 10_000_000)
    machine.advance(3)
    assert cgroup.some.total_us == cgroup.full.total_us == 3_000_000


def test_the_flusher_cleans_dirty_pages_in_time(machine: Machine) -> None:
    cgroup = machine.make(machine.root, "group")
    area = add(machine, machine.start(cgroup), "file", 1024)
    machine.dirty(area, 1024)
    machine.advance(1)
    assert area.writeback > 0
    for _ in range(60):
        machine.advance(1)
    assert (area.dirty, area.writeback, cgroup.usage) == (0, 0, 1024)
