"""Name the control files of a cgroup v1 group that several modules use."""

LIMIT, MEMSW_LIMIT, SOFT_LIMIT = (
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
)
USAGE, MEMSW_USAGE, STAT = "memory.usage_in_bytes", "memory.memsw.usage_in_bytes", "memory.stat"
