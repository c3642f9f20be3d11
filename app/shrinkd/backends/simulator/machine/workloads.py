"""Workloads: what processes do with memory as time passes, and the part of them that is plain data.

How much a process wants at a time is a pure function of its age and the seed; what it gets is
between it and the machine. So the same scenario asks for the same memory whatever a policy did to
it meanwhile.
"""

import bisect
import functools
import math
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from shrinkd.backends.simulator.machine.accounting import SWAPPED, Area, Cgroup, Process
from shrinkd.backends.simulator.machine.machine import Machine
from shrinkd.sizes import PAGE_BYTES, format_size
from shrinkd.strict_model import Size, Strict, size_schema


# as assert, which -O would take away
def _demand(is_so: bool, sentence: str) -> None:
    if not is_so:
        raise ValueError(sentence)


LARGEST_BYTES = 2**36
"""The most that one piece of memory may be: the whole of it is charged at the start, while others
wait for the machine."""
FASTEST_BYTES = 2**32
"""The most that it may grow or be written to in a second."""
_MOST_A_TICK = 2**30 // PAGE_BYTES
"""How many pages one piece charges in a tick, which may be an hour; it catches up in the next ones."""
USE_US = 2
"""The CPU time of one use of a page: to read 4 KiB costs 1 us, and something is done with it."""
HEATS = {"hot": 1.0, "warm": 30.0, "cold": 600.0, "idle": math.inf}
_WORDS = {seconds: word for word, seconds in HEATS.items()}

Used = Literal["anon", "file", "shmem", "unevictable", "slab_reclaimable", "kernel"]


def _at_most(largest: int) -> AfterValidator:
    def check(size: int) -> int:
        _demand(size <= largest, f"that is more than {format_size(largest)}")
        return size

    return AfterValidator(check)


MemorySize = Annotated[
    Size, _at_most(LARGEST_BYTES), WithJsonSchema(size_schema(LARGEST_BYTES), mode="validation")
]
Speed = Annotated[
    Size, _at_most(FASTEST_BYTES), WithJsonSchema(size_schema(FASTEST_BYTES), mode="validation")
]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Step = Annotated[tuple[Seconds, MemorySize], Field(strict=False)]
"""From a second on, a size. Strict would be a tuple, which no JSON has."""


def _heat(value: object) -> object:
    if isinstance(value, str) and value not in HEATS:
        raise ValueError(f"a heat is seconds, or one of {', '.join(HEATS)}")
    return HEATS[value] if isinstance(value, str) else value


def _heat_out(seconds: float) -> float | str:
    return _WORDS.get(seconds, seconds)


Heat = Annotated[
    float,
    BeforeValidator(_heat),
    Field(gt=0),
    PlainSerializer(_heat_out),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"enum": list(HEATS)}]}),
]


class Bursts(Strict):
    """More memory for a while: once in every so many seconds, at a moment that the seed decides."""

    every_seconds: float = Field(ge=1, allow_inf_nan=False, examples=[120])
    lasts_seconds: float = Field(gt=0, allow_inf_nan=False, examples=[20])
    size_bytes: MemorySize = Field(examples=[16 << 20])

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lasts_seconds > self.every_seconds:
            raise ValueError("a burst lasts no longer than from one to the next")
        return self


class Memory(Strict):
    """One piece of what a process uses."""

    kind: Used = Field(examples=["anon"])
    """`shmem` is anonymous and outlives its process, as does what is cached of a `file`;
    `unevictable` is locked."""
    size_bytes: MemorySize = Field(default=0, examples=[48 << 20])
    """What the process starts with."""
    heat_seconds: Heat = Field(default=math.inf, examples=["hot", 45])
    """The mean time between two uses of one page, or hot (1), warm (30), cold (600), idle (nobody
    uses it again)."""
    folio_pages: Literal[1, 512] = 1
    """Pages of a folio of the page cache: 1, or 512 for files that were read ahead."""
    grows_bytes_per_second: Speed = 0
    """How fast it grows from then on."""
    ceiling_bytes: MemorySize | None = None
    """Where growth ends; null is a leak."""
    falls: bool = False
    """At the ceiling it falls back to `size_bytes`, as the teeth of a saw, instead of staying
    there."""
    bursts: Bursts | None = None
    """What is wanted for a while beside that."""
    writes_bytes_per_second: Speed = 0
    """How much of a file is written to, and so left dirty."""
    trace: Annotated[tuple[Step, ...], Field(strict=False)] = Field(
        default=(), examples=[[[0, 128 << 20], [30, 640 << 20], [45, 128 << 20]]]
    )
    """Recorded sizes, each from its second on; they replace `size_bytes`, and begin anew at the
    last one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _demand(
            bool(self.trace) or "size_bytes" in self.model_fields_set, "give size_bytes, or a trace"
        )
        _demand(self.folio_pages == 1 or self.kind == "file", "only files have folios of 512 pages")
        _demand(
            not self.writes_bytes_per_second or self.kind == "file", "only files are written to"
        )
        _demand(
            self.ceiling_bytes is None or self.ceiling_bytes >= self.size_bytes,
            "ceiling_bytes is below size_bytes",
        )
        seconds = [second for second, _ in self.trace]
        _demand(
            seconds == sorted(seconds) and seconds[:1] in ([], [0]),
            "a trace begins at 0 and goes forward in time",
        )
        return self

    @functools.cached_property
    def changes(self) -> bool:
        """Whether it wants more at one time than at another."""
        return bool(self.grows_bytes_per_second or self.bursts or self.trace)

    def wanted(self, age: float, seed: str) -> int:
        """The pages that are wanted at an age in seconds."""
        return (self._level(age) + self._burst(age, seed)) // PAGE_BYTES

    def _level(self, age: float) -> int:
        if self.trace:
            period = self.trace[-1][0]
            second = age % period if period else age
            return self.trace[max(bisect.bisect_right(self.trace, (second, math.inf)) - 1, 0)][1]
        grown = int(self.grows_bytes_per_second * age)
        if self.ceiling_bytes is None:
            return self.size_bytes + grown
        room = self.ceiling_bytes - self.size_bytes
        return self.size_bytes + (grown % room if self.falls and room else min(grown, room))

    def _burst(self, age: float, seed: str) -> int:
        if self.bursts is None:
            return 0
        bursts = self.bursts
        number, second = divmod(age, bursts.every_seconds)
        begins = _chance(seed, int(number)) * (bursts.every_seconds - bursts.lasts_seconds)
        return bursts.size_bytes if begins <= second < begins + bursts.lasts_seconds else 0


@functools.lru_cache(maxsize=4096)
def _chance(seed: str, number: int) -> float:
    """The n-th random number of a seed, whichever were asked for before."""
    return Random(f"{seed}:{number}").random()  # no secret


class Workload(Strict):
    """One process, what it uses, and its life.

    When it was killed or has ended, it comes back after a while.
    """

    memory: Annotated[tuple[Memory, ...], Field(strict=False, max_length=64)]
    """At most one piece of each kind and heat; none at all is no process."""
    exits_after_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How long it runs; null is for ever."""
    restarts_after_seconds: Seconds = 10.0
    """How long it stays away."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = [(memory.kind, memory.heat_seconds, memory.folio_pages) for memory in self.memory]
        _demand(
            len(kinds) == len(set(kinds)),
            "two pieces of memory are of one kind and one heat, which are one piece",
        )
        return self


IDLE = Workload(memory=())
"""No process."""


@dataclass(slots=True)
class _Piece:
    """A piece of memory of a running process.

    Where it is, and how to keep it as large and as hot as it should be.
    """

    memory: Memory
    area: Area
    seed: str
    left: list[Area] = field(default_factory=list)
    """Where it was before its process was moved: what was charged there stays there."""
    back: int = 0
    more: int = 0
    _written: float = 0.0
    _page_us: int = 0
    """For how long it wanted how many pages, where that changes."""

    def plan(self, machine: Machine, age: float, run_us: int) -> int:
        """Find how many pages come back and how many are new; answers how many will be charged."""
        area, memory = self.area, self.memory
        out = area.out
        if out:
            self.back = self._missed(machine, run_us)
        if memory.changes:
            wanted = memory.wanted(age, self.seed)
            self._page_us += wanted * run_us
        else:
            wanted = memory.size_bytes // PAGE_BYTES
        more = (
            wanted
            - area.active
            - area.inactive
            - area.dirty
            - area.writeback
            - out
            - self._held_elsewhere()
        )
        self.more = more = min(_MOST_A_TICK, more)
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
        if self.memory.writes_bytes_per_second:
            self._written += self.memory.writes_bytes_per_second * run_us / 1e6 / PAGE_BYTES
            machine.dirty(self.area, int(self._written))
            self._written %= 1

    def uses(self, awake_us: int) -> float:
        """How often a page was used, or written to, by a process that was awake for so long."""
        memory = self.memory
        page_us = self._page_us if memory.changes else memory.size_bytes // PAGE_BYTES * awake_us
        return (
            page_us / 1e6 / memory.heat_seconds
            + memory.writes_bytes_per_second / PAGE_BYTES * awake_us / 1e6
        )

    def is_still(self) -> bool:
        """Whether nothing will happen here until somebody reclaims."""
        return not (self.area.out or self.more or self.left)

    def _held_elsewhere(self) -> int:
        return sum(before.resident() + before.out for before in self.left) if self.left else 0

    def _missed(self, machine: Machine, run_us: int) -> int:
        """The pages that were reclaimed and are used now.

        As often as they are used, and no faster than they can be read.
        """
        area = self.area
        area.owed += area.out * -math.expm1(-run_us / 1e6 / self.memory.heat_seconds)
        page_us = machine.swap.in_us if area.kind in SWAPPED else machine.hardware.file_in_us
        back = min(int(area.owed), area.out, int(run_us / page_us) + 1, _MOST_A_TICK)
        area.owed = min(area.owed - back, 1.0)
        return back

    def _grow(self, machine: Machine, process: Process, ends_us: int) -> None:
        if (
            self.area.cgroup is not process.cgroup
        ):  # it was moved, and charges its new group from now on
            self.left.append(self.area)
            self.area = process.area(
                self.memory.kind, self.memory.heat_seconds, self.memory.folio_pages
            )
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
    """What reclaim had taken here when everything was in its place; as long as that stands, a tick
    has nothing to do."""
    _ended_us: int | None = None
    _may_stand_still: bool = False
    _exits_after: float = math.inf

    def __post_init__(self) -> None:
        always_moves = any(
            memory.changes or memory.writes_bytes_per_second for memory in self.workload.memory
        )
        self._exits_after = self.workload.exits_after_seconds or math.inf
        self._may_stand_still = self.workload.exits_after_seconds is None and not always_moves

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
                piece.back or piece.more or piece.memory.writes_bytes_per_second
            ) and process.pid in machine.processes:
                piece.act(machine, process, run_us)
        if self._may_stand_still:
            self._still_at = (
                self.cgroup.counts.reclaimed
                if all(piece.is_still() for piece in self._pieces)
                else -1
            )

    def start(self, machine: Machine) -> None:
        """Start the process, with all of its first memory."""
        self.process = process = machine.start(self.cgroup)
        self._began_us, self._ended_us, self._still_at = machine.now_us, None, -1
        self._pieces = []
        process.meter = functools.partial(self._cpu_us, machine, process)
        for index, memory in enumerate(self.workload.memory):
            area = process.area(memory.kind, memory.heat_seconds, memory.folio_pages)
            self._pieces.append(_Piece(memory, area, f"{self.seed}:{self.cgroup.path}:{index}"))
            missing = memory.wanted(0, self._pieces[-1].seed) - area.resident() - area.out
            if not machine.fault(process, area, missing):
                return

    def stop(self, machine: Machine) -> None:
        """End it for good; what it has read stays in the cache."""
        if self.process and self.process.pid in machine.processes:
            machine.exit(self.process)
        machine.programs.pop(self.cgroup.path, None)

    def _cpu_us(self, machine: Machine, process: Process) -> int:
        """The CPU time that using its memory has cost the process.

        It has one thread, and uses nothing while it waits.

        What is used always is asked for here instead of being added up, so that a tick in which
        nothing happens costs nothing.
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
    """What was put into a group, whether its process runs at the moment or not."""
    running = machine.programs.get(cgroup.path)
    return running.workload if isinstance(running, Running) else IDLE


def put_to_work(machine: Machine, cgroup: Cgroup, workload: Workload, seed: str) -> None:
    """Give a group a workload in place of the one that it has.

    One without memory only ends that.
    """
    before = machine.programs.get(cgroup.path)
    if isinstance(before, Running):
        before.stop(machine)
    if workload.memory:
        machine.programs[cgroup.path] = running = Running(workload, cgroup, seed)
        running.start(machine)
