"""Run all benchmarks, one after the other: `make bench`.

Each prints its table as it ends, and one that fails stops no other. The simulator runs anywhere; as
root also cgroup v1 where it is mounted, and the shrinks on cgroup v2, here or in the VM of
tests/vm. The exit code is 0, or 1 when a goal was missed, or 2 when a benchmark failed.
"""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import fields, knees, policing, serving, shrinking, simulating, streams
from bench.table import SMALLEST, Benchmark, Extent, show
from tests.backends import v1_host, v2_host
from tests.vm import vm


def _only_on_the_host() -> str | None:
    return (
        None
        if v2_host.absent()
        else "benchmarks without a kernel are not run in the VM, which is slow"
    )


BENCHMARKS = {
    "simulating": Benchmark(simulating.measure, _only_on_the_host),
    "pressure-gallery": Benchmark(fields.measure_gallery, _only_on_the_host),
    "pressure-drawn": Benchmark(fields.measure_drawn, _only_on_the_host),
    "balance": Benchmark(fields.measure_balance, _only_on_the_host),
    "watermark": Benchmark(fields.measure_watermark, _only_on_the_host),
    "streams": Benchmark(streams.measure, _only_on_the_host),
    "shrink-v1": Benchmark(partial(shrinking.measure, kernel="v1", large=False), v1_host.absent),
    "shrink-v1-large": Benchmark(
        partial(shrinking.measure, kernel="v1", large=True), v1_host.absent
    ),
    "serving-one": Benchmark(serving.measure_one, serving.absent),
    "serving-guarded": Benchmark(serving.measure_guarded, serving.absent),
    "serving-all": Benchmark(serving.measure_all, serving.absent),
    "policing-watermark": Benchmark(policing.measure_watermark, v1_host.absent),
    "policing-idle": Benchmark(policing.measure_idle, v1_host.absent),
    "shrink-v2": Benchmark(partial(shrinking.measure, kernel="v2", large=False), v2_host.absent),
    "shrink-v2-large": Benchmark(
        partial(shrinking.measure, kernel="v2", large=True), v2_host.absent
    ),
    "knees-v2": Benchmark(knees.measure, knees.absent),
}
V2_BENCHMARKS = ("shrink-v2", "shrink-v2-large", "knees-v2")


def run(benchmarks: Mapping[str, Benchmark], extent: Extent) -> int:
    """Run the benchmarks and return the exit code."""
    missed, failed = False, []
    for name, benchmark in benchmarks.items():
        if reason := benchmark.absent():
            print(f"\nskipped {name}: {reason}", flush=True)
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                tables = benchmark.measure(Path(folder), extent)
        except Exception:  # noqa: BLE001
            failed.append(name)
            print(f"\n{name} FAILED:\n{traceback.format_exc()}", flush=True)
            continue
        for title, rows in tables.items():
            show(title, rows)
            missed |= any(row.met is False for row in rows)
    if failed:
        print(f"\nFAILED: {', '.join(failed)}", flush=True)
    return 2 if failed else int(missed)


def main() -> int:
    """Read the command line, and run the benchmarks that it names, or all."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    options.add_argument("--rounds", type=int, default=Extent().rounds)
    options.add_argument(
        "--smallest",
        action="store_true",
        help="only check in seconds that they run; the figures mean nothing",
    )
    chosen = options.parse_args()
    if unknown := {*chosen.names} - {*BENCHMARKS}:
        options.error(
            f"there is no {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
        )
    names = chosen.names or [*BENCHMARKS]
    vm_names = [name for name in names if name in V2_BENCHMARKS and v2_host.absent()]
    code = run(
        {name: BENCHMARKS[name] for name in names if name not in vm_names},
        SMALLEST if chosen.smallest else Extent(chosen.rounds),
    )
    arguments = ["--rounds", str(chosen.rounds), *(["--smallest"] if chosen.smallest else [])]
    return max(code, _run_in_vm([*vm_names, *arguments]) if vm_names else 0)


def _run_in_vm(arguments: list[str]) -> int:
    if reason := vm.absent():
        print(f"\nskipped v2: {reason}")
        return 0
    with tempfile.TemporaryDirectory() as shared:
        outcome = vm.run([sys.executable, "bench/run.py", *arguments], Path(shared))
    print(outcome.output if outcome.status is not None else outcome.console, flush=True)
    return 2 if outcome.status is None else outcome.status


if __name__ == "__main__":
    sys.exit(main())
