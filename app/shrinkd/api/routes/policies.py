"""Group policies: written, read, tried out and taken away."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shrinkd.api.http.dependencies import (
    Body,
    Calling,
    DryRun,
    Parts,
    Target,
    Wired,
    caller_of,
    rfc3339,
)
from shrinkd.api.http.etags import check_preconditions, etag_of_bytes, tagged_bytes
from shrinkd.api.http.group_reference import resolve
from shrinkd.api.http.paging import (
    PageSize,
    PageToken,
    link_next,
    page_limit,
    read_token,
    write_token,
)
from shrinkd.api.http.policy_access import Readable, is_seen, require_change, require_policy
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.document import PAGED, UNCHANGED, bodies, refuses, sends
from shrinkd.api.routes.decisions import DecisionBody, record_body
from shrinkd.api.routes.groups import TRIED, done
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
    Active,
    AnyPolicy,
    Condition,
    Draft,
    Floor,
    Policy,
    PolicyDraft,
    Selector,
    Status,
    StoredPolicy,
    Swap,
    kinds,
    parse,
)

router = APIRouter(route_class=StrictRoute, tags=["policies"])


def _examples(*, named: bool) -> dict[str, tuple[str, dict[str, Any]]]:
    """The example of each kind that has one, with its kind, and with a name if `named`."""
    return {
        name: (
            kind.example.summary,
            {
                member: value
                for member, value in {"kind": name, **kind.example.policy}.items()
                if named or member != "name"
            },
        )
        for name, kind in kinds().items()
        if kind.example
    }


APolicy = Annotated[AnyPolicy, bodies(**_examples(named=True))]
ADraft = Annotated[PolicyDraft, bodies(**_examples(named=False))]
NewName = Annotated[
    str,
    Path(pattern=NAME, description="What it is called, and where it is.", examples=["headroom"]),
]


def _check_kind(kind: str | None) -> str | None:
    if kind is not None and kind not in kinds():
        raise ValueError(f"there is no kind {kind!r}; there are: {', '.join(kinds())}")
    return kind


class ConditionBody(Body):
    """Something about a policy that is so now."""

    type: Literal["tripped", "failing", "out_of_hours"]
    """tripped: three errors in a row, so it rests. failing: what nobody expects broke (the node ran
    short of memory or descriptors, say); it tries again within a minute."""
    since_at: str | None
    """null where nobody has noted it."""
    detail: str


class PolicyStatus(Body):
    """What the daemon makes of a policy."""

    observed_generation: int
    """The generation that is carried out; 0 while none is."""
    matched_groups: int
    last_decision: DecisionBody | None
    conditions: list[ConditionBody]


class PolicyLinks(Body):
    """Where to go from a policy."""

    self: str
    evaluate: str
    decisions: str


class PolicyBody(Body):
    """A policy as it is carried out, with what it leaves open filled in."""

    name: str
    kind: str
    enabled: bool
    mode: Literal["enforce", "observe"]
    priority: int
    selector: Selector
    floor: Floor
    swap: Swap
    active: Active | None
    spec: dict[str, Any] = Field(
        examples=[{"high": "90%", "low": "85%", "max_pass_seconds": 30, "cooldown_seconds": 5}]
    )
    """That of its kind, with its defaults; no two kinds have the same members."""
    generation: int
    """Grows by one with each change."""
    created_at: str
    updated_at: str
    status: PolicyStatus
    """Moves by itself, and is no part of what the ETag names."""
    links: PolicyLinks
    dry_run: bool = False


class UnreadablePolicy(Body):
    """A policy that another version of shrinkd wrote: it is kept, and not carried out."""

    name: str
    kind: str
    generation: int
    detail: str
    """Why it cannot be read."""


class PolicyPage(Body):
    """A page of policies, by name."""

    items: list[PolicyBody]
    unreadable: list[UnreadablePolicy]
    """Beside the pages and their filters: all that another version of shrinkd wrote, for they need
    somebody's attention."""
    next_page_token: str | None


class Evaluation(Body):
    """What a policy would do now."""

    items: list[DecisionBody]
    """One for each group that it selects."""


class GroupPolicyQuery(BaseModel):
    """Which policies of a group."""

    model_config = ConfigDict(extra="forbid")

    kind: Annotated[
        Annotated[str, Field(json_schema_extra={"enum": [*kinds()]})] | None,
        AfterValidator(_check_kind),
    ] = None
    page_size: PageSize = 50
    page_token: PageToken = None


class PolicyQuery(GroupPolicyQuery):
    """Which policies."""

    group: str | None = Field(
        None, description="A group, by any of its names: those that select it."
    )


@router.get("/v1/policies", operation_id="list_policies", responses=PAGED | refuses(group=True))
def list_policies(
    request: Request,
    response: Response,
    wiring: Wired,
    caller: Calling,
    query: Annotated[PolicyQuery, Query()],
) -> PolicyPage:
    """List policies by name: those of which the caller may read all groups that they can select."""
    page = list_page(
        wiring,
        caller,
        query,
        resolve(wiring.backend, query.group, caller) if query.group is not None else None,
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
    wiring: Wired,
    group: Target,
    query: Annotated[GroupPolicyQuery, Query()],
) -> PolicyPage:
    """List the policies that select a group, by name."""
    page = list_page(wiring, caller_of(request.scope), query, group)
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
    wiring: Wired, caller: Calling, policy: APolicy, dry_run: DryRun = False
) -> Response:
    """Write a new policy.

    It is carried out within a second, on the groups that there are and on those that come.
    """
    return put(wiring, caller, policy, check_new, dry_run=dry_run)


@router.get(
    "/v1/policies/{name}",
    operation_id="get_policy",
    response_model=PolicyBody,
    responses=UNCHANGED | refuses(PolicyNotFound, PolicyUnreadable),
)
def get_policy(request: Request, wiring: Wired, name: Readable) -> Response:
    """Read a policy, and what the daemon makes of it.

    Its ETag is of what was written, and does not move with the status.
    """
    kept = wiring.policies.get(name)
    return tagged_bytes(
        request, policy_body(wiring, kept).model_dump_json().encode(), etag=etag_of_policy(kept)
    )


@router.put(
    "/v1/policies/{name}",
    operation_id="put_policy",
    response_model=PolicyBody,
    responses=refuses(PolicyConflict, PolicyUnreadable, PreconditionFailed)
    | {200: sends("ETag"), 201: {"model": PolicyBody} | sends("Location", "ETag")},
)
def put_policy(
    request: Request, wiring: Wired, name: NewName, draft: ADraft, dry_run: DryRun = False
) -> Response:
    """Replace a policy as a whole, or make it where it is not there.

    One that means the same stays in its generation.

    Of what GET answers this takes what was written, from `name` to `spec`, and refuses the rest.
    """
    return put(
        wiring, caller_of(request.scope), named(draft, name), checker(request), dry_run=dry_run
    )


@router.delete(
    "/v1/policies/{name}",
    operation_id="delete_policy",
    status_code=204,
    responses=TRIED | refuses(PolicyNotFound, PreconditionFailed),
)
def delete_policy(request: Request, wiring: Wired, name: str, dry_run: DryRun = False) -> Response:
    """Take a policy away.

    What it has done stays done, and its decisions stay readable at their groups.
    """
    wiring.policies.delete(name, checker(request, takes_away=True), dry_run=dry_run)
    return done(dry_run=dry_run)


@router.post(
    "/v1/policies/{name}/evaluate",
    operation_id="evaluate_policy",
    responses=refuses(PolicyNotFound, PolicyUnreadable),
)
def evaluate_policy(wiring: Wired, name: Readable) -> Evaluation:
    """Say what a policy would do now to each group that it selects, and why or why not.

    A disabled one, too. It never acts.
    """
    records = wiring.daemon.evaluate(wiring.policies.get(name))
    return Evaluation(items=[record_body(record) for record in records])


def named(draft: Draft, name: str) -> Policy:
    """A draft under the name of its address, which its own has to be where it has one."""
    if draft.name not in {None, name}:
        sentence = f"the name is {draft.name!r} here and {name!r} in the address"
        raise InvalidRequest(
            f"#/name: {sentence}.", errors=[{"pointer": "#/name", "detail": sentence}]
        )
    return parse(draft.model_dump(mode="json", exclude_unset=True) | {"name": name})


def check_new(before: StoredPolicy | None) -> None:
    if before is not None:
        raise PolicyExists(
            f"There is a policy {before.policy.name!a} already, in its generation "
            f"{before.generation}.",
            generation=before.generation,
        )


def checker(request: Request, *, takes_away: bool = False) -> Callable[[StoredPolicy | None], None]:
    """What holds the caller and the conditions of a request against the policy that is there, while
    nobody can change it.
    """
    caller = caller_of(request.scope)

    def check(before: StoredPolicy | None) -> None:
        if before is not None:
            require_change(caller, before)
        elif takes_away:  # one that cannot be read: nobody knows what it reaches
            caller.require(Level.ADMIN)
        check_preconditions(request, None if before is None else etag_of_policy(before))

    return check


def put(
    wiring: Parts,
    caller: Caller,
    policy: Policy,
    check: Callable[[StoredPolicy | None], None],
    *,
    dry_run: bool,
) -> Response:
    """Write it, and answer 201 for one that is new and 200 for one in the place of another."""
    require_policy(caller, policy)
    seen: list[StoredPolicy | None] = []

    def look(before: StoredPolicy | None) -> None:
        seen.append(before)
        check(before)

    kept = wiring.policies.put(policy, look, dry_run=dry_run)
    body, is_new = policy_body(wiring, kept, dry_run=dry_run), seen == [None]
    headers = (
        {}
        if dry_run
        else {"ETag": etag_of_policy(kept)} | ({"Location": body.links.self} if is_new else {})
    )
    return Response(body.model_dump_json(), 201 if is_new else 200, headers, "application/json")


def etag_of_policy(kept: StoredPolicy) -> str:
    """The ETag of all that a policy says of itself.

    Its status moves, and is looked up for nobody who only compares.
    """
    return etag_of_bytes(
        f"{kept.generation} {kept.updated_at} {kept.policy.model_dump_json()}".encode()
    )


def policy_body(wiring: Parts, kept: StoredPolicy, *, dry_run: bool = False) -> PolicyBody:
    policy, here = kept.policy, f"/v1/policies/{kept.policy.name}"
    told = {name: getattr(policy, name) for name in Policy.model_fields if name != "spec"}
    return PolicyBody(
        **told,
        spec=policy.model_dump(mode="json")["spec"],
        generation=kept.generation,
        created_at=rfc3339(kept.created_at),
        updated_at=rfc3339(kept.updated_at),
        status=status_body(wiring.daemon.status(policy.name)),
        links=PolicyLinks(self=here, evaluate=f"{here}/evaluate", decisions=f"{here}/decisions"),
        dry_run=dry_run,
    )


def _condition(condition: Condition) -> ConditionBody:
    since = None if condition.since_at is None else rfc3339(condition.since_at)
    return ConditionBody(type=condition.type, since_at=since, detail=condition.detail)


def status_body(status: Status) -> PolicyStatus:
    return PolicyStatus(
        observed_generation=status.observed_generation,
        matched_groups=status.matched_groups,
        last_decision=None if status.last_decision is None else record_body(status.last_decision),
        conditions=[_condition(condition) for condition in status.conditions],
    )


def list_page(
    wiring: Parts, caller: Caller, query: GroupPolicyQuery, group: Group | None
) -> PolicyPage:
    """One page by keyset: what comes after the last name, whatever has come and gone since."""
    after = read_token(query.page_token, "name", (str,))
    kept = [
        each
        for each in (wiring.policies.all() if group is None else wiring.policies.of(group))
        if query.kind in {None, each.policy.kind}
        and (after is None or each.policy.name > after[0])
        and is_seen(caller, each)
    ]
    limit = page_limit(query.page_size)
    return PolicyPage(
        items=[policy_body(wiring, each) for each in kept[:limit]],
        unreadable=[
            UnreadablePolicy(
                name=found.name, kind=found.kind, generation=found.generation, detail=found.reason
            )
            for found in (wiring.policies.unreadable() if caller.may(Level.READ) else ())
        ],
        next_page_token=write_token("name", kept[limit - 1].policy.name)
        if len(kept) > limit
        else None,
    )
