"""What the simulator starts with: scenarios as tables of groups, and the little that their processes do as time passes."""

from dataclasses import dataclass, field
from typing import Literal

from app.backends._simulated import Cgroup, Kind, Machine, Process
from app.memparse import PAGE_BYTES

MIB = 2**20
GIB = 2**30
_RESTART_SECONDS = 10.0  # a supervisor brings a killed process back, as the kubelet's first back-off does


@dataclass(frozen=True, slots=True)
class Holds:
    """Memory that grows from `start` to `ceiling`; there it stays, or falls back: a leak, or the teeth of a saw. `hot` of it is active."""

    start: int
    ceiling: int = 0
    bytes_per_second: int = 0
    falls: bool = False
    kind: Kind = "inactive_anon"
    hot: float = 0.5

    def begin(self, machine: Machine, process: Process) -> None:
        self._hold(machine, process, self.start // PAGE_BYTES)

    def go_on(self, machine: Machine, process: Process, pages: int) -> None:
        start, ceiling, level = self.start // PAGE_BYTES, self.ceiling // PAGE_BYTES, process.holds(self.kind)
        wanted = min(level + pages, ceiling)
        if self.falls and level + pages > ceiling:
            wanted = start + (level + pages - ceiling) % (ceiling - start)
        self._hold(machine, process, wanted)

    def _hold(self, machine: Machine, process: Process, wanted: int) -> None:
        level = process.holds(self.kind)
        if wanted < level:
            machine.release(process, self.kind, level - wanted)
        elif machine.charge(process, self.kind, wanted - level) and self.kind == "inactive_anon":
            machine.touch(process.cgroup, "anon", round(wanted * self.hot) - process.cgroup.own["active_anon"])


@dataclass(frozen=True, slots=True)
class Keeps:
    """Memory that its process charges once and that outlives it: shared memory, or the slab of dentries and inodes."""

    size: int
    kind: Literal["shmem", "slab_reclaimable"]
    bytes_per_second: int = 0

    def begin(self, machine: Machine, process: Process) -> None:
        machine.charge(process, self.kind, self.size // PAGE_BYTES - process.cgroup.own[self.kind])

    def go_on(self, machine: Machine, process: Process, pages: int) -> None:
        """Nothing more."""


@dataclass(frozen=True, slots=True)
class Reads:
    """Files of `size` in all, read over and over: what reclaim took comes back, and `hot` of it is used more than once."""

    size: int
    bytes_per_second: int
    hot: float = 0.5

    def begin(self, machine: Machine, process: Process) -> None:
        self.go_on(machine, process, self.size // PAGE_BYTES)

    def go_on(self, machine: Machine, process: Process, pages: int) -> None:
        missing = self.size // PAGE_BYTES - process.cgroup.cached()
        machine.charge(process, "inactive_file", max(min(pages, missing), 0))
        cgroup = process.cgroup
        machine.touch(cgroup, "file", min(round(cgroup.cached() * self.hot) - cgroup.own["active_file"], pages))


@dataclass(frozen=True, slots=True)
class Writes:
    """Cached pages written to again and again, so that some are always dirty."""

    bytes_per_second: int

    def begin(self, machine: Machine, process: Process) -> None:
        """Nothing yet."""

    def go_on(self, machine: Machine, process: Process, pages: int) -> None:
        machine.rewrite(process.cgroup, pages)


Habit = Holds | Keeps | Reads | Writes
"""One thing that a process does with memory: begin() when it starts, then go_on() with as many pages as its speed comes to."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One group of a scenario, with one process in it that has these habits; without any there is no process."""

    path: str
    habits: tuple[Habit, ...] = ()
    max_bytes: int | None = None
    soft_limit_bytes: int | None = None


@dataclass(slots=True)
class Program:
    """A workload on its machine: it lives until somebody removes its group."""

    workload: Workload
    cgroup: Cgroup
    process: Process | None = None
    _down_seconds: float = 0.0
    _owed: list[float] = field(default_factory=list)

    def run(self, machine: Machine, seconds: float) -> None:
        """Do what the workload does in so many seconds; a killed process is started again after a while."""
        if self.process is None or self.process.pid not in machine.processes:
            self._down_seconds += seconds
            if self._down_seconds >= _RESTART_SECONDS:
                self.start(machine)
            return
        for i, habit in enumerate(self.workload.habits):
            self._owed[i] += habit.bytes_per_second * seconds / PAGE_BYTES
            pages = int(self._owed[i])
            self._owed[i] -= pages
            if pages and self.process.pid in machine.processes:
                habit.go_on(machine, self.process, pages)

    def start(self, machine: Machine) -> None:
        self._down_seconds = 0.0
        if machine.cgroups.get(self.cgroup.path) is not self.cgroup:
            return
        self.process = machine.start(self.cgroup)
        self._owed = [0.0] * len(self.workload.habits)
        for habit in self.workload.habits:
            if self.process.pid in machine.processes:
                habit.begin(machine, self.process)


def populate(machine: Machine, scenario: str) -> list[Program]:
    """Make the groups of a scenario, with their limits, and start their processes."""
    programs = []
    for workload in SCENARIOS[scenario]:
        cgroup = machine.root
        for name in workload.path.split("/"):
            path = f"{cgroup.path}/{name}".removeprefix("/")
            cgroup = machine.cgroups.get(path) or machine.make(cgroup, name)
        cgroup.max = None if workload.max_bytes is None else workload.max_bytes // PAGE_BYTES
        cgroup.soft = None if workload.soft_limit_bytes is None else workload.soft_limit_bytes // PAGE_BYTES
        if workload.habits:
            programs.append(Program(workload, cgroup))
            programs[-1].start(machine)
    return programs


_SHOP = "kubepods.slice/kubepods-pod3f0c7a52_91d4_4c1e_8a6b_5e2d90b7c413.slice"
_CHAT = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podb81e64fd_2c07_4f93_9d15_7a60c3e8f2b4.slice"

SCENARIOS: dict[str, tuple[Workload, ...]] = {
    "empty": (),
    "demo": (
        # The group of every example in the docs: 64M is refused, 200M can be had, 32M cannot.
        Workload("web", (Holds(96 * MIB), Holds(2 * MIB, kind="kernel"), Reads(256 * MIB, MIB // 2))),
        Workload(
            "db",
            (Keeps(192 * MIB, "shmem"), Holds(128 * MIB), Keeps(24 * MIB, "slab_reclaimable"), Reads(640 * MIB, 8 * MIB), Writes(2 * MIB)),
            max_bytes=1536 * MIB,
        ),
        Workload("cache", (Holds(384 * MIB), Holds(4 * MIB, kind="kernel")), max_bytes=512 * MIB, soft_limit_bytes=400 * MIB),
        Workload(
            "batch/etl",
            (Holds(64 * MIB, 704 * MIB, 2 * MIB, falls=True), Reads(2 * GIB, 4 * MIB, hot=0.1), Writes(MIB)),
            max_bytes=GIB,
        ),
        Workload("leaky", (Holds(48 * MIB, 768 * MIB, 48 * 1024, falls=True), Reads(16 * MIB, MIB)), max_bytes=GIB),
        Workload("system.slice/nginx.service", (Holds(24 * MIB), Holds(8 * MIB, kind="unevictable"), Reads(96 * MIB, MIB))),
        Workload(_SHOP, max_bytes=GIB),
        Workload(
            f"{_SHOP}/cri-containerd-9b1f4c07e2d85a36c4e1f09d7b82a5536e0c94d1f7a8b23e65d0c1947fa3be82.scope",
            (Holds(160 * MIB, 320 * MIB, MIB // 4, falls=True), Reads(192 * MIB, MIB)),
            max_bytes=640 * MIB,
        ),
        Workload(
            f"{_SHOP}/cri-containerd-2c4dee605d22b97f1a8c3e5460d7f92b8e14a6c30f5d9b7182e6a4c0d3f5b719.scope",
            (Holds(20 * MIB), Reads(40 * MIB, MIB // 4)),
            max_bytes=128 * MIB,
        ),
        Workload(
            f"{_CHAT}/cri-containerd-e7a05c3d9f1b48620d7c2e94b6f3a81517c09e4d2b6f8a35c1e07d94a2b6c3f0.scope",
            (Holds(256 * MIB), Reads(768 * MIB, 6 * MIB, hot=0.3), Writes(MIB // 2)),
            max_bytes=768 * MIB,
        ),
        Workload(
            f"{_CHAT}/cri-containerd-51d8b2f7c6a90e34f1d5720c8be3946a07f2c1d58e9b4a63d70f18c5e2a94b6d.scope",
            (Holds(48 * MIB, 96 * MIB, MIB // 8, falls=True), Reads(64 * MIB, MIB // 2)),
        ),
    ),
}
