"""Is it alive, is it ready, which version is it.

For supervisors, load balancers and bug reports.
"""

import platform

from fastapi import APIRouter

from shrinkd import __version__
from shrinkd.api.http.dependencies import Body, Parts, Wired
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.document import refuses
from shrinkd.backends import Backend, recent_walk
from shrinkd.errors import NotReady, NotWritable, OutOfResources, StoreUnavailable

router = APIRouter(route_class=StrictRoute, tags=["health"])
_MOMENT_SECONDS = 1.0
"""How long walks may fail before readiness tells, and how often they are tried for it then: who
asks for it needs no token."""


class StatusBody(Body):
    """A word that says it."""

    status: str


class VersionBody(Body):
    """What runs here."""

    version: str
    python: str


@router.get("/livez", operation_id="get_livez")
async def get_livez() -> StatusBody:
    """Answer as long as the process can."""
    return StatusBody(status="alive")


@router.get(
    "/readyz",
    operation_id="get_readyz",
    responses=refuses(StoreUnavailable, NotWritable, OutOfResources, NotReady),
)
def get_readyz(wiring: Wired) -> StatusBody:
    """Answer 200 when the controller can be read, the database written and policies are carried
    out.

    Else a 503 says what is wrong.
    """
    check_ready(wiring)
    return StatusBody(status="ready")


def check_ready(wiring: Parts) -> None:
    wiring.backend.groups(depth=0)
    _check_walks(wiring.backend)
    wiring.store.ping()
    wiring.daemon.ping()


def _check_walks(backend: Backend) -> None:
    """Raise NotReady when walks of the tree have failed for longer than a moment."""
    walk = (
        recent_walk(backend)
        if backend.last_walk().failure is None
        else recent_walk(backend, _MOMENT_SECONDS)
    )
    seconds = walk.ended_at - (walk.ended_at if walk.failing_since is None else walk.failing_since)
    if seconds >= _MOMENT_SECONDS:
        raise NotReady(
            f"The groups could not be walked through for {seconds:.0f} s: {walk.failure}"
        )


@router.get("/version", operation_id="get_version")
async def get_version() -> VersionBody:
    """Tell the version."""
    return VersionBody(version=__version__, python=platform.python_version())
