"""Hand work to a pool of threads so that it is begun once, or refused.

Never refused and begun all the same.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec

from shrinkd.errors import NotReady

P = ParamSpec("P")


def submit_once(
    pool: ThreadPoolExecutor, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs
) -> Future[None]:
    """Submit work.

    NotReady when no thread can be started for it, or the pool is closed: then it is not done later
    either.

    ThreadPoolExecutor.submit() queues the work before it starts the thread, so that what it refuses
    would be done by the next thread.
    """
    taken = threading.Lock()

    def begin() -> None:
        if taken.acquire(blocking=False):
            work(*args, **kwargs)

    try:
        return pool.submit(begin)
    except RuntimeError as error:
        if taken.acquire(blocking=False):
            raise NotReady(f"No thread could be had for it: {error}. Try again.") from error
        begun: Future[None] = (
            Future()
        )  # by a thread that was free already; who wants to know its end asks the work
        begun.set_result(None)
        return begun
