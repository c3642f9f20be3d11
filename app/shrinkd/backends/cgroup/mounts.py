"""Find the mounts of cgroupfs in /proc/self/mountinfo.

The text is bytes, and lines end with a line feed alone. Which of several mounts at one point a path
leads to is read from the kernel: an opened descriptor has the id of its mount. So neither a mount
on top of another one nor one on a directory above has to be derived from the order of the lines.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shrinkd.backends.cgroup.procfs import read_file
from shrinkd.backends.cgroup.syscalls import Descriptor
from shrinkd.paths import is_at_or_below

_MOUNT_ID = re.compile(rb"^mnt_id:\t(\d+)$", re.MULTILINE)
# the escapes of seq_path(): space, tab, line feed and backslash
_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """Hold one line of mountinfo; names that are not UTF-8 are as os.fsdecode() returns them."""

    id: int
    root: str
    """The directory of the file system that is mounted at the point; for cgroupfs its name in our
    cgroup namespace, "/.." above it."""
    point: str
    kind: str
    options: frozenset[str]
    """The options of the file system, among which cgroup v1 lists its controllers."""


def parse_mounts(text: bytes) -> Iterator[Mount]:
    """Parse the lines of a mountinfo (Documentation/filesystems/proc.rst); skip other lines."""
    for line in text.split(b"\n"):
        head, separator, tail = line.partition(b" - ")
        fields, rest = head.split(b" "), tail.split(b" ", 2)
        if separator and len(fields) > 5 and len(rest) == 3 and fields[0].isdigit():
            kind, _, options = rest
            root, point = map(_decoded, fields[3:5])
            yield Mount(
                int(fields[0]),
                root,
                point,
                os.fsdecode(kind),
                frozenset(os.fsdecode(options).split(",")),
            )


def mounts(kind: str, option: str = "") -> Iterator[Mount]:
    """Find the visible mounts of a cgroupfs: "cgroup" or "cgroup2", with an option ("memory")."""
    for mount in parse_mounts(read_file("/proc/self/mountinfo")):
        if mount.kind == kind and (not option or option in mount.options) and _is_in_sight(mount):
            yield mount


def mount_points(kind: str, option: str = "") -> Iterator[str]:
    """Return the directories of mounts()."""
    return (mount.point for mount in mounts(kind, option))


def mount_of(directory: Descriptor) -> tuple[Mount, tuple[str, ...]] | None:
    """Return the mount of an open directory, and the names from its root to the directory.

    None where /proc does not report it.
    """
    number, opened = (
        _mount_id(directory.number),
        str(Path(f"/proc/self/fd/{directory.number}").readlink()),
    )
    for mount in parse_mounts(read_file("/proc/self/mountinfo")):
        if mount.id == number and is_at_or_below(opened, mount.point):
            return mount, tuple(filter(None, opened[len(mount.point) :].split("/")))
    return None


def _is_in_sight(mount: Mount) -> bool:
    """Return whether a mount is the one visible at its point, and not covered by another."""
    with suppress(OSError):
        there = Descriptor(os.open(mount.point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return _mount_id(there.number) == mount.id
    return False


def _mount_id(descriptor: int) -> int:
    found = _MOUNT_ID.search(read_file(f"/proc/self/fdinfo/{descriptor}"))
    return int(found[1]) if found else -1


def _decoded(field: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda escape: bytes((int(escape[1], 8),)), field))
