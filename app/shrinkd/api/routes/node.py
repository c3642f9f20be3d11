"""The node: kernel, memory controller, memory sizes and capabilities."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from shrinkd.api.http.dependencies import AllParts, Body, Calling, Parts
from shrinkd.api.http.etags import tagged
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import UNCHANGED
from shrinkd.api.routes.stats import PressureBody, pressure_row
from shrinkd.auth import Caller, Level
from shrinkd.backends import BACKEND_NAMES, LIMIT_NAMES, OwnGroup, Walk, printable_path, recent_walk

router = APIRouter(route_class=StrictRoute, tags=["node"])
_MAX_SUSPECTS = 20


class CapabilitiesBody(Body):
    """Capabilities of this node. Decide by these, not by its kernel version."""

    settable_limits: list[str]
    swappiness: bool
    """A shrink can have its own swappiness."""
    pressure: bool
    """Stats include the pressure of some groups, and a shrink can pause on it."""


class OwnGroupBody(Body):
    """The group of this daemon, which it does not change, nor those around it."""

    state: Literal["found", "elsewhere", "unknown"]
    """`elsewhere`: in no group below the root. `unknown`: it could not be determined; no group near
    the possible ones is changed."""
    path: str | None
    """Its path, "" for the root; null if the caller may not read that group."""
    suspects: list[str]
    """While it is unknown: groups, readable by the caller, that the daemon may be in or below. No
    group near them is changed."""
    detail: str | None
    """The reason why it is unknown, and what to do about it."""


class UnreadableGroupBody(Body):
    """A group that is left out of every list because it cannot be read."""

    path: str
    """The path; bytes that are not UTF-8 are written with backslashes."""
    errno: str
    """The errno, such as "ENAMETOOLONG" (the path is too long for the kernel) or "EACCES"."""


class UnreadableBody(Body):
    """The groups that the last walk of the tree left out. Groups inside them are not counted."""

    count: int
    groups: list[UnreadableGroupBody]
    """The first ten of them."""


class NodeBody(Body):
    """Facts of the machine."""

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
    """Pressure of the whole machine; null if its kernel does not report it."""
    root: str
    subtrees: list[str]
    """Globs of the groups that this daemon may change; empty: all."""
    boot_id: str
    own_group: OwnGroupBody
    unreadable: UnreadableBody | None
    """null if the caller may not read the whole node."""


@router.get("/v1/node", operation_id="get_node", response_model=NodeBody, responses=UNCHANGED)
async def get_node(request: Request, parts: AllParts, caller: Calling) -> Response:
    """Read the facts of this node."""
    return tagged(request, node_body(parts, caller))


def node_body(parts: Parts, caller: Caller) -> NodeBody:
    node, backend = parts.backend.node(), parts.backend
    limits: list[str] = [name for name in LIMIT_NAMES if name in backend.settable_limits]
    return NodeBody(
        kernel=node.kernel,
        backend=backend.name,
        cgroup_version=node.cgroup_version,
        capabilities=CapabilitiesBody(
            settable_limits=limits, swappiness=backend.has_swappiness, pressure=backend.has_pressure
        ),
        page_size_bytes=node.page_size_bytes,
        total_bytes=node.total_bytes,
        available_bytes=node.available_bytes,
        swap_total_bytes=node.swap_total_bytes,
        swap_free_bytes=node.swap_free_bytes,
        pressure=PressureBody.model_validate(pressure_row(node.pressure))
        if node.pressure
        else None,
        root=node.root,
        subtrees=list(parts.settings.subtrees),
        boot_id=node.boot_id,
        own_group=own_group_body(caller, backend.own_group()),
        unreadable=_unreadable(recent_walk(backend)) if caller.may(Level.READ) else None,
    )


def own_group_body(caller: Caller, own: OwnGroup) -> OwnGroupBody:
    """Build the body of the daemon's own group.

    Names are included only if the caller may read those groups; the state always is.
    """
    path = own.path if own.path is not None and caller.may(Level.READ, own.path) else None
    suspects = [printable_path(suspect) for suspect in caller.visible(own.suspects)[:_MAX_SUSPECTS]]
    return OwnGroupBody(
        state="unknown" if own.suspects else "elsewhere" if own.path is None else "found",
        path=None if path is None else printable_path(path),
        suspects=suspects,
        detail=own.uncertainty if caller.may(Level.READ) else None,
    )


def _unreadable(walk: Walk) -> UnreadableBody:
    named = [UnreadableGroupBody(path=path, errno=symbol) for path, symbol in walk.named]
    return UnreadableBody(count=sum(walk.unreadable.values()), groups=named)
