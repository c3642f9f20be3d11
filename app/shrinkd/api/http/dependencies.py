"""What the routes share: the daemon's parts, and the dependencies that hand them over."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated
from weakref import WeakKeyDictionary

from fastapi import Depends, FastAPI, Path, Query, Request
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict
from starlette.types import Scope

from shrinkd.api.http.group_reference import may_change, resolve
from shrinkd.api.http.request_context import request_context
from shrinkd.auth import Caller, Level, Tokens
from shrinkd.backends import Backend, Group
from shrinkd.events import Audit, EventBus, Events, StreamHub
from shrinkd.groups import GroupLifecycle, GroupLimits, UsageHistory, UsageSampler
from shrinkd.metrics import RequestMetrics
from shrinkd.policies import PolicyCatalog, PolicyController
from shrinkd.settings import Settings
from shrinkd.shrinks import Job, ShrinkQueue
from shrinkd.simulation import SimulationJobs
from shrinkd.storage import IdempotencyKeys, Retention, Store


@dataclass(slots=True)
class Parts:
    """The parts of one running daemon, made by the composition root.

    A route takes them as `AllParts`, or one of them by a dependency of its own below.
    """

    settings: Settings
    bus: EventBus
    backend: Backend
    store: Store
    events: Events
    limits: GroupLimits
    lifecycle: GroupLifecycle
    jobs: ShrinkQueue
    policies: PolicyCatalog
    daemon: PolicyController
    retention: Retention
    keys: IdempotencyKeys
    audit: Audit
    requests: RequestMetrics
    metrics: CollectorRegistry
    history: UsageHistory = field(default_factory=UsageHistory)
    sampler: UsageSampler | None = None
    """Reads groups for the history; None where a test has made the backend."""
    tokens: Tokens | None = None
    """None where callers need no token."""
    simulations: SimulationJobs = field(default_factory=SimulationJobs)
    streams: StreamHub = field(default_factory=StreamHub)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server stops: streams and waits end."""
    finishes: WeakKeyDictionary[Job, asyncio.Future[None]] = field(
        default_factory=WeakKeyDictionary
    )
    """One future on the event loop for each job that requests wait for, since wrap_future() leaves
    a callback on the job for each call."""


def parts_of(app: FastAPI) -> Parts:
    """Return the parts of the daemon whose application this is."""
    parts: Parts = app.state.parts
    return parts


class Body(BaseModel):
    """A response body, validated when it is made: so answers and document cannot differ."""

    model_config = ConfigDict(
        frozen=True, json_schema_serialization_defaults_required=True, use_attribute_docstrings=True
    )


class GroupRef(Body):
    """A group in this incarnation: a group made anew at the same path has another id."""

    id: str
    path: str


def ref(group: Group) -> GroupRef:
    """Return a group as the API refers to it."""
    return GroupRef(id=str(group.id), path=group.path)


def rfc3339(microseconds: int) -> str:
    """Format microseconds since the epoch as the API does: UTC, ending in Z."""
    return (
        datetime.fromtimestamp(microseconds / 1e6, UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


async def _parts(request: Request) -> Parts:
    return parts_of(request.app)


async def _limits(request: Request) -> GroupLimits:
    return parts_of(request.app).limits


async def _lifecycle(request: Request) -> GroupLifecycle:
    return parts_of(request.app).lifecycle


AllParts = Annotated[Parts, Depends(_parts)]
"""All parts of the daemon."""
Limiting = Annotated[GroupLimits, Depends(_limits)]
"""The use case that changes limits."""
Lifecycle = Annotated[GroupLifecycle, Depends(_lifecycle)]
"""The use cases that make and remove groups and move processes."""


def caller_of(scope: Scope) -> Caller:
    """Return the authenticated caller of a request; NOBODY before authentication."""
    return request_context(scope).caller


async def _caller(request: Request) -> Caller:
    return caller_of(request.scope)


Calling = Annotated[Caller, Depends(_caller)]


Reference = Annotated[
    str,
    Path(
        description="A path below the managed root, or `id:…`, `container:…`, `pod:…`, `unit:…`, "
        "`pid:…`.",
        openapi_examples={
            "path": {"summary": "by its path", "value": "web"},
            "unit": {"summary": "by the systemd unit", "value": "unit:nginx.service"},
            "container": {
                "summary": "by the container's id, or its first 12 digits",
                "value": "container:2c4dee605d22",
            },
        },
    ),
]


async def _reading_all(caller: Calling) -> Caller:
    caller.require(Level.READ)
    return caller


async def _writing_all(caller: Calling) -> Caller:
    caller.require(Level.WRITE)
    return caller


async def _administrating(caller: Calling) -> Caller:
    caller.require(Level.ADMIN)
    return caller


ReadingAll = Annotated[Caller, Depends(_reading_all)]
"""A caller who may read the whole node; 403 for all others."""
WritingAll = Annotated[Caller, Depends(_writing_all)]
"""A caller who may change every group; 403 for all others."""
Administrating = Annotated[Caller, Depends(_administrating)]
"""A caller who may do everything; 403 for all others."""


async def _group(request: Request, parts: AllParts, caller: Calling, group: Reference) -> Group:
    found = resolve(parts.backend, group, caller)
    request_context(request.scope).group = found  # for the audit
    return found


Target = Annotated[Group, Depends(_group)]
"""The group that the path refers to, which the caller may read."""


def changeable(parts: Parts, caller: Caller, group: Group) -> Group:
    """Return the group if this caller and this daemon may change it.

    Forbidden, GroupNotFound outside of SHRINKD_SUBTREES, ProtectedGroup for the daemon's own.
    """
    caller.require(Level.WRITE, group.path)
    may_change(parts.settings, group)
    parts.backend.own_group().refuse_own(group)
    return group


async def _changeable(parts: AllParts, caller: Calling, group: Target) -> Group:
    return changeable(parts, caller, group)


Changeable = Annotated[Group, Depends(_changeable)]
"""The group that the path refers to, which this caller and this daemon may change."""
DryRun = Annotated[
    bool, Query(description="Make every check and answer as if it were done, and write nothing.")
]
_YES = frozenset(("1", "on", "t", "true", "y", "yes"))
"""The texts that pydantic reads as true."""


def is_dry_run(request: Request) -> bool:
    """Tell whether a request is a dry run, outside of its route, where DryRun is not at hand."""
    return request.query_params.get("dry_run", "").lower() in _YES
