"""Which group a process is in, and this daemon itself: what it does to others it must not do to that one, nor to those around it."""

import os
from contextlib import suppress
from pathlib import Path

from app.errors import GroupNotFound


def own_path(root: str, version: int) -> str | None:
    """The path below the managed root of the group of this process, "" for the root itself; None where it is elsewhere."""
    return find_own(root, version, Path("/proc/self/cgroup").read_text("utf-8"), Path("/proc/self/mountinfo").read_text("utf-8"))


def path_of(root: str, version: int, pid: int) -> str:
    """As own_path, of any process; GroupNotFound where it is elsewhere, or not at all."""
    with suppress(FileNotFoundError, ProcessLookupError):
        cgroups = Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace")
        path = find_own(root, version, cgroups, Path("/proc/self/mountinfo").read_text("utf-8"))
        if path is not None:
            return path
    raise GroupNotFound(f"There is no process {pid} in any group below {root!a}.", pid=pid)


def find_own(root: str, version: int, cgroups: str, mountinfo: str) -> str | None:
    """As own_path, from the texts of the two files."""
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
