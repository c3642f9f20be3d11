"""All benchmarks, side by side in one run: `make bench`, as root.

On cgroup v1 where that is here, and the shrinks on cgroup v2: here, or in the VM of tests/vm where that can be had.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import serving, shrinking
from bench.table import Row, show
from tests.backends import v1_host, v2_host
from tests.vm import vm


def main() -> int:
    """Print every table; 1 when a goal was missed, 77 when there is nothing to measure on."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=15)
    rounds = options.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        tables: dict[str, list[Row]] = {}
        if not v1_host.absent():
            tables |= shrinking.measure(Path(folder), rounds, "v1") | serving.measure(Path(folder), rounds)
        if not v2_host.absent():
            tables |= shrinking.measure(Path(folder), rounds, "v2")
    for title, rows in tables.items():
        show(title, rows)
    missed = any(row.met is False for rows in tables.values() for row in rows)
    statuses = [int(missed)] if tables else []
    if v2_host.absent():
        statuses += _in_the_vm(rounds)
    return max(statuses, default=77)


def _in_the_vm(rounds: int) -> list[int]:
    if reason := vm.absent():
        print(f"\nnothing of v2: {reason}")
        return []
    with tempfile.TemporaryDirectory() as shared:
        outcome = vm.run([sys.executable, "bench/run.py", "--rounds", str(rounds)], Path(shared))
    print(outcome.output if outcome.status is not None else outcome.console)
    return [int(outcome.status != 0)]


if __name__ == "__main__":
    sys.exit(main())
