"""What is the simulator's own.

Its clock, its demo, v1's rule on swap, and the time that a pass takes.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from shrinkd.backends import LIMIT_NAMES, Group
from shrinkd.backends.simulator.backend import MAX_TICKS_PER_VERB, PASS_US, Simulator
from shrinkd.backends.simulator.faults import Fault
from shrinkd.backends.simulator.machine import scenarios
from shrinkd.backends.simulator.machine.workloads import Workload
from shrinkd.errors import GroupBusy, LimitOrder, SettingsError, Unsupported, UnsupportedLimit
from shrinkd.memcontrol import Memcg, resize_limit, shrink_usage_to
from shrinkd.settings import Settings
from shrinkd.sizes import PAGE_BYTES
from tests.backends import simulator_host
from tests.backends.hosts import MIB
from tests.support.scripted_task import ScriptedTask

HOUR = 3600.0
DAY = 24 * HOUR


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
    return Simulator(
        Settings.model_validate({"scenario": scenario}), clock=clock, sleep=clock.sleep
    )


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
        assert MAX_TICKS_PER_VERB <= 10


def test_two_simulators_share_no_identity(clock: Clock) -> None:
    one, other = started(clock), started(clock)
    assert one.node().boot_id != other.node().boot_id
    assert {group.id for group in one.groups()}.isdisjoint({group.id for group in other.groups()})


# The demo


def test_the_empty_scenario_has_the_root_alone(clock: Clock) -> None:
    assert [group.path for group in started(clock, "empty").groups()] == [""]


@pytest.mark.parametrize("scenario", scenarios.scenario_names())
def test_every_scenario_of_the_gallery_starts(clock: Clock, scenario: str) -> None:
    assert {place.path for place in scenarios.load_scenario(scenario).groups} <= set(
        usages(started(clock, scenario))
    )


def test_a_scenario_that_does_not_exist_is_a_wrong_setting(clock: Clock) -> None:
    with pytest.raises(
        SettingsError, match=r"^SHRINKD_SCENARIO: there is no scenario 'chaos'; there are demo, "
    ):
        started(clock, "chaos")


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
        assert all(
            stat.usage_bytes <= (stat.limits.effective_max_bytes or math.inf)
            for stat in stats.values()
        )


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
    shrink_usage_to(memcg, 200 * MIB, ScriptedTask())
    assert 198 * MIB < simulator.usage(web) < 200 * MIB
    with pytest.raises(Exception, match="5 passes without progress"):
        shrink_usage_to(memcg, 32 * MIB, ScriptedTask())


def test_what_was_reclaimed_from_web_comes_back_slowly(clock: Clock) -> None:
    simulator = started(clock)
    web = named(simulator, "web")
    full = simulator.usage(web)
    shrink_usage_to(Memcg(simulator, web), 200 * MIB, ScriptedTask())
    clock.sleep(60)
    assert 210 * MIB < simulator.usage(web) < full
    clock.sleep(1200)
    assert full - MIB < simulator.usage(web) <= full


def test_a_killed_program_is_started_again_after_a_while(clock: Clock) -> None:
    simulator = started(clock)
    leaky = named(simulator, "leaky")
    shrink_usage_to(Memcg(simulator, leaky), 49 * MIB, ScriptedTask())
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
    assert (
        caught.value.members["max_bytes"],
        caught.value.members["memory_and_swap_max_bytes"],
    ) == (most, 96 * MIB)
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
        machine.charge(process, "anon", 1)
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
    assert freed == 64 * PAGE_BYTES


def test_a_pass_takes_the_time_that_reclaim_takes_and_no_more(clock: Clock) -> None:
    simulator = started(clock)
    simulator.reclaim(named(simulator, "db"), 2**40)
    assert clock.slept == pytest.approx(PASS_US / 1e6, rel=0.01)


@pytest.mark.parametrize("speed", [1e-3, 1e-300])
def test_however_slowly_time_goes_a_pass_is_over_before_who_cancels_it_gives_up(
    clock: Clock, speed: float
) -> None:
    simulator = started(clock)
    simulator.time.run(speed)
    simulator.reclaim(named(simulator, "db"), 2**40)
    assert clock.slept == 1


def test_a_group_of_dirty_pages_shrinks_at_the_speed_of_the_disk(clock: Clock) -> None:
    simulator = started(clock, "empty")
    group = simulator.make("group")
    with simulator.machine() as machine:
        process = machine.start(machine.cgroups["group"])
        machine.charge(process, "file", 16384)
        machine.dirty(process.area("file"), 16384)
    current = ScriptedTask()
    resize_limit(Memcg(simulator, group), 4 * MIB, current)
    assert len(current.passes) == 3
    assert current.fruitless() == 0


def test_waiting_for_reclaim_is_pressure_on_the_group_and_its_ancestors(clock: Clock) -> None:
    simulator = started(clock, "empty")
    group = simulator.make("group")
    simulator.set_limits(group, {"max_bytes": 16 * MIB})
    with simulator.machine() as machine:
        process = machine.start(machine.cgroups["group"])
        machine.charge(process, "file", 20 * 4096)
    clock.sleep(2)
    pressure, above = simulator.stat(group).pressure, simulator.stat(named(simulator, "")).pressure
    assert pressure is not None
    assert pressure.some == pressure.full
    assert pressure.some.total_microseconds > 0
    assert (
        pressure.some.avg10_percent > pressure.some.avg60_percent > pressure.some.avg300_percent > 0
    )
    assert above == pressure


def test_reclaim_from_outside_is_no_pressure(clock: Clock) -> None:
    simulator = started(clock)
    web = named(simulator, "web")
    simulator.reclaim(web, 64 * MIB)
    pressure = simulator.stat(web).pressure
    assert pressure is not None
    assert pressure.some.total_microseconds == 0


# What can be done to it beside the verbs


def test_a_clock_can_be_frozen_put_forward_and_hurried(clock: Clock) -> None:
    simulator = started(clock)
    simulator.clock.run(0)
    clock.sleep(100)
    with simulator.machine() as machine:
        assert machine.now_us == 0
    simulator.clock.advance(5)
    with simulator.machine() as machine:
        assert machine.now_us == pytest.approx(5e6)
    simulator.clock.run(10)
    clock.sleep(2)
    with simulator.machine() as machine:
        assert machine.now_us == pytest.approx(25e6)


def test_a_pass_waits_for_no_clock_that_stands(clock: Clock) -> None:
    simulator = started(clock)
    simulator.clock.run(0)
    simulator.reclaim(named(simulator, "web"), MIB)
    assert clock.slept == 0


def test_the_nth_use_of_a_verb_fails_as_planned_and_the_next_does_not(clock: Clock) -> None:
    simulator = started(clock)
    web = named(simulator, "web")
    simulator.faults.plan(Fault(verb="reclaim", error="EBUSY", use=2))
    assert simulator.reclaim(web, MIB) > 0
    before = simulator.usage(web)
    with pytest.raises(GroupBusy):
        simulator.reclaim(web, MIB)
    assert simulator.usage(web) == before
    assert simulator.reclaim(web, MIB) > 0


def test_a_fault_that_was_called_off_does_not_come(clock: Clock) -> None:
    simulator = started(clock)
    simulator.faults.plan(Fault(verb="usage", error="EIO"))
    simulator.faults.clear()
    assert simulator.usage(named(simulator, "web")) > 0


def test_a_group_is_given_another_workload(clock: Clock) -> None:
    simulator = started(clock)
    leaky = named(simulator, "leaky")
    simulator.set_workload(
        leaky, Workload.model_validate({"memory": [{"kind": "anon", "size_bytes": "8M"}]})
    )
    assert simulator.stat(leaky).anon_bytes == 8 * MIB


# A maximum where the kernel stores first, by both ways of committing it


def growing(profile: str, tmp_path: Path, *, on_sleep: bool) -> tuple[Simulator, Group]:
    """A group that uses 64 MiB, and grows by 2 MiB.

    At every look that is taken at it, or else as the maximum is about to be stored.
    """
    file = tmp_path / "scenario.json"
    file.write_text(json.dumps({"profile": profile, "cpus": 2, "groups": [{"path": "group"}]}))
    readings = iter(range(10**9))

    def read() -> float:
        if next(readings) == grows_at:
            charge(2 * MIB)
        return 0.0

    def charge(size: int) -> None:
        # the lock is held by the verb that this happens in
        machine = simulator._machine  # noqa: SLF001
        machine.charge(process, "anon", size // PAGE_BYTES)

    grows_at = -1
    simulator = Simulator(
        Settings(scenario=str(file)),
        clock=read,
        sleep=lambda _: charge(2 * MIB) if on_sleep else None,
    )
    with simulator.machine() as machine:
        process = machine.start(machine.cgroups["group"])
    charge(64 * MIB)
    if not on_sleep:
        grows_at = (
            next(readings) + 7
        )  # named(), set_limits(), then held, usage, two looks, and the store
    return simulator, named(simulator, "group")


@pytest.mark.parametrize("profile", ["v2", "v2-6.12"])
def test_a_group_that_is_seen_to_grow_is_refused_a_tight_maximum_untouched(
    profile: str, tmp_path: Path
) -> None:
    simulator, group = growing(profile, tmp_path, on_sleep=True)
    with pytest.raises(GroupBusy):
        simulator.set_limits(group, {"max_bytes": simulator.usage(group) + 64 * 1024})
    assert simulator.stat(group).limits.max_bytes is None
    assert simulator.stat(group).events.oom_kill == 0


@pytest.mark.parametrize("profile", ["v2", "v2-6.12"])
def test_a_charge_just_before_the_write_kills_nobody_and_moves_no_limit(
    profile: str, tmp_path: Path
) -> None:
    simulator, group = growing(profile, tmp_path, on_sleep=False)
    with pytest.raises(GroupBusy):
        simulator.set_limits(group, {"max_bytes": 65 * MIB})
    stat = simulator.stat(group)
    assert stat.limits.max_bytes is None
    assert stat.usage_bytes >= 66 * MIB
    assert stat.events.oom_kill == 0


def test_a_v2_group_takes_no_process_when_those_inside_of_it_are_gone_either() -> None:
    with simulator_host.on("v2") as host:
        outer = host.group()
        worker = host.charge(host.group())
        host.backend.remove(host.group(outer))
        with pytest.raises(GroupBusy, match="innermost"):
            host.backend.attach(outer, worker.pid)
