"""The threads that execute shrinks.

The queue calls start() once for each job and gets it back through `on_end`; it does not depend on
when, on which thread or in how many turns a job is executed.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from shrinkd.shrinks.job import Job
from shrinkd.worker_pool import submit_once

_POLICY_WORKERS = 8


class ShrinkWorkers:
    """Two pools of threads, so that callers' and policies' shrinks do not wait for each other.

    `on_end` is called with each job that was started, when its execution is over.
    """

    def __init__(self, max_running: int, on_end: Callable[[Job], None]) -> None:
        self.callers = ThreadPoolExecutor(max_running, thread_name_prefix="shrink")
        self.policies = ThreadPoolExecutor(_POLICY_WORKERS, thread_name_prefix="policy shrink")
        self._on_end = on_end
        self._lock = threading.Lock()
        self._count = 0
        self.stopping = threading.Event()
        """Set when the daemon stops: no job begins any more."""

    @property
    def count(self) -> int:
        """How many jobs were started and are not over, with those cancelled while they waited."""
        return self._count

    def start(self, job: Job) -> None:
        """Execute a job as soon as a thread is free. NotReady, and then it is not executed."""
        self._add(1)
        try:
            submit_once(self.policies if job.policy else self.callers, self._work, job)
        except BaseException:
            self._add(-1)
            raise

    def close(self) -> None:
        """Wait for the running jobs; the waiting ones do not begin. After `stopping` is set."""
        self.callers.shutdown(wait=True)
        self.policies.shutdown(wait=True)

    def _work(self, job: Job) -> None:
        try:
            job.execute(self.stopping)
        finally:
            self._add(-1)
            self._on_end(job)

    def _add(self, number: int) -> None:
        with self._lock:
            self._count += number
