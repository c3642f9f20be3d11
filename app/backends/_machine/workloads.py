"""Workloads: what processes do with memory as time passes, and the part of them that is plain data.

How much a process wants at a time is a pure function of its age and the seed; what it gets is between it and the machine. So the
same scenario asks for the same memory whatever a policy did to it meanwhile.
"""

import bisect
import functools
import math
from dataclasses import dataclass, field
from random import Random

from app.backends._machine.machine import Machine
from app.backends._machine.tree import SWAPPED, Area, Cgroup, Kind, Process
from app.memparse import PAGE_BYTES


def _demand(is_so: bool, sentence: str) -> None:  # noqa: FBT001  # as assert, which -O would take away
    if not is_so:
        raise ValueError(sentence)


@dataclass(frozen=True, slots=True)
class Bursts:
    """More memory for a while: once in every `every` seconds, at a moment that the seed decides."""

    every: float
    seconds: float
    size: int

    def __post_init__(self) -> None:
        _demand(0 < self.seconds <= self.every, "bursts last longer than 0 seconds, and no longer than from one to the next")


@dataclass(frozen=True, slots=True)
class Memory:
    """One piece of what a process uses: sizes in bytes, speeds in bytes a second, times in seconds."""

    kind: Kind
    size: int
    heat: float = math.inf
    """The mean time between two uses of one page; for ever is memory that nobody uses again."""
    folio: int = 1
    """Pages of a folio of the page cache: 1, or 512 for files that were read ahead."""
    grows: float = 0.0
    ceiling: int | None = None
    """Where growth ends; none is a leak."""
    falls: bool = False
    """At the ceiling it falls back to `size`, as the teeth of a saw, instead of staying there."""
    bursts: Bursts | None = None
    writes: float = 0.0
    """How much of a file is written to, and so left dirty."""
    trace: tuple[tuple[float, int], ...] = ()
    """Recorded sizes, each from its second on; they replace `size`, and begin anew at the last one."""
    changes: bool = field(init=False)
    """Whether it wants more at one time than at another."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "changes", bool(self.grows or self.bursts or self.trace))
        _demand(self.heat > 0, "heat is above 0")
        _demand(self.folio in ({1, 512} if self.kind == "file" else {1}), "a folio is 1 page, or 512 of a file")
        _demand(not self.writes or self.kind == "file", "only files are written to")
        _demand(self.ceiling is None or self.ceiling >= self.size, "a ceiling is not below the size")
        seconds = [second for second, _ in self.trace]
        _demand(seconds == sorted(seconds) and seconds[:1] in ([], [0]), "a trace begins at 0 and goes forward in time")

    def wanted(self, age: float, seed: str) -> int:
        """The pages that are wanted at an age in seconds."""
        return (self._level(age) + self._burst(age, seed)) // PAGE_BYTES

    def _level(self, age: float) -> int:
        if self.trace:
            period = self.trace[-1][0]
            second = age % period if period else age
            return self.trace[max(bisect.bisect_right(self.trace, (second, math.inf)) - 1, 0)][1]
        grown = int(self.grows * age)
        if self.ceiling is None:
            return self.size + grown
        room = self.ceiling - self.size
        return self.size + (grown % room if self.falls and room else min(grown, room))

    def _burst(self, age: float, seed: str) -> int:
        if self.bursts is None:
            return 0
        number, second = divmod(age, self.bursts.every)
        begins = _chance(seed, int(number)) * (self.bursts.every - self.bursts.seconds)
        return self.bursts.size if begins <= second < begins + self.bursts.seconds else 0


@functools.lru_cache(maxsize=4096)
def _chance(seed: str, number: int) -> float:
    """The n-th random number of a seed, whichever were asked for before."""
    return Random(f"{seed}:{number}").random()  # noqa: S311  # no secret


@dataclass(frozen=True, slots=True)
class Workload:
    """One process and its life: it ends after `exits_after`, or when it is killed, and comes back `restarts_after` that."""

    memory: tuple[Memory, ...]
    exits_after: float = math.inf
    restarts_after: float = 10.0

    def __post_init__(self) -> None:
        kinds = [(memory.kind, memory.heat, memory.folio) for memory in self.memory]
        _demand(len(kinds) == len(set(kinds)), "two pieces of memory are of one kind and one heat, which are one piece")


@dataclass(slots=True)
class _Piece:
    """A piece of memory of a running process: where it is, and how to keep it as large and as hot as it should be."""

    memory: Memory
    area: Area
    seed: str
    left: list[Area] = field(default_factory=list)
    """Where it was before its process was moved: what was charged there stays there."""
    back: int = 0
    more: int = 0
    _written: float = 0.0

    def plan(self, machine: Machine, age: float, run_us: int) -> int:
        """Find how many pages come back and how many are new; answers how many will be charged."""
        area, memory = self.area, self.memory
        out = area.out
        if out:
            self.back = self._missed(machine, run_us)
        wanted = memory.wanted(age, self.seed) if memory.changes else memory.size // PAGE_BYTES
        self.more = more = wanted - area.active - area.inactive - area.dirty - area.writeback - out - self._held_elsewhere()
        return self.back + more if more > 0 else self.back

    def act(self, machine: Machine, process: Process, run_us: int) -> None:
        """Do what was planned, as far as the process gets with it."""
        if self.back:
            machine.refault(process, self.area, self.back)
            self.back = 0
        if self.more < 0:
            machine.shrink_area(self.area, -self.more)
        elif self.more:
            self._grow(machine, process, machine.now_us + run_us)
        if self.memory.writes:
            self._written += self.memory.writes * run_us / 1e6 / PAGE_BYTES
            machine.dirty(self.area, int(self._written))
            self._written %= 1

    def is_still(self) -> bool:
        """Whether nothing will happen here until somebody reclaims."""
        return not (self.area.out or self.more or self.left)

    def _held_elsewhere(self) -> int:
        return sum(before.resident() + before.out for before in self.left) if self.left else 0

    def _missed(self, machine: Machine, run_us: int) -> int:
        """The pages that were reclaimed and are used now: as often as they are used, and no faster than they can be read."""
        area = self.area
        area.owed += area.out * -math.expm1(-run_us / 1e6 / self.memory.heat)
        page_us = machine.swap.in_us if area.kind in SWAPPED else machine.hardware.file_in_us
        back = min(int(area.owed), area.out, int(run_us / page_us) + 1)
        area.owed = min(area.owed - back, 1.0)
        return back

    def _grow(self, machine: Machine, process: Process, ends_us: int) -> None:
        if self.area.cgroup is not process.cgroup:  # it was moved, and charges its new group from now on
            self.left.append(self.area)
            self.area = process.area(self.memory.kind, self.memory.heat, self.memory.folio)
        more = self.more
        while more > 0 and process.wakes_us < ends_us:
            part = machine.paced(self.area.cgroup, more)
            if not machine.fault(process, self.area, part):
                return
            more -= part


@dataclass(slots=True)
class Running:
    """A workload in its group, for as long as that lives."""

    workload: Workload
    cgroup: Cgroup
    seed: str
    process: Process | None = None
    _pieces: list[_Piece] = field(default_factory=list)
    _began_us: int = 0
    _still_at: int = -1
    """What reclaim had taken here when everything was in its place; as long as that stands, a tick has nothing to do."""
    _ended_us: int | None = None
    _may_stand_still: bool = False

    def __post_init__(self) -> None:
        always_moves = any(memory.changes or memory.writes for memory in self.workload.memory)
        self._may_stand_still = self.workload.exits_after == math.inf and not always_moves

    def run(self, machine: Machine, elapsed_us: int) -> None:
        """Live through a tick."""
        process = self.process
        if process is None or process.pid not in machine.processes:
            self._wait(machine, elapsed_us)
            return
        if self._still_at == self.cgroup.counts.reclaimed:
            return
        ends_us = machine.now_us + elapsed_us
        age = (ends_us - self._began_us) / 1e6
        if age >= self.workload.exits_after:
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
            if (piece.back or piece.more or piece.memory.writes) and process.pid in machine.processes:
                piece.act(machine, process, run_us)
        if self._may_stand_still:
            self._still_at = self.cgroup.counts.reclaimed if all(piece.is_still() for piece in self._pieces) else -1

    def start(self, machine: Machine) -> None:
        """Start the process, with all of its first memory."""
        self.process = process = machine.start(self.cgroup)
        self._began_us, self._ended_us, self._still_at = machine.now_us, None, -1
        self._pieces = []
        for index, memory in enumerate(self.workload.memory):
            area = process.area(memory.kind, memory.heat, memory.folio)
            self._pieces.append(_Piece(memory, area, f"{self.seed}:{self.cgroup.path}:{index}"))
            missing = memory.wanted(0, self._pieces[-1].seed) - area.resident() - area.out
            if not machine.fault(process, area, missing):
                return

    def stop(self, machine: Machine) -> None:
        """End it for good; what it has read stays in the cache."""
        if self.process and self.process.pid in machine.processes:
            machine.exit(self.process)
        machine.programs.pop(self.cgroup.path, None)

    def _wait(self, machine: Machine, elapsed_us: int) -> None:
        if self._ended_us is None:
            self._ended_us = machine.now_us
        if machine.now_us + elapsed_us - self._ended_us >= self.workload.restarts_after * 1e6:
            self.start(machine)


def put_to_work(machine: Machine, cgroup: Cgroup, workload: Workload | None, seed: str) -> None:
    """Give a group a workload in place of the one that it has; None only ends that."""
    before = machine.programs.get(cgroup.path)
    if isinstance(before, Running):
        before.stop(machine)
    if workload is not None:
        machine.programs[cgroup.path] = running = Running(workload, cgroup, seed)
        running.start(machine)
