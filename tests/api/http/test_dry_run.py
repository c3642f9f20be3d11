"""Dry runs: every operation that changes something takes ?dry_run=true.

It answers as the change would, and changes nothing.
"""

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from shrinkd.api import app as api
from shrinkd.api.http.prefer import READ_ONLY_POSTS
from tests.api.conftest import Still

CHANGES = [
    (method, path, operation)
    for path, methods in api.build().openapi()["paths"].items()
    for method, operation in methods.items()
    if method != "get" and operation["operationId"] not in READ_ONLY_POSTS
]
ROOM = {
    "name": "room",
    "kind": "watermark",
    "enabled": False,
    "selector": {"group": "db"},
    "spec": {"high": "90%", "low": "85%"},
}


@pytest.fixture(scope="module")
def path_parameters(still: Still) -> dict[str, str]:
    """Return existing values for the parameters in the addresses of operations."""
    still.client.post("/v1/groups", json={"path": "made"}).raise_for_status()
    still.client.post("/v1/policies", json=ROOM).raise_for_status()
    endless = {"target_bytes": "200M", "max_bytes_per_second": "1M"}
    shrink = still.client.post("/v1/groups/web/shrinks", json=endless).raise_for_status().json()
    plan = {
        "scenario": "heat",
        "policies": [{"name": "keep", "kind": "watermark", "selector": {"group": "*"}}],
        "duration_seconds": 60,
    }
    simulation = still.client.post("/v1/simulations", json=plan).raise_for_status().json()
    for made in shrink, simulation:
        still.client.post(made["links"]["cancel"]).raise_for_status()
        while not still.client.get(made["links"]["self"]).json()["done"]:
            pass
    return {
        "{group}": "made",
        "{name}": "room",
        "{shrink_id}": shrink["id"],
        "{simulation_id}": simulation["id"],
    }


def bodies(operation: dict[str, Any], still: Still) -> Iterator[Any]:
    """Return the example bodies of an operation, with the name of an existing process."""
    with still.stage.simulator.machine() as machine:
        pid = next(iter(machine.processes))
    examples = (
        operation.get("requestBody", {})
        .get("content", {})
        .get("application/json", {})
        .get("examples", {})
    )
    for example in examples.values():
        yield example["value"] | ({"pid": pid} if "pid" in example["value"] else {})
    if not examples:
        yield None


def everything(still: Still) -> list[Any]:
    """Return all state: the machine, its clock and faults, memory, and every row of the database.

    Without the audit, which records dry runs, too, and without events, which are written later than
    what they report.
    """
    parts, simulator = still.live.parts, still.stage.simulator
    path = parts.settings.database_url.removeprefix("sqlite:///").partition("?")[0]
    with closing(sqlite3.connect(path)) as database:
        rows = [
            line
            for line in database.iterdump()
            if not line.startswith(('INSERT INTO "audit"', 'INSERT INTO "events"'))
        ]
    kept = [
        parts.policies.all(),
        [simulation.state for simulation in parts.simulations.newest()],
        set(parts.lifecycle.made),
    ]
    resting = [
        group.path
        for group in simulator.groups()
        if parts.limits.locks.manual_age(group) < math.inf
    ]
    return [
        still.stage.everything(),
        simulator.time.now(),
        simulator.time.speed,
        simulator.faults.planned(),
        kept,
        resting,
        rows,
    ]


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    CHANGES,
    ids=lambda value: value["operationId"] if isinstance(value, dict) else "",
)
def test_an_operation_that_changes_something_can_be_tried_and_then_changes_nothing(
    still: Still, path_parameters: dict[str, str], method: str, path: str, operation: dict[str, Any]
) -> None:
    assert "dry_run" in [parameter["name"] for parameter in operation["parameters"]]
    for name, value in path_parameters.items():
        path = path.replace(name, value)
    before, tried = everything(still), list[httpx.Response]()
    for body in bodies(operation, still):
        tried.append(
            still.client.request(
                method,
                path,
                params={"dry_run": True},
                json=body,
                headers={"Prefer": "return=minimal"},
            )
        )
    assert everything(still) == before
    worked = [answer for answer in tried if answer.is_success]
    assert worked, [answer.text for answer in tried]
    assert [answer.text for answer in worked if answer.json()["dry_run"] is not True] == []
    assert [answer.headers.get("location") for answer in worked] == [None] * len(worked)
