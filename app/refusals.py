"""What -EBUSY says: the two refusals of the routines, each with every number of one reading."""

from app.backends import Group, MemStat
from app.errors import LimitBelowUsage, ShrinkStalled
from app.memparse import format_size


def limit_below_usage(group: Group, stat: MemStat, limit: int) -> LimitBelowUsage:
    """A limit that cannot hold. The shortfall counts one byte more than the difference, for the limit is strict."""
    usage = stat.usage_bytes
    return LimitBelowUsage(
        f"Cannot set max_bytes to {limit} ({format_size(limit)}): the group uses {usage} bytes ({format_size(usage)}).",
        group=group,
        field="max_bytes",
        requested_bytes=limit,
        usage_bytes=usage,
        shortfall_bytes=max(usage - limit + 1, 0),
        reclaimable_estimate_bytes=stat.reclaimable_estimate_bytes,
        peak_bytes=stat.peak_bytes,
        current_max_bytes=stat.limits.max_bytes,
    )


def shrink_stalled(group: Group, stat: MemStat, target: int, passes: int) -> ShrinkStalled:
    """A target that cannot be reached: what is left is not reclaimable, or charged as fast as it is reclaimed."""
    usage = stat.usage_bytes
    return ShrinkStalled(
        f"Usage stands at {usage} bytes ({format_size(usage)}) and is not below {target} after {passes} passes without progress; "
        "what was reclaimed stays so, and no limit was changed.",
        group=group,
        target_bytes=target,
        usage_bytes=usage,
        reclaimable_estimate_bytes=stat.reclaimable_estimate_bytes,
    )
