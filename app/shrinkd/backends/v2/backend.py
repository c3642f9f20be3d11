"""Implement the Backend protocol for cgroup v2, which reclaims by amount and refuses no maximum.

Refusing a maximum is done by lower_max.py. A pass is a write to memory.reclaim, sized by what the
group's last ones freed in 25 ms (reclaim_sizer.py) and cut by a timer: no limit changes for it, no
stall is recorded for the group, and nothing is left behind if the daemon dies during it.

A group here has the controller: a directory whose parent has enabled memory in its
cgroup.subtree_control. Others are not listed, and make() enables it from the managed root down,
where the kernel permits.
"""

import contextlib
import functools
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar

from shrinkd.backends.cgroup.activity import v2_activity
from shrinkd.backends.cgroup.memory_stat import StatLines
from shrinkd.backends.cgroup.psi import parse_pressure
from shrinkd.backends.cgroup.timed_write import catch_signal, timed_write
from shrinkd.backends.cgroup.tree import CGROUP2_SUPER_MAGIC
from shrinkd.backends.cgroup.triggers import v2_source, v2_watchable
from shrinkd.backends.limit_values import to_kernel
from shrinkd.backends.protocol import Backend, Intent, Watch, printable_path, unrecorded
from shrinkd.backends.readings import (
    LIMIT_NAMES,
    Activity,
    Events,
    Group,
    LimitName,
    Limits,
    MemStat,
    Pressure,
)
from shrinkd.backends.transaction import limit_steps, write_all
from shrinkd.backends.trigger_types import Trigger
from shrinkd.backends.v2.ancestors import levels_above, mounts_with_memory, offers_memory
from shrinkd.backends.v2.files import (
    EVENT_LINES,
    EVENTS,
    GROUP_FILES,
    LIMIT_FILES,
    MAX,
    MIN,
    NEW_GROUP,
    PRESSURE,
    RECLAIM,
    STAT,
    STAT_LINES,
    SUBTREE,
    SWAP,
    SWAP_MAX,
    USAGE,
    ZSWAP,
    describe,
    file_of,
    named,
    parse_limit_file,
)
from shrinkd.backends.v2.limits import V2Limits
from shrinkd.backends.v2.reclaim_sizer import ReclaimSizer
from shrinkd.backends.walks import Listing
from shrinkd.backends.watch import open_watch
from shrinkd.errors import (
    BackendUnavailable,
    GroupBusy,
    GroupNotFound,
    ShrinkdError,
    Unsupported,
    UnsupportedLimit,
    UnsupportedOption,
    ignoring_unreadable,
)
from shrinkd.settings import Settings
from shrinkd.sizes import UNLIMITED

_PROTECTED_TTL_SECONDS, _MAX_PROTECTED_LISTS = 10.0, 4096
"""The time for which children with a memory.min are cached: listing 100 costs 40 readings, and
hardly any group has one."""
_LONGEST_SECONDS = 50e-3
"""The time after which a pass is cut that is slower than those before. The kernel reacts after the
current batch."""


class V2(V2Limits):
    """Access the v2 memory controller."""

    name: ClassVar[str] = "v2"
    is_simulated: ClassVar[bool] = False
    new_group_texts: ClassVar[Mapping[str, bytes]] = NEW_GROUP
    required_files: ClassVar[tuple[str, ...]] = (USAGE, STAT)
    settable_limits: frozenset[LimitName]
    has_swappiness: bool
    has_pressure: bool
    watchable: frozenset[type[Trigger]]

    def __init__(self, settings: Settings) -> None:
        root = settings.cgroup_root or next(mounts_with_memory(), None)
        if root is None:
            raise BackendUnavailable(
                "No cgroup v2 memory controller is mounted here; SHRINKD_BACKEND=simulator needs "
                "none."
            )
        super().__init__(root, CGROUP2_SUPER_MAGIC)
        if STAT not in self.control_files or not offers_memory(root):
            sentence = (
                f"{printable_path(root)} is not in the v2 memory controller; "
                "SHRINKD_BACKEND=simulator needs none."
            )
            raise BackendUnavailable(sentence, root=printable_path(root))
        if RECLAIM not in self.control_files:
            raise BackendUnavailable(
                f"{printable_path(root)} has no {RECLAIM}: cgroup v2 needs Linux 5.19 or later.",
                root=printable_path(root),
            )
        catch_signal()
        self._hierarchy_root_id = None if USAGE in self.control_files else self.find("").id
        present = self._files_of_a_group()
        self._stat_files = [name for name in GROUP_FILES if name in present]
        self._top_files = [STAT]
        self._lines, self._events = StatLines(STAT_LINES), StatLines(EVENT_LINES)
        self._sizers = functools.lru_cache(maxsize=4096)(_new_sizer)
        self._protected_children: dict[int, tuple[float, list[Group]]] = {}
        self._ancestor_trees = list(levels_above(root))
        self.has_pressure = self._pressure(self.find("")) is not None
        self.has_swappiness = self._takes_swappiness()
        self.watchable = v2_watchable(self)
        self._limit_files: dict[LimitName, str] = {
            name: file for name, file in LIMIT_FILES.items() if file in present
        }
        self.settable_limits = frozenset(self._limit_files)
        self._unsupported = tuple(name for name in LIMIT_NAMES if name not in self.settable_limits)

    def charging_group(self, path: str) -> Group:
        """Return the group to which processes in a directory are charged.

        Without the controller in that directory, it is the nearest ancestor that has it.
        """
        while path and not self.has(f"{path}/{USAGE}"):
            path = path.rpartition("/")[0]
        return self.look_up(path)

    def stat(self, group: Group, *, raw: bool = False) -> MemStat:
        if not group.id:
            return MemStat(usage_bytes=0, limits=self._limits(group, self._held(group)))
        texts = self.read_all(
            group, self._top_files if group.id == self._hierarchy_root_id else self._stat_files
        )
        lines = self._lines.parse(texts[STAT])
        reading = describe(texts, lines, self._limits(group, self._parsed(texts)))
        reading.reclaimable_estimate_bytes = self._reclaimable(group, lines)
        if EVENTS in texts:
            reading.events = Events(**self._events.parse(texts[EVENTS]))
        if self.has_pressure:
            reading.pressure = self._pressure(group)
        if raw:
            reading.raw = {name: text.decode() for name, text in texts.items()}
        return reading

    def activity(self, group: Group) -> Activity | None:
        return v2_activity(self, group, is_top=group.id == self._hierarchy_root_id)

    def set_limits(
        self,
        group: Group,
        changes: Mapping[LimitName, int | None],
        *,
        intent: Intent = unrecorded,
        dry_run: bool = False,
    ) -> Limits:
        """Implement Backend.set_limits.

        high_bytes is checked like max_bytes, since the kernel reclaims for both of them.
        """
        if unsupported := [name for name in changes if name not in self.settable_limits]:
            raise UnsupportedLimit(
                f"cgroup v2 has no {unsupported[0]} here.", group=group, field=unsupported[0]
            )
        if group.id == self._hierarchy_root_id:
            raise UnsupportedLimit("The root of the memory controller takes no limit.", group=group)
        self.refuse_own(group)
        with self.limits_lock(group):
            held = self._held(group)
            wanted = {
                name: to_kernel(name, changes[name]) for name in LIMIT_FILES if name in changes
            }
            writes = [(name, value) for name, value in wanted.items() if value != held[name]]
            for name, value in writes:
                self._check_above_usage(group, name, value)
            if dry_run:
                self.check_writable(group, MAX)
                return self._limits(group, held | wanted)
            # stored, compared with usage, and possibly undone
            is_lowered = wanted.get("max_bytes", UNLIMITED) < held["max_bytes"]
            steps = limit_steps(held, writes, named) if len(writes) > 1 or is_lowered else []
            write_all(held, writes, functools.partial(self._commit, group), intent(group, steps))
            if "min_bytes" in changes:
                self._protected_children.clear()
            return self._limits(group, self._held(group))

    def reclaim(self, group: Group, goal_bytes: int, swappiness: int | None = None) -> int:
        if swappiness is not None and not self.has_swappiness:
            raise UnsupportedOption(
                f"The {RECLAIM} of this kernel takes no swappiness.", field="swappiness"
            )
        if group.id == self._hierarchy_root_id:
            raise Unsupported(
                "The root of the memory controller cannot be shrunk; its groups can.", group=group
            )
        self.refuse_own(group)
        sizer = self._sizers(group.id)
        asked = sizer.request_bytes(goal_bytes)
        before, began = self.usage(group), time.perf_counter()
        with (
            self.opened(group, RECLAIM) as file,
            contextlib.suppress(BlockingIOError),
        ):  # EAGAIN: it gave what it could, maybe a lot
            timed_write(
                file,
                b"%d" % asked + (b"" if swappiness is None else b" swappiness=%d" % swappiness),
                _LONGEST_SECONDS,
            )
        freed = before - self.usage(group)
        sizer.learn(asked, freed, time.perf_counter() - began)
        return max(freed, 0)

    def make(self, path: str, *, dry_run: bool = False) -> Group:
        tried = super().make(path, dry_run=True)
        for end in range(len(path)):
            if path[end] == "/" or not end:
                self._enable_memory(self.find(path[:end]), dry_run=dry_run)
        return tried if dry_run else super().make(path)

    def attach(self, group: Group, pid: int, *, dry_run: bool = False) -> None:
        if group.id != self._hierarchy_root_id and self._has_enabled_memory(group):
            raise GroupBusy(
                f"{group.path!a} has groups inside, and cgroup v2 takes processes into the "
                "innermost ones alone.",
                group=group,
            )
        super().attach(group, pid, dry_run=dry_run)

    def watch(self, group: Group, triggers: Collection[Trigger]) -> Watch:
        """Implement Backend.watch.

        No v2 file signals usage, and memory.high, which would, is a limit of the group's owner.
        """
        return open_watch(self, group, triggers, functools.partial(v2_source, self))

    def close(self) -> None:
        super().close()
        for level in self._ancestor_trees:
            level.close()

    # -- the estimate of reclaimable bytes

    def _reclaimable(self, group: Group, lines: Mapping[str, int]) -> int:
        anon = lines["inactive_anon"] + lines["active_anon"]
        return max(file_of(lines) + min(anon, self._swap_left(group)) - self._protected(group), 0)

    def _swap_left(self, group: Group) -> int:
        """Return how much swap this group can use, by free swap and the limits of its line."""
        room = self.swap_room()
        if (
            not room
            or "swap_max_bytes" not in self.settable_limits
            or group.id == self._hierarchy_root_id
        ):
            return room
        for level in (group, *self._ancestors(group)):
            room = min(
                room, parse_limit_file(self.read(level, SWAP_MAX)) - int(self.read(level, SWAP))
            )
        return max(room, 0)

    def _protected(self, group: Group) -> int:
        """Return how many reclaimable bytes the memory.min of descendants protects.

        The group's own memory.min holds against others alone. A child's protection is an upper
        bound to that of its descendants, so one level suffices. memory.low is soft.
        """
        if os.fstat(self._incarnation(group).directory.number).st_nlink == 2:
            return 0
        until, protected = self._protected_children.get(group.id, (0.0, []))
        if time.monotonic() >= until:
            protected = [child for child in self.children(group) if self._minimum(child)]
            if len(self._protected_children) >= _MAX_PROTECTED_LISTS:
                self._protected_children.clear()
            self._protected_children[group.id] = (
                time.monotonic() + _PROTECTED_TTL_SECONDS,
                protected,
            )
        return sum(map(self._withheld_bytes, protected))

    def _withheld_bytes(self, group: Group) -> int:
        with ignoring_unreadable():
            above = max(self.usage(group) - self._minimum(group), 0)
            return max(file_of(self._lines.parse(self.read(group, STAT))) - above, 0)
        return 0

    def _minimum(self, group: Group) -> int:
        with ignoring_unreadable():
            return parse_limit_file(self.read(group, MIN))
        return 0

    # -- groups that have the controller

    def _check_is_group(self, path: str, directory: int) -> None:
        """Raise GroupNotFound for a directory that lacks the controller, and so has no usage."""
        if path and not os.access(USAGE, os.F_OK, dir_fd=directory):
            raise GroupNotFound(
                f"The group {path!a} has no memory controller: its parent has not enabled it."
            )

    def _listing_of(self, group: Group) -> Listing:
        inside = super()._listing_of(group)
        return inside if inside and self._has_enabled_memory(group) else Listing()

    def _has_enabled_memory(self, group: Group) -> bool:
        return b"memory" in self.read_once(group, SUBTREE).split()

    def _enable_memory(self, group: Group, *, dry_run: bool) -> None:
        if self._has_enabled_memory(group):
            return
        if group.id != self._hierarchy_root_id and self.read_once(group, "cgroup.procs"):
            raise GroupBusy(
                f"{group.path or '/'!a} has processes, and cgroup v2 has none beside groups with "
                "limits: move them into a group first.",
                group=group,
            )
        with self.opened(group, SUBTREE) as file:
            if not dry_run:
                os.write(file, b"+memory")

    # -- probes, none of which changes anything

    def _files_of_a_group(self) -> frozenset[str]:
        """Return the files that a group has here.

        They are those of the managed root, or of a child: a root that is the top has few.
        """
        if self._hierarchy_root_id is None:
            return self.control_files
        for child in self.children(self.find("")):
            with contextlib.suppress(OSError):
                return frozenset(file.name for file in Path(self.root, child.path).iterdir())
        kernel_has = {SWAP: "/proc/swaps", SWAP_MAX: "/proc/swaps", ZSWAP: "/sys/module/zswap"}
        return frozenset(name for name in GROUP_FILES if Path(kernel_has.get(name, "/")).exists())

    def _takes_swappiness(self) -> bool:
        """Return whether memory.reclaim accepts a swappiness, by a request for 0 bytes.

        Keys are parsed before anything is reclaimed. Before Linux 6.11 a key is EINVAL.
        """
        try:
            with self.opened(self.find(""), RECLAIM) as file:
                return os.write(file, b"0 swappiness=60") > 0
        except ShrinkdError:
            return False

    def _pressure(self, group: Group) -> Pressure | None:
        """Read the pressure of a group; None where it is switched off.

        The file depends on the group's cgroup.pressure, and is EOPNOTSUPP if the kernel was started
        without PSI.
        """
        with ignoring_unreadable():
            return parse_pressure(self.read(group, PRESSURE))
        return None


def _new_sizer(_: int) -> ReclaimSizer:
    return ReclaimSizer()


backend_class: type[Backend] = V2
