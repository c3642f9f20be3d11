"""What is the simulator's own: its clock, its demo, v1's rule on swap, and the time that a pass takes."""

import math
from dataclasses import dataclass
from typing import get_args

import pytest

from app.backends import LIMIT_NAMES, Group
from app.backends._scenarios import SCENARIOS
from app.backends._simulated import SWAP_CLUSTER_MAX, Kind
from app.backends.simulator import PASS_US, TICKS_A_VERB, Simulator
from app.errors import GroupBusy, LimitOrder, Unsupported, UnsupportedLimit
from app.memcontrol import Memcg, resize_limit, shrink_usage_to
from app.memparse import PAGE_BYTES
from app.settings import Settings
from tests.backends.hosts import MIB
from tests.currents import Scripted

HOUR = 3600.0
DAY = 24 * HOUR
CHARGED: tuple[Kind, ...] = ("inactive_anon", "inactive_file", "dirty", "shmem", "unevictable", "slab_reclaimable", "kernel")


@dataclass
class Clock:
    """A clock that goes when it is told to, by sleeping too."""

    seconds: float = 0.0
    slept: float = 0.0

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.slept += seconds


def started(clock: Clock, scenario: str = "demo") -> Simulator:
    return Simulator(Settings.model_validate({"scenario": scenario}), clock=clock, sleep=clock.sleep)


def usages(simulator: Simulator) -> dict[str, int]:
    return {group.path: simulator.usage(group) for group in simulator.groups()}


def named(simulator: Simulator, path: str) -> Group:
    return simulator.groups(path, depth=0)[0]


@pytest.fixture
def clock() -> Clock:
    return Clock()


# The clock


def test_the_same_pauses_lead_to_the_same_memory() -> None:
    histories: list[list[dict[str, int]]] = []
    for clock in Clock(), Clock():
        simulator = started(clock)
        histories.append([])
        for pause in (0.3, 1, 7.7, 60, 3600, 0.1, 12.5):
            clock.sleep(pause)
            histories[-1].append(usages(simulator))
    assert histories[0] == histories[1]


def test_nothing_moves_while_the_clock_stands(clock: Clock) -> None:
    simulator = started(clock)
    assert usages(simulator) == usages(simulator)


def test_nothing_moves_within_a_tick(clock: Clock) -> None:
    simulator = started(clock)
    before = usages(simulator)
    clock.sleep(0.05)
    assert usages(simulator) == before


def test_a_clock_that_goes_back_is_waited_for(clock: Clock) -> None:
    clock.seconds = 100.0
    simulator = started(clock)
    before = usages(simulator)
    clock.seconds = 50.0
    assert usages(simulator) == before


def test_a_long_pause_is_skipped_in_few_steps_and_none_of_it_is_lost(clock: Clock) -> None:
    simulator = started(clock)
    clock.sleep(30 * DAY)
    with simulator.machine() as machine:
        assert machine.now_us == pytest.approx(30 * DAY * 1e6, abs=200_000)
        assert TICKS_A_VERB <= 10


def test_two_simulators_share_no_identity(clock: Clock) -> None:
    one, other = started(clock), started(clock)
    assert one.node().boot_id != other.node().boot_id
    assert {group.id for group in one.groups()}.isdisjoint({group.id for group in other.groups()})


# The demo


def test_the_empty_scenario_has_the_root_alone(clock: Clock) -> None:
    assert [group.path for group in started(clock, "empty").groups()] == [""]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_is_a_setting_and_starts(clock: Clock, scenario: str) -> None:
    assert {workload.path for workload in SCENARIOS[scenario]} <= set(usages(started(clock, scenario)))


def test_the_settings_offer_exactly_these_scenarios() -> None:
    assert set(get_args(Settings.model_fields["scenario"].annotation)) == SCENARIOS.keys()


def test_the_demo_moves(clock: Clock) -> None:
    simulator = started(clock)
    before = usages(simulator)
    clock.sleep(10)
    assert sum(before[path] != after for path, after in usages(simulator).items()) >= 6


def test_the_demo_runs_for_days_within_its_limits_and_kills_nothing(clock: Clock) -> None:
    simulator = started(clock)
    for hours in range(1, 5 * 24):
        clock.seconds = hours * HOUR
        stats = {group.path: simulator.stat(group) for group in simulator.groups()}
        assert stats[""].usage_bytes < 8 * 2**30
        assert stats[""].events.oom_kill == 0
        assert all(stat.usage_bytes <= (stat.limits.effective_max_bytes or math.inf) for stat in stats.values())


def test_the_demo_kills_nothing_at_the_pace_of_a_watched_screen(clock: Clock) -> None:
    simulator = started(clock)
    for _ in range(1800):
        clock.sleep(1)
        simulator.usage(named(simulator, "web"))
    assert simulator.stat(named(simulator, "")).events.oom_kill == 0


def test_the_examples_of_the_docs_hold_for_web(clock: Clock) -> None:
    simulator = started(clock)
    web = named(simulator, "web")
    memcg = Memcg(simulator, web)
    before = simulator.stat(web)
    assert before.limits.max_bytes is None
    with pytest.raises(GroupBusy):
        simulator.set_limits(web, {"max_bytes": 64 * MIB})
    assert simulator.stat(web) == before
    shrink_usage_to(memcg, 200 * MIB, Scripted())
    assert 198 * MIB < simulator.usage(web) < 200 * MIB
    with pytest.raises(Exception, match="5 passes without progress"):
        shrink_usage_to(memcg, 32 * MIB, Scripted())


def test_what_was_reclaimed_from_web_comes_back_slowly(clock: Clock) -> None:
    simulator = started(clock)
    web = named(simulator, "web")
    full = simulator.usage(web)
    shrink_usage_to(Memcg(simulator, web), 200 * MIB, Scripted())
    clock.sleep(60)
    assert 210 * MIB < simulator.usage(web) < full
    clock.sleep(600)
    assert simulator.usage(web) == full


def test_a_killed_program_is_started_again_after_a_while(clock: Clock) -> None:
    simulator = started(clock)
    leaky = named(simulator, "leaky")
    shrink_usage_to(Memcg(simulator, leaky), 49 * MIB, Scripted())
    simulator.set_limits(leaky, {"max_bytes": 49 * MIB})
    clock.sleep(30)
    assert simulator.stat(leaky).events.oom_kill == 1
    simulator.set_limits(leaky, {"max_bytes": None})
    clock.sleep(20)
    assert (simulator.stat(leaky).anon_bytes or 0) >= 48 * MIB


def test_every_program_of_the_demo_comes_back_after_a_kill(clock: Clock) -> None:
    simulator = started(clock)
    before = usages(simulator)
    with simulator.machine() as machine:
        programs = len(machine.processes)
        for process in list(machine.processes.values()):
            machine.exit(process)
    clock.sleep(20)
    with simulator.machine() as machine:
        assert len(machine.processes) == programs
    assert all(usage >= before[path] / 2 for path, usage in usages(simulator).items())


# Limits, by the rules of v1


def test_the_limit_on_swap_is_what_memsw_leaves_above_the_maximum(clock: Clock) -> None:
    simulator = started(clock, "empty")
    group = simulator.make("group")
    simulator.set_limits(group, {"max_bytes": 64 * MIB, "swap_max_bytes": 32 * MIB})
    simulator.set_limits(group, {"max_bytes": 16 * MIB})
    assert simulator.stat(group).limits.swap_max_bytes == 80 * MIB


@pytest.mark.parametrize("most", [128 * MIB, None])
def test_a_maximum_above_memsw_contradicts_it(clock: Clock, most: int | None) -> None:
    simulator = started(clock, "empty")
    group = simulator.make("group")
    simulator.set_limits(group, {"max_bytes": 64 * MIB, "swap_max_bytes": 32 * MIB})
    before = simulator.stat(group).limits
    with pytest.raises(LimitOrder, match="Send swap_max_bytes too") as caught:
        simulator.set_limits(group, {"max_bytes": most})
    assert (caught.value.members["max_bytes"], caught.value.members["memory_and_swap_max_bytes"]) == (most, 96 * MIB)
    assert simulator.stat(group).limits == before


def test_a_limit_on_swap_alone_contradicts_no_maximum(clock: Clock) -> None:
    simulator = started(clock, "empty")
    with pytest.raises(LimitOrder):
        simulator.set_limits(simulator.make("group"), {"swap_max_bytes": 32 * MIB})


def test_both_limits_rise_together_and_go_together(clock: Clock) -> None:
    simulator = started(clock, "empty")
    group = simulator.make("group")
    simulator.set_limits(group, {"max_bytes": 64 * MIB, "swap_max_bytes": 0})
    simulator.set_limits(group, {"max_bytes": 128 * MIB, "swap_max_bytes": 0})
    assert simulator.stat(group).limits.swap_max_bytes == 0
    simulator.set_limits(group, {"max_bytes": None, "swap_max_bytes": None})
    assert simulator.stat(group).limits.swap_max_bytes is None


def test_a_maximum_is_above_usage_by_a_page_at_least(clock: Clock) -> None:
    simulator = started(clock)
    cache = named(simulator, "cache")
    with pytest.raises(GroupBusy):
        simulator.set_limits(cache, {"max_bytes": simulator.usage(cache)})
    simulator.set_limits(cache, {"max_bytes": simulator.usage(cache) + PAGE_BYTES})


def test_a_group_at_its_maximum_takes_other_limits(clock: Clock) -> None:
    simulator = started(clock)
    cache = named(simulator, "cache")
    simulator.set_limits(cache, {"max_bytes": simulator.usage(cache) + PAGE_BYTES})
    with simulator.machine() as machine:
        cgroup = machine.cgroups["cache"]
        (process,) = cgroup.processes.values()
        machine.charge(process, "inactive_anon", 1)
    simulator.set_limits(cache, {"soft_limit_bytes": 0})


def test_the_root_takes_no_limit_no_pass_and_no_removal(clock: Clock) -> None:
    simulator = started(clock)
    root = named(simulator, "")
    assert simulator.stat(root).limits.unsupported == LIMIT_NAMES
    with pytest.raises(UnsupportedLimit):
        simulator.set_limits(root, {"max_bytes": None})
    with pytest.raises(Unsupported):
        simulator.reclaim(root, MIB)
    with pytest.raises(GroupBusy):
        simulator.remove(root)


# Passes and pressure


def test_a_pass_takes_a_batch_more_than_asked_at_the_most(clock: Clock) -> None:
    simulator = started(clock)
    freed = simulator.reclaim(named(simulator, "web"), 33 * PAGE_BYTES)
    assert freed == 2 * SWAP_CLUSTER_MAX * PAGE_BYTES


def test_a_pass_takes_the_time_that_reclaim_takes_and_no_more(clock: Clock) -> None:
    simulator = started(clock)
    simulator.reclaim(named(simulator, "db"), 2**40)
    assert clock.slept == pytest.approx(PASS_US / 1e6, rel=0.01)


def test_a_group_of_dirty_pages_shrinks_at_the_speed_of_the_disk(clock: Clock) -> None:
    simulator = started(clock, "empty")
    group = simulator.make("group")
    with simulator.machine() as machine:
        process = machine.start(machine.cgroups["group"])
        machine.charge(process, "inactive_file", 16384)
        machine.rewrite(process.cgroup, 16384)
    current = Scripted()
    resize_limit(Memcg(simulator, group), 4 * MIB, current)
    assert len(current.passes) == 3
    assert current.fruitless() == 0


def test_waiting_for_reclaim_is_pressure_on_the_group_and_its_ancestors(clock: Clock) -> None:
    simulator = started(clock, "empty")
    group = simulator.make("group")
    simulator.set_limits(group, {"max_bytes": 16 * MIB})
    with simulator.machine() as machine:
        process = machine.start(machine.cgroups["group"])
        machine.charge(process, "inactive_file", 20 * 4096)
    clock.sleep(2)
    pressure, above = simulator.stat(group).pressure, simulator.stat(named(simulator, "")).pressure
    assert pressure is not None
    assert pressure.some == pressure.full
    assert pressure.some.total_microseconds > 0
    assert pressure.some.avg10_percent > pressure.some.avg60_percent > pressure.some.avg300_percent > 0
    assert above == pressure


def test_reclaim_from_outside_is_no_pressure(clock: Clock) -> None:
    simulator = started(clock)
    web = named(simulator, "web")
    simulator.reclaim(web, 64 * MIB)
    pressure = simulator.stat(web).pressure
    assert pressure is not None
    assert pressure.some.total_microseconds == 0
