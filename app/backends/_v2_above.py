"""The directories above the managed root, for their maxima: no file of cgroup v2 tells what holds from there."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from app.backends._cgroupfs import CGROUP2_SUPER_MAGIC, Tree
from app.backends._v2_texts import MAX
from app.errors import BackendUnavailable


class _Level(Tree):
    """One directory above the managed root, for its limit."""

    version: ClassVar[int] = 2


def levels_above(root: str) -> Iterator[Tree]:
    """Open what is above the managed root as far as it is of the hierarchy, has a limit and can be read."""
    for directory in Path(root).resolve().parents:
        try:
            level = _Level(str(directory), CGROUP2_SUPER_MAGIC)
        except BackendUnavailable:
            return
        if MAX not in level.control_files:
            return level.close()
        yield level
