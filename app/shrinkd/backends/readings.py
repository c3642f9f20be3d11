"""Define the values that backends return: groups, limits, readings, the node and walks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

LimitName = Literal[
    "max_bytes", "high_bytes", "low_bytes", "min_bytes", "swap_max_bytes", "soft_limit_bytes"
]
LIMIT_NAMES: tuple[LimitName, ...] = get_args(LimitName)
PROTECTIONS: frozenset[LimitName] = frozenset({"low_bytes", "min_bytes"})
"""Limits that protect usage from reclaim instead of bounding it: one that was never set is 0, not
infinite."""

# Readings are not frozen: that would add a tenth to their cost, a thousand times per sweep.


@dataclass(frozen=True, slots=True)
class Group:
    """Identify one incarnation of a control group.

    `path` is relative to the managed root, without a leading slash ("" is the root itself); `id` is
    the inode of its directory, which no later group of the same path shares. Every verb acts on
    this incarnation or raises GroupGone.
    """

    path: str
    id: int


@dataclass(slots=True)
class Limits:
    """Hold the limits of a group in bytes, as the kernel holds them.

    None means no limit, or a limit in `unsupported`. A protection (low_bytes, min_bytes) that this
    kernel has is never None: it is 0 if it was never set, UNLIMITED if it is infinite.
    """

    max_bytes: int | None
    high_bytes: int | None = None
    low_bytes: int | None = None
    min_bytes: int | None = None
    swap_max_bytes: int | None = None
    soft_limit_bytes: int | None = None
    effective_max_bytes: int | None = None
    """The smallest max_bytes of the group and its ancestors, including those above the managed
    root."""
    limited_by: str | None = None
    """The path of the group that holds the effective limit; "/" is the managed root or above it."""
    unsupported: tuple[LimitName, ...] = ()


@dataclass(slots=True)
class Counters:
    """Count events since the group was made; None where the kernel has no such counter."""

    page_faults: int | None = None
    major_page_faults: int | None = None
    pages_scanned: int | None = None
    pages_reclaimed: int | None = None
    refaults_file: int | None = None
    refaults_anon: int | None = None


@dataclass(slots=True)
class Events:
    """Count how often limits took effect.

    v2: memory.events; `limit_failures` is v1's memory.failcnt. v1 does not report failures of a
    maximum that memory and swap together reach as well (that sum is charged first, and
    memory.memsw.failcnt of Linux 6.18 stays 0), nor kills in descendant groups.
    """

    low: int | None = None
    high: int | None = None
    max: int | None = None
    oom: int | None = None
    oom_kill: int | None = None
    limit_failures: int | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """Hold one line of memory.pressure: averages in percent of wall time, total in microseconds."""

    avg10_percent: float
    avg60_percent: float
    avg300_percent: float
    total_microseconds: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """Hold pressure stall information (PSI) for memory.

    `some` is the time in which at least one task stalled for memory, `full` in which all did.
    """

    some: Stall
    full: Stall


@dataclass(slots=True)
class MemStat:
    """Hold one hierarchical reading of a group (descendants included), in bytes.

    None where the kernel does not report the value.
    """

    usage_bytes: int
    limits: Limits
    peak_bytes: int | None = None
    working_set_bytes: int | None = None
    """Usage less the inactive file cache: the value by which the kubelet evicts."""
    reclaimable_estimate_bytes: int | None = None
    """An upper estimate of what reclaim could free: file LRU, reclaimable slab, and anonymous
    memory for which swap has room. Dirty pages are slow, mapped or hot ones are reluctant, and the
    LRU counters lag by batches."""
    anon_bytes: int | None = None
    file_bytes: int | None = None
    shmem_bytes: int | None = None
    kernel_bytes: int | None = None
    mapped_bytes: int | None = None
    dirty_bytes: int | None = None
    writeback_bytes: int | None = None
    active_anon_bytes: int | None = None
    inactive_anon_bytes: int | None = None
    active_file_bytes: int | None = None
    inactive_file_bytes: int | None = None
    unevictable_bytes: int | None = None
    slab_reclaimable_bytes: int | None = None
    swap_bytes: int | None = None
    zswap_bytes: int | None = None
    counters: Counters = field(default_factory=Counters)
    events: Events = field(default_factory=Events)
    pressure: Pressure | None = None
    raw: Mapping[str, str] = field(default_factory=dict)
    """The text of each control file that was read, by file name; only if it was requested."""


@dataclass(frozen=True, slots=True)
class Node:
    """Describe the machine: facts probed once at start, and the memory that is free now (bytes)."""

    kernel: str
    cgroup_version: int
    boot_id: str
    """Group ids are valid within one boot (in the simulator: one start)."""
    root: str
    page_size_bytes: int
    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    pressure: Pressure | None = None
    """The pressure of the whole machine; None where its kernel reports none."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Describe how the last walk of the whole tree ended.

    A failed walk says nothing about any group, and leaves `unreadable` unchanged.
    """

    ended_at: float = -math.inf
    """In time.monotonic() seconds; -inf before the first walk."""
    unreadable: Mapping[str, int] = field(default_factory=dict)
    """The number of entries that were skipped as unreadable, by errno symbol. What they contain is
    not counted."""
    named: tuple[tuple[str, str], ...] = ()
    """The first few skipped entries: path and errno symbol. Bytes that are not UTF-8 are backslash
    escapes."""
    failure: str | None = None
    """The error that ended the walk early, as a sentence; None if the walk was complete."""
    failing_since: float | None = None
    """In time.monotonic() seconds: the end of the first walk of an unbroken run of failures."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Hold the CPU time and freezer state of a group, descendants included."""

    cpu_seconds: float
    """CPU time since the group was made, or since counting began: only differences are meaningful,
    and a negative one is not."""
    is_frozen: bool = False
    """The freezer has stopped every process of the group."""
