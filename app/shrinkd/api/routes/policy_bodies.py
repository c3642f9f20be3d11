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

EXAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "balance": (
        "Groups that share a budget",
        {"name": "share", "selector": {"parent": "kubepods"}},
    ),
    "idle": (
        "What nobody uses, given back",
        {"name": "asleep", "selector": {"group": "*", "scope": "leaves"}},
    ),
    "limit": (
        "Limits that stay as they are",
        {"name": "keep", "selector": {"group": "web"}, "spec": {"limits": {"max_bytes": "8G"}}},
    ),
    "pressure": (
        "As little memory as does no harm",
        {"name": "squeeze", "mode": "observe", "selector": {"parent": ""}},
    ),
    "schedule": (
        "A shrink at night",
        {
            "name": "at-night",
            "selector": {"group": "web"},
            "spec": {
                "cron": "0 3 * * *",
                "timezone": "Europe/Berlin",
                "shrink": {"reclaim_percent": 25},
            },
        },
    ),
    "watermark": (
        "Room below the limit",
        {"name": "headroom", "selector": {"group": "db"}, "spec": {"high": "90%", "low": "85%"}},
    ),
}
"""One for each kind, by its name."""


def _examples(*, named: bool) -> dict[str, tuple[str, dict[str, Any]]]:
    found = {kind: EXAMPLES[kind] for kind in kinds() if kind in EXAMPLES}
    return {
        kind: (
            summary,
            {
                key: value
                for key, value in {"kind": kind, **example}.items()
                if named or key != "name"
            },
        )
        for kind, (summary, example) in found.items()
    }


APolicy = Annotated[AnyPolicy, bodies(**_examples(named=True))]
ADraft = Annotated[PolicyDraft, bodies(**_examples(named=False))]


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
