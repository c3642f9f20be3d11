"""Two worlds in which tests do the same: a kernel, and the simulator with that kernel's rules.

Sizes are bytes. A world does what its kernel does: no call checks anything before or corrects
anything after.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from shrinkd.backends import Backend, Group
from shrinkd.backends.simulator.machine.accounting import SWAPPABLE, Area, Cgroup, Kind
from shrinkd.backends.simulator.machine.control_files import write
from shrinkd.sizes import PAGE_BYTES
from tests.backends.simulator_host import SimulatedHost, SimulatedWorker
from tests.support.cgroup_host import CgroupHost, CgroupWorker

Memory = Literal["anon", "file", "shmem", "unevictable"]
_PR_SET_THP_DISABLE, _PR_GET_THP_DISABLE = 41, 42  # include/uapi/linux/prctl.h
_libc = ctypes.CDLL(None)


class Hand(Protocol):
    """A process in one of the worlds."""

    @property
    def pid(self) -> int:
        """The process id, for Backend.attach."""

    def charge(self, kind: Memory, size: int) -> bool:
        """Use so much more memory, as one piece; False when that killed the process."""

    def drop(self, kind: Memory, size: int) -> None:
        """Free the latest piece, which has this kind and size and is not shared."""

    def alive(self) -> bool:
        """Return whether the process runs."""

    def exit(self) -> None:
        """End the process; what it shares or has read stays charged."""


class World(Protocol):
    """A backend, and what tests need beside it."""

    @property
    def backend(self) -> Backend:
        """The backend of this world."""

    def start(self) -> Hand:
        """Start a process outside of the groups."""

    def write(self, group: Group, name: str, text: str) -> None:
        """Write a text to a control file."""


class RealHand:
    """A worker from the pool. If it is alive at the end it goes back, emptied."""

    def __init__(self, world: "RealWorld", worker: CgroupWorker) -> None:
        self._world, self._worker, self._pieces = world, worker, 0
        self.pid = worker.pid

    def charge(self, kind: Memory, size: int) -> bool:
        worker = self._worker
        if kind == "file":
            worker.read_file(size)
            return self.alive()
        self._pieces += 1
        return {"anon": worker.grow, "shmem": worker.share, "unevictable": worker.lock}[kind](size)

    def drop(self, _kind: Memory, _size: int) -> None:
        self._pieces -= 1
        self._worker.drop(1)

    def alive(self) -> bool:
        return self._worker.grow(
            0
        )  # it answers or it is dead: a kill that is on its way takes effect before

    def exit(self) -> None:
        if self.alive():
            if self._pieces:
                self._worker.drop(self._pieces)
            self._world.take_back(self._worker)


@dataclass
class RealWorld:
    """A kernel with a pool of processes: starting one takes a second in the VM."""

    host: CgroupHost[Backend]
    backend: Backend = field(init=False)
    _home: Group = field(init=False)
    _idle: list[CgroupWorker] = field(default_factory=list)
    _lent: list[CgroupWorker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backend = self.host.backend
        self._home = self.host.group()

    def start(self) -> RealHand:
        with _small_pages():
            worker = (
                self._idle.pop() if self._idle else self._on_one_cpu(self.host.charge(self._home))
            )
        self._lent.append(worker)
        return RealHand(self, worker)

    @staticmethod
    def _on_one_cpu(worker: CgroupWorker) -> CgroupWorker:
        """Each CPU keeps 64 pages charged ahead for a group.

        On a busy host a process would leave them on all, on a quiet one on one.
        """
        os.sched_setaffinity(worker.pid, {min(os.sched_getaffinity(0))})
        return worker

    def take_back(self, worker: CgroupWorker) -> None:
        self.backend.attach(self._home, worker.pid)
        self._idle.append(worker)

    def write(self, group: Group, name: str, text: str) -> None:
        file = os.open(Path(self.backend.node().root, group.path, name), os.O_WRONLY)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)

    def end(self, groups: list[Group]) -> None:
        """Give back the memory of the files, and the groups, of which the inner ones come last."""
        for worker in self._lent:
            worker.drop_files()
        self._lent.clear()
        for group in reversed(groups):
            self.backend.remove(group)


class SimulatedHand:
    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        with host.backend.machine() as machine:
            self._process = machine.start(machine.root)
        self._worker = SimulatedWorker(host.backend, self._process)
        self.pid = self._worker.pid

    def charge(self, kind: Memory, size: int) -> bool:
        return self._worker.charge(kind, size)

    def drop(self, kind: Memory, size: int) -> None:
        with self._host.backend.machine() as machine:
            machine.release(self._process, kind, size // PAGE_BYTES)

    def alive(self) -> bool:
        return self._worker.alive()

    def exit(self) -> None:
        self._worker.stop()

    def path(self) -> str:
        """Return the path of its group."""
        return self._process.cgroup.path


@contextmanager
def _small_pages() -> Iterator[None]:
    """Start processes that have no page of 2 MiB.

    khugepaged makes such pages minutes later, and charges each before it frees the small ones.
    """
    disabled = _libc.prctl(_PR_GET_THP_DISABLE, 0, 0, 0, 0)
    assert _libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_THP_DISABLE, disabled, 0, 0, 0)


@dataclass
class SimulatedWorld:
    """The simulated machine, with figures that no kernel reports."""

    host: SimulatedHost
    backend: Backend = field(init=False)

    def __post_init__(self) -> None:
        self.backend = self.host.backend

    def start(self) -> SimulatedHand:
        return SimulatedHand(self.host)

    def write(self, group: Group, name: str, text: str) -> None:
        with self.host.backend.machine() as machine:
            write(machine, machine.cgroups[group.path], name, text)

    def cgroup(self, group: Group) -> Cgroup:
        with self.host.backend.machine() as machine:
            return machine.cgroups[group.path]

    def cache(self, group: Group) -> int:
        """Return the page cache of a group without those inside it."""
        return (
            sum(area.resident() for area in self.cgroup(group).areas if area.kind == "file")
            * PAGE_BYTES
        )

    def held(self, group: Group) -> int:
        """Return the memory of a group and all inside it that cannot be reclaimed without swap."""
        kinds: set[Kind] = {*SWAPPABLE, "unevictable"}
        areas = (area for member in self.cgroup(group).subtree() for area in member.areas)
        return sum(area.resident() for area in areas if area.kind in kinds) * PAGE_BYTES

    def adopt_cache(self, group: Group, used: int, own: int) -> None:
        """Set the page cache of a group to what it can have in the other world.

        That follows from the usage of the group alone, `used`, and an uncertainty of `own` bytes.
        """
        cgroup = self.cgroup(group)
        area: Area = cgroup.area("file")
        kept = sum(other.resident() for other in cgroup.areas if other is not area)
        most = max(used // PAGE_BYTES - kept, 0)
        wanted = min(max(area.resident(), most - own // PAGE_BYTES), most)
        pages = min(wanted - area.resident(), max(cgroup.room(), 0))
        area.inactive += pages
        cgroup.add(pages)
