"""The interruptible write, tried on a full pipe: a write that ends only by a signal or a reader."""

import errno
import fcntl
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from shrinkd.backends.cgroup.timed_write import catch_signal, timed_write

QUANTUM = 200e-6


@pytest.fixture(autouse=True)
def caught() -> None:
    catch_signal()


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    fcntl.fcntl(writer, fcntl.F_SETFL, 0)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def timers() -> int:
    return Path("/proc/self/timers").read_text().count("ID:")


def test_a_write_that_would_wait_for_ever_is_stopped(full_pipe: tuple[int, int]) -> None:
    assert timed_write(full_pipe[1], b"0", QUANTUM) is False


def test_a_write_that_comes_to_its_end_says_so(full_pipe: tuple[int, int]) -> None:
    os.read(full_pipe[0], 65536)
    assert timed_write(full_pipe[1], b"0", 10.0) is True


def test_a_signal_that_comes_before_the_write_is_not_the_last_one(
    full_pipe: tuple[int, int],
) -> None:
    shortest = 1e-6  # over before the kernel is entered
    assert not any(timed_write(full_pipe[1], b"0", shortest) for _ in range(50))


def test_what_the_kernel_refuses_is_an_oserror(full_pipe: tuple[int, int]) -> None:
    with pytest.raises(OSError, match="Bad file") as caught:
        timed_write(full_pipe[0], b"0", QUANTUM)
    assert caught.value.errno == errno.EBADF


def test_no_timer_is_left_behind(full_pipe: tuple[int, int]) -> None:
    before = timers()
    for _ in range(20):
        timed_write(full_pipe[1], b"0", QUANTUM)
    with pytest.raises(OSError, match="Bad file"):
        timed_write(full_pipe[0], b"0", QUANTUM)
    assert timers() == before


def test_threads_stop_their_own_writes_and_no_others(full_pipe: tuple[int, int]) -> None:
    free = os.open(os.devnull, os.O_WRONLY)
    with ThreadPoolExecutor(4) as pool:
        stopped = [pool.submit(timed_write, full_pipe[1], b"0", QUANTUM) for _ in range(40)]
        ended = [pool.submit(timed_write, free, b"0", 10.0) for _ in range(40)]
        assert not any(write.result() for write in stopped)
        assert all(write.result() for write in ended)
    os.close(free)


def test_the_signal_can_be_caught_from_any_thread_and_changes_no_handler_of_python(
    full_pipe: tuple[int, int],
) -> None:
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    thread = threading.Thread(target=catch_signal)
    thread.start()
    thread.join()
    assert timed_write(full_pipe[1], b"0", QUANTUM) is False
    assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers


def test_the_event_loop_is_not_woken_by_a_pass(full_pipe: tuple[int, int]) -> None:
    ours, loops = socket.socketpair()
    with ours, loops:
        ours.settimeout(0)
        loops.settimeout(0)
        before = signal.set_wakeup_fd(loops.fileno())
        try:
            for _ in range(20):
                timed_write(full_pipe[1], b"0", QUANTUM)
        finally:
            signal.set_wakeup_fd(before)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
