"""Notify the controller's thread, and note what callers changed since its last tick."""

import os
import threading

from shrinkd.backends import Group


class Notifier:
    """Changes that the policies must react to, behind a descriptor that becomes readable.

    It is made before the parts that report changes and before the controller that reads them.
    Thread-safe; after close() notifications are ignored.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_closed = False
        self._limits: dict[str, None] = {}
        self.policies_changed = threading.Event()
        """Set until the controller has assigned the policies anew."""

    def notify(self) -> None:
        """End the controller's wait, or its next one."""
        with self._lock:
            if not self._is_closed:
                os.eventfd_write(self._descriptor, 1)

    def notify_policies(self) -> None:
        """Report that a policy was written or deleted."""
        self.policies_changed.set()
        self.notify()

    def notify_limits(self, group: Group) -> None:
        """Report that limits of a group may have changed."""
        with self._lock:
            if self._is_closed:
                return
            self._limits[group.path] = None
        self.notify()

    def take_limits(self) -> list[str]:
        """Return the paths of the groups that notify_limits() reported since the last call."""
        with self._lock:
            paths = list(self._limits)
            self._limits.clear()
        return paths

    def fileno(self) -> int:
        return self._descriptor

    def clear(self) -> None:
        """Make the descriptor unreadable until the next notification."""
        os.eventfd_read(self._descriptor)

    def close(self) -> None:
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self._descriptor)
