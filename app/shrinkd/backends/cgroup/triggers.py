"""Implement triggers with kernel events: event control (v1), memory.events (v2), PSI (both)."""

import errno
import os
import select
from typing import ClassVar

from shrinkd.backends.cgroup.psi import parse_pressure
from shrinkd.backends.cgroup.tree import Tree
from shrinkd.backends.readings import Group
from shrinkd.backends.trigger_types import EventsMove, Stalled, Trigger, UsageCrosses
from shrinkd.backends.watch import EventfdSource, Source
from shrinkd.errors import ShrinkdError, UnsupportedOption, map_oserror
from shrinkd.sizes import page_ceil

_EVENT_CONTROL, _EVENTS, _PRESSURE = "cgroup.event_control", "memory.events", "memory.pressure"
_USAGE, _OOM, _RECLAIM, _FAILURES = (
    "memory.usage_in_bytes",
    "memory.oom_control",
    "memory.pressure_level",
    "memory.failcnt",
)


class _V1Eventfd(EventfdSource):
    """Register an eventfd in the event control of a v1 group; closing it unregisters it."""

    def __init__(self, tree: Tree, group: Group) -> None:
        super().__init__()
        self._tree, self._group = tree, group

    def register(self, name: str, argument: bytes) -> None:
        """Let the kernel signal events of a control file; the file itself may be closed again."""
        file = self._tree.open(self._group, name, os.O_RDONLY)
        try:
            with self._tree.opened(self._group, _EVENT_CONTROL) as control:
                os.write(control, b"%d %d %b" % (self.fileno(), file, argument))
        finally:
            os.close(file)


class _V1Usage(_V1Eventfd):
    def __init__(self, tree: Tree, group: Group, trigger: UsageCrosses) -> None:
        super().__init__(tree, group)
        self._usage_bytes = trigger.usage_bytes

    def arm(self) -> None:
        # The kernel rounds the value down to pages: usage on the last page below it would not fire.
        self.register(_USAGE, b"%d" % page_ceil(self._usage_bytes))


class _V1Events(_V1Eventfd):
    """Wake for events through reclaim in this group or an OOM, since memory.failcnt has no event.

    Both also fire for other reasons (reclaim by this daemon, an OOM in an ancestor), so it fires
    only if a counter changed.
    """

    def arm(self) -> None:
        self._seen = self._counters()
        self.register(_RECLAIM, b"low,local")
        self.register(_OOM, b"")

    def has_fired(self) -> bool:
        if not super().has_fired():
            return False
        before, self._seen = self._seen, self._counters()
        return before != self._seen

    def _counters(self) -> tuple[bytes, bytes]:
        """Read the counts of failed charges and kills; oom_control also has a state."""
        return self._tree.read(self._group, _FAILURES), self._tree.read(
            self._group, _OOM
        ).partition(b"oom_kill ")[2]


class _File:
    """Poll a control file.

    It is always readable, so the epoll waits for EPOLLPRI, which the next read clears.
    """

    mask: ClassVar[int] = select.EPOLLPRI

    def __init__(self, tree: Tree, group: Group, name: str, flags: int) -> None:
        self._path = group.path
        self._file = tree.open(group, name, flags)

    def fileno(self) -> int:
        return self._file

    def text(self) -> bytes:
        try:
            return os.pread(self._file, 4096, 0)
        except OSError as error:
            raise map_oserror(error, self._path) from error

    def close(self) -> None:
        os.close(self._file)


class _V2Events(_File):
    def arm(self) -> None:
        self._seen = self.text()

    def has_fired(self) -> bool:
        before, self._seen = self._seen, self.text()
        return before != self._seen


class _Pressure(_File):
    """Register a PSI trigger (Documentation/accounting/psi.rst), and report it by the stall total.

    A poll consumes the event of the trigger. The total may also report a stall that took longer
    than the window, if the read had another reason; it never misses one.
    """

    def __init__(self, tree: Tree, group: Group, trigger: Stalled) -> None:
        super().__init__(tree, group, _PRESSURE, os.O_RDWR | os.O_NONBLOCK)
        self._trigger = trigger

    def arm(self) -> None:
        self._reported_total = self._total()
        line, stall, window = (
            self._trigger.line,
            self._trigger.stall_microseconds,
            self._trigger.window_microseconds,
        )
        try:
            os.write(self._file, f"{line} {stall} {window}".encode())
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise UnsupportedOption(
                f"This kernel takes no window of {window} us: without CAP_SYS_RESOURCE only "
                "multiples of 2 s, before 6.12 none below 0.5.",
                field="window_microseconds",
            ) from error

    def has_fired(self) -> bool:
        total = self._total()
        if total - self._reported_total < self._trigger.stall_microseconds:
            return False
        self._reported_total = total
        return True

    def _total(self) -> int:
        pressure = parse_pressure(self.text())
        return (pressure.some if self._trigger.line == "some" else pressure.full).total_microseconds


def v1_watchable(groups: Tree, pressure_tree: Tree) -> frozenset[type[Trigger]]:
    """Return the trigger types that v1 supports.

    `pressure_tree` is the tree whose memory.pressure is read: the mirrors, where there are any.
    """
    by_control: frozenset[type[Trigger]] = frozenset(
        {UsageCrosses, EventsMove} if _supports(groups, _EVENT_CONTROL) else ()
    )
    return by_control | _by_pressure(pressure_tree)


def v1_source(groups: Tree, pressure_tree: Tree, group: Group, trigger: Trigger) -> Source:
    match trigger:
        case UsageCrosses():
            return _V1Usage(groups, group, trigger)
        case EventsMove():
            return _V1Events(groups, group)
        case Stalled():
            return _Pressure(pressure_tree, pressure_tree.look_up(group.path), trigger)


def v2_watchable(groups: Tree) -> frozenset[type[Trigger]]:
    return _by_pressure(groups) | {EventsMove}


def v2_source(groups: Tree, group: Group, trigger: Trigger) -> Source:
    return (
        _Pressure(groups, group, trigger)
        if isinstance(trigger, Stalled)
        else _V2Events(groups, group, _EVENTS, os.O_RDONLY)
    )


def _by_pressure(pressure_tree: Tree) -> frozenset[type[Trigger]]:
    return frozenset({Stalled} if _supports(pressure_tree, _PRESSURE) else ())


def _supports(tree: Tree, name: str) -> bool:
    """Return whether a control file supports triggers, by writing an invalid one.

    EINVAL, which changes nothing, is the answer of a file that would accept a valid one.
    """
    try:
        with tree.opened(tree.find(""), name) as file:
            return os.write(file, b"?") < 0
    except ShrinkdError as refused:
        return refused.errname == "EINVAL"
