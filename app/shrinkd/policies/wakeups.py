"""What wakes the daemon.

A bell that anybody may ring, and, where the backend can watch a group, what a post waits for there.
"""

import logging
import math
import os
import resource
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from shrinkd.backends import Backend, EventsMove, Group, Trigger, UsageCrosses, Watch
from shrinkd.errors import GroupGone, ShrinkdError, Unsupported
from shrinkd.policies.arbiter import Key, PolicyBinding
from shrinkd.policies.evaluator import Evaluator
from shrinkd.worker_pool import submit_once

_WATCHED = frozenset((UsageCrosses, EventsMove))
"""Not Stalled: v1 takes a thread of the kernel for each group."""
_ARMERS = 16
_RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Armed:
    """What wakes a post, once the watch is there."""

    triggers: tuple[Trigger, ...]
    watch: Watch | None = None
    retry_at: float = math.inf
    """When to try once more what could not be opened; of the monotonic clock."""


class Wakeups:
    """One thing to wait for.

    `lock` is over the engine, and over all of this but wait() and ring().
    """

    def __init__(
        self, backend: Backend, engine: Evaluator, clock: Callable[[], float], lock: threading.Lock
    ) -> None:
        self._backend, self._engine, self._clock, self._lock = backend, engine, clock, lock
        self._watches: dict[Key, _Armed] = {}
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 24
        """Each has up to three descriptors, and half of all are for control files, a quarter for
        connections."""
        self._by_descriptor: dict[int, Key] = {}
        self._is_closing = False
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._armers = ThreadPoolExecutor(_ARMERS, thread_name_prefix="arm")

    def ring(self) -> None:
        """End a wait, or the next one. From any thread."""
        os.eventfd_write(self._bell, 1)

    def wait(self, seconds: float | None) -> list[Key]:
        """Wait for so long, or until something wakes.

        Answer the posts whose watch did, to be heard.
        """
        rung = {descriptor for descriptor, _ in self._epoll.poll(seconds)}
        if self._bell in rung:
            os.eventfd_read(self._bell)
        return [
            key for descriptor in rung if (key := self._by_descriptor.get(descriptor))
        ]  # which others may change meanwhile

    def hear(self, key: Key, moment: float) -> bool:
        """Wake a post if something has fired.

        Answers whether its group is still there, as far as we are told.
        """
        armed = self._watches.get(key)
        if armed is None or armed.watch is None:
            return True
        try:
            if armed.watch.read():
                self._engine.wake(key, moment)
        except GroupGone:
            self._disarm(key)
            return False
        except (
            ShrinkdError,
            OSError,
        ) as error:  # what fired is not known, nor does it fire again: so all is looked at
            log.warning("what fired at %a is not known, so it is looked at: %s", armed.watch, error)
            self._engine.wake(key, moment)
        return True

    def mute(self, key: Key) -> None:
        """Do not wake for a post while something is done to its group.

        Its usage moves then, and nobody would look.
        """
        self._listen(key, 0)

    def unmute(self, key: Key, moment: float) -> bool:
        """Hear what has fired, and wake for the next.

        Answers as hear(). Before its end is told, which brings a look at it.
        """
        is_there = self.hear(key, moment)
        self._listen(key, select.EPOLLIN)
        return is_there

    def _listen(self, key: Key, events: int) -> None:
        """A watch that cannot be heard any more is given up, so that its post is polled."""
        if (armed := self._watches.get(key)) and armed.watch:
            try:
                self._epoll.modify(armed.watch.fileno(), events)
            except OSError as error:
                log.warning(
                    "a watch of the policy %s is given up, and its group is polled: %s",
                    key[0],
                    error,
                )
                self._disarm(key)

    def arm(self, binding: PolicyBinding) -> None:
        """See to it that what a post waits for wakes it, as far as this backend can watch for it."""
        watchable = self._backend.watchable & _WATCHED
        wanted = tuple(
            trigger
            for decision in binding.decisions
            for trigger in decision.wakes
            if type(trigger) in watchable
        )
        if not watchable or len(binding.groups) != 1:
            return
        armed = self._watches.get(binding.key)
        if armed is None and not wanted:
            return
        if armed is not None and armed.triggers == wanted and time.monotonic() < armed.retry_at:
            return
        self._disarm(binding.key)
        if wanted and len(self._watches) < self._most:
            self._watches[binding.key] = fresh = _Armed(wanted)
            try:
                submit_once(self._armers, self._open, binding.key, binding.groups[0], fresh)
            except ShrinkdError as error:
                self._put_off(binding.key, fresh, error)

    def forget_gone(self) -> None:
        """Give back what posts waited for that are no more."""
        for key in [key for key in self._watches if self._engine.binding(key) is None]:
            self._disarm(key)

    def stop(self) -> None:
        """Open nothing more. Not with the lock held: who opens takes it."""
        self._is_closing = True
        self._armers.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Give everything back, when nobody waits and nobody rings any more."""
        self.stop()
        for armed in self._watches.values():
            if armed.watch:
                armed.watch.close()
        self._epoll.close()
        os.close(self._bell)

    def _open(self, key: Key, group: Group, armed: _Armed) -> None:
        """On a thread of its own: v1 takes 11 ms for each."""
        try:
            watch = self._backend.watch(group, armed.triggers)
        except (Unsupported, GroupGone):
            return  # it is polled, then
        except (ShrinkdError, OSError) as error:
            self._put_off(key, armed, error)
            return
        with self._lock:
            if self._watches.get(key) is not armed or self._is_closing:
                watch.close()
                return
            try:
                self._epoll.register(watch.fileno(), select.EPOLLIN)
            except OSError as error:
                watch.close()
                self._put_off(key, armed, error)
                return
            armed.watch = watch
            self._by_descriptor[watch.fileno()] = key
            if any(
                isinstance(trigger, UsageCrosses) for trigger in armed.triggers
            ):  # else usage is polled for, as before
                self._engine.armed.add(key)
            self._engine.wake(
                key, self._clock()
            )  # what was so before the watch was there fires nothing
        self.ring()

    def _put_off(self, key: Key, armed: _Armed, error: Exception) -> None:
        """Leave a post to be polled until what we lacked for its watch may be there again."""
        armed.retry_at = time.monotonic() + _RETRY_SECONDS
        log.warning(
            "the policy %s polls a group for %g s, for nothing could be opened that wakes for it: "
            "%s",
            key[0],
            _RETRY_SECONDS,
            error,
        )

    def _disarm(self, key: Key) -> None:
        self._engine.armed.discard(key)
        armed = self._watches.pop(key, None)
        if armed and armed.watch:
            with suppress(OSError):  # whatever the epoll says, the descriptor goes
                self._epoll.unregister(armed.watch.fileno())
            self._by_descriptor.pop(armed.watch.fileno(), None)
            armed.watch.close()
