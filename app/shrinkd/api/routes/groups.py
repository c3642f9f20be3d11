"""Groups: list them, read one, make one, put a process in, remove what was made here."""

import logging
from contextlib import ExitStack, suppress
from operator import itemgetter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from shrinkd.api.http.dependencies import (
    Body,
    Calling,
    Changeable,
    DryRun,
    Parts,
    Target,
    Wired,
    WritingAll,
    caller_of,
)
from shrinkd.api.http.etags import changed, check_preconditions, etag_of, tagged
from shrinkd.api.http.group_reference import check_readable, href_of, may_change, resolve, seen_by
from shrinkd.api.http.paging import Keyset, PageSize, PageToken, link_next
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.document import PAGED, UNCHANGED, bodies, refuses, sends
from shrinkd.api.routes.limits import (
    LimitsBody,
    LimitsPatch,
    change_limits,
    check_supported,
    limits_body,
    set_limits,
    without_lacking,
)
from shrinkd.api.routes.stats import StatsBody, pick_fields, read_all, stats_row
from shrinkd.auth import Caller, Level
from shrinkd.backends import LIMIT_NAMES, Backend, Group, Limits, check_group_path, told_limits
from shrinkd.errors import (
    GroupBusy,
    GroupExists,
    GroupGone,
    GroupNotEmpty,
    GroupNotFound,
    GroupNotManaged,
    InvalidGroupName,
    LimitBelowUsage,
    LimitOrder,
    PreconditionFailed,
    ProcessNotFound,
    ProtectedGroup,
    ShrinkdError,
    ShrinkInProgress,
    StoreUnavailable,
    UnsupportedLimit,
    leaving_out,
)
from shrinkd.events import EventType
from shrinkd.groups import aliases_of
from shrinkd.storage import now
from shrinkd.strict_model import Strict

router = APIRouter(route_class=StrictRoute, tags=["groups"])
log = logging.getLogger(__name__)


class GroupLinks(Body):
    """Where the parts of a group are."""

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
    """Made through this API, so that it can be removed through it."""
    limits: LimitsBody
    links: GroupLinks
    dry_run: bool = False


_NAMES = ("id", "path", "aliases", "managed")
_NUMBERS = tuple(name for name in StatsBody.model_fields if name.endswith("_bytes"))
_ROW_SCHEMA = {
    "type": "object",
    "title": "GroupRow",
    "description": "What was asked for of a group, and nothing else.",
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
    """id, path, aliases, usage_bytes, max_bytes and effective_max_bytes, or what ?fields= asks for."""
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
    """It would have worked; nothing was written."""

    dry_run: Literal[True] = True


TRIED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": DryRunBody,
        "description": "It would work; `dry_run` changed nothing.",
        "content": {"application/json": {"example": {"dry_run": True}}},
    }
}
_Keyed = tuple[tuple[int, str], Group]
"""A group behind the key that it is sorted by."""
_KNOWN = frozenset((*_NAMES, *_NUMBERS))
_ORDERS = tuple(f"{way}{name}" for name in ("path", *_NUMBERS) for way in ("", "-"))
_SHOWN = "id,path,aliases,usage_bytes,max_bytes,effective_max_bytes"


class GroupQuery(BaseModel):
    """Which groups, how, and which page of them."""

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
    wiring: Wired,
    caller: Calling,
    query: Annotated[GroupQuery, Query()],
) -> GroupPage:
    """List groups, a page at a time, in the order of their paths or of a number.

    Those that the caller may read.
    """
    page = await list_page(wiring, caller, query)
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
    wiring: Wired, caller: Calling, new: ANewGroup, dry_run: DryRun = False
) -> Response:
    """Make a group below an existing one, with limits if they are given: all of it, or nothing."""
    body = make_group(wiring, caller, new, dry_run=dry_run)
    return changed(body, 201, {"Location": body.links.self}, dry_run=dry_run)


@router.get(
    "/v1/groups/{group:group}",
    operation_id="get_group",
    response_model=GroupBody,
    responses=UNCHANGED | refuses(group=True),
)
async def get_group(request: Request, wiring: Wired, caller: Calling, group: Target) -> Response:
    """Read one group: its names and limits. What moves is in its stats."""
    return tagged(request, group_body(wiring, caller, group, wiring.backend.stat(group).limits))


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
    request: Request, wiring: Wired, group: Changeable, dry_run: DryRun = False
) -> Response:
    """Remove an empty group that was made through this API."""
    remove_group(wiring, group, request, dry_run=dry_run)
    return done(dry_run=dry_run)


@router.post(
    "/v1/groups/{group:reference}/processes",
    operation_id="add_process",
    status_code=204,
    responses=TRIED | refuses(GroupBusy, ProcessNotFound, ProtectedGroup, group=True),
)
def add_process(
    wiring: Wired, _: WritingAll, group: Changeable, process: ANewProcess, dry_run: DryRun = False
) -> Response:
    """Move a process into a group, from another one that this daemon may change.

    What it charged before stays charged to where it was.

    A pid may be of any of these groups, so it takes the scope to write to all of them. The daemon
    itself stays where it is, and so does what is in its group with it.
    """
    attach(wiring, group, process.pid, dry_run=dry_run)
    return done(dry_run=dry_run)


def attach(wiring: Parts, group: Group, pid: int, *, dry_run: bool) -> None:
    """Move a process.

    ProcessNotFound for one that is in no group that SHRINKD_SUBTREES lets this daemon change.
    """
    try:
        may_change(wiring.settings, wiring.backend.group_of(pid))
    except GroupNotFound as elsewhere:
        raise ProcessNotFound(
            f"The process {pid} cannot be moved. {elsewhere.detail}", pid=pid
        ) from elsewhere
    wiring.backend.attach(group, pid, dry_run=dry_run)
    if not dry_run:
        wiring.events.publish(EventType.PROCESS_ADDED, group, pid=pid)


def done(*, dry_run: bool) -> Response:
    """Answer a change that has no body of its own."""
    return (
        Response(DryRunBody().model_dump_json(), 200, media_type="application/json")
        if dry_run
        else Response(status_code=204)
    )


def group_body(
    wiring: Parts, caller: Caller, group: Group, limits: Limits, *, dry_run: bool = False
) -> GroupBody:
    here = href_of(group)
    return GroupBody(
        id=str(group.id),
        path=group.path,
        aliases=aliases_of(group.path),
        managed=group.id in wiring.made,
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


def make_group(wiring: Parts, caller: Caller, new: NewGroup, *, dry_run: bool) -> GroupBody:
    """Kernel, limits, read back, database.

    Whatever fails takes the group away again. A dry run tries the limits on a new group.
    """
    path = check_group_path(new.path)
    _check_parent(caller, path.rpartition("/")[0])
    may_change(wiring.settings, Group(path, 0))
    lacking = set(LIMIT_NAMES) - wiring.backend.settable_limits
    changes = without_lacking(new.limits.changes(), lacking)
    check_supported(wiring.backend, changes)
    group = wiring.backend.make(path, dry_run=dry_run)
    if dry_run:
        return group_body(
            wiring, caller, group, change_limits(wiring, group, changes, dry_run=True), dry_run=True
        )
    with ExitStack() as undo:
        undo.callback(_take_back, wiring.backend, group)
        with wiring.jobs.holding(group, is_new=True):
            limits = set_limits(wiring, group, changes, lacking, dry_run=False)
        wiring.store.made_groups.record(wiring.backend.node().boot_id, group.id, path, now())
        undo.pop_all()
    wiring.made.add(group.id)
    wiring.events.publish(EventType.GROUP_MADE, group, **told_limits(limits, changes))
    return group_body(wiring, caller, group, limits)


def _check_parent(caller: Caller, parent: str) -> None:
    """A new group changes the one around it.

    Of one that the caller cannot read, not even that it is there is told; the root is known.
    """
    if parent:
        check_readable(caller, parent)
    caller.require(Level.WRITE, parent)


def _take_back(backend: Backend, group: Group) -> None:
    """Remove what was just made.

    What went wrong is the answer. A group that somebody fills meanwhile stays, and the log says so.
    """
    try:
        backend.remove(group)
    except (GroupGone, GroupNotFound):
        return
    except ShrinkdError as error:
        log.warning(
            "the group %a was made, could not be set up, and was not removed again: %s",
            group.path,
            error,
        )


def remove_group(wiring: Parts, group: Group, request: Request, *, dry_run: bool) -> None:
    """Remove from the kernel, then from the database.

    A row without a group does no harm, for ids are not used twice.
    """
    with wiring.jobs.holding(group, dry_run=dry_run):
        check_preconditions(
            request,
            etag_of(
                group_body(
                    wiring, caller_of(request.scope), group, wiring.backend.stat(group).limits
                )
            ),
        )
        if group.id not in wiring.made:
            raise GroupNotManaged(
                f"{group.path!a} was not made through this API, so it is not removed through it.",
                group=group,
            )
        wiring.backend.remove(group, dry_run=dry_run)
        if not dry_run:
            wiring.made.discard(group.id)
            with suppress(StoreUnavailable):
                wiring.store.made_groups.delete(wiring.backend.node().boot_id, group.id)
            wiring.events.publish(EventType.GROUP_REMOVED, group)


async def list_page(wiring: Parts, caller: Caller, query: GroupQuery) -> GroupPage:
    """One page by keyset.

    The key of the last item, not its number, so it stays right while groups come and go.
    """
    name, descending = query.order_by.removeprefix("-"), query.order_by.startswith("-")
    fields = pick_fields(query.fields, _KNOWN)
    pick_fields(name, frozenset((*_NUMBERS, "path")))
    keyset = Keyset[_Keyed](query.order_by, (int, str), itemgetter(0))
    after = keyset.position(query)
    parent = resolve(wiring.backend, query.parent, caller).path if query.parent else ""
    keyed = await _keyed(
        wiring.backend, seen_by(caller, wiring.backend.groups(parent, query.depth)[1:]), name
    )
    keyed.sort(key=itemgetter(0), reverse=descending)
    if after is not None:
        keyed = [item for item in keyed if (item[0] < after if descending else item[0] > after)]
    found, token = keyset.page(query, lambda limit, _: keyed[:limit])
    items = [row for _, group in found if (row := _row(wiring, group, fields))]
    return GroupPage(items=items, next_page_token=token)


async def _keyed(backend: Backend, groups: list[Group], name: str) -> list[_Keyed]:
    """Groups with what they are sorted by.

    A number and the path, or the path alone. No limit counts as the largest.
    """
    if name == "path":
        return [((0, group.path), group) for group in groups]
    readings = await read_all(backend, groups)
    numbers = ((stats_row(group, stat)[name], group) for group, stat in readings)
    return [
        ((2**63 - 1 if number is None else number, group.path), group) for number, group in numbers
    ]


def _row(wiring: Parts, group: Group, fields: frozenset[str]) -> dict[str, Any] | None:
    """What was asked for of a group, or None when it has gone or cannot be read."""
    row: dict[str, Any] = {
        "id": str(group.id),
        "path": group.path,
        "aliases": aliases_of(group.path),
        "managed": group.id in wiring.made,
    }
    with leaving_out():
        if not fields <= row.keys():
            row |= stats_row(group, wiring.backend.stat(group))
        return {name: row[name] for name in (*_NAMES, *_NUMBERS) if name in fields}
    return None
