"""What both versions of cgroupfs share.

Groups are directories below one root, and a descriptor says which incarnation.

A path is resolved once for an incarnation, below a descriptor of the root: no symbolic link, no
mount and no ".." leads elsewhere. What was opened keeps its identity: after rmdir each read of it
is ENODEV, also when the path lives again.
"""

import contextlib
import errno
import mmap
import os
import re
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from shrinkd.backends.cgroup.listing_cache import ListingCache
from shrinkd.backends.cgroup.mounts import Mount, mount_of
from shrinkd.backends.cgroup.own_group import ProcessLocator, no_process
from shrinkd.backends.cgroup.procfs import read_file, read_whole
from shrinkd.backends.cgroup.psi import machine_pressure
from shrinkd.backends.cgroup.syscalls import Descriptor, filesystem_of, open_beneath, swap_free
from shrinkd.backends.protection import OwnGroup
from shrinkd.backends.protocol import Group, Node, Walk, check_group_path, shown
from shrinkd.backends.walks import Listing, WalkRecorder, check_length, walk
from shrinkd.errors import (
    BackendUnavailable,
    GroupNotFound,
    GroupNotManaged,
    InvalidGroupName,
    ProcessNotFound,
    ShrinkdError,
    ignoring_unreadable,
    map_oserror,
)
from shrinkd.sizes import PAGE_BYTES

CGROUP_SUPER_MAGIC = 0x27E0EB  # include/uapi/linux/magic.h, as the next
CGROUP2_SUPER_MAGIC = 0x63677270
_VERSIONS = {CGROUP_SUPER_MAGIC: 1, CGROUP2_SUPER_MAGIC: 2}
HIERARCHY_ROOT = (
    1  # the inode of a controller's own root, where v1 answers EINVAL to a limit and to force_empty
)
CHARGED_AHEAD_BYTES = 64 * PAGE_BYTES * (os.cpu_count() or 1)
"""By how much usage may jump at once: each CPU charges MEMCG_CHARGE_BATCH pages ahead of what is
used, mm/memcontrol.c."""
_READ_BYTES = 8192  # above any file read here: memory.stat has 1 to 2 KiB
_MEMORY = re.compile(rb"^(MemTotal|MemAvailable|SwapTotal|SwapFree): +(\d+) kB$", re.MULTILINE)
_REMOVED_ERRNOS = frozenset({errno.ENODEV, errno.ENOENT})
# instead of one a group, which would have to outlive whoever waits for it, and nothing else of a
# group does
_LOCKS = 64


@contextlib.contextmanager
def mapped(path: str) -> Iterator[None]:
    """Name what the kernel says in here about the group at a path.

    Around a function it does so at each call.
    """
    try:
        yield
    except OSError as error:
        raise map_oserror(error, path) from error


class _Incarnation:
    """A group's directory and the control files that were opened in it."""

    __slots__ = ("directory", "files", "group")

    def __init__(self, group: Group, directory: Descriptor) -> None:
        self.group = group
        self.directory = directory
        self.files: dict[str, Descriptor] = {}


class Tree:
    """The groups below one directory of a cgroupfs mount, and the verbs that are the same in both
    versions.
    """

    fresh: ClassVar[Mapping[str, bytes]] = {}
    """What the control files of a group say that was just made, and so of one that was only tried:
    usage and limits."""
    needed: ClassVar[tuple[str, ...]] = ()
    """The control files without which a group could be listed and not be used: one that lets nobody
    read them is left out of a walk."""

    def __init__(self, root: str, magic: int) -> None:
        """Open the root; BackendUnavailable when it cannot be read or is no such cgroupfs."""
        self.version = _VERSIONS.get(magic, 0)
        try:
            self._root = Descriptor(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            self.control_files = frozenset(file.name for file in Path(root).iterdir())
        except OSError as error:
            raise BackendUnavailable(
                f"Cannot read {shown(root)}: {error.strerror}.", root=shown(root)
            ) from error
        if magic != filesystem_of(self._root.number):
            raise BackendUnavailable(
                f"{shown(root)} is not a directory of the cgroup v{self.version} controllers.",
                root=shown(root),
            )
        self.root = root
        self._locator = ProcessLocator(self._root, self.version)
        self._boot_id = _read_text("/proc/sys/kernel/random/boot_id")
        self._listings = ListingCache(self._root, needed=self.needed)
        self._walks = WalkRecorder()
        self._longest_mount_path = root
        self._incarnations: OrderedDict[int, _Incarnation] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._limits_locks = tuple(threading.Lock() for _ in range(_LOCKS))
        self._id_by_path: dict[str, int] = {}
        self._open_files, self._max_open_files = 0, _file_budget()
        self._swap_until, self._swap_room = 0.0, 0

    # -- verbs of the Backend protocol --------------------------------------------------------------------------

    @mapped("/")
    def node(self) -> Node:
        memory = {
            name: int(kibibytes) << 10
            for name, kibibytes in _MEMORY.findall(read_file("/proc/meminfo"))
        }
        return Node(
            kernel=os.uname().release,
            cgroup_version=self.version,
            boot_id=self._boot_id,
            root=shown(self.root),
            page_size_bytes=mmap.PAGESIZE,
            total_bytes=memory[b"MemTotal"],
            available_bytes=memory[b"MemAvailable"],
            swap_total_bytes=memory[b"SwapTotal"],
            swap_free_bytes=memory[b"SwapFree"],
            pressure=machine_pressure(),
        )

    def own_group(self) -> OwnGroup:
        with mapped(""):
            return self._locator.own_group()

    def group_of(self, pid: int) -> Group:
        with (
            mapped(""),
            contextlib.suppress(InvalidGroupName),
        ):  # a name that is no Unicode is of no group that could be said
            path = self._locator.path_of(pid)
            if path is not None:
                return self.charged(path)
        raise GroupNotFound(no_process(pid), pid=pid)

    def groups(self, path: str = "", depth: int | None = None) -> list[Group]:
        with self._walks.begun(is_whole=not path and depth is None) as left_out, mapped(path):
            self._listings.refresh()
            return walk(self.find(path), depth, self._inside, left_out)

    def last_walk(self) -> Walk:
        return self._walks.last

    def make(self, path: str, *, dry_run: bool = False) -> Group:
        parent, name = os.path.split(check_group_path(path))
        check_length(path, self._longest_mount_path)
        self.own_group().refuse_inside_own(parent)
        with self._opened(parent, parent or "/") as directory, mapped(path):
            if not dry_run:
                os.mkdir(name, 0o755, dir_fd=directory)
                return self._made(path, directory)
            _check_writable(directory)
            with contextlib.suppress(FileNotFoundError):
                os.stat(name, dir_fd=directory, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        return Group(path, 0)

    def _made(self, path: str, parent: int) -> Group:
        """Open a group that was just made, so that it can be removed without one more open file.

        What cannot be opened does not stay.
        """
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

        rmdir takes a name alone, so that a stranger made in its place in that instant would go:
        empty, at least.
        """
        if not group.path:
            raise GroupNotManaged("The managed root stays.", group=group)
        self.refuse_own(group)
        directory = self._incarnation(group).directory
        name = (
            "../" + group.path.rpartition("/")[2]
        )  # as the directory itself sees it: to open the one above may be what we cannot
        with mapped(group.path):
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
        if pid <= 0:  # 0 would be this daemon itself
            raise ProcessNotFound(f"{pid} is no process id.", pid=pid)
        with self.opened(group, "cgroup.procs") as file, mapped(group.path):
            self._locator.check_move(pid, group)
            if not dry_run:
                os.write(file, b"%d" % pid)

    def close(self) -> None:
        """Let go of every descriptor.

        One that a thread is still reading closes behind that read.
        """
        with self._cache_lock:
            self._incarnations.clear()
            self._id_by_path.clear()
            self._open_files = 0
        self._listings.close()
        del self._root, self._locator

    # -- where it is, and where we are --------------------------------------------------------------------------

    def place(self) -> tuple[Mount, tuple[str, ...]] | None:
        """Answer the mount that the managed root is in, and the names that lead there from the
        mount's own root.

        See mount_of.
        """
        return mount_of(self._root)

    def refuse_own(self, group: Group) -> None:
        """Raise ProtectedGroup for a group that this daemon is in, or that is around that one.

        Asked anew before each change.
        """
        self.own_group().refuse_own(group)

    # -- groups by path and by incarnation ----------------------------------------------------------------------

    def find(self, path: str) -> Group:
        """Look a path up and name the incarnation that lives there now."""
        return self._cached(path) or self.look_up(check_group_path(path) if path else "")

    def look_up(self, path: str) -> Group:
        """As find, for a path that came from the kernel.

        There a name may have characters that no client can give one.
        """
        if kept := self._cached(path):
            return kept
        with self._opened(path, path) as directory:
            self._check_is_group(path, directory)
            return Group(path, os.fstat(directory).st_ino)

    def charged(self, path: str) -> Group:
        """Name the group that what a process in the directory of a path uses is charged to."""
        return self.look_up(path)

    def _check_is_group(self, path: str, directory: int) -> None:
        """Raise GroupNotFound for a directory that is no group."""

    def limits_of(self, group: Group) -> threading.Lock:
        """The lock that a group's limits are changed under.

        Groups that share one wait for each other; no thread takes two.
        """
        return self._limits_locks[group.id % _LOCKS]

    def swap_room(self) -> int:
        """Answer the bytes that swap had room for within the last second.

        It only enters estimates, and asking is dear.
        """
        if time.monotonic() >= self._swap_until:
            self._swap_until, self._swap_room = time.monotonic() + 1.0, swap_free()
        return self._swap_room

    def has(self, path: str) -> bool:
        """Tell whether something is at a path, as a hint.

        A look-up that fails costs five times as much.
        """
        return os.access(path or ".", os.F_OK, dir_fd=self._root.number)

    def is_leaf(self, path: str) -> bool:
        """Tell whether no group is in the one at a path.

        A directory has 2 links and one for each inside.
        """
        with mapped(path):
            return os.stat(path or ".", dir_fd=self._root.number).st_nlink == 2

    def _cached(self, path: str) -> Group | None:
        """Answer the kept incarnation of a path if one of its files can still be read.

        A fifth of the cost of a look-up.
        """
        with self._cache_lock:
            incarnation = self._incarnations.get(self._id_by_path.get(path, 0))
            file = next(iter(incarnation.files.values()), None) if incarnation else None
        if incarnation is None or file is None:
            return None
        try:
            os.pread(file.number, 1, 0)
        except OSError as error:
            self._gone(incarnation.group, error)
            return None
        return incarnation.group

    def read_all(self, group: Group, names: Sequence[str]) -> dict[str, bytes]:
        """As read, for several control files: one look at what is kept instead of one for each."""
        with self._cache_lock:
            incarnation = self._incarnations.get(group.id)
            kept = (
                [incarnation.files.get(name) for name in names]
                if incarnation and incarnation.group.path == group.path
                else []
            )
            if kept:
                self._incarnations.move_to_end(group.id)
        files = [file for file in kept if file]
        if len(files) < len(names):
            return {name: self.read(group, name) for name in names}
        try:
            return {
                name: os.pread(file.number, _READ_BYTES, 0)
                for name, file in zip(names, files, strict=True)
            }
        except OSError as error:
            raise self._gone(group, error) from error

    def read(self, group: Group, name: str) -> bytes:
        """Read a control file of a group from its start, through a descriptor that is kept for the
        next time.
        """
        if not group.id and (text := self.fresh.get(name)):
            return text
        try:
            file = self._file(
                group, name
            )  # held by its name here: as a temporary it could close before the read
            return os.pread(file.number, _READ_BYTES, 0)
        except OSError as error:
            raise self._gone(group, error) from error

    def read_once(self, group: Group, name: str) -> bytes:
        """As read, with no file kept open.

        What has some counts as a group that has the controller.
        """
        return read_whole(self.open(group, name, os.O_RDONLY))

    def read_at(self, path: str, name: str) -> bytes:
        """Read a control file of whichever group lives at a path now, with nothing kept."""
        with self._opened(path, path) as directory, mapped(path):
            return read_whole(
                os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
            )

    @contextlib.contextmanager
    def opened(self, group: Group, name: str) -> Iterator[int]:
        """Open a control file for one write.

        The kernel lets one writer at a time into an open file.
        """
        file = self.open(group, name, os.O_WRONLY)
        try:
            yield file
        except OSError as error:
            raise self._gone(group, error) from error
        finally:
            os.close(file)

    def open(self, group: Group, name: str, flags: int) -> int:
        """Open a control file of this incarnation; the descriptor is the caller's."""
        directory = self._incarnation(group).directory
        try:
            return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory.number)
        except OSError as error:
            raise self._gone(group, error) from error

    def check_writable(self, group: Group, name: str) -> None:
        """Raise what a write would, as far as opening tells.

        Of a group that was only tried make() has told.
        """
        if group.id:
            with self.opened(group, name):
                pass

    def _file(self, group: Group, name: str) -> Descriptor:
        with self._cache_lock:
            incarnation = self._incarnations.get(group.id)
            if incarnation and incarnation.group.path == group.path:
                self._incarnations.move_to_end(group.id)
                if file := incarnation.files.get(name):
                    return file
        incarnation = self._incarnation(group)
        file = Descriptor(
            os.open(
                name,
                os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW,
                dir_fd=incarnation.directory.number,
            )
        )
        with self._cache_lock:
            if (
                self._incarnations.get(group.id) is incarnation
                and incarnation.files.setdefault(name, file) is file
            ):
                self._open_files += 1
                self._evict()
        return file

    def _incarnation(self, group: Group) -> _Incarnation:
        """Answer the kept directory of a group, or open it and see that it is the one that was
        meant.
        """
        with self._cache_lock:
            incarnation = self._incarnations.get(group.id)
            if incarnation and incarnation.group.path == group.path:
                return incarnation
        try:
            directory = Descriptor(open_beneath(self._root.number, group.path, os.O_PATH))
        except OSError as error:
            raise self._gone(group, error) from error
        if os.fstat(directory.number).st_ino != group.id:
            raise self._gone(group, OSError(errno.ENODEV, ""))
        incarnation = _Incarnation(group, directory)
        with self._cache_lock:
            incarnation = self._incarnations.setdefault(group.id, incarnation)
            self._id_by_path[group.path] = group.id
            self._open_files += incarnation.directory is directory
            self._evict()
        return incarnation

    def _evict(self) -> None:
        """Give up the groups that were not read for the longest time. With the lock held."""
        while self._open_files > self._max_open_files and len(self._incarnations) > 1:
            self._drop(next(iter(self._incarnations)))

    def _forget(self, group: Group) -> None:
        with self._cache_lock:
            self._drop(group.id)

    def _drop(self, group_id: int) -> None:
        """Let go of an incarnation, if it is kept. With the lock held."""
        if incarnation := self._incarnations.pop(group_id, None):
            self._open_files -= 1 + len(incarnation.files)
            if self._id_by_path.get(incarnation.group.path) == group_id:
                del self._id_by_path[incarnation.group.path]

    def _gone(self, group: Group, error: OSError) -> ShrinkdError:
        """Name what the kernel said.

        To the holder of an incarnation "no such path" is its end, whatever lives there next.
        """
        if error.errno in _REMOVED_ERRNOS:
            self._forget(group)
            error = OSError(errno.ENODEV, "")
        return map_oserror(error, group.path)

    @contextlib.contextmanager
    def _opened(self, path: str, called: str) -> Iterator[int]:
        with mapped(called):
            directory = open_beneath(self._root.number, path, os.O_PATH)
        try:
            yield directory
        finally:
            os.close(directory)

    def children(self, group: Group) -> list[Group]:
        """The groups in a group, as they are now; none in one that is gone or cannot be read."""
        with mapped(group.path), ignoring_unreadable():
            self._listings.refresh()
            return self._inside(group).groups
        return []

    def _inside(self, group: Group) -> Listing:
        """What is in a group, as it was at the last refresh or later.

        OSError or ShrinkdError where that cannot be read.
        """
        return self._listings.of(group)


def _file_budget() -> int:
    """How many files to keep open.

    Half of what this process may, for connections, watches and the database live on the same limit.

    The kernel pays 5.7 KiB for a file, so there is an end to it however high the limit is.
    """
    return max(32, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 16) // 2)


def _check_writable(directory: int, path: str = ".") -> None:
    if not os.access(path, os.W_OK, dir_fd=directory):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _rmdir(name: str, directory: int) -> None:
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise OSError(
            errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY)
        ) from error  # cgroupfs says EBUSY for both


def _read_text(path: str) -> str:
    return read_file(path).decode().strip()
