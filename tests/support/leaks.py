"""What a test must not leave behind in this process: threads and descriptors."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvloop

_LAST_STEPS_SECONDS = 10  # a thread that was told to end may still be on its way


@contextmanager
def nothing_stays_open() -> Iterator[None]:
    """Fail when more threads or descriptors are open at the end than at the begin."""
    # the first one in a process opens a pipe for signals that libuv keeps for ever
    uvloop.new_event_loop().close()
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(_LAST_STEPS_SECONDS)
    assert [thread.name for thread in threading.enumerate() if thread not in threads] == []
    if _descriptors() - descriptors:
        gc.collect()
    assert sorted(_descriptors() - descriptors) == []


def _descriptors() -> set[tuple[int, str]]:
    """Each open descriptor, with what it is of.

    The one that the listing takes is gone when it is looked at.
    """
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add((int(link.name), str(link.readlink())))
    return found
