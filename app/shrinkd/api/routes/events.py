"""What has happened: a page of events, or all of them as they come."""

import asyncio
import re
from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from shrinkd.api.http.dependencies import Body, Calling, GroupRef, Parts, Wired, ref, rfc3339
from shrinkd.api.http.paging import Keyset, PageSize, PageToken, link_next, page_limit
from shrinkd.api.http.sse import EventStream, sse
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.document import Responses, refuses, sends
from shrinkd.auth import Caller, Level
from shrinkd.backends import check_group_path
from shrinkd.errors import EventsExpired, InvalidGroupName, TooManyStreams
from shrinkd.events import RECENT, Event, EventType, Selection

router = APIRouter(route_class=StrictRoute, tags=["events"])
_OLDEST_FIRST = Keyset[Event]("id", (int,), lambda event: (event.id,))
_AT_ONCE = 100
"""Events that one write to a stream holds at most."""
_ID = re.compile(r"\d{1,18}", re.ASCII)
_STREAM: dict[str, Any] = sends("Link") | {
    "description": "A page; or, with `Accept: text/event-stream`, each event as an EventBody in "
    "the `data` of one of its type. But a `gap` "
    "whose data is `after`, `oldest_id` and `newest_id` tells that the stream was to begin behind "
    "an event that is not kept any more (all "
    "that is kept follows) or was never given out here (what comes follows).",
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": "event: group.made\nid: 42\ndata: "
            '{"id":42,"type":"group.made","happened_at":"2026-11-23T08:00:00.000000Z",'
            '"group":{"id":"354371","path":"web"},"data":{}}\n\n',
        }
    },
}
_ANSWERS: Responses = {200: _STREAM}


class EventBody(Body):
    """One thing that happened."""

    id: int
    """Counts up by one with each event of this daemon, over restarts too."""
    type: EventType
    happened_at: str
    group: GroupRef | None
    """null: of the whole node."""
    data: dict[str, Any] = Field(
        examples=[{"shrink_id": "019a1b2c3d4e5f60718293a4b5c6d7e8", "state": "succeeded"}]
    )
    """What there is to say, by the type. `daemon.started`: version, interrupted_shrinks.
    `group.made` and `limits.changed`: the limits, and policy and shrink_id where those set them.
    `process.added`: pid. `shrink.state`: shrink_id, state, policy, errno, reclaimed_bytes.
    `policy.changed`: name, kind, enabled, generation. `policy.deleted`: name. `decision`:
    policy, generation, mode, verdict, reason, asked_bytes, granted_bytes. `simulation.state`:
    simulation_id, state. `gap`: dropped. Others: nothing."""


class EventPage(Body):
    """A page of events, the oldest first."""

    items: list[EventBody]
    last_id: int
    """Ask for what comes after this one, next time: no event that was asked for lies between it and
    the last item."""
    next_page_token: str | None


class EventQuery(BaseModel):
    """Which events."""

    model_config = ConfigDict(extra="forbid")

    type: list[EventType] = Field(
        [], description="One or more types; absent: all. `gap` always comes along."
    )
    group: str | None = Field(
        None,
        description="The path of a group, which may be gone by now: what happened at it and below.",
    )
    after: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="The id of an event: those behind it. Absent: all; in a stream, what comes.",
    )
    page_size: PageSize = 50
    page_token: PageToken = None


LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="Of the last event that was received: a stream goes on behind it. Goes before "
        "after=.",
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
    wiring: Wired,
    caller: Calling,
    query: Annotated[EventQuery, Query()],
    last_event_id: LastEventId = None,
) -> Response:
    """List what has happened, the oldest first, or follow it.

    With `Accept: text/event-stream`, until you hang up.
    """
    wanted = selection(caller, query)
    if not wants_stream(request):
        return page(request, wiring, query, wanted)
    return EventStream(follow(wiring, wanted, _begin(wiring, last_event_id, query.after)))


def wants_stream(request: Request) -> bool:
    accepted = ",".join(request.headers.getlist("accept")).lower().split(",")
    return any(media.partition(";")[0].strip() == EventStream.media_type for media in accepted)


def selection(caller: Caller, query: EventQuery) -> Selection:
    """What is asked for, as far as the caller may read it.

    What has no group is of the whole node.
    """
    within = [frozenset((check_group_path(query.group),))] if query.group else []
    if not caller.may(Level.READ):
        within.append(frozenset(grant.subtree for grant in caller.grants))
    return Selection(frozenset(query.type), tuple(within))


def page(request: Request, wiring: Parts, query: EventQuery, wanted: Selection) -> Response:
    position = _OLDEST_FIRST.position(query)
    after = (
        position[0]
        if position
        else wiring.events.oldest - 1
        if query.after is None
        else query.after
    )
    limit = page_limit(query.page_size)
    found, last_id = wiring.events.read(after, limit, wanted)
    following = (
        _OLDEST_FIRST.token((last_id,))
        if len(found) == limit and last_id < wiring.events.newest
        else None
    )
    body = EventPage(
        items=[event_body(event) for event in found], last_id=last_id, next_page_token=following
    )
    response = Response(body.model_dump_json(), 200, {"Vary": "Accept"}, "application/json")
    link_next(response, request, following)
    return response


def _begin(wiring: Parts, last_event_id: str | None, after: int | None) -> int:
    """Where a stream begins; -1 for an id that nobody here has given out."""
    if last_event_id:
        return int(last_event_id) if _ID.fullmatch(last_event_id) else -1
    return wiring.events.newest if after is None else after


async def follow(wiring: Parts, wanted: Selection, position: int) -> AsyncGenerator[bytes]:
    """Everything behind a position that is wanted, and then what comes.

    From memory where that has it, from the database where not.
    """
    events = wiring.events
    while True:
        found: list[Event] = []
        recent = events.recent(position, _AT_ONCE)
        if recent is None:
            try:
                found, position = await asyncio.to_thread(events.read, position, _AT_ONCE, wanted)
            except EventsExpired as expired:
                foreign = position > events.newest or position < 0
                position = events.newest if foreign else events.oldest - 1
                yield sse("gap", to_json(expired.members), position)
        elif recent:
            found, position = [event for event in recent if wanted.takes(event)], recent[-1].id
        else:
            await wiring.streams.new_events.wait()
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
    """An event as all who follow are sent it: written once for all of them."""
    return sse(event.type, event_body(event).model_dump_json().encode(), event.id)
