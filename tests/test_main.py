"""The daemon as a process.

How it starts, or says why not in one line; how it ends, and what the next one finds.
"""

import json
import os
import re
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from shrinkd import __version__
from shrinkd.errors import SettingsError, StoreUnavailable
from shrinkd.main import create_app
from shrinkd.settings import Settings
from shrinkd.storage import Store
from tests.support.live_server import Daemon, Live
from tests.support.locked_database import locked
from tests.support.postgres import Postgres
from tests.support.problem_checks import problem
from tests.support.shrink_requests import ENDLESS, finished, running, start
from tests.support.sse_client import Follower, read_all

MIB = 2**20
Start = Callable[..., Daemon]


def shrinkd(*arguments: str, says: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SHRINKD_")}
    environ |= {f"SHRINKD_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "shrinkd", *arguments],
        env=environ,
        input=says,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_refused(ended: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    lines = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout, len(lines)) == (code, "", 1), ended
    assert lines[0].startswith("shrinkd: ")
    assert words in lines[0]


@pytest.fixture
def sound(tmp_path: Path) -> dict[str, str]:
    """Settings with which it would start."""
    return {
        "backend": "simulator",
        "listen": f"unix:{tmp_path}/api.sock",
        "database_url": f"sqlite:///{tmp_path}/daemon.db",
        "log": "json",
    }


@pytest.mark.parametrize(
    ("wrong", "code", "words"),
    [
        ({"backend": "v3"}, 2, "SHRINKD_BACKEND"),
        ({"listen": "tcp:0.0.0.0:8080"}, 2, "reachable from elsewhere"),
        ({"backend": "v1", "cgroup_root": "/no/such/folder"}, 3, "/no/such/folder"),
    ],
    ids=["setting", "unsafe address", "no backend"],
)
def test_what_cannot_start_says_why_in_one_line_and_ends_with_its_code(
    sound: dict[str, str], wrong: dict[str, str], code: int, words: str
) -> None:
    assert_refused(shrinkd("serve", **sound | wrong), code, words)


def test_a_database_that_is_locked_at_the_start_is_named(
    sound: dict[str, str], tmp_path: Path
) -> None:
    with closing(Store(sound["database_url"])) as store:
        store.open()
    with locked(tmp_path / "daemon.db"):
        impatient = sound | {"database_url": f"{sound['database_url']}?timeout=0.05"}
        assert_refused(shrinkd("serve", **impatient), 2, "database is locked")


def test_what_does_not_start_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "diary.db").write_text("my diary\n" * 1000)
    with pytest.raises(StoreUnavailable):
        create_app(Settings(backend="simulator", database_url=f"sqlite:///{tmp_path}/diary.db"))
    with pytest.raises(SettingsError):
        create_app(Settings(backend="simulator", database_url="sqlite://"))


def test_the_command_line_tells_its_version() -> None:
    assert shrinkd("version").stdout.strip() == __version__


def test_the_schema_can_be_brought_up_to_date_before_the_daemon_is(
    sound: dict[str, str], tmp_path: Path
) -> None:
    ended = shrinkd("db", "upgrade", **sound)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    with closing(sqlite3.connect(tmp_path / "daemon.db")) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("0006",)]


def test_a_daemon_that_was_started_by_its_command_answers_and_ends_with_0(tmp_path: Path) -> None:
    with closing(Daemon(tmp_path)) as daemon:
        assert daemon.client.get("/readyz").status_code == 200
        assert daemon.stop() == 0


def test_a_command_that_is_none_is_refused() -> None:
    ended = shrinkd("reboot")
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)


@pytest.mark.long
def test_a_second_daemon_gets_neither_the_database_nor_the_socket_of_the_first(
    daemon: Start, sound: dict[str, str], tmp_path: Path
) -> None:
    first = daemon()
    elsewhere = {"listen": f"unix:{tmp_path}/other.sock"}
    assert_refused(shrinkd("serve", **sound | elsewhere), 2, "Another shrinkd has this database")
    another = {"database_url": f"sqlite:///{tmp_path}/other.db"}
    assert_refused(shrinkd("serve", **sound | another), 2, "Somebody answers on")
    assert first.client.get("/readyz").status_code == 200
    assert stat.S_IMODE(first.socket.stat().st_mode) == 0o660
    assert first.stop(signal.SIGINT) == 0
    assert not first.socket.exists()


def stream_to_its_end(
    client: httpx.Client, shrink: dict[str, Any], begun: threading.Event
) -> list[str]:
    with client.stream("GET", shrink["links"]["events"]) as answer:
        lines = []
        for line in answer.iter_lines():
            lines.append(line)
            begun.set()
        return lines


def test_a_stop_ends_streams_and_waits_parks_what_runs_and_the_next_start_knows_it(
    daemon: Start,
) -> None:
    first = daemon(max_running_shrinks="1")
    run, waits = running(first.client), start(first.client, "db", target_bytes="1G")
    heard: dict[str, Any] = {}
    begun = threading.Event()
    clients = [first.another_client() for _ in range(3)]
    threads = [
        threading.Thread(
            target=lambda: heard.update(stream=stream_to_its_end(clients[0], run, begun))
        ),
        threading.Thread(
            target=lambda: heard.update(
                get=clients[1].get(run["links"]["self"], headers={"Prefer": "wait=60"})
            )
        ),
        threading.Thread(
            target=lambda: heard.update(
                post=clients[2].post(
                    "/v1/groups/cache/shrinks", json=ENDLESS, headers={"Prefer": "wait=60"}
                )
            )
        ),
    ]
    for thread in threads:
        thread.start()
    begun.wait()
    while len(first.client.get("/v1/shrinks").json()["items"]) < 3:
        time.sleep(0.01)
    assert first.stop() == 0
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    assert "event: state" in heard["stream"]
    assert (heard["get"].status_code, heard["get"].json()["state"]) == (200, "running")
    assert (heard["post"].status_code, heard["post"].json()["state"]) == (202, "queued")
    again = daemon()
    ends = {
        again.client.get(path).json()["state"]
        for path in (
            run["links"]["self"],
            waits["links"]["self"],
            heard["post"].headers["location"],
        )
    }
    assert ends == {"interrupted"}


@pytest.mark.long
def test_a_stop_ends_two_hundred_streams_also_those_that_nobody_reads(daemon: Start) -> None:
    stopped = daemon()
    client = stopped.client
    paths = (
        "/v1/events?type=shrink.state",
        "/v1/groups/web/stats/stream?interval_seconds=0.2",
        f"{running(client)['links']['self']}/events",
    )
    followers = [Follower(stopped, path).begun() for path in paths * 66]
    stalled = [Follower(stopped, "/v1/events?after=0").begun() for _ in range(2)]
    reader = threading.Thread(target=read_all, args=(followers, None))
    reader.start()
    long = "db/" + "x" * 250
    client.post("/v1/groups", json={"path": long})
    for size in range(900):  # more than the buffers of a socket hold that nobody reads
        client.patch(
            f"/v1/groups/{long}/limits", json={"max_bytes": 2**40 + size * 4096}
        ).raise_for_status()
    assert stopped.stop() == 0
    reader.join()
    assert [follower for follower in followers if "closing" not in follower.names] == []
    log = stopped.log.read_text()
    assert ("timeout graceful shutdown exceeded" in log, "Traceback" in log) == (False, False)
    for follower in (*followers, *stalled):
        follower.close()


@pytest.mark.long
def test_an_idle_server_wakes_up_for_the_date_alone(daemon: Start) -> None:
    started = daemon()
    status = Path(f"/proc/{started.pid}/task/{started.pid}/status")

    def told() -> tuple[str, int]:
        slept = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.MULTILINE)
        assert slept
        return started.client.get("/livez").headers["date"], int(slept[1])

    date, before = told()
    time.sleep(3)
    later, after = told()
    assert (later != date, after - before < 15) == (
        True,
        True,
    )  # thirty of a loop that asks each 0.1 s whether it is to end


def test_a_terminal_that_closes_ends_no_daemon(daemon: Start) -> None:
    started = daemon()
    os.kill(started.pid, signal.SIGHUP)
    assert started.client.get("/livez").status_code == 200
    assert started.stop() == 0


def test_after_a_kill_in_the_middle_of_a_shrink_the_next_start_says_interrupted_before_it_answers(
    daemon: Start,
) -> None:
    first = daemon()
    shrink = running(first.client, **ENDLESS, set_max_bytes="200M")
    first.kill()
    assert first.socket.exists()
    second = daemon()
    body = second.client.get(shrink["links"]["self"]).json()
    assert (body["state"], body["done"], body["error"]["type"]) == (
        "interrupted",
        True,
        "/problems/shrink-interrupted",
    )
    assert body["finished_at"] >= body["started_at"]
    assert second.client.get("/v1/groups/web/limits").json()["max_bytes"] is None
    assert (
        second.client.get(
            "/v1/shrinks", params={"state": ["queued", "running", "cancelling"]}
        ).json()["items"]
        == []
    )
    problem(second.client.post(shrink["links"]["cancel"]), 409, "shrink-finished")
    assert (
        finished(second.client, start(second.client, "web", target_bytes="300M"))["state"]
        == "succeeded"
    )


def resident(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def flood(size: int) -> Iterator[bytes]:
    for _ in range(size // MIB):
        yield bytes(MIB)


@pytest.mark.parametrize(
    "length", [{}, {"Content-Length": str(200 * MIB)}], ids=["chunked", "announced"]
)
@pytest.mark.parametrize(
    ("request_line", "status", "slug"),
    [
        ("PATCH /v1/groups/web/limits", 413, "body-too-large"),
        ("POST /v1/groups/web/shrinks", 413, "body-too-large"),
        ("POST /v1/shrinks/none/cancel", 404, "shrink-not-found"),
        ("POST /nowhere", 404, "not-found"),
    ],
)
def test_a_body_of_200_mb_is_refused_and_never_held(
    flooded: Daemon, request_line: str, status: int, slug: str, length: dict[str, str]
) -> None:
    before = resident(flooded.pid)
    with flooded.another_client() as client:
        answer = client.request(
            *request_line.split(),
            content=flood(200 * MIB),
            headers={"Content-Type": "application/json"} | length,
        )
        problem(answer, status, slug)
        assert client.get("/livez").status_code == 200
    assert resident(flooded.pid) - before < 8 * MIB


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with closing(Daemon(tmp_path_factory.mktemp("flooded"))) as daemon:
        yield daemon


def test_a_full_disk_is_a_clear_problem_and_what_was_asked_for_is_not_half_done(
    daemon: Start,
) -> None:
    it = daemon()
    shrink = running(it.client)
    before = it.client.get("/v1/groups").json()
    _, hard = resource.prlimit(it.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(it.pid, resource.RLIMIT_FSIZE, (0, hard))
    for path, body in [
        ("/v1/groups", {"path": "new"}),
        ("/v1/groups/db/shrinks", {"target_bytes": "1G"}),
        (shrink["links"]["cancel"], {}),
    ]:
        answer = it.client.post(path, json=body)
        problem(answer, 503, "store-unavailable")
        assert answer.headers["retry-after"] == "1"
    problem(it.client.get("/v1/groups/new"), 404, "group-not-found")
    assert it.client.get("/v1/groups").json().keys() == before.keys()
    assert it.client.get(shrink["links"]["self"]).json()["state"] == "running"
    resource.prlimit(it.pid, resource.RLIMIT_FSIZE, (hard, hard))
    it.client.post(shrink["links"]["cancel"]).raise_for_status()
    assert finished(it.client, shrink)["state"] == "cancelled"
    assert it.client.post("/v1/groups", json={"path": "new"}).status_code == 201


def test_a_daemon_keeps_its_shrinks_in_postgresql_as_well(postgres: Postgres) -> None:
    settings = Settings(backend="simulator", database_url=postgres.emptied())
    with Live(settings) as live:
        assert live.client.get("/readyz").status_code == 200
        done = finished(live.client, start(live.client, "web", target_bytes="300M"))
        parked = running(live.client, "web", **ENDLESS)
        problem(live.client.get("/v1/shrinks/%00"), 404, "shrink-not-found")
    with Live(settings) as live:
        assert live.client.get(done["links"]["self"]).json() == done
        assert live.client.get(parked["links"]["self"]).json()["state"] == "interrupted"
        assert [
            item["id"]
            for item in live.client.get("/v1/shrinks", params={"group": "web"}).json()["items"]
        ] == [
            parked["id"],
            done["id"],
        ]


def test_a_simulation_runs_from_the_command_line_to_its_report() -> None:
    ended = shrinkd("simulate", says=json.dumps({"scenario": "spikes", "duration_seconds": 20}))
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert (ended.returncode, ended.stderr, told[0]) == (0, "", {"done_ratio": 0.0})
    assert (told[-1]["done_ratio"], told[-1]["report"]["seconds"]) == (1.0, 20.0)


@pytest.mark.parametrize("plan", ["", "{", '{"scenario": "nowhere"}'])
def test_a_plan_that_cannot_be_read_is_refused_on_the_command_line(plan: str) -> None:
    assert_refused(shrinkd("simulate", says=plan), 2, "The plan cannot be read")
