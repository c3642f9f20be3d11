"""Shrinks on real cgroup v1: overshoot, throughput beside one bare echo of the same reclaim, cancel latency.

Every round does the bare write and the shrink on the same refilled page cache, in changing order, and takes the ratio
inside of the round: the neighbours' load falls on both.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.backends._timed import timed_write
from app.errors import ShrinkFinished
from app.intents import Intents
from app.job import Request
from app.jobs import Jobs
from app.store import Store
from bench.table import Row, median
from tests.backends.hosts import MIB
from tests.backends.v1_host import V1Host, open_host

_ANON, _CACHE, _TAKEN = 96 * MIB, 512 * MIB, 400 * MIB


@dataclass(slots=True)
class _Figures:
    """What the rounds left, a number a round."""

    overshoot_bytes: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)
    primitive: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    around_seconds: list[float] = field(default_factory=list)
    cancel_seconds: list[float] = field(default_factory=list)


def measure(folder: Path, rounds: int) -> dict[str, list[Row]]:
    """Measure with folios of 4 KiB, and with those that readahead makes."""
    store = Store(f"sqlite:///{folder}/bench.db")
    store.open()
    try:
        small, large = (_figures(store, rounds, large=large) for large in (False, True))
    finally:
        store.close()
    return {"Shrink by 400 MiB, 4 KiB folios": _rows(small, worst=2, middle=2), "Shrink by 400 MiB, large folios": _rows(large)}


def _rows(figures: _Figures, *, middle: float | None = None, worst: float | None = None) -> list[Row]:
    over, cancels = figures.overshoot_bytes, figures.cancel_seconds
    return [
        Row("overshoot below the target, median", median(over) / MIB, "MiB", "<=", middle),
        Row("overshoot below the target, worst", max(over) / MIB, "MiB", "<=", worst),
        Row("throughput, one bare echo = 1, median", median(figures.ratio), "", ">=", 0.9),
        Row("the same of one bare write to memory.force_empty, which is what v1 gives us", median(figures.primitive), ""),
        Row("around the reclaim: threads and three rows written, median", median(figures.around_seconds) * 1e3, "ms"),
        Row("passes, median", median(figures.passes), ""),
        Row("from cancel() to cancelled, median", median(cancels) * 1e3, "ms", "<=", 100),
        Row("from cancel() to cancelled, worst", max(cancels) * 1e3, "ms"),
    ]


class _Bench:
    """One group with anonymous memory and page cache on a v1 host, refilled before every measurement."""

    def __init__(self, host: V1Host, jobs: Jobs, *, large: bool) -> None:
        self._host = host
        self._jobs = jobs
        self._large = large
        self._group = host.group()
        self._folder = Path(host.backend.node().root, self._group.path)
        host.charge(self._group, anon=_ANON)

    def fill(self) -> int:
        """Bring the page cache up to where every measurement starts, and answer the target that takes 400 MiB away."""
        (self._folder / "memory.force_empty").write_bytes(b"0")
        self._host.charge(self._group, cache=_CACHE, large_folios=self._large).stop()
        return self._host.backend.usage(self._group) - _TAKEN

    def bare(self) -> float:
        """Seconds of `echo TARGET > memory.limit_in_bytes` in the kernel; the limit is put back outside of the time."""
        target = self.fill()
        file = os.open(self._folder / "memory.limit_in_bytes", os.O_WRONLY)
        try:
            began = time.perf_counter()
            os.write(file, b"%d" % target)
            seconds = time.perf_counter() - began
            os.write(file, b"-1")
        finally:
            os.close(file)
        return seconds

    def primitive(self, seconds: float) -> float:
        """Bytes per second of memory.force_empty, left to itself for as long as the bare echo took, as a ratio to that."""
        before = self.fill() + _TAKEN
        file = os.open(self._folder / "memory.force_empty", os.O_WRONLY)
        try:
            began = time.perf_counter()
            timed_write(file, b"0", seconds)
            spent = time.perf_counter() - began
        finally:
            os.close(file)
        return (before - self._host.backend.usage(self._group)) / _TAKEN * seconds / spent

    def ours(self, figures: _Figures) -> float:
        """Seconds of the routine in a job; what the job costs around it stands apart."""
        target = self.fill()
        began = time.perf_counter()
        job = self._jobs.submit(self._group, Request(timeout_seconds=60, target_bytes=target))
        job.finished.result()
        progress: Any = job.row()["progress"]
        seconds: float = progress["elapsed_seconds"]
        figures.around_seconds.append(time.perf_counter() - began - seconds)
        figures.overshoot_bytes.append(target - self._host.backend.usage(self._group))
        figures.passes.append(job.progress.passes)
        return seconds

    def cancel(self) -> float:
        """Seconds from the cancel of a shrink at full speed, in its middle, to its end."""
        self.fill()
        job = self._jobs.submit(self._group, Request(timeout_seconds=60, target_bytes=_ANON + 16 * MIB))
        while not job.progress.passes and not job.state.done:
            time.sleep(0)
        began = time.perf_counter()
        with suppress(ShrinkFinished):
            self._jobs.cancel(job.id)
        job.finished.result()
        return time.perf_counter() - began


def _figures(store: Store, rounds: int, *, large: bool) -> _Figures:
    figures = _Figures()
    with open_host() as host:
        jobs = Jobs(host.backend, store, Intents(host.backend, store), 2)
        bench = _Bench(host, jobs, large=large)
        for number in range(rounds):
            bare = bench.bare() if number % 2 else 0.0
            ours = bench.ours(figures)
            bare = bare or bench.bare()
            figures.ratio.append(bare / ours)
            figures.primitive.append(bench.primitive(bare))
            figures.cancel_seconds.append(bench.cancel())
        jobs.close()
    return figures
