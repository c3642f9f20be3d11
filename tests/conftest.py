"""What holds for every test: one live server, a daemon that can be killed, and no silent skip where everything is wanted."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from app.backends import Backend
from app.settings import Settings
from tests import postgres as postgres_server
from tests.backends.cgroups import CgroupHost
from tests.backends.hosts import opened
from tests.leaks import nothing_stays_open
from tests.live import Daemon, Live

# No test of ours is about seconds.
hypothesis.settings.register_profile("shrinkd", deadline=None)
hypothesis.settings.load_profile("shrinkd")


IN_THE_VM = "make test-vm"


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    """A test leaves no thread and no descriptor behind. Where a server outlives it, the server's fixture sees to that."""
    with nothing_stays_open() if not Live.alive else nullcontext():
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A simulator with the demo's groups, and a database that no other test sees."""
    return Settings(backend="simulator", scenario="demo", database_url=f"sqlite:///{tmp_path}/shrinkd.db")


@pytest.fixture
def server(settings: Settings) -> Iterator[Live]:
    """The application on a live port; override the fixture `settings` for another one."""
    with Live(settings) as live:
        yield live


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons; keywords are settings. A second call finds the database of the first, as a restart does."""
    with ExitStack() as stack:

        def start(**settings: str) -> Daemon:
            started = Daemon(tmp_path, **settings)
            stack.callback(started.close)
            return started

        yield start


@pytest.fixture(params=["v1", "v2"])
def kernel(request: pytest.FixtureRequest) -> Iterator[CgroupHost[Backend]]:
    """One real memory controller after the other: v1 natively, v2 in the VM."""
    with opened(request.param) as host:
        yield host


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Postgres]:
    """A PostgreSQL server for the whole run, where its programs are there."""
    if reason := postgres_server.absent():
        pytest.skip(reason)
    with postgres_server.running() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """SHRINKD_TEST_REQUIRE_ALL=1: what could not be tested has failed."""
    return _require((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """As above, for a module that skips itself."""
    return _require((yield))


_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


def _require(report: _Report) -> _Report:
    if os.environ.get("SHRINKD_TEST_REQUIRE_ALL") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        if IN_THE_VM in str(reason):
            return report  # that is where it runs; it is not in CI yet
        report.outcome = "failed"
        report.longrepr = f"SHRINKD_TEST_REQUIRE_ALL=1, and this was skipped: {reason}"
    return report
