"""What needs cgroup v2, on a host without it.

Collected here, run in the VM while the others run here, and reported test by test.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_REPORTS = "reports"
_SLOWLY = ("-o", "timeout=1800")
"""For one test, in the VM: a daemon that needs a second here imports for a minute there."""
_VM = (sys.executable, "-m", "tests.vm.vm", "--shared")


class InTheVm:
    """Runs the selected tests that are marked v2 in one VM.

    It starts when all are collected, and is waited for at the end.
    """

    def __init__(self, config: pytest.Config, run_in: tuple[str, ...] = _VM) -> None:
        """`run_in` is a command that takes a directory, which is shared with the machine, and what
        to run there.
        """
        self._config = config
        self._run_in = run_in
        self._folder = tempfile.TemporaryDirectory(prefix="shrinkd-vm-")
        self._shared = Path(self._folder.name)
        self._machine: subprocess.Popen[bytes] | None = None
        self._reports: dict[str, list[pytest.TestReport]] | None = None
        self._told = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """What is in the VM comes last, or it would be waited for.

        And for waiting there is no timeout but the VM's own.
        """
        items.sort(key=_is_for_v2)
        for item in filter(_is_for_v2, items):
            item.add_marker(pytest.mark.timeout(0), append=False)  # before one of its own

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        wanted = [item.nodeid for item in session.items if _is_for_v2(item)]
        if not wanted or self._config.option.collectonly:
            return
        (self._shared / "wanted").write_text("\n".join(wanted))
        inside = (
            sys.executable,
            "-m",
            "pytest",
            *_SLOWLY,
            "-p",
            "no:cacheprovider",
            "-q",
            f"@{self._shared}/wanted",
        )
        with (self._shared / "told").open("wb") as told:
            self._machine = subprocess.Popen(
                [
                    *self._run_in,
                    str(self._shared),
                    "env",
                    f"SHRINKD_TEST_REPORTS={self._shared}/{_REPORTS}",
                    *_wanted_here(),
                    *inside,
                ],
                cwd=self._config.rootpath,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                process_group=0,  # Ctrl-C is for us; we end it
            )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not _is_for_v2(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._of(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_unconfigure(self) -> None:
        if self._machine and self._machine.poll() is None:
            self._machine.terminate()
            self._machine.wait()
        self._folder.cleanup()

    def _of(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        if self._reports is None:
            assert self._machine
            self._machine.wait()
            self._reports = self._read()
            self._told = (self._shared / "told").read_text(errors="replace")
        reports = self._reports.get(item.nodeid, [])
        yield from reports
        if not reports or reports[-1].when != "teardown":
            why = (
                f"The VM did not come to the end of this test:\n{self._told}"
                if self._told
                else "Nor to this one, as above."
            )
            self._told = ""
            yield pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")

    def _read(self) -> dict[str, list[pytest.TestReport]]:
        reports: dict[str, list[pytest.TestReport]] = {}
        lines = self._shared / _REPORTS
        for line in lines.read_text().splitlines() if lines.exists() else ():
            report = self._config.hook.pytest_report_from_serializable(
                config=self._config, data=json.loads(line)
            )
            reports.setdefault(report.nodeid, []).append(report)
        return reports


class Reporter:
    """The other side: writes down every report of a run, a line each, for InTheVm to read."""

    def __init__(self, config: pytest.Config, path: str) -> None:
        self._config = config
        self._path = Path(path)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        with self._path.open("a") as lines:
            print(
                json.dumps(
                    self._config.hook.pytest_report_to_serializable(
                        config=self._config, report=report
                    )
                ),
                file=lines,
            )


class NotHere:
    """Neither this host nor a VM has cgroup v2: what needs it is skipped, with the reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in filter(_is_for_v2, items):
            item.add_marker(pytest.mark.skip(reason=self._reason))


def _wanted_here() -> Iterator[str]:
    """How much is to be tried.

    In the VM SHRINKD_TEST_REQUIRE_ALL is ever 1, so this host's own is told by another name.
    """
    yield f"SHRINKD_TEST_THOROUGH={os.environ.get('SHRINKD_TEST_REQUIRE_ALL', '')}"
    yield f"SHRINKD_TEST_EXAMPLES={os.environ.get('SHRINKD_TEST_EXAMPLES', '0')}"


def _is_for_v2(item: pytest.Item) -> bool:
    return item.get_closest_marker("v2") is not None
