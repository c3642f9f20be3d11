"""Routes that read and change the limits of one group: patch 1/4 of the seed over HTTP."""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response

from shrinkd.api.http.dependencies import (
    Body,
    Calling,
    Changeable,
    DryRun,
    GroupRef,
    Limiting,
    Target,
    caller_of,
    ref,
)
from shrinkd.api.http.etags import changed, check_preconditions, etag_of, tagged
from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.api.openapi.responses import UNCHANGED, bodies, refuses, sends
from shrinkd.auth import Caller, Level
from shrinkd.backends import LIMIT_NAMES, Group, LimitName, Limits, in_pages, limits_to_json
from shrinkd.errors import (
    LimitBelowUsage,
    LimitOrder,
    PreconditionFailed,
    ProtectedGroup,
    ShrinkInProgress,
    UnsupportedLimit,
)
from shrinkd.strict_model import LimitSizes

router = APIRouter(route_class=StrictRoute, tags=["limits"])


class LimitsPatch(LimitSizes):
    """A merge patch (RFC 7396): an absent limit stays, null makes it as if it was never set.

    As if never set is no limit, and for low_bytes and min_bytes no protection: 0. What GET answers
    can be sent back, and changes nothing.
    """

    def changes(self) -> dict[LimitName, int | None]:
        """Return the limits that the patch names, in whole pages as the kernel holds them."""
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

    Null is no limit, or one that `unsupported` names. low_bytes and min_bytes protect: 0 is no
    protection, "max" an infinite one.
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
    """Return the limits of a group as this caller may see them."""
    values: dict[str, Any] = asdict(limits) | limits_to_json(limits, LIMIT_NAMES)
    holder = (
        limits.limited_by
        if limits.limited_by is None or caller.may(Level.READ, limits.limited_by)
        else None
    )
    others = {
        "group": ref(group),
        "limited_by": holder,
        "unsupported": list(limits.unsupported),
        "dry_run": dry_run,
    }
    return LimitsBody(**values | others)


@router.get(
    "/v1/groups/{group:reference}/limits",
    operation_id="get_limits",
    response_model=LimitsBody,
    responses=UNCHANGED | refuses(group=True),
)
async def get_limits(
    request: Request, limits: Limiting, caller: Calling, group: Target
) -> Response:
    """Read the limits of a group from the kernel."""
    return tagged(request, limits_body(caller, group, limits.backend.stat(group).limits))


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
    request: Request,
    limits: Limiting,
    group: Changeable,
    patch: ALimitsPatch,
    dry_run: DryRun = False,
) -> Response:
    """Compare and set limits, at once.

    All take effect, or 409 and nothing changed, not one page of cache.
    """
    caller, check = caller_of(request.scope), partial(_check_etag, request, group)
    after = limits.change_limits(group, patch.changes(), precondition=check, dry_run=dry_run)
    return changed(limits_body(caller, group, after, dry_run=dry_run), dry_run=dry_run)


def _check_etag(request: Request, group: Group, before: Limits) -> None:
    check_preconditions(request, etag_of(limits_body(caller_of(request.scope), group, before)))
