"""Simulate cgroup v2 before 6.16, where memory.max reclaims and kills whatever its flags."""

from contextlib import AbstractContextManager

from tests.backends.hosts import Offer
from tests.backends.simulator_host import SimulatedHost, on

OFFERS: frozenset[Offer] = frozenset(
    {"high_bytes", "low_bytes", "min_bytes", "swap", "stall_watch", "activity"}
)


def absent() -> None:
    """Nothing is missing: there is always a simulator."""


def open_host() -> AbstractContextManager[SimulatedHost]:
    return on("v2-6.12")
