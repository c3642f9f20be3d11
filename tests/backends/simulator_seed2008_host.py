"""A simulated host that follows the mails of July 2008."""

from contextlib import AbstractContextManager

from tests.backends.hosts import Offer
from tests.backends.simulator_host import SimulatedHost, on

OFFERS: frozenset[Offer] = frozenset({"usage_watch", "activity"})


def absent() -> None:
    """Nothing is missing: there is always a simulator."""


def open_host() -> AbstractContextManager[SimulatedHost]:
    return on("seed2008")
