"""All benchmarks, side by side in one run: `make bench`.

The simulator anywhere; as root, cgroup v1 where that is here, and the shrinks on cgroup v2: here, or in the VM of tests/vm.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import fields, knees, policing, serving, shrinking, simulating, streams
from bench.table import Row, show
from tests.backends import v1_host, v2_host
from tests.vm import vm


def main() -> int:
    """Print every table; 1 when a goal was missed, 77 when most of it has nothing to measure on."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=15)
    rounds = options.parse_args().rounds
    is_guest = not v2_host.absent()
    tables: dict[str, list[Row]] = {} if is_guest else simulating.measure() | fields.measure() | streams.measure(3)
    with tempfile.TemporaryDirectory() as folder:
        if not v1_host.absent():
            tables |= shrinking.measure(Path(folder), rounds, "v1") | serving.measure(Path(folder), rounds)
            tables |= policing.measure(Path(folder))
        if is_guest:
            tables |= shrinking.measure(Path(folder), rounds, "v2") | knees.measure(Path(folder), min(rounds, 3))
    for title, rows in tables.items():
        show(title, rows)
    missed = any(row.met is False for rows in tables.values() for row in rows)
    return int(missed) if is_guest else max(int(missed), _in_the_vm(rounds))


def _in_the_vm(rounds: int) -> int:
    if reason := vm.absent():
        print(f"\nnothing of v2: {reason}")
        return 0
    with tempfile.TemporaryDirectory() as shared:
        outcome = vm.run([sys.executable, "bench/run.py", "--rounds", str(rounds)], Path(shared))
    print(outcome.output if outcome.status is not None else outcome.console)
    return int(outcome.status != 0)


if __name__ == "__main__":
    sys.exit(main())
