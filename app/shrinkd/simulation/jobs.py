"""Run simulations as cancellable jobs with progress, each in a process of its own.

The last hundred are kept in memory, and none is kept over a restart of the daemon: a simulation
changes nothing, and the same plan gives the same report again.
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

_MAX_RUNNING, _MAX_QUEUED, _MAX_STORED = 2, 16, 100
_NICE = 10


@dataclass(slots=True)
class Simulation:
    """One simulation. Times in microseconds since the epoch; `done_ratio` is 0 to 1."""

    plan: Plan
    owner: str = ""
    """The name of the caller who submitted it."""
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
    """Start `shrinkd simulate` in a new process.

    With -P, for -m alone would import a package of that name from the working directory.
    """
    program = [sys.executable, "-P", "-m", __name__.partition(".")[0], "simulate"]
    pipe = subprocess.PIPE
    # no argument comes from a client
    return subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True)  # noqa: S603


def no_simulation(simulation_id: str) -> SimulationNotFound:
    """Make the error for an unknown id."""
    return SimulationNotFound(
        f"There is no simulation {simulation_id!a}: the last {_MAX_STORED} are stored, and none "
        "over a restart of the daemon."
    )


class SimulationJobs:
    """All simulations of one daemon. Thread-safe."""

    def __init__(self, publish: Publish = discard) -> None:
        self._all: OrderedDict[str, Simulation] = OrderedDict()
        self._lock = threading.Lock()
        self._workers = ThreadPoolExecutor(_MAX_RUNNING, thread_name_prefix="simulation")
        self._publish = publish

    def submit(self, plan: Plan, owner: str = "", *, dry_run: bool = False) -> Simulation:
        """Queue a simulation.

        Raises TooManySimulations when the queue is full, or half full with those of one owner.
        """
        simulation = Simulation(plan, owner)
        with self._lock:
            active = sum(not each.done for each in self._all.values())
            if active >= _MAX_RUNNING + _MAX_QUEUED:
                raise TooManySimulations(
                    f"{active} simulations run or wait already: try again when some have finished.",
                    active=active,
                )
            own = (
                sum(each.owner == owner and not each.done for each in self._all.values())
                if owner
                else 0
            )
            if own >= (_MAX_RUNNING + _MAX_QUEUED) // 2:
                raise TooManySimulations(
                    f"{own} simulations of {owner} run or wait already: try again when some have "
                    "finished.",
                    active=own,
                )
            if dry_run:
                return simulation
            for finished in [each.id for each in self._all.values() if each.done][
                : max(len(self._all) - _MAX_STORED + 1, 0)
            ]:
                del self._all[finished]
            self._all[simulation.id] = simulation
            self._publish_state(simulation)
        self._workers.submit(self._run, simulation)
        return simulation

    def get(self, simulation_id: str) -> Simulation:
        """Return a simulation. Raises SimulationNotFound."""
        try:
            return self._all[simulation_id]
        except KeyError:
            raise no_simulation(simulation_id) from None

    def newest(self) -> list[Simulation]:
        """List the stored simulations, the newest first."""
        with self._lock:
            return list(reversed(self._all.values()))

    def cancel(self, simulation_id: str, *, dry_run: bool = False) -> Simulation:
        """Cancel a simulation that waits or runs; one that is done stays as it is."""
        simulation = self.get(simulation_id)
        with self._lock:
            if not simulation.done and not dry_run:
                self._end(simulation, "cancelled")
        return simulation

    def close(self) -> None:
        """End all simulations as interrupted, and wait for their processes."""
        with self._lock:
            for simulation in self._all.values():
                if not simulation.done:
                    self._end(simulation, "interrupted")
        self._workers.shutdown(wait=True)

    def _end(self, simulation: Simulation, state: str, *, error: str | None = None) -> None:
        simulation.state, simulation.finished_at, simulation.error = state, now(), error
        self._publish_state(simulation)
        if simulation.process is not None:
            simulation.process.kill()

    def _publish_state(self, simulation: Simulation) -> None:
        self._publish(
            EventType.SIMULATION_STATE, simulation_id=simulation.id, state=simulation.state
        )

    def _run(self, simulation: Simulation) -> None:
        with self._lock:
            if simulation.done:
                return
            simulation.state, simulation.started_at = "running", now()
            self._publish_state(simulation)
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
            failure = self._communicate(simulation, process)
        with self._lock:
            if not simulation.done:
                self._end(
                    simulation,
                    "succeeded" if simulation.report else "failed",
                    error=None if simulation.report else failure,
                )

    def _communicate(self, simulation: Simulation, process: subprocess.Popen[str]) -> str:
        """Send the plan, store progress and report; return the last line of the error output."""
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin and stdout and stderr  # noqa: PT018, S101  # they are pipes
        # it may end before it has read all: its error output says why
        with suppress(BrokenPipeError), stdin:
            stdin.write(simulation.plan.model_dump_json(exclude_unset=True))
        for line in stdout:
            message = json.loads(line)
            simulation.done_ratio = message.get("done_ratio", simulation.done_ratio)
            simulation.report = message.get("report")
        return stderr.read().strip().rpartition("\n")[2]


def run_plan(text: str) -> Iterator[str]:
    """Run a plan given as JSON; yield a line of JSON for each progress, the last with the report.

    Runs in the process of a simulation, at a low priority. Raises pydantic.ValidationError.
    """
    os.nice(_NICE)
    for result in simulate(Plan.model_validate_json(text)):
        message = (
            {"done_ratio": 1.0, "report": asdict(result)}
            if isinstance(result, Report)
            else {"done_ratio": round(result, 4)}
        )
        yield json_line(message)
