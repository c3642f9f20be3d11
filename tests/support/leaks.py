"""Check that a test leaves no thread and no descriptor open in this process."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvloop

_JOIN_SECONDS = 120  # a thread that was stopped may not have ended yet on a busy machine


@contextmanager
def nothing_stays_open() -> Iterator[None]:
    """Fail when more threads or descriptors are open at the end than at the start."""
    # the first loop in a process opens a pipe for signals, which libuv never closes
    uvloop.new_event_loop().close()
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(_JOIN_SECONDS)
    assert [thread.name for thread in threading.enumerate() if thread not in threads] == []
    if _descriptors() - descriptors:
        gc.collect()
    assert sorted(_descriptors() - descriptors) == []


def _descriptors() -> set[tuple[int, str]]:
    """List the open descriptors, each with its target.

    The descriptor of the listing itself is closed by then.
    """
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add((int(link.name), str(link.readlink())))
    return found
