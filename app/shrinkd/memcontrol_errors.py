"""Build the two -EBUSY errors of memcontrol, each with every number of one reading."""

from shrinkd.backends import Group, MemStat
from shrinkd.errors import LimitBelowUsage, ShrinkStalled
from shrinkd.sizes import format_size


def limit_below_usage(group: Group, stat: MemStat, limit: int, room: int = 1) -> LimitBelowUsage:
    """Build the error for a limit that usage prevents; sizes are bytes.

    Usage has to be `room` bytes below it, and the shortfall is the missing part. The room is 1 for
    a group whose usage stands still, since the limit is strict; for one that grows it is what a
    race could charge.
    """
    usage = stat.usage_bytes
    reason = f"the group uses {usage} bytes ({format_size(usage)})"
    if usage < limit and room > 1:
        reason += (
            f" and grows too fast to be limited so closely: {room} bytes of room are "
            "wanted. "
            "Set a higher limit, or shrink it first"
        )
    return LimitBelowUsage(
        f"Cannot set max_bytes to {limit} ({format_size(limit)}): {reason}.",
        group=group,
        field="max_bytes",
        requested_bytes=limit,
        usage_bytes=usage,
        shortfall_bytes=max(usage - limit + room, 0),
        reclaimable_estimate_bytes=stat.reclaimable_estimate_bytes,
        peak_bytes=stat.peak_bytes,
        current_max_bytes=stat.limits.max_bytes,
        **{"room_bytes": room} if room > 1 else {},
    )


def shrink_stalled(group: Group, stat: MemStat, target: int, passes: int) -> ShrinkStalled:
    """Build the error for a shrink target that was not reached.

    The rest is not reclaimable, or is charged as fast as it is reclaimed.
    """
    usage = stat.usage_bytes
    return ShrinkStalled(
        f"Usage stands at {usage} bytes ({format_size(usage)}) and is not below {target} after "
        f"{passes} passes without progress; "
        "what was reclaimed stays so, and no limit was changed.",
        group=group,
        target_bytes=target,
        usage_bytes=usage,
        reclaimable_estimate_bytes=stat.reclaimable_estimate_bytes,
    )
