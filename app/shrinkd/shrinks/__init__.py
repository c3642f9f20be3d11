"""Run shrinks as jobs that can be cancelled, have a deadline and are stored."""

from shrinkd.shrinks.job import Job, State
from shrinkd.shrinks.queue import ShrinkQueue
from shrinkd.shrinks.run import Request

__all__ = [
    "Job",
    "Request",
    "ShrinkQueue",
    "State",
]
