"""Simulations over HTTP: create, follow, cancel, and refuse an invalid plan."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.simulation.test_jobs import ENDLESS
from tests.simulation.test_run import ROOM, SPIKES
from tests.support.problem_checks import problem

HERE = "/v1/simulations"
SHORT = SPIKES | {"duration_seconds": 20}
_POLL_SECONDS = 0.01
_POLLS = 6000


@pytest.fixture
def started_paths(client: httpx.Client) -> Iterator[list[str]]:
    """Return a list for the paths of simulations, which are cancelled after the test."""
    started_paths: list[str] = []
    yield started_paths
    for path in started_paths:
        client.post(f"{path}/cancel").raise_for_status()


def start_simulation(
    client: httpx.Client, started_paths: list[str], plan: dict[str, Any]
) -> dict[str, Any]:
    answer = client.post(HERE, json=plan)
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    started_paths.append(answer.headers["location"])
    return body


def wait_for_end(client: httpx.Client, path: str) -> dict[str, Any]:
    for _ in range(_POLLS):
        body: dict[str, Any] = client.get(path).json()
        if body["done"]:
            return body
        time.sleep(_POLL_SECONDS)
    raise AssertionError(body)


def test_a_simulation_is_begun_and_its_report_is_there_when_it_is_done(
    client: httpx.Client, started_paths: list[str]
) -> None:
    body = start_simulation(client, started_paths, SHORT)
    assert (body["done"], body["report"], body["dry_run"]) == (False, None, False)
    assert body["links"] == {"self": started_paths[0], "cancel": f"{started_paths[0]}/cancel"}
    done = wait_for_end(client, started_paths[0])
    assert (done["state"], done["done_ratio"], done["error"]) == ("succeeded", 1, None)
    assert done["plan"]["policies"][0]["name"] == "room"
    assert {"writer", "leak"} <= {group["path"] for group in done["report"]["groups"]}
    assert done["report"]["decisions"]["room"]["hold"] > 0
    read = client.get(started_paths[0]).headers
    tag = read["etag"]
    assert "retry-after" not in read
    assert client.get(started_paths[0], headers={"If-None-Match": tag}).status_code == 304


def test_a_simulation_can_be_cancelled_and_the_list_has_it(
    client: httpx.Client, started_paths: list[str]
) -> None:
    body = start_simulation(client, started_paths, ENDLESS)
    assert client.get(started_paths[0]).headers["retry-after"] == "1"
    assert not client.post(body["links"]["cancel"], params={"dry_run": True}).json()["done"]
    assert client.post(body["links"]["cancel"]).json()["state"] == "cancelled"
    assert client.post(body["links"]["cancel"]).json()["state"] == "cancelled"
    listed = client.get(HERE).json()["items"]
    assert (listed[0]["id"], listed[0]["state"], listed[0]["report"]) == (
        body["id"],
        "cancelled",
        None,
    )


def test_a_trial_begins_nothing(client: httpx.Client) -> None:
    before = client.get(HERE).json()
    answer = client.post(HERE, params={"dry_run": True}, json=ENDLESS)
    assert (answer.status_code, answer.json()["dry_run"], "location" in answer.headers) == (
        202,
        True,
        False,
    )
    assert client.get(HERE).json() == before
    problem(client.get(answer.json()["links"]["self"]), 404, "simulation-not-found")


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"scenario": "nowhere"}, "#/scenario"),
        ({"scenario": {"groups": [{"path": "../etc"}]}}, "#/scenario"),
        ({"policies": [ROOM | {"kind": "magic"}]}, "#/policies/0"),
        ({"policies": [ROOM | {"spec": {"high": "80%", "low": "85%"}}]}, "#/policies/0"),
        ({"duration_seconds": -1}, "#/duration_seconds"),
        ({"speed": 2}, "#/speed"),
    ],
)
def test_what_is_wrong_with_a_plan_is_pointed_at(
    client: httpx.Client, wrong: dict[str, Any], pointer: str
) -> None:
    body = problem(client.post(HERE, json=SHORT | wrong), 422, "invalid-request")
    assert any(error["pointer"].startswith(pointer) for error in body["errors"]), body["errors"]


def test_who_has_half_of_the_room_is_refused_the_next(
    client: httpx.Client, started_paths: list[str]
) -> None:
    for _ in range(9):
        start_simulation(client, started_paths, ENDLESS)
    answer = client.post(HERE, json=SHORT)
    assert problem(answer, 429, "too-many-simulations")["active"] == 9
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_one_that_is_not_there_is_not_found(client: httpx.Client, method: str) -> None:
    problem(
        client.request(method, f"{HERE}/none" + "/cancel" * (method == "POST")),
        404,
        "simulation-not-found",
    )
