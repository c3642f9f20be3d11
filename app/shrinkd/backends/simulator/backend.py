"""Implement the Backend protocol with a simulated machine that follows the rules of one kernel.

Its readings are what Linux would report, None where that kernel reports nothing. On cgroup v1 one
rule is stricter than the kernel's: a limit is compared and set under one lock, so a refusal
reclaims nothing. On v2 a maximum is lowered by the algorithm of real kernels (lower_max.py), since
the simulated one also stores first and kills afterwards. Time is the caller's clock, followed
lazily: each verb first advances the machine by the ticks that have passed (machine/).
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import ClassVar
from uuid import uuid4

from shrinkd.backends.limit_values import to_kernel
from shrinkd.backends.lower_max import Maximum
from shrinkd.backends.protection import OwnGroup
from shrinkd.backends.protocol import Intent, Watch, check_group_path, unrecorded
from shrinkd.backends.readings import Activity, Group, LimitName, Limits, MemStat, Node, Walk
from shrinkd.backends.refusal import busy
from shrinkd.backends.simulator.controls import Simulated
from shrinkd.backends.simulator.faults import Faults, Verb, error_of
from shrinkd.backends.simulator.limit_rules import check_above_usage, compare_and_set
from shrinkd.backends.simulator.lookup import children_of, dry_run_copy, find, live, readable
from shrinkd.backends.simulator.machine import scenarios
from shrinkd.backends.simulator.machine.accounting import Cgroup
from shrinkd.backends.simulator.machine.clock import Clock
from shrinkd.backends.simulator.machine.control_files import Writer, write
from shrinkd.backends.simulator.machine.kernel_profiles import LIMIT_FIELDS
from shrinkd.backends.simulator.machine.machine import MEMCG_CHARGE_BATCH, Machine
from shrinkd.backends.simulator.machine.running import set_workload, workload_of
from shrinkd.backends.simulator.machine.workloads import Workload
from shrinkd.backends.simulator.readings import (
    activity_of,
    available_of,
    limits_of,
    pressure_of,
    reading_of,
)
from shrinkd.backends.simulator.time_control import TimeControl
from shrinkd.backends.simulator.triggers import SimulatedSource, TriggerNotifier
from shrinkd.backends.transaction import write_all
from shrinkd.backends.trigger_types import Trigger
from shrinkd.backends.v2.files import LIMIT_FILES, format_limit_file
from shrinkd.backends.walks import WalkRecorder, check_length, walk
from shrinkd.backends.watch import open_watch
from shrinkd.errors import (
    GroupBusy,
    GroupExists,
    GroupNotEmpty,
    GroupNotFound,
    ProcessNotFound,
    Unsupported,
    UnsupportedLimit,
    UnsupportedOption,
)
from shrinkd.settings import Settings
from shrinkd.sizes import PAGE_BYTES

TICK_SECONDS = 0.1
# After a pause a verb simulates at most so many steps, which are then longer.
MAX_TICKS_PER_VERB = 10
PASS_US = 50_000  # the time of a pass by the Backend protocol
# In real time: however slow the simulated clock, a cancel must not wait longer.
_LONGEST_PASS_SECONDS = 1.0
# As v2/backend.py writes: O_NONBLOCK, and a timer of 20 us.
_LIMIT_WRITER = Writer(pending=lambda spent_us: spent_us >= 20, nonblock=True)


class Simulator:
    """Simulate the machine of a scenario; each instance is new, and nothing outlives it."""

    name: ClassVar[str] = "simulator"
    is_simulated: ClassVar[bool] = True
    settable_limits: frozenset[LimitName]
    has_swappiness: bool
    has_pressure: bool
    watchable: frozenset[type[Trigger]]

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        scenario: scenarios.Scenario | None = None,
    ) -> None:
        boot = uuid4()
        self._boot_id = str(boot)
        self.scenario = scenario or scenarios.load_scenario(settings.scenario)
        # 28 random bits, so that ids of an earlier start identify no group.
        first_id = (boot.int >> 100) + 1
        self._machine = self.scenario.machine(first_id)
        self._profile = self._machine.profile
        self.settable_limits = self._profile.settable_limits
        self.has_swappiness, self.has_pressure = (
            self._profile.has_swappiness,
            self._profile.has_pressure,
        )
        self.watchable = self._profile.watchable
        self.clock, self.faults = Clock(clock), Faults()
        self.time = TimeControl(self.clock, self.machine)
        self._walks = WalkRecorder()
        self._lock = threading.Lock()
        self._notifier = TriggerNotifier(self.machine, TICK_SECONDS)
        self._sleep = sleep
        self._ticks = 0

    @contextmanager
    def machine(self, verb: Verb | None = None, path: str = "") -> Iterator[Machine]:
        """Yield the machine, advanced to now, with its lock held.

        A verb first meets the faults that are planned for it.
        """
        if verb:
            self._apply_faults(verb, path)
        with self._lock:
            self._advance_to_now()
            try:
                yield self._machine
            finally:
                self._notifier.check_all(self._machine)

    def _apply_faults(self, verb: Verb, path: str) -> None:
        """Apply the faults planned for this use.

        This happens before the lock is held, so a delay holds no other verb.
        """
        for fault in self.faults.take_due(verb, path):
            if fault.error:
                raise error_of(fault.error, path)
            if fault.delay_seconds:
                self._sleep(fault.delay_seconds)
            if fault.vanishes:
                self._uproot(path)

    def _uproot(self, path: str) -> None:
        with self.machine() as machine:
            if cgroup := machine.cgroups.get(path):
                machine.remove_tree(cgroup)

    def _advance_to_now(self) -> None:
        ticks = int(self.clock.now() / TICK_SECONDS) - self._ticks
        self._ticks += max(ticks, 0)
        steps = min(ticks, MAX_TICKS_PER_VERB)
        for step in range(steps):
            self._machine.advance(
                (ticks * (step + 1) // steps - ticks * step // steps) * TICK_SECONDS
            )

    def workload(self, group: Group) -> Workload:
        with self.machine() as machine:
            return workload_of(machine, live(machine, group))

    def set_workload(
        self,
        group: Group,
        workload: Workload,
        *,
        check: Callable[[Workload], None] = lambda _: None,
        dry_run: bool = False,
    ) -> None:
        with self.machine() as machine:
            cgroup = live(machine, group)
            check(workload_of(machine, cgroup))
            if workload.memory:
                self._check_takes_processes(cgroup, group)
            if not dry_run:
                set_workload(machine, cgroup, workload, self.scenario.seed)

    def node(self) -> Node:
        with self.machine("node") as machine:
            return Node(
                kernel="simulated",
                cgroup_version=self._profile.cgroup_version,
                boot_id=self._boot_id,
                root="/",
                page_size_bytes=PAGE_BYTES,
                total_bytes=machine.hardware.pages * PAGE_BYTES,
                available_bytes=available_of(machine),
                swap_total_bytes=machine.swap.pages * PAGE_BYTES,
                swap_free_bytes=machine.swap.free * PAGE_BYTES,
                pressure=pressure_of(machine.root, machine),
            )

    def own_group(self) -> OwnGroup:
        """Implement Backend.own_group: no process of this host is in a simulated group."""
        return OwnGroup()

    def groups(self, path: str = "", depth: int | None = None) -> list[Group]:
        if path:
            check_group_path(path)
        with (
            self._walks.recorded(is_whole=not path and depth is None) as skipped,
            self.machine("groups", path) as machine,
        ):
            top = find(machine, path)
            return walk(Group(path, top.id), depth, partial(children_of, machine), skipped)

    def last_walk(self) -> Walk:
        return self._walks.last

    def group_of(self, pid: int) -> Group:
        with self.machine() as machine:
            if (process := machine.processes.get(pid)) is None:
                raise GroupNotFound(f"There is no process {pid} in any group.", pid=pid)
            return Group(process.cgroup.path, process.cgroup.id)

    def usage(self, group: Group) -> int:
        with self.machine("usage", group.path) as machine:
            return readable(machine, group).usage * PAGE_BYTES

    def stat(self, group: Group, *, raw: bool = False) -> MemStat:
        with self.machine("stat", group.path) as machine:
            return reading_of(readable(machine, group), machine, raw=raw)

    def activity(self, group: Group) -> Activity | None:
        with self.machine("activity", group.path) as machine:
            return activity_of(live(machine, group))

    def set_limits(
        self,
        group: Group,
        changes: Mapping[LimitName, int | None],
        *,
        intent: Intent = unrecorded,
        dry_run: bool = False,
    ) -> Limits:
        """Implement Backend.set_limits; limits end with the process, so steps are not recorded."""
        if alien := sorted(changes.keys() - self.settable_limits):
            raise UnsupportedLimit(f"The simulator has no {alien[0]}.", group=group, field=alien[0])
        if not group.path:
            raise UnsupportedLimit("The root takes no limits.", group=group)
        with self.machine("set_limits", group.path) as machine:
            cgroup = dry_run_copy(machine, group) if dry_run else live(machine, group)
            if self._profile.refuses_limits:
                with intent(group, ()):
                    compare_and_set(cgroup, group, changes)
                return limits_of(cgroup, machine)
            held = {name: getattr(cgroup, LIMIT_FIELDS[name]) * PAGE_BYTES for name in changes}
            wanted = {
                name: to_kernel(name, changes[name]) for name in LIMIT_FILES if name in changes
            }
            writes = [(name, value) for name, value in wanted.items() if value != held[name]]
            for name, value in writes:
                check_above_usage(cgroup, group, name, value)
                if dry_run:
                    setattr(cgroup, LIMIT_FIELDS[name], value // PAGE_BYTES)
            if dry_run:
                return limits_of(cgroup, machine)
        write_all(held, writes, partial(self._commit, group), intent(group, ()))
        with self.machine() as machine:
            return limits_of(live(machine, group), machine)

    def reclaim(self, group: Group, goal_bytes: int, swappiness: int | None = None) -> int:
        if swappiness is not None and not self.has_swappiness:
            raise UnsupportedOption(
                "This controller has no swappiness for one reclaim.", field="swappiness"
            )
        with self.machine("reclaim", group.path) as machine:
            cgroup = live(machine, group)
            if cgroup.parent is None:
                raise Unsupported("The root cannot be shrunk; its groups can.", group=group)
            before = cgroup.usage
            machine.drain_stocks(cgroup)
            _, spent_us = machine.reclaim(
                cgroup, -(-goal_bytes // PAGE_BYTES), PASS_US, swappiness=swappiness
            )
            freed = before - cgroup.usage
        # A kernel would take this time, and a reader that polls a shrink sees usage fall.
        if spent_us and self.clock.speed:
            self._sleep(min(spent_us / 1_000_000 / self.clock.speed, _LONGEST_PASS_SECONDS))
        return max(freed, 0) * PAGE_BYTES

    def make(self, path: str, *, dry_run: bool = False) -> Group:
        parent_path, _, name = check_group_path(path).rpartition("/")
        check_length(path, "/")
        with self.machine("make", path) as machine:
            parent = find(machine, parent_path)
            if path in machine.cgroups:
                raise GroupExists(f"The group {path!a} exists already.")
            if parent.parent and parent.processes and not self._profile.inner_processes:
                raise GroupBusy(
                    f"{parent_path!a} has processes, and cgroup v2 has none beside groups with "
                    "limits."
                )
            return Group(path, 0 if dry_run else machine.make(parent, name).id)

    def remove(self, group: Group, *, dry_run: bool = False) -> None:
        with self.machine("remove", group.path) as machine:
            cgroup = live(machine, group)
            if cgroup.parent is None:
                raise GroupBusy("The root cannot be removed.")
            if cgroup.processes or cgroup.children:
                raise GroupNotEmpty(
                    f"The group {group.path!a} still has processes or groups inside."
                )
            if not dry_run:
                machine.remove(cgroup)

    def attach(self, group: Group, pid: int, *, dry_run: bool = False) -> None:
        with self.machine("attach", group.path) as machine:
            cgroup = live(machine, group)
            process = machine.processes.get(pid)
            if process is None:
                raise ProcessNotFound(f"There is no process {pid}.", pid=pid)
            self._check_takes_processes(cgroup, group)
            if not dry_run:
                process.move(cgroup)

    def _check_takes_processes(self, cgroup: Cgroup, group: Group) -> None:
        if cgroup.parent and cgroup.subtree_control and not self._profile.inner_processes:
            raise GroupBusy(
                f"{group.path!a} has groups inside, and cgroup v2 takes processes into the "
                "innermost ones alone.",
                group=group,
            )

    def watch(self, group: Group, triggers: Collection[Trigger]) -> Watch:
        self._apply_faults("watch", group.path)
        return open_watch(self, group, triggers, partial(SimulatedSource, self._notifier))

    def close(self) -> None:
        self.time.close()

    # -- limits, where the kernel refuses none

    def _commit(self, group: Group, name: LimitName, value: int) -> None:
        if name != "max_bytes":
            self._store(group, name, value)
            return
        maximum = Maximum(
            usage=partial(self._usage, group),
            read=partial(self._held, group, name),
            store=partial(self._store, group, name),
            slack=MEMCG_CHARGE_BATCH * PAGE_BYTES * self._machine.hardware.cpus,
            sleep=self._sleep,
        )
        if refusal := maximum.commit(value):
            raise busy(group, refusal.usage, value, refusal.room)

    def _usage(self, group: Group) -> int:
        with self.machine() as machine:
            return live(machine, group).usage * PAGE_BYTES

    def _held(self, group: Group, name: LimitName) -> int:
        with self.machine() as machine:
            pages: int = getattr(live(machine, group), LIMIT_FIELDS[name])
            return pages * PAGE_BYTES

    def _store(self, group: Group, name: LimitName, value: int) -> None:
        with self.machine() as machine:
            write(
                machine,
                live(machine, group),
                LIMIT_FILES[name],
                format_limit_file(value).decode(),
                _LIMIT_WRITER,
            )


backend_class: type[Simulated] = Simulator
