"""Account memory: a tree of groups, and areas of memory charged to a group and its ancestors.

An area is memory of one kind and one access interval in one group. Nothing is stored per page, so
16 GiB cost no more than none: an area counts its pages on each list, and those that were reclaimed
and would come back if they were used.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from shrinkd.backends.simulator.machine.pressure import Stalls
from shrinkd.sizes import PAGE_BYTES

Kind = Literal["anon", "file", "shmem", "unevictable", "slab_reclaimable", "kernel", "zswap"]
"""`shmem` is on the anonymous lists and outlives its process; `zswap` is the space that compressed
pages of a group take."""
KINDS: tuple[Kind, ...] = get_args(Kind)
FREED_WITH_PROCESS: frozenset[Kind] = frozenset({"anon", "unevictable", "kernel"})
"""These are freed with their process; the others stay charged until they are reclaimed."""
SWAPPABLE: frozenset[Kind] = frozenset({"anon", "shmem"})

UNLIMITED = (2**63 - 1) // PAGE_BYTES  # PAGE_COUNTER_MAX, include/linux/page_counter.h
EVENTS = ("low", "high", "max", "oom", "oom_kill")


@dataclass(eq=False, slots=True)
class Area:
    """Count the pages of memory of one kind and one access interval.

    `interval` is the mean time in seconds between two uses of one of its pages.
    """

    cgroup: "Cgroup"
    kind: Kind
    interval: float = math.inf
    folio: int = 1
    active: int = 0
    inactive: int = 0
    dirty: int = 0
    writeback: int = 0
    out: int = 0
    """Pages that were reclaimed and are still wanted: in swap, or in a file on disk."""
    cleared_us: int | None = None
    """The mean time at which the accessed bits of the inactive pages were cleared; None before the
    first reclaim."""
    refault_fraction: float = 0.0
    """The fraction of a page that was used and has not been brought back yet."""

    def resident(self) -> int:
        return self.active + self.inactive + self.dirty + self.writeback

    def deactivate(self, pages: int, now_us: int) -> None:
        """Move pages to the inactive list, their accessed bits cleared."""
        seen = now_us if self.cleared_us is None else self.cleared_us
        self.active -= pages
        self.inactive += pages
        self.cleared_us = seen + (now_us - seen) * pages // max(self.inactive, 1)


@dataclass(slots=True)
class Counts:
    """Count the events of one group alone.

    Descendants are added on reading; the parent keeps their counts when they are removed.
    """

    faults: int = 0
    major: int = 0
    scanned: int = 0
    reclaimed: int = 0
    refaults_anon: int = 0
    refaults_file: int = 0
    charged: int = 0
    """Pages that were charged, refaults included."""
    cpu_us: int = 0
    """CPU time of processes that used memory here and have left."""

    def add(self, other: "Counts") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(eq=False, slots=True)
class Cgroup:
    """Hold one incarnation of a group.

    Limits and counters are in pages; usage, peak, swap, tasks and events are hierarchical.
    """

    path: str
    id: int
    parent: "Cgroup | None"
    line: "tuple[Cgroup, ...]" = ()
    """The group, its parent, and so on to the root."""
    children: "list[Cgroup]" = field(default_factory=list)
    processes: "dict[int, Process]" = field(default_factory=dict)
    areas: list[Area] = field(default_factory=list)
    max: int = UNLIMITED
    high: int = UNLIMITED
    low: int = 0
    min: int = 0
    swap_max: int = UNLIMITED
    memsw: int = UNLIMITED
    soft: int = UNLIMITED
    swappiness: int = 60
    oom_group: int = 0
    """Whether an OOM kills all processes of the group, as memory.oom.group: 0 or 1."""
    subtree_control: bool = False
    """Whether it has enabled the controller for children, as making the first one does; removing
    them does not undo it."""
    tasks: int = 0
    usage: int = 0
    peak: int = 0
    swap: int = 0
    failcnt: int = 0
    events: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EVENTS, 0))
    counts: Counts = field(default_factory=Counts)
    anon_cost: float = 0.0
    file_cost: float = 0.0
    """The recent cost of reclaim of each kind, in pages that refaulted: get_scan_count() of
    mm/vmscan.c."""
    some: Stalls = field(default_factory=Stalls)
    full: Stalls = field(default_factory=Stalls)

    def __post_init__(self) -> None:
        self.line = (self, *(self.parent.line if self.parent else ()))

    def subtree(self, depth: int | None = None) -> "Iterator[Cgroup]":
        """Yield the group and its descendants, parents before children."""
        yield self
        if depth != 0:
            for child in self.children:
                yield from child.subtree(None if depth is None else depth - 1)

    def own_room(self) -> int:
        """Return how many pages may still be charged by the limits of this group alone."""
        room = self.max - self.usage
        return room if self.memsw == UNLIMITED else min(room, self.memsw - self.usage - self.swap)

    def room(self) -> int:
        """Return how many pages may still be charged by the limits of the group's line."""
        room = UNLIMITED
        for member in self.line:
            own = member.own_room()
            room = min(room, own)
        return room

    def tightest(self) -> "Cgroup":
        """Return the group of the line that leaves the least room."""
        return min(self.line, key=Cgroup.own_room)

    def swap_room(self) -> int:
        """Return how many pages may still go to swap by the swap.max (v2) of the group's line.

        For v1's memsw, swapped pages count the same as resident ones.
        """
        return min(member.swap_max - member.swap for member in self.line)

    def area(self, kind: Kind, interval: float = math.inf, folio: int = 1) -> Area:
        """Return the area of a kind that belongs to no process, making it if needed."""
        for area in self.areas:
            if (
                area.kind == kind
                and area.interval == interval
                and area.folio == folio
                and kind not in FREED_WITH_PROCESS
            ):
                return area
        self.areas.append(made := Area(self, kind, interval, folio))
        return made

    def add(self, pages: int) -> None:
        """Count pages in the group's line."""
        for member in self.line:
            member.usage += pages
            member.peak = max(member.peak, member.usage)

    def add_swap(self, pages: int) -> None:
        for member in self.line:
            member.swap += pages

    def event(self, name: str, times: int = 1) -> None:
        """Count an event in the group's line, as memory.events does."""
        for member in self.line:
            member.events[name] += times

    def all_counts(self) -> Counts:
        total = Counts()
        for member in self.subtree():
            total.add(member.counts)
        return total


@dataclass(eq=False, slots=True)
class Process:
    """Hold a process and the areas that are freed with it.

    It sleeps, or waits for memory, until `wakes_us`.
    """

    pid: int
    cgroup: Cgroup
    areas: list[Area] = field(default_factory=list)
    wakes_us: int = 0
    waited_us: int = 0
    """The time that it has waited for memory, the wait until `wakes_us` included."""
    meter: Callable[[], int] = int
    """Returns its CPU time in microseconds, without that of being charged; set by its creator."""
    metered_us: int = 0
    """The part of it that is counted in groups that it has left."""

    def cpu_us(self) -> int:
        """Return the CPU time that it has used in its present group."""
        return self.meter() - self.metered_us

    def area(self, kind: Kind, interval: float = math.inf, folio: int = 1) -> Area:
        """Return the area for a charge: one of its own in its present group, or the group's."""
        if kind not in FREED_WITH_PROCESS:
            return self.cgroup.area(kind, interval, folio)
        for area in reversed(self.areas):
            if (
                area.cgroup is self.cgroup
                and area.kind == kind
                and area.interval == interval
                and area.folio == folio
            ):
                return area
        made = Area(self.cgroup, kind, interval, folio)
        self.cgroup.areas.append(made)
        self.areas.append(made)
        return made

    def holds(self, kind: Kind) -> int:
        return sum(area.resident() for area in self.areas if area.kind == kind)

    def rss(self) -> int:
        """Return resident and swapped pages, by which oom_badness() compares."""
        return sum(area.resident() + area.out for area in self.areas)

    def move(self, cgroup: Cgroup | None) -> None:
        """Move to another group, or (None) leave for good.

        Charged memory stays with the old group: on v2 always, on v1 since 6.13.
        """
        if self.cgroup.processes.pop(self.pid, None):
            used_us = self.cpu_us()
            self.cgroup.counts.cpu_us += used_us
            self.metered_us += used_us
            for member in self.cgroup.line:
                member.tasks -= 1
        if cgroup is not None:
            self.cgroup = cgroup
            cgroup.processes[self.pid] = self
            for member in cgroup.line:
                member.tasks += 1
