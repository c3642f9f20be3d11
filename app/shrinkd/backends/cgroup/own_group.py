"""Find the group of a process, and of this daemon, which must not change its own group.

The kernel has three sources. /proc/PID/cgroup names the group, and mountinfo the group that a mount
shows, both relative to our cgroup namespace; groups above it are "/.." and have no name there.
cgroup.procs lists the processes of one group, by their numbers in our pid namespace. So if a mount
shows more than our namespace, such as the host's mount in a container, the first two leave names
unknown, and the processes of the groups that fit are read.
"""

import errno
import logging
import math
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shrinkd.backends.cgroup.mounts import Mount, mount_of
from shrinkd.backends.cgroup.procfs import read_file, read_whole
from shrinkd.backends.cgroup.syscalls import Descriptor, open_beneath
from shrinkd.backends.protection import OwnGroup
from shrinkd.backends.readings import Group
from shrinkd.errors import ProcessNotFound, ProtectedGroup, ignoring_unreadable

_PROCESSES = "cgroup.procs"
_PID = re.compile(rb"^Pid:\t(-?\d+)$", re.MULTILINE)
_PARENT = re.compile(rb"^PPid:\t(\d+)$", re.MULTILINE)
_NO_PROCESSES = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.EOPNOTSUPP})
"""The group is gone, or is a threaded group of cgroup v2, whose processes are listed in an
ancestor."""
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
_SEARCH_INTERVAL_SECONDS = 10.0
_SEARCH_ATTEMPTS = 3
_OWN_BYTES = 1 << 18
"""One line per hierarchy, of which there are at most about 16, with a path of at most 4095
bytes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RelativePath:
    """Hold a path relative to a group: a number of levels whose names are unknown, then names."""

    unknown_levels: int
    names: tuple[str, ...]

    def below(self, names: tuple[str, ...]) -> "RelativePath | None":
        """Return the rest of the path below these names; None if it leads elsewhere.

        An unknown name matches any.
        """
        unknown_levels = max(self.unknown_levels - len(names), 0)
        known = names[self.unknown_levels :]
        return (
            RelativePath(unknown_levels, self.names[len(known) :])
            if self.names[: len(known)] == known
            else None
        )


def relative_path(group: str, visible: str) -> RelativePath | None:
    """Return the path from one group to another, given their paths in one cgroup namespace.

    None if the second is not inside the first. The kernel prints the shortest path: "/../x" is
    beside us, and never the way back down to our own group.
    """
    (levels, names), (levels_visible, names_visible) = _split(group), _split(visible)
    if levels < levels_visible:
        return None if names_visible else RelativePath(levels_visible - levels, names)
    return RelativePath(0, names).below(names_visible) if levels == levels_visible else None


def _split(path: str) -> tuple[int, tuple[str, ...]]:
    """Split a path into the number of levels that it goes up and the names that follow."""
    parts = [part for part in path.split("/") if part]
    levels = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return levels, tuple(parts[levels:])


def group_in(cgroups: bytes, version: int) -> str | None:
    """Find the group of the controller's hierarchy in the text of a /proc/PID/cgroup.

    None if it is ambiguous: the kernel prints names unescaped, and a name may contain a line of
    this form.
    """
    lines = [line.split(b":", 2) for line in cgroups.split(b"\n") if line.count(b":") > 1]
    found = [
        path
        for number, names, path in lines
        if (b"memory" in names.split(b",") if version == 1 else number == b"0")
    ]
    return os.fsdecode(found[0]) if len(found) == 1 else None


class ProcessSearch:
    """Find the group that lists a process; `suspects` collects the groups that cannot be read."""

    def __init__(self, root: Descriptor, pid: int) -> None:
        self._root, self._pid = root, b"%d" % pid
        self.suspects: list[str] = []

    def find_along(self, route: RelativePath) -> str | None:
        """Return the group with the process among all that match a relative path, or None."""
        level = [""]
        for _ in range(route.unknown_levels):
            level = [child for path in level for child in self._children(path)]
        return next(
            filter(self._has, ("/".join(filter(None, (path, *route.names))) for path in level)),
            None,
        )

    def find_anywhere(self) -> str | None:
        """Return the group with the process among all groups, or None."""
        level = [""]
        while level:
            if (found := next(filter(self._has, level), None)) is not None:
                return found
            level = [child for path in level for child in self._children(path)]
        return None

    def _has(self, path: str) -> bool:
        try:
            directory = Descriptor(open_beneath(self._root.number, path, os.O_PATH))
            processes = read_whole(
                os.open(
                    _PROCESSES, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory.number
                )
            )
        except OSError as error:
            self._record_unreadable(path, error)
            return False
        return self._pid in processes.split(b"\n")

    def _children(self, path: str) -> list[str]:
        try:
            directory = Descriptor(open_beneath(self._root.number, path, os.O_RDONLY))
            with os.scandir(directory.number) as entries:
                return [
                    f"{path}/{entry.name}".lstrip("/")
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                ]
        except OSError as error:
            self._record_unreadable(path, error)
            return []

    def _record_unreadable(self, path: str, error: OSError) -> None:
        """Record an unreadable group; raise OSError for a shortage, which concerns no group."""
        if error.errno in _SHORTAGES:
            raise error
        if error.errno not in _NO_PROCESSES and path not in self.suspects:
            self.suspects.append(path)


class ProcessLocator:
    """Find the groups of processes below one directory. Thread-safe."""

    def __init__(self, root: Descriptor, version: int) -> None:
        self._root, self._version = root, version
        self._lock = threading.Lock()
        self._own = OwnGroup()
        self._last_text: bytes | None = None
        """The text of /proc/self/cgroup when the daemon was last found."""
        self._own_id = 0
        self._search_at = -math.inf
        """Time of the next search even if the text is unchanged; monotonic clock."""
        self._file: Descriptor | None = None
        with suppress(OSError):
            self._own_text()

    def own_group(self) -> OwnGroup:
        """Return the group of this process, searching anew if it may have been moved.

        Reads one small file. OSError for a shortage of memory or descriptors.
        """
        with self._lock:
            if not self._is_current(self._own_text()):
                self._search()
            return self._own

    def path_of(self, pid: int) -> str | None:
        """Return the path of a process's group; None if it is in none of these, or has ended.

        `pid` is in our pid namespace.
        """
        # The kernel answers ENAMETOOLONG if the group's path is too long to print.
        with ignoring_unreadable():
            group = group_in(read_file(f"/proc/{_number_in_proc(pid)}/cgroup"), self._version)
            route = _path_from_mount(group, mount_of(self._root))
            return ProcessSearch(self._root, pid).find_along(route) if route else None
        return None

    def check_move(self, pid: int, group: Group) -> None:
        """Raise the error that forbids moving a process to a group.

        No process moves out of the daemon's own group or into it. From the managed root any process
        may be moved except the daemon's own: on a host without services all others are there, too.
        """
        own, source = self.own_group(), self.path_of(pid)
        own.refuse_own(group)
        own.refuse_inside_own(group.path)
        if source is None:
            raise ProcessNotFound(no_process(pid), pid=pid)
        if (source and own.may_contain_daemon(source)) or (
            source == own.path and descends_from_daemon(pid)
        ):
            sentence = (
                f"The process {pid} is this daemon, or in {source!a} with it: begin it in "
                "another group, or move it by hand."
            )
            raise ProtectedGroup(own.uncertainty_near(source) or sentence, pid=pid)

    def _own_text(self) -> bytes:
        """Read /proc/self/cgroup; empty if it is unreadable, and then all groups are searched.

        The file stays open: a daemon without free descriptors has to know its group, to remove a
        group that it has just made.
        """
        try:
            if self._file is None:
                self._file = Descriptor(os.open("/proc/self/cgroup", os.O_RDONLY | os.O_CLOEXEC))
            return os.pread(self._file.number, _OWN_BYTES, 0)
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise
            return b""

    def _is_current(self, text: bytes) -> bool:
        """Return whether the last result is still valid.

        A path that was found by a search is not in the text, and may be another group by now: so
        the id has to be the same.
        """
        if text != self._last_text or time.monotonic() >= self._search_at:
            return False
        return self._own.path is None or _id_of(self._root, self._own.path) == self._own_id

    def _search(self) -> None:
        before, self._last_text = self._own, None
        for _ in range(_SEARCH_ATTEMPTS):
            text = self._own_text()
            own = self._find(text)
            # else the daemon was moved, perhaps to a group that was searched already
            if self._own_text() == text:
                break
        else:
            own = OwnGroup(None, ("",))
        self._own, self._last_text = own, text
        self._own_id = 0 if own.path is None else _id_of(self._root, own.path)
        is_named = group_in(text, self._version) is not None
        self._search_at = (
            math.inf
            if is_named and not own.suspects
            else time.monotonic() + _SEARCH_INTERVAL_SECONDS
        )
        if own.suspects and own != before:
            log.warning("%s", own.uncertainty)

    def _find(self, text: bytes) -> OwnGroup:
        group, mount_location = group_in(text, self._version), mount_of(self._root)
        route, search = (
            _path_from_mount(group, mount_location),
            ProcessSearch(self._root, os.getpid()),
        )
        if group is not None and mount_location is not None and route is None:
            return OwnGroup()
        found = search.find_along(route) if route else None
        if found is None and route and not route.unknown_levels and search.suspects:
            # as /proc says; no readable group contradicts it
            return OwnGroup("/".join(route.names))
        if found is None:
            found = search.find_anywhere()
        return OwnGroup(found) if found is not None else OwnGroup(None, tuple(search.suspects))


def _path_from_mount(
    group: str | None, mount_location: tuple[Mount, tuple[str, ...]] | None
) -> RelativePath | None:
    """Return the path from a mounted directory to a group; None if it is outside or unknown."""
    if group is None or mount_location is None:
        return None
    mount, names = mount_location
    route = relative_path(group, mount.root)
    return route and route.below(names)


def no_process(pid: int) -> str:
    """Explain that a process is not here, also to callers in another pid namespace."""
    return (
        f"There is no process {pid}, as this daemon's own pid namespace numbers them, in any "
        "group below the managed root."
    )


def descends_from_daemon(pid: int) -> bool:
    """Return whether a process is this one or one of its descendants."""
    if pid == os.getpid():
        return True
    # It has ended, or an ancestor has: then this process is not among its ancestors.
    with suppress(FileNotFoundError, ProcessLookupError):
        ours, number = int(Path("/proc/self").readlink().name), _number_in_proc(pid)
        while number > 0 and number != ours:
            found = _PARENT.search(read_file(f"/proc/{number}/status"))
            number = int(found[1]) if found else 0
        return number == ours
    return False


def _number_in_proc(pid: int) -> int:
    """Return the number of a process in /proc, which may belong to another pid namespace.

    ProcessLookupError if it does not exist, or is a thread.
    """
    try:
        descriptor = Descriptor(os.pidfd_open(pid))
    except OSError as error:
        # The kernel's errnos for a thread that is not a process.
        if error.errno not in {
            errno.EINVAL,
            errno.ENOENT,
        }:
            raise
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
    found = _PID.search(read_file(f"/proc/self/fdinfo/{descriptor.number}"))
    if found is None or int(found[1]) <= 0:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return int(found[1])


def _id_of(root: Descriptor, path: str) -> int:
    """Return the id of the group at a path, 0 if there is none."""
    with suppress(OSError):
        return os.stat(path or ".", dir_fd=root.number, follow_symlinks=False).st_ino
    return 0
