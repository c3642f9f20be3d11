"""Which group a process is in, and this daemon itself: what it does to others it must not do to that one, nor to those around it."""

import functools
import os

from app.backends._files import read_file
from app.errors import GroupNotFound, leaving_out


def own_path(root: str, version: int) -> str | None:
    """The path below the managed root of the group of this process, "" for the root itself; None where it is elsewhere."""
    return find_own(root, version, _text_of("/proc/self/cgroup"), _text_of("/proc/self/mountinfo"))


def path_of(root: str, version: int, pid: int) -> str:
    """As own_path, of any process; GroupNotFound where it is elsewhere, or not at all."""
    with leaving_out():  # ENAMETOOLONG is the kernel's word where the path of the group is too long for it to print
        path = find_own(root, version, _text_of(f"/proc/{pid}/cgroup"), _text_of("/proc/self/mountinfo"))
        if path is not None:
            return path
    raise GroupNotFound(f"There is no process {pid} in any group below {root!a}.", pid=pid)


def _text_of(path: str) -> str:
    return read_file(path).decode(errors="replace")


@functools.lru_cache(maxsize=8)
def find_own(root: str, version: int, cgroups: str, mountinfo: str) -> str | None:
    """As own_path, from the texts of the two files. A daemon asks at each walk of the tree, and they seldom change."""
    lines = (line.split(":", 2) for line in cgroups.split("\n") if line.count(":") > 1)
    found = [path for number, names, path in lines if ("memory" in names.split(",") if version == 1 else number == "0")]
    own = found[0] if len(found) == 1 else None  # the kernel prints names as they are, also with a line of their own in them
    for line in mountinfo.splitlines() if own else ():
        head, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        if kind != ("cgroup" if version == 1 else "cgroup2") or (version == 1 and "memory" not in options.split(",")):
            continue
        below, mount = head.split(" ")[3:5]
        inside = _inside(str(own), below)
        path = None if inside is None else os.path.relpath(f"{mount}/{inside}", root)
        if path is not None and not path.startswith(".."):
            return "" if path == "." else path
    return None


def _inside(path: str, other: str) -> str | None:
    """What of a path is within the other, or None: ".." is a group above our namespace, of which nobody tells us the name."""
    components, outer = ([part for part in each.split("/") if part] for each in (path, other))
    rest = components[len(outer) :]
    return "/".join(rest) if components[: len(outer)] == outer and ".." not in rest else None
