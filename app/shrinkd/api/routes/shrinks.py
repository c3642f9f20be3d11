"""Routes that submit, read, list and cancel shrinks: patches 3/4 and 4/4 of the seed over HTTP."""

import asyncio
import re
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shrinkd.api.http.dependencies import (
    AllParts,
    Body,
    Calling,
    Changeable,
    DryRun,
    GroupRef,
    Parts,
    Target,
    caller_of,
    rfc3339,
)
from shrinkd.api.http.etags import tagged
from shrinkd.api.http.group_reference import href_of
from shrinkd.api.http.idempotency import ReservedId
from shrinkd.api.http.paging import Keyset, PageSize, PageToken, link_next
from shrinkd.api.http.prefer import preferences
from shrinkd.api.http.problems import restored
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import PAGED, UNCHANGED, bodies, refuses, sends
from shrinkd.auth import Caller, Level
from shrinkd.backends import Group, check_group_path
from shrinkd.errors import (
    InvalidGroupName,
    ProtectedGroup,
    ShrinkFinished,
    ShrinkInProgress,
    ShrinkNotFound,
    TooManyShrinks,
    UnsupportedOption,
)
from shrinkd.shrinks import Job, State
from shrinkd.shrinks import Request as ShrinkRequest
from shrinkd.storage import GroupFilter, ShrinkRow, shrink_not_found
from shrinkd.strict_model import Moment, Size, Strict

router = APIRouter(route_class=StrictRoute, tags=["shrinks"])
_LONGEST_WAIT_SECONDS = 60
_SECONDS = re.compile("[0-9]{1,6}")
_NEWEST_FIRST = Keyset[ShrinkRow]("-created_at", (int, str), lambda row: (row.created_at, row.id))


class NewShrink(Strict):
    """Exactly one of target_bytes and reclaim_bytes; the rest has defaults."""

    target_bytes: Size | None = Field(None, description="Bring usage below this.")
    reclaim_bytes: Size | None = Field(None, description="Bring usage down by this much.")
    set_max_bytes: Size | None = Field(
        None, description="Then make this the limit; not below target_bytes."
    )
    timeout_seconds: float = Field(300, gt=0, le=86400)
    max_bytes_per_second: Size | None = Field(
        None, description="Reclaim no faster than this on average."
    )
    swappiness: int | None = Field(
        None, ge=0, le=200, description="Where the kernel takes it; see capabilities of /v1/node."
    )
    pressure_pause_percent: float | None = Field(
        None, ge=0, le=100, description="Hold while the group's PSI some avg10 is above this."
    )
    reason: str | None = Field(None, max_length=200)

    @model_validator(mode="after")
    def _check(self) -> "NewShrink":
        if (self.target_bytes is None) == (self.reclaim_bytes is None):
            raise ValueError("give exactly one of target_bytes and reclaim_bytes")
        if (
            self.set_max_bytes is not None
            and self.target_bytes is not None
            and self.set_max_bytes < self.target_bytes
        ):
            raise ValueError(
                "set_max_bytes is below target_bytes: the limit could not be set when the target "
                "is met"
            )
        if self.max_bytes_per_second == 0:
            raise ValueError("max_bytes_per_second of 0 would never end; leave it out for no bound")
        return self


ANewShrink = Annotated[
    NewShrink,
    bodies(
        resize=("Shrink, then set the limit", {"target_bytes": "200M", "set_max_bytes": "200M"}),
        reclaim=("Take 50 MiB off", {"reclaim_bytes": "50M"}),
        gently=(
            "Slowly, and with a deadline",
            {"target_bytes": "200M", "max_bytes_per_second": "20M", "timeout_seconds": 60},
        ),
    ),
]


class ShrinkRequestBody(Body):
    """The parameters of a shrink, with the defaults filled in."""

    target_bytes: int | None = None
    reclaim_bytes: int | None = None
    set_max_bytes: int | None = None
    timeout_seconds: float
    max_bytes_per_second: int | None = None
    swappiness: int | None = None
    pressure_pause_percent: float | None = None
    reason: str | None = None


class ProgressBody(Body):
    """The progress of a shrink; usage has to get below target_bytes."""

    start_bytes: int
    usage_bytes: int
    target_bytes: int
    reclaimed_bytes: int
    remaining_bytes: int
    passes: int
    retries_left: int
    elapsed_seconds: float
    bytes_per_second: int
    eta_seconds: float | None


class ShrinkLinks(Body):
    """The addresses of a shrink, its actions and its group."""

    self: str
    cancel: str
    events: str
    group: str


class ShrinkBody(Body):
    """One shrink: its parameters, its progress and its outcome."""

    id: str
    group: GroupRef
    state: State
    done: bool
    request: ShrinkRequestBody
    progress: ProgressBody
    error: dict[str, Any] | None
    policy: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    links: ShrinkLinks
    dry_run: bool = False


class ShrinkPage(Body):
    """A page of shrinks, the newest first."""

    items: list[ShrinkBody]
    next_page_token: str | None


class GroupShrinkQuery(BaseModel):
    """The query of a list of one group's shrinks."""

    model_config = ConfigDict(extra="forbid")

    state: list[State] = Field([], description="One or more states; absent: all.")
    since: Moment | None = Field(None, description="Only those created at or after this time.")
    page_size: PageSize = 50
    page_token: PageToken = None


class ShrinkQuery(GroupShrinkQuery):
    """The query of a list of shrinks."""

    group: str | None = Field(None, description="The path of a group, which may be gone by now.")


async def _wait_seconds(
    request: Request,
    prefer: Annotated[
        str | None,
        Header(description="`wait=N`: answer when it is done, or after N seconds (at most 60)."),
    ] = None,
) -> int:
    seconds = preferences(request).get("wait", "") if prefer else ""
    return min(int(seconds), _LONGEST_WAIT_SECONDS) if _SECONDS.fullmatch(seconds) else 0


Wait = Annotated[int, Depends(_wait_seconds)]


class SubmitOptions(NamedTuple):
    """The options of a request that submits a shrink, besides its body."""

    owner: str
    wait_seconds: int
    makes: str | None
    reader: Request | None
    """The request whose disconnect ends the wait. None under an idempotency key: its answer is
    stored for the retry of a caller that disconnects."""
    dry_run: bool


async def _submit_options(
    request: Request, caller: Calling, wait: Wait, makes: ReservedId, dry_run: DryRun = False
) -> SubmitOptions:
    return SubmitOptions(caller.name, wait, makes, None if makes else request, dry_run)


async def _known(parts: AllParts, caller: Calling, shrink_id: str) -> str:
    """Return the id of a shrink that the caller may read. ShrinkNotFound.

    This is checked before a stream or a wait begins, since neither can answer 404 later.
    """
    row = await row_of(parts, shrink_id)
    if not caller.may(Level.READ, row.group_path):
        raise shrink_not_found(shrink_id)
    return shrink_id


async def _cancellable(
    parts: AllParts, caller: Calling, shrink_id: Annotated[str, Depends(_known)]
) -> str:
    caller.require(Level.WRITE, (await row_of(parts, shrink_id)).group_path)
    return shrink_id


Known = Annotated[str, Depends(_known)]
"""The id of a shrink that the caller may read."""
Cancellable = Annotated[str, Depends(_cancellable)]
"""The id of a shrink that the caller may cancel."""


@router.post(
    "/v1/groups/{group:reference}/shrinks",
    operation_id="create_shrink",
    status_code=202,
    response_model=ShrinkBody,
    responses=refuses(
        ShrinkInProgress, TooManyShrinks, UnsupportedOption, ProtectedGroup, group=True
    )
    | {
        200: {
            "model": ShrinkBody,
            "description": "Done within `Prefer: wait=N`; `state` is its outcome.",
        }
        | sends("Location", "Preference-Applied"),
        202: sends("Location", "Retry-After", "Preference-Applied"),
    },
)
async def create_shrink(
    parts: AllParts,
    group: Changeable,
    new: ANewShrink,
    options: Annotated[SubmitOptions, Depends(_submit_options)],
) -> Response:
    """Shrink a group as a job: bring its usage below a target, then set its limit if asked."""
    row = await asyncio.to_thread(submit, parts, group, new, options)
    await wait_done(parts, parts.jobs.job(row.id), options.wait_seconds, options.reader)
    return await answer(parts, row, options)


@router.get(
    "/v1/groups/{group:reference}/shrinks",
    operation_id="list_group_shrinks",
    responses=PAGED | refuses(group=True),
)
def list_group_shrinks(
    request: Request,
    response: Response,
    parts: AllParts,
    group: Target,
    query: Annotated[GroupShrinkQuery, Query()],
) -> ShrinkPage:
    """List the shrinks of a group's path, the newest first."""
    page = list_page(parts, caller_of(request.scope), query, group.path)
    link_next(response, request, page.next_page_token)
    return page


@router.get("/v1/shrinks", operation_id="list_shrinks", responses=PAGED | refuses(InvalidGroupName))
def list_shrinks(
    request: Request,
    response: Response,
    parts: AllParts,
    caller: Calling,
    query: Annotated[ShrinkQuery, Query()],
) -> ShrinkPage:
    """List shrinks, the newest first; finished ones are kept for 7 days."""
    page = list_page(parts, caller, query, query.group)
    link_next(response, request, page.next_page_token)
    return page


@router.get(
    "/v1/shrinks/{shrink_id}",
    operation_id="get_shrink",
    response_model=ShrinkBody,
    responses=UNCHANGED
    | {200: sends("ETag", "Retry-After", "Preference-Applied")}
    | refuses(ShrinkNotFound),
)
async def get_shrink(request: Request, parts: AllParts, shrink_id: Known, wait: Wait) -> Response:
    """Read a shrink; with `Prefer: wait=N`, when it is done."""
    await wait_done(parts, parts.jobs.job(shrink_id), wait, request)
    body = shrink_body(await row_of(parts, shrink_id))
    return tagged(request, body, _hints(body, wait))


@router.post(
    "/v1/shrinks/{shrink_id}/cancel",
    operation_id="cancel_shrink",
    status_code=202,
    response_model=ShrinkBody,
    responses=refuses(ShrinkNotFound, ShrinkFinished)
    | {
        200: {"model": ShrinkBody, "description": "It is cancelled."},
        202: {"description": "It is stopping; `Retry-After` says when to read it again."}
        | sends("Retry-After"),
    },
)
def cancel_shrink(parts: AllParts, shrink_id: Cancellable, dry_run: DryRun = False) -> Response:
    """Ask a shrink to stop: -EINTR. What it has reclaimed stays reclaimed; no limit changes."""
    body = shrink_body(parts.jobs.cancel(shrink_id, dry_run=dry_run), dry_run=dry_run)
    return Response(
        body.model_dump_json(), 200 if body.done else 202, _hints(body, 0), "application/json"
    )


def submit(parts: Parts, group: Group, new: NewShrink, options: SubmitOptions) -> ShrinkRow:
    """Submit a shrink and return its row, or the row of the shrink that already has its id.

    UnsupportedOption for an option that this node does not have; see ShrinkQueue.submit().
    """
    with suppress(ShrinkNotFound):
        if options.makes:
            return parts.jobs.shrink(options.makes)
    if new.swappiness is not None and not parts.backend.has_swappiness:
        raise UnsupportedOption(
            "This kernel takes no swappiness for one reclaim: leave it out, or set that of the "
            "group.",
            option="swappiness",
        )
    if new.pressure_pause_percent is not None and parts.backend.stat(group).pressure is None:
        raise UnsupportedOption(
            "This kernel has no pressure of the group: leave pressure_pause_percent out.",
            option="pressure_pause_percent",
        )
    if new.set_max_bytes is not None and "max_bytes" not in parts.backend.settable_limits:
        raise UnsupportedOption("This node sets no max_bytes.", option="set_max_bytes")
    request = ShrinkRequest(**new.model_dump())
    return parts.jobs.submit(
        group, request, owner=options.owner, shrink_id=options.makes, dry_run=options.dry_run
    ).row()


async def wait_done(
    parts: Parts, job: Job | None, seconds: float, request: Request | None = None
) -> None:
    """Wait until a job is done, for at most `seconds`; end early when the daemon stops.

    With a `request`, also when its client disconnects.
    """
    if job is not None and seconds:
        if job not in parts.finishes:
            parts.finishes[job] = asyncio.wrap_future(job.finished)
        ends: list[Coroutine[Any, Any, object]] = [
            parts.closing.wait(),
            *([_disconnected(request)] if request else []),
        ]
        others = [asyncio.ensure_future(end) for end in ends]
        waiting: set[asyncio.Future[Any]] = {parts.finishes[job], *others}
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for other in others:
                other.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client has disconnected. To be called after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def row_of(parts: Parts, shrink_id: str) -> ShrinkRow:
    """Return a shrink's row as it is now; an active one needs no database, which may be locked."""
    job = parts.jobs.job(shrink_id)
    return job.row() if job else await asyncio.to_thread(parts.jobs.shrink, shrink_id)


async def answer(parts: Parts, row: ShrinkRow, options: SubmitOptions) -> Response:
    """Return the response to a submitted shrink: 200 if it was waited for and is done, else 202."""
    body = shrink_body(
        row if options.dry_run else await row_of(parts, row.id), dry_run=options.dry_run
    )
    headers = ({} if options.dry_run else {"Location": body.links.self}) | _hints(
        body, options.wait_seconds
    )
    if body.done and options.wait_seconds:
        return Response(body.model_dump_json(), 200, headers, "application/json")
    return Response(body.model_dump_json(), 202, headers | {"Retry-After": "1"}, "application/json")


def _hints(body: ShrinkBody, wait: int) -> dict[str, str]:
    return ({} if body.done else {"Retry-After": "1"}) | (
        {"Preference-Applied": f"wait={wait}"} if wait else {}
    )


def shrink_body(row: ShrinkRow, *, dry_run: bool = False) -> ShrinkBody:
    """Return a row of the queue as the API answers it."""
    state, here, path = State(row.state), f"/v1/shrinks/{row.id}", row.group_path
    return ShrinkBody(
        id=row.id,
        request=ShrinkRequestBody(**row.request),
        policy=row.policy,
        created_at=rfc3339(row.created_at),
        started_at=None if row.started_at is None else rfc3339(row.started_at),
        finished_at=None if row.finished_at is None else rfc3339(row.finished_at),
        group=GroupRef(id=str(row.group_id), path=path),
        state=state,
        done=state.done,
        progress=_progress(row.progress, done=state.done),
        error=restored(row.error),
        links=ShrinkLinks(
            self=here,
            cancel=f"{here}/cancel",
            events=f"{here}/events",
            group=href_of(Group(path, row.group_id)),
        ),
        dry_run=dry_run,
    )


def _progress(progress: Mapping[str, Any], *, done: bool) -> ProgressBody:
    remaining = max(progress["usage_bytes"] - progress["target_bytes"] + 1, 0)
    elapsed = progress["elapsed_seconds"]
    rate = round(progress["reclaimed_bytes"] / elapsed) if elapsed else 0
    eta = None if done or not rate else round(remaining / rate, 3)
    return ProgressBody(
        **progress, remaining_bytes=remaining, bytes_per_second=rate, eta_seconds=eta
    )


def list_page(
    parts: Parts, caller: Caller, query: GroupShrinkQuery, group: str | None
) -> ShrinkPage:
    rows, token = _NEWEST_FIRST.page(
        query,
        lambda limit, before: parts.jobs.shrinks(
            limit=limit,
            before=before,
            states=tuple(map(str, query.state)),
            group=_filter_for(caller, group),
            since=None if query.since is None else round(query.since.timestamp() * 1e6),
        ),
    )
    return ShrinkPage(items=[shrink_body(row) for row in rows], next_page_token=token)


def _filter_for(caller: Caller, group: str | None) -> GroupFilter:
    """Return the filter for one path, whose group may be gone, or for all that one may read."""
    if group is None:
        return caller.readable()
    return group if caller.may(Level.READ, check_group_path(group)) else ()
