"""Audit log: list every attempted change, allowed or refused; needs the scope admin."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from shrinkd.api.http.dependencies import Administrating, AllParts, Body, GroupRef, Parts, rfc3339
from shrinkd.api.http.paging import Keyset, PageSize, PageToken, link_next
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import PAGED, refuses
from shrinkd.backends import check_group_path
from shrinkd.errors import InvalidGroupName
from shrinkd.storage import AuditRow
from shrinkd.strict_model import Moment

router = APIRouter(route_class=StrictRoute, tags=["audit"])
_NEWEST_FIRST = Keyset[AuditRow]("-id", (str,), lambda row: (row.id,))


class AttemptBody(Body):
    """One attempted change."""

    id: str
    attempted_at: str
    caller: str = Field(examples=["token:ci"])
    """For example "uid:1000", "token:ci" or "certificate:orchestrator"; "anyone" if the daemon
    needs no credentials, "nobody" for a request without any."""
    operation: str | None = Field(examples=["patch_limits"])
    """The operationId; null if the request matched none."""
    method: str = Field(examples=["PATCH"])
    path: str = Field(examples=["/v1/groups/web/limits"])
    """The path as it was sent."""
    body: Any = Field(examples=[{"max_bytes": "64M"}])
    """The body, or its first 2048 characters as text; null if there was none, or if it was not
    read."""
    dry_run: bool
    group: GroupRef | None
    """The group in the address; null if none was found, or if the body names it."""
    status: int | None = Field(examples=[409])
    """Status of the answer; null while the request runs, and forever if the daemon died in it."""
    problem: str | None = Field(examples=["limit-below-usage"])
    finished_at: str | None
    request_id: str
    times: int
    """Number of attempts in that second with the same caller, operation and answer; only attempts
    that changed nothing are counted together."""


class AuditPage(Body):
    """A page of attempts, the newest first."""

    items: list[AttemptBody]
    next_page_token: str | None


class AuditQuery(BaseModel):
    """Filters of attempts."""

    model_config = ConfigDict(extra="forbid")

    caller: str | None = Field(None, max_length=255, description="Only attempts of this caller.")
    group: str | None = Field(None, description="The path of a group, which may be gone by now.")
    operation: str | None = Field(
        None, max_length=64, description="An operationId, such as patch_limits."
    )
    status_from: int | None = Field(
        None, ge=100, le=599, description="Only attempts with this status or a higher one."
    )
    since: Moment | None = Field(None, description="Only attempts at or after this time.")
    page_size: PageSize = 50
    page_token: PageToken = None


@router.get("/v1/audit", operation_id="list_audit", responses=PAGED | refuses(InvalidGroupName))
def list_audit(
    request: Request,
    response: Response,
    parts: AllParts,
    _caller: Administrating,
    query: Annotated[AuditQuery, Query()],
) -> AuditPage:
    """List every attempted change, the newest first.

    They are kept for 30 days, and at most a million. The actions of policies are not here, but in
    their decisions and shrinks.
    """
    page = list_page(parts, query)
    link_next(response, request, page.next_page_token)
    return page


def list_page(parts: Parts, query: AuditQuery) -> AuditPage:
    """Return the page of attempts that follows the one in the page token."""
    exact = {
        "caller": query.caller,
        "operation": query.operation,
        "group_path": query.group and check_group_path(query.group),
    }
    rows, token = _NEWEST_FIRST.page(
        query,
        lambda limit, before: parts.store.audit.list(
            limit=limit,
            before=before,
            since=None if query.since is None else round(query.since.timestamp() * 1e6),
            least_status=query.status_from,
            **{name: text.replace("\0", "") for name, text in exact.items() if text is not None},
        ),
    )
    return AuditPage(items=[attempt_body(row) for row in rows], next_page_token=token)


def attempt_body(row: AuditRow) -> AttemptBody:
    same = {name: getattr(row, name) for name in AttemptBody.model_fields if hasattr(row, name)}
    group = None if row.group_path is None else GroupRef(id=str(row.group_id), path=row.group_path)
    finished = None if row.finished_at is None else rfc3339(row.finished_at)
    return AttemptBody(
        **same | {"attempted_at": rfc3339(row.at), "finished_at": finished, "group": group}
    )
