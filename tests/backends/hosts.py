"""Define the hosts of the conformance suite: a backend, new groups, and processes in them.

A host is a module `tests/backends/<name>_host.py`, found by its name, with a table and two
functions:

    OFFERS: frozenset[Offer]                     the optional features that it has
    absent() -> str | None                       a sentence why it is unavailable here, or None
    open_host() -> AbstractContextManager[Host]  one host for one test; it leaves nothing behind

A test of an optional feature is marked `@on("high_bytes")`: it exists for the hosts that have it
alone. So it neither passes untested on the others nor is it skipped there, and their behaviour, a
refusal, is a test of its own.
"""

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest

from shrinkd.backends import Backend, Group, LimitName

Offer = Literal[
    "high_bytes", "low_bytes", "min_bytes", "swap", "usage_watch", "stall_watch", "activity"
]
"""Limits that the backend takes; swap: SwapHost, whose backend limits it; what the backend can
watch; activity: told of a twinned_group(), where the backend wants such a thing."""
MIB = 2**20
HOST_NAMES = sorted(
    path.stem.removesuffix("_host") for path in Path(__file__).parent.glob("*_host.py")
)


class Worker(Protocol):
    """A process of the host in one of its groups.

    Each step is done, and charged, when the call is back.
    """

    @property
    def pid(self) -> int:
        """The number that Backend.attach takes."""

    def grow(self, size: int) -> bool:
        """Fault in so many more bytes of anonymous memory; False when it was killed over that."""

    def lock(self, size: int) -> bool:
        """As grow, under mlock and all at once."""

    def share(self, size: int) -> bool:
        """As grow, of shared memory, mapped: it stays when the process has ended."""

    def read_file(self, size: int) -> None:
        """Read so many bytes of a file that nobody has read before, in small folios.

        Clean page cache of its group.
        """

    def alive(self) -> bool:
        """Whether it still runs."""

    def stop(self) -> None:
        """End it and wait until it is gone.

        Its page cache stays charged. Does nothing when it is gone already.
        """


class Host(Protocol):
    """A machine with a backend on it."""

    @property
    def backend(self) -> Backend:
        """The backend under test."""

    @property
    def slack_bytes(self) -> int:
        """How far a reading may be off.

        Page tables, counters in batches per CPU, a kernel thread that reclaims on its own.
        """

    def group(self, parent: Group | None = None) -> Group:
        """Make an empty group that is removed after the test, with whatever is still in it."""

    def twinned_group(self, parent: Group | None = None) -> Group:
        """Make a group whose pressure and activity are told, if the backend tells any."""

    def charge(self, group: Group, *, anon: int = 0, cache: int = 0, locked: int = 0) -> Worker:
        """Start a process in a group.

        Bytes of anonymous memory, of clean page cache, and of anonymous memory under mlock.
        """


class SwapHost(Host, Protocol):
    """A machine that can swap."""

    def swap(self) -> AbstractContextManager[None]:
        """Have swap, empty at first, for as long as this lasts."""


def on(*needs: Offer) -> pytest.MarkDecorator:
    """Try a test on the hosts that offer all of these, and on no other."""
    return pytest.mark.parametrize(
        "host", [name for name in HOST_NAMES if offers(name).issuperset(needs)], indirect=True
    )


def offers(host_name: str) -> frozenset[Offer]:
    table: frozenset[Offer] = importlib.import_module(f"tests.backends.{host_name}_host").OFFERS
    return table


def is_close(left: int | None, right: int, percent: int) -> bool:
    """Compare as values_close() of the kernel's selftests does.

    The tolerance is a share of the sum of both.
    """
    return left is not None and abs(left - right) <= (left + right) * percent / 100


@contextmanager
def opened(name: str) -> Iterator[Any]:
    """The host of that name.

    An absent one is a visible skip, which tests/conftest.py makes a failure where CI wants them
    all.
    """
    module = importlib.import_module(f"tests.backends.{name}_host")
    if reason := module.absent():
        pytest.skip(f"the host {name} is absent: {reason}")
    with module.open_host() as host:
        yield host


def parse_limit_file(host: Host, group: Group) -> int | None:
    return host.backend.stat(group).limits.max_bytes


def cache_of(host: Host, group: Group) -> int:
    """How much page cache a group has, on a host that can tell."""
    file_bytes = host.backend.stat(group).file_bytes
    assert file_bytes is not None
    return file_bytes


def failures_of(host: Host, group: Group) -> int:
    """How often a charge met the maximum of a group, by whichever count its kernel has."""
    events = host.backend.stat(group).events
    counts = [count for count in (events.limit_failures, events.max) if count is not None]
    assert counts
    return sum(counts)


def limit_without_swap(host: Host, group: Group, size: int) -> None:
    """Set a maximum that no swap widens, as the kernel's tests do.

    Where there is swap, growth beyond a bare one is no death.
    """
    changes: dict[LimitName, int | None] = {"max_bytes": size}
    if host.backend.node().swap_total_bytes:
        changes["swap_max_bytes"] = 0
    host.backend.set_limits(group, changes)
