"""Build the FastAPI application: routes, middleware and error handlers."""

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
from shrinkd.api.openapi import document, texts
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

# Routes are tried in order: frequent reads first, and groups.router behind the routes of
# sub-resources, because the path of a group may contain slashes and would match those, too.
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
    """FastAPI with a completed OpenAPI document, and with RequestId as outermost middleware."""

    def build_middleware_stack(self) -> ASGIApp:
        """Wrap FastAPI's own middleware, so that the 500 of a fault has a request id, too."""
        return RequestId(super().build_middleware_stack())

    def openapi(self) -> dict[str, Any]:
        """Return FastAPI's document, completed."""
        return document.complete(super().openapi())


def build(*, traces: bool = False) -> FastAPI:
    """Build the application without its parts, which main.py adds as `app.state.parts`.

    The OpenAPI document needs no parts. `traces`: let FastAPI send traces to the collector that
    OpenTelemetry's environment variables name.
    """
    app = Api(
        title="shrinkd",
        version=__version__,
        description=texts.DESCRIPTION,
        openapi_tags=texts.TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # off by default, because it costs 5 us a request; metrics and logs are our own
        telemetry={"tracing": traces, "metrics": False, "logs": False, "auto_configure": traces},
    )
    for router in _ROUTERS:
        # not include_router, which since FastAPI 0.137 matches every request against the router
        # and again against its routes
        app.router.routes.extend(router.routes)
    app.mount("/ui", docs.Files(directory=docs.UI_FILES), name="ui")
    # The last one is the outermost. The fast path needs an authenticated caller; it is outside of
    # the concurrency limit, because it answers at once.
    app.add_middleware(ConcurrencyLimit)
    app.add_middleware(StatsFastPath)
    app.add_middleware(Authentication)
    app.add_middleware(HostAndOriginCheck)
    app.add_middleware(AuditMiddleware)
    problems.install(app)
    return app
