"""Read, check and write the limits of a v2 group."""

import functools
import os
from collections.abc import Iterator, Mapping

from shrinkd.backends.cgroup.memory_stat import StatLines
from shrinkd.backends.cgroup.timed_write import timed_write
from shrinkd.backends.cgroup.tree import CHARGED_AHEAD_BYTES, Tree
from shrinkd.backends.lower_max import Maximum
from shrinkd.backends.readings import LIMIT_NAMES, Group, LimitName, Limits
from shrinkd.backends.refusal import busy
from shrinkd.backends.v2.files import (
    LIMIT_FILES,
    MAX,
    RECLAIMING_LIMITS,
    STAT,
    USAGE,
    format_limit_file,
    named,
    parse_limit_file,
    usage_of_hierarchy_root,
)
from shrinkd.errors import GroupGone, GroupNotFound
from shrinkd.sizes import UNLIMITED, or_none

_COMMIT_SECONDS = 20e-6
"""The time that a write may reclaim if usage has grown, on kernels that reclaim. Finding nothing to
do takes 5 us."""
_AT_ONCE_BYTES = CHARGED_AHEAD_BYTES + (4 << 20)
"""The bytes that may be charged between a reading and a write: the CPUs' stocks and two huge
pages."""


class V2Limits(Tree):
    """Add v2's limit files to a tree: values, effective limits and writes."""

    _limit_files: dict[LimitName, str]
    _unsupported: tuple[LimitName, ...]
    _ancestor_trees: list[Tree]
    _hierarchy_root_id: int | None
    _lines: StatLines

    def usage(self, group: Group) -> int:
        if group.id == self._hierarchy_root_id:
            return usage_of_hierarchy_root(self._lines.parse(self.read(group, STAT)))
        return int(self.read(group, USAGE))

    def _held(self, group: Group) -> dict[LimitName, int]:
        return self._parsed(self.read_all(group, list(self._limit_files.values())))

    def _parsed(self, texts: Mapping[str, bytes]) -> dict[LimitName, int]:
        return {
            name: parse_limit_file(texts[file])
            for name, file in self._limit_files.items()
            if file in texts
        }

    def _limits(self, group: Group, own: Mapping[LimitName, int]) -> Limits:
        if group.id == self._hierarchy_root_id:
            return Limits(max_bytes=None, unsupported=LIMIT_NAMES)
        effective, holder = self._effective_max(group, own["max_bytes"])
        return Limits(
            **named(own),
            effective_max_bytes=or_none(effective),
            limited_by=None if effective >= UNLIMITED else holder,
            unsupported=self._unsupported,
        )

    def _effective_max(self, group: Group, own: int) -> tuple[int, str]:
        """Return the smallest maximum of a group's line, and the nearest group that has it.

        No file of the kernel reports it.
        """
        least, holder = own, group.path or "/"
        for ancestor in self._ancestors(group):
            if (limit := parse_limit_file(self.read(ancestor, MAX))) < least:
                least, holder = limit, ancestor.path or "/"
        for level in self._ancestor_trees:
            if (limit := parse_limit_file(level.read(level.find(""), MAX))) < least:
                least, holder = limit, "/"
        return least, holder

    def _ancestors(self, group: Group) -> Iterator[Group]:
        """Yield the ancestors of a group up to the managed root, except the hierarchy's root.

        That one has no limits.
        """
        path = group.path
        while path:
            path = path.rpartition("/")[0]
            try:
                ancestor = self.look_up(path)
            # Groups are removed from the inside out, so the group is gone as well.
            except GroupNotFound as error:
                raise GroupGone(f"The group {group.path!a} was removed.") from error
            if ancestor.id != self._hierarchy_root_id:
                yield ancestor

    def _check_above_usage(self, group: Group, name: LimitName, value: int) -> None:
        if name in RECLAIMING_LIMITS and (usage := self.usage(group)) >= value:
            raise busy(group, usage, value)

    def _commit(self, group: Group, name: LimitName, value: int) -> None:
        # Opened once: undoing a maximum must not fail for want of a descriptor.
        with self.opened(group, LIMIT_FILES[name]) as file:
            os.set_blocking(file, False)
            if name != "max_bytes":
                self._check_above_usage(group, name, value)
                _store(file, value)
                return
            maximum = Maximum(
                usage=functools.partial(self.usage, group),
                read=lambda: parse_limit_file(self.read(group, MAX)),
                store=functools.partial(_store, file),
                slack=_AT_ONCE_BYTES,
            )
            if refusal := maximum.commit(value):
                raise busy(group, refusal.usage, value, refusal.room)


def _store(file: int, limit: int) -> None:
    timed_write(file, format_limit_file(limit), _COMMIT_SECONDS)
