"""Implement the verbs that both versions of cgroupfs share.

Groups are directories below one root. A path is resolved once for an incarnation, below a
descriptor of the root: no symbolic link, no mount and no ".." leads out of it. What was opened
keeps its identity: after rmdir each read of it is ENODEV, even if the path exists again.
"""

import contextlib
import errno
import mmap
import os
import re
import threading
import time
from pathlib import Path
from typing import ClassVar

from shrinkd.backends.cgroup.control_files import ControlFiles, mapping_oserrors
from shrinkd.backends.cgroup.listing_cache import ListingCache
from shrinkd.backends.cgroup.mounts import Mount, mount_of
from shrinkd.backends.cgroup.own_group import ProcessLocator, no_process
from shrinkd.backends.cgroup.procfs import read_file
from shrinkd.backends.cgroup.psi import machine_pressure
from shrinkd.backends.cgroup.syscalls import Descriptor, filesystem_of, swap_free
from shrinkd.backends.protection import OwnGroup
from shrinkd.backends.protocol import check_group_path, printable_path
from shrinkd.backends.readings import Group, Node, Walk
from shrinkd.backends.walks import Listing, WalkRecorder, check_length, walk
from shrinkd.errors import (
    BackendUnavailable,
    GroupNotFound,
    GroupNotManaged,
    InvalidGroupName,
    ProcessNotFound,
    ShrinkdError,
    ignoring_unreadable,
)
from shrinkd.sizes import PAGE_BYTES

CGROUP_SUPER_MAGIC = 0x27E0EB  # include/uapi/linux/magic.h, as the next
CGROUP2_SUPER_MAGIC = 0x63677270
_VERSIONS = {CGROUP_SUPER_MAGIC: 1, CGROUP2_SUPER_MAGIC: 2}
# The inode of a controller's own root, where v1 answers EINVAL to a limit and to force_empty.
HIERARCHY_ROOT = 1
CHARGED_AHEAD_BYTES = 64 * PAGE_BYTES * (os.cpu_count() or 1)
"""The amount by which usage may jump at once (bytes): each CPU charges MEMCG_CHARGE_BATCH pages
ahead, mm/memcontrol.c."""
_MEMORY = re.compile(rb"^(MemTotal|MemAvailable|SwapTotal|SwapFree): +(\d+) kB$", re.MULTILINE)
# A fixed number instead of one lock per group, which would have to outlive its waiters.
_LOCKS = 64


class Tree(ControlFiles):
    """Manage the groups below one directory of a cgroupfs mount."""

    required_files: ClassVar[tuple[str, ...]] = ()
    """The control files that must be readable: a group in which one is not is skipped in walks."""

    def __init__(self, root: str, magic: int) -> None:
        """Open the root; BackendUnavailable if it cannot be read or is no such cgroupfs."""
        self.version = _VERSIONS.get(magic, 0)
        try:
            directory = Descriptor(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            self.control_files = frozenset(file.name for file in Path(root).iterdir())
        except OSError as error:
            raise BackendUnavailable(
                f"Cannot read {printable_path(root)}: {error.strerror}.", root=printable_path(root)
            ) from error
        if magic != filesystem_of(directory.number):
            raise BackendUnavailable(
                f"{printable_path(root)} is not a directory of the cgroup v{self.version} "
                "controllers.",
                root=printable_path(root),
            )
        super().__init__(directory)
        self.root = root
        self._locator = ProcessLocator(self._root, self.version)
        self._boot_id = _read_text("/proc/sys/kernel/random/boot_id")
        self._listings = ListingCache(self._root, required_files=self.required_files)
        self._walks = WalkRecorder()
        self._longest_mount_path = root
        self._limits_locks = tuple(threading.Lock() for _ in range(_LOCKS))
        self._swap_until, self._swap_room = 0.0, 0

    # -- verbs of the Backend protocol

    @mapping_oserrors("/")
    def node(self) -> Node:
        memory = {
            name: int(kibibytes) << 10
            for name, kibibytes in _MEMORY.findall(read_file("/proc/meminfo"))
        }
        return Node(
            kernel=os.uname().release,
            cgroup_version=self.version,
            boot_id=self._boot_id,
            root=printable_path(self.root),
            page_size_bytes=mmap.PAGESIZE,
            total_bytes=memory[b"MemTotal"],
            available_bytes=memory[b"MemAvailable"],
            swap_total_bytes=memory[b"SwapTotal"],
            swap_free_bytes=memory[b"SwapFree"],
            pressure=machine_pressure(),
        )

    def own_group(self) -> OwnGroup:
        with mapping_oserrors(""):
            return self._locator.own_group()

    def group_of(self, pid: int) -> Group:
        # A name that is not Unicode belongs to no group that JSON can express.
        with (
            mapping_oserrors(""),
            contextlib.suppress(InvalidGroupName),
        ):
            path = self._locator.path_of(pid)
            if path is not None:
                return self.charging_group(path)
        raise GroupNotFound(no_process(pid), pid=pid)

    def groups(self, path: str = "", depth: int | None = None) -> list[Group]:
        with (
            self._walks.recorded(is_whole=not path and depth is None) as skipped,
            mapping_oserrors(path),
        ):
            self._listings.refresh()
            return walk(self.find(path), depth, self._listing_of, skipped)

    def last_walk(self) -> Walk:
        return self._walks.last

    def make(self, path: str, *, dry_run: bool = False) -> Group:
        parent, name = os.path.split(check_group_path(path))
        check_length(path, self._longest_mount_path)
        self.own_group().refuse_inside_own(parent)
        with self._open_directory(parent, parent or "/") as directory, mapping_oserrors(path):
            if not dry_run:
                os.mkdir(name, 0o755, dir_fd=directory)
                return self._made(path, directory)
            _check_writable(directory)
            with contextlib.suppress(FileNotFoundError):
                os.stat(name, dir_fd=directory, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        return Group(path, 0)

    def _made(self, path: str, parent: int) -> Group:
        """Open a new group, so that removing it needs no descriptor; remove it if that fails."""
        _, name = os.path.split(path)
        try:
            group = Group(path, os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino)
            self._incarnation(group)
        except (ShrinkdError, OSError):
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=parent)
            raise
        return group

    def remove(self, group: Group, *, dry_run: bool = False) -> None:
        """Remove a group.

        rmdir takes a name alone, so a group made in its place at that moment would be removed
        instead, if it is empty.
        """
        if not group.path:
            raise GroupNotManaged("The managed root stays.", group=group)
        self.refuse_own(group)
        directory = self._incarnation(group).directory
        # Relative to the directory itself: the daemon may lack the permission to open its parent.
        name = "../" + group.path.rpartition("/")[2]
        with mapping_oserrors(group.path):
            if os.stat(name, dir_fd=directory.number, follow_symlinks=False).st_ino != group.id:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            if dry_run:
                _check_writable(directory.number, "..")
                if os.fstat(directory.number).st_nlink > 2 or self.read(group, "cgroup.procs"):
                    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
                return
            _rmdir(name, directory.number)
        self._forget(group)

    def attach(self, group: Group, pid: int, *, dry_run: bool = False) -> None:
        # 0 would be this daemon itself
        if pid <= 0:
            raise ProcessNotFound(f"{pid} is no process id.", pid=pid)
        with self.opened(group, "cgroup.procs") as file, mapping_oserrors(group.path):
            self._locator.check_move(pid, group)
            if not dry_run:
                os.write(file, b"%d" % pid)

    def close(self) -> None:
        """Close every descriptor; one that a thread is reading closes after that read."""
        self.close_files()
        self._listings.close()
        del self._root, self._locator

    # -- the mount, and the daemon's own group

    def mount_location(self) -> tuple[Mount, tuple[str, ...]] | None:
        """Return the mount of the managed root, and the names between them; see mount_of."""
        return mount_of(self._root)

    def refuse_own(self, group: Group) -> None:
        """Raise ProtectedGroup for a group that contains this daemon at this moment."""
        self.own_group().refuse_own(group)

    # -- groups by path and by incarnation

    def find(self, path: str) -> Group:
        """Look up the incarnation that exists at a path now."""
        return self._cached(path) or self.look_up(check_group_path(path) if path else "")

    def look_up(self, path: str) -> Group:
        """Look up a path from the kernel, whose characters are not restricted as clients' are."""
        if kept := self._cached(path):
            return kept
        with self._open_directory(path, path) as directory:
            self._check_is_group(path, directory)
            return Group(path, os.fstat(directory).st_ino)

    def charging_group(self, path: str) -> Group:
        """Return the group to which processes in the directory of a path are charged."""
        return self.look_up(path)

    def _check_is_group(self, path: str, directory: int) -> None:
        """Raise GroupNotFound for a directory that is no group of this controller."""

    def limits_lock(self, group: Group) -> threading.Lock:
        """Return the lock for changes of a group's limits.

        Groups that share one wait for each other; no thread acquires two.
        """
        return self._limits_locks[group.id % _LOCKS]

    def swap_room(self) -> int:
        """Return the free swap in bytes, at most one second old: it enters estimates only."""
        if time.monotonic() >= self._swap_until:
            self._swap_until, self._swap_room = time.monotonic() + 1.0, swap_free()
        return self._swap_room

    def has(self, path: str) -> bool:
        """Return whether a path exists, as a hint: a failing look-up costs five times as much."""
        return os.access(path or ".", os.F_OK, dir_fd=self._root.number)

    def is_leaf(self, path: str) -> bool:
        """Return whether a group has no children: its directory then has 2 links."""
        with mapping_oserrors(path):
            return os.stat(path or ".", dir_fd=self._root.number).st_nlink == 2

    def children(self, group: Group) -> list[Group]:
        """Return the children of a group; none of one that is gone or unreadable."""
        with mapping_oserrors(group.path), ignoring_unreadable():
            self._listings.refresh()
            return self._listing_of(group).groups
        return []

    def _listing_of(self, group: Group) -> Listing:
        """Return the listing of a group at the last refresh or later; OSError or ShrinkdError."""
        return self._listings.listing_of(group)


def _check_writable(directory: int, path: str = ".") -> None:
    if not os.access(path, os.W_OK, dir_fd=directory):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _rmdir(name: str, directory: int) -> None:
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # cgroupfs answers EBUSY for both
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY)) from error


def _read_text(path: str) -> str:
    return read_file(path).decode().strip()
