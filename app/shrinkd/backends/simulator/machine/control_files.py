"""Simulate writes to control files, by each kernel's algorithm and with its errnos.

write() is what echo does: text in, OSError out. The state machines of the tests compare this, and
nothing above it, with real kernels.
"""

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from shrinkd.backends.simulator.machine.accounting import UNLIMITED, Cgroup
from shrinkd.backends.simulator.machine.kernel_profiles import Profile
from shrinkd.backends.simulator.machine.machine import Machine
from shrinkd.backends.simulator.machine.reclaim import SWAPPINESS_MAX
from shrinkd.sizes import PAGE_BYTES

MEM_CGROUP_RECLAIM_RETRIES = 5  # mm/memcontrol.c, 2.6.26-rc8-mm1
MAX_RECLAIM_RETRIES = 16  # mm/internal.h
CALL_US = 5.0  # the time of a reclaim call that finds nothing
_NUMBER = re.compile(r"\s*(?:0[xX]([0-9a-fA-F]+)|0([0-7]*)|([1-9][0-9]*))")
_SUFFIXES = "KMGTPE"


def never(_spent_us: float) -> bool:
    """Report no pending signal."""
    return False


@dataclass(frozen=True, slots=True)
class Writer:
    """Describe a writer: whether a signal is pending after so many microseconds, and O_NONBLOCK."""

    pending: Callable[[float], bool] = never
    nonblock: bool = False


def write(
    machine: Machine, cgroup: Cgroup, name: str, text: str, writer: Writer | None = None
) -> None:
    """Write a control file by the rules of the machine's profile.

    ENOENT if that kernel has no such file.
    """
    rule = _FILES[machine.profile.name].get(name)
    if rule is None:
        raise _error(errno.ENOENT)
    # the kernel ignores an empty write
    if text:
        rule(_Write(machine, cgroup, writer or Writer()), text)


class _Write:
    """Hold the state of one write: its writer, and the time that it has taken."""

    def __init__(self, machine: Machine, cgroup: Cgroup, writer: Writer) -> None:
        self.machine, self.cgroup, self._writer = machine, cgroup, writer
        self.profile = machine.profile
        self.spent_us = 0.0

    def signalled(self) -> bool:
        return self._writer.pending(self.spent_us)

    def returns_at_once(self) -> bool:
        """Return whether O_NONBLOCK was given to a kernel that honours it here."""
        return self._writer.nonblock and not self.profile.reclaims_on_nonblock

    def reclaim(self, pages: int, *, swappiness: int | None = None, may_swap: bool = True) -> int:
        freed, spent_us = self.machine.reclaim(
            self.cgroup, pages, swappiness=swappiness, may_swap=may_swap
        )
        self.spent_us += CALL_US + spent_us
        return freed


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


# -- sizes


def memparse(text: str, profile: Profile) -> tuple[int, str]:
    """Parse a number as lib/cmdline.c does: bytes, also octal and hex, and the rest of the text.

    An empty text is 0.
    """
    match = _NUMBER.match(text)
    if match is None:
        number, rest = 0, text.lstrip()
    else:
        number = (
            int(match[1], 16)
            if match[1]
            else int(match[2] or "0", 8)
            if match[3] is None
            else int(match[3])
        )
        rest = text[match.end() :]
    if rest and rest[0].upper() in _SUFFIXES and (match or not profile.saturates):
        number <<= 10 * (_SUFFIXES.index(rest[0].upper()) + 1)
        rest = rest[1:]
    return (min(number, 2**64 - 1) if profile.saturates else number % 2**64), rest


def pages_of(text: str, profile: Profile, unlimited: str | None = None) -> int:
    """Parse a limit in pages as page_counter_memparse(), or the resource counter before 3.19.

    EINVAL for an invalid one.
    """
    text = text.strip()
    if text == unlimited:
        return UNLIMITED
    size, rest = memparse(text, profile)
    if rest:
        raise _error(errno.EINVAL)
    return min(
        (size + PAGE_BYTES - 1) // PAGE_BYTES if profile.rounds_up else size // PAGE_BYTES,
        UNLIMITED,
    )


# -- the seed: the mails of July 2008


def _check_under(cgroup: Cgroup, val: int) -> bool:
    return cgroup.usage < val


def _shrink_usage_to(write: _Write, val: int) -> None:
    """Shrink usage as patch 3/4 does: success first, then -EINTR, then -EBUSY after five tries.

    A try is fruitless if the LRU gave no page.
    """
    retry = MEM_CGROUP_RECLAIM_RETRIES
    while not _check_under(write.cgroup, val):
        if write.signalled():
            raise _error(errno.EINTR)
        if not retry:
            raise _error(errno.EBUSY)
        if not write.reclaim(1):
            retry -= 1


def _seed_shrink(write: _Write, text: str) -> None:
    _shrink_usage_to(write, pages_of(text, write.profile))


def _seed_limit(write: _Write, text: str) -> None:
    val = pages_of(text, write.profile)
    while True:
        _shrink_usage_to(write, val)
        # res_counter_set_limit(): compared and set under one lock
        if _check_under(write.cgroup, val):
            write.cgroup.max = val
            return


# -- v1: mem_cgroup_resize_max()


def _v1_limit(write: _Write, text: str, *, memsw: bool = False) -> None:
    """Reclaim until usage fits, and set; the first call that frees nothing is -EBUSY."""
    cgroup = write.cgroup
    val = pages_of(text, write.profile, "-1")
    if cgroup.parent is None:
        raise _error(errno.EINVAL)
    drained = False
    while True:
        if write.signalled():
            raise _error(errno.EINTR)
        if val < cgroup.max if memsw else val > cgroup.memsw:
            raise _error(errno.EINVAL)
        if cgroup.usage + (cgroup.swap if memsw else 0) <= val:
            break
        if not drained:
            write.machine.drain_stocks(cgroup)
            drained = True
        elif not write.reclaim(1, may_swap=not memsw):
            raise _error(errno.EBUSY)
    if memsw:
        cgroup.memsw = val
    else:
        cgroup.max = val


def _v1_memsw(write: _Write, text: str) -> None:
    _v1_limit(write, text, memsw=True)


def _v1_soft(write: _Write, text: str) -> None:
    write.cgroup.soft = pages_of(text, write.profile, "-1")


def _v1_force_empty(write: _Write, _text: str) -> None:
    """Reclaim until nothing is left or 16 calls were fruitless, which is no error."""
    if write.cgroup.parent is None:
        raise _error(errno.EINVAL)
    write.machine.drain_stocks(write.cgroup)
    retries = MAX_RECLAIM_RETRIES
    while retries and write.cgroup.usage:
        if write.signalled():
            raise _error(errno.EINTR)
        retries -= not write.reclaim(1)


# -- v2


def _v2_max(write: _Write, text: str) -> None:
    """Set the maximum as memory_max_write() does: store it, reclaim, then kill until it is met.

    Killing begins after 16 fruitless calls of reclaim.
    """
    cgroup, machine = write.cgroup, write.machine
    cgroup.max = val = pages_of(text, write.profile, "max")
    if write.returns_at_once():
        return
    retries, drained = MAX_RECLAIM_RETRIES, False
    while cgroup.usage > val and not write.signalled():
        if not drained:
            machine.drain_stocks(cgroup)
            drained = True
        elif retries:
            retries -= not write.reclaim(cgroup.usage - val)
        elif not machine.oom_kill(cgroup):
            return


def _v2_high(write: _Write, text: str) -> None:
    """Set the high limit as memory_high_write() does: store it and reclaim, without killing."""
    cgroup = write.cgroup
    cgroup.high = val = pages_of(text, write.profile, "max")
    if write.returns_at_once():
        return
    write.machine.drain_stocks(cgroup)
    retries = MAX_RECLAIM_RETRIES
    while cgroup.usage > val and retries and not write.signalled():
        retries -= not write.reclaim(cgroup.usage - val)


def _v2_store(name: str) -> Callable[[_Write, str], None]:
    def store(write: _Write, text: str) -> None:
        setattr(write.cgroup, name, pages_of(text, write.profile, "max"))

    return store


def _v2_reclaim(write: _Write, text: str) -> None:
    """Reclaim as user_proactive_reclaim() does, a quarter of the rest per call.

    -EAGAIN after 17 fruitless calls, whatever was freed before.
    """
    size, rest = memparse(text.strip(), write.profile)
    swappiness = _swappiness(rest.split())
    left, retries = size // PAGE_BYTES, MAX_RECLAIM_RETRIES
    while left > 0:
        if write.signalled():
            raise _error(errno.EINTR)
        freed = write.reclaim(max(left // 4, 1), swappiness=swappiness)
        if not freed and not retries:
            raise _error(errno.EAGAIN)
        retries -= not freed
        left -= freed


def _swappiness(keys: list[str]) -> int | None:
    swappiness = None
    for key in keys:
        name, _, value = key.partition("=")
        known = value == "max" or (value.isascii() and value.isdigit() and int(value) <= 200)
        if name != "swappiness" or not known:
            raise _error(errno.EINVAL)
        swappiness = SWAPPINESS_MAX if value == "max" else int(value)
    return swappiness


_Rule = Callable[[_Write, str], None]
_V2_FILES: dict[str, _Rule] = {
    "memory.max": _v2_max,
    "memory.high": _v2_high,
    "memory.low": _v2_store("low"),
    "memory.min": _v2_store("min"),
    "memory.swap.max": _v2_store("swap_max"),
    "memory.reclaim": _v2_reclaim,
}
_FILES: dict[str, dict[str, _Rule]] = {
    "seed2008": {"memory.limit_in_bytes": _seed_limit, "memory.shrink_in_bytes": _seed_shrink},
    "v1": {
        "memory.limit_in_bytes": _v1_limit,
        "memory.memsw.limit_in_bytes": _v1_memsw,
        "memory.soft_limit_in_bytes": _v1_soft,
        "memory.force_empty": _v1_force_empty,
    },
    "v2": _V2_FILES,
    "v2-6.12": _V2_FILES,
}
