"""Statistics over time: the samples of one group in the last hour, in steps."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field
from pydantic_core import to_json

from shrinkd.api.http.dependencies import AllParts, Body, GroupRef, Parts, Target
from shrinkd.api.http.etags import tagged_bytes
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import UNCHANGED, refuses
from shrinkd.api.routes.stats import pick_fields
from shrinkd.backends import Group
from shrinkd.errors import InvalidRequest, RangeTooLarge
from shrinkd.groups import FIELDS, SLOT_SECONDS, SLOTS
from shrinkd.strict_model import Moment

router = APIRouter(route_class=StrictRoute, tags=["stats"])
_MOST_VALUES = 10_000
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class HistoryBody(Body):
    """The samples of a group over time. Each field has one value for each time."""

    group: GroupRef
    step_seconds: int
    times: list[Annotated[str, Field(json_schema_extra={"format": "date-time"})]] = Field(
        examples=[["2026-11-23T08:00:00Z"]]
    )
    """The start of each step, a multiple of its length; steps without samples are left out."""
    series: dict[str, list[int | None]] = Field(
        examples=[{"usage_bytes": [371195904], "anon_bytes": [100663296]}]
    )
    """The last known value of each step by field; null if there is none."""


@dataclass(frozen=True, slots=True)
class Span:
    """The requested part of the history; times in seconds since the epoch."""

    begins: float
    ends: float
    step_seconds: int
    fields: tuple[str, ...]
    is_up_to_now: bool


async def _span(
    parts: AllParts,
    begins: Annotated[
        Moment | None,
        Query(alias="from", description="The first time; absent: an hour before the end."),
    ] = None,
    ends: Annotated[
        Moment | None,
        Query(alias="to", description="The end, exclusive; absent: now."),
    ] = None,
    step_seconds: Annotated[
        int,
        Query(
            ge=SLOT_SECONDS,
            le=SLOTS * SLOT_SECONDS,
            description="Seconds of a step, whose last sample is answered.",
        ),
    ] = SLOT_SECONDS,
    fields: Annotated[
        str | None,
        Query(description=f"Comma-separated fields of {', '.join(FIELDS)}; absent: all."),
    ] = None,
) -> Span:
    """Parse the query of a history; InvalidRequest or RangeTooLarge."""
    wanted = pick_fields(fields, frozenset(FIELDS))
    last = parts.history.now() + SLOT_SECONDS if ends is None else ends.timestamp()
    first = last - SLOTS * SLOT_SECONDS if begins is None else begins.timestamp()
    if first > last:
        raise InvalidRequest("from comes after to: there is no time between them.")
    steps = math.ceil((last - first) / step_seconds)
    if steps * len(wanted) > _MOST_VALUES:
        raise RangeTooLarge(
            f"That is {steps} steps for each of {len(wanted)} fields, and one answer has at most "
            f"{_MOST_VALUES} values.",
            steps=steps,
            fields=len(wanted),
            most_values=_MOST_VALUES,
        )
    return Span(
        first, last, step_seconds, tuple(name for name in FIELDS if name in wanted), ends is None
    )


@router.get(
    "/v1/groups/{group:reference}/stats/history",
    operation_id="get_stats_history",
    response_model=HistoryBody,
    responses=UNCHANGED | refuses(RangeTooLarge, group=True),
)
async def get_stats_history(
    request: Request, parts: AllParts, group: Target, span: Annotated[Span, Depends(_span)]
) -> Response:
    """Read the memory of a group over the last hour, sampled every 10 s.

    Without `to`, the group is also read now. Each sample has the usage; the other fields are
    sampled whenever a policy reads the group, and every two minutes otherwise. The history is that
    of this incarnation and of this run of the daemon, which keeps it in memory. The answer can be
    sent unchanged as the `history` of a recording in a simulation.
    """
    return tagged_bytes(request, to_json(history_row(parts, group, span)))


def history_row(parts: Parts, group: Group, span: Span) -> dict[str, Any]:
    """Return the samples as they are sent. Raises GroupGone."""
    if span.is_up_to_now:
        parts.history.note_all({group.id: parts.backend.stat(group)})
    times, series = parts.history.read(
        group.id, span.fields, (span.begins, span.ends), span.step_seconds
    )
    return {
        "group": {"id": str(group.id), "path": group.path},
        "step_seconds": span.step_seconds,
        "times": [datetime.fromtimestamp(at, UTC).strftime(_TIME_FORMAT) for at in times],
        "series": series,
    }
