"""Bodies of policies: models of responses, and request bodies with an example of each kind."""

from typing import Annotated, Any, Literal

from pydantic import Field

from shrinkd.api.http.dependencies import Body, Parts, rfc3339
from shrinkd.api.http.etags import etag_of_bytes
from shrinkd.api.openapi.responses import bodies
from shrinkd.api.routes.decisions import DecisionBody, record_body
from shrinkd.policies import (
    Active,
    AnyPolicy,
    Condition,
    Floor,
    Policy,
    PolicyDraft,
    Selector,
    Status,
    StoredPolicy,
    Swap,
    kinds,
)


def _examples(*, named: bool) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the example of each kind that has one. `named`: with the name of the policy."""
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


class ConditionBody(Body):
    """A condition that holds for a policy now."""

    type: Literal["tripped", "failing", "out_of_hours"]
    """tripped: three errors in a row, so the policy pauses. failing: an unexpected error (for
    example, the node ran out of memory or descriptors); it is tried again within a minute."""
    since_at: str | None
    """null if the time is not known."""
    detail: str


class PolicyStatus(Body):
    """The state of a policy in the daemon."""

    observed_generation: int
    """The generation in effect; 0 while none is."""
    matched_groups: int
    last_decision: DecisionBody | None
    conditions: list[ConditionBody]


class PolicyLinks(Body):
    """Addresses that belong to a policy."""

    self: str
    evaluate: str
    decisions: str


class PolicyBody(Body):
    """A policy as it is in effect, with defaults filled in."""

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
    """The settings of its kind, with defaults; each kind has members of its own."""
    generation: int
    """Grows by one with each change."""
    created_at: str
    updated_at: str
    status: PolicyStatus
    """Changes by itself, and is not covered by the ETag."""
    links: PolicyLinks
    dry_run: bool = False


class UnreadablePolicy(Body):
    """A policy that another version of shrinkd wrote: it is kept, and does nothing."""

    name: str
    kind: str
    generation: int
    detail: str
    """Why it cannot be read."""


class PolicyPage(Body):
    """A page of policies, by name."""

    items: list[PolicyBody]
    unreadable: list[UnreadablePolicy]
    """Every policy that another version of shrinkd wrote, on each page and whatever the filters,
    because they need the operator's attention."""
    next_page_token: str | None


class Evaluation(Body):
    """The decisions that a policy would make now."""

    items: list[DecisionBody]
    """One for each group that the policy selects."""


def etag_of_policy(stored: StoredPolicy) -> str:
    """Compute the ETag of a policy without its status, which changes by itself."""
    return etag_of_bytes(
        f"{stored.generation} {stored.updated_at} {stored.policy.model_dump_json()}".encode()
    )


def policy_body(parts: Parts, stored: StoredPolicy, *, dry_run: bool = False) -> PolicyBody:
    policy, href = stored.policy, f"/v1/policies/{stored.policy.name}"
    fields = {name: getattr(policy, name) for name in Policy.model_fields if name != "spec"}
    return PolicyBody(
        **fields,
        spec=policy.model_dump(mode="json")["spec"],
        generation=stored.generation,
        created_at=rfc3339(stored.created_at),
        updated_at=rfc3339(stored.updated_at),
        status=status_body(parts.daemon.status(policy.name)),
        links=PolicyLinks(self=href, evaluate=f"{href}/evaluate", decisions=f"{href}/decisions"),
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
