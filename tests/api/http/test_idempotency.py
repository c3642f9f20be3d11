"""Idempotency-Key over HTTP: a retried POST is answered again, and is executed once."""

import json
import socket
import sqlite3
from contextlib import closing
from functools import partial
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from shrinkd.api.http.strict_route import StrictRoute
from shrinkd.auth.scopes import ANYONE
from shrinkd.settings import Settings
from shrinkd.storage import Key
from tests.api.conftest import Still
from tests.support.live_server import Live
from tests.support.locked_database import locked
from tests.support.problem_checks import problem
from tests.support.races import together

ENDLESS = {"reclaim_bytes": "60M", "max_bytes_per_second": "1M"}
FAULT = {"verb": "remove", "use": 1000, "error": "EBUSY"}
numbers = count(1)


@pytest.fixture
def key() -> str:
    return f"key-{next(numbers)}"


@pytest.fixture
def group(still: Still) -> str:
    return still.stage.group(f"group-{next(numbers)}", anon=1 << 20, cache=64 << 20).path


def post(client: httpx.Client, path: str, body: Any, key: str, **headers: str) -> httpx.Response:
    return client.post(path, json=body, headers={"Idempotency-Key": key, **headers})


def planned(client: httpx.Client) -> int:
    return len(client.get("/v1/simulator/faults").json()["planned"])


def stored_keys(still: Still) -> set[str]:
    path = still.live.parts.settings.database_url.removeprefix("sqlite:///").partition("?")[0]
    with closing(sqlite3.connect(path)) as database:
        return {key for (key,) in database.execute("SELECT key FROM idempotency_keys")}


def repeated_parts(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    """Return the parts of a response that a retry repeats."""
    own = {"date", "request-id", "idempotency-replayed"}
    return (
        answer.status_code,
        answer.content,
        {name: value for name, value in answer.headers.items() if name not in own},
    )


def test_every_post_is_on_a_route_that_knows_of_keys(still: Still) -> None:
    posts = [
        route
        for route in still.live.app.routes
        if "POST" in (getattr(route, "methods", None) or ())
    ]
    assert [
        route for route in posts if not isinstance(route, StrictRoute) or not route.operation_id
    ] == []
    assert len(posts) > 10


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/groups", {"path": "made-once"}),
        ("/v1/groups", {"path": "no/such/parent"}),
        ("/v1/groups/web/shrinks", {"reclaim_bytes": 4096}),
        ("/v1/groups/nobody/shrinks", {"reclaim_bytes": 4096}),
        (
            "/v1/policies",
            {
                "name": "once",
                "kind": "watermark",
                "selector": {"group": "db"},
                "spec": {"high": "90%", "low": "85%"},
            },
        ),
        ("/v1/policies/nobody/evaluate", None),
        ("/v1/shrinks/nobody/cancel", None),
        ("/v1/simulator/faults", FAULT),
        ("/v1/simulator/clock", {"advance_seconds": 1}),
        ("/v1/limits/batch", {"items": [{"group": "db", "patch": {"soft_limit_bytes": "1G"}}]}),
        ("/v1/limits/batch", {"items": [{"group": "db", "patch": {"max_bytes": "4K"}}]}),
    ],
)
def test_a_post_that_is_sent_again_is_answered_as_before(
    still: Still, key: str, path: str, body: Any
) -> None:
    first, again = post(still.client, path, body, key), post(still.client, path, body, key)
    assert repeated_parts(again) == repeated_parts(first)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert again.headers["request-id"] != first.headers["request-id"]


def test_it_takes_effect_once(still: Still, key: str) -> None:
    before = planned(still.client)
    for _ in range(3):
        post(still.client, "/v1/simulator/faults", FAULT, key).raise_for_status()
    assert planned(still.client) == before + 1


def test_without_a_key_it_takes_effect_each_time(client: httpx.Client) -> None:
    before = planned(client)
    for _ in range(3):
        client.post("/v1/simulator/faults", json=FAULT).raise_for_status()
    assert planned(client) == before + 3


def test_of_two_at_the_same_instant_one_takes_effect_and_the_other_waits_or_repeats(
    still: Still,
) -> None:
    for _ in range(20):
        before, send = (
            planned(still.client),
            partial(post, still.client, "/v1/simulator/faults", FAULT, f"key-{next(numbers)}"),
        )
        answers: list[httpx.Response] = together(send, send)
        assert planned(still.client) == before + 1
        assert {answer.status_code for answer in answers} <= {200, 409}
        assert [
            answer.status_code for answer in answers if "idempotency-replayed" not in answer.headers
        ].count(200) == 1
        still.client.delete("/v1/simulator/faults").raise_for_status()


def test_while_the_first_one_runs_a_repetition_is_409_and_says_when(
    still: Still, group: str, key: str
) -> None:
    path = f"/v1/groups/{group}/shrinks"
    with disconnecting_client(still, path, ENDLESS, key):
        while not (found := still.client.get(path).json()["items"]):
            pass
        refused = post(still.client, path, ENDLESS, key)
        problem(refused, 409, "idempotency-key-in-use")
        assert refused.headers["retry-after"] == "1"
        problem(post(still.client, path, {"reclaim_bytes": 1}, key), 422, "idempotency-key-reused")
    still.client.post(found[0]["links"]["cancel"]).raise_for_status()


def test_who_hangs_up_finds_the_answer_all_the_same(still: Still, group: str, key: str) -> None:
    path = f"/v1/groups/{group}/shrinks"
    with disconnecting_client(still, path, ENDLESS, key):
        while not (found := still.client.get(path).json()["items"]):
            pass
    still.client.post(found[0]["links"]["cancel"]).raise_for_status()
    while (answer := post(still.client, path, ENDLESS, key)).status_code == 409:
        pass
    assert (answer.status_code, answer.json()["id"], answer.json()["state"]) == (
        200,
        found[0]["id"],
        "cancelled",
    )
    assert answer.headers["idempotency-replayed"] == "true"
    assert len(still.client.get(path).json()["items"]) == 1


def disconnecting_client(still: Still, path: str, body: Any, key: str) -> socket.socket:
    """Open a connection that has sent a request; leave the block to disconnect."""
    where, content = urlsplit(still.live.url), json.dumps(body)
    connection = socket.create_connection((where.hostname or "", where.port or 0))
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        "Prefer: wait=60",
        f"Idempotency-Key: {key}",
    ]
    connection.sendall(
        "\r\n".join([*lines, f"Content-Length: {len(content)}", "", content]).encode()
    )
    return connection


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/simulator/faults", FAULT | {"use": 999}),
        ("/v1/simulator/faults?dry_run=false", FAULT),
    ],
)
def test_another_request_under_the_key_is_422_and_does_nothing(
    still: Still, key: str, path: str, body: Any
) -> None:
    post(still.client, "/v1/simulator/faults", FAULT, key).raise_for_status()
    before = planned(still.client)
    problem(post(still.client, path, body, key), 422, "idempotency-key-reused")
    assert planned(still.client) == before


def test_another_address_of_the_same_operation_is_another_request(still: Still, key: str) -> None:
    post(still.client, "/v1/groups/web/shrinks", {"reclaim_bytes": 1}, key).raise_for_status()
    problem(
        post(still.client, "/v1/groups/db/shrinks", {"reclaim_bytes": 1}, key),
        422,
        "idempotency-key-reused",
    )


@pytest.mark.parametrize("yes", ["true", "True", "1", "on", "t", "y", "YES"])
def test_a_dry_run_leaves_its_key_to_the_request_that_it_tries_out(
    still: Still, key: str, yes: str
) -> None:
    before = planned(still.client)
    for _ in range(2):
        tried = post(still.client, f"/v1/simulator/faults?dry_run={yes}", FAULT, key)
        assert tried.json()["dry_run"] is True
        assert "idempotency-replayed" not in tried.headers
    assert stored_keys(still) & {key} == set()
    post(still.client, "/v1/simulator/faults", FAULT, key).raise_for_status()
    assert planned(still.client) == before + 1
    assert key in stored_keys(still)


@pytest.mark.parametrize("written", ["two words", "x" * 256])
def test_a_dry_run_refuses_a_key_that_would_be_refused(client: httpx.Client, written: str) -> None:
    problem(
        post(client, "/v1/simulator/faults?dry_run=true", FAULT, written), 422, "invalid-request"
    )


def test_another_operation_has_keys_of_its_own(still: Still, key: str) -> None:
    post(still.client, "/v1/simulator/faults", FAULT, key).raise_for_status()
    assert (
        "idempotency-replayed"
        not in post(still.client, "/v1/simulator/clock", {"advance_seconds": 1}, key).headers
    )


def test_blanks_and_the_order_of_names_make_no_other_request(still: Still, key: str) -> None:
    post(still.client, "/v1/simulator/faults", FAULT, key).raise_for_status()
    turned = json.dumps(dict(reversed(FAULT.items())), indent=4)
    headers = {"Idempotency-Key": key, "Content-Type": "application/json; charset=utf-8"}
    assert (
        still.client.post("/v1/simulator/faults", content=turned, headers=headers).headers[
            "idempotency-replayed"
        ]
        == "true"
    )


def test_what_was_refused_before_it_began_leaves_the_key_free(still: Still, key: str) -> None:
    for body, status in ({"nonsense": 1}, 422), (FAULT | {"use": 0}, 422), (FAULT, 200):
        answer = post(still.client, "/v1/simulator/faults", body, key)
        assert (answer.status_code, answer.headers.get("idempotency-replayed")) == (status, None)


def test_what_says_when_to_try_again_leaves_the_key_free(
    still: Still, group: str, key: str
) -> None:
    path = f"/v1/groups/{group}/shrinks"
    running = still.client.post(path, json=ENDLESS).json()
    problem(post(still.client, path, {"target_bytes": "8G"}, key), 409, "shrink-in-progress")
    still.client.post(running["links"]["cancel"]).raise_for_status()
    still.client.get(running["links"]["self"], headers={"Prefer": "wait=60"}).raise_for_status()
    assert post(still.client, path, {"target_bytes": "8G"}, key).status_code == 202


def test_what_the_kernel_failed_at_leaves_the_key_free(still: Still, key: str) -> None:
    still.client.post(
        "/v1/simulator/faults", json={"verb": "make", "error": "EIO"}
    ).raise_for_status()
    problem(post(still.client, "/v1/groups", {"path": "second-time"}, key), 500, "kernel-refused")
    assert post(still.client, "/v1/groups", {"path": "second-time"}, key).status_code == 201


def test_a_refusal_that_only_another_request_mends_is_repeated(
    still: Still, group: str, key: str
) -> None:
    path, body = "/v1/groups", {"path": f"{group}/inner", "limits": {"max_bytes": 0}}
    first = problem(post(still.client, path, body, key), 409, "limit-below-usage")
    again = post(still.client, path, body, key)
    assert (again.status_code, again.json(), again.headers["idempotency-replayed"]) == (
        409,
        first,
        "true",
    )


def test_a_database_that_is_locked_is_503_before_anything_was_done(still: Still, key: str) -> None:
    before, database = planned(still.client), still.live.parts.settings.database_url
    path = database.removeprefix("sqlite:///").partition("?")[0]
    with locked(path):
        problem(post(still.client, "/v1/simulator/faults", FAULT, key), 503, "store-unavailable")
    assert planned(still.client) == before
    assert post(still.client, "/v1/simulator/faults", FAULT, key).status_code == 200


@pytest.mark.parametrize(
    "written",
    [
        "a",
        "x" * 255,
        '"a b, c"',
        '"' + "x" * 255 + '"',
        r'"\"\\"',
        "8e03978e-40d5-43dd-bc93-6894a57f9324",
        "=?/{}~!",
    ],
)
def test_a_key_is_a_string_or_a_bare_word(client: httpx.Client, written: str) -> None:
    assert post(client, "/v1/simulator/faults?dry_run=true", FAULT, written).status_code == 200


def test_quotes_are_no_part_of_the_key(still: Still, key: str) -> None:
    post(still.client, "/v1/simulator/faults", FAULT, key).raise_for_status()
    assert (
        post(still.client, "/v1/simulator/faults", FAULT, f'"{key}"').headers[
            "idempotency-replayed"
        ]
        == "true"
    )


@pytest.mark.parametrize(
    "written",
    [
        "",
        '""',
        '"',
        'a"',
        '"a',
        "a b",
        "a,b",
        "x" * 256,
        '"' + "x" * 256 + '"',
        r'"\a"',
        '"a";p=1',
        "caf\xe9",
        "a\tb",
        '"\t"',
    ],
)
def test_a_key_that_is_none_is_422_and_nothing_is_done(still: Still, written: str) -> None:
    before = planned(still.client)
    headers = [(b"idempotency-key", written.encode("latin-1"))]
    body = problem(
        still.client.post("/v1/simulator/faults", json=FAULT, headers=headers),
        422,
        "invalid-request",
    )
    assert [error["pointer"] for error in body["errors"]] == ["header/Idempotency-Key"]
    assert planned(still.client) == before


def test_two_keys_are_none(client: httpx.Client) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    problem(
        client.post("/v1/simulator/faults", json=FAULT, headers=headers), 422, "invalid-request"
    )


@pytest.mark.parametrize("depth", [10, 500, 900, 1200, 30_000])
def test_nesting_is_refused_at_any_depth_under_a_key_too(
    client: httpx.Client, key: str, depth: int
) -> None:
    content = '{"a":' + "[" * depth + "]" * depth + "}"
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    assert client.post("/v1/simulator/faults", content=content, headers=headers).status_code in {
        400,
        422,
    }


def test_a_key_of_one_caller_is_nothing_to_another(still: Still, key: str) -> None:
    keys = still.live.parts.keys
    post(still.client, "/v1/simulator/faults", FAULT, key).raise_for_status()
    assert isinstance(keys.begin(Key("token:other", "plan_fault", key), "b", repeatable=False), str)
    assert isinstance(
        keys.begin(Key(ANYONE.name, "plan_fault", f"{key}-2"), "b", repeatable=False), str
    )


def test_the_answer_outlives_the_daemon(settings: Settings, key: str) -> None:
    with Live(settings) as live:
        first = post(live.client, "/v1/groups", {"path": "once"}, key)
    with Live(settings) as live:  # a new machine, so that to make it again would work
        again = post(live.client, "/v1/groups", {"path": "once"}, key)
        assert live.client.get("/v1/groups/once").status_code == 404
    assert (again.status_code, again.json()) == (201, first.json())
