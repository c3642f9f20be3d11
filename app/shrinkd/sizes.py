"""Convert sizes: "400M" to bytes, bytes to "400.0 MiB", bytes to whole pages.

The kernel's own memparse() is no grammar to expose: it reads "010M" as octal 8 MiB, "K" and "16E"
as 0, and an empty line as 0, which on cgroup v2 kills every process of the group. So clients' sizes
are parsed here, and only decimal integers that this daemon printed reach a control file.
"""

import mmap
import re
from typing import Literal

PAGE_BYTES = mmap.PAGESIZE
UNLIMITED = (2**63 - 1) // PAGE_BYTES * PAGE_BYTES
"""The kernel's number for no limit: PAGE_COUNTER_MAX, include/linux/page_counter.h. v1 prints it,
v2 prints "max" for it."""
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_SIZE = re.compile(r"(0|[1-9][0-9]{0,18})(?:([KMGTP])(?:I|IB)?)?", re.IGNORECASE | re.ASCII)
_DECIMAL = re.compile(r"[0-9]+[KMGTPE]B", re.IGNORECASE | re.ASCII)
_TOO_LARGE = 2**63


def parse_size(value: object) -> int:
    """Parse bytes from a JSON integer or a string such as "400M" or "1GiB" (always binary).

    ValueError says what is wrong.
    """
    if isinstance(value, str):
        size = _parse_text(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise ValueError('a size is an integer of bytes or a string such as "400M"')
    if not 0 <= size < _TOO_LARGE:
        raise ValueError("a size is not negative and below 2^63 bytes")
    return size


def parse_limit(value: object) -> int | None:
    """Parse a limit: a size, or None or "max" for no limit."""
    if value is None or value == "max":
        return None
    return parse_size(value)


def parse_protection(value: object) -> int:
    """Parse a protection: a size, None for one that was never set (0), "max" for infinite.

    "max" becomes UNLIMITED.
    """
    if value is None:
        return 0
    return UNLIMITED if value == "max" else min(parse_size(value), UNLIMITED)


def protection_to_json(size: int | None) -> int | Literal["max"] | None:
    """Convert a protection to its JSON value, the inverse of parse_protection().

    "max" if it is infinite. None stays None.
    """
    return "max" if size is not None and size >= UNLIMITED else size


def _parse_text(text: str) -> int:
    if match := _SIZE.fullmatch(text):
        return int(match[1]) << _SHIFTS[(match[2] or "").upper()]
    if _DECIMAL.fullmatch(text):
        raise ValueError(
            f"{text[-2:]} can mean powers of 1000 or of 1024: write {text[-2:-1]}iB, or bytes"
        )
    raise ValueError(
        'a size is decimal digits and one of K M G T P, such as "400M": no sign, point, space, '
        "leading zero or hex"
    )


def page_floor(size: int) -> int:
    """Round a size down to whole pages (bytes), as page_counter_memparse() since Linux 3.19."""
    return size - size % PAGE_BYTES


def page_ceil(size: int) -> int:
    """Round a size up to whole pages (bytes)."""
    return size + -size % PAGE_BYTES


def or_none(limit: int) -> int | None:
    """Convert the kernel's number of a limit: None for its number for no limit."""
    return None if limit >= UNLIMITED else limit


def or_unlimited(limit: int | None) -> int:
    """Convert a limit to the kernel's number: the inverse of or_none()."""
    return UNLIMITED if limit is None else min(limit, UNLIMITED)


def format_size(size: int) -> str:
    """Format a size for people, such as "60.4 MiB"; the exact number is always shown beside it."""
    scaled, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if scaled < 1024:
            break
        scaled, unit = scaled / 1024, larger
    return f"{size} bytes" if unit == "bytes" else f"{scaled:.1f}".removesuffix(".0") + f" {unit}"
