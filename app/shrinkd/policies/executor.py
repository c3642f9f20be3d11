"""Execute granted actions: reclaim jobs, limit changes and switches of other policies.

Each action has exactly one outcome, reported to the function that the constructor was given.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from shrinkd.errors import (
    InternalError,
    KernelRefused,
    NotReady,
    ShrinkdError,
    StoreUnavailable,
    errno_symbol,
    error_text,
)
from shrinkd.groups import Actor, GroupLimits
from shrinkd.policies.catalog import PolicyCatalog
from shrinkd.policies.guards import GROUP_BYTES_PER_SECOND
from shrinkd.policies.kind import Outcome, Reclaim, Resize, Switch
from shrinkd.policies.records import Action
from shrinkd.shrinks import Job, Request, ShrinkQueue, State
from shrinkd.worker_pool import submit_once

_RESIZE_SECONDS = 60.0
_WORKERS = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """An action with its outcome, and the shrink that did it if there was one."""

    action: Action
    outcome: Outcome
    shrink_id: str | None = None


class Executor:
    """Executes actions without blocking the caller. Thread-safe.

    `report` is called once for each action, from any thread, also from within execute().
    """

    def __init__(
        self,
        limits: GroupLimits,
        policies: PolicyCatalog,
        jobs: ShrinkQueue,
        report: Callable[[Finished], None],
    ) -> None:
        self._limits, self._policies, self._jobs = limits, policies, jobs
        self._backend = limits.backend
        self._report = report
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="policy")

    def close(self) -> None:
        """Wait for the limit changes and switches that run. Shrinks are the queue's to end."""
        self._workers.shutdown(wait=True)

    def execute(self, action: Action) -> None:
        """Start an action. Raises nothing: a failure to start it is its outcome."""
        with self._failures_reported(action):
            if isinstance(action.ask, Reclaim):
                self._reclaim(action, action.ask)
            else:
                submit_once(self._workers, self._change, action)

    @contextmanager
    def _failures_reported(self, action: Action, shrink: Job | None = None) -> Iterator[None]:
        """Report an exception in the block as the outcome of the action."""
        began = time.monotonic()
        try:
            yield
        except Exception as error:  # supervised: the action ends, its policy goes on after a delay
            if not isinstance(error, ShrinkdError | OSError | MemoryError):
                log.exception(
                    "an action of the policy %s at %a failed",
                    action.policy.name,
                    action.group.path,
                )
            freed = shrink.progress.reclaimed_bytes if shrink else 0
            outcome = Outcome(
                action.amount_bytes,
                freed,
                time.monotonic() - began,
                errno_symbol(error),
                _fault(error),
            )
            self._report(Finished(action, outcome, shrink.id if shrink else None))

    def _reclaim(self, action: Action, ask: Reclaim) -> None:
        request = Request(
            timeout_seconds=ask.timeout_seconds,
            target_bytes=action.target_bytes,
            reclaim_bytes=None if action.target_bytes is not None else self._above_floor(action),
            max_bytes_per_second=None if action.is_urgent else GROUP_BYTES_PER_SECOND,
            swappiness=action.swappiness,
            reason=f"the policy {action.policy.name}",
        )
        job = self._jobs.submit(action.group, request, policy=action.policy.name)
        job.finished.add_done_callback(lambda _: self._report_job(action, job))

    def _above_floor(self, action: Action) -> int:
        """Return what is left of an amount: usage may have fallen since it was granted."""
        usage = self._backend.usage(action.group)
        return max(min(action.amount_bytes, usage - action.floor_bytes), 0)

    def _report_job(self, action: Action, job: Job) -> None:
        error = job.status.error
        errname = error.errname if error else None if job.state is State.SUCCEEDED else "EINTR"
        outcome = Outcome(
            action.amount_bytes,
            job.progress.reclaimed_bytes,
            job.run.reclaim_seconds,
            errname,
            _fault(error) if error else None,
        )
        self._report(Finished(action, outcome, job.id))

    def _change(self, action: Action, shrink: Job | None = None) -> None:
        """Switch another policy, or set limits, after the shrink that a lower maximum needed.

        Runs on a worker: both wait for locks, the database or the kernel.
        """
        began = time.monotonic()
        outcome: Outcome | None = None
        with self._failures_reported(action, shrink):
            if isinstance(action.ask, Switch):
                self._policies.switch(action.ask.policy, enabled=action.ask.enabled)
            elif isinstance(action.ask, Resize):
                if shrink is None and self._begin_shrink_to(action, action.ask):
                    return
                self._limits.change_limits(
                    action.group, action.ask.limits, Actor(action.policy.name)
                )
            freed = shrink.progress.reclaimed_bytes if shrink else 0
            outcome = Outcome(0, freed, time.monotonic() - began)
        if outcome is not None:  # else a failure was reported
            self._report(Finished(action, outcome, shrink.id if shrink else None))

    def _begin_shrink_to(self, action: Action, ask: Resize) -> bool:
        """Start a shrink to a maximum that is below usage; the limits are set when it has ended.

        Returns whether there was one to start. No worker waits for it.
        """
        maximum = ask.limits.get("max_bytes")
        if maximum is None or self._backend.usage(action.group) < maximum:
            return False
        request = Request(
            _RESIZE_SECONDS,
            target_bytes=maximum,
            set_max_bytes=maximum,
            swappiness=action.swappiness,
            reason=f"the policy {action.policy.name}",
        )
        job = self._jobs.submit(action.group, request, policy=action.policy.name)
        job.finished.add_done_callback(lambda _: self._change_after(action, job))
        return True

    def _change_after(self, action: Action, shrink: Job) -> None:
        if shrink.state is not State.SUCCEEDED:
            self._report_job(action, shrink)
            return
        with self._failures_reported(action, shrink):
            submit_once(self._workers, self._change, action, shrink)


def _fault(error: Exception) -> str | None:
    """Describe an unexpected error.

    None for an answer that a policy has to expect: the group is busy or gone, or did not shrink.
    """
    if isinstance(error, ShrinkdError) and not isinstance(
        error, KernelRefused | StoreUnavailable | InternalError | NotReady
    ):
        return None
    return error_text(error)
