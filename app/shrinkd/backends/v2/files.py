"""Name and parse the control files of a cgroup v2 group; opens no file."""

from collections.abc import Mapping

from shrinkd.backends.limit_values import from_kernel
from shrinkd.backends.readings import Counters, LimitName, Limits, MemStat
from shrinkd.sizes import UNLIMITED

USAGE, MAX, STAT, RECLAIM, SUBTREE = (
    "memory.current",
    "memory.max",
    "memory.stat",
    "memory.reclaim",
    "cgroup.subtree_control",
)
MIN, SWAP_MAX, EVENTS, SWAP, PRESSURE = (
    "memory.min",
    "memory.swap.max",
    "memory.events",
    "memory.swap.current",
    "memory.pressure",
)
PEAK, ZSWAP = "memory.peak", "memory.zswap.current"
LIMIT_FILES: dict[LimitName, str] = {
    "max_bytes": MAX,
    "high_bytes": "memory.high",
    "low_bytes": "memory.low",
    "min_bytes": MIN,
    "swap_max_bytes": SWAP_MAX,
}
"""In the order of writing: limits that can be refused come first."""
RECLAIMING_LIMITS: tuple[LimitName, ...] = ("max_bytes", "high_bytes")
"""The limits for which the kernel reclaims, or kills, when they are written below usage."""
GROUP_FILES = (USAGE, STAT, *LIMIT_FILES.values(), PEAK, EVENTS, SWAP, ZSWAP)
"""The files of one reading, if this kernel has them."""
NEW_GROUP = {
    USAGE: b"0",
    MAX: b"max",
    "memory.high": b"max",
    "memory.low": b"0",
    MIN: b"0",
    SWAP_MAX: b"max",
}

STAT_LINES = (
    *(
        "anon",
        "file",
        "kernel",
        "shmem",
        "file_mapped",
        "file_dirty",
        "file_writeback",
        "inactive_anon",
        "active_anon",
    ),
    *(
        "inactive_file",
        "active_file",
        "unevictable",
        "slab_reclaimable",
        "pgfault",
        "pgmajfault",
        "pgscan",
        "pgsteal",
    ),
    *("workingset_refault_anon", "workingset_refault_file"),
)
EVENT_LINES = ("low", "high", "max", "oom", "oom_kill")


def describe(texts: Mapping[str, bytes], lines: Mapping[str, int], limits: Limits) -> MemStat:
    """Build a reading from a group's files; the caller adds what ancestors determine."""
    usage = int(texts[USAGE]) if USAGE in texts else usage_of_hierarchy_root(lines)
    return MemStat(
        usage_bytes=usage,
        limits=limits,
        peak_bytes=_bytes_of(texts, PEAK),
        working_set_bytes=max(usage - lines["inactive_file"], 0),
        anon_bytes=lines.get("anon"),
        file_bytes=lines.get("file"),
        shmem_bytes=lines.get("shmem"),
        kernel_bytes=lines.get("kernel"),
        mapped_bytes=lines.get("file_mapped"),
        dirty_bytes=lines.get("file_dirty"),
        writeback_bytes=lines.get("file_writeback"),
        active_anon_bytes=lines.get("active_anon"),
        inactive_anon_bytes=lines.get("inactive_anon"),
        active_file_bytes=lines.get("active_file"),
        inactive_file_bytes=lines.get("inactive_file"),
        unevictable_bytes=lines.get("unevictable"),
        slab_reclaimable_bytes=lines.get("slab_reclaimable"),
        swap_bytes=_bytes_of(texts, SWAP),
        zswap_bytes=_bytes_of(texts, ZSWAP),
        counters=Counters(
            page_faults=lines.get("pgfault"),
            major_page_faults=lines.get("pgmajfault"),
            pages_scanned=lines.get("pgscan"),
            pages_reclaimed=lines.get("pgsteal"),
            refaults_file=lines.get("workingset_refault_file"),
            refaults_anon=lines.get("workingset_refault_anon"),
        ),
    )


def usage_of_hierarchy_root(lines: Mapping[str, int]) -> int:
    """Return the usage of the top of the hierarchy, which has no memory.current.

    V1 counts these two there, mem_cgroup_usage().
    """
    return lines["anon"] + lines["file"]


def file_of(lines: Mapping[str, int]) -> int:
    """Return the bytes that are reclaimable without swap."""
    return lines["inactive_file"] + lines["active_file"] + lines.get("slab_reclaimable", 0)


def parse_limit_file(text: bytes) -> int:
    return UNLIMITED if text.startswith(b"max") else int(text)


def format_limit_file(limit: int) -> bytes:
    return b"max" if limit >= UNLIMITED else b"%d" % limit


def named(values: Mapping[LimitName, int]) -> dict[LimitName, int | None]:
    return {name: from_kernel(name, value) for name, value in values.items()}


def _bytes_of(texts: Mapping[str, bytes], name: str) -> int | None:
    return int(texts[name]) if name in texts else None
