"""Fixtures and hooks of all tests: servers, kernels, the VM, leaks and skips."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import hypothesis
import pytest

from shrinkd.backends import Backend
from shrinkd.settings import Settings
from tests.backends import v2_host
from tests.backends.hosts import opened
from tests.support import forked_daemon, skip_summary
from tests.support.cgroup_host import CgroupHost, swap_for_tests
from tests.support.leaks import nothing_stays_open
from tests.support.live_server import Daemon, Live
from tests.vm import vm
from tests.vm.remote import InTheVm, NotHere, Reporter

if TYPE_CHECKING:
    from tests.support.postgres import Postgres

# A test has no time limit of its own, since the machine may be busy.
hypothesis.settings.register_profile("shrinkd", deadline=None)
hypothesis.settings.load_profile("shrinkd")


def pytest_configure(config: pytest.Config) -> None:
    """Run tests marked v2 here if possible, and otherwise in the VM.

    The pytest inside the VM reports to the one on the host.
    """
    config.pluginmanager.register(skip_summary)
    if path := os.environ.get("SHRINKD_TEST_REPORTS"):
        config.pluginmanager.register(Reporter(config, path))
    elif no_v2 := v2_host.absent():
        no_vm = vm.absent()
        config.pluginmanager.register(
            NotHere(f"{no_v2}, and {no_vm}") if no_vm else InTheVm(config)
        )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests with the host or the kernel "v2" as v2, for `-m`."""
    for item in items:
        parameters = (
            item.callspec.params
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else {}
        )
        if "v2" in {parameters.get("host"), parameters.get("kernel")}:
            item.add_marker(pytest.mark.v2)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the process that daemons are forked from, if a test needs it.

    It imports while other tests run, and its descriptors are not counted as a leak of a test.
    """
    if not session.config.option.collectonly and any(
        _is_with_daemons(item) for item in session.items
    ):
        forked_daemon.prepare()


def _is_with_daemons(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and not {"daemon", "killable", "own_home"}.isdisjoint(
        item.fixturenames
    )


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    """Check that a test leaves no thread and no descriptor open.

    Where a server outlives the test, the server's fixture checks that.
    """
    with nothing_stays_open() if not Live.alive else nullcontext():
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a simulator with the demo's groups and a database for this test alone."""
    return Settings(
        backend="simulator", scenario="demo", database_url=f"sqlite:///{tmp_path}/shrinkd.db"
    )


@pytest.fixture
def server(settings: Settings) -> Iterator[Live]:
    """The application on a live port. Override the fixture `settings` for another one."""
    with Live(settings) as live:
        yield live


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """A function that starts a daemon, with settings as keywords.

    A second call finds the database of the first, as a restart does.
    """
    with ExitStack() as stack:

        def start(**settings: str) -> Daemon:
            started = Daemon(tmp_path, forked_daemon.ForkedDaemon, **settings)
            stack.callback(started.close)
            return started

        yield start


@pytest.fixture(params=["v1", "v2"])
def kernel(request: pytest.FixtureRequest) -> Iterator[CgroupHost[Backend]]:
    """Each real memory controller in turn: v1 on this host, v2 in the VM."""
    with opened(request.param) as host:
        yield host


@pytest.fixture
def has_swap() -> Iterator[bool]:
    """Turn on the swap that was made for tests, and yield whether there is any."""
    with swap_for_tests() as is_there:
        yield is_there


@pytest.fixture(scope="session")
def postgres() -> Iterator["Postgres"]:
    """A PostgreSQL server for the whole run, where its programs are installed."""
    from tests.support.postgres import absent, running

    if reason := absent():
        pytest.skip(reason)
    with running() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a skipped test where SHRINKD_TEST_REQUIRE_ALL=1."""
    return _require((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a skipped module where SHRINKD_TEST_REQUIRE_ALL=1."""
    return _require((yield))


_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


def _require(report: _Report) -> _Report:
    if (
        os.environ.get("SHRINKD_TEST_REQUIRE_ALL") == "1"
        and report.skipped
        and not hasattr(report, "wasxfail")
    ):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"SHRINKD_TEST_REQUIRE_ALL=1, and this was skipped: {reason}"
    return report
