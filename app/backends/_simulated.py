"""The machine that the simulator simulates: cgroups, processes and reclaim as rules over counts of pages.

Nothing here knows a thread, a wall clock or an HTTP error: time is what advance() is told, and a refusal is a plain answer.
Nothing is kept per page either, so a group of 16 GiB costs what an empty one does. The rules are those of mm/memcontrol.c
and mm/vmscan.c on a machine without swap: a charge counts in every ancestor and is made to fit, first by reclaim and then by
killing the largest process; reclaim takes clean page cache from the inactive lists, ages the active ones, shrinks slab, and
writes dirty pages back at the speed of a disk. Anonymous, shared, locked and kernel memory it never takes.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from app.memparse import PAGE_BYTES

Kind = Literal[
    "active_anon",
    "inactive_anon",
    "active_file",
    "inactive_file",
    "dirty",
    "writeback",
    "shmem",
    "unevictable",
    "slab_reclaimable",
    "kernel",
]
"""Where a page is. Dirty and writeback pages stand on the inactive file list besides, shmem on the inactive anonymous one."""
KINDS: tuple[Kind, ...] = get_args(Kind)
FILE_KINDS: tuple[Kind, ...] = ("inactive_file", "active_file", "writeback", "dirty")
RECLAIM_ORDER: tuple[Kind, ...] = ("inactive_file", "active_file", "slab_reclaimable", "writeback", "dirty")
_LISTS: dict[str, tuple[Kind, Kind]] = {"anon": ("inactive_anon", "active_anon"), "file": ("inactive_file", "active_file")}
_HELD: frozenset[Kind] = frozenset({"inactive_anon", "unevictable", "kernel"})  # these die with the process that charged them

TOTAL_PAGES = 16 * 2**30 // PAGE_BYTES
SWAP_CLUSTER_MAX = 32  # include/linux/swap.h: reclaim works in batches of so many pages
MEMCG_CHARGE_BATCH = 64  # include/linux/memcontrol.h: a charge asks for so many pages at a time
RECLAIM_US = 2  # one clean page: 2.05 GiB/s in folios of 4 KiB, as measured on 6.18
WRITE_US = 8  # one dirty page: a disk of some 500 MB/s
DIRTY_LIFE_US = 5_000_000  # the flusher's wb_writeback interval, dirty_writeback_centisecs = 500
PSI_PERIOD_US = 2_000_000  # PSI_FREQ of kernel/sched/psi.c: 2 s
PSI_WINDOWS = (10, 60, 300)
UNHURRIED_US = 2**63  # a task in direct reclaim waits for as long as it takes


@dataclass(slots=True)
class Stalls:
    """One line of memory.pressure. Averages move once a period, and lazily: a group that nobody reads costs nothing."""

    total_us: int = 0
    averages: list[float] = field(default_factory=lambda: [0.0] * len(PSI_WINDOWS))
    _settled_us: int = 0
    _settled_total_us: int = 0

    def add(self, microseconds: int, now_us: int) -> None:
        self.settle(now_us)
        self.total_us += microseconds

    def settle(self, now_us: int) -> None:
        """Bring the averages up to now: one period with the stalls that it saw, then the quiet ones after it."""
        periods = (now_us - self._settled_us) // PSI_PERIOD_US
        if not periods:
            return
        percent = min(100 * (self.total_us - self._settled_total_us) / PSI_PERIOD_US, 100.0)
        for i, window in enumerate(PSI_WINDOWS):
            decay = math.exp(-PSI_PERIOD_US / 1_000_000 / window)
            self.averages[i] = (self.averages[i] * decay + percent * (1 - decay)) * decay ** (periods - 1)
        self._settled_us += periods * PSI_PERIOD_US
        self._settled_total_us = self.total_us


@dataclass(eq=False, slots=True)
class Cgroup:
    """One incarnation of a group. `own` are the pages charged right here; every other count has the descendants in it."""

    path: str
    id: int
    parent: "Cgroup | None"
    own: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    children: "list[Cgroup]" = field(default_factory=list)
    processes: "dict[int, Process]" = field(default_factory=dict)
    max: int | None = None
    memsw: int | None = None
    soft: int | None = None
    tasks: int = 0
    usage: int = 0
    peak: int = 0
    failcnt: int = 0
    oom: int = 0
    oom_kill: int = 0
    faults: int = 0
    scanned: int = 0
    reclaimed: int = 0
    some: Stalls = field(default_factory=Stalls)
    full: Stalls = field(default_factory=Stalls)

    def lineage(self) -> "Iterator[Cgroup]":
        """The group, its parent, and so on to the root."""
        cgroup: Cgroup | None = self
        while cgroup is not None:
            yield cgroup
            cgroup = cgroup.parent

    def subtree(self, depth: int | None = None) -> "Iterator[Cgroup]":
        """The group and its descendants, parents before children."""
        yield self
        if depth != 0:
            for child in self.children:
                yield from child.subtree(None if depth is None else depth - 1)

    def pages(self) -> dict[Kind, int]:
        """The pages of the whole subtree by kind."""
        members = list(self.subtree())
        return {kind: sum(member.own[kind] for member in members) for kind in KINDS}

    def cached(self) -> int:
        return sum(self.own[kind] for kind in FILE_KINDS)


@dataclass(eq=False, slots=True)
class Process:
    """A process, and what dies with it: its anonymous, locked and kernel pages, each with the group that was charged."""

    pid: int
    cgroup: Cgroup
    held: dict[tuple[Cgroup, Kind], int] = field(default_factory=dict)

    def rss(self) -> int:
        return sum(self.held.values())

    def holds(self, kind: Kind) -> int:
        return sum(pages for (_, held), pages in self.held.items() if held == kind)


class Machine:
    """16 GiB of memory, no swap, one disk. Not thread-safe: whoever holds it brings a lock."""

    def __init__(self, first_id: int = 1) -> None:
        self._ids = itertools.count(first_id)
        self._pids = itertools.count(1000)
        self.root = Cgroup("", next(self._ids), None, max=TOTAL_PAGES)
        self.cgroups = {"": self.root}
        self.processes: dict[int, Process] = {}
        self.now_us = 0

    def make(self, parent: Cgroup, name: str) -> Cgroup:
        path = f"{parent.path}/{name}" if parent.path else name
        cgroup = Cgroup(path, next(self._ids), parent)
        cgroup.some.settle(self.now_us)
        cgroup.full.settle(self.now_us)
        parent.children.append(cgroup)
        self.cgroups[path] = cgroup
        return cgroup

    def remove(self, cgroup: Cgroup) -> None:
        """Remove an empty group. What is still charged to it goes over to its parent, which has counted it all along."""
        parent = cgroup.parent
        if parent is None or cgroup.children or cgroup.processes:
            raise ValueError(cgroup.path)
        for kind in KINDS:
            parent.own[kind] += cgroup.own[kind]
        for process in self.processes.values():
            for owner, kind in [key for key in process.held if key[0] is cgroup]:
                pages = process.held.pop((owner, kind))
                process.held[parent, kind] = process.held.get((parent, kind), 0) + pages
        parent.children.remove(cgroup)
        del self.cgroups[cgroup.path]

    def start(self, cgroup: Cgroup) -> Process:
        process = Process(next(self._pids), cgroup)
        self.processes[process.pid] = process
        _enter(process, cgroup)
        return process

    def attach(self, process: Process, cgroup: Cgroup) -> None:
        """Move a process; what it charged before stays where it is, as since Linux 6.13 on v1 and ever on v2."""
        _leave(process)
        _enter(process, cgroup)

    def exit(self, process: Process) -> None:
        for (cgroup, kind), pages in process.held.items():
            self._uncharge(cgroup, kind, pages)
        process.held.clear()
        del self.processes[process.pid]
        _leave(process)

    def charge(self, process: Process, kind: Kind, pages: int) -> bool:
        """Charge pages to the group of a process, as its faults would; False when it was killed before the last one."""
        while pages > 0 and process.pid in self.processes:
            tight = min(self._limited(process.cgroup), key=lambda cgroup: (cgroup.max or 0) - cgroup.usage)
            room = min((tight.max or 0) - tight.usage, pages)
            if room > 0:
                self._commit(process, kind, room)
                pages -= room
                continue
            tight.failcnt += -(-pages // MEMCG_CHARGE_BATCH)
            freed, spent_us = self.reclaim(tight, pages)
            self._stall(process.cgroup, spent_us)
            if not freed:
                self._oom_kill(tight)
        return process.pid in self.processes

    def release(self, process: Process, kind: Kind, pages: int) -> None:
        """Free pages that a process holds, wherever they are charged; the latest charges go first."""
        for owner, held in reversed([key for key in process.held if key[1] == kind]):
            freed = min(process.held[owner, held], pages)
            process.held[owner, held] -= freed
            self._uncharge(owner, held, freed)
            pages -= freed

    def reclaim(self, cgroup: Cgroup, goal: int, budget_us: int = UNHURRIED_US) -> tuple[int, int]:
        """Free `goal` pages of a subtree, rounded up to a batch, or what can be; answers pages freed and microseconds spent.

        The budget bounds the time: dirty pages are the last to go, since each has to reach the disk first.
        """
        goal = min(-(-goal // SWAP_CLUSTER_MAX) * SWAP_CLUSTER_MAX, budget_us // RECLAIM_US)
        members = list(cgroup.subtree())
        for member in members:
            self._age(member)
        freed = spent_us = 0
        for kind in RECLAIM_ORDER:
            page_us = WRITE_US if kind in {"dirty", "writeback"} else RECLAIM_US
            taken = self._take(members, kind, min(goal - freed, (budget_us - spent_us) // page_us))
            freed += taken
            spent_us += taken * page_us
        return freed, spent_us

    def touch(self, cgroup: Cgroup, kind: Literal["anon", "file"], pages: int) -> None:
        """Use pages of a group again: the second use is what moves a page to the active list."""
        source, target = _LISTS[kind]
        self._move(cgroup, source, target, pages)

    def rewrite(self, cgroup: Cgroup, pages: int) -> None:
        """Write to cached pages of a group, clean ones first, and leave them dirty."""
        self._move(cgroup, "inactive_file", "dirty", pages)

    def advance(self, seconds: float) -> None:
        """Let time pass: the flusher picks up dirty pages as they grow old, and the disk finishes what it was given."""
        elapsed_us = round(seconds * 1_000_000)
        self.now_us += elapsed_us
        budget = elapsed_us // WRITE_US
        for cgroup in self.cgroups.values():
            budget -= self._move(cgroup, "writeback", "inactive_file", budget)
            if dirty := cgroup.own["dirty"]:
                self._move(cgroup, "dirty", "writeback", math.ceil(dirty * min(elapsed_us / DIRTY_LIFE_US, 1)))

    def _limited(self, cgroup: Cgroup) -> Iterator[Cgroup]:
        return (member for member in cgroup.lineage() if member.max is not None)

    def _commit(self, process: Process, kind: Kind, pages: int) -> None:
        if kind in _HELD:
            key = (process.cgroup, kind)
            process.held[key] = process.held.get(key, 0) + pages
        process.cgroup.own[kind] += pages
        for cgroup in process.cgroup.lineage():
            cgroup.usage += pages
            cgroup.peak = max(cgroup.peak, cgroup.usage)
            cgroup.faults += pages if kind in _HELD else 0

    def _uncharge(self, cgroup: Cgroup, kind: Kind, pages: int) -> None:
        if kind == "inactive_anon":  # held pages do not say on which list they are by now
            self._move(cgroup, "active_anon", "inactive_anon", pages - cgroup.own["inactive_anon"])
        cgroup.own[kind] -= pages
        for member in cgroup.lineage():
            member.usage -= pages

    def _move(self, cgroup: Cgroup, source: Kind, target: Kind, pages: int) -> int:
        moved = max(min(cgroup.own[source], pages), 0)
        cgroup.own[source] -= moved
        cgroup.own[target] += moved
        return moved

    def _age(self, cgroup: Cgroup) -> None:
        """Deactivate until the lists are of a size, inactive_is_low() of mm/vmscan.c for groups below 1 GiB."""
        aged = self._move(cgroup, "active_file", "inactive_file", (cgroup.own["active_file"] - cgroup.own["inactive_file"]) // 2)
        for member in cgroup.lineage():
            member.scanned += aged

    def _take(self, members: list[Cgroup], kind: Kind, want: int) -> int:
        """Uncharge pages of a kind from groups, from each in proportion to what it has of them."""
        total = sum(member.own[kind] for member in members)
        want = min(want, total)
        if want <= 0:
            return 0
        taken = passed = 0
        for member in members:
            passed += member.own[kind]
            share = want * passed // total - taken
            taken += share
            self._uncharge(member, kind, share)
            for ancestor in member.lineage():
                ancestor.scanned += share
                ancestor.reclaimed += share
        return taken

    def _stall(self, cgroup: Cgroup, microseconds: int) -> None:
        """Account a wait of one task. It is `full` where that task is alone: the others are taken to be running."""
        for member in cgroup.lineage():
            member.some.add(microseconds, self.now_us)
            if member.tasks == 1:
                member.full.add(microseconds, self.now_us)

    def _oom_kill(self, tight: Cgroup) -> None:
        """Kill the largest process below a limit that cannot be met; of two alike the younger, which has less to lose."""
        victim = max((process for cgroup in tight.subtree() for process in cgroup.processes.values()), key=lambda p: (p.rss(), p.pid))
        for cgroup in tight.lineage():
            cgroup.oom += 1
        for cgroup in victim.cgroup.lineage():
            cgroup.oom_kill += 1
        self.exit(victim)


def _enter(process: Process, cgroup: Cgroup) -> None:
    process.cgroup = cgroup
    cgroup.processes[process.pid] = process
    for member in cgroup.lineage():
        member.tasks += 1


def _leave(process: Process) -> None:
    del process.cgroup.processes[process.pid]
    for member in process.cgroup.lineage():
        member.tasks -= 1
