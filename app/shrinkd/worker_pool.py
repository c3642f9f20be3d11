"""Submit work to a thread pool so that it either runs once or is refused."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec

from shrinkd.errors import NotReady

P = ParamSpec("P")


def submit_once(
    pool: ThreadPoolExecutor, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs
) -> Future[None]:
    """Submit work; NotReady if no thread can be started, or the pool is closed: then it never runs.

    ThreadPoolExecutor.submit() queues the work before it starts the thread, so refused work would
    be run by the next thread.
    """
    started = threading.Lock()

    def begin() -> None:
        if started.acquire(blocking=False):
            work(*args, **kwargs)

    try:
        return pool.submit(begin)
    except RuntimeError as error:
        if started.acquire(blocking=False):
            raise NotReady(f"No thread could be had for it: {error}. Try again.") from error
        # An idle thread has begun it; the caller learns its end from the work itself.
        running: Future[None] = Future()
        running.set_result(None)
        return running
