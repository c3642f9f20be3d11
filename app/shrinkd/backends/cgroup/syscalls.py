"""System calls that Python does not have.

Openat2, the magic number of fstatfs, the swap of sysinfo, inotify.
"""

import ctypes
import errno
import os

_OPENAT2 = 437  # the same number on every architecture that Linux 5.6 ran on, but alpha
_RESOLVE = (
    0x01 | 0x02 | 0x04 | 0x08
)  # include/uapi/linux/openat2.h: NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
)
_libc.syscall.restype = ctypes.c_long
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


class Descriptor:
    """A file that closes with its last user.

    One that is given up while another thread reads is never closed under it.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


def open_beneath(root: int, path: str, flags: int) -> int:
    """Open a directory at or below a root with openat2(2).

    EAGAIN is its word for a rename in the same instant.
    """
    how = (ctypes.c_uint64 * 3)(flags | os.O_DIRECTORY | os.O_CLOEXEC, 0, _RESOLVE)
    for _ in range(8):
        descriptor = _libc.syscall(
            _OPENAT2, root, os.fsencode(path) or b".", ctypes.byref(how), ctypes.sizeof(how)
        )
        if descriptor >= 0:
            return int(descriptor)
        if ctypes.get_errno() != errno.EAGAIN:
            break
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def filesystem_of(descriptor: int) -> int:
    """The magic number of the file system, the first word of struct statfs (120 bytes.

    Os.statvfs does not tell it).
    """
    status = (ctypes.c_long * 16)()
    if _libc.fstatfs(descriptor, ctypes.byref(status)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(status[0])


def swap_free() -> int:
    """Read the bytes that swap has room for: sysinfo(2), a tenth of what /proc/meminfo costs."""
    words = (
        ctypes.c_ulong * 16
    )()  # uptime, 3 loads, total, free, shared and buffer ram, total and free swap, …; 64 bit
    _libc.sysinfo(ctypes.byref(words))
    return int(words[9]) * (int(words[13]) & 0xFFFFFFFF)


def inotify() -> Descriptor | None:
    """Open a queue of events that does not block; None where this user may have no more of them."""
    descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    return None if descriptor < 0 else Descriptor(descriptor)


def inotify_add(queue: Descriptor, path: str, mask: int) -> int:
    """Watch a path, and answer the number that its events carry.

    The same one where it is watched already.
    """
    watch = _libc.inotify_add_watch(queue.number, os.fsencode(path), mask)
    if watch < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(watch)
