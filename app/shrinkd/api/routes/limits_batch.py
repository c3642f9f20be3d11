"""The route that changes the limits of many groups in one request.

Decreases come before increases, so that no memory is promised to two groups at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import AfterValidator, Field

from shrinkd.api.http.dependencies import AllParts, Body, Calling, DryRun, Parts, changeable
from shrinkd.api.http.etags import check_lines, etag_of
from shrinkd.api.http.group_reference import resolve
from shrinkd.api.http.problem_types import problem_of
from shrinkd.api.http.problems import body_of
from shrinkd.api.http.request_context import request_context
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import bodies
from shrinkd.api.routes.limits import LimitsBody, LimitsPatch, limits_body
from shrinkd.auth import Caller
from shrinkd.backends import LIMIT_NAMES, Group, LimitName, Limits, to_kernel
from shrinkd.errors import InvalidRequest, NotReady, ShrinkdError
from shrinkd.strict_model import Strict

MOST_ITEMS = 256
router = APIRouter(route_class=StrictRoute, tags=["limits"])


class BatchItem(Strict):
    """A change of one group's limits, as PATCH takes it."""

    group: Annotated[str, AfterValidator(lambda text: text.encode().decode())] = Field(
        examples=["web"]
    )
    """A reference as in a path of the API, without percent-encoding."""
    patch: LimitsPatch
    if_match: str | None = Field(None, examples=['"5f2b1c7a9d3e4f60a1b2c3d4"'])
    """The value of If-Match, which may be a list."""


class Batch(Strict):
    """Changes of limits, at most one of each group."""

    items: list[BatchItem] = Field(min_length=1, max_length=MOST_ITEMS)


class BatchAnswer(Body):
    """The outcome of one item."""

    group: str
    """As it was sent."""
    status: int
    """The status that PATCH would have answered."""
    etag: str | None
    """The ETag of the limits as they are now; null with a problem or in a dry run."""
    body: LimitsBody | dict[str, Any]
    """The limits, or a problem."""


class BatchBody(Body):
    """The outcome of each item, in the order of the request."""

    items: list[BatchAnswer]
    dry_run: bool = False


ABatch = Annotated[
    Batch,
    bodies(
        move=(
            "Move room from one group to another",
            {
                "items": [
                    {"group": "db", "patch": {"max_bytes": "2G"}},
                    {"group": "web", "patch": {"max_bytes": "512M"}},
                ]
            },
        ),
        conditional=(
            "Only if the limits are still those that were read",
            {
                "items": [
                    {
                        "group": "unit:nginx.service",
                        "patch": {"max_bytes": None},
                        "if_match": '"5f2b1c7a9d3e4f60a1b2c3d4"',
                    }
                ]
            },
        ),
    ),
]


@dataclass(frozen=True, slots=True)
class Step:
    """An item with its group, the changes that it wants there, and the limits before."""

    item: BatchItem
    group: Group
    changes: Mapping[LimitName, int | None]
    before: Limits

    @property
    def place(self) -> tuple[bool, int]:
        """The sort key: decreases first and from children to parents, then increases from parents.

        The first limit that moves decides, in the order of LIMIT_NAMES.
        """
        depth, moves = (
            self.group.path.count("/"),
            (name for name in LIMIT_NAMES if name in self.changes),
        )
        both = (
            (to_kernel(name, getattr(self.before, name)), to_kernel(name, self.changes[name]))
            for name in moves
        )
        is_up = next((after > before for before, after in both if after != before), True)
        return is_up, depth if is_up else -depth


@router.post("/v1/limits/batch", operation_id="batch_limits", status_code=207)
def batch_limits(
    request: Request, parts: AllParts, caller: Calling, batch: ABatch, dry_run: DryRun = False
) -> BatchBody:
    """Change the limits of many groups: each as PATCH would, and one that fails stops no other.

    Decreases go first, children before parents; then increases, parents before children. The first
    limit that moves decides which of both an item is, max_bytes before all others. A dry run checks
    each item against the limits as they are now.
    """
    outcomes = change_all(parts, caller, batch.items, dry_run=dry_run)
    answers = [
        _answer(request, item, outcome, dry_run=dry_run)
        for item, outcome in zip(batch.items, outcomes, strict=True)
    ]
    return BatchBody(items=answers, dry_run=dry_run)


def change_all(
    parts: Parts, caller: Caller, items: Sequence[BatchItem], *, dry_run: bool
) -> list[LimitsBody | ShrinkdError]:
    """Make all changes that can be made, and return the outcome of each item.

    InvalidRequest for two items of one group, before any change.
    """
    found = [_step(parts, caller, item) for item in items]
    steps = {number: step for number, step in enumerate(found) if isinstance(step, Step)}
    _check_apart(steps)
    outcomes = {
        number: error for number, error in enumerate(found) if isinstance(error, ShrinkdError)
    }
    done = {
        number: _change(parts, caller, steps[number], dry_run=dry_run)
        for number in sorted(steps, key=lambda number: steps[number].place)
    }
    return [(outcomes | done)[number] for number in range(len(items))]


def _step(parts: Parts, caller: Caller, item: BatchItem) -> Step | ShrinkdError:
    try:
        group = changeable(parts, caller, resolve(parts.backend, item.group, caller))
        return Step(item, group, item.patch.changes(), parts.backend.stat(group).limits)
    except ShrinkdError as error:
        return error


def _check_apart(steps: Mapping[int, Step]) -> None:
    first = {step.group: number for number, step in sorted(steps.items(), reverse=True)}
    again = {
        number: first[step.group] for number, step in steps.items() if first[step.group] != number
    }
    if again:
        errors = [
            {
                "pointer": f"#/items/{number}/group",
                "detail": f"this is the group of items/{earlier} already",
            }
            for number, earlier in again.items()
        ]
        raise InvalidRequest(
            "A batch changes each group once. "
            + "; ".join("{pointer}: {detail}".format(**row) for row in errors)
            + ".",
            errors=errors,
        )


def _change(
    parts: Parts, caller: Caller, step: Step, *, dry_run: bool
) -> LimitsBody | ShrinkdError:
    condition = [] if step.item.if_match is None else [step.item.if_match]

    def check(before: Limits) -> None:
        check_lines(condition, etag_of(limits_body(caller, step.group, before)))

    try:
        if parts.closing.is_set():
            raise NotReady(
                "The daemon is stopping, and has not begun with this item: try again when it is "
                "back."
            )
        limits = parts.limits.change_limits(
            step.group, step.changes, precondition=check, dry_run=dry_run
        )
    except ShrinkdError as error:
        return error
    return limits_body(caller, step.group, limits, dry_run=dry_run)


def _answer(
    request: Request, item: BatchItem, outcome: LimitsBody | ShrinkdError, *, dry_run: bool
) -> BatchAnswer:
    if isinstance(outcome, ShrinkdError):
        problem = body_of(outcome) | {"instance": request_context(request.scope).request_id}
        return BatchAnswer(
            group=item.group, status=problem_of(outcome).status, etag=None, body=problem
        )
    return BatchAnswer(
        group=item.group, status=200, etag=None if dry_run else etag_of(outcome), body=outcome
    )
