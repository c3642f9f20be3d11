"""Cache the children of each group, invalidated by inotify(7).

A walk of a thousand unchanged groups makes no system call for each. The kernel queues an event
before mkdir or rmdir returns, and the queue is drained before the cache is used: so an existing
group is never missed. Without inotify watches each group is listed on every walk.
"""

import errno
import os
import struct
import threading
from collections.abc import Collection

from shrinkd.backends.cgroup.syscalls import Descriptor, inotify, inotify_add, open_beneath
from shrinkd.backends.readings import Group
from shrinkd.backends.walks import LONGEST_PATH_BYTES, Listing, SkippedEntries

_HEAD = struct.Struct("iIII")
_READ_BYTES = 64 << 10
_LONGEST_NAME_BYTES = 255  # NAME_MAX, include/uapi/linux/limits.h
_MAX_WATCHES = 16384
"""The kernel uses about 1 KiB for each watch."""
_ATTRIB, _CREATE, _DELETE, _MOVED = (
    0x4,
    0x100,
    0x200,
    0x40 | 0x80 | 0x800,
)  # include/uapi/linux/inotify.h, as the next
_ONLYDIR, _Q_OVERFLOW, _IGNORED = 0x01000000, 0x4000, 0x8000


class ListingCache:
    """Return the children of each group. Thread-safe."""

    def __init__(
        self, root: Descriptor, most: int = _MAX_WATCHES, required_files: Collection[str] = ()
    ) -> None:
        """Cache below the directory `root`, watching at most `most` groups.

        `required_files` must be readable in every group but the root; a group in which one is not
        is treated like one that cannot be listed.
        """
        self._max_watches = most
        self._needed = required_files
        self._root = root
        self._lock = threading.Lock()
        self._queue = inotify()
        self._listings: dict[Group, Listing] = {}
        self._watches: dict[int, Group] = {}

    def listing_of(self, group: Group) -> Listing:
        """Return the listing of a group, from the cache or its directory. May raise OSError."""
        # Without the lock: reading one key of a dict is atomic.
        if (known := self._listings.get(group)) is not None:
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
        """Discard the listings that changed since the last call."""
        with self._lock:
            try:
                while self._queue is not None:
                    self._invalidate(os.read(self._queue.number, _READ_BYTES))
            except BlockingIOError:
                pass

    def close(self) -> None:
        with self._lock:
            self._listings.clear()
            self._queue = None
            del self._root

    def _watch(self, group: Group, descriptor: int) -> bool:
        """Watch a directory before it is read, so that no change is missed in between."""
        if self._queue is None or len(self._watches) >= self._max_watches:
            return False
        try:
            watch = inotify_add(
                self._queue,
                f"/proc/self/fd/{descriptor}",
                _ATTRIB | _CREATE | _DELETE | _MOVED | _ONLYDIR,
            )
        except OSError as error:
            # The user's watches are used up: a partial set would not help.
            if error.errno == errno.ENOSPC:
                self._queue = None
                self._listings.clear()
            # The group was removed, which reading it will report, or memory is short at the moment.
            return False
        # under its path before it was moved
        self._listings.pop(self._watches.get(watch, group), None)
        self._watches[watch] = group
        return True

    def _invalidate(self, events: bytes) -> None:
        offset = 0
        while offset < len(events):
            watch, mask, _, length = _HEAD.unpack_from(events, offset)
            offset += _HEAD.size + length
            if mask & _Q_OVERFLOW:
                self._listings.clear()
            elif group := self._watches.get(watch):
                self._listings.pop(group, None)
                if mask & _IGNORED:
                    del self._watches[watch]


def _read(group: Group, directory: int) -> Listing:
    """List a directory if its inode is the group's.

    Skipped are names that are not Unicode, which JSON cannot express, and paths too long for the
    kernel.
    """
    if os.fstat(directory).st_ino != group.id:
        return Listing()
    groups, skipped = [], SkippedEntries()
    prefix = group.path and group.path + "/"
    room = LONGEST_PATH_BYTES - len(prefix.encode())
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                continue
            if not _is_unicode(entry.name):
                skipped.add(
                    prefix + os.fsencode(entry.name).decode(errors="backslashreplace"), "EILSEQ"
                )
            elif room < _LONGEST_NAME_BYTES and len(entry.name.encode()) > room:
                skipped.add(prefix + entry.name, "ENAMETOOLONG")
            else:
                groups.append(Group(prefix + entry.name, entry.inode()))
    return Listing(groups, skipped if skipped.counts else None)


def _check_readable(name: str, directory: int) -> None:
    """Raise the error that opening a file would.

    access(2) costs a fifth of opening it, but only opening it gives the errno.
    """
    if not os.access(name, os.R_OK, dir_fd=directory, effective_ids=True):
        os.close(os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory))


def _is_unicode(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)
