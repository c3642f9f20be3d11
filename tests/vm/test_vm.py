"""The conformance suite, and what is cgroup v2's own, on a kernel that has it: one VM a run, and everything in it."""

import re
import sys

import pytest

from tests.vm import vm

LEAST_PASSED = 110
"""So that a suite that was not found is no success."""


@pytest.mark.timeout(1900)
def test_what_every_backend_promises_holds_on_cgroup_v2() -> None:
    if reason := vm.absent():
        pytest.skip(reason)
    outcome = vm.run([sys.executable, "-m", "pytest", "tests/backends", "-k", "v2", "-q", "-p", "no:cacheprovider"], seconds=1800)
    told = outcome.output if outcome.status is not None else outcome.output + outcome.console
    assert outcome.status == 0, f"in the VM:\n{told}"
    passed = re.search(r"^(\d+) passed", outcome.output, re.MULTILINE)
    assert passed, told
    assert int(passed[1]) >= LEAST_PASSED, told
