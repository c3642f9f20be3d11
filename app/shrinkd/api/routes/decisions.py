"""Decisions of policies, as recorded, for one policy or for one group."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from shrinkd.api.http.dependencies import AllParts, Body, GroupRef, Parts, Target, rfc3339
from shrinkd.api.http.paging import Keyset, PageSize, PageToken, link_next
from shrinkd.api.http.policy_access import Readable
from shrinkd.api.http.request_context import request_context
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import PAGED, refuses
from shrinkd.auth import Caller
from shrinkd.errors import PolicyNotFound, PolicyUnreadable
from shrinkd.policies import Reason, Record, Verdict, decision_row
from shrinkd.storage import DecisionRow
from shrinkd.strict_model import Moment

router = APIRouter(route_class=StrictRoute, tags=["policies"])
_NEWEST_FIRST = Keyset[DecisionRow]("-id", (int,), lambda row: (row.id or 0,))


class DecisionBody(Body):
    """One decision of a policy for a group."""

    id: str | None
    """null for a decision that is not recorded, or not yet."""
    decided_at: str
    policy: str
    generation: int
    """Generation of the policy at that time."""
    group: GroupRef
    mode: Literal["enforce", "observe"]
    verdict: Verdict
    reason: Reason
    signals: dict[str, float | int | str | None] = Field(
        examples=[{"usage_bytes": 371195904, "high_bytes": 386547056}]
    )
    """The numbers that the decision is based on, with their units in their names."""
    look_seconds: float
    """The policy is evaluated again after this time at the latest."""
    asked_bytes: int | None
    """Bytes that the policy proposed to reclaim; null if it proposed no reclaim."""
    granted_bytes: int | None
    """Bytes of it that the guards granted."""
    freed_bytes: int | None
    """Decrease of usage; null until it is known."""
    shrink_id: str | None
    """The shrink that acted on it: GET /v1/shrinks/{shrink_id}."""
    errno: str | None
    """The errno with which the kernel, or a guard of the daemon, refused it."""
    times: int
    """Number of equal decisions in a row; `decided_at` and the numbers are those of the last."""


class DecisionPage(Body):
    """A page of decisions, the newest first."""

    items: list[DecisionBody]
    next_page_token: str | None


class DecisionQuery(BaseModel):
    """Filters of decisions."""

    model_config = ConfigDict(extra="forbid")

    verdict: list[Verdict] = Field([], description="One or more verdicts; absent: all.")
    since: Moment | None = Field(None, description="Only decisions at or after this time.")
    page_size: PageSize = 50
    page_token: PageToken = None


@router.get(
    "/v1/policies/{name}/decisions",
    operation_id="list_policy_decisions",
    responses=PAGED | refuses(PolicyNotFound, PolicyUnreadable),
)
def list_policy_decisions(
    request: Request,
    response: Response,
    parts: AllParts,
    name: Readable,
    query: Annotated[DecisionQuery, Query()],
) -> DecisionPage:
    """List the decisions of a policy, the newest first.

    Equal decisions within a minute are one. They are kept for 7 days, and at most a million.
    """
    page = list_page(parts, request_context(request.scope).caller, query, policy=name)
    link_next(response, request, page.next_page_token)
    return page


@router.get(
    "/v1/groups/{group:reference}/decisions",
    operation_id="list_group_decisions",
    responses=PAGED | refuses(group=True),
)
def list_group_decisions(
    request: Request,
    response: Response,
    parts: AllParts,
    group: Target,
    query: Annotated[DecisionQuery, Query()],
) -> DecisionPage:
    """List the decisions of all policies for a group's path, the newest first.

    Decisions of deleted policies are included.
    """
    page = list_page(parts, request_context(request.scope).caller, query, group_path=group.path)
    link_next(response, request, page.next_page_token)
    return page


def list_page(parts: Parts, caller: Caller, query: DecisionQuery, **exact: str) -> DecisionPage:
    """Return a page of decisions. `exact`: `policy` or `group_path`, and its value."""
    rows, token = _NEWEST_FIRST.page(
        query,
        lambda limit, before: parts.store.decisions.list(
            limit=limit,
            before=before,
            verdicts=tuple(map(str, query.verdict)),
            within=caller.readable(),
            since=None if query.since is None else round(query.since.timestamp() * 1e6),
            **exact,
        ),
    )
    return DecisionPage(items=[decision_body(row) for row in rows], next_page_token=token)


def decision_body(row: DecisionRow) -> DecisionBody:
    same = {name: getattr(row, name) for name in DecisionBody.model_fields if hasattr(row, name)}
    group = GroupRef(id=str(row.group_id), path=row.group_path)
    return DecisionBody(
        **same | {"id": row.id and str(row.id), "decided_at": rfc3339(row.at), "group": group}
    )


def record_body(record: Record) -> DecisionBody:
    """Build the body of a decision that is not in the database."""
    return decision_body(decision_row(record))
