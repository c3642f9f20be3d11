"""The HTTP face: every router in one list, and the application around them."""

from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from shrinkd import __version__
from shrinkd.api.http import problems
from shrinkd.api.middleware.audit import AuditMiddleware
from shrinkd.api.middleware.authentication import Authentication
from shrinkd.api.middleware.concurrency_limit import ConcurrencyLimit
from shrinkd.api.middleware.host_and_origin import HostAndOriginCheck
from shrinkd.api.middleware.request_id import RequestId
from shrinkd.api.middleware.stats_fast_path import StatsFastPath
from shrinkd.api.openapi import document
from shrinkd.api.routes import (
    audit,
    decisions,
    docs,
    events,
    groups,
    health,
    history,
    limits,
    limits_batch,
    metrics,
    node,
    policies,
    shrinks,
    simulations,
    simulator,
    stats,
    streams,
)

# First the reads that clients repeat, since routes are tried in order; a group's own address last,
# since it matches every suffix.
_ROUTERS = (
    stats.router,
    history.router,
    limits.router,
    limits_batch.router,
    shrinks.router,
    streams.router,
    events.router,
    decisions.router,
    policies.router,
    groups.router,
    simulator.router,
    simulations.router,
    node.router,
    health.router,
    audit.router,
    metrics.router,
    docs.router,
)


class Api(FastAPI):
    """FastAPI with our document, which is its own completed, and with our middleware around its
    own.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """Put ours around all of theirs: a fault that theirs answers has a request id too."""
        return RequestId(super().build_middleware_stack())

    def openapi(self) -> dict[str, Any]:
        return document.complete(super().openapi())


def build(*, traces: bool = False) -> FastAPI:
    """Make the application without its parts.

    Enough for the OpenAPI document. The composition root wires the rest.

    `traces`: as FastAPI itself makes them, to where OpenTelemetry's own variables say.
    """
    app = Api(
        title="shrinkd",
        version=__version__,
        description=document.DESCRIPTION,
        openapi_tags=document.TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Off unless wanted, for it is asked anew on every request, at 5 us; metrics and logs are
        # our own.
        telemetry={"tracing": traces, "metrics": False, "logs": False, "auto_configure": traces},
    )
    for router in _ROUTERS:
        # Not include_router: since FastAPI 0.137 an included router is matched live and twice.
        app.router.routes.extend(router.routes)
    app.mount("/ui", docs.Files(directory=docs.UI_FILES), name="ui")
    # The last is the outermost: the lane asks for its caller, too, and is around what only those
    # need who wait.
    app.add_middleware(ConcurrencyLimit)
    app.add_middleware(StatsFastPath)
    app.add_middleware(Authentication)
    app.add_middleware(HostAndOriginCheck)
    app.add_middleware(AuditMiddleware)
    problems.install(app)
    return app
