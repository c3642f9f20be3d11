"""Routes of groups: list, read, make and remove them, and move a process into one."""

from functools import partial
from operator import itemgetter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from shrinkd.api.http.dependencies import (
    AllParts,
    Body,
    Calling,
    Changeable,
    DryRun,
    Lifecycle,
    Parts,
    Target,
    WritingAll,
    caller_of,
)
from shrinkd.api.http.etags import changed, check_preconditions, etag_of, tagged
from shrinkd.api.http.group_reference import check_readable, href_of, resolve, seen_by
from shrinkd.api.http.paging import Keyset, PageSize, PageToken, link_next
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import PAGED, UNCHANGED, bodies, refuses, sends
from shrinkd.api.routes.limits import LimitsBody, LimitsPatch, limits_body
from shrinkd.api.routes.stats import StatsBody, pick_fields, read_all, stats_row
from shrinkd.auth import Caller, Level
from shrinkd.backends import Backend, Group, Limits, check_group_path
from shrinkd.errors import (
    GroupBusy,
    GroupExists,
    GroupNotEmpty,
    GroupNotFound,
    GroupNotManaged,
    InvalidGroupName,
    LimitBelowUsage,
    LimitOrder,
    PreconditionFailed,
    ProcessNotFound,
    ProtectedGroup,
    ShrinkInProgress,
    UnsupportedLimit,
    ignoring_unreadable,
)
from shrinkd.groups import GroupLifecycle, aliases_of
from shrinkd.strict_model import Strict

router = APIRouter(route_class=StrictRoute, tags=["groups"])


class GroupLinks(Body):
    """The addresses of a group and of its parts."""

    self: str
    limits: str
    shrinks: str
    stats: str
    processes: str


class GroupBody(Body):
    """One incarnation of a control group."""

    id: str
    path: str
    aliases: list[str]
    managed: bool
    """Made through this API, and so removable through it."""
    limits: LimitsBody
    links: GroupLinks
    dry_run: bool = False


_NAMES = ("id", "path", "aliases", "managed")
_NUMBERS = tuple(name for name in StatsBody.model_fields if name.endswith("_bytes"))
_ROW_SCHEMA = {
    "type": "object",
    "title": "GroupRow",
    "description": "The requested fields of a group.",
    "properties": {
        "id": {"type": "string"},
        "path": {"type": "string"},
        "aliases": {"type": "array", "items": {"type": "string"}},
        "managed": {"type": "boolean"},
        **{name: {"anyOf": [{"type": "integer"}, {"type": "null"}]} for name in _NUMBERS},
    },
}
Row = Annotated[dict[str, Any], WithJsonSchema(_ROW_SCHEMA)]


class GroupPage(Body):
    """A page of groups."""

    items: list[Row] = Field(
        examples=[[{"id": "354371", "path": "web", "usage_bytes": 371195904, "max_bytes": None}]]
    )
    """id, path, aliases, usage_bytes, max_bytes and effective_max_bytes, or those in ?fields=."""
    next_page_token: str | None


class NewGroup(Strict):
    """A group to make: its parent must exist."""

    path: str = Field(examples=["batch/etl"])
    limits: LimitsPatch = LimitsPatch()


class NewProcess(Strict):
    """A process to move into a group. Its memory so far stays charged to where it was."""

    pid: int = Field(gt=0, lt=2**31)


ANewGroup = Annotated[
    NewGroup,
    bodies(
        plain=("A group", {"path": "batch/nightly"}),
        limited=(
            "A group with a limit",
            {"path": "batch/nightly", "limits": {"max_bytes": "256M"}},
        ),
    ),
]
ANewProcess = Annotated[NewProcess, bodies(process=("A process, by its id", {"pid": 4711}))]


class DryRunBody(Body):
    """The answer of a dry run: the change would succeed; nothing was changed."""

    dry_run: Literal[True] = True


TRIED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": DryRunBody,
        "description": "The change would succeed; `dry_run` changed nothing.",
        "content": {"application/json": {"example": {"dry_run": True}}},
    }
}
_Keyed = tuple[tuple[int, str], Group]
"""A group behind the key that it is sorted by."""
_KNOWN = frozenset((*_NAMES, *_NUMBERS))
_ORDERS = tuple(f"{way}{name}" for name in ("path", *_NUMBERS) for way in ("", "-"))
_SHOWN = "id,path,aliases,usage_bytes,max_bytes,effective_max_bytes"


class GroupQuery(BaseModel):
    """The query of a list of groups: the selection, order, fields and page."""

    model_config = ConfigDict(extra="forbid")

    parent: str | None = Field(None, description="A group: only those below it. Absent: all.")
    depth: int | None = Field(
        None, ge=1, description="How many levels below the parent; absent: all."
    )
    order_by: str = Field(
        "path",
        description="path, or a number; a leading - for the largest first.",
        json_schema_extra={"enum": [*_ORDERS]},
    )
    fields: str = Field(
        _SHOWN, description=f"Comma list of the names to answer: {', '.join((*_NAMES, *_NUMBERS))}."
    )
    page_size: PageSize = 50
    page_token: PageToken = None


@router.get("/v1/groups", operation_id="list_groups", responses=PAGED | refuses(group=True))
async def list_groups(
    request: Request,
    response: Response,
    parts: AllParts,
    caller: Calling,
    query: Annotated[GroupQuery, Query()],
) -> GroupPage:
    """List the groups that the caller may read, by path or by a number, a page at a time."""
    page = await list_page(parts, caller, query)
    link_next(response, request, page.next_page_token)
    return page


@router.post(
    "/v1/groups",
    operation_id="create_group",
    status_code=201,
    response_model=GroupBody,
    responses=refuses(
        GroupExists,
        LimitBelowUsage,
        LimitOrder,
        GroupNotFound,
        InvalidGroupName,
        ProtectedGroup,
        UnsupportedLimit,
    )
    | {201: sends("Location", "ETag")},
)
def create_group(
    lifecycle: Lifecycle, caller: Calling, new: ANewGroup, dry_run: DryRun = False
) -> Response:
    """Make a group below an existing one, with limits if they are given: all of it, or nothing."""
    made = lifecycle.make_group(_new_path(caller, new), new.limits.changes(), dry_run=dry_run)
    body = group_body(lifecycle, caller, *made, dry_run=dry_run)
    return changed(body, 201, {"Location": body.links.self}, dry_run=dry_run)


@router.get(
    "/v1/groups/{group:group}",
    operation_id="get_group",
    response_model=GroupBody,
    responses=UNCHANGED | refuses(group=True),
)
async def get_group(request: Request, parts: AllParts, caller: Calling, group: Target) -> Response:
    """Read one group: its names and limits. Its usage is in its stats."""
    limits = parts.backend.stat(group).limits
    return tagged(request, group_body(parts.lifecycle, caller, group, limits))


@router.delete(
    "/v1/groups/{group:group}",
    operation_id="delete_group",
    status_code=204,
    responses=TRIED
    | refuses(
        GroupNotEmpty,
        GroupNotManaged,
        ProtectedGroup,
        ShrinkInProgress,
        PreconditionFailed,
        group=True,
    ),
)
def delete_group(
    request: Request, lifecycle: Lifecycle, group: Changeable, dry_run: DryRun = False
) -> Response:
    """Remove an empty group that was made through this API."""
    check = partial(_check_etag, request, lifecycle, group)
    lifecycle.remove_group(group, precondition=check, dry_run=dry_run)
    return done(dry_run=dry_run)


@router.post(
    "/v1/groups/{group:reference}/processes",
    operation_id="add_process",
    status_code=204,
    responses=TRIED | refuses(GroupBusy, ProcessNotFound, ProtectedGroup, group=True),
)
def add_process(
    lifecycle: Lifecycle,
    _: WritingAll,
    group: Changeable,
    process: ANewProcess,
    dry_run: DryRun = False,
) -> Response:
    """Move a process into a group, from another one that this daemon may change.

    The memory that it has charged stays charged to its old group. The process may be in any group,
    so the caller needs the scope to change all of them. The daemon and the other processes of its
    group are not moved.
    """
    lifecycle.attach_process(group, process.pid, dry_run=dry_run)
    return done(dry_run=dry_run)


def done(*, dry_run: bool) -> Response:
    """Return the response to a change that has no body of its own: 204, or 200 to a dry run."""
    return (
        Response(DryRunBody().model_dump_json(), 200, media_type="application/json")
        if dry_run
        else Response(status_code=204)
    )


def group_body(
    lifecycle: GroupLifecycle,
    caller: Caller,
    group: Group,
    limits: Limits,
    *,
    dry_run: bool = False,
) -> GroupBody:
    """Return a group as this caller may see it."""
    here = href_of(group)
    return GroupBody(
        id=str(group.id),
        path=group.path,
        aliases=aliases_of(group.path),
        managed=group.id in lifecycle.made,
        limits=limits_body(caller, group, limits),
        links=GroupLinks(
            self=here,
            limits=f"{here}/limits",
            shrinks=f"{here}/shrinks",
            stats=f"{here}/stats",
            processes=f"{here}/processes",
        ),
        dry_run=dry_run,
    )


def _new_path(caller: Caller, new: NewGroup) -> str:
    """Return the path of a new group, if the caller may change its parent.

    GroupNotFound for a parent that the caller may not read, whether it exists or not; the root is
    known to all. InvalidGroupName, Forbidden.
    """
    path = check_group_path(new.path)
    parent = path.rpartition("/")[0]
    if parent:
        check_readable(caller, parent)
    caller.require(Level.WRITE, parent)
    return path


def _check_etag(request: Request, lifecycle: GroupLifecycle, group: Group, before: Limits) -> None:
    body = group_body(lifecycle, caller_of(request.scope), group, before)
    check_preconditions(request, etag_of(body))


async def list_page(parts: Parts, caller: Caller, query: GroupQuery) -> GroupPage:
    """Return one page of groups, by keyset.

    The page token holds the key of the last item, not its number, so that pages stay right while
    groups are made and removed.
    """
    name, descending = query.order_by.removeprefix("-"), query.order_by.startswith("-")
    fields = pick_fields(query.fields, _KNOWN)
    pick_fields(name, frozenset((*_NUMBERS, "path")))
    keyset = Keyset[_Keyed](query.order_by, (int, str), itemgetter(0))
    after = keyset.position(query)
    parent = resolve(parts.backend, query.parent, caller).path if query.parent else ""
    keyed = await _keyed(
        parts.backend, seen_by(caller, parts.backend.groups(parent, query.depth)[1:]), name
    )
    keyed.sort(key=itemgetter(0), reverse=descending)
    if after is not None:
        keyed = [item for item in keyed if (item[0] < after if descending else item[0] > after)]
    found, token = keyset.page(query, lambda limit, _: keyed[:limit])
    items = [row for _, group in found if (row := _row(parts, group, fields))]
    return GroupPage(items=items, next_page_token=token)


async def _keyed(backend: Backend, groups: list[Group], name: str) -> list[_Keyed]:
    """Return groups with their sort keys: a number and the path, or the path alone.

    No limit sorts as the largest one.
    """
    if name == "path":
        return [((0, group.path), group) for group in groups]
    readings = await read_all(backend, groups)
    numbers = ((stats_row(group, stat)[name], group) for group, stat in readings)
    return [
        ((2**63 - 1 if number is None else number, group.path), group) for number, group in numbers
    ]


def _row(parts: Parts, group: Group, fields: frozenset[str]) -> dict[str, Any] | None:
    """Return the requested fields of a group, or None where it is gone or cannot be read."""
    row: dict[str, Any] = {
        "id": str(group.id),
        "path": group.path,
        "aliases": aliases_of(group.path),
        "managed": group.id in parts.lifecycle.made,
    }
    with ignoring_unreadable():
        if not fields <= row.keys():
            row |= stats_row(group, parts.backend.stat(group))
        return {name: row[name] for name in (*_NAMES, *_NUMBERS) if name in fields}
    return None
