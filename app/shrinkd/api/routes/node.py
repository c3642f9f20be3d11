"""The node: which kernel, which controller, how much memory, and what can be done with it."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from shrinkd.api.http.dependencies import Body, Calling, Parts, Wired
from shrinkd.api.http.etags import tagged
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.document import UNCHANGED
from shrinkd.api.routes.stats import PressureBody, pressure_row
from shrinkd.auth import Caller, Level
from shrinkd.backends import BACKEND_NAMES, LIMIT_NAMES, OwnGroup, Walk, recent_walk, printable_path

router = APIRouter(route_class=StrictRoute, tags=["node"])
_MOST_SUSPECTS = 20


class CapabilitiesBody(Body):
    """What this node can do; ask these, never its version."""

    settable_limits: list[str]
    swappiness: bool
    """A shrink may carry its own swappiness."""
    pressure: bool
    """Stats tell the pressure of some groups, and a shrink may pause on it."""


class OwnGroupBody(Body):
    """Where this daemon is itself among the groups.

    It changes neither that group nor those around it.
    """

    state: Literal["found", "elsewhere", "unknown"]
    """`elsewhere`: in no group below the root. `unknown`: it could not find out, and changes
    nothing near where it may be."""
    path: str | None
    """Where it was found, "" for the root; null for who may not read that group."""
    suspects: list[str]
    """While it is unknown: the groups that it may be in or below, of those that the caller may
    read. Nothing near them is changed."""
    detail: str | None
    """What could not be found out, and what to do about it."""


class UnreadableGroupBody(Body):
    """An entry of the tree that is left out of every list."""

    path: str
    """A name that is no Unicode has backslashes in it."""
    errno: str
    """Why, such as "ENAMETOOLONG" (its path is longer than the kernel takes) or "EACCES"."""


class UnreadableBody(Body):
    """What the last walk of the tree has left out, since it cannot be read for what it is.

    What is in it is not counted.
    """

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
    own_group: OwnGroupBody
    unreadable: UnreadableBody | None
    """Null for a caller who may not read the whole node."""


@router.get("/v1/node", operation_id="get_node", response_model=NodeBody, responses=UNCHANGED)
async def get_node(request: Request, wiring: Wired, caller: Calling) -> Response:
    """Read the facts of this node."""
    return tagged(request, node_body(wiring, caller))


def node_body(wiring: Parts, caller: Caller) -> NodeBody:
    node, backend = wiring.backend.node(), wiring.backend
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
        subtrees=list(wiring.settings.subtrees),
        boot_id=node.boot_id,
        own_group=own_group_body(caller, backend.own_group()),
        unreadable=_unreadable(recent_walk(backend)) if caller.may(Level.READ) else None,
    )


def own_group_body(caller: Caller, own: OwnGroup) -> OwnGroupBody:
    """Names of groups are for who may read them.

    That the daemon does not know its own is for everybody.
    """
    path = own.path if own.path is not None and caller.may(Level.READ, own.path) else None
    suspects = [printable_path(suspect) for suspect in caller.visible(own.suspects)[:_MOST_SUSPECTS]]
    return OwnGroupBody(
        state="unknown" if own.suspects else "elsewhere" if own.path is None else "found",
        path=None if path is None else printable_path(path),
        suspects=suspects,
        detail=own.uncertainty if caller.may(Level.READ) else None,
    )


def _unreadable(walk: Walk) -> UnreadableBody:
    named = [UnreadableGroupBody(path=path, errno=symbol) for path, symbol in walk.named]
    return UnreadableBody(count=sum(walk.unreadable.values()), groups=named)
