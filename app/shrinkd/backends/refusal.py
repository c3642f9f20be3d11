"""How every backend refuses a limit that usage is in the way of.

One sentence, and the numbers in it.
"""

from shrinkd.backends.protocol import Group
from shrinkd.errors import GroupBusy
from shrinkd.sizes import format_size


def busy(group: Group, usage: int, limit: int, room: int = 1) -> GroupBusy:
    """Name the usage in the way of a limit.

    One below it is in the way because it grows, and wants room.
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
