"""Simulate a machine: charge, use, free and reclaim the memory of processes in groups."""

import itertools
from dataclasses import dataclass, field
from typing import Protocol

from shrinkd.backends.simulator.machine.accounting import (
    FREED_WITH_PROCESS,
    SWAPPABLE,
    Area,
    Cgroup,
    Kind,
    Process,
)
from shrinkd.backends.simulator.machine.kernel_profiles import V1, Profile
from shrinkd.backends.simulator.machine.reclaim import UNBOUNDED_US, WRITE_US, Scan, reclaim
from shrinkd.backends.simulator.machine.swap import Swap
from shrinkd.sizes import PAGE_BYTES

MEMCG_CHARGE_BATCH = 64  # include/linux/memcontrol.h: pages per charge
# dirty_writeback_centisecs = 500: dirty pages are under writeback after that time
FLUSH_US = 5_000_000
HIGH_DELAY_US = 2_000_000  # MEMCG_MAX_HIGH_DELAY_JIFFIES of mm/memcontrol.c: 2 s
HIGH_GRACE_US = 10_000  # below HZ/100 it does not sleep


class Program(Protocol):
    """Act in a group as time passes."""

    def run(self, machine: "Machine", elapsed_us: int) -> None:
        """Act for `elapsed_us` from the machine's now on."""


@dataclass(slots=True)
class Hardware:
    """Describe the memory in pages, and the time to read a page of a file again in microseconds."""

    pages: int = 16 * 2**30 // PAGE_BYTES
    cpus: int = 0
    """Each CPU keeps a stock of up to 64 pages charged ahead for the group that used it last; with
    0 CPUs the machine counts exactly."""
    file_in_us: float = 100.0
    swap: Swap = field(default_factory=Swap)


class Machine:
    """Hold the state of a machine. Not thread-safe: the owner locks it."""

    def __init__(
        self, profile: Profile = V1, hardware: Hardware | None = None, first_id: int = 1
    ) -> None:
        self.profile = profile
        self.hardware = hardware or Hardware()
        self.swap = self.hardware.swap
        self.root = Cgroup("", first_id, None, max=self.hardware.pages)
        self.cgroups = {"": self.root}
        self.processes: dict[int, Process] = {}
        self.programs: dict[str, Program] = {}
        self.now_us = 0
        self._ids = itertools.count(first_id + 1)
        self._pids = itertools.count(1000)
        self._waiting: dict[Process, None] = {}
        self._dirtied: dict[Area, None] = {}
        self._stocks: list[tuple[Cgroup, int]] = [(self.root, 0)] * self.hardware.cpus

    # -- groups and processes

    def make(self, parent: Cgroup, name: str) -> Cgroup:
        path = f"{parent.path}/{name}" if parent.path else name
        cgroup = Cgroup(path, next(self._ids), parent)
        cgroup.some.settle(self.now_us)
        cgroup.full.settle(self.now_us)
        parent.children.append(cgroup)
        parent.subtree_control = True
        self.cgroups[path] = cgroup
        return cgroup

    def remove(self, cgroup: Cgroup) -> None:
        """Remove an empty group; its remaining charges move to its parent, which counts them."""
        parent = cgroup.parent
        if parent is None or cgroup.children or cgroup.processes:
            raise ValueError(cgroup.path)
        self.drain_stocks(cgroup)
        for area in cgroup.areas:
            self._reparent(area, parent)
        parent.counts.add(cgroup.counts)
        parent.children.remove(cgroup)
        del self.cgroups[cgroup.path]
        self.programs.pop(cgroup.path, None)

    def remove_tree(self, cgroup: Cgroup) -> None:
        """Remove a group and its descendants, and kill their processes. The root stays."""
        for member in reversed([*cgroup.subtree()] if cgroup.parent else []):
            for process in [*member.processes.values()]:
                self.exit(process)
            self.remove(member)

    def _reparent(self, area: Area, parent: Cgroup) -> None:
        if area.kind in FREED_WITH_PROCESS:
            area.cgroup = parent
            parent.areas.append(area)
            return
        target = parent.area(area.kind, folio=area.folio)  # no process uses it any more
        target.active, target.inactive = (
            target.active + area.active,
            target.inactive + area.inactive,
        )
        target.dirty, target.writeback = (
            target.dirty + area.dirty,
            target.writeback + area.writeback,
        )
        target.out += area.out
        if self._dirtied.pop(area, area) is None:
            self._dirtied[target] = None

    def start(self, cgroup: Cgroup) -> Process:
        process = Process(next(self._pids), cgroup)
        self.processes[process.pid] = process
        process.move(cgroup)
        return process

    def exit(self, process: Process) -> None:
        for area in process.areas:
            self.shrink_area(area, area.resident() + area.out)
            area.cgroup.areas.remove(area)
        process.areas.clear()
        process.move(None)
        self._waiting.pop(process, None)
        del self.processes[process.pid]

    # -- charging

    def charge(self, process: Process, kind: Kind, pages: int) -> bool:
        """Charge pages to the group of a process, as its faults would.

        False if the process was killed before the last page.
        """
        return self.fault(process, process.area(kind), pages)

    def fault(self, process: Process, area: Area, pages: int, *, is_refault: bool = False) -> bool:
        """Charge pages of an area; make room by reclaim, then by killing the largest process."""
        cgroup = area.cgroup
        while pages > 0 and process.pid in self.processes:
            room = cgroup.room()
            if room > 0:
                part = min(room, pages)
                cgroup.add(
                    self._consume_stock(process, cgroup, part, room) if self._stocks else part
                )
                self._place(area, part, is_refault=is_refault)
                self._throttle(process, cgroup, part)
                pages -= part
            elif not self._reclaim_for(process, cgroup, pages) and not self.oom_kill(
                cgroup.tightest()
            ):
                return False
        return process.pid in self.processes

    def _place(self, area: Area, pages: int, *, is_refault: bool) -> None:
        """Put pages on an LRU list.

        Refaulted pages go to the active list, like anonymous pages of the youngest generation.
        """
        counts = area.cgroup.counts
        counts.charged += pages
        if area.kind in FREED_WITH_PROCESS:
            counts.faults += pages
        if (is_refault and area.kind != "slab_reclaimable") or (
            area.kind == "anon" and self.profile.is_multigenerational
        ):
            area.active += pages
            return
        area.inactive += pages
        if (
            area.cleared_us is None
            and area.kind == "file"
            and not self.profile.is_multigenerational
        ):
            area.cleared_us = self.now_us
        if area.cleared_us is not None:
            area.cleared_us += (self.now_us - area.cleared_us) * pages // area.inactive

    def make_room(self, process: Process, pages: int) -> None:
        """Reclaim once for all the charges of a tick, instead of once for each."""
        cgroup = process.cgroup
        room = cgroup.room()
        if room < pages:
            self._reclaim_for(process, cgroup, pages - room)
        for member in cgroup.line:
            if (excess := member.usage + pages - member.high) > 0:
                member.event("high")
                _, spent_us = self.reclaim(member, excess)
                self.stall(process, spent_us)

    def _reclaim_for(self, process: Process, cgroup: Cgroup, pages: int) -> bool:
        """Make room below the tightest limit while the process waits; False if nothing is freed.

        A large charge makes room in parts, so that what it has brought in is reclaimable as well.
        """
        tight = cgroup.tightest()
        pages = min(pages, max(tight.usage // 16, MEMCG_CHARGE_BATCH))
        tight.failcnt += -(-pages // MEMCG_CHARGE_BATCH)
        tight.event("max")
        if self._stocks and self.drain_stocks(tight):
            return True
        freed, spent_us = self.reclaim(tight, pages, may_swap=tight.memsw - tight.swap > tight.max)
        self.stall(process, spent_us)
        return freed > 0

    def _throttle(self, process: Process, cgroup: Cgroup, pages: int) -> None:
        """Reclaim as much as was charged above a high limit, then sleep.

        See mem_cgroup_handle_over_high().
        """
        for member in cgroup.line:
            if member.usage > member.high:
                member.event("high")
                _, spent_us = self.reclaim(
                    member, max(min(pages, member.usage - member.high), MEMCG_CHARGE_BATCH)
                )
                self.stall(process, spent_us + high_delay_us(member) * pages / MEMCG_CHARGE_BATCH)

    def charge_batch(self, cgroup: Cgroup, pages: int) -> int:
        """Return how many of these pages are charged at once.

        It is a batch above a high limit, where a sleep may follow each.
        """
        for member in cgroup.line:
            if member.usage + pages > member.high:
                return min(pages, MEMCG_CHARGE_BATCH)
        return pages

    def refault(self, process: Process, area: Area, pages: int) -> None:
        """Bring back pages that were reclaimed too early; the process waits for each."""
        cgroup = area.cgroup
        if area.kind in SWAPPABLE:
            waits_us = self.swap.swap_in(area, pages)
            cgroup.counts.refaults_anon += pages
            cgroup.anon_cost += pages
        else:
            area.out -= pages
            waits_us = pages * self.hardware.file_in_us
            cgroup.counts.refaults_file += pages
            cgroup.file_cost += pages
        cgroup.counts.major += pages
        if cgroup.anon_cost + cgroup.file_cost > cgroup.usage / 4:  # lru_note_cost()
            cgroup.anon_cost, cgroup.file_cost = cgroup.anon_cost / 2, cgroup.file_cost / 2
        self.stall(process, waits_us)
        self.fault(process, area, pages, is_refault=True)

    # -- freeing and reclaim

    def release(self, process: Process, kind: Kind, pages: int) -> None:
        """Free pages of a process, wherever they are charged; the latest charges first."""
        for area in reversed([area for area in process.areas if area.kind == kind]):
            freed = min(area.resident() + area.out, pages)
            self.shrink_area(area, freed)
            pages -= freed

    def shrink_area(self, area: Area, pages: int) -> None:
        """Free pages of an area: first those that were reclaimed, then those on the lists."""
        gone = min(area.out, pages)
        if area.kind in SWAPPABLE and gone:
            self.swap.swap_in(area, gone)
        elif gone:
            area.out -= gone
        pages -= gone
        for name in ("inactive", "active", "writeback", "dirty"):
            gone = min(getattr(area, name), pages)
            setattr(area, name, getattr(area, name) - gone)
            area.cgroup.add(-gone)
            pages -= gone

    def reclaim(
        self,
        cgroup: Cgroup,
        goal: int,
        budget_us: float = UNBOUNDED_US,
        *,
        swappiness: int | None = None,
        may_swap: bool = True,
    ) -> tuple[int, int]:
        """Free `goal` pages of a subtree, rounded up to a batch, or as many as possible.

        Returns pages freed and microseconds spent.
        """
        goal = -(-goal // self.profile.batch_pages) * self.profile.batch_pages
        scan = Scan(
            goal,
            self.now_us,
            self.swap,
            budget_us,
            swappiness,
            may_swap,
            self.profile.is_multigenerational,
        )
        reclaim(cgroup, scan)
        return max(scan.freed, 0), round(scan.spent_us)

    def dirty(self, area: Area, pages: int) -> None:
        """Dirty cached pages, clean ones first."""
        for name in ("active", "inactive"):
            moved = min(getattr(area, name), pages)
            setattr(area, name, getattr(area, name) - moved)
            area.dirty += moved
            pages -= moved
        self._dirtied[area] = None

    def oom_kill(self, tight: Cgroup) -> bool:
        """Kill the largest process below an unattainable limit, or its whole oom_group.

        False if there is none.
        """
        tight.event("oom")
        victims = [process for cgroup in tight.subtree() for process in cgroup.processes.values()]
        if not victims:
            return False
        # of two equal ones the younger
        largest = max(victims, key=lambda process: (process.rss(), process.pid))
        line = largest.cgroup.line
        whole = next(
            (member for member in reversed(line[: line.index(tight) + 1]) if member.oom_group), None
        )
        for process in (
            [largest]
            if whole is None
            else [each for cgroup in whole.subtree() for each in cgroup.processes.values()]
        ):
            process.cgroup.event("oom_kill")
            self.exit(process)
        return True

    # -- charges ahead

    def _consume_stock(self, process: Process, cgroup: Cgroup, pages: int, room: int) -> int:
        """Return by how much the counters change for a charge.

        A CPU has the stock of one group at a time: consume_stock() and refill_stock().
        """
        cpu = process.pid % len(self._stocks)
        owner, stocked = self._stocks[cpu]
        if owner is not cgroup:
            owner.add(-stocked)
            stocked = 0
        if stocked >= pages:
            self._stocks[cpu] = (cgroup, stocked - pages)
            return 0
        ahead = min(-(-pages // MEMCG_CHARGE_BATCH) * MEMCG_CHARGE_BATCH, room) - pages
        self._stocks[cpu] = (cgroup, min(stocked + ahead, MEMCG_CHARGE_BATCH))
        return pages + self._stocks[cpu][1] - stocked

    def drain_stocks(self, within: Cgroup) -> bool:
        """Uncharge the CPUs' stocks in a subtree, drain_all_stock(); return whether any existed."""
        drained = False
        for cpu, (owner, stocked) in enumerate(self._stocks):
            if stocked and within in owner.line:
                owner.add(-stocked)
                self._stocks[cpu] = (owner, 0)
                drained = True
        return drained

    def stocked(self, cgroup: Cgroup) -> int:
        return sum(stocked for owner, stocked in self._stocks if owner is cgroup)

    # -- time

    def stall(self, process: Process, microseconds: float) -> None:
        """Delay a process by a wait for memory, after any wait that it has already."""
        if microseconds > 0 and process.pid in self.processes:
            waits_us = round(microseconds)
            process.wakes_us = max(process.wakes_us, self.now_us) + waits_us
            process.waited_us += waits_us
            self._waiting[process] = None

    def advance(self, seconds: float) -> None:
        """Advance time: write dirty pages back, run programs, and account for stalls."""
        began_us = self.now_us
        elapsed_us = round(seconds * 1_000_000)
        self._write_back(elapsed_us)
        for program in list(self.programs.values()):
            program.run(self, elapsed_us)
        self.now_us += elapsed_us
        if self._waiting and elapsed_us:
            self._account(began_us, elapsed_us)

    def _write_back(self, elapsed_us: int) -> None:
        """Start writeback of dirty pages as they age, and complete writes at the disk's speed."""
        budget = elapsed_us // WRITE_US
        for area in list(self._dirtied):
            done = min(area.writeback, budget)
            budget -= done
            area.writeback -= done
            area.inactive += done
            begun = -(-area.dirty * min(elapsed_us, FLUSH_US) // FLUSH_US)
            area.dirty -= begun
            area.writeback += begun
            if not area.writeback:
                del self._dirtied[area]

    def _account(self, began_us: int, elapsed_us: int) -> None:
        """Account the stalls of waiting processes to their groups.

        Simultaneous waits are assumed to be independent.
        """
        waits: dict[Cgroup, tuple[int, float, float]] = {}
        for process in list(self._waiting):
            share = (process.wakes_us - began_us) / elapsed_us
            if share <= 1:
                del self._waiting[process]
            else:
                share = 1.0
            for member in process.cgroup.line:
                count, none_share, all_share = waits.get(member, (0, 1.0, 1.0))
                waits[member] = (count + 1, none_share * (1 - share), all_share * share)
        for cgroup, (count, none_share, all_share) in waits.items():
            cgroup.some.add(round((1 - none_share) * elapsed_us), self.now_us, elapsed_us)
            if count == cgroup.tasks:
                cgroup.full.add(round(all_share * elapsed_us), self.now_us, elapsed_us)


def high_delay_us(cgroup: Cgroup) -> float:
    """Return how long one batch delays its process above a high limit, by calculate_high_delay().

    It is 64 s by the square of the relative excess.
    """
    excess = (cgroup.usage - cgroup.high) / max(cgroup.high, 1)
    delay_us = 64_000_000 * excess * excess
    return 0.0 if excess <= 0 or delay_us < HIGH_GRACE_US else min(delay_us, HIGH_DELAY_US)
