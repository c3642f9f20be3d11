"""Find the mounts with the memory controller, and the limits above the managed root.

No file of a group reports the limits of the directories above it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from shrinkd.backends.cgroup.mounts import mount_points
from shrinkd.backends.cgroup.procfs import read_file
from shrinkd.backends.cgroup.tree import CGROUP2_SUPER_MAGIC, Tree
from shrinkd.backends.v2.files import MAX
from shrinkd.errors import BackendUnavailable


def levels_above(root: str) -> Iterator[Tree]:
    """Open the ancestors of the managed root that have a limit and are readable."""
    for directory in Path(root).resolve().parents:
        try:
            level = Tree(str(directory), CGROUP2_SUPER_MAGIC)
        except BackendUnavailable:
            return
        if MAX not in level.control_files:
            return level.close()
        yield level


def mounts_with_memory() -> Iterator[str]:
    """Find the cgroup2 mounts that have the memory controller; next to v1 one may have none."""
    return (mount for mount in mount_points("cgroup2") if offers_memory(mount))


def offers_memory(directory: str) -> bool:
    with contextlib.suppress(OSError):
        return b"memory" in read_file(f"{directory}/cgroup.controllers").split()
    return False
