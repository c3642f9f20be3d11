"""The node: which kernel, which controller, how much memory, and what can be done with it."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field

from app.api.conditional import tagged
from app.api.document import UNCHANGED
from app.api.stats import PressureBody, pressure_row
from app.api.strict import StrictRoute
from app.api.wiring import Body, Calling, Wired, Wiring
from app.backends import BACKEND_NAMES, LIMIT_NAMES, Walk, last_walk
from app.callers import Caller, Level

router = APIRouter(route_class=StrictRoute, tags=["node"])


class CapabilitiesBody(Body):
    """What this node can do; ask these, never its version."""

    settable_limits: list[str]
    swappiness: bool
    """A shrink may carry its own swappiness."""
    pressure: bool
    """Stats tell the pressure of some groups, and a shrink may pause on it."""


class UnreadableGroupBody(Body):
    """An entry of the tree that is left out of every list."""

    path: str
    """A name that is no Unicode has backslashes in it."""
    errno: str
    """Why, such as "ENAMETOOLONG" (its path is longer than the kernel takes) or "EACCES"."""


class UnreadableBody(Body):
    """What the last walk of the tree has left out, since it cannot be read for what it is; what is in it is not counted."""

    count: int
    groups: list[UnreadableGroupBody]
    """The first ten of them."""


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
    unreadable: UnreadableBody | None
    """Null for a caller who may not read the whole node."""


@router.get("/v1/node", operation_id="get_node", response_model=NodeBody, responses=UNCHANGED)
async def get_node(request: Request, wiring: Wired, caller: Calling) -> Response:
    """Read the facts of this node."""
    return tagged(request, node_body(wiring, caller))


def node_body(wiring: Wiring, caller: Caller) -> NodeBody:
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
        unreadable=_unreadable(last_walk(backend)) if caller.may(Level.READ) else None,
    )


def _unreadable(walk: Walk) -> UnreadableBody:
    named = [UnreadableGroupBody(path=path, errno=symbol) for path, symbol in walk.named]
    return UnreadableBody(count=sum(walk.unreadable.values()), groups=named)
