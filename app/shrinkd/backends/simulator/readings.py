"""Convert a simulated group to MemStat, Limits and Activity: pages to bytes, nothing changes."""

from shrinkd.backends.limit_values import from_kernel
from shrinkd.backends.readings import (
    LIMIT_NAMES,
    Activity,
    Counters,
    Events,
    Limits,
    MemStat,
    Pressure,
    Stall,
)
from shrinkd.backends.simulator.machine.accounting import KINDS, SWAPPABLE, UNLIMITED, Cgroup
from shrinkd.backends.simulator.machine.kernel_profiles import LIMIT_FIELDS
from shrinkd.backends.simulator.machine.machine import Machine
from shrinkd.backends.simulator.machine.pressure import Stalls
from shrinkd.sizes import PAGE_BYTES

CHARGE_US = 1
"""The CPU time of a page that is brought in (fault and fill); waiting for a disk takes none."""


def in_bytes(pages: int) -> int | None:
    return None if pages >= UNLIMITED else pages * PAGE_BYTES


def swap_max(cgroup: Cgroup, machine: Machine) -> int:
    """Return how many pages may go to swap: on v1, what memsw leaves above the maximum."""
    if machine.profile.cgroup_version == 2:
        return cgroup.swap_max
    return UNLIMITED if cgroup.memsw >= UNLIMITED else cgroup.memsw - min(cgroup.max, cgroup.memsw)


def limits_of(cgroup: Cgroup, machine: Machine) -> Limits:
    """Return the limits of a group, and the tightest one of its line."""
    if cgroup.parent is None:
        return Limits(max_bytes=None, unsupported=LIMIT_NAMES)
    settable = machine.profile.settable_limits
    tightest = min(cgroup.line[:-1], key=lambda member: member.max)
    own: dict[str, int | None] = {
        name: from_kernel(name, getattr(cgroup, LIMIT_FIELDS[name]) * PAGE_BYTES)
        for name in settable
    }
    if "swap_max_bytes" in settable:
        own["swap_max_bytes"] = in_bytes(swap_max(cgroup, machine))
    return Limits(
        **{"max_bytes": None, **own},
        effective_max_bytes=in_bytes(tightest.max),
        limited_by=None if tightest.max >= UNLIMITED else tightest.path,
        unsupported=tuple(name for name in LIMIT_NAMES if name not in settable),
    )


def reading_of(cgroup: Cgroup, machine: Machine, *, raw: bool) -> MemStat:
    """Return one reading of a group, its descendants included."""
    lists = dict.fromkeys(
        ("active_anon", "inactive_anon", "active_file", "inactive_file", "dirty", "writeback"), 0
    )
    kinds: dict[str, int] = dict.fromkeys(KINDS, 0)
    for area in (area for member in cgroup.subtree() for area in member.areas):
        kinds[area.kind] += area.resident()
        if area.kind == "file" or area.kind in SWAPPABLE:
            of = "file" if area.kind == "file" else "anon"
            lists[f"active_{of}"] += area.active
            lists[f"inactive_{of}"] += area.inactive + area.dirty + area.writeback
            lists["dirty"] += area.dirty
            lists["writeback"] += area.writeback
    size = {name: pages * PAGE_BYTES for name, pages in (kinds | lists).items()}
    reading = MemStat(
        usage_bytes=cgroup.usage * PAGE_BYTES,
        limits=limits_of(cgroup, machine),
        peak_bytes=cgroup.peak * PAGE_BYTES,
        working_set_bytes=cgroup.usage * PAGE_BYTES - size["inactive_file"],
        reclaimable_estimate_bytes=_reclaimable(cgroup, machine, size),
        anon_bytes=size["anon"] + size["unevictable"],
        file_bytes=size["file"] + size["shmem"],
        shmem_bytes=size["shmem"],
        kernel_bytes=size["kernel"] + size["slab_reclaimable"] + size["zswap"],
        unevictable_bytes=size["unevictable"],
        slab_reclaimable_bytes=size["slab_reclaimable"],
        swap_bytes=cgroup.swap * PAGE_BYTES,
        active_anon_bytes=size["active_anon"],
        inactive_anon_bytes=size["inactive_anon"],
        active_file_bytes=size["active_file"],
        inactive_file_bytes=size["inactive_file"],
        dirty_bytes=size["dirty"],
        writeback_bytes=size["writeback"],
        raw={"pages": "".join(f"{name} {pages}\n" for name, pages in (kinds | lists).items())}
        if raw
        else {},
    )
    if machine.profile.cgroup_version == 2:
        reading.zswap_bytes = size["zswap"]
    _describe(reading, cgroup, machine)
    return reading


def _describe(reading: MemStat, cgroup: Cgroup, machine: Machine) -> None:
    """Add counters, events and pressure, where the profile's kernel reports them."""
    counts = cgroup.all_counts()
    reading.counters = Counters(
        page_faults=counts.faults,
        major_page_faults=counts.major,
        pages_scanned=counts.scanned,
        pages_reclaimed=counts.reclaimed,
        refaults_file=counts.refaults_file,
        refaults_anon=counts.refaults_anon,
    )
    if machine.profile.cgroup_version == 2:
        reading.events = Events(**cgroup.events)
    else:
        reading.events = Events(
            oom=cgroup.events["oom"],
            oom_kill=cgroup.events["oom_kill"],
            limit_failures=cgroup.failcnt,
        )
    reading.pressure = pressure_of(cgroup, machine)


def pressure_of(cgroup: Cgroup, machine: Machine) -> Pressure | None:
    if not machine.profile.has_pressure:
        return None
    return Pressure(
        some=_stall(cgroup.some, machine.now_us), full=_stall(cgroup.full, machine.now_us)
    )


def activity_of(cgroup: Cgroup) -> Activity:
    """Return the CPU time that memory use has cost a group; the machine computes nothing else.

    No simulated group is frozen. A group in which nothing is hot, and nothing changes, uses none.
    """
    counts = cgroup.all_counts()
    living_us = sum(
        process.cpu_us() for member in cgroup.subtree() for process in member.processes.values()
    )
    return Activity(cpu_seconds=(counts.charged * CHARGE_US + counts.cpu_us + living_us) / 1e6)


def _reclaimable(cgroup: Cgroup, machine: Machine, size: dict[str, int]) -> int:
    """Return an upper estimate of reclaimable bytes: cache, slab, and what swap has room for.

    The memory.min of descendants is subtracted.
    """
    anon = size["active_anon"] + size["inactive_anon"]
    room = (
        max(min(cgroup.swap_room(), machine.swap.free), 0) * PAGE_BYTES if cgroup.swappiness else 0
    )
    withheld = sum(_withheld_bytes(child) for child in cgroup.children) * PAGE_BYTES
    return max(size["file"] + size["slab_reclaimable"] + min(anon, room) - withheld, 0)


def _withheld_bytes(child: Cgroup) -> int:
    if not child.min:
        return 0
    cache = sum(
        area.resident()
        for member in child.subtree()
        for area in member.areas
        if area.kind in {"file", "slab_reclaimable"}
    )
    return max(cache - max(child.usage - child.min, 0), 0)


def available_of(machine: Machine) -> int:
    """Return free memory, page cache and reclaimable slab: what is available without swap."""
    reading = reading_of(machine.root, machine, raw=False)
    cache = (
        (reading.file_bytes or 0)
        - (reading.shmem_bytes or 0)
        + (reading.slab_reclaimable_bytes or 0)
    )
    return machine.hardware.pages * PAGE_BYTES - reading.usage_bytes + cache


def _stall(stalls: Stalls, now_us: int) -> Stall:
    stalls.settle(now_us)
    # as the kernel prints
    avg10, avg60, avg300 = (round(average, 2) for average in stalls.averages)
    return Stall(avg10, avg60, avg300, stalls.total_us)
