"""Measure shrinks on a real controller: overshoot, throughput and latency of a cancel.

Throughput is relative to one bare write of the same reclaim. Every round does the bare writes and
the shrink on the same refilled page cache, in changing order, and takes the ratio within the round,
so that the load of neighbours falls on both.
"""

import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.table import Extent, Row, Tables, median
from shrinkd.backends import Backend
from shrinkd.backends.cgroup.timed_write import timed_write
from shrinkd.errors import ShrinkFinished
from shrinkd.events.bus import discard
from shrinkd.groups.limit_journal import LimitJournal
from shrinkd.groups.limits import GroupLimits
from shrinkd.groups.locks import GroupLocks
from shrinkd.shrinks.queue import ShrinkQueue
from shrinkd.shrinks.run import Request
from shrinkd.storage import Store
from tests.backends.hosts import MIB, opened
from tests.support.cgroup_host import CgroupHost

_ANON, _CACHE, _TAKEN = 96 * MIB, 512 * MIB, 400 * MIB
_NO_LIMIT = 1 << 62
_EMPTYING = {"v1": ("memory.force_empty", b"0"), "v2": ("memory.reclaim", b"1T")}
_BARE: dict[str, dict[str, Callable[[int], int]]] = {
    "v1": {"memory.limit_in_bytes": lambda target: target},
    "v2": {"memory.reclaim": lambda _: _TAKEN, "memory.max": lambda target: target},
}
"""What an operator would write instead, and the number in it for a target; the first is the one to
be measured by."""


@dataclass(slots=True)
class _Figures:
    """Results of the rounds, a number a round."""

    overshoot_bytes: list[float] = field(default_factory=list)
    ratio: dict[str, list[float]] = field(default_factory=dict)
    primitive: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    around_seconds: list[float] = field(default_factory=list)
    cancel_seconds: list[float] = field(default_factory=list)


def measure(folder: Path, extent: Extent, kernel: str, *, large: bool) -> Tables:
    """Measure on the host v1 or v2, with folios of 4 KiB or with those that readahead makes."""
    with closing(Store(f"sqlite:///{folder}/bench.db")) as store:
        store.open()
        figures = _figures(store, extent.rounds, kernel, large=large)
    bounds = {} if large else {"worst": 2.0, "middle": 2.0}
    return {
        f"{kernel}: shrink by 400 MiB, {'large' if large else '4 KiB'} folios": _rows(
            figures, **bounds
        )
    }


def _rows(
    figures: _Figures, *, middle: float | None = None, worst: float | None = None
) -> list[Row]:
    over, cancels = figures.overshoot_bytes, figures.cancel_seconds
    return [
        Row("overshoot below the target, median", median(over) / MIB, "MiB", "<=", middle),
        Row("overshoot below the target, worst", max(over) / MIB, "MiB", "<=", worst),
        *(
            Row(f"throughput, one bare write to {name} = 1, median", median(each), "", ">=", 0.9)
            for name, each in figures.ratio.items()
        ),
        *(
            Row(f"the same of {_EMPTYING['v1'][0]}, which is what v1 gives us", median(each), "")
            for each in [figures.primitive]
            if each
        ),
        Row(
            "around the reclaim: threads and three rows written, median",
            median(figures.around_seconds) * 1e3,
            "ms",
        ),
        Row("passes, median", median(figures.passes), ""),
        Row("from cancel() to cancelled, median", median(cancels) * 1e3, "ms", "<=", 100),
        Row("from cancel() to cancelled, worst", max(cancels) * 1e3, "ms"),
    ]


class _Bench:
    """One group with anonymous memory and page cache, refilled before every measurement."""

    def __init__(self, host: CgroupHost[Backend], jobs: ShrinkQueue, *, large: bool) -> None:
        self._host = host
        self._emptying = _EMPTYING[host.backend.name]
        self._jobs = jobs
        self._large = large
        self._group = host.group()
        self._folder = Path(host.backend.node().root, self._group.path)
        host.charge(self._group, anon=_ANON)

    def fill(self) -> int:
        """Refill the page cache, and return the target that takes 400 MiB away."""
        self._write(*self._emptying)
        self._host.charge(self._group, cache=_CACHE, large_folios=self._large).stop()
        return self._host.backend.usage(self._group) - _TAKEN

    def bare(self, name: str, number: Callable[[int], int]) -> float:
        """Return the seconds of `echo N > NAME` in the kernel. The limit is restored untimed."""
        seconds = self._write(name, b"%d" % number(self.fill()))
        self._host.write_limit(self._group, _NO_LIMIT)
        return seconds

    def _write(self, name: str, text: bytes) -> float:
        file = os.open(self._folder / name, os.O_WRONLY)
        try:
            began = time.perf_counter()
            with suppress(BlockingIOError):  # it came short
                os.write(file, text)
            return time.perf_counter() - began
        finally:
            os.close(file)

    def primitive(self, seconds: float) -> float:
        """Return the speed of memory.force_empty relative to the bare echo.

        It runs for as long as that took.
        """
        before = self.fill() + _TAKEN
        name, text = self._emptying
        file = os.open(self._folder / name, os.O_WRONLY)
        try:
            began = time.perf_counter()
            timed_write(file, text, seconds)
            spent = time.perf_counter() - began
        finally:
            os.close(file)
        return (before - self._host.backend.usage(self._group)) / _TAKEN * seconds / spent

    def ours(self, figures: _Figures) -> float:
        """Return the seconds of the routine in a job, without those of the job around it."""
        target = self.fill()
        began = time.perf_counter()
        job = self._jobs.submit(self._group, Request(timeout_seconds=60, target_bytes=target))
        job.finished.result()
        progress: Any = job.row().progress
        seconds: float = progress["elapsed_seconds"]
        figures.around_seconds.append(time.perf_counter() - began - seconds)
        figures.overshoot_bytes.append(target - self._host.backend.usage(self._group))
        figures.passes.append(job.progress.passes)
        return seconds

    def cancel(self) -> float:
        """Return the seconds from the cancel of a shrink at full speed to its end."""
        self.fill()
        job = self._jobs.submit(
            self._group, Request(timeout_seconds=60, target_bytes=_ANON + 16 * MIB)
        )
        while not job.progress.passes and not job.state.done:
            time.sleep(0)
        began = time.perf_counter()
        with suppress(ShrinkFinished):
            self._jobs.cancel(job.id)
        job.finished.result()
        return time.perf_counter() - began


def _figures(store: Store, rounds: int, kernel: str, *, large: bool) -> _Figures:
    figures = _Figures(ratio={name: [] for name in _BARE[kernel]})
    with opened(kernel) as host:
        journal = LimitJournal(host.backend, store.limit_intents)
        limits = GroupLimits(host.backend, journal, GroupLocks(), discard)
        jobs = ShrinkQueue(store.shrinks, limits, discard, 2)
        bench = _Bench(host, jobs, large=large)
        for number in range(rounds):
            bare = (
                {name: bench.bare(name, amount) for name, amount in _BARE[kernel].items()}
                if number % 2
                else {}
            )
            ours = bench.ours(figures)
            bare = bare or {
                name: bench.bare(name, amount) for name, amount in _BARE[kernel].items()
            }
            for name, seconds in bare.items():
                figures.ratio[name].append(seconds / ours)
            if kernel == "v1":
                figures.primitive.append(bench.primitive(next(iter(bare.values()))))
            figures.cancel_seconds.append(bench.cancel())
        jobs.close()
    return figures
