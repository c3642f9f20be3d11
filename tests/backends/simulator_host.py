"""The simulated host: its processes are entries of the machine's table, and its time stands still."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from app.backends import Group
from app.backends._simulated import Kind, Process
from app.backends.simulator import Simulator
from app.memparse import PAGE_BYTES
from app.settings import Settings
from tests.backends.hosts import Offer

OFFERS: frozenset[Offer] = frozenset({"usage_watch", "stall_watch"})


class SimulatedWorker:
    def __init__(self, backend: Simulator, process: Process) -> None:
        self._backend, self._process = backend, process
        self.pid = process.pid

    def charge(self, kind: Kind, size: int) -> bool:
        with self._backend.machine() as machine:
            return machine.charge(self._process, kind, size // PAGE_BYTES)

    def grow(self, size: int) -> bool:
        return self.charge("inactive_anon", size)

    def lock(self, size: int) -> bool:
        return self.charge("unevictable", size)

    def share(self, size: int) -> bool:
        return self.charge("shmem", size)

    def read_file(self, size: int) -> None:
        self.charge("inactive_file", size)

    def alive(self) -> bool:
        with self._backend.machine() as machine:
            return self.pid in machine.processes

    def stop(self) -> None:
        with self._backend.machine() as machine:
            if self.pid in machine.processes:
                machine.exit(self._process)


class SimulatedHost:
    slack_bytes = 0

    def __init__(self) -> None:
        self.backend = Simulator(Settings(scenario="empty"), clock=lambda: 0.0, sleep=lambda _seconds: None)
        self._numbers = count()

    def group(self, parent: Group | None = None) -> Group:
        name = f"group-{next(self._numbers)}"
        return self.backend.make(f"{parent.path}/{name}" if parent else name)

    def pressed_group(self) -> Group:
        return self.group()

    def charge(self, group: Group, *, anon: int = 0, cache: int = 0, locked: int = 0) -> SimulatedWorker:
        with self.backend.machine() as machine:
            worker = SimulatedWorker(self.backend, machine.start(machine.cgroups[group.path]))
        worker.grow(anon)
        worker.lock(locked)
        worker.read_file(cache)
        return worker


def absent() -> None:
    """Nothing is missing: there is always a simulator."""


@contextmanager
def open_host() -> Iterator[SimulatedHost]:
    yield SimulatedHost()
