"""Statistics of groups, read from the kernel on each request, in the same names on every backend.

A value that the kernel does not report is null, and `unavailable` lists it.
"""

import asyncio
from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from pydantic_core import to_json

from shrinkd.api.http.dependencies import AllParts, Body, Calling, GroupRef, Target, rfc3339
from shrinkd.api.http.etags import tagged_bytes
from shrinkd.api.http.group_reference import resolve, seen_by
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import UNCHANGED, refuses
from shrinkd.backends import Backend, Counters, Events, Group, MemStat, Pressure, Stall
from shrinkd.errors import InvalidRequest, ignoring_unreadable
from shrinkd.storage import now

router = APIRouter(route_class=StrictRoute, tags=["stats"])
_SLICE = 50
"""Groups that are read between two turns of the event loop: about 1 ms."""


class CountersBody(Body):
    """Counters since the group was made; null if the kernel does not report them."""

    page_faults: int | None
    major_page_faults: int | None
    pages_scanned: int | None
    pages_reclaimed: int | None
    refaults_file: int | None
    refaults_anon: int | None


class EventsBody(Body):
    """How often each limit took effect; null if the kernel does not report it."""

    low: int | None
    high: int | None
    max: int | None
    oom: int | None
    oom_kill: int | None
    limit_failures: int | None


class StallBody(Body):
    """A line of memory.pressure, with the kernel's names.

    Averages in percent, the total in microseconds.
    """

    avg10: float
    avg60: float
    avg300: float
    total: int


class PressureBody(Body):
    """PSI of a group or of the machine: `some` task stalled for memory, `full`: all of them."""

    some: StallBody
    full: StallBody


class StatsBody(Body):
    """One reading of a group, its descendants included."""

    group: GroupRef
    usage_bytes: int
    peak_bytes: int | None
    max_bytes: int | None
    effective_max_bytes: int | None
    headroom_bytes: int | None
    working_set_bytes: int | None
    reclaimable_estimate_bytes: int | None
    anon_bytes: int | None
    file_bytes: int | None
    shmem_bytes: int | None
    kernel_bytes: int | None
    mapped_bytes: int | None
    dirty_bytes: int | None
    writeback_bytes: int | None
    active_anon_bytes: int | None
    inactive_anon_bytes: int | None
    active_file_bytes: int | None
    inactive_file_bytes: int | None
    unevictable_bytes: int | None
    slab_reclaimable_bytes: int | None
    swap_bytes: int | None
    zswap_bytes: int | None
    counters: CountersBody
    events: EventsBody
    pressure: PressureBody | None
    unavailable: list[str]
    """The names that this kernel does not report, such as "zswap_bytes" or "events.high"; they are
    null."""
    raw: dict[str, str] | None = None
    """Contents of the control files, with ?raw=true."""


class StatsList(Body):
    """Readings of many groups, in path order; with ?fields=, only those fields."""

    items: list[dict[str, Any]] = Field(
        examples=[[{"group": {"id": "354371", "path": "web"}, "usage_bytes": 371195904}]]
    )
    read_at: str


_SIZES = tuple(
    name
    for name in StatsBody.model_fields
    if name.endswith("_bytes")
    and name not in {"max_bytes", "effective_max_bytes", "headroom_bytes"}
)
_read_sizes = attrgetter(*_SIZES)
_COUNTERS = tuple(Counters.__slots__)
_read_counters = attrgetter(*_COUNTERS)
_EVENTS = tuple(Events.__slots__)
_read_events = attrgetter(*_EVENTS)
_FIELDS = frozenset(StatsBody.model_fields) - {"raw"}
_LISTED = ", ".join(name for name in StatsBody.model_fields if name in _FIELDS)


def stats_row(group: Group, stat: MemStat) -> dict[str, Any]:
    """Build the row of a reading that is sent.

    A plain dict, because a page of 1000 models costs more than the 1000 readings.
    """
    usage, limits, pressure = stat.usage_bytes, stat.limits, stat.pressure
    effective = limits.effective_max_bytes
    sizes = dict(zip(_SIZES, _read_sizes(stat), strict=True))
    counters = dict(zip(_COUNTERS, _read_counters(stat.counters), strict=True))
    events = dict(zip(_EVENTS, _read_events(stat.events), strict=True))
    unavailable = [name for name, value in sizes.items() if value is None]
    unavailable += [f"counters.{name}" for name, value in counters.items() if value is None]
    unavailable += [f"events.{name}" for name, value in events.items() if value is None]
    unavailable += ["pressure"] if pressure is None else []
    return {
        "group": {"id": str(group.id), "path": group.path},
        **sizes,
        "max_bytes": limits.max_bytes,
        "effective_max_bytes": effective,
        "headroom_bytes": None if effective is None else max(effective - usage, 0),
        "counters": counters,
        "events": events,
        "pressure": pressure_row(pressure),
        "unavailable": unavailable,
        **({"raw": dict(stat.raw)} if stat.raw else {}),
    }


def stats_bytes(group: Group, stat: MemStat) -> bytes:
    """Encode a reading as JSON, by pydantic's encoder: a third of the time of `json.dumps`."""
    return to_json(stats_row(group, stat))


def pressure_row(pressure: Pressure | None) -> dict[str, dict[str, float]] | None:
    """Build the row of a pressure, in the names of memory.pressure; None for none."""
    return (
        None if pressure is None else {"some": _stall(pressure.some), "full": _stall(pressure.full)}
    )


def _stall(stall: Stall) -> dict[str, float]:
    return {
        "avg10": stall.avg10_percent,
        "avg60": stall.avg60_percent,
        "avg300": stall.avg300_percent,
        "total": stall.total_microseconds,
    }


async def read_all(backend: Backend, groups: Sequence[Group]) -> list[tuple[Group, MemStat]]:
    """Read many groups without holding the event loop for long.

    Those that are gone or unreadable are left out.
    """
    readings = []
    for index, group in enumerate(groups, start=1):
        with ignoring_unreadable():
            readings.append((group, backend.stat(group)))
        if not index % _SLICE:
            await asyncio.sleep(0)
    return readings


def pick_fields(fields: str | None, known: frozenset[str]) -> frozenset[str]:
    """Parse a ?fields= list; InvalidRequest if it has unknown names. None stands for all."""
    if fields is None:
        return known
    wanted = frozenset(name.strip() for name in fields.split(","))
    if unknown := sorted(wanted - known):
        raise InvalidRequest(
            f"Unknown fields {', '.join(map(ascii, unknown))}; there are: "
            f"{', '.join(sorted(known))}."
        )
    return wanted


@router.get(
    "/v1/groups/{group:reference}/stats",
    operation_id="get_stats",
    response_model=StatsBody,
    responses=UNCHANGED | refuses(group=True),
)
async def get_stats(
    request: Request,
    parts: AllParts,
    group: Target,
    raw: Annotated[bool, Query(description="Add the contents of the control files.")] = False,
) -> Response:
    """Read the statistics of a group from the kernel."""
    return tagged_bytes(request, stats_bytes(group, parts.backend.stat(group, raw=raw)))


@router.get(
    "/v1/stats",
    operation_id="list_stats",
    response_model=StatsList,
    response_model_exclude_unset=True,
    responses=refuses(group=True),
)
async def list_stats(
    parts: AllParts,
    caller: Calling,
    subtree: Annotated[
        str | None, Query(description="A group: it and all groups below. Absent: all groups.")
    ] = None,
    fields: Annotated[
        str | None,
        Query(description=f"Comma-separated fields to answer; absent: all of {_LISTED}."),
    ] = None,
) -> Response:
    """Read the statistics of many groups in one answer, in path order."""
    wanted = pick_fields(fields, _FIELDS) | {"group"}
    groups = (
        parts.backend.groups(resolve(parts.backend, subtree, caller).path)
        if subtree
        else parts.backend.groups()[1:]
    )
    return _stats_list(
        await read_all(parts.backend, sorted(seen_by(caller, groups), key=attrgetter("path"))),
        wanted,
    )


def _stats_list(readings: list[tuple[Group, MemStat]], wanted: frozenset[str]) -> Response:
    rows = (stats_row(group, stat) for group, stat in readings)
    items = (
        list(rows)
        if wanted >= _FIELDS
        else [{name: value for name, value in row.items() if name in wanted} for row in rows]
    )
    return Response(
        to_json({"items": items, "read_at": rfc3339(now())}), media_type="application/json"
    )
