"""Where cgroupfs is mounted: /proc/self/mountinfo, which is bytes, and whose lines end with a line
feed alone.

Which of several mounts at one point is the one that a path leads to, the kernel is asked: what is
opened there has the number of its mount. So neither a mount on top of another one nor one on a
directory above has to be worked out from the order of the lines.
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
_ESCAPED = re.compile(
    rb"\\([0-7]{3})"
)  # seq_path() of the kernel: space, tab, line feed and backslash


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. Names that are no UTF-8 are there as os.fsdecode() gives them."""

    id: int
    root: str
    """The directory of the file system that is shown at the point; of cgroupfs as it is called in
    our cgroup namespace, "/.." above it."""
    point: str
    kind: str
    options: frozenset[str]
    """Those of the file system, in which cgroup v1 names its controllers."""


def parse_mounts(text: bytes) -> Iterator[Mount]:
    """Read the lines of a mountinfo, Documentation/filesystems/proc.rst.

    What is no such line is left out.
    """
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
    """Find the mounts of a cgroupfs ("cgroup" or "cgroup2"), with an option such as "memory", that
    a path leads to.
    """
    for mount in parse_mounts(read_file("/proc/self/mountinfo")):
        if mount.kind == kind and (not option or option in mount.options) and _is_in_sight(mount):
            yield mount


def mount_points(kind: str, option: str = "") -> Iterator[str]:
    """As mounts(), the directories alone."""
    return (mount.point for mount in mounts(kind, option))


def mount_of(directory: Descriptor) -> tuple[Mount, tuple[str, ...]] | None:
    """Answer the mount that an open directory is in, and the names that lead from its root to
    there.

    None where nothing tells it.
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
    """Whether what is at the point of a mount is this mount, and no other one on top of it or of a
    directory above.
    """
    with suppress(OSError):
        there = Descriptor(os.open(mount.point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return _mount_id(there.number) == mount.id
    return False


def _mount_id(descriptor: int) -> int:
    found = _MOUNT_ID.search(read_file(f"/proc/self/fdinfo/{descriptor}"))
    return int(found[1]) if found else -1


def _decoded(field: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda escape: bytes((int(escape[1], 8),)), field))
