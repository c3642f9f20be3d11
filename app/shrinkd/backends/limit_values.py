"""Convert limits between this API, the kernel's numbers and JSON."""

from collections.abc import Iterable
from typing import Literal

from shrinkd.backends.readings import PROTECTIONS, LimitName, Limits
from shrinkd.sizes import UNLIMITED, or_none, page_floor, protection_to_json


def to_kernel(name: LimitName, value: int | None) -> int:
    """Convert a limit to the kernel's number of bytes; None is the value of a new group."""
    if value is None:
        return 0 if name in PROTECTIONS else UNLIMITED
    return min(value, UNLIMITED)


def from_kernel(name: LimitName, number: int) -> int | None:
    """Convert the kernel's number to a limit in bytes: the inverse of to_kernel().

    The kernel's number for "no limit" becomes None; a protection stays a number.
    """
    return number if name in PROTECTIONS else or_none(number)


def in_pages(name: LimitName, value: int | None) -> int | None:
    """Round a limit to what the kernel stores: whole pages, and None for no limit."""
    return from_kernel(name, to_kernel(name, None if value is None else page_floor(value)))


def is_unset(name: LimitName, value: int | None) -> bool:
    """Return whether a limit has the value of a new group."""
    return to_kernel(name, value) == to_kernel(name, None)


def limit_to_json(name: LimitName, value: int | None) -> int | Literal["max"] | None:
    """Convert a limit to its JSON value: "max" for an infinite protection."""
    return protection_to_json(value) if name in PROTECTIONS else value


def limits_to_json(
    limits: Limits, names: Iterable[LimitName]
) -> dict[LimitName, int | Literal["max"] | None]:
    """Convert some of a group's limits to JSON values; see limit_to_json()."""
    return {name: limit_to_json(name, getattr(limits, name)) for name in names}
