"""Metrics for Prometheus, in its text format or in OpenMetrics."""

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from shrinkd.api.http.dependencies import AllParts, ReadingAll
from shrinkd.api.http.strict_route import StrictRoute

router = APIRouter(route_class=StrictRoute, tags=["node"])
_TEXT = {
    200: {
        "description": "Prometheus' text format, or OpenMetrics if `Accept` asks for it.",
        "content": {
            "text/plain": {
                "example": 'shrinkd_subtree_usage_bytes{subtree="web"} 3.71195904e+08\n',
                "schema": {"type": "string"},
            }
        },
    }
}


@router.get("/metrics", operation_id="get_metrics", response_class=Response, responses=_TEXT)  # type: ignore[arg-type]
def get_metrics(request: Request, parts: AllParts, _caller: ReadingAll) -> Response:
    """Read the metrics of this daemon and its groups."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(parts.metrics), media_type=content_type)
