"""What groups do beside using memory, for which cgroup v1 has other hierarchies.

The CPU time that they use, and whether they are frozen.

A memory controller of v1 knows neither. Where a group has a twin, a directory of the same path in
the cgroup2 mount, in cpuacct or in the freezer, that one does; but a path is no promise: systemd
makes groups in one hierarchy without moving anybody in another. A busy group whose twin is empty
would look idle and be shrunk for it, so a twin counts only when it has every process of the group.
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
from shrinkd.backends.protocol import Activity, Group
from shrinkd.errors import BackendUnavailable, ignoring_unreadable

_CPU_STAT, _CGROUP_EVENTS, _PROCESSES = "cpu.stat", "cgroup.events", "cgroup.procs"
_CPUACCT, _FREEZER = "cpuacct.usage", "freezer.state"
_MIRROR_HIERARCHIES = (
    ("cgroup2", "", (_CPU_STAT, _CGROUP_EVENTS)),
    ("cgroup", "cpuacct", (_CPUACCT,)),
    ("cgroup", "freezer", (_FREEZER,)),
)
"""Mounts, as mounts() names them, and what their groups tell."""


def v2_activity(tree: Tree, group: Group, *, is_top: bool) -> Activity:
    """Read two files that every v2 group has, also without the cpu controller.

    The top of the hierarchy cannot be frozen.
    """
    events = b"" if is_top else tree.read_once(group, _CGROUP_EVENTS)
    return _by_v2(tree.read_once(group, _CPU_STAT), events)


def mirror_tree(own: Tree, kind: str, option: str = "") -> Tree | None:
    """Find the directory that mirrors the managed root of v1 in another mount.

    Of cgroup2, or of another v1 controller.
    """
    for root in _mirrors(own, kind, option):
        with suppress(BackendUnavailable):
            return Tree(root, CGROUP_SUPER_MAGIC if option else CGROUP2_SUPER_MAGIC)
    return None


def _mirrors(own: Tree, kind: str, option: str) -> Iterator[str]:
    """Find the directories of other mounts that are called as a managed root is, both from the top
    or in our cgroup namespace.
    """
    if (place := own.place()) is None:
        return
    mount, names = place
    for other in mounts(kind, option):
        if _is_whole(mount) and _is_whole(other):
            yield str(Path(other.point, *names))
        elif (
            trail := relative_path("/".join((mount.root, *names)), other.root)
        ) and not trail.unknown_levels:
            yield str(Path(other.point, *trail.names))


def _is_whole(mount: Mount) -> bool:
    """Whether a mount shows its hierarchy from the top, whatever that is called in our cgroup
    namespace.
    """
    with suppress(OSError):
        return Path(mount.point).stat().st_ino == HIERARCHY_ROOT
    return False


class MirrorGroups:
    """What the twins of v1 groups tell.

    Nothing stays open for it: it is asked every few seconds at most.
    """

    def __init__(self, own: Tree) -> None:
        self._own = own
        beside = (
            (mirror_tree(own, kind, option), files) for kind, option, files in _MIRROR_HIERARCHIES
        )
        self._trees = [(tree, files) for tree, files in beside if tree]

    def activity(self, group: Group) -> Activity | None:
        """Tell what is known of a group that is there; None where no twin of it counts CPU time."""
        homes = [(tree, files) for tree, files in self._trees if tree.has(group.path)]
        own = (
            set() if group.id == HIERARCHY_ROOT or not homes else _processes(self._own, group.path)
        )
        told: dict[str, bytes] = {}
        for tree, files in homes:
            is_needless = _CPUACCT in files and _CPU_STAT in told
            with ignoring_unreadable():  # it went in between
                if not is_needless and self._has_all(tree, group.path, own):
                    told |= _read(tree, group.path, files)
        is_frozen = told.get(_FREEZER, b"").strip() == b"FROZEN"
        if cpu_stat := told.get(_CPU_STAT):
            by_v2 = _by_v2(cpu_stat, told.get(_CGROUP_EVENTS, b""))
            return Activity(by_v2.cpu_seconds, is_frozen=by_v2.is_frozen or is_frozen)
        return (
            Activity(int(told[_CPUACCT]) / 1e9, is_frozen=is_frozen) if _CPUACCT in told else None
        )

    def roots(self) -> list[str]:
        """The directories whose groups are twins."""
        return [tree.root for tree, _ in self._trees]

    def close(self) -> None:
        for tree, _ in self._trees:
            tree.close()

    def _has_all(self, tree: Tree, path: str, own: set[bytes]) -> bool:
        """Whether each of these processes of the group is in its twin, but for those that have left
        the group meanwhile.
        """
        missing = own - _processes(tree, path) if own else own
        return not missing or missing.isdisjoint(_processes(self._own, path))


def _processes(tree: Tree, path: str) -> set[bytes]:
    """List the processes of the group at a path and of those inside.

    Of what goes meanwhile, or cannot be read, none.
    """
    found: set[bytes] = set()
    with ignoring_unreadable():
        for member in [path] if tree.is_leaf(path) else [group.path for group in tree.groups(path)]:
            with ignoring_unreadable():
                found.update(tree.read_at(member, _PROCESSES).split())
    return found


def _read(tree: Tree, path: str, files: tuple[str, ...]) -> dict[str, bytes]:
    """Read what there is of some files.

    The top of a hierarchy cannot be frozen, and has no file for it.
    """
    return {name: tree.read_at(path, name) for name in files if path or name in tree.control_files}


def _by_v2(cpu_stat: bytes, cgroup_events: bytes) -> Activity:
    return Activity(
        cpu_seconds=_counted(cpu_stat, b"usage_usec") / 1e6,
        is_frozen=bool(_counted(cgroup_events, b"frozen")),
    )


def _counted(text: bytes, name: bytes) -> int:
    """Find a count in lines of a name and a count each; 0 where there is none of the name."""
    words = text.split()
    return int(words[words.index(name) + 1]) if name in words else 0
