"""The simulated machine in a client's hands.

Workloads, time, and faults at the verbs. On a real kernel all of it is 404.
"""

import math
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Depends, Request, Response
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from shrinkd.api.http.dependencies import (
    Administrating,
    Body,
    Changeable,
    DryRun,
    GroupRef,
    ReadingAll,
    Target,
    Wired,
    ref,
)
from shrinkd.api.http.etags import changed, check_preconditions, etag_of, tagged
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.document import UNCHANGED, bodies, refuses, sends
from shrinkd.api.routes.groups import TRIED, done
from shrinkd.backends import (
    IDLE,
    Fault,
    Group,
    Simulated,
    Verb,
    Workload,
    scenario_names,
    simulated,
)
from shrinkd.errors import GroupBusy, NotSimulator, PreconditionFailed
from shrinkd.strict_model import Strict

_LONGEST_SECONDS = 86400.0
_FASTEST = 1000.0


async def _simulated(wiring: Wired) -> Simulated:
    return simulated(wiring.backend)


Machine = Annotated[Simulated, Depends(_simulated)]
router = APIRouter(route_class=StrictRoute, tags=["simulator"], dependencies=[Depends(_simulated)])


def _check_speed(speed: float) -> float:
    if _FASTEST < speed < math.inf:
        raise ValueError(f'a speed is 0 to {_FASTEST:.0f}, or "max"')
    return speed


Speed = Annotated[
    float,
    BeforeValidator(lambda value: math.inf if value == "max" else value),
    Field(ge=0),
    AfterValidator(_check_speed),
    PlainSerializer(lambda speed: "max" if speed == math.inf else speed),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0, "maximum": _FASTEST}, {"const": "max"}]}
    ),
]


class SimulatorLinks(Body):
    """Where the parts of the simulator are."""

    clock: str = "/v1/simulator/clock"
    faults: str = "/v1/simulator/faults"


class SimulatorBody(Body):
    """What is simulated."""

    scenario: str
    """What it started with: a name of the gallery, or the path of a file."""
    profile: Literal["seed2008", "v1", "v2", "v2-6.12"]
    """Whose rules it follows."""
    seed: str
    """What decides all that looks like chance."""
    gallery: list[str]
    """The names that SHRINKD_SCENARIO takes."""
    links: SimulatorLinks = SimulatorLinks()


class WorkloadBody(Body, Workload):
    """What happens in a group; no memory is nothing."""

    group: GroupRef
    dry_run: bool = False


class ClockChange(Strict):
    """Exactly one of advance_seconds and speed."""

    advance_seconds: float | None = Field(default=None, gt=0, le=_LONGEST_SECONDS, examples=[3600])
    """Live through so much at once, in steps of a second, and answer when that is done: an hour of
    ten groups takes about a second."""
    speed: Speed | None = Field(default=None, examples=[0, 60, "max"])
    """Seconds that pass there in one of ours. 0 stops the time, "max" is as fast as this machine
    can, and takes a core of it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.advance_seconds is None) == (self.speed is None):
            raise ValueError("give exactly one of advance_seconds and speed")
        return self


class ClockBody(Body):
    """The time of the simulated machine."""

    now_seconds: float
    """What has passed since it was started, in steps of 0.1 s."""
    speed: Speed
    """Seconds that pass there in one of ours: 0 is a clock that stands, "max" one that goes as fast
    as it can."""
    dry_run: bool = False


class FaultsBody(Body):
    """What is planned, and how often each verb was used."""

    planned: list[Fault]
    """In the order in which it was planned; `use` is counted from now, and what has happened is
    gone."""
    uses: dict[Verb, int]
    """Since the start."""
    dry_run: bool = False


AWorkload = Annotated[
    Workload,
    bodies(
        leak=(
            "A leak",
            {
                "memory": [
                    {
                        "kind": "anon",
                        "size_bytes": "64M",
                        "heat_seconds": "warm",
                        "grows_bytes_per_second": "1M",
                    }
                ]
            },
        ),
        server=(
            "A server with a cache, and bursts",
            {
                "memory": [
                    {
                        "kind": "anon",
                        "size_bytes": "96M",
                        "heat_seconds": "hot",
                        "bursts": {"every_seconds": 120, "lasts_seconds": 20, "size_bytes": "32M"},
                    },
                    {
                        "kind": "file",
                        "size_bytes": "256M",
                        "heat_seconds": 45,
                        "writes_bytes_per_second": "1M",
                    },
                ]
            },
        ),
        recorded=(
            "What was recorded, again and again",
            {
                "memory": [
                    {
                        "kind": "anon",
                        "heat_seconds": "warm",
                        "trace": [[0, "128M"], [30, "640M"], [45, "192M"], [120, "128M"]],
                    }
                ]
            },
        ),
        job=(
            "A job that ends and comes back",
            {"memory": [{"kind": "anon", "size_bytes": "96M"}], "exits_after_seconds": 20},
        ),
    ),
]
AClockChange = Annotated[
    ClockChange,
    bodies(
        hour=("An hour, at once", {"advance_seconds": 3600}),
        freeze=("Stop it", {"speed": 0}),
        hurry=("A minute in a second", {"speed": 60}),
        fastest=("As fast as it goes", {"speed": "max"}),
    ),
]
AFault = Annotated[
    Fault,
    bodies(
        error=(
            "The third pass of a shrink is refused",
            {"verb": "reclaim", "use": 3, "error": "EBUSY"},
        ),
        delay=("The next limit takes two seconds", {"verb": "set_limits", "delay_seconds": 2}),
        vanishes=(
            "Web is gone at its next pass",
            {"verb": "reclaim", "group": "web", "vanishes": True},
        ),
    ),
]


@router.get(
    "/v1/simulator",
    operation_id="get_simulator",
    response_model=SimulatorBody,
    responses=UNCHANGED | refuses(NotSimulator),
)
async def get_simulator(request: Request, wiring: Wired, machine: Machine) -> Response:
    """Read what is simulated: the scenario, and whose rules it follows."""
    made_of = machine.scenario
    return tagged(
        request,
        SimulatorBody(
            scenario=wiring.settings.scenario,
            profile=made_of.profile,
            seed=made_of.seed,
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
    """Read what happens in a group; without `group` and `dry_run`, it can be put there again."""
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
    """Start a process in a group, in place of the one that was put there before.

    The file cache of that stays.
    """
    put_to_work(request, machine, group, workload, dry_run=dry_run)
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
    """End what was put into a group, for good."""
    put_to_work(request, machine, group, IDLE, dry_run=dry_run)
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
    wiring: Wired,
    _: Administrating,
    machine: Machine,
    change: AClockChange,
    dry_run: DryRun = False,
) -> ClockBody:
    """Put the time forward, stop it, or let it go at another speed."""
    check_preconditions(request, etag_of(clock_body(machine)))
    change_time(wiring, machine, change, dry_run=dry_run)
    return clock_body(machine, change if dry_run else None, dry_run=dry_run)


@router.get(
    "/v1/simulator/faults",
    operation_id="list_faults",
    response_model=FaultsBody,
    responses=UNCHANGED | refuses(NotSimulator),
)
async def list_faults(request: Request, _: ReadingAll, machine: Machine) -> Response:
    """List the faults that are planned, and how often each verb was used."""
    return tagged(request, faults_body(machine))


@router.post(
    "/v1/simulator/faults",
    operation_id="plan_fault",
    responses=refuses(NotSimulator, PreconditionFailed),
)
async def plan_fault(
    request: Request, _: Administrating, machine: Machine, fault: AFault, dry_run: DryRun = False
) -> FaultsBody:
    """Plan an error, a delay or a vanishing group for the n-th use of a verb from now, and answer
    all that is planned.
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
    """Call off every fault that is planned."""
    check_preconditions(request, etag_of(faults_body(machine)))
    machine.faults.clear(dry_run=dry_run)
    return done(dry_run=dry_run)


def faults_body(machine: Simulated) -> FaultsBody:
    return FaultsBody(planned=list(machine.faults.planned()), uses=machine.faults.uses())


def workload_body(group: Group, workload: Workload, *, dry_run: bool = False) -> WorkloadBody:
    given = {name: getattr(workload, name) for name in Workload.model_fields}
    return WorkloadBody(**given, group=ref(group), dry_run=dry_run)


def put_to_work(
    request: Request, machine: Simulated, group: Group, workload: Workload, *, dry_run: bool
) -> None:
    """Put it there.

    The ETag is compared with the machine to oneself, so no other change comes between.
    """

    def check(before: Workload) -> None:
        check_preconditions(request, etag_of(workload_body(group, before)))

    machine.set_workload(group, workload, check=check, dry_run=dry_run)


def change_time(wiring: Wired, machine: Simulated, change: ClockChange, *, dry_run: bool) -> None:
    """Advance, until the server stops if it must, or go on at another speed."""
    if dry_run:
        return
    if change.speed is not None:
        machine.time.run(change.speed)
    if change.advance_seconds is not None:
        machine.time.advance(change.advance_seconds, wiring.closing.is_set)


def clock_body(
    machine: Simulated, change: ClockChange | None = None, *, dry_run: bool = False
) -> ClockBody:
    """The time as it is, or as a change would leave it."""
    now, speed = machine.time.now(), machine.time.speed
    if change is not None:
        now, speed = (
            now + (change.advance_seconds or 0),
            speed if change.speed is None else change.speed,
        )
    return ClockBody(now_seconds=now, speed=speed, dry_run=dry_run)
