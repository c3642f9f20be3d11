"""Run each benchmark in its smallest form; one that fails is reported and stops no other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.run import BENCHMARKS, V2_BENCHMARKS, run
from bench.table import SMALLEST, Benchmark, Extent, Row, Tables
from tests.support.checkout import ROOT


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.v2) if name in V2_BENCHMARKS else name
        for name in BENCHMARKS
        if name != "knees-v2"  # beside three laws in the VM it has no form of seconds yet
    ],
)
def test_a_benchmark_runs_in_its_smallest_form_and_prints_its_table(name: str) -> None:
    if reason := BENCHMARKS[name].absent():
        pytest.skip(reason)
    command = [sys.executable, "bench/run.py", "--smallest", name]
    environ = {
        variable: value
        for variable, value in os.environ.items()
        if not variable.startswith("SHRINKD_") or variable == "SHRINKD_TEST_SWAP"
    }
    ended = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert ended.returncode in {0, 1}, (
        ended.stdout + ended.stderr
    )  # 1: a goal was missed, which says nothing here
    assert "| what | measured | goal | |" in ended.stdout
    assert "FAILED" not in ended.stdout


def one(value: float) -> Benchmark:
    def measure(folder: Path, extent: Extent) -> Tables:
        assert not list(folder.iterdir())
        (folder / "tokens").touch()
        return {
            f"table {value:g}": [
                Row("rounds", extent.rounds, ""),
                Row("figure", value, "", "<=", 2),
            ]
        }

    return Benchmark(measure)


def broken() -> Benchmark:
    def measure(_folder: Path, _extent: Extent) -> Tables:
        raise RuntimeError("no answer")

    return Benchmark(measure)


def test_a_benchmark_that_fails_takes_no_other_along_and_is_named_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run({"first": one(1), "second": broken(), "third": one(2)}, SMALLEST) == 2
    said = capsys.readouterr().out
    assert (
        said.index("## table 1") < said.index("RuntimeError: no answer") < said.index("## table 2")
    )
    assert said.endswith("FAILED: second\n")


def test_a_table_is_printed_before_the_next_benchmark_begins(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measure(_folder: Path, _extent: Extent) -> Tables:
        assert "## table 1" in capsys.readouterr().out
        return {}

    assert run({"first": one(1), "second": Benchmark(measure)}, SMALLEST) == 0


def test_a_goal_that_is_missed_ends_with_1_and_what_cannot_run_here_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        run(
            {"first": one(3), "second": Benchmark(broken().measure, lambda: "no such kernel")},
            SMALLEST,
        )
        == 1
    )
    assert "skipped second: no such kernel" in capsys.readouterr().out
