"""Open and read control files by incarnation, with a bounded cache of open descriptors."""

import contextlib
import errno
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from shrinkd.backends.cgroup.procfs import read_whole
from shrinkd.backends.cgroup.syscalls import Descriptor, open_beneath
from shrinkd.backends.readings import Group
from shrinkd.errors import ShrinkdError, map_oserror

_READ_BYTES = 8192  # above any file read here: memory.stat has 1 to 2 KiB
_REMOVED_ERRNOS = frozenset({errno.ENODEV, errno.ENOENT})


@contextlib.contextmanager
def mapping_oserrors(path: str) -> Iterator[None]:
    """Convert OSError into ShrinkdError for the group at a path; also usable as a decorator."""
    try:
        yield
    except OSError as error:
        raise map_oserror(error, path) from error


class _Incarnation:
    """Hold the open directory of a group and its open control files."""

    __slots__ = ("directory", "files", "group")

    def __init__(self, group: Group, directory: Descriptor) -> None:
        self.group = group
        self.directory = directory
        self.files: dict[str, Descriptor] = {}


class ControlFiles:
    """Read and open the control files of groups below one directory."""

    new_group_texts: ClassVar[Mapping[str, bytes]] = {}
    """The texts of the control files of a new group, and so of one with the id 0 (a dry run)."""

    def __init__(self, root: Descriptor) -> None:
        self._root = root
        self._incarnations: OrderedDict[int, _Incarnation] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._id_by_path: dict[str, int] = {}
        self._open_files, self._max_open_files = 0, _file_budget()

    def _cached(self, path: str) -> Group | None:
        """Return the cached incarnation of a path if one of its files is still readable.

        This costs a fifth of a look-up.
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
        """Read several control files with one look-up in the cache."""
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
        """Read a control file of a group from its start, through a cached descriptor."""
        if not group.id and (text := self.new_group_texts.get(name)):
            return text
        try:
            # The name keeps a reference: a temporary could close before the read.
            file = self._file(group, name)
            return os.pread(file.number, _READ_BYTES, 0)
        except OSError as error:
            raise self._gone(group, error) from error

    def read_once(self, group: Group, name: str) -> bytes:
        """Read a control file without caching its descriptor.

        Groups with cached files count as groups that have the controller.
        """
        return read_whole(self.open(group, name, os.O_RDONLY))

    def read_at(self, path: str, name: str) -> bytes:
        """Read a control file of the group that exists at a path now, without caching."""
        with self._open_directory(path, path) as directory, mapping_oserrors(path):
            return read_whole(
                os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
            )

    @contextlib.contextmanager
    def opened(self, group: Group, name: str) -> Iterator[int]:
        """Open a control file for one write: the kernel serializes writers of one open file."""
        file = self.open(group, name, os.O_WRONLY)
        try:
            yield file
        except OSError as error:
            raise self._gone(group, error) from error
        finally:
            os.close(file)

    def open(self, group: Group, name: str, flags: int) -> int:
        """Open a control file of this incarnation; the caller closes the descriptor."""
        directory = self._incarnation(group).directory
        try:
            return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory.number)
        except OSError as error:
            raise self._gone(group, error) from error

    def check_writable(self, group: Group, name: str) -> None:
        """Raise the error that a write would, as far as opening shows it.

        For a group with the id 0, make() has checked it.
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
        """Return the open directory of a group, opening it and comparing its inode if needed."""
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
        """Close the least recently read groups above the budget. The lock is held."""
        while self._open_files > self._max_open_files and len(self._incarnations) > 1:
            self._drop(next(iter(self._incarnations)))

    def _forget(self, group: Group) -> None:
        with self._cache_lock:
            self._drop(group.id)

    def _drop(self, group_id: int) -> None:
        """Remove an incarnation from the cache. The lock is held."""
        if incarnation := self._incarnations.pop(group_id, None):
            self._open_files -= 1 + len(incarnation.files)
            if self._id_by_path.get(incarnation.group.path) == group_id:
                del self._id_by_path[incarnation.group.path]

    def _gone(self, group: Group, error: OSError) -> ShrinkdError:
        """Convert an OSError of a control file; ENOENT and ENODEV mean GroupGone."""
        if error.errno in _REMOVED_ERRNOS:
            self._forget(group)
            error = OSError(errno.ENODEV, "")
        return map_oserror(error, group.path)

    @contextlib.contextmanager
    def _open_directory(self, path: str, called: str) -> Iterator[int]:
        with mapping_oserrors(called):
            directory = open_beneath(self._root.number, path, os.O_PATH)
        try:
            yield directory
        finally:
            os.close(directory)

    def close_files(self) -> None:
        """Close every cached descriptor; one that a thread is reading closes after that read."""
        with self._cache_lock:
            self._incarnations.clear()
            self._id_by_path.clear()
            self._open_files = 0


def _file_budget() -> int:
    """Return the number of files to keep open: half of what this process may open.

    Connections, watches and the database share the limit. The kernel uses 5.7 KiB per file, so
    there is an upper bound.
    """
    return max(32, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 16) // 2)
