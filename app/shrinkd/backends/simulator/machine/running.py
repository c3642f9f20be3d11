"""Run workloads: keep the memory of simulated processes as their plain data demands."""

import functools
import math
from dataclasses import dataclass, field

from shrinkd.backends.simulator.machine.accounting import SWAPPABLE, Area, Cgroup, Process
from shrinkd.backends.simulator.machine.machine import Machine
from shrinkd.backends.simulator.machine.workloads import IDLE, Memory, Workload
from shrinkd.sizes import PAGE_BYTES

_MAX_PAGES_PER_TICK = 2**30 // PAGE_BYTES
"""The maximum pages that one piece charges in a tick, which may be an hour; later ticks catch
up."""
USE_US = 2
"""The CPU time of one use of a page: reading 4 KiB takes 1 us, and the program does something with
it."""


@dataclass(slots=True)
class _Piece:
    """Keep one piece of a running process's memory at its size and frequency of use."""

    memory: Memory
    area: Area
    seed: str
    previous_areas: list[Area] = field(default_factory=list)
    """Areas in groups that the process has left: their charges stay there."""
    refaults: int = 0
    growth: int = 0
    _written: float = 0.0
    _page_us: int = 0
    """The sum of wanted pages times microseconds, if the size changes."""

    def plan(self, machine: Machine, age: float, run_us: int) -> int:
        """Plan the refaulted and the new pages of a tick; return how many will be charged."""
        area, memory = self.area, self.memory
        out = area.out
        if out:
            self.refaults = self._refault_count(machine, run_us)
        if memory.changes:
            wanted = memory.wanted(age, self.seed)
            self._page_us += wanted * run_us
        else:
            wanted = memory.size_bytes // PAGE_BYTES
        growth = (
            wanted
            - area.active
            - area.inactive
            - area.dirty
            - area.writeback
            - out
            - self._held_elsewhere()
        )
        self.growth = growth = min(_MAX_PAGES_PER_TICK, growth)
        return self.refaults + growth if growth > 0 else self.refaults

    def act(self, machine: Machine, process: Process, run_us: int) -> None:
        """Execute the plan, as far as the process gets."""
        if self.refaults:
            machine.refault(process, self.area, self.refaults)
            self.refaults = 0
        if self.growth < 0:
            machine.shrink_area(self.area, -self.growth)
        elif self.growth:
            self._grow(machine, process, machine.now_us + run_us)
        if self.memory.writes_bytes_per_second:
            self._written += self.memory.writes_bytes_per_second * run_us / 1e6 / PAGE_BYTES
            machine.dirty(self.area, int(self._written))
            self._written %= 1

    def uses(self, awake_us: int) -> float:
        """Return the uses of pages, and writes, of a process that was awake for so long."""
        memory = self.memory
        page_us = self._page_us if memory.changes else memory.size_bytes // PAGE_BYTES * awake_us
        return (
            page_us / 1e6 / memory.heat_seconds
            + memory.writes_bytes_per_second / PAGE_BYTES * awake_us / 1e6
        )

    def is_idle(self) -> bool:
        """Return whether nothing changes here until the next reclaim."""
        return not (self.area.out or self.growth or self.previous_areas)

    def _held_elsewhere(self) -> int:
        return (
            sum(before.resident() + before.out for before in self.previous_areas)
            if self.previous_areas
            else 0
        )

    def _refault_count(self, machine: Machine, run_us: int) -> int:
        """Return how many reclaimed pages are used in this time, bounded by the read speed."""
        area = self.area
        area.refault_fraction += area.out * -math.expm1(-run_us / 1e6 / self.memory.heat_seconds)
        page_us = machine.swap.in_us if area.kind in SWAPPABLE else machine.hardware.file_in_us
        refaults = min(
            int(area.refault_fraction), area.out, int(run_us / page_us) + 1, _MAX_PAGES_PER_TICK
        )
        area.refault_fraction = min(area.refault_fraction - refaults, 1.0)
        return refaults

    def _grow(self, machine: Machine, process: Process, ends_us: int) -> None:
        # It was moved, and charges its new group from now on.
        if self.area.cgroup is not process.cgroup:
            self.previous_areas.append(self.area)
            self.area = process.area(
                self.memory.kind, self.memory.heat_seconds, self.memory.folio_pages
            )
        growth = self.growth
        while growth > 0 and process.wakes_us < ends_us:
            part = machine.charge_batch(self.area.cgroup, growth)
            if not machine.fault(process, self.area, part):
                return
            growth -= part


@dataclass(slots=True)
class Running:
    """Run a workload in its group, for as long as the group exists."""

    workload: Workload
    cgroup: Cgroup
    seed: str
    process: Process | None = None
    _pieces: list[_Piece] = field(default_factory=list)
    _began_us: int = 0
    _idle_at_reclaimed: int = -1
    """The reclaim count when everything was resident; while it is unchanged, a tick has nothing to
    do."""
    _ended_us: int | None = None
    _can_idle: bool = False
    _exits_after: float = math.inf

    def __post_init__(self) -> None:
        always_moves = any(
            memory.changes or memory.writes_bytes_per_second for memory in self.workload.memory
        )
        self._exits_after = self.workload.exits_after_seconds or math.inf
        self._can_idle = self.workload.exits_after_seconds is None and not always_moves

    def run(self, machine: Machine, elapsed_us: int) -> None:
        """Simulate a tick."""
        process = self.process
        if process is None or process.pid not in machine.processes:
            self._wait(machine, elapsed_us)
            return
        if self._idle_at_reclaimed == self.cgroup.counts.reclaimed:
            return
        ends_us = machine.now_us + elapsed_us
        age = (ends_us - self._began_us) / 1e6
        if self._exits_after <= age:
            machine.exit(process)
            return
        run_us = ends_us - max(process.wakes_us, machine.now_us)
        if run_us <= 0:
            return
        needed = 0
        for piece in self._pieces:
            needed += piece.plan(machine, age, run_us)
        if needed:
            machine.make_room(process, needed)
        for piece in self._pieces:
            if (
                piece.refaults or piece.growth or piece.memory.writes_bytes_per_second
            ) and process.pid in machine.processes:
                piece.act(machine, process, run_us)
        if self._can_idle:
            self._idle_at_reclaimed = (
                self.cgroup.counts.reclaimed
                if all(piece.is_idle() for piece in self._pieces)
                else -1
            )

    def start(self, machine: Machine) -> None:
        """Start the process, with all of its initial memory."""
        self.process = process = machine.start(self.cgroup)
        self._began_us, self._ended_us, self._idle_at_reclaimed = machine.now_us, None, -1
        self._pieces = []
        process.meter = functools.partial(self._cpu_us, machine, process)
        for index, memory in enumerate(self.workload.memory):
            area = process.area(memory.kind, memory.heat_seconds, memory.folio_pages)
            self._pieces.append(_Piece(memory, area, f"{self.seed}:{self.cgroup.path}:{index}"))
            missing = memory.wanted(0, self._pieces[-1].seed) - area.resident() - area.out
            if not machine.fault(process, area, missing):
                return

    def stop(self, machine: Machine) -> None:
        """End the process for good; its page cache stays."""
        if self.process and self.process.pid in machine.processes:
            machine.exit(self.process)
        machine.programs.pop(self.cgroup.path, None)

    def _cpu_us(self, machine: Machine, process: Process) -> int:
        """Return the CPU time of the process: one thread that uses none while it waits.

        Constant use is computed here instead of being summed, so that a tick without changes costs
        nothing.
        """
        waited_us = process.waited_us - max(process.wakes_us - machine.now_us, 0)
        awake_us = machine.now_us - self._began_us - waited_us
        return min(int(USE_US * sum(piece.uses(awake_us) for piece in self._pieces)), awake_us)

    def _wait(self, machine: Machine, elapsed_us: int) -> None:
        if self._ended_us is None:
            self._ended_us = machine.now_us
        if (
            machine.now_us + elapsed_us - self._ended_us
            >= self.workload.restarts_after_seconds * 1e6
        ):
            self.start(machine)


def workload_of(machine: Machine, cgroup: Cgroup) -> Workload:
    """Return the workload of a group, whether its process runs at the moment or not."""
    running = machine.programs.get(cgroup.path)
    return running.workload if isinstance(running, Running) else IDLE


def set_workload(machine: Machine, cgroup: Cgroup, workload: Workload, seed: str) -> None:
    """Replace the workload of a group; one without memory only ends the old one."""
    before = machine.programs.get(cgroup.path)
    if isinstance(before, Running):
        before.stop(machine)
    if workload.memory:
        machine.programs[cgroup.path] = running = Running(workload, cgroup, seed)
        running.start(machine)
