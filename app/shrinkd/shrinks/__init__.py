"""Run shrinks as jobs that can be cancelled, have a deadline and are stored."""

from shrinkd.shrinks.job import Job, Request, State
from shrinkd.shrinks.queue import ShrinkQueue

__all__ = [
    "Job",
    "ShrinkQueue",
    "Request",
    "State",
]
