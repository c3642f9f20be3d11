"""Simulations: run policies on a simulated machine, and compare with a run without them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from shrinkd.api.http.dependencies import AllParts, Body, Calling, DryRun, rfc3339
from shrinkd.api.http.etags import tagged
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import UNCHANGED, bodies, refuses, sends
from shrinkd.auth import Caller, Level
from shrinkd.errors import SimulationNotFound, TooManySimulations
from shrinkd.simulation import Plan, Report, Simulation, no_simulation

router = APIRouter(route_class=StrictRoute, tags=["simulations"])
_RETRY_AFTER = {"Retry-After": "1"}


class SimulationLinks(Body):
    """Addresses of a simulation."""

    self: str
    cancel: str


class SimulationBody(Body):
    """A simulation and its report."""

    id: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
    done: bool
    done_ratio: float = Field(ge=0, le=1)
    """Share of the simulated time that has passed."""
    plan: Plan
    report: Report | None
    error: str | None
    """The reason of a failure."""
    created_at: str
    started_at: str | None
    finished_at: str | None
    links: SimulationLinks
    dry_run: bool = False


class SimulationPage(Body):
    """All simulations that are kept, the newest first."""

    items: list[SimulationBody]
    next_page_token: str | None = None


APlan = Annotated[
    Plan,
    bodies(
        pressure=(
            "Memory that a pressure policy saves in an hour",
            {
                "scenario": "heat",
                "policies": [{"name": "squeeze", "kind": "pressure", "selector": {"parent": ""}}],
                "duration_seconds": 3600,
            },
        ),
        watermark=(
            "A watermark policy on a load with spikes",
            {
                "scenario": "spikes",
                "policies": [
                    {
                        "name": "room",
                        "kind": "watermark",
                        "selector": {"group": "*"},
                        "floor": {"bytes": 0},
                    }
                ],
            },
        ),
    ),
]


def is_readable(caller: Caller, simulation: Simulation) -> bool:
    """Tell whether the caller may read a simulation: its owner, or a reader of the whole node.

    A plan may contain what its owner has read of some groups.
    """
    return simulation.owner == caller.name or caller.may(Level.READ)


async def _known(parts: AllParts, caller: Calling, simulation_id: str) -> str:
    if not is_readable(caller, parts.simulations.get(simulation_id)):
        raise no_simulation(simulation_id)
    return simulation_id


async def _cancellable(
    parts: AllParts, caller: Calling, simulation_id: Annotated[str, Depends(_known)]
) -> str:
    if parts.simulations.get(simulation_id).owner != caller.name:
        caller.require(Level.WRITE)
    return simulation_id


async def _writer(caller: Calling) -> Caller:
    """Return the caller if it may write to any group, because a simulation only takes CPU time."""
    if not caller.may_somewhere(Level.WRITE):
        caller.require(Level.WRITE)
    return caller


Known = Annotated[str, Depends(_known)]
Cancellable = Annotated[str, Depends(_cancellable)]
Writer = Annotated[Caller, Depends(_writer)]


@router.post(
    "/v1/simulations",
    operation_id="create_simulation",
    status_code=202,
    response_model=SimulationBody,
    responses=refuses(TooManySimulations) | {202: sends("Location", "Retry-After")},
)
def create_simulation(
    parts: AllParts, caller: Writer, plan: APlan, dry_run: DryRun = False
) -> Response:
    """Simulate policies on a scenario of the gallery, or on one in the request.

    The simulation runs in a process of its own, at a low priority.
    """
    body = simulation_body(
        parts.simulations.submit(plan, caller.name, dry_run=dry_run), dry_run=dry_run
    )
    headers = {} if dry_run else {"Location": body.links.self}
    return Response(body.model_dump_json(), 202, headers | _RETRY_AFTER, "application/json")


@router.get("/v1/simulations", operation_id="list_simulations")
async def list_simulations(parts: AllParts, caller: Calling) -> SimulationPage:
    """List the last hundred simulations since the daemon started."""
    visible = [
        simulation for simulation in parts.simulations.newest() if is_readable(caller, simulation)
    ]
    return SimulationPage(items=[simulation_body(simulation) for simulation in visible])


@router.get(
    "/v1/simulations/{simulation_id}",
    operation_id="get_simulation",
    response_model=SimulationBody,
    responses=UNCHANGED | {200: sends("ETag", "Retry-After")} | refuses(SimulationNotFound),
)
async def get_simulation(request: Request, parts: AllParts, simulation_id: Known) -> Response:
    """Read a simulation: its progress, and its report when it is done."""
    body = simulation_body(parts.simulations.get(simulation_id))
    return tagged(request, body, {} if body.done else _RETRY_AFTER)


@router.post(
    "/v1/simulations/{simulation_id}/cancel",
    operation_id="cancel_simulation",
    responses=refuses(SimulationNotFound),
)
def cancel_simulation(
    parts: AllParts, simulation_id: Cancellable, dry_run: DryRun = False
) -> SimulationBody:
    """Cancel a simulation that waits or runs; one that is done stays unchanged."""
    return simulation_body(
        parts.simulations.cancel(simulation_id, dry_run=dry_run), dry_run=dry_run
    )


def simulation_body(simulation: Simulation, *, dry_run: bool = False) -> SimulationBody:
    href = f"/v1/simulations/{simulation.id}"
    fields = {
        name: getattr(simulation, name)
        for name in ("id", "state", "done", "done_ratio", "plan", "report", "error")
    }
    return SimulationBody(
        **fields,
        created_at=rfc3339(simulation.created_at),
        started_at=None if simulation.started_at is None else rfc3339(simulation.started_at),
        finished_at=None if simulation.finished_at is None else rfc3339(simulation.finished_at),
        links=SimulationLinks(self=href, cancel=f"{href}/cancel"),
        dry_run=dry_run,
    )
