"""Build the error with which every backend refuses a limit below usage."""

from shrinkd.backends.readings import Group
from shrinkd.errors import GroupBusy
from shrinkd.sizes import format_size


def busy(group: Group, usage: int, limit: int, room: int = 1) -> GroupBusy:
    """Build GroupBusy for a limit that usage does not allow, with usage and `room` in bytes.

    Usage below the limit is refused if it grows, and needs `room` below it.
    """
    if usage < limit:
        sentence = (
            f"{group.path!a} uses {format_size(usage)} and grows: it cannot be limited to "
            f"{format_size(limit)}."
        )
        return GroupBusy(sentence, group=group, usage_bytes=usage, room_bytes=room)
    return GroupBusy(
        f"{group.path!a} uses {format_size(usage)}, not less than {format_size(limit)}.",
        group=group,
        usage_bytes=usage,
    )
