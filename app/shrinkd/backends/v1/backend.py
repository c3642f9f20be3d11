"""Implement the Backend protocol for cgroup v1, which refuses limits and has no memory.reclaim.

A reclaim pass is a write to memory.force_empty that a timer interrupts (cgroup/timed_write.py): no
limit changes for a shrink, and nothing is left behind if the daemon dies during it.

One limitation is the kernel's: a batch of nothing but dirty pages puts the writer to sleep for 100
ms, uninterruptible (shrink_inactive_list(), VMSCAN_THROTTLE_WRITEBACK: v1 has no other brake on
writers of dirty pages). A group full of dirty page cache is held that long; one with a few dirty
pages left is skipped.
"""

import functools
from collections.abc import Collection, Mapping
from typing import ClassVar

from shrinkd.backends.cgroup.activity import MirrorGroups, mirror_tree
from shrinkd.backends.cgroup.memory_stat import StatLines
from shrinkd.backends.cgroup.mounts import mount_points
from shrinkd.backends.cgroup.psi import parse_pressure
from shrinkd.backends.cgroup.timed_write import catch_signal, timed_write
from shrinkd.backends.cgroup.tree import CGROUP_SUPER_MAGIC, HIERARCHY_ROOT
from shrinkd.backends.cgroup.triggers import v1_source, v1_watchable
from shrinkd.backends.protocol import Backend, Intent, Watch, printable_path, unrecorded
from shrinkd.backends.readings import (
    LIMIT_NAMES,
    Activity,
    Counters,
    Events,
    Group,
    LimitName,
    Limits,
    MemStat,
    Pressure,
)
from shrinkd.backends.transaction import limit_steps, write_all
from shrinkd.backends.trigger_types import Trigger
from shrinkd.backends.v1.files import LIMIT, MEMSW_LIMIT, MEMSW_USAGE, SOFT_LIMIT, STAT, USAGE
from shrinkd.backends.v1.limit_order import plan_writes
from shrinkd.backends.v1.limits import LIMIT_FILES, V1Limits
from shrinkd.backends.v1.reclaim_pacer import ReclaimPacer
from shrinkd.backends.watch import open_watch
from shrinkd.errors import (
    BackendUnavailable,
    Unsupported,
    UnsupportedLimit,
    UnsupportedOption,
    ignoring_unreadable,
)
from shrinkd.settings import Settings
from shrinkd.sizes import PAGE_BYTES, UNLIMITED

_PEAK, _FAILURES, _OOM, _KERNEL = (
    "memory.max_usage_in_bytes",
    "memory.failcnt",
    "memory.oom_control",
    "memory.kmem.usage_in_bytes",
)
_SWAPPINESS, _FORCE_EMPTY, _PRESSURE = "memory.swappiness", "memory.force_empty", "memory.pressure"
_STAT_FILES = (USAGE, STAT, SOFT_LIMIT, _PEAK, _FAILURES, _OOM, _KERNEL)
_RAW_FILES = (*_STAT_FILES, LIMIT, MEMSW_LIMIT)
_PASS_SECONDS = 4e-3
"""The time that a pass writes: a cancel waits for it, and the work around a pass is small beside
it."""
_PATIENCE_SECONDS = 25e-3
"""The time after which a pass without progress ends: five such passes end a shrink, so each has to
be a fair attempt."""
_NEGLIGIBLE_BYTES = 1 << 20
"""File pages below this are not worth a sleep of 100 ms if some are dirty: about the lag of the LRU
counters."""
_NOTABLE_KERNEL_BYTES = 8 << 20

_LINES = (
    *(
        "total_cache",
        "total_rss",
        "total_shmem",
        "total_mapped_file",
        "total_dirty",
        "total_writeback",
        "total_swap",
    ),
    *(
        "total_inactive_anon",
        "total_active_anon",
        "total_inactive_file",
        "total_active_file",
        "total_unevictable",
    ),
    *(
        "total_pgfault",
        "total_pgmajfault",
        "total_workingset_refault_file",
        "total_workingset_refault_anon",
    ),
    *("hierarchical_memory_limit", "hierarchical_memsw_limit"),
)


class V1(V1Limits):
    """Access the v1 memory controller; pressure and activity come from mirror groups."""

    name: ClassVar[str] = "v1"
    is_simulated: ClassVar[bool] = False
    new_group_texts: ClassVar[Mapping[str, bytes]] = {
        USAGE: b"0",
        MEMSW_USAGE: b"0",
        **dict.fromkeys(LIMIT_FILES, b"%d" % UNLIMITED),
    }
    required_files: ClassVar[tuple[str, ...]] = (USAGE, STAT)
    settable_limits: frozenset[LimitName]
    has_swappiness = False
    has_pressure: bool
    watchable: frozenset[type[Trigger]]

    def __init__(self, settings: Settings) -> None:
        root = settings.cgroup_root or next(mount_points("cgroup", "memory"), None)
        if root is None:
            raise BackendUnavailable(
                "No cgroup v1 memory controller is mounted here; SHRINKD_BACKEND=simulator needs "
                "none."
            )
        super().__init__(root, CGROUP_SUPER_MAGIC)
        if USAGE not in self.control_files:
            sentence = (
                f"{printable_path(root)} is not in the v1 memory controller; "
                "SHRINKD_BACKEND=simulator needs none."
            )
            raise BackendUnavailable(sentence, root=printable_path(root))
        catch_signal()
        self._has_memsw = MEMSW_LIMIT in self.control_files
        self._stat_files, self._raw_files = (
            [name for name in names if name in self.control_files]
            for names in (_STAT_FILES, _RAW_FILES)
        )
        self._lines = StatLines(_LINES)
        self._pacers = functools.lru_cache(maxsize=4096)(_new_pacer)
        unified = mirror_tree(self, "cgroup2")
        self._mirror = unified if unified and _PRESSURE in unified.control_files else None
        self._activity_mirrors = MirrorGroups(self)
        self._longest_mount_path = max([root, *self._activity_mirrors.roots()], key=len)
        self.has_pressure = self._mirror is not None
        self.watchable = v1_watchable(self, self._mirror or self)
        accepted = {
            "max_bytes": True,
            "swap_max_bytes": self._has_memsw,
            "soft_limit_bytes": self._has_soft_limit(),
        }
        self.settable_limits = frozenset(name for name in LIMIT_NAMES if accepted.get(name))
        self._unsupported = tuple(name for name in LIMIT_NAMES if name not in self.settable_limits)

    def usage(self, group: Group) -> int:
        return int(self.read(group, USAGE))

    def stat(self, group: Group, *, raw: bool = False) -> MemStat:
        if not group.id:
            return MemStat(
                usage_bytes=0,
                limits=self._limits(group, self._held(group), self._ancestors_maximum(group)),
            )
        texts = self.read_all(group, self._raw_files if raw else self._stat_files)
        usage, lines = int(texts[USAGE]), self._lines.parse(texts[STAT])
        file, anon = (
            _sum(lines, "total_inactive_file", "total_active_file"),
            _sum(lines, "total_inactive_anon", "total_active_anon"),
        )
        return MemStat(
            usage_bytes=usage,
            limits=self._limits_from_stat(group, lines, int(texts.get(SOFT_LIMIT, UNLIMITED))),
            peak_bytes=int(texts[_PEAK]),
            working_set_bytes=max(usage - lines["total_inactive_file"], 0),
            reclaimable_estimate_bytes=file + self._swappable(group, anon),
            anon_bytes=lines.get("total_rss"),
            file_bytes=lines.get("total_cache"),
            shmem_bytes=lines.get("total_shmem"),
            kernel_bytes=int(texts[_KERNEL]) if _KERNEL in texts else None,
            mapped_bytes=lines.get("total_mapped_file"),
            dirty_bytes=lines.get("total_dirty"),
            writeback_bytes=lines.get("total_writeback"),
            active_anon_bytes=lines.get("total_active_anon"),
            inactive_anon_bytes=lines.get("total_inactive_anon"),
            active_file_bytes=lines.get("total_active_file"),
            inactive_file_bytes=lines.get("total_inactive_file"),
            unevictable_bytes=lines.get("total_unevictable"),
            swap_bytes=lines.get("total_swap"),
            counters=Counters(
                page_faults=lines.get("total_pgfault"),
                major_page_faults=lines.get("total_pgmajfault"),
                refaults_file=lines.get("total_workingset_refault_file"),
                refaults_anon=lines.get("total_workingset_refault_anon"),
            ),
            events=Events(oom_kill=_oom_kills(texts[_OOM]), limit_failures=int(texts[_FAILURES])),
            pressure=self._pressure(group),
            raw={name: text.decode() for name, text in texts.items()} if raw else {},
        )

    def activity(self, group: Group) -> Activity | None:
        """Implement Backend.activity; CPU time counts from a process's move into the mirror."""
        self.usage(group)  # raises GroupGone, which no mirror reports
        return self._activity_mirrors.activity(group)

    def set_limits(
        self,
        group: Group,
        changes: Mapping[LimitName, int | None],
        *,
        intent: Intent = unrecorded,
        dry_run: bool = False,
    ) -> Limits:
        """Implement Backend.set_limits.

        A kernel that refuses a limit has dropped page cache before, so usage is compared first.
        """
        if unsupported := [name for name in changes if name not in self.settable_limits]:
            raise UnsupportedLimit(
                f"cgroup v1 has no {unsupported[0]} here.", group=group, field=unsupported[0]
            )
        if group.id == HIERARCHY_ROOT:
            raise UnsupportedLimit("The root of the memory controller takes no limit.", group=group)
        self.refuse_own(group)
        with self.limits_lock(group):
            held = self._held(group)
            writes = plan_writes(group, held, changes)
            for name, value in writes:
                self._check_above_usage(group, name, value)
            if dry_run:
                self.check_writable(group, LIMIT)
                return self._limits(group, held | dict(writes), self._ancestors_maximum(group))
            steps = limit_steps(held, writes, self._named) if len(writes) > 1 else []
            write_all(held, writes, functools.partial(self._commit, group), intent(group, steps))
        return self.stat(group).limits

    def reclaim(self, group: Group, goal_bytes: int, swappiness: int | None = None) -> int:
        if swappiness is not None:
            raise UnsupportedOption(
                "cgroup v1 has no swappiness for one reclaim: set the group's memory.swappiness.",
                field="swappiness",
            )
        if group.id == HIERARCHY_ROOT:
            raise Unsupported(
                "The root of the memory controller cannot be shrunk; its groups can.", group=group
            )
        self.refuse_own(group)
        goal = self._attainable_goal(group, goal_bytes)
        if not goal:
            return 0
        pacer, freed, spent = self._pacers(group.id), 0, 0.0
        before = self.usage(group)
        with self.opened(group, _FORCE_EMPTY) as file:
            while freed < goal and spent < (_PASS_SECONDS if freed > 0 else _PATIENCE_SECONDS):
                quantum = pacer.quantum(goal - freed)
                ended = timed_write(file, b"0", quantum)
                freed, earlier = before - self.usage(group), freed
                if ended:
                    break
                pacer.learn(freed - earlier, quantum)
                spent += quantum
        return max(freed, 0)

    def watch(self, group: Group, triggers: Collection[Trigger]) -> Watch:
        """Implement Backend.watch; Stalled covers only processes that the mirror has as well."""
        return open_watch(
            self, group, triggers, functools.partial(v1_source, self, self._mirror or self)
        )

    def close(self) -> None:
        super().close()
        self._activity_mirrors.close()
        if self._mirror:
            self._mirror.close()

    # -- reclaim

    def _attainable_goal(self, group: Group, goal_bytes: int) -> int:
        """Return how much of a goal the LRU lists can give, so that no pass runs into their end.

        0 means that nothing is worth a write. At least one page is requested of a group with empty
        lists: dentries and the pages that CPUs precharged are on no list.
        """
        lines = self._lines.parse(self.read(group, STAT))
        file = _sum(lines, "total_inactive_file", "total_active_file")
        reach = file + self._swappable(
            group, _sum(lines, "total_inactive_anon", "total_active_anon")
        )
        if (
            0 < reach < _NEGLIGIBLE_BYTES
            and lines.get("total_dirty")
            and self._kernel(group) < _NOTABLE_KERNEL_BYTES
        ):
            return 0
        return min(goal_bytes, max(reach, PAGE_BYTES))

    def _kernel(self, group: Group) -> int:
        return int(self.read(group, _KERNEL)) if _KERNEL in self._stat_files else 0

    def _swappable(self, group: Group, anon: int) -> int:
        """Return how much anonymous memory fits into swap; memory.swappiness 0 forbids it."""
        room = self.swap_room()
        return min(anon, room) if room and int(self.read(group, _SWAPPINESS)) else 0

    # -- pressure

    def _pressure(self, group: Group) -> Pressure | None:
        if self._mirror is None or not self._mirror.has(group.path):
            return None
        with ignoring_unreadable():
            return parse_pressure(self._mirror.read(self._mirror.look_up(group.path), _PRESSURE))
        return None


def _new_pacer(_: int) -> ReclaimPacer:
    return ReclaimPacer()


def _oom_kills(text: bytes) -> int | None:
    _, found, kills = text.partition(b"\noom_kill ")
    return int(kills) if found else None


def _sum(lines: Mapping[str, int], *names: str) -> int:
    return sum(lines[name] for name in names)


backend_class: type[Backend] = V1
