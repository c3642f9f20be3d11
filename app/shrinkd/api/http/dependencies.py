"""What the routes share: the daemon's parts, and the Annotated dependencies that hand them over."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated
from weakref import WeakKeyDictionary

from fastapi import Depends, Path, Query, Request
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict
from starlette.types import Scope

from shrinkd.api.http.group_reference import may_change, resolve
from shrinkd.auth import NOBODY, Caller, Level, Tokens
from shrinkd.backends import Backend, Group
from shrinkd.events import Audit, Events, StreamHub
from shrinkd.groups import LimitJournal, UsageHistory, UsageSampler
from shrinkd.metrics import RequestMetrics
from shrinkd.policies import PolicyCatalog, PolicyController
from shrinkd.settings import Settings
from shrinkd.shrinks import Job, ShrinkQueue
from shrinkd.simulation import SimulationJobs
from shrinkd.storage import IdempotencyKeys, Retention, Store


@dataclass(slots=True)
class Parts:
    """The parts of one running daemon, made by the composition root."""

    settings: Settings
    backend: Backend
    store: Store
    intents: LimitJournal
    jobs: ShrinkQueue
    policies: PolicyCatalog
    daemon: PolicyController
    events: Events
    retention: Retention
    keys: IdempotencyKeys
    audit: Audit
    requests: RequestMetrics
    metrics: CollectorRegistry
    made: set[int] = field(default_factory=set)
    """Ids of the groups that were made through this API, in this boot."""
    history: UsageHistory = field(default_factory=UsageHistory)
    sampler: UsageSampler | None = None
    """None where who brought the controller is the only one who reads it."""
    tokens: Tokens | None = None
    """None where nobody is asked for one."""
    simulations: SimulationJobs = field(default_factory=SimulationJobs)
    streams: StreamHub = field(default_factory=StreamHub)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server stops: endless answers end."""
    finishes: WeakKeyDictionary[Job, asyncio.Future[None]] = field(
        default_factory=WeakKeyDictionary
    )
    """What all who wait for a job wait for: one for each job, since a job keeps it until it is
    done."""


class Body(BaseModel):
    """A response body.

    Validated when it is made, so that the document and the answers cannot part.
    """

    model_config = ConfigDict(
        frozen=True, json_schema_serialization_defaults_required=True, use_attribute_docstrings=True
    )


class GroupRef(Body):
    """Which incarnation of which group."""

    id: str
    path: str


def ref(group: Group) -> GroupRef:
    return GroupRef(id=str(group.id), path=group.path)


def rfc3339(microseconds: int) -> str:
    """A time of the store as the API writes it: UTC, ending in Z."""
    return (
        datetime.fromtimestamp(microseconds / 1e6, UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


async def _wiring(request: Request) -> Parts:
    wiring: Parts = request.app.state.wiring
    return wiring


Wired = Annotated[Parts, Depends(_wiring)]


def caller_of(scope: Scope) -> Caller:
    """Who sent the request of an ASGI scope, as app/shrinkd/api/middleware/authentication.py found.

    Before that, nobody who may do anything.
    """
    caller: Caller = scope.get("state", {}).get("caller", NOBODY)
    return caller


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


async def _group(request: Request, wiring: Wired, caller: Calling, group: Reference) -> Group:
    found = resolve(wiring.backend, group, caller)
    request.scope["state"]["group"] = found  # for the audit
    return found


Target = Annotated[Group, Depends(_group)]


def changeable(wiring: Parts, caller: Caller, group: Group) -> Group:
    """Answer a group that this caller and this daemon may change.

    Else Forbidden, GroupNotFound or ProtectedGroup.
    """
    caller.require(Level.WRITE, group.path)
    may_change(wiring.settings, group)
    wiring.backend.own().check_apart(group)
    return group


async def _changeable(wiring: Wired, caller: Calling, group: Target) -> Group:
    return changeable(wiring, caller, group)


Changeable = Annotated[Group, Depends(_changeable)]
DryRun = Annotated[
    bool, Query(description="Make every check and answer as if it were done, and write nothing.")
]
_YES = frozenset(("1", "on", "t", "true", "y", "yes"))
"""What pydantic takes for true."""


def is_dry_run(request: Request) -> bool:
    """As DryRun, for what stands around all routes."""
    return request.query_params.get("dry_run", "").lower() in _YES
