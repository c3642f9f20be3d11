"""The backend with no kernel: groups of a simulated machine, with the rules of the cgroup v1 memory controller.

It behaves as Linux would where it does anything, and says None where it knows nothing. One rule is better than the kernel's:
a limit is compared and set under one lock, so a refusal has not cost a page, where v1 reclaims first and refuses afterwards.
Time is the caller's clock, followed lazily: each verb first lets the machine live through the ticks that have gone by.
"""

import copy
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import ClassVar, get_args
from uuid import uuid4

from app.backends import (
    LIMIT_NAMES,
    Backend,
    Counters,
    Events,
    Group,
    Intent,
    LimitName,
    Limits,
    MemStat,
    Node,
    Pressure,
    Stall,
    Trigger,
    Watch,
    check_group_path,
    unrecorded,
)
from app.backends._bells import Bell, Bells
from app.backends._scenarios import populate
from app.backends._simulated import FILE_KINDS, RECLAIM_ORDER, TOTAL_PAGES, Cgroup, Machine, Stalls
from app.backends._watch import open_watch
from app.errors import (
    GroupBusy,
    GroupExists,
    GroupGone,
    GroupNotEmpty,
    GroupNotFound,
    LimitOrder,
    ProcessNotFound,
    Unsupported,
    UnsupportedLimit,
    UnsupportedOption,
)
from app.memparse import PAGE_BYTES, format_size
from app.settings import Settings

TICK_SECONDS = 0.1
TICKS_A_VERB = 10  # after a pause no verb simulates more steps than these; they grow longer instead
PASS_US = 50_000  # what the protocol gives a pass


class Simulator:
    """A machine of 16 GiB, made anew with every instance and forgotten with it."""

    name: ClassVar[str] = "simulator"
    is_simulated: ClassVar[bool] = True
    settable_limits: frozenset[LimitName] = frozenset({"max_bytes", "soft_limit_bytes", "swap_max_bytes"})
    has_swappiness = False
    has_pressure = True
    watchable: frozenset[type[Trigger]] = frozenset(get_args(Trigger))

    def __init__(
        self, settings: Settings, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        boot = uuid4()
        self._boot_id = str(boot)
        self._machine = Machine(first_id=(boot.int >> 100) + 1)  # 28 random bits, so that an id of the last start means nothing
        self._programs = populate(self._machine, settings.scenario)
        self._lock = threading.Lock()
        self._bells = Bells(self.machine, TICK_SECONDS)
        self._clock, self._sleep = clock, sleep
        self._started = clock()
        self._ticks = 0

    @contextmanager
    def machine(self) -> Iterator[Machine]:
        """Lend the machine as it is now, with everybody else locked out."""
        with self._lock:
            self._catch_up()
            try:
                yield self._machine
            finally:
                self._bells.ring(self._machine)

    def _catch_up(self) -> None:
        ticks = int((self._clock() - self._started) / TICK_SECONDS) - self._ticks
        self._ticks += ticks
        steps = min(ticks, TICKS_A_VERB)
        for step in range(steps):
            seconds = (ticks * (step + 1) // steps - ticks * step // steps) * TICK_SECONDS
            self._machine.advance(seconds)
            for program in self._programs:
                program.run(self._machine, seconds)

    def node(self) -> Node:
        with self.machine() as machine:
            pages = machine.root.pages()
            unreclaimable = machine.root.usage - sum(pages[kind] for kind in RECLAIM_ORDER)
        return Node(
            kernel="simulated",
            cgroup_version=1,
            boot_id=self._boot_id,
            root="/",
            page_size_bytes=PAGE_BYTES,
            total_bytes=TOTAL_PAGES * PAGE_BYTES,
            available_bytes=(TOTAL_PAGES - unreclaimable) * PAGE_BYTES,
            swap_total_bytes=0,
            swap_free_bytes=0,
        )

    def groups(self, path: str = "", depth: int | None = None) -> list[Group]:
        if path:
            check_group_path(path)
        with self.machine() as machine:
            return [Group(cgroup.path, cgroup.id) for cgroup in _find(machine, path).subtree(depth)]

    def usage(self, group: Group) -> int:
        with self.machine() as machine:
            return _readable(machine, group).usage * PAGE_BYTES

    def stat(self, group: Group, *, raw: bool = False) -> MemStat:
        with self.machine() as machine:
            cgroup = _readable(machine, group)
            return _stat(cgroup, _limits(cgroup, self.settable_limits), machine.now_us, raw=raw)

    def set_limits(
        self, group: Group, changes: Mapping[LimitName, int | None], *, intent: Intent = unrecorded, dry_run: bool = False
    ) -> Limits:
        """As promised by Backend. There is nothing to write down: one lock makes it one change, and it dies with this process."""
        if alien := sorted(changes.keys() - self.settable_limits):
            raise UnsupportedLimit(f"The simulator has no {alien[0]}.", group=group, field=alien[0])
        with intent(group, ()), self.machine() as machine:
            cgroup = copy.copy(_readable(machine, group)) if dry_run else _live(machine, group)
            if cgroup.parent is None:
                raise UnsupportedLimit("The root takes no limits.", group=group)
            most = _pages(changes["max_bytes"]) if "max_bytes" in changes else cgroup.max
            memsw = _memsw(group, changes, most, cgroup.memsw)
            if most is not None and most != cgroup.max and most <= cgroup.usage:
                usage, asked = format_size(cgroup.usage * PAGE_BYTES), format_size(most * PAGE_BYTES)
                raise GroupBusy(f"{group.path!a} uses {usage}, not less than {asked}.", group=group, usage_bytes=cgroup.usage * PAGE_BYTES)
            cgroup.max, cgroup.memsw = most, memsw
            if "soft_limit_bytes" in changes:
                cgroup.soft = _pages(changes["soft_limit_bytes"])
            return _limits(cgroup, self.settable_limits)

    def reclaim(self, group: Group, goal_bytes: int, swappiness: int | None = None) -> int:
        if swappiness is not None:
            raise UnsupportedOption("The simulator has no swappiness for one reclaim, as it has no swap.", field="swappiness")
        with self.machine() as machine:
            cgroup = _live(machine, group)
            if cgroup.parent is None:
                raise Unsupported("The root cannot be shrunk; its groups can.", group=group)
            freed, spent_us = machine.reclaim(cgroup, -(-goal_bytes // PAGE_BYTES), PASS_US)
        if spent_us:  # a kernel would not be back before, and who watches a shrink wants to see it go down
            self._sleep(spent_us / 1_000_000)
        return freed * PAGE_BYTES

    def make(self, path: str, *, dry_run: bool = False) -> Group:
        parent_path, _, name = check_group_path(path).rpartition("/")
        with self.machine() as machine:
            parent = _find(machine, parent_path)
            if path in machine.cgroups:
                raise GroupExists(f"The group {path!a} exists already.")
            return Group(path, 0 if dry_run else machine.make(parent, name).id)

    def remove(self, group: Group, *, dry_run: bool = False) -> None:
        with self.machine() as machine:
            cgroup = _live(machine, group)
            if cgroup.parent is None:
                raise GroupBusy("The root cannot be removed.")
            if cgroup.processes or cgroup.children:
                raise GroupNotEmpty(f"The group {group.path!a} still has processes or groups inside.")
            if not dry_run:
                machine.remove(cgroup)

    def attach(self, group: Group, pid: int, *, dry_run: bool = False) -> None:
        with self.machine() as machine:
            cgroup = _live(machine, group)
            process = machine.processes.get(pid)
            if process is None:
                raise ProcessNotFound(f"There is no process {pid}.", pid=pid)
            if not dry_run:
                machine.attach(process, cgroup)

    def watch(self, group: Group, triggers: Collection[Trigger]) -> Watch:
        return open_watch(self, group, triggers, partial(Bell, self._bells))

    def close(self) -> None:
        """There is nothing to give back."""


def _find(machine: Machine, path: str) -> Cgroup:
    if (cgroup := machine.cgroups.get(path)) is None:
        raise GroupNotFound(f"There is no group {path!a}.")
    return cgroup


def _live(machine: Machine, group: Group) -> Cgroup:
    cgroup = machine.cgroups.get(group.path)
    if cgroup is None or cgroup.id != group.id:
        raise GroupGone(f"The group {group.path!a} was removed.", group=group)
    return cgroup


def _readable(machine: Machine, group: Group) -> Cgroup:
    """As _live, and for a group that was only tried one that is as new and in no machine."""
    return _live(machine, group) if group.id else Cgroup(group.path, 0, _find(machine, group.path.rpartition("/")[0]))


def _pages(size: int | None) -> int | None:
    return None if size is None else size // PAGE_BYTES


def _bytes(pages: int | None) -> int | None:
    return None if pages is None else pages * PAGE_BYTES


def _memsw(group: Group, changes: Mapping[LimitName, int | None], most: int | None, memsw: int | None) -> int | None:
    """Answer the limit on memory and swap together that a change comes to: v1 keeps that sum, and never below the maximum."""
    if "swap_max_bytes" in changes:
        swap = _pages(changes["swap_max_bytes"])
        if swap is None:
            return None
        if most is None:
            raise LimitOrder(
                "swap_max_bytes needs a max_bytes: this controller limits the sum of the two.",
                group=group,
                max_bytes=None,
                swap_max_bytes=swap * PAGE_BYTES,
            )
        return most + swap
    if memsw is not None and (most is None or most > memsw):
        asked = "no limit" if most is None else f"{most * PAGE_BYTES} bytes"
        raise LimitOrder(
            f"max_bytes cannot be {asked}: memory and swap together are limited to {memsw * PAGE_BYTES} bytes "
            f"({format_size(memsw * PAGE_BYTES)}). Send swap_max_bytes too.",
            group=group,
            max_bytes=_bytes(most),
            memory_and_swap_max_bytes=memsw * PAGE_BYTES,
        )
    return memsw


def _limits(cgroup: Cgroup, settable: frozenset[LimitName]) -> Limits:
    if cgroup.parent is None:
        return Limits(max_bytes=None, unsupported=LIMIT_NAMES)
    limited = [member for member in cgroup.lineage() if member.parent is not None and member.max is not None]
    tightest = min(limited, key=lambda member: member.max or 0, default=None)
    return Limits(
        max_bytes=_bytes(cgroup.max),
        swap_max_bytes=None if cgroup.memsw is None else (cgroup.memsw - (cgroup.max or 0)) * PAGE_BYTES,
        soft_limit_bytes=_bytes(cgroup.soft),
        effective_max_bytes=None if tightest is None else _bytes(tightest.max),
        limited_by=None if tightest is None else tightest.path,
        unsupported=tuple(name for name in LIMIT_NAMES if name not in settable),
    )


def _stat(cgroup: Cgroup, limits: Limits, now_us: int, *, raw: bool) -> MemStat:
    pages = cgroup.pages()
    size = {kind: count * PAGE_BYTES for kind, count in pages.items()}
    inactive_file = size["inactive_file"] + size["dirty"] + size["writeback"]
    return MemStat(
        usage_bytes=cgroup.usage * PAGE_BYTES,
        limits=limits,
        peak_bytes=cgroup.peak * PAGE_BYTES,
        working_set_bytes=cgroup.usage * PAGE_BYTES - inactive_file,
        reclaimable_estimate_bytes=sum(size[kind] for kind in RECLAIM_ORDER),
        anon_bytes=size["active_anon"] + size["inactive_anon"] + size["unevictable"],
        file_bytes=sum(size[kind] for kind in FILE_KINDS) + size["shmem"],
        shmem_bytes=size["shmem"],
        kernel_bytes=size["kernel"] + size["slab_reclaimable"],
        dirty_bytes=size["dirty"],
        writeback_bytes=size["writeback"],
        active_anon_bytes=size["active_anon"],
        inactive_anon_bytes=size["inactive_anon"] + size["shmem"],
        active_file_bytes=size["active_file"],
        inactive_file_bytes=inactive_file,
        unevictable_bytes=size["unevictable"],
        slab_reclaimable_bytes=size["slab_reclaimable"],
        swap_bytes=0,
        counters=Counters(page_faults=cgroup.faults, pages_scanned=cgroup.scanned, pages_reclaimed=cgroup.reclaimed),
        events=Events(oom=cgroup.oom, oom_kill=cgroup.oom_kill, limit_failures=cgroup.failcnt),
        pressure=Pressure(some=_stall(cgroup.some, now_us), full=_stall(cgroup.full, now_us)),
        raw={"pages": "".join(f"{kind} {count}\n" for kind, count in pages.items())} if raw else {},
    )


def _stall(stalls: Stalls, now_us: int) -> Stall:
    stalls.settle(now_us)
    avg10, avg60, avg300 = (round(average, 2) for average in stalls.averages)  # as the kernel prints them
    return Stall(avg10, avg60, avg300, stalls.total_us)


backend_class: type[Backend] = Simulator
