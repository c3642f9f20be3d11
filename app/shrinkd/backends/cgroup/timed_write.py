"""A write that the kernel is told to leave after so many microseconds.

How a reclaim without a goal gets one.

memory.force_empty knows no amount and reclaims until a signal is pending. So the thread that writes
has a POSIX timer signal itself: the kernel then stops behind the batch it is in, with -EINTR, and
what it freed is a matter of time. No second thread watches, so none can come late, and a process
that dies takes its timers along.
"""

import ctypes
import errno
import os
import signal
import threading

SIGNAL = (
    signal.SIGRTMIN + 5
    # glibc keeps the first two to itself, uvloop and uvicorn take none; no child inherits a handler
    # beyond exec
)
_CLOCK_MONOTONIC = 1  # include/uapi/linux/time.h
_SHORTEST_REPEAT_SECONDS = 100e-6
_SIGEV_THREAD_ID = 4  # include/uapi/asm-generic/siginfo.h: the signal goes to one thread

# The write gives the GIL away, or an API that answers in 1 ms would wait for it. The timer calls
# keep it: given away between the arming and the write, it may come back after the quantum.
_libc = ctypes.CDLL(None, use_errno=True)
_libc_holding_gil = ctypes.PyDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class _Sigevent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("padding", ctypes.c_int * 11),
    )


_libc.write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_libc.write.restype = ctypes.c_ssize_t
_libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_libc.signal.restype = ctypes.c_void_p
_libc_holding_gil.timer_settime.argtypes = (
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.POINTER(_Itimerspec),
    ctypes.c_void_p,
)
_libc_holding_gil.timer_delete.argtypes = (ctypes.c_void_p,)


def catch_signal() -> None:
    """Give the signal a handler that does nothing, from any thread, as often as wanted.

    It has to be caught, for an ignored signal interrupts nothing. signal.signal() would want the
    main thread, and its handler would wake that thread, and the event loop in it, on every pass. So
    a C function is the handler: abs() takes an int, touches no memory and nobody minds its answer.
    signal(3) asks for SA_RESTART, which siginterrupt(3) undoes: v1 does not restart a write, but
    cgroup v2 does since Linux 7.3 (-ERESTARTSYS), and would begin its amount anew.
    """
    _libc.signal(SIGNAL, ctypes.cast(_libc.abs, ctypes.c_void_p))
    _libc.siginterrupt(SIGNAL, 1)


def timed_write(descriptor: int, text: bytes, seconds: float) -> bool:
    """Write once, and answer whether the kernel came to its own end before `seconds`.

    Another errno is an OSError.

    os.write() cannot do this: it goes on after -EINTR (PEP 475). catch_signal() comes first, once a
    process.
    """
    timer = _start_timer(seconds)
    try:
        written = _libc.write(descriptor, text, len(text))
        number = ctypes.get_errno()
    finally:
        _libc_holding_gil.timer_delete(timer)
    if written >= 0:
        return True
    if number != errno.EINTR:
        raise OSError(number, os.strerror(number))
    return False


def _start_timer(seconds: float) -> ctypes.c_void_p:
    """Start a timer that signals this thread, again and again.

    The first signal may come before the kernel is entered.

    Made for one write and deleted behind it: that costs 4 us, and nothing has to know when a thread
    ends. The repeat has a floor, for signals that come faster than they are handled would leave
    this thread no time to do anything else.
    """
    timer = ctypes.c_void_p()
    event = _Sigevent(None, SIGNAL, _SIGEV_THREAD_ID, threading.get_native_id())
    if _libc_holding_gil.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    times = _Itimerspec(_timespec(max(seconds, _SHORTEST_REPEAT_SECONDS)), _timespec(seconds))
    _libc_holding_gil.timer_settime(timer, 0, ctypes.byref(times), None)
    return timer


def _timespec(seconds: float) -> _Timespec:
    return _Timespec(int(seconds), int(seconds % 1 * 1e9))
