"""Run the tests that need cgroup v2 in the VM, and report them one by one on the host.

The host collects them, and runs its own tests meanwhile.
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
_TIME_LIMIT = ("-o", "timeout=1800")
"""Time limit of a test in the VM, where the import of a daemon takes a minute."""
_VM = (sys.executable, "-m", "tests.vm.vm", "--shared")


class InTheVm:
    """A plugin that runs the selected tests marked v2 in one VM.

    The VM starts after collection; the run waits for it at its end.
    """

    def __init__(self, config: pytest.Config, run_in: tuple[str, ...] = _VM) -> None:
        """`run_in` is a command that takes a shared directory and a command to run in the VM."""
        self._config = config
        self._run_in = run_in
        self._folder = tempfile.TemporaryDirectory(prefix="shrinkd-vm-")
        self._shared = Path(self._folder.name)
        self._machine: subprocess.Popen[bytes] | None = None
        self._reports: dict[str, list[pytest.TestReport]] | None = None
        self._output = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort the tests of the VM to the end, without a timeout but the VM's own."""
        items.sort(key=_is_for_v2)
        for item in filter(_is_for_v2, items):
            item.add_marker(pytest.mark.timeout(0), append=False)  # overrides a marker of the test

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        nodes = [item.nodeid for item in session.items if _is_for_v2(item)]
        if not nodes or self._config.option.collectonly:
            return
        (self._shared / "nodes").write_text("\n".join(nodes))
        inside = (
            sys.executable,
            "-m",
            "pytest",
            *_TIME_LIMIT,
            "-p",
            "no:cacheprovider",
            "-q",
            f"@{self._shared}/nodes",
        )
        with (self._shared / "output_of_vm").open("wb") as output:
            self._machine = subprocess.Popen(
                [
                    *self._run_in,
                    str(self._shared),
                    "env",
                    f"SHRINKD_TEST_REPORTS={self._shared}/{_REPORTS}",
                    *_extent_variables(),
                    *inside,
                ],
                cwd=self._config.rootpath,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,  # so that Ctrl-C reaches only this process, which ends the VM
            )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not _is_for_v2(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports_of(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_unconfigure(self) -> None:
        if self._machine and self._machine.poll() is None:
            self._machine.terminate()
            self._machine.wait()
        self._folder.cleanup()

    def _reports_of(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        if self._reports is None:
            assert self._machine
            self._machine.wait()
            self._reports = self._read()
            self._output = (self._shared / "output_of_vm").read_text(errors="replace")
        reports = self._reports.get(item.nodeid, [])
        yield from reports
        if not reports or reports[-1].when != "teardown":
            why = (
                f"The VM did not come to the end of this test:\n{self._output}"
                if self._output
                else "The VM did not run this test either: see the first failure."
            )
            self._output = ""
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
    """A plugin inside the VM that writes every report of the run, one a line, for InTheVm."""

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
    """A plugin that skips the tests marked v2 where neither this host nor a VM has cgroup v2."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in filter(_is_for_v2, items):
            item.add_marker(pytest.mark.skip(reason=self._reason))


def _extent_variables() -> Iterator[str]:
    """Yield variables that pass the extent of the tests to the VM.

    In the VM SHRINKD_TEST_REQUIRE_ALL is always 1, so the host's value has another name.
    """
    yield f"SHRINKD_TEST_THOROUGH={os.environ.get('SHRINKD_TEST_REQUIRE_ALL', '')}"
    yield f"SHRINKD_TEST_EXAMPLES={os.environ.get('SHRINKD_TEST_EXAMPLES', '0')}"


def _is_for_v2(item: pytest.Item) -> bool:
    return item.get_closest_marker("v2") is not None
