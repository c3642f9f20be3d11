"""The composition root: settings, then the daemon's parts, then the application.

Nothing is made at import.
"""

import asyncio
import importlib.util
import logging
import os
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI

from shrinkd import __version__, api
from shrinkd.api import Parts
from shrinkd.auth import Tokens
from shrinkd.backends import Backend, load, simulated
from shrinkd.errors import BackendUnavailable, SettingsError
from shrinkd.events import Audit, EventBus, Events, EventType
from shrinkd.groups import (
    GroupLifecycle,
    GroupLimits,
    GroupLocks,
    LimitJournal,
    UsageHistory,
    UsageSampler,
)
from shrinkd.metrics import MetricsCollector, RequestMetrics, registry_of
from shrinkd.policies import (
    Clock,
    PolicyCatalog,
    PolicyController,
    Scope,
)
from shrinkd.settings import Settings
from shrinkd.shrinks import ShrinkQueue
from shrinkd.simulation import SimulationJobs
from shrinkd.storage import ExpiryTask, IdempotencyKeys, Retention, Store

_KEYS_SECONDS = 60.0
"""Between two expiries of idempotency keys."""

log = logging.getLogger(__name__)


def create_app(
    settings: Settings, make_backend: Callable[[Settings], Backend] | None = None
) -> FastAPI:
    """Make the application of one daemon: settings, then its parts, then the application.

    `make_backend` replaces the choice of a backend, as tests do with a simulator on a clock of
    their own; then no sampler reads that backend. Raises BackendUnavailable, SettingsError or
    StoreUnavailable before anything listens; the lifespan closes what this opens.
    """
    _raise_file_limit()
    app = api.build(traces=_wants_traces())
    app.state.parts = _open_parts(settings, make_backend)
    app.router.lifespan_context = _lifespan
    return app


def _open_parts(settings: Settings, make_backend: Callable[[Settings], Backend] | None) -> Parts:
    """Open the backend and the database, settle what a dead daemon left, and connect the parts."""
    bus = EventBus()
    tokens = None if settings.tokens is None else Tokens(settings.tokens, time.time)
    backend = (make_backend or choose_backend)(settings)
    with ExitStack() as undo:
        undo.callback(backend.close)
        backend.own_group()  # what it cannot find is in the log before anything listens
        store = Store(settings.database_url)
        undo.callback(store.close)
        store.open()
        events = Events(store.events)
        bus.subscribe_events(events.publish)
        journal = LimitJournal(backend, store.limit_intents)
        journal.settle()
        limits = GroupLimits(backend, journal, GroupLocks(bus.limits.publish), bus.publish)
        lifecycle = GroupLifecycle(backend, store.made_groups, limits, settings.subtrees)
        jobs = ShrinkQueue(store.shrinks, limits, bus.publish, settings.max_running_shrinks)
        _recover(jobs, bus)
        history = UsageHistory()
        bus.readings.subscribe(history.note_all)
        policies = PolicyCatalog(backend, store.policies, bus, settings.subtrees)
        scope = Scope(_clock_of(backend), settings.subtrees)
        controller = PolicyController(limits, store, policies, jobs, scope, bus)
        requests = RequestMetrics()
        parts = Parts(
            settings=settings,
            bus=bus,
            backend=backend,
            store=store,
            events=events,
            retention=Retention(_expiry_tasks(store, events)),
            limits=limits,
            lifecycle=lifecycle,
            jobs=jobs,
            policies=policies,
            daemon=controller,
            keys=IdempotencyKeys(store.idempotency_keys),
            audit=Audit(store.audit),
            requests=requests,
            metrics=registry_of(MetricsCollector(requests, backend, jobs, controller)),
            history=history,
            sampler=None if make_backend else UsageSampler(backend, history),
            tokens=tokens,
            simulations=SimulationJobs(bus.publish),
        )
        undo.pop_all()
    return parts


def _recover(jobs: ShrinkQueue, bus: EventBus) -> None:
    """Interrupt the shrinks of a dead daemon, and publish that this one has started."""
    interrupted = jobs.recover()
    if interrupted:
        log.warning("%d shrinks were interrupted when the daemon died", interrupted)
    bus.publish(EventType.DAEMON_STARTED, version=__version__, interrupted_shrinks=interrupted)


def _wants_traces() -> bool:
    """Tell whether OpenTelemetry's own variables name a collector.

    SettingsError where the exporter is not installed.
    """
    named = [
        name
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        if os.environ.get(name)
    ]
    if named and importlib.util.find_spec("opentelemetry.exporter") is None:
        raise SettingsError(
            f"{named[0]} is set, and the exporter of traces is not installed: pip install "
            "'shrinkd[traces]', or unset it."
        )
    return bool(named)


def _raise_file_limit() -> None:
    """Raise the limit of open files to the hard limit.

    The soft one is low for select(2), which nothing here calls.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    loop = asyncio.get_running_loop()
    with (
        ExitStack() as stack
    ):  # each part is closed, also where another cannot be started or closed
        for close in reversed(_closing_order(parts)):
            stack.callback(close)
        parts.events.start(partial(_notify_streams, loop, parts))
        parts.retention.start()
        parts.daemon.start()
        if parts.sampler:
            parts.sampler.start()
        yield


def _closing_order(parts: Parts) -> tuple[Callable[[], None], ...]:
    """List what closes the parts: first those that begin work, last those that it is done with."""
    return (
        parts.closing.set,
        parts.retention.close,  # a long deletion would keep the others from their last writes
        *((parts.sampler.stop,) if parts.sampler else ()),
        parts.simulations.close,
        parts.daemon.stop,
        parts.jobs.close,
        parts.daemon.close,
        parts.events.close,
        parts.keys.close,
        parts.audit.close,
        parts.store.close,
        parts.backend.close,
    )


def _notify_streams(loop: asyncio.AbstractEventLoop, parts: Parts) -> None:
    """Let the event streams, which live on the loop, read the new events. From any thread."""
    loop.call_soon_threadsafe(parts.streams.new_events.notify)


def _expiry_tasks(store: Store, events: Events) -> list[ExpiryTask]:
    """List the expiry of each table that grows; a caller can make keys at any rate."""
    return [
        ExpiryTask(store.idempotency_keys.expire, _KEYS_SECONDS),
        ExpiryTask(store.shrinks.expire),
        ExpiryTask(store.decisions.expire),
        ExpiryTask(store.audit.expire),
        ExpiryTask(events.expire),
    ]


def _clock_of(backend: Backend) -> Clock:
    """Return the clock of the policies: a simulated machine's own, or else the host's."""
    if not backend.is_simulated:
        return Clock()
    simulator_time = simulated(backend).time
    return Clock(simulator_time.now, lambda: simulator_time.speed)


def choose_backend(settings: Settings) -> Backend:
    """Make the backend of the settings.

    `auto` takes the memory controller that this host has, and logs which. BackendUnavailable.
    """
    if settings.backend != "auto":
        return load(settings.backend)(settings)
    reasons = []
    for name in ("v2", "v1"):
        try:
            backend = load(name)(settings)
        except BackendUnavailable as reason:
            reasons.append(f"{name}: {reason.detail}")
            continue
        log.info("the backend is cgroup %s, at %s", name, backend.node().root)
        return backend
    raise BackendUnavailable(
        f"This host has no memory controller to use ({' '.join(reasons)}); "
        "SHRINKD_BACKEND=simulator needs none."
    )
