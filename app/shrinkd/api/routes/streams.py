"""Streams of one thing.

A group's statistics and a shrink's progress, each read once for all who listen.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic_core import to_json

from shrinkd.api.http.dependencies import Parts, Target, Wired, ref
from shrinkd.api.http.sse import EventStream, sse
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.document import refuses
from shrinkd.api.routes.shrinks import Known, row_of, shrink_body, wait_done
from shrinkd.api.routes.stats import stats_bytes
from shrinkd.backends import Group
from shrinkd.errors import GroupGone, GroupNotFound, ShrinkNotFound, TooManyStreams
from shrinkd.events import Feed
from shrinkd.shrinks import State

router = APIRouter(route_class=StrictRoute)
_LOOK_SECONDS = 0.1
_STATS: dict[str, Any] = {
    "description": "The `data` of `stats` is a StatsBody. Who reads too slowly misses some, and a "
    "`gap` says how many were `missed`; "
    "`gone` is the end, when the group is removed.",
    "content": {
        "text/event-stream": {
            "example": "event: stats\ndata: "
            '{"group":{"id":"354371","path":"web"},"usage_bytes":371195904,…}\n\n'
        }
    },
}
_SHRINK: dict[str, Any] = {
    "description": "The `data` of `state` is a ShrinkBody, that of `progress` its `progress`; what "
    "changes twice in 0.1 s is told once.",
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
        description="How often it is read; all who ask for the same share the reading.",
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
async def stream_stats(wiring: Wired, group: Target, interval_seconds: Interval = 1.0) -> Response:
    """Follow the statistics of a group, from the last reading on.

    It ends when the group is removed.
    """
    return EventStream(stats_frames(wiring, group, interval_seconds))


@router.get(
    "/v1/shrinks/{shrink_id}/events",
    operation_id="stream_shrink_events",
    status_code=200,
    tags=["shrinks"],
    response_class=EventStream,
    responses=refuses(ShrinkNotFound, TooManyStreams) | {200: _SHRINK},
)
async def stream_shrink_events(wiring: Wired, shrink_id: Known) -> Response:
    """Follow a shrink.

    A `state` event whenever its state changes, `progress` in between; it ends when the shrink is
    done.
    """
    return EventStream(shrink_frames(wiring, shrink_id))


async def stats_frames(
    wiring: Parts, group: Group, interval_seconds: float
) -> AsyncGenerator[bytes]:
    tell = partial(_tell_stats, wiring, group, interval_seconds)
    async with wiring.streams.subscribed((group.id, interval_seconds), tell) as feed:
        async for frame, missed in feed.subscribe():
            yield sse("gap", to_json({"missed": missed})) + frame if missed else frame


async def _tell_stats(
    wiring: Parts, group: Group, interval_seconds: float, feed: Feed[bytes]
) -> None:
    """Read a group at every tick until it is gone; a tick that comes too late is left out."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    with suppress(GroupGone, GroupNotFound):
        while True:
            feed.publish(sse("stats", stats_bytes(group, wiring.backend.stat(group))))
            due = max(due + interval_seconds, loop.time())
            await asyncio.sleep(due - loop.time())
    feed.publish(sse("gone", ref(group).model_dump_json().encode()))


@dataclass(frozen=True, slots=True)
class _Step:
    """A shrink as it was at one look, in both ways to tell it."""

    state: State
    as_state: bytes
    as_progress: bytes


async def shrink_frames(wiring: Parts, shrink_id: str) -> AsyncGenerator[bytes]:
    """The shrink as it is now, then what changes, until it is done.

    Who is slow sees fewer steps.
    """
    seen: State | None = None
    async with wiring.streams.subscribed(
        shrink_id, partial(_tell_shrink, wiring, shrink_id)
    ) as feed:
        async for step, _ in feed.subscribe():
            yield step.as_progress if step.state is seen else step.as_state
            seen = step.state


async def _tell_shrink(wiring: Parts, shrink_id: str, feed: Feed[_Step]) -> None:
    """Look ten times a second, which costs nothing that matters once it is one look for all, and
    when it ends.
    """
    seen: tuple[State, int] | None = None
    done = False
    while not done:
        job = wiring.jobs.job(shrink_id)
        body = shrink_body(await row_of(wiring, shrink_id))
        if seen != (body.state, body.progress.passes):
            state, progress = (
                body.model_dump_json().encode(),
                body.progress.model_dump_json().encode(),
            )
            feed.publish(_Step(body.state, sse("state", state), sse("progress", progress)))
        seen, done = (body.state, body.progress.passes), body.done
        await wait_done(wiring, job, 0 if done else _LOOK_SECONDS)
