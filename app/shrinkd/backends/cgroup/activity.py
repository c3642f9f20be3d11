"""Read the CPU time and the freezer state of groups, on v1 from mirror groups in other hierarchies.

A memory controller of v1 has neither. A mirror, the directory of the same path in the cgroup2
mount, in cpuacct or in the freezer, may have them; but an equal path is no guarantee: systemd makes
groups in one hierarchy without moving processes in another. A busy group with an empty mirror would
look idle and be shrunk for it, so a mirror counts only if it has every process of the group.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from shrinkd.backends.cgroup.mounts import Mount, mounts
from shrinkd.backends.cgroup.own_group import relative_path
from shrinkd.backends.cgroup.tree import (
    CGROUP2_SUPER_MAGIC,
    CGROUP_SUPER_MAGIC,
    HIERARCHY_ROOT,
    Tree,
)
from shrinkd.backends.readings import Activity, Group
from shrinkd.errors import BackendUnavailable, ignoring_unreadable

_CPU_STAT, _CGROUP_EVENTS, _PROCESSES = "cpu.stat", "cgroup.events", "cgroup.procs"
_CPUACCT, _FREEZER = "cpuacct.usage", "freezer.state"
_MIRROR_HIERARCHIES = (
    ("cgroup2", "", (_CPU_STAT, _CGROUP_EVENTS)),
    ("cgroup", "cpuacct", (_CPUACCT,)),
    ("cgroup", "freezer", (_FREEZER,)),
)
"""Mounts, by the arguments of mounts(), and the control files that are read there."""


def v2_activity(tree: Tree, group: Group, *, is_top: bool) -> Activity:
    """Read the activity of a v2 group, which has both files even without the cpu controller.

    The top of the hierarchy has no freezer.
    """
    events = b"" if is_top else tree.read_once(group, _CGROUP_EVENTS)
    return _by_v2(tree.read_once(group, _CPU_STAT), events)


def mirror_tree(own: Tree, kind: str, option: str = "") -> Tree | None:
    """Open the directory that mirrors the managed root of v1 in another mount; None without one.

    The mount is cgroup2, or another v1 controller.
    """
    for root in _mirror_roots(own, kind, option):
        with suppress(BackendUnavailable):
            return Tree(root, CGROUP_SUPER_MAGIC if option else CGROUP2_SUPER_MAGIC)
    return None


def _mirror_roots(own: Tree, kind: str, option: str) -> Iterator[str]:
    """Find the directories of other mounts that have the path of the managed root.

    Paths are compared from the top of the hierarchies, or in our cgroup namespace.
    """
    if (mount_location := own.mount_location()) is None:
        return
    mount, names = mount_location
    for other in mounts(kind, option):
        if _is_whole(mount) and _is_whole(other):
            yield str(Path(other.point, *names))
        elif (
            route := relative_path("/".join((mount.root, *names)), other.root)
        ) and not route.unknown_levels:
            yield str(Path(other.point, *route.names))


def _is_whole(mount: Mount) -> bool:
    """Return whether a mount shows its hierarchy from the top, whatever our namespace calls it."""
    with suppress(OSError):
        return Path(mount.point).stat().st_ino == HIERARCHY_ROOT
    return False


class MirrorGroups:
    """Read activity from the mirrors of v1 groups.

    No descriptor stays open: it is read every few seconds at most.
    """

    def __init__(self, own: Tree) -> None:
        self._own = own
        beside = (
            (mirror_tree(own, kind, option), files) for kind, option, files in _MIRROR_HIERARCHIES
        )
        self._trees = [(tree, files) for tree, files in beside if tree]

    def activity(self, group: Group) -> Activity | None:
        """Return the activity of an existing group; None if no mirror of it counts CPU time."""
        mirrors = [(tree, files) for tree, files in self._trees if tree.has(group.path)]
        own = (
            set()
            if group.id == HIERARCHY_ROOT or not mirrors
            else _processes(self._own, group.path)
        )
        texts: dict[str, bytes] = {}
        for tree, files in mirrors:
            is_needless = _CPUACCT in files and _CPU_STAT in texts
            # the mirror was removed meanwhile
            with ignoring_unreadable():
                if not is_needless and self._has_all(tree, group.path, own):
                    texts |= _read(tree, group.path, files)
        is_frozen = texts.get(_FREEZER, b"").strip() == b"FROZEN"
        if cpu_stat := texts.get(_CPU_STAT):
            by_v2 = _by_v2(cpu_stat, texts.get(_CGROUP_EVENTS, b""))
            return Activity(by_v2.cpu_seconds, is_frozen=by_v2.is_frozen or is_frozen)
        return (
            Activity(int(texts[_CPUACCT]) / 1e9, is_frozen=is_frozen) if _CPUACCT in texts else None
        )

    def roots(self) -> list[str]:
        """Return the directories in which the mirrors are."""
        return [tree.root for tree, _ in self._trees]

    def close(self) -> None:
        for tree, _ in self._trees:
            tree.close()

    def _has_all(self, tree: Tree, path: str, own: set[bytes]) -> bool:
        """Return whether a mirror has all these processes, except those that left the group."""
        missing = own - _processes(tree, path) if own else own
        return not missing or missing.isdisjoint(_processes(self._own, path))


def _processes(tree: Tree, path: str) -> set[bytes]:
    """List the processes of a group and its descendants; none of a group that cannot be read."""
    found: set[bytes] = set()
    with ignoring_unreadable():
        for member in [path] if tree.is_leaf(path) else [group.path for group in tree.groups(path)]:
            with ignoring_unreadable():
                found.update(tree.read_at(member, _PROCESSES).split())
    return found


def _read(tree: Tree, path: str, files: tuple[str, ...]) -> dict[str, bytes]:
    """Read those of the files that exist: the top of a hierarchy has no freezer file."""
    return {name: tree.read_at(path, name) for name in files if path or name in tree.control_files}


def _by_v2(cpu_stat: bytes, cgroup_events: bytes) -> Activity:
    return Activity(
        cpu_seconds=_count_of(cpu_stat, b"usage_usec") / 1e6,
        is_frozen=bool(_count_of(cgroup_events, b"frozen")),
    )


def _count_of(text: bytes, name: bytes) -> int:
    """Return the count of a name in lines of name and count; 0 if the name is missing."""
    words = text.split()
    return int(words[words.index(name) + 1]) if name in words else 0
