"""Drop the capabilities with which root reads files against their permissions.

This holds for one thread, and for those that it starts meanwhile.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION_3 = 0x20080522  # include/uapi/linux/capability.h, also the next line
_OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def without_overrides() -> Iterator[None]:
    """Check file permissions for this thread as for any other user."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    held = (
        ctypes.c_uint32 * 6
    )()  # effective, permitted and inheritable, of the first 32 and of the others
    _check(_libc.capget(header, held))
    fewer = (ctypes.c_uint32 * 6)(held[0] & ~_OVERRIDES, *held[1:])
    _check(_libc.capset(header, fewer))
    try:
        yield
    finally:
        _check(_libc.capset(header, held))


def _check(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
