"""The simulated host, on v1.

Its processes are entries of the machine's table, and time passes for as long as they wait for
memory.
"""

import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from shrinkd.backends import Group
from shrinkd.backends.simulator.backend import TICK_SECONDS, Simulator
from shrinkd.backends.simulator.machine.accounting import Kind, Process
from shrinkd.settings import Settings
from shrinkd.sizes import PAGE_BYTES
from tests.backends.hosts import MIB, Offer

OFFERS: frozenset[Offer] = frozenset({"swap", "usage_watch", "stall_watch", "activity"})


class SimulatedWorker:
    def __init__(self, backend: Simulator, process: Process) -> None:
        self._backend, self._process = backend, process
        self.pid = process.pid

    def charge(self, kind: Kind, size: int) -> bool:
        with self._backend.machine() as machine:
            is_alive = machine.charge(self._process, kind, size // PAGE_BYTES)
            waits = max(self._process.wakes_us - machine.now_us, 0) / 1e6
        self._backend.clock.advance(math.ceil(waits / TICK_SECONDS) * TICK_SECONDS)
        return is_alive

    def grow(self, size: int) -> bool:
        return self.charge("anon", size)

    def lock(self, size: int) -> bool:
        return self.charge("unevictable", size)

    def share(self, size: int) -> bool:
        return self.charge("shmem", size)

    def read_file(self, size: int) -> None:
        self.charge("file", size)

    def alive(self) -> bool:
        with self._backend.machine() as machine:
            return self.pid in machine.processes

    def stop(self) -> None:
        with self._backend.machine() as machine:
            if self.pid in machine.processes:
                machine.exit(self._process)


class SimulatedHost:
    """A machine of two CPUs, if not told otherwise, each of which charges 64 pages ahead."""

    slack_bytes = 2 * 64 * PAGE_BYTES

    def __init__(self, scenario: Path) -> None:
        self.backend = Simulator(
            Settings(scenario=str(scenario)), clock=lambda: 0.0, sleep=lambda _seconds: None
        )
        self._numbers = count()

    def group(self, parent: Group | None = None) -> Group:
        name = f"group-{next(self._numbers)}"
        return self.backend.make(f"{parent.path}/{name}" if parent else name)

    def twinned_group(self, parent: Group | None = None) -> Group:
        return self.group(parent)

    @contextmanager
    def swap(self) -> Iterator[None]:
        with self.backend.machine() as machine:
            machine.swap.pages = 512 * MIB // PAGE_BYTES
        yield
        with self.backend.machine() as machine:
            machine.swap.pages = machine.swap.used

    def charge(
        self, group: Group, *, anon: int = 0, cache: int = 0, locked: int = 0
    ) -> SimulatedWorker:
        with self.backend.machine() as machine:
            worker = SimulatedWorker(self.backend, machine.start(machine.cgroups[group.path]))
        worker.grow(anon)
        worker.lock(locked)
        worker.read_file(cache)
        return worker


def absent() -> None:
    """Nothing is missing: there is always a simulator."""


@contextmanager
def on(profile: str, cpus: int = 2) -> Iterator[SimulatedHost]:
    """A host whose machine follows the rules of a profile, for one test."""
    with TemporaryDirectory() as folder:
        scenario = Path(folder, "empty.json")
        scenario.write_text(json.dumps({"profile": profile, "cpus": cpus}))
        yield SimulatedHost(scenario)


def open_host() -> AbstractContextManager[SimulatedHost]:
    return on("v1")
