"""What the conformance suite asks of a host: a backend to test, fresh groups on it, and processes that use memory there.

A host is a module `tests/backends/<name>_host.py`, found by being there, with two functions:

    absent() -> str | None                       why this host cannot be had here, as a sentence, or None
    open_host() -> AbstractContextManager[Host]  one host for one test; it leaves no group and no process behind
"""

from typing import Protocol

from app.backends import Backend, Group

MIB = 2**20


class Worker(Protocol):
    """A process of the host in one of its groups. Each step is done, and charged, when the call is back."""

    @property
    def pid(self) -> int:
        """The number that Backend.attach takes."""

    def grow(self, size: int) -> bool:
        """Fault in so many more bytes of anonymous memory; False when it was killed over that."""

    def read_file(self, size: int) -> None:
        """Read so many bytes of a file that nobody has read before, in small folios: clean page cache of its group."""

    def alive(self) -> bool:
        """Whether it still runs."""

    def stop(self) -> None:
        """End it and wait until it is gone. Its page cache stays charged. Does nothing when it is gone already."""


class Host(Protocol):
    """A machine with a backend on it."""

    @property
    def backend(self) -> Backend:
        """The backend under test."""

    @property
    def slack_bytes(self) -> int:
        """How far a reading may be off: page tables, counters in batches per CPU, a kernel thread that reclaims on its own."""

    def group(self, parent: Group | None = None) -> Group:
        """Make an empty group that is removed after the test, with whatever is still in it."""

    def pressed_group(self) -> Group:
        """Make a group whose pressure is told, if the backend tells any."""

    def charge(self, group: Group, *, anon: int = 0, cache: int = 0, locked: int = 0) -> Worker:
        """Start a process in a group: bytes of anonymous memory, of clean page cache, and of anonymous memory under mlock."""


def limit_of(host: Host, group: Group) -> int | None:
    return host.backend.stat(group).limits.max_bytes


def cache_of(host: Host, group: Group) -> int:
    """How much page cache a group has, on a host that can tell."""
    file_bytes = host.backend.stat(group).file_bytes
    assert file_bytes is not None
    return file_bytes
