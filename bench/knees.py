"""Compare pressure with the laws of senpai and oomd on a real v2 kernel with zram.

The same workload runs three times at once on one machine. Each group touches some of its memory all
the time, some now and then, and the rest never. An ideal law takes the rest and nothing else. The
results are how near a law comes, how soon, and the stall of the group as the kernel counts it.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.laws import PUBLISHED
from bench.table import Extent, Row, Tables, median
from shrinkd.backends import Backend, Group
from shrinkd.policies import Kind, Member, Observation, Reclaim, Resize
from shrinkd.policies.kinds.pressure import KeepPressure
from shrinkd.policies.readings import host_of
from tests.backends import v2_host
from tests.backends.hosts import MIB, opened
from tests.support.cgroup_host import CgroupHost, swap_device, swap_for_tests
from tests.support.live_server import Daemon

_HOT, _WARM, _COLD = 32 * MIB, 48 * MIB, 128 * MIB
_WARM_SECONDS = 30.0
_FLOOR = 16 * MIB
_SECONDS = 300.0
_WINDOW_SECONDS = 60.0
_LAWS = ("senpai", "oomd, immediate back-off")
_TOUCHING = """
import mmap, os, signal, sys, time
pattern, held = os.urandom(2048) + bytes(2048), []
for size in map(int, sys.argv[1:4]):
    held.append(mmap.mmap(-1, size))
    for at in range(0, size, 4096):
        held[-1][at:at + 4096] = pattern
print("ready", flush=True)
passes = []
def end(*_):
    passes.sort()
    print(passes[len(passes) * 99 // 100] * 1e3, flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
due = [0.0, time.monotonic() + float(sys.argv[4])]
while True:
    for index, every in enumerate((1.0, float(sys.argv[4]))):
        if time.monotonic() >= due[index]:
            due[index] = time.monotonic() + every
            began = time.monotonic()
            for at in range(0, len(held[index]), 4096):
                held[index][at]
            passes.append((time.monotonic() - began) / len(held[index]) * (1 << 20))
    time.sleep(0.1)
"""


@dataclass(slots=True)
class _Law:
    """A published law at work on one group, as its own daemon would be.

    It reads, decides and writes the control file.
    """

    kind: Kind
    group: Group
    state: Any = None
    due: float = 0.0

    def look(self, backend: Backend) -> None:
        now = time.monotonic()
        if now < self.due:
            return
        self.state = self.state or self.kind.state()
        member = Member(self.group, backend.stat(self.group), _FLOOR, None, None)
        seen = Observation(now, datetime.now(UTC), host_of(backend), (member,))
        self.state, (decision,) = self.kind.decide(self.kind.spec(), self.state, seen)
        self.due = now + decision.look_seconds
        folder = Path(backend.node().root, self.group.path)
        if isinstance(decision.ask, Resize):
            (folder / "memory.high").write_text(str(decision.ask.limits["high_bytes"]))
        elif isinstance(decision.ask, Reclaim):
            with suppress(BlockingIOError):  # it came short
                (folder / "memory.reclaim").write_text(str(decision.ask.reclaim_bytes))


@dataclass(slots=True)
class _Course:
    """Usage in bytes and total stall in microseconds of a group, once a second."""

    seconds: list[float] = field(default_factory=list)
    usage_bytes: list[int] = field(default_factory=list)
    stalled_us: list[int] = field(default_factory=list)
    p99_ms: float = 0.0
    """Of the time that it took to touch a MiB, which is what the group itself has of all this."""

    def note(self, at: float, backend: Backend, group: Group) -> None:
        stat = backend.stat(group)
        self.seconds.append(at)
        self.usage_bytes.append(stat.usage_bytes)
        self.stalled_us.append(stat.pressure.some.total_microseconds if stat.pressure else 0)

    @property
    def saved_percent(self) -> float:
        """Return the saved share of the untouched memory, the mean of the last minute."""
        last = [
            usage
            for at, usage in zip(self.seconds, self.usage_bytes, strict=True)
            if at >= self.seconds[-1] - _WINDOW_SECONDS
        ]
        return (self.usage_bytes[0] - sum(last) / len(last)) / _COLD * 100

    @property
    def mean_percent(self) -> float:
        return (
            (self.stalled_us[-1] - self.stalled_us[0]) / (self.seconds[-1] - self.seconds[0]) / 1e4
        )

    @property
    def worst_percent(self) -> float:
        """Return the stall of the worst minute in percent."""
        worst, first = 0.0, 0
        for last, at in enumerate(self.seconds):
            while at - self.seconds[first] > _WINDOW_SECONDS:
                first += 1
            worst = max(
                worst, (self.stalled_us[last] - self.stalled_us[first]) / _WINDOW_SECONDS / 1e4
            )
        return worst

    def seconds_to(self, percent: float) -> float:
        goal = self.usage_bytes[0] - _COLD * percent / 100
        return next(
            (at for at, usage in zip(self.seconds, self.usage_bytes, strict=True) if usage <= goal),
            float("inf"),
        )


def absent() -> str | None:
    """Return why there is nothing to measure here, or None."""
    return v2_host.absent() or (None if swap_device() else "no swap is set apart for tests")


def measure(folder: Path, extent: Extent) -> Tables:
    """Measure; this needs cgroup v2, root and the swap of the VM."""
    with swap_for_tests():
        rounds, seconds = min(extent.rounds, 3), extent.seconds(_SECONDS)
        courses = [_tried(folder, seconds) for _ in range(rounds)]
    return {
        f"v2 with zram: pressure beside published laws, {rounds} rounds of {seconds:g} s": [
            *_rows(courses)
        ]
    }


def _rows(rounds: Sequence[dict[str, _Course]]) -> Iterator[Row]:
    target = KeepPressure().target_some_percent
    for name in rounds[0]:
        courses = [each[name] for each in rounds]
        is_ours = name == "shrinkd"
        yield Row(
            f"{name}: saved of what is never touched, median",
            median([each.saved_percent for each in courses]),
            "%",
        )
        highest = max(each.mean_percent for each in courses)
        yield Row(
            f"{name}: mean some, highest",
            highest,
            "%",
            "<=" if is_ours else "",
            target if is_ours else None,
        )
        yield Row(
            f"{name}: worst minute some, highest", max(each.worst_percent for each in courses), "%"
        )
        yield Row(
            f"{name}: p99 of touching a MiB, median",
            median([each.p99_ms for each in courses]),
            "ms",
        )
        yield Row(
            f"{name}: to 50 % saved, median", median([each.seconds_to(50) for each in courses]), "s"
        )
        yield Row(
            f"{name}: to 90 % saved, median", median([each.seconds_to(90) for each in courses]), "s"
        )


def _tried(folder: Path, seconds: float) -> dict[str, _Course]:
    """Run one round of all laws at once, so that each has the same neighbours."""
    with ExitStack() as stack:
        host = stack.enter_context(opened("v2"))
        workers = {name: _Worker(stack, host) for name in ("shrinkd", *_LAWS, "nobody")}
        groups = {name: worker.group for name, worker in workers.items()}
        daemon = Daemon(folder, backend="v2", subtrees=groups["shrinkd"].path)
        stack.callback(daemon.close)
        policy = {
            "name": "squeeze",
            "kind": "pressure",
            "selector": {"group": groups["shrinkd"].path},
            "floor": {"bytes": _FLOOR},
        }
        daemon.client.post("/v1/policies", json=policy).raise_for_status()
        laws = [_Law(PUBLISHED[name], groups[name]) for name in _LAWS]
        courses = {name: _Course() for name in groups}
        began = time.monotonic()
        while (at := time.monotonic() - began) < seconds:
            for name, course in courses.items():
                course.note(at, host.backend, groups[name])
            for law in laws:
                law.look(host.backend)
            time.sleep(max(began + len(courses["nobody"].seconds) - time.monotonic(), 0))
        daemon.client.delete("/v1/policies/squeeze")
        daemon.stop()
        for name, course in courses.items():
            course.p99_ms = workers[name].end()
    return courses


class _Worker:
    """A process in its own group that touches its memory."""

    def __init__(self, stack: ExitStack, host: CgroupHost[Backend]) -> None:
        self.group = host.group()
        sizes = map(str, (_HOT, _WARM, _COLD))
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.stdin.readline()\n{_TOUCHING}",
                *sizes,
                str(_WARM_SECONDS),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.defpath},
        )
        stack.callback(self._process.wait)
        stack.callback(self._process.kill)
        # not by attach(): that refuses a child of the process that has the backend
        procs = Path(host.backend.node().root, self.group.path, "cgroup.procs")
        procs.write_text(str(self._process.pid))
        assert self._process.stdin
        print("go", file=self._process.stdin, flush=True)
        self._line()

    def end(self) -> float:
        """End it, and return the 99th percentile of the milliseconds to touch a MiB."""
        self._process.terminate()
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()
