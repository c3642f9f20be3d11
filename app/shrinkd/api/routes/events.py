"""Events: list them in pages, or follow them as a stream."""

import asyncio
import re
from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from shrinkd.api.http.dependencies import AllParts, Body, Calling, GroupRef, Parts, ref, rfc3339
from shrinkd.api.http.paging import Keyset, PageSize, PageToken, link_next, page_limit
from shrinkd.api.http.sse import EventStream, encode_event
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import Responses, refuses, sends
from shrinkd.auth import Caller, Level
from shrinkd.backends import check_group_path
from shrinkd.errors import EventsExpired, InvalidGroupName, TooManyStreams
from shrinkd.events import RECENT, Event, EventType, Selection

router = APIRouter(route_class=StrictRoute, tags=["events"])
_OLDEST_FIRST = Keyset[Event]("id", (int,), lambda event: (event.id,))
_MAX_BATCH = 100
"""Maximum events in one write to a stream."""
_ID = re.compile(r"\d{1,18}", re.ASCII)
_STREAM: dict[str, Any] = sends("Link") | {
    "description": "A page; or, with `Accept: text/event-stream`, a stream of events of the given "
    "types, each with an EventBody as `data`. A `gap` whose data is `after`, `oldest_id` and "
    "`newest_id` means that the stream was requested after an event that is not kept any more (all "
    "kept events follow) or that this daemon never published (new events follow).",
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": "event: group.made\ndata: "
            '{"id":42,"type":"group.made","happened_at":"2026-11-23T08:00:00.000000Z",'
            '"group":{"id":"354371","path":"web"},"data":{}}\nid: 42\n\n',
        }
    },
}
_ANSWERS: Responses = {200: _STREAM}


class EventBody(Body):
    """One event."""

    id: int
    """Increases by one with each event of this daemon, across restarts."""
    type: EventType
    happened_at: str
    group: GroupRef | None
    """null for an event of the whole node."""
    data: dict[str, Any] = Field(
        examples=[{"shrink_id": "019a1b2c3d4e5f60718293a4b5c6d7e8", "state": "succeeded"}]
    )
    """Members by type. `daemon.started`: version, interrupted_shrinks.
    `group.made` and `limits.changed`: the limits, and policy and shrink_id if those set them.
    `process.added`: pid. `shrink.state`: shrink_id, state, policy, errno, reclaimed_bytes.
    `policy.changed`: name, kind, enabled, generation. `policy.deleted`: name. `decision`:
    policy, generation, mode, verdict, reason, asked_bytes, granted_bytes. `simulation.state`:
    simulation_id, state. `gap`: dropped. Others: none."""


class EventPage(Body):
    """A page of events, the oldest first."""

    items: list[EventBody]
    last_id: int
    """The id to continue after: no requested event lies between the last item and it."""
    next_page_token: str | None


class EventQuery(BaseModel):
    """Filters of events."""

    model_config = ConfigDict(extra="forbid")

    type: list[EventType] = Field(
        [], description="One or more types; absent: all. `gap` is always included."
    )
    group: str | None = Field(
        None,
        description="The path of a group, which may be gone by now: events of it and groups below.",
    )
    after: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="The id of an event: only later events. Absent: all; in a stream, new ones.",
    )
    page_size: PageSize = 50
    page_token: PageToken = None


LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="The id of the last event that was received: a stream continues after it. "
        "Overrides after=.",
    ),
]


@router.get(
    "/v1/events",
    operation_id="list_events",
    response_model=EventPage,
    responses=_ANSWERS | refuses(EventsExpired, TooManyStreams, InvalidGroupName),
)
def list_events(
    request: Request,
    parts: AllParts,
    caller: Calling,
    query: Annotated[EventQuery, Query()],
    last_event_id: LastEventId = None,
) -> Response:
    """List events, the oldest first, or follow them.

    With `Accept: text/event-stream` the answer is a stream without an end.
    """
    selected = selection(caller, query)
    if not accepts_stream(request):
        return page(request, parts, query, selected)
    return EventStream(follow(parts, selected, _begin(parts, last_event_id, query.after)))


def accepts_stream(request: Request) -> bool:
    """Tell whether the Accept header names text/event-stream."""
    accepted = ",".join(request.headers.getlist("accept")).lower().split(",")
    return any(media.partition(";")[0].strip() == EventStream.media_type for media in accepted)


def selection(caller: Caller, query: EventQuery) -> Selection:
    """Return the filter for the requested events that the caller may read.

    Events without a group need the scope to read the whole node.
    """
    within = [frozenset((check_group_path(query.group),))] if query.group else []
    if not caller.may(Level.READ):
        within.append(frozenset(grant.subtree for grant in caller.grants))
    return Selection(frozenset(query.type), tuple(within))


def page(request: Request, parts: Parts, query: EventQuery, selected: Selection) -> Response:
    """Answer the page of selected events that follows the page token or `after`."""
    position = _OLDEST_FIRST.position(query)
    first = parts.events.oldest - 1 if query.after is None else query.after
    after = position[0] if position else first
    limit = page_limit(query.page_size)
    found, last_id = parts.events.read(after, limit, selected)
    following = (
        _OLDEST_FIRST.token((last_id,))
        if len(found) == limit and last_id < parts.events.newest
        else None
    )
    body = EventPage(
        items=[event_body(event) for event in found], last_id=last_id, next_page_token=following
    )
    response = Response(body.model_dump_json(), 200, {"Vary": "Accept"}, "application/json")
    link_next(response, request, following)
    return response


def _begin(parts: Parts, last_event_id: str | None, after: int | None) -> int:
    """Return the event id after which a stream begins; -1 for an id of another form."""
    if last_event_id:
        return int(last_event_id) if _ID.fullmatch(last_event_id) else -1
    return parts.events.newest if after is None else after


async def follow(parts: Parts, selected: Selection, position: int) -> AsyncGenerator[bytes]:
    """Yield the selected events after a position, then new ones as they are published.

    Recent events come from memory, older ones from the database.
    """
    events = parts.events
    while True:
        found: list[Event] = []
        recent = events.recent(position, _MAX_BATCH)
        if recent is None:
            try:
                found, position = await asyncio.to_thread(
                    events.read, position, _MAX_BATCH, selected
                )
            except EventsExpired as expired:
                is_unknown = position > events.newest or position < 0
                position = events.newest if is_unknown else events.oldest - 1
                yield encode_event("gap", to_json(expired.members), position)
        elif recent:
            found, position = [event for event in recent if selected.takes(event)], recent[-1].id
        else:
            await parts.streams.new_events.wait()
        if found:
            yield b"".join(map(_frame, found))


def event_body(event: Event) -> EventBody:
    return EventBody(
        id=event.id,
        type=event.type,
        happened_at=rfc3339(event.at),
        group=ref(event.group) if event.group else None,
        data=event.data,
    )


@lru_cache(RECENT)
def _frame(event: Event) -> bytes:
    """Encode an event; cached, because all streams send the same bytes."""
    return encode_event(event.type, event_body(event).model_dump_json().encode(), event.id)
