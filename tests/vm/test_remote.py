"""Check that tests in the VM are reported as if they had run here.

The "VM" of these tests is another process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm import vm

pytestmark = pytest.mark.long

CONFTEST = """
import os
from tests.vm.remote import InTheVm, Reporter
AWAY = os.environ.get("SHRINKD_TEST_REPORTS")

def pytest_configure(config):
    config.addinivalue_line("markers", "v2: for the VM")
    config.pluginmanager.register(Reporter(config, AWAY) if AWAY else InTheVm(config, ({command})))
"""
THERE = '"sh", "-c", \'exec "$@"\''
TESTS = """
import os, pytest
AWAY = "SHRINKD_TEST_REPORTS" in os.environ

@pytest.mark.v2
@pytest.mark.parametrize("name", ["a", "b c"])
def test_away(name): assert AWAY

@pytest.mark.v2
def test_wrong(): assert not AWAY, "wrong"

@pytest.mark.v2
def test_deadly(): os._exit(3)

@pytest.mark.v2
def test_after(): pass

@pytest.mark.v2
def test_wishes():
    names = ("THOROUGH", "EXAMPLES")
    assert [os.environ["SHRINKD_TEST_" + name] for name in names] == ["1", "7"]

def test_here(): assert not AWAY
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST.format(command=THERE))
    (tmp_path / "test_it.py").write_text(TESTS)
    return tmp_path


def run(folder: Path, *selected: str, **variables: str) -> str:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "--rootdir",
        str(folder),
        "-p",
        "no:cacheprovider",
        *selected,
    ]
    # with CI set, pytest repeats every message in its summary
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SHRINKD_") and name != "CI"
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=environ | {"PYTHONPATH": str(vm.REPOSITORY)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_what_passes_there_has_passed_here_and_the_rest_runs_here(folder: Path) -> None:
    assert "3 passed" in run(folder, "-k", "away or here")


def test_how_much_is_to_be_tried_there_is_what_was_asked_for_here(folder: Path) -> None:
    assert "1 passed" in run(
        folder, "-k", "wishes", SHRINKD_TEST_REQUIRE_ALL="1", SHRINKD_TEST_EXAMPLES="7"
    )
    assert "1 failed" in run(folder, "-k", "wishes", SHRINKD_TEST_EXAMPLES="7")


def test_what_fails_there_has_failed_here_and_says_why(folder: Path) -> None:
    told = run(folder, "-k", "away or wrong")
    assert "1 failed, 2 passed" in told
    assert "AssertionError: wrong" in told


def test_what_the_vm_did_not_come_to_has_failed(folder: Path) -> None:
    assert "2 failed, 2 passed" in run(folder, "-k", "away or deadly or after")


def test_a_vm_that_does_not_start_fails_what_was_to_run_there_and_is_quoted(folder: Path) -> None:
    (folder / "conftest.py").write_text(
        CONFTEST.format(command='"sh", "-c", "echo no such kernel; exit 4"')
    )
    told = run(folder, "-k", "away or here")
    assert "2 failed, 1 passed" in told
    assert told.count("no such kernel") == 1


def test_a_run_without_a_test_for_the_vm_boots_none(folder: Path) -> None:
    (folder / "conftest.py").write_text(CONFTEST.format(command='"touch", "booted", "--"'))
    assert "1 passed" in run(folder, "-k", "here")
    assert "test_away" in run(folder, "--collect-only")
    assert not (folder / "booted").exists()
