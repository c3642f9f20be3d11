"""Run every script of openapi/curl against a live daemon; it works and leaves nothing behind."""

import logging
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Match

from shrinkd.auth.tokens import make
from shrinkd.backends import Backend
from shrinkd.settings import Settings
from tests.backends.hosts import MIB
from tests.support.cgroup_host import CgroupHost
from tests.support.checkout import ROOT
from tests.support.live_server import Daemon, Live
from tests.test_terminal import unseen_in

FOLDER = ROOT / "openapi" / "curl"
SCRIPTS = sorted(path.name for path in FOLDER.glob("[0-9]*.sh"))
REAL = [name for name in SCRIPTS if "real" in name]
SIMULATED = [name for name in SCRIPTS if name not in REAL]


def run(name: str, *arguments: str, **where: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SHRINKD_")}
    return subprocess.run(
        [FOLDER / name, *arguments],
        env=environ | where,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def left_by(live: Live | Daemon) -> dict[str, Any]:
    """Return what a script could leave: groups and limits (usage moves by itself)."""
    page = live.client.get(
        "/v1/groups", params={"fields": "id,path,max_bytes", "page_size": 1000}
    ).json()
    return {row["path"]: row for row in page["items"]}


def operation_of(app: FastAPI, method: str, path: str) -> str:
    scope = {"type": "http", "method": method, "path": path}
    return next(
        (
            getattr(route, "operation_id", None) or ""
            for route in app.routes
            if route.matches(scope)[0] is Match.FULL
        ),
        "",
    )


def in_group(folder: str, name: str, **where: str) -> subprocess.CompletedProcess[str]:
    """Run a script from a shell inside a group, so that its children are there, too."""
    join = ["sh", "-ec", 'echo $$ >"$0/cgroup.procs"; exec "$@"', folder]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SHRINKD_")}
    return subprocess.run(
        [*join, FOLDER / name],
        env=environ | where,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def real(kernel: CgroupHost[Backend], daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon whose root is a group of the test, with the groups that the scripts use.

    These are the two of the demo, with a process in each, and `shell`.
    """
    home = kernel.group()
    kernel.backend.make(f"{home.path}/shell")
    kernel.charge(kernel.backend.make(f"{home.path}/web"), anon=96 * MIB, cache=256 * MIB)
    kernel.charge(kernel.backend.make(f"{home.path}/cache"), locked=16 * MIB)
    return daemon(backend="auto", cgroup_root=f"{kernel.backend.node().root}/{home.path}")


@pytest.mark.parametrize("name", SIMULATED)
def test_a_script_shows_what_it_says_and_leaves_no_limit_and_no_group(
    server: Live, name: str
) -> None:
    before = left_by(server)
    done = run(name, SHRINKD_URL=server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert left_by(server) == before
    assert (
        server.client.get("/v1/shrinks", params=[("state", "queued"), ("state", "running")]).json()[
            "items"
        ]
        == []
    )


@pytest.mark.long
def test_the_scripts_run_in_order_and_once_more_and_touch_every_operation(
    server: Live, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "shrinkd.access"):
        failed = [name for name in SIMULATED * 2 if run(name, SHRINKD_URL=server.url).returncode]
    assert failed == []
    seen = {
        operation_of(server.app, record.fields["method"], record.fields["path"])
        for record in caplog.records
        if hasattr(record, "fields")
    }
    operations = {
        operation["operationId"]
        for path in server.app.openapi()["paths"].values()
        for operation in path.values()
    }
    assert operations - seen == set()


@pytest.mark.parametrize("name", SIMULATED)
def test_a_script_ends_non_zero_when_nobody_answers(name: str, tmp_path: Path) -> None:
    done = run(name, SHRINKD_URL=f"unix:{tmp_path}/nobody.sock")
    assert done.returncode != 0
    assert f"FAILED: no answer from unix:{tmp_path}/nobody.sock" in done.stderr


@pytest.mark.parametrize("variable", ["SHRINKD_URL=unix:", "SHRINKD_SOCKET="])
def test_a_script_finds_a_daemon_on_its_unix_socket(
    settings: Settings, tmp_path: Path, variable: str
) -> None:
    name, _, scheme = variable.partition("=")
    with Live(settings, beside=(f"unix:{tmp_path}/api.sock",)):
        assert run("01-node.sh", **{name: f"{scheme}{tmp_path}/api.sock"}).returncode == 0


def test_a_script_ends_non_zero_when_what_it_shows_does_not_happen(server: Live) -> None:
    done = run("04-hit-the-409.sh", "web", "1T", SHRINKD_URL=server.url)
    assert done.returncode != 0
    assert "FAILED: PATCH /v1/groups/web/limits: wanted status 409 and got 200" in done.stderr


@pytest.mark.parametrize("name", REAL)
def test_a_script_for_a_real_kernel_says_so_to_a_simulator(server: Live, name: str) -> None:
    done = run(name, SHRINKD_URL=server.url)
    assert done.returncode != 0
    assert "FAILED: this needs a daemon on a real kernel" in done.stderr


@pytest.mark.long
def test_every_script_does_what_it_says_on_a_real_kernel_and_swap_takes_what_cannot_go_without(
    kernel: CgroupHost[Backend], real: Daemon, *, has_swap: bool
) -> None:
    assert real.client.get("/v1/node").json()["backend"] == kernel.backend.name
    before, shell = left_by(real), f"{real.client.get('/v1/node').json()['root']}/shell"
    failed = [
        name + done.stdout + done.stderr
        for name in SCRIPTS
        if (done := in_group(shell, name, SHRINKD_SOCKET=str(real.socket))).returncode
    ]
    assert not failed, "\n".join(failed)
    assert left_by(real) == before
    below_anon = run("07-resize.sh", "web", str(48 * MIB), SHRINKD_SOCKET=str(real.socket))
    assert (below_anon.returncode == 0) == has_swap, below_anon.stdout


def test_a_script_says_first_what_it_shows_and_what_to_expect() -> None:
    silent = [
        name
        for name in SCRIPTS
        if not re.match(
            r"#!/usr/bin/env bash\n# .+\n(# .*\n)*# Expect", (FOLDER / name).read_text()
        )
    ]
    assert silent == []


def test_a_script_can_be_started_as_it_is() -> None:
    assert [name for name in SCRIPTS if not os.access(FOLDER / name, os.X_OK)] == []


def test_a_script_sends_the_token_that_it_is_given_and_does_not_show_it(
    settings: Settings, tmp_path: Path
) -> None:
    secret = str(make(tmp_path / "tokens", "ci", ["write"], "1d"))
    with Live(settings.model_copy(update={"tokens": str(tmp_path / "tokens")})) as live:
        for name in ("01-node.sh", "07-resize.sh", "21-tokens.sh"):
            assert run(name, SHRINKD_URL=live.url).returncode == (
                0 if name == "21-tokens.sh" else 1
            )
            done = run(name, SHRINKD_URL=live.url, SHRINKD_TOKEN=secret)
            assert done.returncode == 0, done.stdout + done.stderr
            assert secret not in done.stdout + done.stderr


def test_a_script_shows_names_and_has_a_terminal_obey_none(server: Live) -> None:
    for name in ("a\x9b2Jb", "a\u202eb"):
        server.client.post("/v1/groups", json={"path": name}).raise_for_status()
    done = run("02-list-groups.sh", SHRINKD_URL=server.url)
    assert done.returncode == 0, done.stderr
    assert r"a\xc2\x9b2Jb" in done.stdout
    assert unseen_in(done.stdout.replace("\n", "")) == set()


def sourced(command: str, folder: Path, **where: str) -> subprocess.CompletedProcess[str]:
    script = f'source "$1"; {command}'
    return subprocess.run(
        ["bash", "-euc", script, "bash", FOLDER / "_curl.sh"],
        cwd=folder,
        env=os.environ | where,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "number", ["mib 'a[$(touch pwned)]'", "size=$(number 'a[$(touch pwned)]'); echo $((size + 1))"]
)
def test_what_is_no_number_is_not_computed_with(tmp_path: Path, number: str) -> None:
    done = sourced(number, tmp_path)
    assert done.returncode != 0
    assert "is no number" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_script_says_that_it_runs_can_be_copied(tmp_path: Path) -> None:
    words = ["it's", "$(touch pwned)", "a b", "plain"]
    done = sourced(f"quoted {shlex.join(words)}", tmp_path)
    assert shlex.split(done.stdout) == words


def test_a_bracket_in_a_name_is_no_range_of_addresses(server: Live) -> None:
    server.client.post("/v1/groups", json={"path": "a[1-3]"}).raise_for_status()
    done = run("03-read-stats.sh", "a[1-3]", SHRINKD_URL=server.url)
    assert done.returncode == 0, done.stdout + done.stderr
