"""Simulations as jobs.

Each in a process of its own, so that none takes the daemon's time, with progress, a cancel and a
report.

They are kept in memory: the last hundred, and none beyond the daemon's life. A simulation changes
nothing, so it is said again.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from shrinkd.errors import SimulationNotFound, TooManySimulations
from shrinkd.events import EventType, Publish, discard
from shrinkd.simulation.run import Plan, Report, simulate
from shrinkd.storage import now
from shrinkd.terminal import json_line

_RUNNING, _WAITING, _KEPT = 2, 16, 100
_NICE = 10


@dataclass(slots=True)
class Simulation:
    """One simulation. Times in microseconds since the epoch; `done_ratio` is 0 to 1."""

    plan: Plan
    owner: str = ""
    """The name of the caller whose it is."""
    id: str = field(
        default_factory=lambda: f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
    )
    state: str = "queued"
    done_ratio: float = 0.0
    report: dict[str, Any] | None = None
    error: str | None = None
    created_at: int = field(default_factory=now)
    started_at: int | None = None
    finished_at: int | None = None
    process: subprocess.Popen[str] | None = None

    @property
    def done(self) -> bool:
        return self.state not in {"queued", "running"}


def _start() -> subprocess.Popen[str]:
    """Start this program anew.

    With -P, for -m alone would look for it in the working directory first, and run what it finds
    there.
    """
    program, pipe = (
        [sys.executable, "-P", "-m", __name__.partition(".")[0], "simulate"],
        subprocess.PIPE,
    )
    return subprocess.Popen(
        program, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )  # no word of it is a client's


def no_simulation(simulation_id: str) -> SimulationNotFound:
    return SimulationNotFound(
        f"There is no simulation {simulation_id!a}; the last {_KEPT} are kept, and none over a "
        "restart."
    )


class SimulationJobs:
    """All simulations of one daemon."""

    def __init__(self, publish: Publish = discard) -> None:
        self._publish = publish
        self._all: OrderedDict[str, Simulation] = OrderedDict()
        self._lock = threading.Lock()
        self._workers = ThreadPoolExecutor(_RUNNING, thread_name_prefix="simulation")

    def submit(self, plan: Plan, owner: str = "", *, dry_run: bool = False) -> Simulation:
        """Queue a simulation.

        TooManySimulations when enough of them wait, or half as many with the same owner.
        """
        simulation = Simulation(plan, owner)
        with self._lock:
            active = sum(not each.done for each in self._all.values())
            if active >= _RUNNING + _WAITING:
                raise TooManySimulations(
                    f"{active} simulations run or wait already: try again when some have finished.",
                    active=active,
                )
            own = (
                sum(each.owner == owner and not each.done for each in self._all.values())
                if owner
                else 0
            )
            if own >= (_RUNNING + _WAITING) // 2:
                raise TooManySimulations(
                    f"{own} simulations of {owner} run or wait already: the rest is for others.",
                    active=own,
                )
            if dry_run:
                return simulation
            for finished in [each.id for each in self._all.values() if each.done][
                : max(len(self._all) - _KEPT + 1, 0)
            ]:
                del self._all[finished]
            self._all[simulation.id] = simulation
            self._tell(simulation)
        self._workers.submit(self._run, simulation)
        return simulation

    def get(self, simulation_id: str) -> Simulation:
        """One simulation. SimulationNotFound."""
        try:
            return self._all[simulation_id]
        except KeyError:
            raise no_simulation(simulation_id) from None

    def newest(self) -> list[Simulation]:
        """All that are kept, the newest first."""
        with self._lock:
            return list(reversed(self._all.values()))

    def cancel(self, simulation_id: str, *, dry_run: bool = False) -> Simulation:
        """End one that waits or runs; one that is done stays as it is."""
        simulation = self.get(simulation_id)
        with self._lock:
            if not simulation.done and not dry_run:
                self._end(simulation, "cancelled")
        return simulation

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            for simulation in self._all.values():
                if not simulation.done:
                    self._end(simulation, "interrupted")
        self._workers.shutdown(wait=True)

    def _end(self, simulation: Simulation, state: str, *, error: str | None = None) -> None:
        simulation.state, simulation.finished_at, simulation.error = state, now(), error
        self._tell(simulation)
        if simulation.process is not None:
            simulation.process.kill()

    def _tell(self, simulation: Simulation) -> None:
        self._publish(
            EventType.SIMULATION_STATE, simulation_id=simulation.id, state=simulation.state
        )

    def _run(self, simulation: Simulation) -> None:
        with self._lock:
            if simulation.done:
                return
            simulation.state, simulation.started_at = "running", now()
            self._tell(simulation)
            try:
                simulation.process = _start()
            except OSError as error:
                self._end(
                    simulation,
                    "failed",
                    error=f"no process could be started for it: {error.strerror}",
                )
                return
        with simulation.process as process:
            said = self._listen(simulation, process)
        with self._lock:
            if not simulation.done:
                self._end(
                    simulation,
                    "succeeded" if simulation.report else "failed",
                    error=None if simulation.report else said,
                )

    def _listen(self, simulation: Simulation, process: subprocess.Popen[str]) -> str:
        """Hand the plan over and take the news in; answer what it said when it failed."""
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin and stdout and stderr  # they are pipes
        # It may end before it has read all: what it says of that follows.
        with suppress(BrokenPipeError), stdin:
            stdin.write(simulation.plan.model_dump_json(exclude_unset=True))
        for line in stdout:
            news = json.loads(line)
            simulation.done_ratio = news.get("done_ratio", simulation.done_ratio)
            simulation.report = news.get("report")
        return stderr.read().strip().rpartition("\n")[2]


def lines(text: str) -> Iterator[str]:
    """What the process of a simulation says for a plan.

    Its progress, then its report. pydantic.ValidationError.
    """
    os.nice(_NICE)
    for news in simulate(Plan.model_validate_json(text)):
        told = (
            {"done_ratio": 1.0, "report": asdict(news)}
            if isinstance(news, Report)
            else {"done_ratio": round(news, 4)}
        )
        yield json_line(told)
