"""Where the memory controller is.

The Backend protocol, the one vocabulary of its answers, and how a backend is found.
"""

import importlib
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, Self, get_args

from shrinkd.backends.protection import OwnGroup
from shrinkd.errors import InvalidGroupName, InvalidRequest, ShrinkdError
from shrinkd.settings import Settings
from shrinkd.sizes import UNLIMITED, or_none, page_floor, protection_to_json

LimitName = Literal[
    "max_bytes", "high_bytes", "low_bytes", "min_bytes", "swap_max_bytes", "soft_limit_bytes"
]
LIMIT_NAMES: tuple[LimitName, ...] = get_args(LimitName)
PROTECTIONS: frozenset[LimitName] = frozenset({"low_bytes", "min_bytes"})
"""The limits that say what reclaim leaves a group, not what the group may use: one that was never
set is 0, not infinite."""
BACKEND_NAMES = ("v1", "v2", "simulator")

# What a reading is made of is not frozen: that would be a tenth of its cost, a thousand times a
# sweep.


@dataclass(frozen=True, slots=True)
class Group:
    """One incarnation of a control group.

    `path` is below the managed root, without a leading slash ("" is the root itself); `id` is the
    inode of its directory, which no later group of the same path shares. Every verb acts on this
    incarnation or raises GroupGone.
    """

    path: str
    id: int


@dataclass(slots=True)
class Limits:
    """The limits of a group in bytes as the kernel holds them.

    None is no limit, or a limit in `unsupported`.

    A protection (low_bytes, min_bytes) that this kernel has is never None: it is 0 where it was
    never set, UNLIMITED where it is infinite.
    """

    max_bytes: int | None
    high_bytes: int | None = None
    low_bytes: int | None = None
    min_bytes: int | None = None
    swap_max_bytes: int | None = None
    soft_limit_bytes: int | None = None
    effective_max_bytes: int | None = None
    """The least max_bytes of the group and its ancestors, those above the managed root included."""
    limited_by: str | None = None
    """The path of the group that holds the effective limit; "/" is the managed root or above."""
    unsupported: tuple[LimitName, ...] = ()


@dataclass(slots=True)
class Counters:
    """Events since the group was made, each a plain count; None where the kernel does not tell."""

    page_faults: int | None = None
    major_page_faults: int | None = None
    pages_scanned: int | None = None
    pages_reclaimed: int | None = None
    refaults_file: int | None = None
    refaults_anon: int | None = None


@dataclass(slots=True)
class Events:
    """How often a limit was felt. v2: memory.events; `limit_failures` is v1's memory.failcnt.

    Two things v1 does not tell: failures of a maximum that memory and swap together have as well
    (that sum is charged first, and memory.memsw.failcnt of Linux 6.18 stays 0), and kills in the
    groups inside.
    """

    low: int | None = None
    high: int | None = None
    max: int | None = None
    oom: int | None = None
    oom_kill: int | None = None
    limit_failures: int | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """One line of memory.pressure: averages in percent of wall time, the total in microseconds."""

    avg10_percent: float
    avg60_percent: float
    avg300_percent: float
    total_microseconds: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """PSI.

    `some` is the time in which at least one task stalled for memory, `full` in which all did.
    """

    some: Stall
    full: Stall


@dataclass(slots=True)
class MemStat:
    """One reading of a group, hierarchical (its descendants are in it), in bytes.

    None where the kernel does not tell.
    """

    usage_bytes: int
    limits: Limits
    peak_bytes: int | None = None
    working_set_bytes: int | None = None
    """Usage less the inactive file cache: what the kubelet evicts by."""
    reclaimable_estimate_bytes: int | None = None
    """What reclaim could free at best: file LRU, reclaimable slab, and anonymous memory for which
    swap has room.

    An estimate: dirty pages are slow, mapped or hot ones are reluctant, and the LRU counters lag by
    batches."""
    anon_bytes: int | None = None
    file_bytes: int | None = None
    shmem_bytes: int | None = None
    kernel_bytes: int | None = None
    mapped_bytes: int | None = None
    dirty_bytes: int | None = None
    writeback_bytes: int | None = None
    active_anon_bytes: int | None = None
    inactive_anon_bytes: int | None = None
    active_file_bytes: int | None = None
    inactive_file_bytes: int | None = None
    unevictable_bytes: int | None = None
    slab_reclaimable_bytes: int | None = None
    swap_bytes: int | None = None
    zswap_bytes: int | None = None
    counters: Counters = field(default_factory=Counters)
    events: Events = field(default_factory=Events)
    pressure: Pressure | None = None
    raw: Mapping[str, str] = field(default_factory=dict)
    """Control file to its text, as it was read; only when asked for."""


@dataclass(frozen=True, slots=True)
class Node:
    """The machine under the groups: facts probed once at start, and what is free now (bytes)."""

    kernel: str
    cgroup_version: int
    boot_id: str
    """Group ids mean nothing beyond one boot (of the simulator: one start)."""
    root: str
    page_size_bytes: int
    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    pressure: Pressure | None = None
    """That of the whole machine; None where its kernel tells none."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How the last walk of the whole tree ended.

    One that failed says nothing about any group, and leaves `unreadable` as it was.
    """

    ended_at: float = -math.inf
    """By time.monotonic(); before all time where there was none."""
    unreadable: Mapping[str, int] = field(default_factory=dict)
    """How many entries it left out since they cannot be read, by the symbol of the errno that says
    why. What is in them is not counted."""
    named: tuple[tuple[str, str], ...] = ()
    """The first few of them: path and symbol. A name that is no Unicode has backslashes in it."""
    failure: str | None = None
    """Why it did not come to its end, as a sentence; None where it did."""
    failing_since: float | None = None
    """When the first of the walks ended that have failed without a break."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What a group does beside using memory, its descendants included."""

    cpu_seconds: float
    """CPU time that it has used since it was made, or since it is counted: only a difference says
    something, and one below 0 nothing."""
    is_frozen: bool = False
    """The freezer holds all of it still."""


Steps = Sequence[Mapping[LimitName, int | None]]
"""The values that limits pass through in one change, from those held to those wanted, one write
between any two."""
Intent = Callable[[Group, Steps], AbstractContextManager[Callable[[], None]]]
"""Who remembers a change that the death of this process could leave half made.

A context around every change, from before its first write until behind the last undo. `steps` is
empty where the writes decide by themselves: one that the kernel takes or refuses. What it yields is
called behind the last check: when that raises, the change is not to stand and is undone. Entering
may raise too, with nothing changed."""


@contextmanager
def unrecorded(_group: Group, _steps: Steps) -> Iterator[Callable[[], None]]:
    """The Intent of those who need none."""
    yield lambda: None


@dataclass(frozen=True, slots=True)
class UsageCrosses:
    """Usage rose to a value, or fell below it.

    Told late: usage may be about 1 MiB beyond (v1 looks every 128 pages a CPU).
    """

    usage_bytes: int


@dataclass(frozen=True, slots=True)
class EventsMove:
    """A counter of MemStat.events moved.

    v1 wakes for an OOM, before its kill is counted, and for the group's own reclaim, in steps of 2
    MiB scanned; a charge that failed with less reclaim than that is told with the next one.
    """


@dataclass(frozen=True, slots=True)
class Stalled:
    """Tasks of the group stalled for memory for so long within a window of at most 10 s.

    `some` of them, or all (`full`).
    """

    line: Literal["some", "full"]
    stall_microseconds: int
    window_microseconds: int

    def __post_init__(self) -> None:
        if (
            not 0 < self.stall_microseconds <= self.window_microseconds <= 10_000_000
        ):  # WINDOW_MAX_US, kernel/sched/psi.c
            raise InvalidRequest(
                "A stall is longer than nothing and no longer than its window, which is at most 10 "
                "s."
            )


Trigger = UsageCrosses | EventsMove | Stalled


class Watch(Protocol):
    """One descriptor for all the triggers of one group, for select, epoll or a loop's add_reader.

    Safe between threads.
    """

    def fileno(self) -> int:
        """Answer the descriptor.

        Readable from when a trigger fires until read(), and never while the group is quiet.
        """

    def read(self) -> frozenset[Trigger]:
        """Tell what fired since the last read, which may be nothing after all, and wait for the
        next.

        Never blocks.

        A trigger that fired often is told once, so who reads late reads less. GroupGone, from then
        on, when the group was removed: the descriptor falls silent with it. Every read sees a
        removal, but not every kernel wakes for one: v1's does, v2's for Stalled alone.
        """

    def close(self) -> None:
        """Give back every descriptor. A closed watch tells nothing."""

    def __enter__(self) -> Self:
        """Answer the watch."""

    def __exit__(self, *_: object) -> None:
        """Close it."""


class Backend(Protocol):
    """A memory controller.

    Synchronous, and callable from any thread; two calls for one group never corrupt each other.

    What differs between controllers is a capability below; nobody asks a backend for its name to
    decide something. Every verb raises GroupNotFound (no such path), GroupGone (this incarnation
    was removed) or NotWritable where that can happen, and leaves the group as it was when it
    raises. `dry_run` makes every check and changes nothing. A group that was only tried has the id
    0: to usage, stat and a trial of set_limits it is one that was just made.
    """

    name: ClassVar[str]
    is_simulated: ClassVar[bool]
    """No memory of this host is behind it, so nothing of this host can come to harm."""
    settable_limits: frozenset[LimitName]
    """The limits that set_limits takes here; the others are `unsupported` in every Limits."""
    has_swappiness: bool
    """reclaim() takes a swappiness of its own instead of the group's."""
    has_pressure: bool
    """stat() can tell the pressure of a group, at least of some."""
    watchable: frozenset[type[Trigger]]
    """The triggers that watch() takes here; for the others a caller polls."""

    def __init__(self, settings: Settings) -> None:
        """Find and probe the controller without changing it.

        BackendUnavailable says what is missing.
        """

    def node(self) -> Node:
        """Tell the facts of this machine."""

    def own_group(self) -> OwnGroup:
        """Find the group that this daemon is in.

        Cheap, and true now, for it may have been moved since the last call.

        A verb that changes a group asks by itself, and raises ProtectedGroup where the daemon is in
        that group or below.
        """

    def groups(self, path: str = "", depth: int | None = None) -> list[Group]:
        """List the group at a path, then its descendants to a depth (None.

        All of them), parents before children.

        Groups that go while the tree is walked are left out; GroupNotFound is for the path itself.
        Those that cannot be read, for what they are, are left out with all that is in them (see
        walked()); the last level that was asked for is looked at by its names alone. What fails
        since this host is short of something raises: a group that is missing here is never one that
        is there.
        """

    def last_walk(self) -> Walk:
        """Tell how the last groups() of the whole tree ended. Costs nothing."""

    def group_of(self, pid: int) -> Group:
        """Find the group that a process is in, which may be the root, by its number in the daemon's
        pid namespace.

        GroupNotFound when it is in none of these, or has ended.
        """

    def usage(self, group: Group) -> int:
        """Read the bytes charged to a group: the hot verb, one read of one file."""

    def stat(self, group: Group, *, raw: bool = False) -> MemStat:
        """Take one reading of a group, limits included."""

    def activity(self, group: Group) -> Activity | None:
        """Read how much CPU time a group has used, and whether it is frozen.

        None where this kernel does not tell it of this group. v1's memory controller tells neither:
        that is up to the group's twins, the directories of its path in the cgroup2 mount, in
        cpuacct and in the freezer, and one that lacks a process of it tells nothing. Not for every
        sweep: 25 us on v2; on v1 200 us, and more with the groups inside.
        """

    def set_limits(
        self,
        group: Group,
        changes: Mapping[LimitName, int | None],
        *,
        intent: Intent = unrecorded,
        dry_run: bool = False,
    ) -> Limits:
        """Write limits, all or none.

        In the order that the controller wants, put back when a later one is refused.

        Values are whole pages, or None for a limit as if it was never set: no limit, and no
        protection. Answers the limits as read back, or as a trial would leave them. Busy when usage
        is not below a new maximum, or grows above it: then at most the few pages of one race were
        reclaimed; its member `room_bytes` is how far below the maximum usage would have to be,
        where being below it is not enough. LimitOrder when a limit contradicts one that was not
        named.
        """

    def reclaim(self, group: Group, goal_bytes: int, swappiness: int | None = None) -> int:
        """Make one pass.

        Free about `goal_bytes`, rarely more than 2 MiB beyond, in at most about 50 ms.

        Answers by how many bytes usage fell (0 when it did not): what usage says is the only
        progress there is, since Linux 2.6.29 (81d39c20f5ee). A pass that answers 0 was a fair
        attempt on everything reclaimable. No limit moves, and nothing is left behind when this
        process dies in it.
        """

    def make(self, path: str, *, dry_run: bool = False) -> Group:
        """Make a group below an existing one.

        GroupExists; GroupNotFound names the missing parent; ProtectedGroup in the daemon's own.

        InvalidGroupName for a path that is too long for the kernel to open its control files.
        """

    def remove(self, group: Group, *, dry_run: bool = False) -> None:
        """Remove a group. GroupNotEmpty while it has processes or groups inside."""

    def attach(self, group: Group, pid: int, *, dry_run: bool = False) -> None:
        """Move a process in, by its number in the daemon's pid namespace.

        Memory charged before stays with its old group.

        ProcessNotFound, also for one that is in none of these groups; GroupBusy; ProtectedGroup for
        the daemon and for what is in its own group, or is to be moved there or inside of it.
        """

    def watch(self, group: Group, triggers: Collection[Trigger]) -> Watch:
        """Wake a caller when something happens to a group, without one wake-up while nothing does.

        What is so already fires nothing: read usage when the watch is there. Unsupported for a
        trigger that is not `watchable`, or not in this group; UnsupportedOption for a window that
        this kernel does not take. Costs a descriptor and one for each trigger; on v1 11 ms for each
        UsageCrosses, and for Stalled a thread of the kernel a group.
        """

    def close(self) -> None:
        """Give back every descriptor, but those of watches that are still open.

        The groups stay as they are.
        """


def to_kernel(name: LimitName, value: int | None) -> int:
    """A limit of ours as the kernel's number of bytes: None is what a new group has."""
    if value is None:
        return 0 if name in PROTECTIONS else UNLIMITED
    return min(value, UNLIMITED)


def from_kernel(name: LimitName, number: int) -> int | None:
    """The inverse of to_kernel(), in bytes.

    None where a limit is none. A protection stays a number.
    """
    return number if name in PROTECTIONS else or_none(number)


def in_pages(name: LimitName, value: int | None) -> int | None:
    """A limit as the kernel will have it.

    In whole pages, and None where that is its word for no limit.
    """
    return from_kernel(name, to_kernel(name, None if value is None else page_floor(value)))


def is_unset(name: LimitName, value: int | None) -> bool:
    """Whether a limit is as if it was never set."""
    return to_kernel(name, value) == to_kernel(name, None)


def limit_to_json(name: LimitName, value: int | None) -> int | Literal["max"] | None:
    """A limit as an answer or an event has it."""
    return protection_to_json(value) if name in PROTECTIONS else value


def limits_to_json(
    limits: Limits, names: Iterable[LimitName]
) -> dict[LimitName, int | Literal["max"] | None]:
    """Some of a group's limits, as told_limit() has each."""
    return {name: limit_to_json(name, getattr(limits, name)) for name in names}


def load(name: str) -> type[Backend]:
    """Find a backend by the name of its module, which ends in `backend_class`."""
    backend_class: type[Backend] = importlib.import_module(f"shrinkd.backends.{name}").backend_class
    return backend_class


def shown(path: str) -> str:
    """Answer a path of this host as text that UTF-8 can encode.

    Each byte that is no part of a character as an escape sequence.
    """
    return os.fsencode(path).decode(errors="backslashreplace")


def recent_walk(backend: Backend, seconds: float = 5.0) -> Walk:
    """Tell how the tree is walked through.

    By the last walk that anybody made, or by one made for this where that is too long ago.
    """
    if time.monotonic() - backend.last_walk().ended_at >= seconds:
        with suppress(ShrinkdError):  # which the walk tells
            backend.groups()
    return backend.last_walk()


def check_group_path(path: str) -> str:
    """Answer a path as it stands, or raise InvalidGroupName.

    Checked in this one place before any file is opened.
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
    if len(component) > 255:  # before every character of it is looked at
        return "a component is longer than 255 bytes"
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in component):
        return "a component has a control character"
    try:
        length = len(component.encode())
    except UnicodeEncodeError:
        return "a component is not valid Unicode"
    return "a component is longer than 255 bytes" if length > 255 else None
