"""Measure the API on real cgroup v1.

One group's stats are compared with a bare Starlette route, all groups' with a C loop over the same
files.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.table import Extent, Row, Tables, median
from shrinkd import main
from shrinkd.api.http.request_context import request_context
from shrinkd.api.middleware.audit import AuditMiddleware
from shrinkd.api.middleware.authentication import Authentication
from shrinkd.api.routes.stats import read_all
from shrinkd.auth.scopes import ANYONE
from shrinkd.auth.tokens import make
from shrinkd.events.audit import Audit
from shrinkd.server.listen import Server
from shrinkd.settings import Settings
from tests.backends import v1_host
from tests.backends.v1_host import V1Host

_GROUPS = 1000
_CONNECTIONS = 32
_WINDOW_MILLISECONDS = 400


def absent() -> str | None:
    return v1_host.absent() or (None if shutil.which("cc") else "cc is not installed")


def measure_one(folder: Path, extent: Extent) -> Tables:
    with _compiled(folder) as host:
        return {"Reading one group over HTTP": _one(host, folder, extent)}


def measure_guarded(folder: Path, extent: Extent) -> Tables:
    with _compiled(folder) as host:
        return {"With a token, audit and metrics": _guarded(host, folder, extent)}


def measure_all(folder: Path, extent: Extent) -> Tables:
    groups = extent.count(_GROUPS)
    with _compiled(folder) as host:
        return {f"Reading {groups} groups": _all(host, folder, extent.rounds, groups)}


@contextmanager
def _compiled(folder: Path) -> Iterator[V1Host]:
    """A host, with the C programs in the folder."""
    for name in ("floor", "load"):
        subprocess.run(
            ["cc", "-O2", "-o", folder / name, Path(__file__).with_name(f"{name}.c")], check=True
        )
    with v1_host.open_host() as host:
        yield host


def _one(host: V1Host, folder: Path, extent: Extent) -> list[Row]:
    group = host.group()
    with ExitStack() as stack:
        bare = stack.enter_context(_process(folder, "bare"))
        ours = stack.enter_context(_process(folder, "ours"))
        length = len(httpx.get(f"http://127.0.0.1:{ours}/v1/groups/{group.path}/stats").content)
        load = partial(_rate, folder, extent)
        pairs = [
            (load(ours, f"/v1/groups/{group.path}/stats"), load(bare, f"/{length}"))
            for _ in range(extent.rounds)
        ]
    return [
        Row("GET stats, requests per second, median", median([mine for mine, _ in pairs]), "/s"),
        Row(
            "a bare Starlette route of as many bytes", median([theirs for _, theirs in pairs]), "/s"
        ),
        Row(
            "ratio, median of the rounds",
            median([mine / theirs for mine, theirs in pairs]),
            "",
            ">=",
            0.5,
        ),
    ]


def _guarded(host: V1Host, folder: Path, extent: Extent) -> list[Row]:
    """The same daemon with all its guards and with none."""
    group, tokens = host.group(), folder / "tokens"
    secret = make(tokens, "bench", ["admin"], "1d")
    asks = {
        "GET stats": ("GET", "stats", ""),
        "PATCH limits": ("PATCH", "limits", '{"max_bytes": null}'),
    }
    rows = []
    with _process(folder, "ours", tokens) as guarded, _process(folder, "unguarded") as unguarded:
        for name, (method, what, body) in asks.items():
            rates: dict[int, list[float]] = {guarded: [], unguarded: []}
            for _, (port, headers) in product(
                range(extent.rounds),
                ((guarded, f"Authorization: Bearer {secret}\r\n"), (unguarded, "")),
            ):
                more = (method, f"Content-Type: application/json\r\n{headers}", body)
                rates[port].append(
                    _rate(folder, extent, port, f"/v1/groups/{group.path}/{what}", *more)
                )
            rows.append(Row(f"{name}, requests per second, median", median(rates[guarded]), "/s"))
            ratios = [
                ours / bare for ours, bare in zip(rates[guarded], rates[unguarded], strict=True)
            ]
            rows.append(
                Row(f"{name}, ratio to a daemon without, median", median(ratios), "", ">=", 0.8)
            )
    return rows


def _rate(folder: Path, extent: Extent, port: int, path: str, *more: str) -> float:
    window = round(extent.seconds(_WINDOW_MILLISECONDS, least=50)) // 2
    answers = 0
    while not answers:  # the smallest window may be too short for one
        window *= 2
        command = [
            str(folder / "load"),
            str(port),
            path,
            str(extent.count(_CONNECTIONS)),
            str(window),
            *more,
        ]
        answers, bad = map(
            int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        )
        if bad:
            raise RuntimeError(f"{bad} of {answers} answers from {path} were not 200")
    return answers / window * 1000


def _all(host: V1Host, folder: Path, rounds: int, count: int) -> list[Row]:
    parent = host.group()
    groups = [host.group(parent) for _ in range(count)]
    backend = host.backend
    files = sorted(backend.stat(groups[0], raw=True).raw)
    paths = "\n".join(f"{backend.node().root}/{group.path}" for group in groups)
    figures: dict[str, list[float]] = {"kept": [], "open": [], "sweep": [], "http": []}
    with _process(folder, "ours") as port, httpx.Client() as client:
        url = f"http://127.0.0.1:{port}/v1/stats?subtree={parent.path}"
        for _ in range(rounds):
            for way in ("kept", "open"):
                floor = subprocess.run(
                    [folder / "floor", way, "3", *files],
                    input=paths,
                    check=True,
                    capture_output=True,
                    text=True,
                )
                figures[way].append(min(map(int, floor.stdout.split())) / 1e9)
            began = time.perf_counter()
            asyncio.run(read_all(backend, groups))
            figures["sweep"].append(time.perf_counter() - began)
            began = time.perf_counter()
            client.get(url).raise_for_status()
            figures["http"].append(time.perf_counter() - began)
    ratio = {
        way: median(
            [ours / floor for ours, floor in zip(figures[way], figures["kept"], strict=True)]
        )
        for way in ("open", "sweep", "http")
    }
    return [
        Row(f"C, pread of {len(files)} kept files a group", median(figures["kept"]) * 1e3, "ms"),
        Row("C, open, read and close: ratio to that", ratio["open"], ""),
        Row("our readings, parsed: ratio to C", ratio["sweep"], "", "<=", 3),
        Row("GET /v1/stats, all of it over HTTP: ratio to C", ratio["http"], "", "<=", 10),
    ]


@contextmanager
def _process(folder: Path, kind: str, tokens: Path | None = None) -> Iterator[int]:
    """Start a server process, on the second core if there is one; return its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        child = os.fork()
        if not child:
            _serve(listening, folder, kind, tokens)
        try:
            _await(port)
            yield port
        finally:
            os.kill(child, 15)
            os.waitpid(child, 0)


def _serve(listening: socket.socket, folder: Path, kind: str, tokens: Path | None) -> None:
    try:
        if kind != "bare":
            database = f"sqlite:///{folder}/{os.getpid()}.db"
            app = main.create_app(
                Settings(
                    backend="v1", database_url=database, tokens=str(tokens) if tokens else None
                )
            )
            if kind == "unguarded":
                _unguard(app)
            Server(app).run([listening])
        else:
            bare = Starlette(routes=[Route("/{length:int}", _bare)])
            uvicorn.Server(
                uvicorn.Config(
                    bare, http="httptools", loop="uvloop", log_config=None, access_log=False
                )
            ).run([listening])
    finally:
        os._exit(0)


class _Silent(Audit):
    """An audit log that writes nothing."""

    def begin(self, _row: object) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def finish(self, *_: object) -> None: ...

    def note(self, *_: object) -> None: ...


class _Anyone:
    """Tokens that accept every caller."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_context(scope).caller = ANYONE
        await self._app(scope, receive, send)


def _unguard(app: FastAPI) -> None:
    guards: set[object] = {Authentication, AuditMiddleware}
    app.user_middleware = [each for each in app.user_middleware if each.cls not in guards]
    app.add_middleware(_Anyone)
    app.state.parts.audit = app.state.parts.requests = _Silent(app.state.parts.store.audit)


async def _bare(request: Request) -> Response:
    return Response(b"x" * request.path_params["length"], media_type="application/json")


def _await(port: int) -> None:
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=20)
    ) as client:
        client.get("/livez")
