"""The composition root.

From settings to parts, from parts to an application. Nothing is made at import.
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

from shrinkd import __version__
from shrinkd.api import Parts
from shrinkd.api import app as api
from shrinkd.auth import Tokens
from shrinkd.backends import Backend, load, simulated
from shrinkd.errors import BackendUnavailable, SettingsError
from shrinkd.events import Audit, Events, EventType
from shrinkd.groups import LimitJournal, UsageHistory, UsageSampler
from shrinkd.metrics import MetricsCollector, RequestMetrics, registry_of
from shrinkd.policies import (
    Clock,
    DecisionLog,
    Notifier,
    PolicyCatalog,
    PolicyController,
    Ports,
    Scope,
)
from shrinkd.settings import Settings
from shrinkd.shrinks import ShrinkQueue
from shrinkd.simulation import SimulationJobs
from shrinkd.storage import IdempotencyKeys, Store

log = logging.getLogger(__name__)


def create_app(
    settings: Settings, make_backend: Callable[[Settings], Backend] | None = None
) -> FastAPI:
    """Open the backend and the database, settle what a dead daemon left, and make the application.

    `make_backend` replaces the backend of the settings, as tests do with a simulator on a clock of
    theirs; without policies nothing then reads it but requests. Raises BackendUnavailable,
    SettingsError or StoreUnavailable before anything listens; the lifespan closes what this opens.
    """
    _raise_file_limit()
    tokens = None if settings.tokens is None else Tokens(settings.tokens, time.time)
    backend = (make_backend or choose_backend)(settings)
    with ExitStack() as undo:
        undo.callback(backend.close)
        backend.own()  # what it cannot find is in the log before anything listens
        store = Store(settings.database_url)
        undo.callback(store.close)
        store.open()
        intents = LimitJournal(backend, store)
        intents.settle()
        jobs = ShrinkQueue(backend, store, intents, settings.max_running_shrinks)
        if interrupted := jobs.recover():
            log.warning("%d shrinks were interrupted when the daemon died", interrupted)
        made = store.made_group_ids(backend.node().boot_id)
        notifier = Notifier()
        undo.callback(notifier.close)
        jobs.on_limits = notifier.notify_limits
        events = Events(store)
        policies = PolicyCatalog(
            backend,
            store,
            settings.subtrees,
            publish=events.publish,
            notify_changed=notifier.notify_policies,
        )
        decisions, history = DecisionLog(store), UsageHistory()
        daemon = PolicyController(
            backend,
            store,
            policies,
            jobs,
            Scope(_clock_of(backend), settings.subtrees),
            Ports(notifier, decisions, history.note_all),
        )
        simulations = SimulationJobs(events.publish)
        for part in (jobs, decisions):
            part.publish = events.publish
        events.publish(
            EventType.DAEMON_STARTED, version=__version__, interrupted_shrinks=interrupted
        )
        sampler = None if make_backend else UsageSampler(backend, history)
        undo.pop_all()
    requests = RequestMetrics()
    app = api.build(traces=_wants_traces())
    app.state.wiring = Parts(
        settings=settings,
        backend=backend,
        store=store,
        intents=intents,
        jobs=jobs,
        policies=policies,
        daemon=daemon,
        keys=IdempotencyKeys(store),
        events=events,
        audit=Audit(store),
        requests=requests,
        metrics=registry_of(MetricsCollector(requests, backend, jobs, daemon)),
        made=made,
        history=history,
        sampler=sampler,
        tokens=tokens,
        simulations=simulations,
    )
    app.router.lifespan_context = _lifespan
    return app


def _wants_traces() -> bool:
    """Whether OpenTelemetry's own variables name a collector.

    SettingsError where nothing is installed that could speak to it.
    """
    named = [
        name
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        if os.environ.get(name)
    ]
    if named and importlib.util.find_spec("opentelemetry.exporter") is None:
        raise SettingsError(
            f"{named[0]} is set, and what sends traces is not installed: pip install "
            "'shrinkd[traces]', or unset it."
        )
    return bool(named)


def _raise_file_limit() -> None:
    """Take all the open files that the hard limit allows.

    The soft one is low for select(2), which nothing here calls.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    wiring: Parts = app.state.wiring
    wiring.events.on_news = partial(_ring, asyncio.get_running_loop(), wiring)
    wiring.events.start()
    wiring.daemon.start()
    if wiring.sampler:
        wiring.sampler.start()
    yield
    wiring.closing.set()
    if wiring.sampler:
        wiring.sampler.stop()
    wiring.simulations.close()
    wiring.daemon.stop()
    wiring.jobs.close()
    wiring.daemon.close()
    wiring.events.close()
    wiring.keys.close()
    wiring.audit.close()
    wiring.store.close()
    wiring.backend.close()


def _ring(loop: asyncio.AbstractEventLoop, wiring: Parts) -> None:
    loop.call_soon_threadsafe(wiring.streams.news.ring)


def _clock_of(backend: Backend) -> Clock:
    """The time that the policies live in.

    On a simulated machine its own, for what they measure passes in that.
    """
    if not backend.is_simulated:
        return Clock()
    simulator_time = simulated(backend).time
    return Clock(simulator_time.now, lambda: simulator_time.speed)


def choose_backend(settings: Settings) -> Backend:
    """Make the backend of the settings.

    `auto` takes the memory controller that this host has, and says which.
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
