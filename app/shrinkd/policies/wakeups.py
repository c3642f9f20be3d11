"""Wake-ups: wait for notifications and for watches of groups, and report the keys that woke."""

import logging
import math
import resource
import select
import threading
import time
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from shrinkd.backends import Backend, EventsMove, Group, Trigger, UsageCrosses, Watch
from shrinkd.errors import GroupGone, ShrinkdError, Unsupported
from shrinkd.policies.bindings import Key, PolicyBinding
from shrinkd.policies.notifier import Notifier
from shrinkd.worker_pool import submit_once

_WATCHED = frozenset((UsageCrosses, EventsMove))
"""Not Stalled: v1 takes a thread of the kernel for each group."""
_OPENERS = 16
_RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


class Woken(NamedTuple):
    """The keys of bindings to evaluate now, and of those whose group was removed."""

    keys: tuple[Key, ...] = ()
    removed: tuple[Key, ...] = ()


@dataclass(slots=True)
class _Entry:
    """The watch of one binding; None while it is being opened, or could not be."""

    triggers: tuple[Trigger, ...]
    watch: Watch | None = None
    retry_at: float = math.inf
    """The time of the next attempt to open it, of the monotonic clock."""


class Wakeups:
    """Watches of bindings' groups, behind one wait(). Thread-safe; only one thread may wait."""

    def __init__(self, backend: Backend, notifier: Notifier) -> None:
        self._backend, self._notifier = backend, notifier
        self._lock = threading.Lock()
        self._entries: dict[Key, _Entry] = {}
        self._max_watches = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 24
        """Each has up to three descriptors; half of all descriptors are for control files, a
        quarter for connections."""
        self._by_descriptor: dict[int, Key] = {}
        self._opened: set[Key] = set()
        """Opened since the last report."""
        self._usage_watched: set[Key] = set()
        self._is_closing = False
        self._epoll = select.epoll()
        self._epoll.register(notifier.fileno(), select.EPOLLIN)
        self._openers = ThreadPoolExecutor(_OPENERS, thread_name_prefix="watch")

    @property
    def usage_watched(self) -> AbstractSet[Key]:
        """The keys of bindings whose usage a watch reports: a live view, not a copy."""
        return self._usage_watched

    def wait(self, seconds: float | None) -> list[Key]:
        """Wait `seconds` at most for a notification or a watch; return the keys for read()."""
        ready = {descriptor for descriptor, _ in self._epoll.poll(seconds)}
        if self._notifier.fileno() in ready:
            self._notifier.clear()
        # other threads may change the table meanwhile
        return [key for descriptor in ready if (key := self._by_descriptor.get(descriptor))]

    def read(self, keys: Iterable[Key]) -> Woken:
        """Read the watches of `keys`; report those that fired, and all that were opened since.

        What was so before a watch was there fires nothing, so a new watch wakes its binding.
        """
        with self._lock:
            found = [(key, self._read(key)) for key in keys]
            opened, self._opened = self._opened, set()
            woken = {key: None for key, has_fired in found if has_fired} | dict.fromkeys(opened)
            return Woken(tuple(woken), tuple(key for key, fired in found if fired is None))

    def _read(self, key: Key) -> bool | None:
        """Return whether a watch has fired; None where its group was removed."""
        entry = self._entries.get(key)
        if entry is None or entry.watch is None:
            return False
        try:
            return bool(entry.watch.read())
        except GroupGone:
            self._close(key)
            return None
        except (ShrinkdError, OSError) as error:
            # an event that could not be read does not come again
            log.warning(
                "the watch %a cannot be read, so its group is evaluated: %s", entry.watch, error
            )
            return True

    def suspend(self, key: Key) -> None:
        """Stop waiting for a binding's watch while an action moves the usage of its group."""
        with self._lock:
            self._listen(key, 0)

    def resume(self, key: Key) -> Woken:
        """Wait for a binding's watch again; report what read() would, of the time in between."""
        woken = self.read([key])
        with self._lock:
            self._listen(key, select.EPOLLIN)
        return woken

    def _listen(self, key: Key, events: int) -> None:
        """Change what is waited for; where that fails, close the watch, and the group is polled."""
        if (entry := self._entries.get(key)) and entry.watch:
            try:
                self._epoll.modify(entry.watch.fileno(), events)
            except OSError as error:
                log.warning(
                    "a watch of the policy %s is closed, and its group is polled: %s", key[0], error
                )
                self._close(key)

    def watch(self, binding: PolicyBinding) -> None:
        """Open a watch for what a binding's decisions wait for, as far as the backend has one."""
        watchable = self._backend.watchable & _WATCHED
        wanted = tuple(
            trigger
            for decision in binding.decisions
            for trigger in decision.wake_on
            if type(trigger) in watchable
        )
        if not watchable or len(binding.groups) != 1:
            return
        with self._lock:
            entry = self._entries.get(binding.key)
            if entry is None and not wanted:
                return
            if entry and entry.triggers == wanted and time.monotonic() < entry.retry_at:
                return
            self._close(binding.key)
            if wanted and len(self._entries) < self._max_watches:
                self._entries[binding.key] = fresh = _Entry(wanted)
                try:
                    submit_once(self._openers, self._open, binding.key, binding.groups[0], fresh)
                except ShrinkdError as error:
                    _retry_later(binding.key, fresh, error)

    def retain(self, keys: AbstractSet[Key]) -> None:
        """Close the watches of all bindings but these."""
        with self._lock:
            for key in self._entries.keys() - keys:
                self._close(key)

    def stop(self) -> None:
        """Open no more watches, and wait for those that are being opened."""
        self._is_closing = True
        self._openers.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Close all watches. No thread may wait any more."""
        self.stop()
        for entry in self._entries.values():
            if entry.watch:
                entry.watch.close()
        self._epoll.close()

    def _open(self, key: Key, group: Group, entry: _Entry) -> None:
        """Open a watch, on a thread of its own: v1 takes 11 ms for each."""
        try:
            watch = self._backend.watch(group, entry.triggers)
        except (Unsupported, GroupGone):
            return  # the group is polled
        except (ShrinkdError, OSError) as error:
            _retry_later(key, entry, error)
            return
        with self._lock:
            if self._entries.get(key) is not entry or self._is_closing:
                watch.close()
                return
            try:
                self._epoll.register(watch.fileno(), select.EPOLLIN)
            except OSError as error:
                watch.close()
                _retry_later(key, entry, error)
                return
            entry.watch = watch
            self._by_descriptor[watch.fileno()] = key
            if any(isinstance(trigger, UsageCrosses) for trigger in entry.triggers):
                self._usage_watched.add(key)  # without such a trigger usage is polled as before
            self._opened.add(key)
        self._notifier.notify()

    def _close(self, key: Key) -> None:
        """Close a binding's watch, with the lock held."""
        self._usage_watched.discard(key)
        self._opened.discard(key)
        entry = self._entries.pop(key, None)
        if entry and entry.watch:
            with suppress(OSError):  # whatever epoll answers, the descriptor is closed below
                self._epoll.unregister(entry.watch.fileno())
            self._by_descriptor.pop(entry.watch.fileno(), None)
            entry.watch.close()


def _retry_later(key: Key, entry: _Entry, error: Exception) -> None:
    """Leave a group to be polled until the missing resource may be there again."""
    entry.retry_at = time.monotonic() + _RETRY_SECONDS
    log.warning(
        "the policy %s polls a group for %g s, since no watch could be opened: %s",
        key[0],
        _RETRY_SECONDS,
        error,
    )
