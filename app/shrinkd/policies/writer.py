"""Write decisions, finished shrinks and states to the database, on a thread of their own.

A database that is locked or away must not delay a tick.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from shrinkd.errors import ShrinkdError
from shrinkd.policies.bindings import Key
from shrinkd.policies.decision_log import DecisionLog
from shrinkd.shrinks import ShrinkQueue
from shrinkd.storage import PolicyStateRepository
from shrinkd.worker_pool import submit_once

States = Mapping[Key, dict[str, Any]]

_WRITE_SECONDS = 1.0
_SAVE_SECONDS = 10.0

log = logging.getLogger(__name__)


class PolicyWriter:
    """Writes once a second while there is something new, and again after a failure.

    `notify` ends the wait of the thread that calls write_if_due(), of which there is only one.
    """

    def __init__(
        self,
        repository: PolicyStateRepository,
        boot_id: str,
        decisions: DecisionLog,
        jobs: ShrinkQueue,
        notify: Callable[[], None],
    ) -> None:
        self._states, self._boot_id, self._notify = repository, boot_id, notify
        self._decisions, self._jobs = decisions, jobs
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="decisions")
        self._writing: Future[None] | None = None
        self._unsaved: dict[Key, dict[str, Any]] = {}
        self.due_at = math.inf
        """The time of the next write, of the monotonic clock."""
        self._save_at = 0.0

    def schedule(self) -> None:
        """Have what is new written within a second."""
        self.due_at = min(self.due_at, time.monotonic() + _WRITE_SECONDS)

    def write_if_due(self, changed_states: Callable[[], States]) -> None:
        """Start a write when one is due and none runs. States are saved every ten seconds."""
        if time.monotonic() < self.due_at or (self._writing and not self._writing.done()):
            return
        if time.monotonic() >= self._save_at:
            self._unsaved |= changed_states()
            self._save_at = time.monotonic() + _SAVE_SECONDS
        self.due_at = math.inf
        try:
            self._writing = submit_once(self._worker, self._write, self._unsaved)
        except ShrinkdError as error:
            self._retry_later(error)

    def _write(self, states: States) -> None:
        try:
            self._decisions.write()
            self._jobs.write_finished()
            self._states.save(self._boot_id, states)
            self._unsaved = {}
        except Exception as error:  # noqa: BLE001  # supervised: the next write tries again
            self._retry_later(error)

    def _retry_later(self, error: Exception) -> None:
        log.warning(
            "what the policies decided is not written down yet: %s",
            error,
            exc_info=not isinstance(error, ShrinkdError),
        )
        self.due_at = time.monotonic() + _WRITE_SECONDS
        self._notify()

    def stop(self) -> None:
        """Wait for a write that runs, and start no more."""
        self._worker.shutdown(wait=True)

    def write_last(self, states: States) -> None:
        """Write everything now, after stop(). A database that is away is not waited for."""
        with suppress(ShrinkdError):
            self._decisions.write()
            self._states.save(self._boot_id, self._unsaved | dict(states))
