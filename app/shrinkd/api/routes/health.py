"""Liveness, readiness and version, for supervisors, load balancers and bug reports."""

import platform

from fastapi import APIRouter

from shrinkd import __version__
from shrinkd.api.http.dependencies import AllParts, Body, Parts
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import refuses
from shrinkd.backends import Backend, recent_walk
from shrinkd.errors import NotReady, NotWritable, OutOfResources, StoreUnavailable

router = APIRouter(route_class=StrictRoute, tags=["health"])
_MAX_FAILING_SECONDS = 1.0
"""Time for which walks of the tree may fail before the daemon is not ready. While they fail, the
probe starts at most one walk in this time, because it needs no token."""


class StatusBody(Body):
    """The status in one word."""

    status: str


class VersionBody(Body):
    """Versions of the daemon and of Python."""

    version: str
    python: str


@router.get("/livez", operation_id="get_livez")
async def get_livez() -> StatusBody:
    """Answer 200 while the process can answer."""
    return StatusBody(status="alive")


@router.get(
    "/readyz",
    operation_id="get_readyz",
    responses=refuses(StoreUnavailable, NotWritable, OutOfResources, NotReady),
)
def get_readyz(parts: AllParts) -> StatusBody:
    """Answer 200 if the controller and the database work and policies are evaluated, else 503.

    The 503 says what is wrong.
    """
    check_ready(parts)
    return StatusBody(status="ready")


def check_ready(parts: Parts) -> None:
    """Raise NotReady, NotWritable, OutOfResources or StoreUnavailable if a part does not work."""
    parts.backend.groups(depth=0)
    _check_walks(parts.backend)
    parts.store.ping()
    parts.daemon.ping()


def _check_walks(backend: Backend) -> None:
    """Raise NotReady if walks of the tree have failed for a second or more."""
    walk = (
        recent_walk(backend)
        if backend.last_walk().failure is None
        else recent_walk(backend, _MAX_FAILING_SECONDS)
    )
    seconds = walk.ended_at - (walk.ended_at if walk.failing_since is None else walk.failing_since)
    if seconds >= _MAX_FAILING_SECONDS:
        raise NotReady(f"The groups could not be listed for {seconds:.0f} s: {walk.failure}")


@router.get("/version", operation_id="get_version")
async def get_version() -> VersionBody:
    """Read the version."""
    return VersionBody(version=__version__, python=platform.python_version())
