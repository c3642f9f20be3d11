"""Check the line at the end of a run that says what was skipped and what would run it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.skip_summary import remedy, summary
from tests.vm import vm

TESTS = """
import pytest

@pytest.mark.skipif(True, reason="zsh is not installed")
def test_of_a_shell(): pass

@pytest.mark.parametrize("number", range(2))
def test_of_the_vm(number):
    pytest.skip("the VM needs qemu: apt-get install qemu-system-x86")

def test_of_a_kernel(): pytest.skip("this kernel keeps no peak")
"""


def test_a_run_ends_with_one_line_of_what_was_skipped_and_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "test_skipping.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-ra",
        "-p",
        "tests.support.skip_summary",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2] == (
        "Skipped: 4 tests. To run them: apt-get install zsh qemu-system-x86. "
        "1 of them cannot run on this host: see the reasons above."
    )


def test_a_run_that_skipped_nothing_says_nothing() -> None:
    assert summary([]) is None


@pytest.mark.parametrize(
    ("reason", "packages", "command"),
    [
        ("openssl is not installed", ["openssl"], None),
        ("postgres and initdb are not installed", ["postgresql"], None),
        ("groff is not installed", ["groff-base"], None),
        ("the VM needs a kernel: tests/vm/fetch-kernel", [], "tests/vm/fetch-kernel"),
        ("no .venv-client: say make develop", [], "make develop"),
        ("only root can be another user", [], "run as root"),
        ("/sys/fs/cgroup/memory is not ours to write", [], "run as root"),
        ("this host has swap, so anonymous memory has somewhere to go", [], None),
    ],
)
def test_a_reason_tells_what_to_do(reason: str, packages: list[str], command: str | None) -> None:
    assert remedy(reason) == (packages, command)


def test_a_host_without_the_programs_of_the_vm_is_told_all_of_them(tmp_path: Path) -> None:
    packages, _ = remedy(vm.absent(str(tmp_path)) or "")
    assert {"qemu-system-x86", "busybox-static", "kmod"} <= set(packages)
