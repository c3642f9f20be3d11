"""Fixtures: one server per module, on a simulator whose clock is stopped.

For tests that leave no change behind.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from shrinkd.settings import Settings
from tests.support.leaks import nothing_stays_open
from tests.support.live_server import Live
from tests.support.scripted_simulator import Stage


@dataclass
class Still:
    """A live server and the simulator behind it."""

    live: Live
    stage: Stage

    @property
    def client(self) -> httpx.Client:
        return self.live.client


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Still]:
    """Start a server on the groups of the demo, with the clock stopped, for one module."""
    stage = Stage()
    settings = Settings(
        backend="simulator",
        database_url=f"sqlite:///{tmp_path_factory.mktemp('still')}/shrinkd.db?timeout=0.05",
    )
    with nothing_stays_open(), Live(settings, stage.make_backend) as live:
        yield Still(live, stage)


@pytest.fixture
def client(still: Still) -> httpx.Client:
    return still.client
