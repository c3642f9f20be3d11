"""Every script of openapi/curl does what it says, against a live daemon, and leaves nothing behind."""

import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Match

from app.backends._cgroupfs import mounts
from tests.backends import v1_host
from tests.live import Daemon, Live

FOLDER = Path(__file__).parent.parent / "openapi" / "curl"
SCRIPTS = sorted(path.name for path in FOLDER.glob("[0-9]*.sh"))
REAL = [name for name in SCRIPTS if "real" in name]
SIMULATED = [name for name in SCRIPTS if name not in REAL]


def run(name: str, *arguments: str, **where: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SHRINKD_")}
    return subprocess.run(
        [FOLDER / name, *arguments], env=environ | where, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def left_by(live: Live) -> dict[str, Any]:
    """What a script could leave: groups and limits (usage moves by itself)."""
    page = live.client.get("/v1/groups", params={"fields": "id,path,max_bytes", "page_size": 1000}).json()
    return {row["path"]: row for row in page["items"]}


def operation_of(app: FastAPI, method: str, path: str) -> str:
    scope = {"type": "http", "method": method, "path": path}
    return next((getattr(route, "operation_id", None) or "" for route in app.routes if route.matches(scope)[0] is Match.FULL), "")


@pytest.fixture
def v1_root() -> Iterator[Path]:
    """A group of the test's own below the real controller, where a daemon can be at home."""
    if reason := v1_host.absent():
        pytest.skip(f"the host v1 is absent: {reason}")
    with v1_host.open_host() as host:
        yield Path(next(mounts("cgroup", "memory")), host.group().path)


@pytest.mark.parametrize("name", SIMULATED)
def test_a_script_shows_what_it_says_and_leaves_no_limit_and_no_group(server: Live, name: str) -> None:
    before = left_by(server)
    done = run(name, SHRINKD_URL=server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert left_by(server) == before
    assert server.client.get("/v1/shrinks", params=[("state", "queued"), ("state", "running")]).json()["items"] == []


def test_the_scripts_run_in_order_and_once_more_and_touch_every_operation(server: Live, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "shrinkd.access"):
        failed = [name for name in SIMULATED * 2 if run(name, SHRINKD_URL=server.url).returncode]
    assert failed == []
    seen = {
        operation_of(server.app, record.fields["method"], record.fields["path"]) for record in caplog.records if hasattr(record, "fields")
    }
    operations = {operation["operationId"] for path in server.app.openapi()["paths"].values() for operation in path.values()}
    assert operations - seen == set()


@pytest.mark.parametrize("name", SIMULATED)
def test_a_script_ends_non_zero_when_nobody_answers(name: str, tmp_path: Path) -> None:
    done = run(name, SHRINKD_SOCKET=f"{tmp_path}/nobody.sock")
    assert done.returncode != 0
    assert "FAILED: no answer" in done.stderr


def test_a_script_ends_non_zero_when_what_it_shows_does_not_happen(server: Live) -> None:
    done = run("04-hit-the-409.sh", "web", "1T", SHRINKD_URL=server.url)
    assert done.returncode != 0
    assert "FAILED: PATCH /v1/groups/web/limits: wanted status 409 and got 200" in done.stderr


@pytest.mark.parametrize("name", REAL)
def test_a_script_for_a_real_kernel_says_so_to_a_simulator(server: Live, name: str) -> None:
    done = run(name, SHRINKD_URL=server.url)
    assert done.returncode != 0
    assert "FAILED: this needs a daemon on cgroup v1" in done.stderr


@pytest.mark.parametrize("name", REAL)
def test_the_whole_story_happens_on_a_real_kernel(daemon: Callable[..., Daemon], v1_root: Path, name: str) -> None:
    started = daemon(backend="v1", cgroup_root=str(v1_root))
    done = run(name, SHRINKD_SOCKET=str(started.socket))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in v1_root.iterdir() if path.is_dir()] == []


def test_a_script_says_first_what_it_shows_and_what_to_expect() -> None:
    silent = [name for name in SCRIPTS if not re.match(r"#!/usr/bin/env bash\n# .+\n(# .*\n)*# Expect", (FOLDER / name).read_text())]
    assert silent == []


def test_a_script_can_be_started_as_it_is() -> None:
    assert [name for name in SCRIPTS if not os.access(FOLDER / name, os.X_OK)] == []
