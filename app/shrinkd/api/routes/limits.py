"""Limits: patch 1/4 of the seed over HTTP. A change takes effect, or changes nothing at all."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response

from shrinkd import memcontrol
from shrinkd.api.http.dependencies import (
    Body,
    Calling,
    Changeable,
    DryRun,
    GroupRef,
    Parts,
    Target,
    Wired,
    caller_of,
    ref,
)
from shrinkd.api.http.etags import changed, check_preconditions, etag_of, tagged
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.document import UNCHANGED, bodies, refuses, sends
from shrinkd.auth import Caller, Level
from shrinkd.backends import (
    LIMIT_NAMES,
    Backend,
    Group,
    LimitName,
    Limits,
    in_pages,
    is_unset,
    limits_to_json,
)
from shrinkd.errors import (
    LimitBelowUsage,
    LimitOrder,
    PreconditionFailed,
    ProtectedGroup,
    ShrinkInProgress,
    UnsupportedLimit,
)
from shrinkd.events import EventType
from shrinkd.strict_model import LimitSizes

router = APIRouter(route_class=StrictRoute, tags=["limits"])


class LimitsPatch(LimitSizes):
    """A merge patch (RFC 7396).

    What is absent stays as it is, null makes a limit as if it was never set.

    That is no limit, and of low_bytes and min_bytes no protection: 0. What GET answers may be sent,
    and changes nothing.
    """

    def changes(self) -> dict[LimitName, int | None]:
        """The limits that the patch names, as the kernel will have them."""
        return {
            name: in_pages(name, getattr(self, name))
            for name in LIMIT_NAMES
            if name in self.model_fields_set
        }


ALimitsPatch = Annotated[
    LimitsPatch,
    bodies(
        lower=("Lower the limit, if the group uses less", {"max_bytes": "400M"}),
        unlimited=("Take the limit away", {"max_bytes": None}),
        both=("Two limits in one step", {"max_bytes": "512M", "soft_limit_bytes": "400M"}),
        protected=(
            "Protect all that the group uses, where the kernel has that",
            {"low_bytes": "max"},
        ),
    ),
]


class LimitsBody(Body):
    """The limits of a group as the kernel holds them.

    Null is no limit, or one that `unsupported` names.

    low_bytes and min_bytes protect: 0 is no protection, "max" an infinite one.
    """

    group: GroupRef
    max_bytes: int | None
    high_bytes: int | None
    low_bytes: int | Literal["max"] | None
    min_bytes: int | Literal["max"] | None
    swap_max_bytes: int | None
    soft_limit_bytes: int | None
    effective_max_bytes: int | None
    limited_by: str | None
    """The group whose limit that is; null as well where the caller may not read it."""
    unsupported: list[str]
    dry_run: bool = False


def limits_body(
    caller: Caller, group: Group, limits: Limits, *, dry_run: bool = False
) -> LimitsBody:
    values: dict[str, Any] = asdict(limits) | limits_to_json(limits, LIMIT_NAMES)
    holder = (
        limits.limited_by
        if limits.limited_by is None or caller.may(Level.READ, limits.limited_by)
        else None
    )
    told = {
        "group": ref(group),
        "limited_by": holder,
        "unsupported": list(limits.unsupported),
        "dry_run": dry_run,
    }
    return LimitsBody(**values | told)


@router.get(
    "/v1/groups/{group:reference}/limits",
    operation_id="get_limits",
    response_model=LimitsBody,
    responses=UNCHANGED | refuses(group=True),
)
async def get_limits(request: Request, wiring: Wired, caller: Calling, group: Target) -> Response:
    """Read the limits of a group from the kernel."""
    return tagged(request, limits_body(caller, group, wiring.backend.stat(group).limits))


@router.patch(
    "/v1/groups/{group:reference}/limits",
    operation_id="patch_limits",
    response_model=LimitsBody,
    responses=refuses(
        LimitBelowUsage,
        LimitOrder,
        ShrinkInProgress,
        PreconditionFailed,
        UnsupportedLimit,
        ProtectedGroup,
        group=True,
    )
    | {200: sends("ETag")},
)
def patch_limits(
    request: Request, wiring: Wired, group: Changeable, patch: ALimitsPatch, dry_run: DryRun = False
) -> Response:
    """Compare and set limits, at once.

    All take effect, or 409 and nothing changed, not one page of cache.
    """
    caller = caller_of(request.scope)
    limits = change_limits(
        wiring, group, patch.changes(), partial(_check_etag, request, group), dry_run=dry_run
    )
    return changed(limits_body(caller, group, limits, dry_run=dry_run), dry_run=dry_run)


def _check_etag(request: Request, group: Group, before: Limits) -> None:
    check_preconditions(request, etag_of(limits_body(caller_of(request.scope), group, before)))


def change_limits(
    wiring: Parts,
    group: Group,
    changes: Mapping[LimitName, int | None],
    check: Callable[[Limits], None] | None = None,
    *,
    dry_run: bool,
) -> Limits:
    """Set limits with the group to oneself, and answer them as read back.

    `check` is shown those before: no change comes between.

    A pass of a policy in that group ends for it, and so it is tried before: one that is refused
    ends nothing.
    """
    if not dry_run and wiring.jobs.would_make_way(group):
        change_limits(wiring, group, changes, check, dry_run=True)
    with wiring.jobs.holding(group, dry_run=dry_run):
        before = wiring.backend.stat(group).limits
        if check:
            check(before)
        limits = set_limits(wiring, group, changes, before.unsupported, dry_run=dry_run)
        moved = limits_to_json(
            limits, (name for name in changes if getattr(limits, name) != getattr(before, name))
        )
        if moved and not dry_run:
            wiring.events.publish(EventType.LIMITS_CHANGED, group, **moved)
        return limits


def set_limits(
    wiring: Parts,
    group: Group,
    changes: Mapping[LimitName, int | None],
    lacking: Collection[LimitName],
    *,
    dry_run: bool,
) -> Limits:
    """As change_limits, for who has the group to himself, and tells of it.

    `lacking` are the limits that the group does not have.
    """
    changes = without_lacking(changes, lacking)
    check_supported(wiring.backend, changes)
    if not changes:
        return wiring.backend.stat(group).limits
    memcg = memcontrol.Memcg(wiring.backend, group, intent=wiring.intents)
    return memcontrol.set_limits(memcg, changes, dry_run=dry_run)


def without_lacking(
    changes: Mapping[LimitName, int | None], lacking: Collection[LimitName]
) -> Mapping[LimitName, int | None]:
    """Leave out what asks nothing.

    A limit that is not there is as if it was never set. It is so that what GET answers may be sent.
    """
    return {
        name: value
        for name, value in changes.items()
        if name not in lacking or not is_unset(name, value)
    }


def check_supported(backend: Backend, changes: Mapping[LimitName, int | None]) -> None:
    unsupported = [name for name in changes if name not in backend.settable_limits]
    if unsupported:
        raise UnsupportedLimit(
            f"{', '.join(unsupported)} cannot be set on this node: its memory controller has no "
            "such limit.",
            unsupported=unsupported,
        )
