"""The CPU time of the simulated machine.

What using memory costs, whoever asks how often, and where it is counted.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from shrinkd.backends.simulator.machine.accounting import Cgroup
from shrinkd.backends.simulator.machine.machine import Machine
from shrinkd.backends.simulator.machine.running import USE_US, set_workload
from shrinkd.backends.simulator.machine.scenarios import Scenario
from shrinkd.backends.simulator.machine.workloads import IDLE
from shrinkd.backends.simulator.readings import CHARGE_US, activity_of
from tests.support.simulated_machines import MIB, only_process


def made(*memory: dict[str, Any], **more: Any) -> tuple[Machine, Cgroup]:
    """A v2 machine with one group, in a slice of its own; `more` is of the group."""
    group = {"path": "slice/group", "memory": list(memory), **more}
    machine = Scenario.model_validate(
        {"profile": "v2", "swap": {"size_bytes": "4G"}, "groups": [group]}
    ).machine()
    return machine, machine.cgroups["slice/group"]


def anon(size: str, heat: str, **more: Any) -> dict[str, Any]:
    return {"kind": "anon", "size_bytes": size, "heat_seconds": heat, **more}


def live(machine: Machine, seconds: int) -> None:
    for _ in range(seconds):
        machine.advance(1)


def used(cgroup: Cgroup) -> float:
    return activity_of(cgroup).cpu_seconds


def used_in(machine: Machine, cgroup: Cgroup, seconds: int) -> float:
    before = used(cgroup)
    live(machine, seconds)
    return used(cgroup) - before


def test_a_group_in_which_nothing_is_used_uses_no_cpu_time() -> None:
    machine, cgroup = made(anon("512M", "idle"))
    assert used_in(machine, cgroup, 600) == 0


@pytest.mark.parametrize(("heat", "seconds"), [("hot", 1), ("warm", 30), ("cold", 600)])
def test_memory_costs_cpu_time_as_often_as_it_is_used(heat: str, seconds: int) -> None:
    machine, cgroup = made(anon("64M", heat))
    assert used_in(machine, cgroup, 600) == pytest.approx(600 * 64 * MIB / seconds * USE_US / 1e6)


def test_memory_that_is_brought_in_costs_cpu_time_once() -> None:
    _, cgroup = made(anon("64M", "hot"))
    assert used(cgroup) == 64 * MIB * CHARGE_US / 1e6


def test_what_changes_costs_cpu_time_by_what_it_is_at_the_time() -> None:
    machine, cgroup = made(
        {"kind": "shmem", "heat_seconds": "hot", "trace": [[0, "10M"], [50, "30M"], [100, "10M"]]}
    )
    live(machine, 100)
    charged = cgroup.counts.charged * CHARGE_US
    assert used(cgroup) * 1e6 - charged == pytest.approx(100 * 20 * MIB * USE_US, rel=0.02)


def test_writing_costs_cpu_time() -> None:
    machine, cgroup = made({"kind": "file", "size_bytes": "64M", "writes_bytes_per_second": "4M"})
    assert used_in(machine, cgroup, 100) == pytest.approx(100 * 4 * MIB * USE_US / 1e6)


def test_a_process_uses_one_cpu_at_most() -> None:
    machine, cgroup = made(anon("8G", "hot"))
    assert used_in(machine, cgroup, 100) == pytest.approx(100)


def test_who_waits_for_memory_uses_no_cpu_time() -> None:
    machine, cgroup = made(anon("64M", "hot"))
    machine.stall(only_process(cgroup), 90e6)
    assert used_in(machine, cgroup, 90) == 0
    assert used_in(machine, cgroup, 10) == pytest.approx(10 * 64 * MIB * USE_US / 1e6)


def test_cpu_time_is_the_same_however_often_it_is_asked_for() -> None:
    memory = (
        anon("64M", "hot", grows_bytes_per_second="1M", ceiling_bytes="128M", falls=True),
        anon("16M", "cold"),
    )
    (machine, asked), (other, spared) = (
        made(*memory, max_bytes="96M"),
        made(*memory, max_bytes="96M"),
    )
    readings = []
    for _ in range(300):
        live(machine, 1)
        readings.append(used(asked))
    live(other, 300)
    assert readings == sorted(readings)
    assert readings[-1] == used(spared)


def test_the_cpu_time_of_a_process_that_moved_stays_where_it_was_used() -> None:
    machine, cgroup = made(anon("64M", "hot"))
    live(machine, 10)
    new = machine.make(machine.root, "new")
    before = used(cgroup)
    only_process(cgroup).move(new)
    assert (used(cgroup), used(new)) == (before, 0)
    live(machine, 10)
    assert used(cgroup) == before
    assert used(new) == pytest.approx(10 * 64 * MIB * USE_US / 1e6)


@pytest.mark.parametrize("end", ["killed", "uprooted", "replaced"])
def test_the_cpu_time_of_what_is_gone_stays_with_the_groups_around(end: str) -> None:
    machine, cgroup = made(anon("64M", "hot"))
    assert cgroup.parent
    live(machine, 10)
    before = used(cgroup.parent)
    ends: dict[str, Callable[[], object]] = {
        "killed": partial(machine.oom_kill, cgroup),
        "uprooted": partial(machine.remove_tree, cgroup),
        "replaced": partial(set_workload, machine, cgroup, IDLE, "seed"),
    }
    ends[end]()
    assert used(cgroup.parent) == before


def test_the_second_life_of_a_process_costs_as_much_as_the_first() -> None:
    machine, cgroup = made(anon("64M", "hot"), exits_after_seconds=50, restarts_after_seconds=10)
    live(machine, 58)
    first = used(cgroup)
    assert first == pytest.approx((49 * USE_US + CHARGE_US) * 64 * MIB / 1e6)
    live(machine, 59)
    assert used(cgroup) == pytest.approx(2 * first)
