"""Measure the speed of the simulated machine.

A thousand groups of 1 GiB run a virtual hour of a mixed workload in ticks of a second, on one core
and without a numerical library. The cost of a group depends on its activity. Of ten groups three
are steady, three write to their files, two have bursts that cost them cache, one grows into its
limit and swaps, and one lives above its high.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.table import Extent, Row, Tables
from shrinkd.backends.simulator.machine import scenarios

_MIXED: tuple[dict[str, Any], ...] = (
    {
        "memory": [
            {"kind": "anon", "size_bytes": "600M", "heat_seconds": "hot"},
            {"kind": "file", "size_bytes": "424M", "heat_seconds": "cold"},
        ]
    },
    {
        "max_bytes": "1G",
        "memory": [
            {
                "kind": "anon",
                "size_bytes": "300M",
                "heat_seconds": "warm",
                "grows_bytes_per_second": "512K",
                "ceiling_bytes": "600M",
                "falls": True,
            },
            {"kind": "file", "size_bytes": "400M", "heat_seconds": "warm"},
            {"kind": "file", "size_bytes": "1G", "heat_seconds": 3600},
        ],
    },
    {
        "max_bytes": "1G",
        "memory": [
            {"kind": "anon", "size_bytes": "500M", "heat_seconds": "hot"},
            {
                "kind": "file",
                "size_bytes": "500M",
                "heat_seconds": "warm",
                "writes_bytes_per_second": "1M",
            },
        ],
    },
    {
        "max_bytes": "1G",
        "memory": [
            {
                "kind": "anon",
                "size_bytes": "700M",
                "heat_seconds": "warm",
                "bursts": {"every_seconds": 300, "lasts_seconds": 30, "size_bytes": "200M"},
            },
            {"kind": "file", "size_bytes": "250M", "heat_seconds": "cold"},
        ],
    },
    {
        "max_bytes": "1G",
        "high_bytes": "900M",
        "memory": [
            {"kind": "anon", "size_bytes": "400M", "heat_seconds": "hot"},
            {
                "kind": "anon",
                "size_bytes": "424M",
                "heat_seconds": "cold",
                "grows_bytes_per_second": "64K",
            },
            {"kind": "file", "size_bytes": "200M", "heat_seconds": "warm"},
        ],
    },
)
_SHARES = (0, 2, 3, 0, 1, 2, 0, 3, 2, 4)


def mixed(groups: int) -> dict[str, Any]:
    """Make a scenario of so many groups of about 1 GiB, ten to a slice."""
    places = [
        {"path": f"slice-{number // 10}/group-{number}", **_MIXED[_SHARES[number % len(_SHARES)]]}
        for number in range(groups)
    ]
    return {
        "profile": "v2",
        "memory_bytes": f"{2 * groups}G",
        "swap": {"size_bytes": f"{groups}G"},
        "groups": places,
    }


def run(groups: int, seconds: int) -> float:
    """Simulate, and return the seconds of CPU."""
    machine = scenarios.Scenario.model_validate(mixed(groups)).machine()
    began = time.process_time()
    for _ in range(seconds):
        machine.advance(1.0)
    return time.process_time() - began


def measure(_folder: Path, extent: Extent) -> Tables:
    """Measure each size in a separate process, so that its memory is that of the machine."""
    seconds = extent.count(3600)
    figures = {groups: _apart(groups, seconds) for groups in (100, 1000)}
    (small, _), (took, peak) = figures[100], figures[1000]
    return {
        "Simulating 1000 groups of 1 GiB, an hour at 1 s": [
            Row("CPU time", took, "s", "<=", 60),
            Row("resident at most", peak, "MiB", "<=", 300),
            Row("a group and tick", took / (1000 * seconds) * 1e6, "us"),
            Row("time of 1000 groups, that of 100 = 1", took / small, ""),
        ]
    }


def _apart(groups: int, seconds: int) -> tuple[float, float]:
    program = f"from bench import simulating as s; print(s.run({groups}, {seconds}), s.peak_mib())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    took, peak = map(float, done.stdout.split())
    return took, peak


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
