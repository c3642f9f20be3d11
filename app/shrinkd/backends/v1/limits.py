"""Read, check and write the limits of a v1 group."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from shrinkd.backends.cgroup.control_files import mapping_oserrors
from shrinkd.backends.cgroup.memory_stat import StatLines
from shrinkd.backends.cgroup.timed_write import timed_write
from shrinkd.backends.cgroup.tree import CHARGED_AHEAD_BYTES, Tree
from shrinkd.backends.readings import Group, LimitName, Limits
from shrinkd.backends.refusal import busy
from shrinkd.backends.v1.files import LIMIT, MEMSW_LIMIT, MEMSW_USAGE, SOFT_LIMIT, STAT, USAGE
from shrinkd.errors import GroupBusy, GroupExists, ShrinkdError, ignoring_unreadable
from shrinkd.sizes import UNLIMITED, or_none

LIMIT_FILES = (LIMIT, MEMSW_LIMIT, SOFT_LIMIT)
_USED_UNDER = {LIMIT: USAGE, MEMSW_LIMIT: MEMSW_USAGE}
_COMMIT_SECONDS = (100e-6, 200e-6, 400e-6, 800e-6)
"""The time that a limit write may take at first, and after each -EINTR. One that finds nothing to
reclaim takes 5 us."""
_PROBE = "shrinkd-probe"
_PROBE_BYTES = 1 << 20


class V1Limits(Tree):
    """Add v1's limit files to a tree: values, effective limits and writes."""

    settable_limits: frozenset[LimitName]
    _lines: StatLines
    _unsupported: tuple[LimitName, ...]

    def _limits_from_stat(self, group: Group, lines: Mapping[str, int], soft: int) -> Limits:
        least = lines["hierarchical_memory_limit"]
        memsw = self._own_limit(
            group, MEMSW_LIMIT, lines.get("hierarchical_memsw_limit", UNLIMITED)
        )
        return self._limits(
            group,
            {LIMIT: self._own_limit(group, LIMIT, least), MEMSW_LIMIT: memsw, SOFT_LIMIT: soft},
            least,
        )

    def _limits(self, group: Group, values: Mapping[str, int], least: int) -> Limits:
        """Convert the values of limit files to Limits.

        `least` is the smallest maximum of the ancestors, with or without the group's own.
        """
        own = values[LIMIT]
        effective = min(own, least)
        return Limits(
            **self._named(values),
            effective_max_bytes=or_none(effective),
            limited_by=None
            if effective >= UNLIMITED
            else self._limit_holder(group, own, effective),
            unsupported=self._unsupported,
        )

    def _named(self, values: Mapping[str, int]) -> dict[LimitName, int | None]:
        memory, memsw = values[LIMIT], values.get(MEMSW_LIMIT, UNLIMITED)
        named: dict[LimitName, int | None] = {"max_bytes": or_none(memory)}
        if "swap_max_bytes" in self.settable_limits:
            named["swap_max_bytes"] = None if memsw >= UNLIMITED else memsw - memory
        if "soft_limit_bytes" in self.settable_limits:
            named["soft_limit_bytes"] = or_none(values[SOFT_LIMIT])
        return named

    def _held(self, group: Group) -> dict[str, int]:
        return {
            name: int(self.read(group, name)) for name in LIMIT_FILES if name in self.control_files
        }

    def _ancestors_maximum(self, group: Group) -> int:
        """Read the smallest maximum of the ancestors, from the parent directory if it has one."""
        with mapping_oserrors(group.path), ignoring_unreadable():
            above = Path(self.root).resolve().parent
            text = (
                self.read(self.look_up(group.path.rpartition("/")[0]), STAT)
                if group.path
                else (above / STAT).read_bytes()
            )
            return self._lines.parse(text)["hierarchical_memory_limit"]
        return UNLIMITED

    def _own_limit(self, group: Group, name: str, least: int) -> int:
        """Read a group's own limit, unless the smallest of its line shows that there is none."""
        return UNLIMITED if least >= UNLIMITED else int(self.read(group, name))

    def _limit_holder(self, group: Group, own: int, effective: int) -> str:
        """Find the nearest group, upwards, whose own limit is the effective one."""
        path = group.path
        while path and own != effective:
            path = path.rpartition("/")[0]
            own = int(self.read(self.look_up(path), LIMIT)) if path else own
        return path or "/"

    def _check_above_usage(self, group: Group, name: str, value: int) -> None:
        """Raise GroupBusy unless usage is strictly below the limit, as the seed compares.

        The kernel itself would accept a limit that equals usage.
        """
        if name not in _USED_UNDER:
            return
        usage = int(self.read(group, _USED_UNDER[name]))
        if usage >= value:
            raise busy(group, usage, value)

    def _commit(self, group: Group, name: str, value: int) -> None:
        """Write a limit above usage; interrupt the kernel after a few pages if usage has grown."""
        with self.opened(group, name) as file:
            for seconds in _COMMIT_SECONDS:
                if timed_write(file, b"%d" % value, seconds):
                    return
                self._check_above_usage(group, name, value)
        raise GroupBusy(
            f"{group.path!a} grows as fast as it is limited.",
            group=group,
            room_bytes=2 * CHARGED_AHEAD_BYTES,
        )

    def _has_soft_limit(self) -> bool:
        """Return whether this kernel stores soft limits, by trying it in a probe group.

        Newer kernels accept a soft limit and drop it. The probe's name is fixed, so a probe that a
        killed daemon left is reused by the next one.
        """
        if SOFT_LIMIT not in self.control_files:
            return False
        with self._root_locked():
            try:
                with contextlib.suppress(GroupExists):
                    self.make(_PROBE)
                scratch = self.find(_PROBE)
            except ShrinkdError:
                return True  # nothing can be written here, so the limit is never used
            try:
                self._commit(scratch, SOFT_LIMIT, _PROBE_BYTES)
                return int(self.read(scratch, SOFT_LIMIT)) == _PROBE_BYTES
            except ShrinkdError:
                return False  # PREEMPT_RT: EOPNOTSUPP
            finally:
                self.remove(scratch)

    @contextlib.contextmanager
    def _root_locked(self) -> Iterator[None]:
        """Hold a lock that excludes other daemons with this managed root."""
        root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(root, fcntl.LOCK_EX)
            yield
        finally:
            os.close(root)
