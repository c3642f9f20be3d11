"""What the policies decided, and why: as it was written down, for one policy or for one group."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from shrinkd.api.http.dependencies import Body, GroupRef, Parts, Target, Wired, caller_of, rfc3339
from shrinkd.api.http.paging import Keyset, PageSize, PageToken, link_next
from shrinkd.api.http.policy_access import Readable
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.document import PAGED, refuses
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
    """null for one that is not written down, or not yet."""
    decided_at: str
    policy: str
    generation: int
    """Of the policy, when it decided so."""
    group: GroupRef
    mode: Literal["enforce", "observe"]
    verdict: Verdict
    reason: Reason
    signals: dict[str, float | int | str | None] = Field(
        examples=[{"usage_bytes": 371195904, "high_bytes": 386547056}]
    )
    """The numbers that it went by, with their units in their names."""
    look_seconds: float
    """It looks again after so long at the latest."""
    asked_bytes: int | None
    """What the policy wanted to reclaim; null where it wanted nothing of the sort."""
    granted_bytes: int | None
    """How much of that it was allowed to."""
    freed_bytes: int | None
    """By how much usage fell; null until that is known."""
    shrink_id: str | None
    """The shrink that did it: GET /v1/shrinks/{shrink_id}."""
    errno: str | None
    """What the kernel, or a guard of the daemon, said to it."""
    times: int
    """How often it decided so, one time after the other: `decided_at` and the numbers are those of
    the last."""


class DecisionPage(Body):
    """A page of decisions, the newest first."""

    items: list[DecisionBody]
    next_page_token: str | None


class DecisionQuery(BaseModel):
    """Which decisions."""

    model_config = ConfigDict(extra="forbid")

    verdict: list[Verdict] = Field([], description="One or more verdicts; absent: all.")
    since: Moment | None = Field(None, description="Only those made at or after this time.")
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
    wiring: Wired,
    name: Readable,
    query: Annotated[DecisionQuery, Query()],
) -> DecisionPage:
    """List what a policy decided, the newest first.

    Equal ones of a minute are one; they are kept for 7 days, and a million of them.
    """
    page = list_page(wiring, caller_of(request.scope), query, policy=name)
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
    wiring: Wired,
    group: Target,
    query: Annotated[DecisionQuery, Query()],
) -> DecisionPage:
    """List what policies decided for a group's path, the newest first.

    Those that are no more, too.
    """
    page = list_page(wiring, caller_of(request.scope), query, group_path=group.path)
    link_next(response, request, page.next_page_token)
    return page


def list_page(wiring: Parts, caller: Caller, query: DecisionQuery, **exact: str) -> DecisionPage:
    rows, token = _NEWEST_FIRST.page(
        query,
        lambda limit, before: wiring.store.decisions.list(
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
    """Make the body of a decision that is not recorded yet."""
    return decision_body(decision_row(record))
