"""Call what Python lacks: openat2, the magic number of fstatfs, the swap of sysinfo, inotify."""

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
    """Own a file descriptor, which closes with its last reference.

    A descriptor that is dropped while another thread reads is not closed during that read.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


def open_beneath(root: int, path: str, flags: int) -> int:
    """Open a directory at or below a root with openat2(2).

    The kernel answers EAGAIN for a rename at the same moment; the call is then repeated.
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
    """Return the magic number of a file system, which os.statvfs() does not report.

    It is the first word of struct statfs (120 bytes).
    """
    status = (ctypes.c_long * 16)()
    if _libc.fstatfs(descriptor, ctypes.byref(status)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(status[0])


def swap_free() -> int:
    """Return the free swap in bytes, by sysinfo(2): a tenth of the cost of /proc/meminfo."""
    words = (
        ctypes.c_ulong * 16
    )()  # uptime, 3 loads, total, free, shared and buffer ram, total and free swap, …; 64 bit
    _libc.sysinfo(ctypes.byref(words))
    return int(words[9]) * (int(words[13]) & 0xFFFFFFFF)


def inotify() -> Descriptor | None:
    """Open a non-blocking inotify queue; None if this user may have no more of them."""
    descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    return None if descriptor < 0 else Descriptor(descriptor)


def inotify_add(queue: Descriptor, path: str, mask: int) -> int:
    """Watch a path, and return the number that its events carry.

    A path that is watched already gets the same number.
    """
    watch = _libc.inotify_add_watch(queue.number, os.fsencode(path), mask)
    if watch < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(watch)
