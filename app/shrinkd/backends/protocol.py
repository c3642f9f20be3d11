"""The Backend protocol: the verbs, lookups and capabilities that every memory controller offers."""

import importlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import ClassVar, Protocol, Self

from shrinkd.backends.protection import OwnGroup
from shrinkd.backends.readings import Activity, Group, LimitName, Limits, MemStat, Node, Walk
from shrinkd.backends.trigger_types import Trigger
from shrinkd.errors import InvalidGroupName, ShrinkdError
from shrinkd.settings import Settings

BACKEND_NAMES = ("v1", "v2", "simulator")


Steps = Sequence[Mapping[LimitName, int | None]]
"""The values of the changing limits before the first write and after each write of one change."""
Intent = Callable[[Group, Steps], AbstractContextManager[Callable[[], None]]]
"""A journal of changes that the death of this process could leave half made. A context manager
around every change, from before its first write until after the last undo. `steps` is empty where
one write decides alone: the kernel accepts or refuses it. It yields a function that is called after
the last check: if that raises, the change is undone. Entering may raise too, with nothing
changed."""


@contextmanager
def unrecorded(_group: Group, _steps: Steps) -> Iterator[Callable[[], None]]:
    """Act as an Intent that records nothing."""
    yield lambda: None


class Watch(Protocol):
    """Combine all triggers of one group in one descriptor, for select, epoll or an event loop.

    Thread-safe.
    """

    def fileno(self) -> int:
        """Return the descriptor.

        It is readable from when a trigger fires until read(), and never while the group is quiet.
        """

    def read(self) -> frozenset[Trigger]:
        """Return the triggers that fired since the last read (possibly none), and rearm them.

        Never blocks. A trigger that fired several times is reported once. Raises GroupGone, from
        then on, after the group was removed; the descriptor then stays silent. Every read notices a
        removal, but not every kernel wakes for one: v1 does, v2 only for Stalled.
        """

    def close(self) -> None:
        """Close every descriptor. A closed watch reports nothing."""

    def __enter__(self) -> Self:
        """Return the watch."""

    def __exit__(self, *_: object) -> None:
        """Close the watch."""


class Backend(Protocol):
    """Access one memory controller: synchronous, and callable from any thread.

    Verbs (act on a group): usage, stat, set_limits, reclaim, make, remove, attach, watch.
    Lookups (change nothing): node, groups, last_walk, group_of, own_group, activity.
    Lifecycle: __init__ and close.

    Two calls for one group never corrupt each other. Differences between controllers are the
    capabilities below; no caller decides anything by the name. Every verb raises GroupNotFound (no
    such path), GroupGone (this incarnation was removed) or NotWritable where that can happen, and
    leaves the group unchanged when it raises. `dry_run` makes every check and changes nothing. A
    group from make(dry_run=True) has the id 0: usage, stat and set_limits(dry_run=True) treat it as
    newly made.
    """

    name: ClassVar[str]
    is_simulated: ClassVar[bool]
    """The groups hold no memory of this host, so no change can harm it."""
    settable_limits: frozenset[LimitName]
    """The limits that set_limits accepts here; the others are `unsupported` in every Limits."""
    has_swappiness: bool
    """reclaim() accepts a swappiness that overrides the group's."""
    has_pressure: bool
    """stat() reports the pressure of at least some groups."""
    watchable: frozenset[type[Trigger]]
    """The triggers that watch() accepts here; callers poll for the others."""

    def __init__(self, settings: Settings) -> None:
        """Find and probe the controller without changing it.

        BackendUnavailable says what is missing.
        """

    def node(self) -> Node:
        """Return the facts of this machine."""

    def own_group(self) -> OwnGroup:
        """Return the group that this daemon runs in.

        Cheap, and read anew, since the daemon may have been moved since the last call. Verbs that
        change a group check it themselves, and raise ProtectedGroup if the daemon is in that group
        or below it.
        """

    def groups(self, path: str = "", depth: int | None = None) -> list[Group]:
        """List the group at a path and its descendants to a depth (None: all), parents first.

        Groups that are removed during the walk are left out; GroupNotFound is only for the path
        itself. Groups that are unreadable by their nature are skipped with their descendants (see
        last_walk()); groups at the last requested level are listed by name and not opened. A
        shortage on this host (descriptors, memory) raises: a group missing from the result is never
        one that exists and is readable.
        """

    def last_walk(self) -> Walk:
        """Return how the last groups() of the whole tree ended. Costs no system call."""

    def group_of(self, pid: int) -> Group:
        """Return the group of a process, possibly the root; `pid` is in the daemon's pid namespace.

        GroupNotFound if it is in none of these groups, or has ended.
        """

    def usage(self, group: Group) -> int:
        """Read the bytes charged to a group: the hot verb, one read of one file."""

    def stat(self, group: Group, *, raw: bool = False) -> MemStat:
        """Take one reading of a group, limits included."""

    def activity(self, group: Group) -> Activity | None:
        """Read the CPU time of a group and whether it is frozen; None where that is not reported.

        v1's memory controller reports neither: the values come from mirror groups, the directories
        of the same path in the cgroup2 mount, in cpuacct and in the freezer, and a mirror that
        lacks a process of the group is ignored. Too slow for every sweep: 25 us on v2; on v1 200
        us, and more with descendants.
        """

    def set_limits(
        self,
        group: Group,
        changes: Mapping[LimitName, int | None],
        *,
        intent: Intent = unrecorded,
        dry_run: bool = False,
    ) -> Limits:
        """Write limits, all or none, in the order that the controller requires.

        Earlier writes are undone when a later one is refused. Values are whole pages, or None for a
        limit as if it was never set: no limit, or no protection. Returns the limits as read back,
        or as they would be after a dry run.

        Busy if usage is not below a new maximum, or grows above it: then at most the few pages of
        one race were reclaimed; its member `room_bytes` is how far below the maximum usage has to
        be, if more than one byte. LimitOrder if a limit contradicts one that was not named.
        """

    def reclaim(self, group: Group, goal_bytes: int, swappiness: int | None = None) -> int:
        """Make one reclaim pass: free about `goal_bytes`, rarely 2 MiB more, in about 50 ms.

        Returns by how many bytes usage fell (0 if it did not): since Linux 2.6.29 (81d39c20f5ee)
        usage is the only measure of progress. A pass that returns 0 was a fair attempt on
        everything reclaimable. No limit changes, and nothing is left behind if this process dies
        during the pass.
        """

    def make(self, path: str, *, dry_run: bool = False) -> Group:
        """Make a group below an existing one.

        GroupExists; GroupNotFound names the missing parent; ProtectedGroup in the daemon's own
        group; InvalidGroupName for a path too long for the kernel to open its control files.
        """

    def remove(self, group: Group, *, dry_run: bool = False) -> None:
        """Remove a group. GroupNotEmpty while it has processes or groups inside."""

    def attach(self, group: Group, pid: int, *, dry_run: bool = False) -> None:
        """Move a process into a group; `pid` is in the daemon's pid namespace.

        Memory charged before stays with the old group. ProcessNotFound, also for a process in none
        of these groups; GroupBusy; ProtectedGroup for the daemon itself, for processes in its own
        group, and for a move into that group or below it.
        """

    def watch(self, group: Group, triggers: Collection[Trigger]) -> Watch:
        """Open a watch that wakes its reader when a trigger fires, and never in between.

        A condition that holds already does not fire: read usage after opening the watch.
        Unsupported for a trigger that is not `watchable`, or not available in this group;
        UnsupportedOption for a window that this kernel refuses. Costs one descriptor and one for
        each trigger; on v1 11 ms for each UsageCrosses, and a kernel thread per group for Stalled.
        """

    def close(self) -> None:
        """Close every descriptor except those of open watches. The groups stay as they are."""


def load(name: str) -> type[Backend]:
    """Import a backend by the name of its module, which ends in `backend_class`."""
    backend_class: type[Backend] = importlib.import_module(f"shrinkd.backends.{name}").backend_class
    return backend_class


def printable_path(path: str) -> str:
    """Convert a host path to text that UTF-8 can encode, other bytes as backslash escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


def recent_walk(backend: Backend, seconds: float = 5.0) -> Walk:
    """Return the last walk of the whole tree, walking now if it is older than `seconds`."""
    if time.monotonic() - backend.last_walk().ended_at >= seconds:
        # the failure is recorded in the walk
        with suppress(ShrinkdError):
            backend.groups()
    return backend.last_walk()


def check_group_path(path: str) -> str:
    """Return a valid group path unchanged, or raise InvalidGroupName.

    Every path is checked here before any file is opened.
    """
    for component in path.split("/"):
        reason = _wrong_with(component)
        if reason:
            shown = path if len(path) <= 80 else path[:80] + "…"
            raise InvalidGroupName(f"{shown!a} names no group: {reason}.")
    return path


def _wrong_with(component: str) -> str | None:
    if component == "":
        return "a component is empty (a slash too many, or no name at all)"
    if component in {".", ".."}:
        return "the components . and .. are not allowed"
    # before each character is examined
    if len(component) > 255:
        return "a component is longer than 255 bytes"
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in component):
        return "a component has a control character"
    try:
        length = len(component.encode())
    except UnicodeEncodeError:
        return "a component is not valid Unicode"
    return "a component is longer than 255 bytes" if length > 255 else None
