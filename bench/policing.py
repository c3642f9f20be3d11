"""Measure policies on a real kernel.

Does a watermark keep writers off their limit, and what do a thousand idle watched groups cost? The
daemon is a separate process, as an operator starts it; its CPU time is read from the kernel.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.table import Extent, Row, Tables
from shrinkd.backends import load
from shrinkd.settings import Settings
from tests.support.live_server import Daemon

_LIMIT = 256 << 20
_SECONDS = 15.0
_IDLE_SECONDS = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")
_FILLER = """
import os, sys, time
rate, file = int(sys.argv[1]) << 20, os.open(sys.argv[2], os.O_RDONLY)
buffer = memoryview(bytearray(1 << 20))
os.posix_fadvise(file, 0, 0, getattr(os, sys.argv[4]))
sys.stdin.readline()
began, done, waits = time.monotonic(), 0, []
while True:
    before = time.monotonic()
    os.preadv(file, [buffer], done)
    waits.append(time.monotonic() - before)
    done += len(buffer)
    time.sleep(max(began + done / rate - time.monotonic(), 0))
    if before - began > float(sys.argv[3]):
        break
waits.sort()
print(done, waits[len(waits) * 99 // 100] * 1e3)
"""


def measure_watermark(folder: Path, extent: Extent) -> Tables:
    """Measure a watermark; this needs cgroup v1 and root."""
    return {"Watermarks, cgroup v1": [*_watermarks(folder, extent)]}


def measure_idle(folder: Path, extent: Extent) -> Tables:
    """Measure idle groups; this needs cgroup v1 and root."""
    return {"Idle groups under policies, cgroup v1": [*_idle(folder, extent)]}


@dataclass(frozen=True, slots=True)
class _Writing:
    """A writer of page cache under a watermark.

    MiB/s, the high mark, how the cache is charged, and whether the CPUs are apart.
    """

    rate: int
    low: str
    advice: str
    apart: bool = False

    @property
    def is_by_page(self) -> bool:
        """Return True for 4 KiB folios.

        Their reclaim takes 35 times the CPU of that of large folios, which readahead and writes
        make, so there is no goal for the CPU.
        """
        return self.advice == "RANDOM"


_WRITINGS = (
    _Writing(64, "85%", "SEQUENTIAL"),
    _Writing(256, "85%", "SEQUENTIAL"),
    _Writing(256, "85%", "SEQUENTIAL", apart=True),
    _Writing(256, "75%", "SEQUENTIAL"),
    _Writing(256, "85%", "RANDOM"),
)


def _watermarks(folder: Path, extent: Extent) -> Iterator[Row]:
    seconds = extent.seconds(_SECONDS, least=0.5)
    for writing in _WRITINGS[: extent.count(len(_WRITINGS))]:
        name = f"{writing.rate} MiB/s of cache under 256 MiB, low {writing.low}"
        name += (", page by page" if writing.is_by_page else "") + (
            ", CPUs apart" if writing.apart else ""
        )
        goal = None if writing.is_by_page else 2
        without, _, slow = _fill(folder, extent, writing, has_policy=False)
        hits, cpu, slower = _fill(folder, extent, writing, has_policy=True)
        yield Row(f"{name}: limit hits in {seconds:g} s without a policy", without, "")
        yield Row(f"{name}: limit hits in {seconds:g} s with a watermark", hits, "", "<=", 0)
        yield Row(
            f"{name}: the daemon's CPU, its reclaim included",
            cpu,
            "% of a core",
            "<=" if goal else "",
            goal,
        )
        yield Row(f"{name}: p99 of a read of 1 MiB, with to without", slower / slow, "x")


def _fill(
    folder: Path, extent: Extent, writing: _Writing, *, has_policy: bool
) -> tuple[int, float, float]:
    """Return limit hits, CPU of the daemon in percent, and p99 of a read in milliseconds.

    `apart` gives the writer the first CPU and the daemon the others. On one CPU the kernel charges
    the daemon for what the writer still does in the read that woke it: 1.8 ms of a read of 1 MiB.
    """
    seconds, rate = extent.seconds(_SECONDS, least=0.5), writing.rate
    with ExitStack() as stack:
        hole = folder / "hole"
        with hole.open("wb") as file:
            file.truncate(int((seconds + 5) * rate) << 20)
        stack.callback(hole.unlink)
        group = stack.enter_context(_group(f"shrinkd-bench-{os.getpid()}"))
        (group / "memory.limit_in_bytes").write_text(str(_LIMIT))
        daemon = stack.enter_context(_daemon(folder))
        if has_policy:
            spec = {"low": writing.low}
            policy = {
                "name": "room",
                "kind": "watermark",
                "selector": {"group": group.name},
                "floor": {"bytes": 0},
                "spec": spec,
            }
            daemon.client.post("/v1/policies", json=policy).raise_for_status()
        filler = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _FILLER,
                str(rate),
                str(hole),
                str(seconds),
                f"POSIX_FADV_{writing.advice}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        (group / "cgroup.procs").write_text(str(filler.pid))
        if writing.apart:
            first, *others = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(filler.pid, {first})
            for task in Path(f"/proc/{daemon.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), others)
        time.sleep(1)
        began = _cpu_seconds(daemon.pid)
        done, p99 = filler.communicate("go\n")[0].split()
        cpu = (_cpu_seconds(daemon.pid) - began) / seconds * 100
        if extent.is_whole:
            assert int(done) > 0.9 * (rate << 20) * seconds, (
                f"this machine is too slow to fill {rate} MiB/s"
            )
        return int((group / "memory.failcnt").read_text()), cpu, float(p99)


def _idle(folder: Path, extent: Extent) -> Iterator[Row]:
    """Watch a thousand groups with a little memory under a watermark and a pressure policy.

    A plain poll of them is measured beside.
    """
    groups, seconds = extent.count(1000), extent.seconds(_IDLE_SECONDS, least=0.5)
    with ExitStack() as stack:
        top = stack.enter_context(_group(f"shrinkd-idle-{os.getpid()}"))
        for number in range(groups):
            inner = stack.enter_context(_group(f"{top.name}/g{number}"))
            (inner / "memory.limit_in_bytes").write_text(str(_LIMIT))
        daemon = stack.enter_context(_daemon(folder))
        for policy in (
            {"name": "room", "kind": "watermark"},
            {"name": "squeeze", "kind": "pressure"},
        ):
            daemon.client.post(
                "/v1/policies", json=policy | {"selector": {"parent": top.name}}
            ).raise_for_status()
        time.sleep(extent.seconds(10))
        began = _cpu_seconds(daemon.pid)
        time.sleep(seconds)
        cpu = (_cpu_seconds(daemon.pid) - began) / seconds * 100
        resident = next(
            line
            for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        yield Row(f"{groups} idle groups under two policies: CPU", cpu, "% of a core", "<=", 2)
        yield Row(
            f"{groups} idle groups under two policies: resident",
            int(resident.split()[1]) / 1024,
            "MiB",
            "<=",
            120,
        )
        yield Row(
            f"{groups} idle groups polled each second, usage and stat: CPU",
            _poll_cost(top.name),
            "% of a core",
        )


def _poll_cost(top: str) -> float:
    backend = load("v1")(Settings(backend="v1"))
    found = backend.groups(top)[1:]
    for group in found:
        backend.stat(group)
    began = time.thread_time()
    for group in found:
        backend.stat(group)
    cost = (time.thread_time() - began) * 100
    backend.close()
    return cost


@contextmanager
def _group(name: str) -> Iterator[Path]:
    path = Path("/sys/fs/cgroup/memory", name)
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


@contextmanager
def _daemon(folder: Path) -> Iterator[Daemon]:
    daemon = Daemon(folder, backend="v1", subtrees="shrinkd-*")
    try:
        yield daemon
    finally:
        for policy in daemon.client.get("/v1/policies").json()["items"]:
            daemon.client.delete(f"/v1/policies/{policy['name']}")
        daemon.stop()
        daemon.close()


def _cpu_seconds(pid: int) -> float:
    """Return user and system time of a process: fields 14 and 15 of proc(5).

    Those of its ended children are left out.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
