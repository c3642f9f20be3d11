"""Simulations as jobs: each in a process of its own that ends with it, whoever ends it."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shrinkd.errors import SimulationNotFound, TooManySimulations
from shrinkd.events.log import EventType
from shrinkd.simulation.jobs import Simulation, SimulationJobs
from shrinkd.simulation.run import Plan
from tests.simulation.test_run import SPIKES, lived
from tests.support.event_recorder import EventRecorder
from tests.support.live_server import Daemon
from tests.support.polling import until

SHORT = Plan.model_validate(SPIKES | {"duration_seconds": 20})
ENDLESS: dict[str, Any] = SPIKES | {"duration_seconds": 604800}
LONG = Plan.model_validate(ENDLESS)


@pytest.fixture
def heard() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
def simulations(heard: EventRecorder) -> Iterator[SimulationJobs]:
    simulations = SimulationJobs(heard)
    yield simulations
    simulations.close()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and has nobody to say so to does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_of(simulation: Simulation) -> int:
    until(lambda: simulation.done_ratio > 0)
    assert simulation.process
    return simulation.process.pid


def test_a_simulation_comes_to_what_it_comes_to_here_and_its_process_ends(
    simulations: SimulationJobs,
) -> None:
    simulation = simulations.submit(SHORT)
    until(lambda: simulation.done)
    assert (simulation.state, simulation.error, simulation.done_ratio) == ("succeeded", None, 1.0)
    assert simulation.report
    report = lived(**SPIKES | {"duration_seconds": 20})
    assert (simulation.report["seconds"], simulation.report["saved_bytes"]) == (
        report.seconds,
        report.saved_bytes,
    )
    assert [group["limit_hits"] for group in simulation.report["groups"]] == [
        group.limit_hits for group in report.groups
    ]
    assert simulation.created_at <= (simulation.started_at or 0) <= (simulation.finished_at or 0)
    assert simulation.process
    assert not is_alive(simulation.process.pid)


def test_one_that_is_cancelled_ends_with_its_process_and_one_that_waits_never_begins(
    simulations: SimulationJobs,
) -> None:
    running = [simulations.submit(LONG), simulations.submit(LONG)]
    pids = [pid_of(simulation) for simulation in running]
    waiting = simulations.submit(SHORT)
    assert [simulations.cancel(simulation.id).state for simulation in (waiting, *running)] == [
        "cancelled"
    ] * 3
    until(lambda: not any(is_alive(pid) for pid in pids))
    after = simulations.submit(SHORT)
    until(lambda: after.done)
    assert (waiting.process, waiting.started_at, after.state) == (None, None, "succeeded")
    assert [simulation.state for simulation in running] == ["cancelled"] * 2


def test_a_trial_of_a_cancel_and_a_cancel_that_comes_late_change_nothing(
    simulations: SimulationJobs,
) -> None:
    simulation = simulations.submit(SHORT)
    assert simulations.cancel(simulation.id, dry_run=True).state in {
        "queued",
        "running",
        "succeeded",
    }
    until(lambda: simulation.done)
    assert simulations.cancel(simulation.id).state == "succeeded"


def test_one_whose_process_dies_has_failed_and_makes_room(simulations: SimulationJobs) -> None:
    simulation = simulations.submit(LONG)
    os.kill(pid_of(simulation), 9)
    until(lambda: simulation.done)
    assert (simulation.state, simulation.report) == ("failed", None)


def test_one_for_which_no_process_can_be_started_has_failed_and_says_why(
    simulations: SimulationJobs,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        simulation = simulations.submit(SHORT)
        until(lambda: simulation.done)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (simulation.state, simulation.error) == (
        "failed",
        "no process could be started for it: Too many open files",
    )


def test_when_enough_of_them_wait_the_next_is_refused_and_a_trial_takes_no_place(
    simulations: SimulationJobs,
) -> None:
    for _ in range(17):
        simulations.submit(LONG)
    assert simulations.submit(LONG, dry_run=True).state == "queued"
    simulations.submit(LONG)
    with pytest.raises(TooManySimulations) as refused:
        simulations.submit(SHORT)
    assert refused.value.members == {"active": 18}
    assert len(simulations.newest()) == 18


def test_nobody_has_more_than_half_of_the_room(simulations: SimulationJobs) -> None:
    for _ in range(9):
        simulations.submit(LONG, "uid:1")
    with pytest.raises(TooManySimulations, match="9 simulations of uid:1"):
        simulations.submit(SHORT, "uid:1")
    assert simulations.submit(LONG, "uid:2").state == "queued"


def test_the_last_hundred_are_kept_the_newest_first(simulations: SimulationJobs) -> None:
    made = []
    for _ in range(103):
        made.append(simulations.submit(LONG).id)
        simulations.cancel(made[-1])
    assert [simulation.id for simulation in simulations.newest()] == made[:2:-1]
    with pytest.raises(SimulationNotFound):
        simulations.get(made[2])


def test_a_close_interrupts_what_runs_and_what_waits() -> None:
    simulations = SimulationJobs()
    running = [simulations.submit(LONG), simulations.submit(LONG)]
    pids = [pid_of(simulation) for simulation in running]
    waiting = simulations.submit(LONG)
    simulations.close()
    assert {simulation.state for simulation in (waiting, *running)} == {"interrupted"}
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_process_of_a_simulation_ends_when_the_daemon_does(
    daemon: Callable[..., Daemon], how: str
) -> None:
    it = daemon()
    made = it.client.post("/v1/simulations", json=ENDLESS).json()
    until(lambda: it.client.get(made["links"]["self"]).json()["done_ratio"] > 0)
    children = Path(f"/proc/{it.pid}/task").glob("*/children")
    (pid,) = [int(pid) for file in children for pid in file.read_text().split()]
    assert is_alive(pid)
    getattr(it, how)()
    until(lambda: not is_alive(pid))


def test_the_states_of_a_simulation_are_told(
    simulations: SimulationJobs, heard: EventRecorder
) -> None:
    simulation = simulations.submit(LONG)
    until(lambda: simulation.process)
    simulations.cancel(simulation.id)
    assert heard.of(EventType.SIMULATION_STATE, "simulation_id", "state") == [
        (simulation.id, state) for state in ("queued", "running", "cancelled")
    ]
    simulations.close()
