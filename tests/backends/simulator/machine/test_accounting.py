"""Whatever happens to a machine, by whichever kernel's rules.

Its books balance, and what each kernel promises holds.
"""

import errno

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shrinkd.backends.simulator.machine.accounting import Cgroup, Kind
from shrinkd.backends.simulator.machine.control_files import Writer, write
from shrinkd.backends.simulator.machine.kernel_profiles import PROFILES
from shrinkd.backends.simulator.machine.machine import Hardware, Machine
from shrinkd.backends.simulator.machine.swap import Swap
from shrinkd.sizes import PAGE_BYTES

CHARGED: tuple[Kind, ...] = ("anon", "file", "shmem", "unevictable", "slab_reclaimable", "kernel")
LIMITS = ("max", "high", "low", "min", "swap_max", "memsw", "soft")
FILES = {
    "seed2008": ("memory.limit_in_bytes", "memory.shrink_in_bytes"),
    "v1": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.force_empty"),
    "v2": (
        "memory.max",
        "memory.high",
        "memory.min",
        "memory.low",
        "memory.swap.max",
        "memory.reclaim",
    ),
    "v2-6.12": ("memory.max", "memory.reclaim"),
}
NUMBERS = st.integers(0, 50)


class Books(RuleBasedStateMachine):
    """Random operations on a machine of four CPUs, with swap and a compressed pool."""

    @initialize(
        profile=st.sampled_from(sorted(PROFILES)),
        swap=st.sampled_from([0, 2000]),
        pool=st.sampled_from([0, 200]),
    )
    def start(self, profile: str, swap: int, pool: int) -> None:
        self.machine = Machine(
            PROFILES[profile], Hardware(cpus=4, swap=Swap(swap, pool=min(pool, swap)))
        )
        self.ids = {self.machine.root.id}

    def cgroup(self, number: int) -> Cgroup:
        return list(self.machine.cgroups.values())[number % len(self.machine.cgroups)]

    def limits(self, cgroup: Cgroup) -> dict[str, int]:
        return {name: getattr(cgroup, name) for name in LIMITS}

    @rule(number=NUMBERS)
    def make(self, number: int) -> None:
        made = self.machine.make(self.cgroup(number), f"g{len(self.ids)}")
        assert made.id not in self.ids
        self.ids.add(made.id)

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        cgroup = self.cgroup(number)
        if cgroup.parent and not cgroup.children and not cgroup.processes:
            self.machine.drain_stocks(cgroup)
            before = (cgroup.parent.usage, cgroup.parent.swap, cgroup.parent.all_counts())
            self.machine.remove(cgroup)
            assert (cgroup.parent.usage, cgroup.parent.swap, cgroup.parent.all_counts()) == before

    @rule(
        number=NUMBERS,
        kind=st.sampled_from(CHARGED),
        pages=st.integers(0, 3000),
        heat=st.sampled_from([0.1, 30.0, 1e9]),
    )
    def charge(self, number: int, kind: Kind, pages: int, heat: float) -> None:
        process = self.machine.start(self.cgroup(number))
        self.machine.fault(process, process.area(kind, heat), pages)

    @rule(number=NUMBERS, place=NUMBERS, pages=st.integers(0, 500))
    def move_and_grow(self, number: int, place: int, pages: int) -> None:
        if self.machine.processes:
            process = list(self.machine.processes.values())[number % len(self.machine.processes)]
            process.move(self.cgroup(place))
            self.machine.charge(process, "anon", pages)

    @rule(number=NUMBERS, pages=st.integers(0, 500), ends=st.booleans())
    def release_or_exit(self, number: int, pages: int, *, ends: bool) -> None:
        if self.machine.processes:
            process = list(self.machine.processes.values())[number % len(self.machine.processes)]
            self.machine.release(process, "anon", pages)
            if ends:
                self.machine.exit(process)

    @rule(number=NUMBERS, pages=st.integers(1, 500))
    def use_what_is_gone(self, number: int, pages: int) -> None:
        cgroup = self.cgroup(number)
        for process in list(cgroup.processes.values()):
            for area in [
                area for area in cgroup.areas if area.out and area.kind in {"anon", "file", "shmem"}
            ]:
                if process.pid in self.machine.processes:
                    self.machine.refault(process, area, min(area.out, pages))

    @rule(number=NUMBERS, pages=st.integers(0, 3000), seconds=st.floats(0, 10))
    def dirty_and_wait(self, number: int, pages: int, seconds: float) -> None:
        for area in [area for area in self.cgroup(number).areas if area.kind == "file"]:
            self.machine.dirty(area, pages)
        self.machine.advance(seconds)

    @rule(
        number=NUMBERS,
        goal=st.integers(1, 3000),
        swappiness=st.sampled_from([None, 0, 60, 200, 201]),
    )
    def reclaim(self, number: int, goal: int, swappiness: int | None) -> None:
        cgroup = self.cgroup(number)
        before, limits = cgroup.usage, self.limits(cgroup)
        freed, _ = self.machine.reclaim(cgroup, goal, swappiness=swappiness)
        assert cgroup.usage == before - freed
        assert freed < goal + self.machine.profile.batch_pages
        assert self.limits(cgroup) == limits

    @rule(
        number=NUMBERS,
        file=st.integers(0, 5),
        pages=st.integers(0, 4000),
        calls=st.integers(0, 40),
        nonblock=st.booleans(),
    )
    def write(self, number: int, file: int, pages: int, calls: int, *, nonblock: bool) -> None:
        """Write a control file, with a signal after some calls.

        What comes out is what the kernel in question promises.
        """
        cgroup, names = self.cgroup(number), FILES[self.machine.profile.name]
        name = names[file % len(names)]
        if cgroup.parent is None:
            return
        limits, usage, asked = self.limits(cgroup), cgroup.usage, iter(range(10**9))
        number_of_error = 0
        try:
            write(
                self.machine,
                cgroup,
                name,
                str(pages * PAGE_BYTES),
                Writer(lambda _: next(asked) >= calls, nonblock),
            )
        except OSError as error:
            number_of_error = error.errno or 0
        if number_of_error or name in {
            "memory.reclaim",
            "memory.force_empty",
            "memory.shrink_in_bytes",
        }:
            assert self.limits(cgroup) == limits
        if not number_of_error:
            self.holds(cgroup, name, pages, usage)
        assert number_of_error in {0, errno.EBUSY, errno.EINTR, errno.EINVAL, errno.EAGAIN}
        assert number_of_error != errno.EBUSY or self.machine.profile.refuses_limits

    def holds(self, cgroup: Cgroup, name: str, pages: int, before: int) -> None:
        """What the success of a write means."""
        if name == "memory.limit_in_bytes":
            assert cgroup.usage <= cgroup.max == pages
        elif name == "memory.memsw.limit_in_bytes":
            assert cgroup.usage + cgroup.swap <= cgroup.memsw == pages
        elif name == "memory.shrink_in_bytes":
            assert cgroup.usage < pages
        elif name == "memory.reclaim":
            assert before - cgroup.usage >= pages

    @invariant()
    def usage_is_what_the_subtree_was_charged(self) -> None:
        for cgroup in self.machine.cgroups.values():
            own = sum(area.resident() for area in cgroup.areas) + self.machine.stocked(cgroup)
            assert cgroup.usage == sum(child.usage for child in cgroup.children) + own
            assert cgroup.tasks == sum(child.tasks for child in cgroup.children) + len(
                cgroup.processes
            )

    @invariant()
    def swap_is_what_is_out(self) -> None:
        for cgroup in self.machine.cgroups.values():
            own = sum(area.out for area in cgroup.areas if area.kind in {"anon", "shmem"})
            assert cgroup.swap == sum(child.swap for child in cgroup.children) + own
        assert self.machine.root.swap == self.machine.swap.used <= self.machine.swap.pages

    @invariant()
    def no_count_is_negative(self) -> None:
        for cgroup in self.machine.cgroups.values():
            for area in cgroup.areas:
                assert min(area.active, area.inactive, area.dirty, area.writeback, area.out) >= 0
            assert cgroup.usage <= cgroup.peak
            assert cgroup.memsw >= cgroup.max

    @invariant()
    def a_limit_is_only_broken_by_who_stores_first(self) -> None:
        if self.machine.profile.refuses_limits:
            assert all(cgroup.usage <= cgroup.max for cgroup in self.machine.cgroups.values())

    @invariant()
    def every_anonymous_page_has_its_process(self) -> None:
        held = sum(process.holds("anon") for process in self.machine.processes.values())
        charged = sum(
            area.resident()
            for cgroup in self.machine.cgroups.values()
            for area in cgroup.areas
            if area.kind == "anon"
        )
        assert held == charged

    @invariant()
    def nobody_waits_longer_than_there_is_time(self) -> None:
        for cgroup in self.machine.cgroups.values():
            assert cgroup.full.total_us <= cgroup.some.total_us <= self.machine.now_us


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
