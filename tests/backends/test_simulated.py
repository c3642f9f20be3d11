"""The books and rules of the simulated machine: what reclaim takes, whom a limit kills, how stalls add up."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.backends._simulated import (
    KINDS,
    MEMCG_CHARGE_BATCH,
    PSI_PERIOD_US,
    SWAP_CLUSTER_MAX,
    TOTAL_PAGES,
    Cgroup,
    Kind,
    Machine,
    Stalls,
)

CHARGED: tuple[Kind, ...] = ("inactive_anon", "inactive_file", "dirty", "shmem", "unevictable", "slab_reclaimable", "kernel")


@pytest.fixture
def machine() -> Machine:
    return Machine()


def grown(machine: Machine, name: str, **pages: int) -> Cgroup:
    """A group with one process in it that has charged these pages."""
    cgroup = machine.make(machine.root, name)
    process = machine.start(cgroup)
    for kind in KINDS:
        machine.charge(process, kind, pages.get(kind, 0))
    return cgroup


# Reclaim


def test_clean_pages_go_first_and_dirty_ones_last(machine: Machine) -> None:
    cgroup = grown(machine, "group", inactive_file=64, dirty=64, slab_reclaimable=64)
    machine.reclaim(cgroup, 64)
    assert (cgroup.own["inactive_file"], cgroup.own["slab_reclaimable"], cgroup.own["dirty"]) == (0, 64, 64)
    machine.reclaim(cgroup, 64)
    assert (cgroup.own["slab_reclaimable"], cgroup.own["dirty"]) == (0, 64)


def test_used_pages_are_aged_before_they_are_taken(machine: Machine) -> None:
    cgroup = grown(machine, "group", inactive_file=1024)
    machine.touch(cgroup, "file", 1024)
    machine.reclaim(cgroup, 32)
    assert cgroup.own["active_file"] == 512
    assert cgroup.own["inactive_file"] == 480


def test_siblings_give_in_proportion_to_what_they_have(machine: Machine) -> None:
    small, large = grown(machine, "small", inactive_file=1000), grown(machine, "large", inactive_file=3000)
    machine.reclaim(machine.root, 800)
    assert (small.usage, large.usage) == (800, 2400)


@given(st.dictionaries(st.sampled_from(KINDS), st.integers(0, 5000)), st.integers(1, 20000))
def test_a_pass_frees_what_could_be_freed_and_no_more(pages: dict[Kind, int], goal: int) -> None:
    machine = Machine()
    cgroup = grown(machine, "group", **pages)
    reclaimable = sum(pages.get(kind, 0) for kind in ("active_file", "inactive_file", "slab_reclaimable", "dirty", "writeback"))
    freed, _ = machine.reclaim(cgroup, goal)
    assert min(goal, reclaimable) <= freed <= min(goal + SWAP_CLUSTER_MAX - 1, reclaimable)
    assert cgroup.usage == sum(pages.values()) - freed


def test_the_flusher_cleans_dirty_pages_in_time(machine: Machine) -> None:
    cgroup = grown(machine, "group", dirty=1024)
    machine.advance(1)
    assert cgroup.own["writeback"] > 0
    for _ in range(30):
        machine.advance(1)
    assert (cgroup.own["dirty"], cgroup.own["writeback"], cgroup.usage) == (0, 0, 1024)


# Charging


def test_a_charge_over_the_limit_reclaims_and_counts_the_failure(machine: Machine) -> None:
    cgroup = grown(machine, "group", inactive_file=900)
    cgroup.max = 1000
    (process,) = cgroup.processes.values()
    assert machine.charge(process, "inactive_anon", 300)
    assert cgroup.usage <= 1000
    assert cgroup.failcnt == -(-200 // MEMCG_CHARGE_BATCH)
    assert (cgroup.own["inactive_anon"], cgroup.oom_kill) == (300, 0)


def test_the_largest_process_is_killed_and_the_smaller_one_gets_its_memory(machine: Machine) -> None:
    cgroup = grown(machine, "group", inactive_anon=800)
    cgroup.max = 1000
    (large,) = cgroup.processes.values()
    small = machine.start(cgroup)
    assert machine.charge(small, "inactive_anon", 400)
    assert large.pid not in machine.processes
    assert (cgroup.usage, cgroup.oom_kill, machine.root.oom_kill) == (400, 1, 1)


def test_a_process_outside_the_tight_group_is_never_killed_for_it(machine: Machine) -> None:
    outsider = grown(machine, "outsider", inactive_anon=100_000)
    tight = grown(machine, "tight", inactive_anon=10)
    tight.max = 100
    (process,) = tight.processes.values()
    assert not machine.charge(process, "inactive_anon", 1000)
    assert (len(outsider.processes), outsider.oom_kill, tight.usage) == (1, 0, 0)


def test_the_machine_itself_is_a_limit(machine: Machine) -> None:
    cgroup = grown(machine, "group", inactive_anon=TOTAL_PAGES + 1)
    assert (cgroup.oom_kill, machine.root.usage) == (1, 0)


def test_memory_of_a_removed_group_stays_with_its_parent_until_its_process_ends(machine: Machine) -> None:
    cgroup = grown(machine, "group", inactive_anon=100, inactive_file=50)
    (process,) = cgroup.processes.values()
    machine.attach(process, grown(machine, "other"))
    machine.remove(cgroup)
    assert machine.root.own["inactive_anon"] == 100
    machine.exit(process)
    assert machine.root.usage == 50


# Pressure


def test_one_whole_period_of_stall_moves_the_averages_as_the_kernel_does() -> None:
    stalls = Stalls()
    stalls.add(PSI_PERIOD_US, now_us=0)
    stalls.settle(PSI_PERIOD_US)
    assert stalls.averages == pytest.approx([100 * (1 - math.exp(-2 / window)) for window in (10, 60, 300)])


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


# The books


class Books(RuleBasedStateMachine):
    """Whatever happens to a machine, its books balance."""

    @initialize()
    def start(self) -> None:
        self.machine = Machine()
        self.ids = {self.machine.root.id}

    def cgroup(self, number: int) -> Cgroup:
        return list(self.machine.cgroups.values())[number % len(self.machine.cgroups)]

    @rule(number=st.integers(0, 50))
    def make(self, number: int) -> None:
        made = self.machine.make(self.cgroup(number), f"g{len(self.ids)}")
        assert made.id not in self.ids
        self.ids.add(made.id)

    @rule(number=st.integers(0, 50))
    def remove(self, number: int) -> None:
        cgroup = self.cgroup(number)
        if cgroup.parent and not cgroup.children and not cgroup.processes:
            usage = cgroup.parent.usage
            self.machine.remove(cgroup)
            assert cgroup.parent.usage == usage

    @rule(number=st.integers(0, 50), kind=st.sampled_from(CHARGED), pages=st.integers(0, 3000))
    def charge(self, number: int, kind: Kind, pages: int) -> None:
        self.machine.charge(self.machine.start(self.cgroup(number)), kind, pages)

    @rule(number=st.integers(0, 50), place=st.integers(0, 50), pages=st.integers(0, 500))
    def attach_and_grow(self, number: int, place: int, pages: int) -> None:
        if self.machine.processes:
            process = list(self.machine.processes.values())[number % len(self.machine.processes)]
            self.machine.attach(process, self.cgroup(place))
            self.machine.charge(process, "inactive_anon", pages)

    @rule(number=st.integers(0, 50), pages=st.integers(0, 500))
    def release_or_exit(self, number: int, pages: int) -> None:
        if self.machine.processes:
            process = list(self.machine.processes.values())[number % len(self.machine.processes)]
            self.machine.release(process, "inactive_anon", pages)
            if pages % 2:
                self.machine.exit(process)

    @rule(number=st.integers(0, 50), room=st.integers(0, 2000))
    def limit(self, number: int, room: int) -> None:
        cgroup = self.cgroup(number)
        cgroup.max = cgroup.usage + room

    @rule(number=st.integers(0, 50), goal=st.integers(1, 3000))
    def reclaim(self, number: int, goal: int) -> None:
        cgroup = self.cgroup(number)
        before = cgroup.usage
        freed, _ = self.machine.reclaim(cgroup, goal)
        assert cgroup.usage == before - freed

    @rule(number=st.integers(0, 50), pages=st.integers(0, 3000), seconds=st.floats(0, 10))
    def use(self, number: int, pages: int, seconds: float) -> None:
        self.machine.touch(self.cgroup(number), "file", pages)
        self.machine.touch(self.cgroup(number), "anon", pages)
        self.machine.rewrite(self.cgroup(number), pages // 2)
        self.machine.advance(seconds)

    @invariant()
    def usage_is_what_the_subtree_was_charged(self) -> None:
        for cgroup in self.machine.cgroups.values():
            assert cgroup.usage == sum(child.usage for child in cgroup.children) + sum(cgroup.own.values())
            assert cgroup.tasks == sum(child.tasks for child in cgroup.children) + len(cgroup.processes)

    @invariant()
    def no_count_is_negative_and_no_limit_is_broken(self) -> None:
        for cgroup in self.machine.cgroups.values():
            assert min(cgroup.own.values()) >= 0
            assert cgroup.usage <= cgroup.peak
            assert cgroup.max is None or cgroup.usage <= cgroup.max

    @invariant()
    def every_anonymous_page_has_its_process(self) -> None:
        held = sum(process.holds("inactive_anon") for process in self.machine.processes.values())
        assert held == sum(cgroup.own["inactive_anon"] + cgroup.own["active_anon"] for cgroup in self.machine.cgroups.values())


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
