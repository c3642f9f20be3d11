"""The node: which kernel, which controller, how much memory, and what can be done with it."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field

from app.api.conditional import tagged
from app.api.document import UNCHANGED
from app.api.stats import PressureBody, pressure_row
from app.api.strict import StrictRoute
from app.api.wiring import Body, Wired
from app.backends import BACKEND_NAMES, LIMIT_NAMES

router = APIRouter(route_class=StrictRoute, tags=["node"])


class CapabilitiesBody(Body):
    """What this node can do; ask these, never its version."""

    settable_limits: list[str]
    swappiness: bool
    """A shrink may carry its own swappiness."""
    pressure: bool
    """Stats tell the pressure of some groups, and a shrink may pause on it."""


class NodeBody(Body):
    """The machine under the groups."""

    kernel: str
    backend: Annotated[str, Field(json_schema_extra={"enum": [*BACKEND_NAMES]})]
    cgroup_version: int
    capabilities: CapabilitiesBody
    page_size_bytes: int
    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    pressure: PressureBody | None
    """That of the whole machine; null where its kernel tells none."""
    root: str
    subtrees: list[str]
    """Globs of the groups that this daemon may change; empty means all."""
    boot_id: str


@router.get("/v1/node", operation_id="get_node", response_model=NodeBody, responses=UNCHANGED)
async def get_node(request: Request, wiring: Wired) -> Response:
    """Read the facts of this node."""
    return tagged(request, node_body(wiring))


def node_body(wiring: Wired) -> NodeBody:
    node, backend = wiring.backend.node(), wiring.backend
    limits: list[str] = [name for name in LIMIT_NAMES if name in backend.settable_limits]
    return NodeBody(
        kernel=node.kernel,
        backend=backend.name,
        cgroup_version=node.cgroup_version,
        capabilities=CapabilitiesBody(settable_limits=limits, swappiness=backend.has_swappiness, pressure=backend.has_pressure),
        page_size_bytes=node.page_size_bytes,
        total_bytes=node.total_bytes,
        available_bytes=node.available_bytes,
        swap_total_bytes=node.swap_total_bytes,
        swap_free_bytes=node.swap_free_bytes,
        pressure=PressureBody.model_validate(pressure_row(node.pressure)) if node.pressure else None,
        root=node.root,
        subtrees=list(wiring.settings.subtrees),
        boot_id=node.boot_id,
    )
