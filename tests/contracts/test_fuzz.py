"""Fuzz the API with schemathesis against its own document.

It sends requests that fit and that do not, and checks each answer.

    export SHRINKD_TEST_FUZZ_SECONDS=1800
    .venv/bin/python -m pytest --timeout 0 tests/contracts/test_fuzz.py

fuzzes for half an hour.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.live_server import Live

pytestmark = pytest.mark.long

FUZZ_SECONDS = os.environ.get("SHRINKD_TEST_FUZZ_SECONDS")
IS_THOROUGH = (
    os.environ.get("SHRINKD_TEST_THOROUGH", os.environ.get("SHRINKD_TEST_REQUIRE_ALL")) == "1"
)
EVERY_DAY = [
    "--phases",
    "examples,fuzzing,stateful",
    "--max-examples",
    "2",
    "--generation-deterministic",
]
"""Without the coverage of every bound of every member, which is 8000 requests."""
THOROUGH = [
    "--phases",
    "examples,coverage,fuzzing,stateful",
    "--max-examples",
    "10",
    "--generation-deterministic",
]
LONG = ["--phases", "examples,coverage,fuzzing,stateful", "--max-time", str(FUZZ_SECONDS)]


def test_every_answer_keeps_what_the_document_promises(server: Live, tmp_path: Path) -> None:
    amount = LONG if FUZZ_SECONDS else THOROUGH if IS_THOROUGH else EVERY_DAY
    config = ["--config-file", str(ROOT / "tests" / "schemathesis.toml")]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            *config,
            "run",
            f"{server.url}/openapi.json",
            "--checks",
            "all",
            "--no-color",
            *amount,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONWARNINGS": "ignore",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        done.stdout + done.stderr
    )  # each failure with the curl command that shows it again
