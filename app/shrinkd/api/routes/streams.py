"""Streams of one group's statistics and of one shrink's progress.

Each group or shrink is read once for all its listeners.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic_core import to_json

from shrinkd.api.http.dependencies import AllParts, Parts, Target, ref
from shrinkd.api.http.sse import EventStream, encode_event
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import refuses
from shrinkd.api.routes.shrinks import Known, row_of, shrink_body, wait_done
from shrinkd.api.routes.stats import stats_bytes
from shrinkd.backends import Group
from shrinkd.errors import GroupGone, GroupNotFound, ShrinkNotFound, TooManyStreams
from shrinkd.events import Feed
from shrinkd.shrinks import State

router = APIRouter(route_class=StrictRoute)
_POLL_SECONDS = 0.1
_STATS: dict[str, Any] = {
    "description": "The `data` of `stats` is a StatsBody. A client that reads too slowly misses "
    "some, and a `gap` has their number as `missed`. `gone` is the last event, when the group is "
    "removed.",
    "content": {
        "text/event-stream": {
            "example": "event: stats\ndata: "
            '{"group":{"id":"354371","path":"web"},"usage_bytes":371195904,…}\n\n'
        }
    },
}
_SHRINK: dict[str, Any] = {
    "description": "The `data` of `state` is a ShrinkBody, that of `progress` its `progress`; "
    "changes within 0.1 s are one event.",
    "content": {
        "text/event-stream": {
            "example": "event: progress\ndata: "
            '{"start_bytes":371195904,"usage_bytes":268435456,"target_bytes":209715200,…}\n\n',
        }
    },
}


Interval = Annotated[
    float,
    Query(
        ge=0.2,
        le=60,
        description="Seconds between readings; streams with the same interval share them.",
    ),
]


@router.get(
    "/v1/groups/{group:reference}/stats/stream",
    operation_id="stream_stats",
    status_code=200,
    tags=["stats"],
    response_class=EventStream,
    responses=refuses(TooManyStreams, group=True) | {200: _STATS},
)
async def stream_stats(
    parts: AllParts, group: Target, interval_seconds: Interval = 1.0
) -> Response:
    """Follow the statistics of a group, beginning with the last reading.

    The stream ends when the group is removed.
    """
    return EventStream(stats_frames(parts, group, interval_seconds))


@router.get(
    "/v1/shrinks/{shrink_id}/events",
    operation_id="stream_shrink_events",
    status_code=200,
    tags=["shrinks"],
    response_class=EventStream,
    responses=refuses(ShrinkNotFound, TooManyStreams) | {200: _SHRINK},
)
async def stream_shrink_events(parts: AllParts, shrink_id: Known) -> Response:
    """Follow a shrink.

    The stream has a `state` event for each change of state, and `progress` in between. It ends when
    the shrink is done.
    """
    return EventStream(shrink_frames(parts, shrink_id))


async def stats_frames(
    parts: Parts, group: Group, interval_seconds: float
) -> AsyncGenerator[bytes]:
    """Yield encoded readings of a group, with a `gap` before one that follows missed ones."""
    produce = partial(_publish_stats, parts, group, interval_seconds)
    async with parts.streams.subscribed((group.id, interval_seconds), produce) as feed:
        async for frame, missed in feed.subscribe():
            yield encode_event("gap", to_json({"missed": missed})) + frame if missed else frame


async def _publish_stats(
    parts: Parts, group: Group, interval_seconds: float, feed: Feed[bytes]
) -> None:
    """Publish a reading every interval until the group is gone; late readings are left out."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    with suppress(GroupGone, GroupNotFound):
        while True:
            feed.publish(encode_event("stats", stats_bytes(group, parts.backend.stat(group))))
            due = max(due + interval_seconds, loop.time())
            await asyncio.sleep(due - loop.time())
    feed.publish(encode_event("gone", ref(group).model_dump_json().encode()))


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A shrink at one moment, encoded as both kinds of event."""

    state: State
    as_state: bytes
    as_progress: bytes


async def shrink_frames(parts: Parts, shrink_id: str) -> AsyncGenerator[bytes]:
    """Yield the current state of a shrink, then its changes, until it is done.

    A slow client gets fewer of them.
    """
    last: State | None = None
    async with parts.streams.subscribed(
        shrink_id, partial(_publish_shrink, parts, shrink_id)
    ) as feed:
        async for snapshot, _ in feed.subscribe():
            yield snapshot.as_progress if snapshot.state is last else snapshot.as_state
            last = snapshot.state


async def _publish_shrink(parts: Parts, shrink_id: str, feed: Feed[_Snapshot]) -> None:
    """Publish changes of a shrink: poll it ten times a second for all listeners, and at its end."""
    last: tuple[State, int] | None = None
    done = False
    while not done:
        job = parts.jobs.job(shrink_id)
        body = shrink_body(await row_of(parts, shrink_id))
        if last != (body.state, body.progress.passes):
            state, progress = (
                body.model_dump_json().encode(),
                body.progress.model_dump_json().encode(),
            )
            feed.publish(
                _Snapshot(
                    body.state, encode_event("state", state), encode_event("progress", progress)
                )
            )
        last, done = (body.state, body.progress.passes), body.done
        await wait_done(parts, job, 0 if done else _POLL_SECONDS)
