"""Is it alive, is it ready, which version is it: for supervisors, load balancers and bug reports."""

import platform

from fastapi import APIRouter

from app import __version__
from app.api.document import refuses
from app.api.strict import StrictRoute
from app.api.wiring import Body, Wired, Wiring
from app.errors import NotReady, NotWritable, StoreUnavailable

router = APIRouter(route_class=StrictRoute, tags=["health"])


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


@router.get("/readyz", operation_id="get_readyz", responses=refuses(StoreUnavailable, NotWritable, NotReady))
def get_readyz(wiring: Wired) -> StatusBody:
    """Answer 200 when the controller can be read, the database written and policies are carried out; else a 503 says what is wrong."""
    check_ready(wiring)
    return StatusBody(status="ready")


def check_ready(wiring: Wiring) -> None:
    wiring.backend.groups(depth=0)
    wiring.store.ping()
    wiring.daemon.ping()


@router.get("/version", operation_id="get_version")
async def get_version() -> VersionBody:
    """Tell the version."""
    return VersionBody(version=__version__, python=platform.python_version())
