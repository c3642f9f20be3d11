"""All benchmarks, side by side in one run: `make bench`, as root on a host with the cgroup v1 memory controller."""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import serving, shrinking
from bench.table import show
from tests.backends.v1_host import absent


def main() -> int:
    """Print every table; 1 when a goal was missed, 77 when there is nothing to measure on."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=15)
    rounds = options.parse_args().rounds
    if reason := absent():
        print(f"nothing to measure on: {reason}")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        tables = {**shrinking.measure(Path(folder), rounds), **serving.measure(Path(folder), rounds)}
    for title, rows in tables.items():
        show(title, rows)
    return int(any(row.met is False for rows in tables.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
