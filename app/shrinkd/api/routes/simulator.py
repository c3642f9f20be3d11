"""The simulated machine: its workloads, its clock and its faults; 404 on a real kernel."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from shrinkd.api.http.dependencies import (
    Administrating,
    AllParts,
    Changeable,
    DryRun,
    ReadingAll,
    Target,
)
from shrinkd.api.http.etags import changed, check_preconditions, etag_of, tagged
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import UNCHANGED, refuses, sends
from shrinkd.api.routes.groups import TRIED, done
from shrinkd.api.routes.simulator_bodies import (
    AClockChange,
    AFault,
    AWorkload,
    ClockBody,
    ClockChange,
    FaultsBody,
    SimulatorBody,
    WorkloadBody,
    clock_body,
    faults_body,
    workload_body,
)
from shrinkd.backends import (
    IDLE,
    Group,
    Simulated,
    Workload,
    scenario_names,
    simulated,
)
from shrinkd.errors import GroupBusy, NotSimulator, PreconditionFailed


async def _simulated(parts: AllParts) -> Simulated:
    return simulated(parts.backend)


Machine = Annotated[Simulated, Depends(_simulated)]
router = APIRouter(route_class=StrictRoute, tags=["simulator"], dependencies=[Depends(_simulated)])


@router.get(
    "/v1/simulator",
    operation_id="get_simulator",
    response_model=SimulatorBody,
    responses=UNCHANGED | refuses(NotSimulator),
)
async def get_simulator(request: Request, parts: AllParts, machine: Machine) -> Response:
    """Read the scenario, and the kernel whose rules the simulator follows."""
    scenario = machine.scenario
    return tagged(
        request,
        SimulatorBody(
            scenario=parts.settings.scenario,
            profile=scenario.profile,
            seed=scenario.seed,
            gallery=scenario_names(),
        ),
    )


@router.get(
    "/v1/simulator/groups/{group:reference}/workload",
    operation_id="get_workload",
    response_model=WorkloadBody,
    responses=UNCHANGED | refuses(NotSimulator, group=True),
)
async def get_workload(request: Request, machine: Machine, group: Target) -> Response:
    """Read the workload of a group; without `group` and `dry_run`, it can be PUT again."""
    return tagged(request, workload_body(group, machine.workload(group)))


@router.put(
    "/v1/simulator/groups/{group:reference}/workload",
    operation_id="put_workload",
    response_model=WorkloadBody,
    responses=refuses(NotSimulator, GroupBusy, PreconditionFailed, group=True)
    | {200: sends("ETag")},
)
def put_workload(
    request: Request,
    _: Administrating,
    machine: Machine,
    group: Changeable,
    workload: AWorkload,
    dry_run: DryRun = False,
) -> Response:
    """Replace the workload of a group: start a process, and end the one of the last PUT.

    The file cache of the ended process stays.
    """
    set_workload(request, machine, group, workload, dry_run=dry_run)
    return changed(workload_body(group, workload, dry_run=dry_run), dry_run=dry_run)


@router.delete(
    "/v1/simulator/groups/{group:reference}/workload",
    operation_id="delete_workload",
    status_code=204,
    responses=TRIED | refuses(NotSimulator, PreconditionFailed, group=True),
)
def delete_workload(
    request: Request,
    _: Administrating,
    machine: Machine,
    group: Changeable,
    dry_run: DryRun = False,
) -> Response:
    """End the workload of a group that was started by PUT."""
    set_workload(request, machine, group, IDLE, dry_run=dry_run)
    return done(dry_run=dry_run)


@router.get(
    "/v1/simulator/clock",
    operation_id="get_clock",
    response_model=ClockBody,
    responses=UNCHANGED | refuses(NotSimulator),
)
async def get_clock(request: Request, machine: Machine) -> Response:
    """Read the time of the simulated machine, and its speed."""
    return tagged(request, clock_body(machine))


@router.post(
    "/v1/simulator/clock",
    operation_id="change_clock",
    responses=refuses(NotSimulator, PreconditionFailed),
)
def change_clock(
    request: Request,
    parts: AllParts,
    _: Administrating,
    machine: Machine,
    change: AClockChange,
    dry_run: DryRun = False,
) -> ClockBody:
    """Advance the clock, stop it, or set its speed."""
    check_preconditions(request, etag_of(clock_body(machine)))
    change_time(parts, machine, change, dry_run=dry_run)
    return clock_body(machine, change if dry_run else None, dry_run=dry_run)


@router.get(
    "/v1/simulator/faults",
    operation_id="list_faults",
    response_model=FaultsBody,
    responses=UNCHANGED | refuses(NotSimulator),
)
async def list_faults(request: Request, _: ReadingAll, machine: Machine) -> Response:
    """List the planned faults, and how often each verb was used."""
    return tagged(request, faults_body(machine))


@router.post(
    "/v1/simulator/faults",
    operation_id="plan_fault",
    responses=refuses(NotSimulator, PreconditionFailed),
)
async def plan_fault(
    request: Request, _: Administrating, machine: Machine, fault: AFault, dry_run: DryRun = False
) -> FaultsBody:
    """Plan a fault for the n-th use of a verb from now: an error, a delay or a vanishing group.

    Answers all planned faults.
    """
    check_preconditions(request, etag_of(faults_body(machine)))
    planned = machine.faults.plan(fault, dry_run=dry_run)
    return FaultsBody(planned=list(planned), uses=machine.faults.uses(), dry_run=dry_run)


@router.delete(
    "/v1/simulator/faults",
    operation_id="delete_faults",
    status_code=204,
    responses=TRIED | refuses(NotSimulator, PreconditionFailed),
)
async def delete_faults(
    request: Request, _: Administrating, machine: Machine, dry_run: DryRun = False
) -> Response:
    """Remove every planned fault."""
    check_preconditions(request, etag_of(faults_body(machine)))
    machine.faults.clear(dry_run=dry_run)
    return done(dry_run=dry_run)


def set_workload(
    request: Request, machine: Simulated, group: Group, workload: Workload, *, dry_run: bool
) -> None:
    """Set the workload of a group; the ETag is compared under the lock of the machine."""

    def check(before: Workload) -> None:
        check_preconditions(request, etag_of(workload_body(group, before)))

    machine.set_workload(group, workload, check=check, dry_run=dry_run)


def change_time(parts: AllParts, machine: Simulated, change: ClockChange, *, dry_run: bool) -> None:
    """Set the speed or advance the clock; a stop of the server ends the advance early."""
    if dry_run:
        return
    if change.speed is not None:
        machine.time.run(change.speed)
    if change.advance_seconds is not None:
        machine.time.advance(change.advance_seconds, parts.closing.is_set)
