"""Policies: list, create, read, replace, delete, and evaluate without acting."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shrinkd.api.http.dependencies import (
    AllParts,
    Calling,
    DryRun,
    Parts,
    Target,
)
from shrinkd.api.http.etags import check_preconditions, tagged_bytes
from shrinkd.api.http.group_reference import resolve
from shrinkd.api.http.paging import Keyset, PageSize, PageToken, link_next
from shrinkd.api.http.policy_access import Readable, is_visible, require_change, require_policy
from shrinkd.api.http.request_context import request_context
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import PAGED, UNCHANGED, refuses, sends
from shrinkd.api.routes.decisions import record_body
from shrinkd.api.routes.groups import TRIED, done
from shrinkd.api.routes.policy_bodies import (
    ADraft,
    APolicy,
    Evaluation,
    PolicyBody,
    PolicyPage,
    UnreadablePolicy,
    etag_of_policy,
    policy_body,
)
from shrinkd.auth import Caller, Level
from shrinkd.backends import Group
from shrinkd.errors import (
    InvalidRequest,
    PolicyConflict,
    PolicyExists,
    PolicyNotFound,
    PolicyUnreadable,
    PreconditionFailed,
)
from shrinkd.policies import (
    NAME,
    Draft,
    Policy,
    StoredPolicy,
    kinds,
    parse,
)

router = APIRouter(route_class=StrictRoute, tags=["policies"])
_BY_NAME = Keyset[StoredPolicy]("name", (str,), lambda stored: (stored.policy.name,))
NewName = Annotated[
    str,
    Path(pattern=NAME, description="The name of the policy.", examples=["headroom"]),
]


def _check_kind(kind: str | None) -> str | None:
    if kind is not None and kind not in kinds():
        raise ValueError(f"there is no kind {kind!r}; there are: {', '.join(kinds())}")
    return kind


class GroupPolicyQuery(BaseModel):
    """Filters of the policies of a group."""

    model_config = ConfigDict(extra="forbid")

    kind: Annotated[
        Annotated[str, Field(json_schema_extra={"enum": [*kinds()]})] | None,
        AfterValidator(_check_kind),
    ] = None
    page_size: PageSize = 50
    page_token: PageToken = None


class PolicyQuery(GroupPolicyQuery):
    """Filters of policies."""

    group: str | None = Field(
        None, description="A group, by any of its names: only policies that select it."
    )


@router.get("/v1/policies", operation_id="list_policies", responses=PAGED | refuses(group=True))
def list_policies(
    request: Request,
    response: Response,
    parts: AllParts,
    caller: Calling,
    query: Annotated[PolicyQuery, Query()],
) -> PolicyPage:
    """List policies by name: those of which the caller may read every group they could match."""
    page = list_page(
        parts,
        caller,
        query,
        resolve(parts.backend, query.group, caller) if query.group is not None else None,
    )
    link_next(response, request, page.next_page_token)
    return page


@router.get(
    "/v1/groups/{group:reference}/policies",
    operation_id="list_group_policies",
    responses=PAGED | refuses(group=True),
)
def list_group_policies(
    request: Request,
    response: Response,
    parts: AllParts,
    group: Target,
    query: Annotated[GroupPolicyQuery, Query()],
) -> PolicyPage:
    """List the policies that select a group, by name."""
    page = list_page(parts, request_context(request.scope).caller, query, group)
    link_next(response, request, page.next_page_token)
    return page


@router.post(
    "/v1/policies",
    operation_id="create_policy",
    status_code=201,
    response_model=PolicyBody,
    responses=refuses(PolicyExists, PolicyConflict, PolicyUnreadable)
    | {201: sends("Location", "ETag")},
)
def create_policy(
    parts: AllParts, caller: Calling, policy: APolicy, dry_run: DryRun = False
) -> Response:
    """Create a policy.

    It takes effect within a second, on existing groups and on those that are made later.
    """
    return put(parts, caller, policy, check_new, dry_run=dry_run)


@router.get(
    "/v1/policies/{name}",
    operation_id="get_policy",
    response_model=PolicyBody,
    responses=UNCHANGED | refuses(PolicyNotFound, PolicyUnreadable),
)
def get_policy(request: Request, parts: AllParts, name: Readable) -> Response:
    """Read a policy and its status.

    The ETag covers the policy as it was written, and does not change with the status.
    """
    stored = parts.policies.get(name)
    return tagged_bytes(
        request, policy_body(parts, stored).model_dump_json().encode(), etag=etag_of_policy(stored)
    )


@router.put(
    "/v1/policies/{name}",
    operation_id="put_policy",
    response_model=PolicyBody,
    responses=refuses(PolicyConflict, PolicyUnreadable, PreconditionFailed)
    | {200: sends("ETag"), 201: {"model": PolicyBody} | sends("Location", "ETag")},
)
def put_policy(
    request: Request, parts: AllParts, name: NewName, draft: ADraft, dry_run: DryRun = False
) -> Response:
    """Replace a policy as a whole, or create it if it does not exist.

    A policy equal to the stored one keeps its generation. The body takes the members of a GET from
    `name` to `spec`, and refuses the others.
    """
    return put(
        parts,
        request_context(request.scope).caller,
        named(draft, name),
        checker(request),
        dry_run=dry_run,
    )


@router.delete(
    "/v1/policies/{name}",
    operation_id="delete_policy",
    status_code=204,
    responses=TRIED | refuses(PolicyNotFound, PreconditionFailed),
)
def delete_policy(
    request: Request, parts: AllParts, name: str, dry_run: DryRun = False
) -> Response:
    """Delete a policy.

    Limits that it set stay, and its decisions stay readable at their groups.
    """
    parts.policies.delete(name, checker(request, deletes=True), dry_run=dry_run)
    return done(dry_run=dry_run)


@router.post(
    "/v1/policies/{name}/evaluate",
    operation_id="evaluate_policy",
    responses=refuses(PolicyNotFound, PolicyUnreadable),
)
def evaluate_policy(parts: AllParts, name: Readable) -> Evaluation:
    """Evaluate a policy now for each group that it selects, and explain each decision.

    Also for a disabled policy. Nothing is done.
    """
    records = parts.daemon.evaluate(parts.policies.get(name))
    return Evaluation(items=[record_body(record) for record in records])


def named(draft: Draft, name: str) -> Policy:
    """Give a draft the name in the address; InvalidRequest if it has another name."""
    if draft.name not in {None, name}:
        sentence = f"the name is {draft.name!r} here and {name!r} in the address"
        raise InvalidRequest(
            f"#/name: {sentence}.", errors=[{"pointer": "#/name", "detail": sentence}]
        )
    return parse(draft.model_dump(mode="json", exclude_unset=True) | {"name": name})


def check_new(before: StoredPolicy | None) -> None:
    """Raise PolicyExists if there is a policy already."""
    if before is not None:
        raise PolicyExists(
            f"There is a policy {before.policy.name!a} already, in generation {before.generation}.",
            generation=before.generation,
        )


def checker(request: Request, *, deletes: bool = False) -> Callable[[StoredPolicy | None], None]:
    """Return the check of a request against the stored policy; the catalog runs it under its lock.

    The check raises PolicyNotFound, Forbidden or PreconditionFailed.
    """
    caller = request_context(request.scope).caller

    def check(before: StoredPolicy | None) -> None:
        if before is not None:
            require_change(caller, before)
        elif deletes:  # an unreadable policy, whose selector is unknown
            caller.require(Level.ADMIN)
        check_preconditions(request, None if before is None else etag_of_policy(before))

    return check


def put(
    parts: Parts,
    caller: Caller,
    policy: Policy,
    check: Callable[[StoredPolicy | None], None],
    *,
    dry_run: bool,
) -> Response:
    """Store a policy; answer 201 if it is new and 200 if it replaced another."""
    require_policy(caller, policy)
    replaced: list[StoredPolicy | None] = []

    def check_and_note(before: StoredPolicy | None) -> None:
        replaced.append(before)
        check(before)

    stored = parts.policies.put(policy, check_and_note, dry_run=dry_run)
    body, is_new = policy_body(parts, stored, dry_run=dry_run), replaced == [None]
    headers = (
        {}
        if dry_run
        else {"ETag": etag_of_policy(stored)} | ({"Location": body.links.self} if is_new else {})
    )
    return Response(body.model_dump_json(), 201 if is_new else 200, headers, "application/json")


def list_page(
    parts: Parts, caller: Caller, query: GroupPolicyQuery, group: Group | None
) -> PolicyPage:
    """Return the page of visible policies that follows the name in the page token."""
    after = _BY_NAME.position(query)
    found = [
        each
        for each in (parts.policies.all() if group is None else parts.policies.of(group))
        if query.kind in {None, each.policy.kind}
        and (after is None or each.policy.name > after[0])
        and is_visible(caller, each)
    ]
    shown, token = _BY_NAME.page(query, lambda limit, _: found[:limit])
    return PolicyPage(
        items=[policy_body(parts, each) for each in shown],
        unreadable=[
            UnreadablePolicy(
                name=each.name, kind=each.kind, generation=each.generation, detail=each.reason
            )
            for each in (parts.policies.unreadable() if caller.may(Level.READ) else ())
        ],
        next_page_token=token,
    )
