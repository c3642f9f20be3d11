"""`Prefer: return=minimal` (RFC 7240); `wait` is tested with the shrinks."""

from itertools import count
from typing import Any

import httpx
import pytest

from tests.api.conftest import Still
from tests.support.problem_checks import problem

MINIMAL = {"Prefer": "return=minimal"}
ROOM = {"kind": "watermark", "selector": {"group": "db"}, "spec": {"high": "90%", "low": "85%"}}
numbers = count(1)
IDLE: dict[str, Any] = {"memory": []}


CHANGES: list[tuple[str, str, Any, int]] = [
    ("PATCH", "/v1/groups/web/limits", {"soft_limit_bytes": "1G"}, 204),
    ("POST", "/v1/groups", {"path": "terse"}, 201),
    ("POST", "/v1/groups/terse/shrinks", {"target_bytes": "8G"}, 202),
    ("PUT", "/v1/policies/terse", ROOM, 201),
    ("PUT", "/v1/policies/terse", ROOM | {"mode": "observe"}, 204),
    ("DELETE", "/v1/policies/terse", None, 204),
    ("POST", "/v1/policies", ROOM | {"name": "terse"}, 201),
    ("PUT", "/v1/simulator/groups/batch/workload", IDLE, 204),
    ("POST", "/v1/simulator/clock", {"speed": 0}, 204),
    ("POST", "/v1/simulator/faults", {"verb": "remove", "use": 1000, "error": "EBUSY"}, 204),
    ("DELETE", "/v1/simulator/faults", None, 204),
    ("DELETE", "/v1/policies/terse", None, 204),
]


def test_a_change_that_works_is_answered_without_a_body(client: httpx.Client) -> None:
    for method, path, body, status in CHANGES:
        answer = client.request(method, path, json=body, headers=MINIMAL)
        assert (answer.status_code, answer.content, "content-type" in answer.headers) == (
            status,
            b"",
            False,
        ), path
        assert answer.headers.get("preference-applied") == (
            None if method == "DELETE" else "return=minimal"
        ), path


def test_the_headers_stay(still: Still) -> None:
    made = still.client.post("/v1/groups", json={"path": "headed"}, headers=MINIMAL)
    assert still.client.get(made.headers["location"]).headers["etag"] == made.headers["etag"]
    changed = still.client.patch(
        "/v1/groups/headed/limits", json={"max_bytes": "1G"}, headers=MINIMAL
    )
    assert still.client.get("/v1/groups/headed/limits").headers["etag"] == changed.headers["etag"]
    shrink = still.client.post(
        "/v1/groups/headed/shrinks", json={"target_bytes": "8G"}, headers=MINIMAL
    )
    assert (
        shrink.headers["retry-after"],
        still.client.get(shrink.headers["location"]).status_code,
    ) == ("1", 200)


@pytest.mark.parametrize(
    ("headers", "applied"),
    [
        (["return=minimal, wait=5"], "wait=5, return=minimal"),
        (["wait=5", "return=minimal"], "wait=5, return=minimal"),
        (["respond-async, Return=Minimal; x=y"], "return=minimal"),
        (['return="minimal"'], "return=minimal"),
        (["return=representation"], None),
        (["return=representation, return=minimal"], None),
        (["return"], None),
        (["return-minimal"], None),
        (["wait=5"], "wait=5"),
        (["x" * 8000 + " " * 8000 + "!", "return=minimal"], "return=minimal"),
    ],
)
def test_several_preferences_are_each_read(
    still: Still, headers: list[str], applied: str | None
) -> None:
    lines = [("Prefer", line) for line in headers]
    group = still.stage.group(f"group-{next(numbers)}").path
    answer = still.client.post(
        f"/v1/groups/{group}/shrinks", json={"target_bytes": "8G"}, headers=lines
    )
    assert answer.headers.get("preference-applied") == applied
    assert (answer.content == b"") == ("minimal" in (applied or ""))


def test_a_problem_a_trial_a_batch_and_a_question_keep_their_bodies(client: httpx.Client) -> None:
    problem(client.post("/v1/groups", json={"path": "web"}, headers=MINIMAL), 409, "group-exists")
    answers = [
        client.patch("/v1/groups/web/limits?dry_run=true", json={}, headers=MINIMAL),
        client.post(
            "/v1/limits/batch", json={"items": [{"group": "web", "patch": {}}]}, headers=MINIMAL
        ),
        client.get("/v1/groups/web", headers=MINIMAL),
    ]
    client.post("/v1/policies", json=ROOM | {"name": "asked"}, headers=MINIMAL).raise_for_status()
    answers.append(client.post("/v1/policies/asked/evaluate", headers=MINIMAL))
    assert [
        (answer.json() != {}, answer.headers.get("preference-applied")) for answer in answers
    ] == [(True, None)] * 4


def test_a_parameter_that_says_that_it_is_no_trial_makes_none(client: httpx.Client) -> None:
    answer = client.patch("/v1/groups/web/limits?dry_run=false", json={}, headers=MINIMAL)
    assert (answer.status_code, answer.content) == (204, b"")


def test_what_is_kept_under_a_key_is_the_whole_answer(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "terse"}
    first = client.post("/v1/groups", json={"path": "kept"}, headers=key | MINIMAL)
    again = client.post("/v1/groups", json={"path": "kept"}, headers=key)
    assert (first.content, first.status_code, again.status_code, again.json()["path"]) == (
        b"",
        201,
        201,
        "kept",
    )
    assert "preference-applied" not in again.headers
