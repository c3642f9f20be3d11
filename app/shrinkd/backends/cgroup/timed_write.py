"""Write to a control file, and interrupt the write after some microseconds.

memory.force_empty takes no amount and reclaims until a signal is pending. So a POSIX timer signals
the writing thread: the kernel then stops after the current batch, with -EINTR, and the time decides
how much was freed. No second thread watches, so none can be late, and a process that dies takes its
timers along.
"""

import ctypes
import errno
import os
import signal
import threading

SIGNAL = (
    signal.SIGRTMIN + 5
    # glibc reserves the first two, uvloop and uvicorn use none; no child inherits a handler beyond
    # exec
)
_CLOCK_MONOTONIC = 1  # include/uapi/linux/time.h
_SHORTEST_REPEAT_SECONDS = 100e-6
_SIGEV_THREAD_ID = 4  # include/uapi/asm-generic/siginfo.h: the signal goes to one thread

# The write releases the GIL, or an API that answers in 1 ms would wait for it. The timer calls keep
# it: released between the arming and the write, it might come back after the quantum.
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
    """Install a handler that does nothing for the signal, from any thread; may be repeated.

    The signal has to be caught, since an ignored signal interrupts nothing. signal.signal()
    requires the main thread, and its handler would wake that thread, and the event loop in it, on
    every pass. So a C function is the handler: abs() takes an int and touches no memory. signal(3)
    sets SA_RESTART, which siginterrupt(3) clears: v1 does not restart a write, but cgroup v2 does
    since Linux 7.3 (-ERESTARTSYS), and would begin its amount anew.
    """
    _libc.signal(SIGNAL, ctypes.cast(_libc.abs, ctypes.c_void_p))
    _libc.siginterrupt(SIGNAL, 1)


def timed_write(descriptor: int, text: bytes, seconds: float) -> bool:
    """Write once; return whether the kernel finished by itself before `seconds`.

    OSError for any errno but EINTR. os.write() cannot do this: it continues after -EINTR (PEP 475).
    Call catch_signal() once per process first.
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
    """Start a timer that signals this thread repeatedly: the first may precede the system call.

    It is made for one write and deleted after it: that costs 4 us, and no state depends on the life
    of a thread. The repeat has a lower bound, since signals that come faster than they are handled
    would leave this thread no time for anything else.
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
