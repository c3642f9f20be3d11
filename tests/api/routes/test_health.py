"""Liveness and readiness; ready only while the database can be written."""

import sqlite3
from pathlib import Path

import httpx

from shrinkd import __version__
from shrinkd.settings import Settings
from tests.support.live_server import Live
from tests.support.problem_checks import problem


def database(settings: Settings) -> Path:
    return Path(settings.database_url.removeprefix("sqlite:///"))


def test_it_is_alive_and_ready_and_knows_its_version(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/version").json()["version"] == __version__


def test_without_its_database_it_is_alive_and_not_ready(server: Live, settings: Settings) -> None:
    database(settings).unlink()
    answer = server.client.get("/readyz")
    assert "was removed" in problem(answer, 503, "store-unavailable")["detail"]
    assert answer.headers["retry-after"] == "1"
    assert server.client.get("/livez").status_code == 200


def test_with_another_file_in_the_place_of_its_database_it_is_not_ready(
    server: Live, settings: Settings
) -> None:
    other = database(settings).with_suffix(".other")
    sqlite3.connect(other).close()
    other.touch()
    other.replace(database(settings))
    problem(server.client.get("/readyz"), 503, "store-unavailable")


def test_with_its_tables_gone_it_is_not_ready(server: Live, settings: Settings) -> None:
    with sqlite3.connect(database(settings)) as other:
        other.execute("DROP TABLE shrinks")
    other.close()
    problem(server.client.get("/readyz"), 503, "store-unavailable")
