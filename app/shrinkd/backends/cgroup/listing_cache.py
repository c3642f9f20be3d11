"""Which groups are in which, kept until inotify(7) tells of a change.

A walk of a thousand groups that stay costs no system call for each.

The kernel queues an event before mkdir or rmdir returns, and the queue is emptied before what is
kept is believed: so a group that is there is never missed. Where there are no watches to be had,
each group is listed whenever it is asked for.
"""

import errno
import os
import struct
import threading
from collections.abc import Collection

from shrinkd.backends.cgroup.syscalls import Descriptor, inotify, inotify_add, open_beneath
from shrinkd.backends.protocol import Group
from shrinkd.backends.walks import LONGEST_PATH_BYTES, Listing, SkippedEntries

_HEAD = struct.Struct("iIII")
_READ_BYTES = 64 << 10
_LONGEST_NAME_BYTES = 255  # NAME_MAX, include/uapi/linux/limits.h
_MOST = 16384
"""The kernel pays about 1 KiB for each that is watched."""
_ATTRIB, _CREATE, _DELETE, _MOVED = (
    0x4,
    0x100,
    0x200,
    0x40 | 0x80 | 0x800,
)  # include/uapi/linux/inotify.h, as the next
_ONLYDIR, _Q_OVERFLOW, _IGNORED = 0x01000000, 0x4000, 0x8000


class ListingCache:
    """The groups in each group. Thread-safe."""

    def __init__(self, root: Descriptor, most: int = _MOST, needed: Collection[str] = ()) -> None:
        """`root` is the directory that paths are below, and `most` how many groups are watched.

        `needed` are the files that can be read in every group but the root: where one cannot, the
        group is as one that cannot be listed.
        """
        self._most = most
        self._needed = needed
        self._root = root
        self._lock = threading.Lock()
        self._queue = inotify()
        self._listings: dict[Group, Listing] = {}
        self._watches: dict[int, Group] = {}

    def of(self, group: Group) -> Listing:
        """What is in a group.

        As it is kept, or else as it is found in its directory. OSError where that cannot be read.
        """
        if (
            known := self._listings.get(group)
        ) is not None:  # without the lock: a dict has a list or it has none
            return known
        with self._lock:
            descriptor = open_beneath(self._root.number, group.path, os.O_RDONLY)
            try:
                is_watched = self._watch(group, descriptor)
                for name in self._needed if group.path else ():
                    _check_readable(name, descriptor)
                found = _read(group, descriptor)
            finally:
                os.close(descriptor)
            if is_watched:
                self._listings[group] = found
            return found

    def refresh(self) -> None:
        """Forget what has changed since the last call."""
        with self._lock:
            try:
                while self._queue is not None:
                    self._take(os.read(self._queue.number, _READ_BYTES))
            except BlockingIOError:
                pass

    def close(self) -> None:
        with self._lock:
            self._listings.clear()
            self._queue = None
            del self._root

    def _watch(self, group: Group, descriptor: int) -> bool:
        """Watch a directory before it is read, so that nothing comes between."""
        if self._queue is None or len(self._watches) >= self._most:
            return False
        try:
            watch = inotify_add(
                self._queue,
                f"/proc/self/fd/{descriptor}",
                _ATTRIB | _CREATE | _DELETE | _MOVED | _ONLYDIR,
            )
        except OSError as error:
            if (
                error.errno == errno.ENOSPC
            ):  # the user's watches are used up, and half of them would be no better
                self._queue = None
                self._listings.clear()
            # it was removed, as reading it will tell, or there is no memory now, as there may be
            # next time
            return False
        self._listings.pop(
            self._watches.get(watch, group), None
        )  # as it was called before it was moved
        self._watches[watch] = group
        return True

    def _take(self, events: bytes) -> None:
        at = 0
        while at < len(events):
            watch, mask, _, length = _HEAD.unpack_from(events, at)
            at += _HEAD.size + length
            if mask & _Q_OVERFLOW:
                self._listings.clear()
            elif group := self._watches.get(watch):
                self._listings.pop(group, None)
                if mask & _IGNORED:
                    del self._watches[watch]


def _read(group: Group, directory: int) -> Listing:
    """Read a directory, if it is that group's.

    A name that is no Unicode cannot be said in JSON, and a longer path not to the kernel.
    """
    if os.fstat(directory).st_ino != group.id:
        return Listing()
    groups, left_out = [], SkippedEntries()
    prefix = group.path and group.path + "/"
    room = LONGEST_PATH_BYTES - len(prefix.encode())
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                continue
            if not _is_unicode(entry.name):
                left_out.add(
                    prefix + os.fsencode(entry.name).decode(errors="backslashreplace"), "EILSEQ"
                )
            elif room < _LONGEST_NAME_BYTES and len(entry.name.encode()) > room:
                left_out.add(prefix + entry.name, "ENAMETOOLONG")
            else:
                groups.append(Group(prefix + entry.name, entry.inode()))
    return Listing(groups, left_out if left_out.counts else None)


def _check_readable(name: str, directory: int) -> None:
    """Raise what opening a file would.

    To ask costs a fifth of opening it, and only to open it tells why not.
    """
    if not os.access(name, os.R_OK, dir_fd=directory, effective_ids=True):
        os.close(os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory))


def _is_unicode(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)
