"""Simulated machines with groups that already use memory."""

import math
from collections.abc import Mapping

from shrinkd.backends.simulator.machine.accounting import KINDS, Area, Cgroup, Kind, Process
from shrinkd.backends.simulator.machine.kernel_profiles import PROFILES
from shrinkd.backends.simulator.machine.machine import Hardware, Machine
from shrinkd.backends.simulator.machine.swap import Swap
from shrinkd.sizes import PAGE_BYTES

KIND: dict[str, Kind] = {kind: kind for kind in KINDS}
MIB = 2**20 // PAGE_BYTES
"""Pages in a MiB."""


def machine_of(
    profile: str = "v1", swap: int = 0, *, pool: int = 0, in_us: float = 10.0, cpus: int = 0
) -> Machine:
    return Machine(
        PROFILES[profile], Hardware(cpus=cpus, swap=Swap(pages=swap, pool=pool, in_us=in_us))
    )


def grown(
    machine: Machine,
    name: str,
    parent: Cgroup | None = None,
    pages: Mapping[Kind, int] | None = None,
    **kinds: int,
) -> Cgroup:
    """Make a group with one process that has charged so many pages of each kind."""
    cgroup = machine.make(parent or machine.root, name)
    process = machine.start(cgroup)
    wanted = kinds | dict(pages or {})
    for kind, count in wanted.items():
        machine.charge(process, KIND[kind], count)
    return cgroup


def add(machine: Machine, process: Process, kind: Kind, pages: int, heat: float = math.inf) -> Area:
    """Charge pages of some heat to a process."""
    area = process.area(kind, heat)
    machine.fault(process, area, pages)
    return area


def only_process(cgroup: Cgroup) -> Process:
    (process,) = cgroup.processes.values()
    return process


def pages_of(cgroup: Cgroup, kind: Kind) -> int:
    return sum(area.resident() for area in cgroup.areas if area.kind == kind)
