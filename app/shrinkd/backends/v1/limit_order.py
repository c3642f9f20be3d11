"""Order the writes of v1 limit files so that memory <= memory+swap holds after each of them."""

from collections.abc import Mapping

from shrinkd.backends.readings import Group, LimitName
from shrinkd.backends.v1.files import LIMIT, MEMSW_LIMIT, SOFT_LIMIT
from shrinkd.errors import LimitOrder
from shrinkd.sizes import UNLIMITED, format_size, or_none, or_unlimited


def plan_writes(
    group: Group, held: Mapping[str, int], changes: Mapping[LimitName, int | None]
) -> list[tuple[str, int]]:
    """Return the writes in the order in which memory <= memory+swap always holds.

    The kernel answers EINVAL to any other. `held` maps limit files to bytes, as read. The limit of
    swap is the difference: it moves with a maximum that is changed alone.
    """
    wanted = dict(held)
    if "soft_limit_bytes" in changes:
        wanted[SOFT_LIMIT] = or_unlimited(changes["soft_limit_bytes"])
    if "max_bytes" in changes:
        wanted[LIMIT] = or_unlimited(changes["max_bytes"])
    if "swap_max_bytes" in changes:
        wanted[MEMSW_LIMIT] = _memsw(group, wanted[LIMIT], changes["swap_max_bytes"])
    memory, memsw = wanted[LIMIT], wanted.get(MEMSW_LIMIT, UNLIMITED)
    if memory > memsw:
        asked = "no limit" if memory >= UNLIMITED else f"{memory} bytes"
        raise LimitOrder(
            f"max_bytes cannot be {asked}: memory and swap together are limited to {memsw} bytes "
            f"({format_size(memsw)}). "
            "Send swap_max_bytes too.",
            group=group,
            max_bytes=or_none(memory),
            memory_and_swap_max_bytes=memsw,
        )
    order = (
        (MEMSW_LIMIT, LIMIT, SOFT_LIMIT)
        if memsw > held.get(MEMSW_LIMIT, memsw)
        else (LIMIT, MEMSW_LIMIT, SOFT_LIMIT)
    )
    return [(name, wanted[name]) for name in order if name in held and wanted[name] != held[name]]


def _memsw(group: Group, memory: int, swap: int | None) -> int:
    if swap is None:
        return UNLIMITED
    if memory >= UNLIMITED:
        raise LimitOrder(
            "swap_max_bytes needs a max_bytes: cgroup v1 limits memory and swap together, not swap "
            "alone.",
            group=group,
            max_bytes=None,
            swap_max_bytes=swap,
        )
    return min(memory + swap, UNLIMITED)
