"""Conditional requests: strong ETags, 304 for a known state, 412 for a changed one."""

import re
from typing import Any

import httpx
import pytest

from tests.api.conftest import Still
from tests.support.polling import until
from tests.support.problem_checks import problem

TAGGED = ["/v1/node", "/v1/groups/web", "/v1/groups/web/limits", "/v1/groups/web/stats"]
ROOM = {"kind": "watermark", "selector": {"group": "db"}, "spec": {"high": "90%", "low": "85%"}}
OTHER = '"0123456789abcdef01234567"'


@pytest.mark.parametrize("path", TAGGED)
def test_a_resource_has_a_strong_etag_that_stays_while_it_does(
    client: httpx.Client, path: str
) -> None:
    etags = {client.get(path).headers["etag"] for _ in range(3)}
    assert len(etags) == 1
    assert re.fullmatch('"[0-9a-f]{24}"', etags.pop())


@pytest.mark.parametrize("path", TAGGED)
@pytest.mark.parametrize(
    "known", ["{}", "W/{}", f"{OTHER}, {{}}", f"{{}},{OTHER}", f'W/{OTHER} ,W/{{}}, "a,b"', "*"]
)
def test_what_the_client_has_is_not_sent_again(client: httpx.Client, path: str, known: str) -> None:
    etag = client.get(path).headers["etag"]
    answer = client.get(path, headers={"If-None-Match": known.format(etag)})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert "content-type" not in answer.headers


def test_a_header_that_is_sent_twice_is_one_list(client: httpx.Client) -> None:
    etag = client.get("/v1/groups/web").headers["etag"]
    assert (
        client.get(
            "/v1/groups/web", headers=[("If-None-Match", OTHER), ("If-None-Match", etag)]
        ).status_code
        == 304
    )


@pytest.mark.parametrize("path", TAGGED)
@pytest.mark.parametrize("known", [OTHER, f"W/{OTHER}", "", "nonsense", "**"])
def test_what_the_client_does_not_have_is_sent(client: httpx.Client, path: str, known: str) -> None:
    assert client.get(path, headers={"If-None-Match": known}).status_code == 200


def test_head_knows_conditions_too(client: httpx.Client) -> None:
    etag = client.head("/v1/groups/web").headers["etag"]
    assert client.head("/v1/groups/web", headers={"If-None-Match": etag}).status_code == 304


def test_two_groups_share_no_etag(client: httpx.Client) -> None:
    assert (
        client.get("/v1/groups/web").headers["etag"] != client.get("/v1/groups/db").headers["etag"]
    )


@pytest.mark.parametrize("path", TAGGED)
def test_a_get_with_an_if_match_that_fails_is_412(client: httpx.Client, path: str) -> None:
    assert (
        problem(client.get(path, headers={"If-Match": OTHER}), 412, "precondition-failed")["etag"]
        == client.get(path).headers["etag"]
    )


HOLDS = [
    {"If-Match": "{}"},
    {"If-Match": f"{OTHER}, {{}}"},
    {"If-Match": "*"},
    {"If-None-Match": OTHER},
    {"If-None-Match": "W/" + OTHER},
]
FAILS = [
    {"If-Match": OTHER},
    {"If-Match": "W/{}"},
    {"If-Match": ""},
    {"If-Match": f'{OTHER}, "x"'},
    {"If-None-Match": "*"},
    {"If-None-Match": "{}"},
    {"If-None-Match": f"{OTHER}, W/{{}}"},
    {"If-Match": "{}", "If-None-Match": "*"},
]


def filled(condition: dict[str, str], etag: str) -> dict[str, str]:
    return {name: value.format(etag) for name, value in condition.items()}


@pytest.mark.parametrize("condition", HOLDS)
def test_a_change_whose_condition_holds_is_made(still: Still, condition: dict[str, str]) -> None:
    etag = still.client.get("/v1/groups/web/limits").headers["etag"]
    answer = still.client.patch(
        "/v1/groups/web/limits", json={"max_bytes": "1G"}, headers=filled(condition, etag)
    )
    assert (answer.status_code, answer.json()["max_bytes"]) == (200, 2**30)
    still.client.patch("/v1/groups/web/limits", json={"max_bytes": None}).raise_for_status()


@pytest.mark.parametrize("condition", FAILS)
def test_a_change_whose_condition_fails_is_412_and_not_made(
    still: Still, condition: dict[str, str]
) -> None:
    before, etag = (
        still.stage.everything(),
        still.client.get("/v1/groups/web/limits").headers["etag"],
    )
    answer = still.client.patch(
        "/v1/groups/web/limits", json={"max_bytes": "1G"}, headers=filled(condition, etag)
    )
    assert problem(answer, 412, "precondition-failed")["etag"] == etag
    assert still.stage.everything() == before


@pytest.mark.parametrize("condition", FAILS)
def test_a_removal_whose_condition_fails_is_412_and_not_made(
    still: Still, condition: dict[str, str]
) -> None:
    made = still.client.post("/v1/groups", json={"path": "kept"})
    answer = still.client.delete("/v1/groups/kept", headers=filled(condition, made.headers["etag"]))
    problem(answer, 412, "precondition-failed")
    assert (
        still.client.delete(
            "/v1/groups/kept", headers={"If-Match": made.headers["etag"]}
        ).status_code
        == 204
    )


def test_the_etag_of_a_change_is_the_one_of_the_next_read(still: Still) -> None:
    changed = still.client.patch("/v1/groups/web/limits", json={"soft_limit_bytes": "1G"}).headers[
        "etag"
    ]
    assert still.client.get("/v1/groups/web/limits").headers["etag"] == changed
    still.client.patch(
        "/v1/groups/web/limits", json={"soft_limit_bytes": None}, headers={"If-Match": changed}
    ).raise_for_status()


def test_a_condition_is_looked_at_in_a_dry_run_too(client: httpx.Client) -> None:
    answer = client.patch(
        "/v1/groups/web/limits?dry_run=true", json={"max_bytes": "1G"}, headers={"If-Match": OTHER}
    )
    problem(answer, 412, "precondition-failed")


CONDITIONAL: list[tuple[str, str, Any]] = [
    ("PUT", "/v1/policies/tagged", ROOM | {"mode": "observe"}),
    ("DELETE", "/v1/policies/tagged", None),
    ("PUT", "/v1/simulator/groups/db/workload", {"memory": []}),
    ("DELETE", "/v1/simulator/groups/db/workload", None),
    ("POST", "/v1/simulator/clock", {"speed": 0}),
    ("POST", "/v1/simulator/faults", {"verb": "remove", "use": 1000, "error": "EBUSY"}),
    ("DELETE", "/v1/simulator/faults", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CONDITIONAL)
@pytest.mark.parametrize("condition", FAILS)
def test_every_change_of_what_has_an_etag_looks_at_conditions(
    still: Still, method: str, path: str, body: Any, condition: dict[str, str]
) -> None:
    still.client.put("/v1/policies/tagged", json=ROOM).raise_for_status()
    before, answer, after = between_background_reads(still, condition, method, path, json=body)
    problem(answer, 412, "precondition-failed")
    assert after.headers["etag"] == before.headers["etag"]


@pytest.mark.parametrize(("method", "path", "body"), CONDITIONAL)
@pytest.mark.parametrize("condition", HOLDS)
def test_and_is_made_where_they_hold(
    still: Still, method: str, path: str, body: Any, condition: dict[str, str]
) -> None:
    still.client.put("/v1/policies/tagged", json=ROOM).raise_for_status()
    _, answer, _ = between_background_reads(
        still, condition, method, path, json=body, params={"dry_run": True}
    )
    assert (answer.status_code, answer.json()["dry_run"]) == (200, True)


def between_background_reads(
    still: Still, condition: dict[str, str], method: str, path: str, **request: Any
) -> tuple[httpx.Response, httpx.Response, httpx.Response]:
    """Send a request with the ETag of a read before it; answer that read, it, and one behind it.

    The faults of a simulator count its uses, those by policies and the usage history too. When
    such a use has changed the ETag meanwhile, all is done again.
    """

    def once() -> tuple[httpx.Response, httpx.Response, httpx.Response] | None:
        before = still.client.get(path)
        headers = filled(condition, before.headers["etag"])
        answer = still.client.request(method, path, headers=headers, **request)
        after = still.client.get(path)
        if after.json().get("uses") == before.json().get("uses"):
            return before, answer, after
        still.client.delete("/v1/simulator/faults").raise_for_status()
        return None

    found: tuple[httpx.Response, httpx.Response, httpx.Response] = until(once)
    return found


WITHOUT_ETAG: list[tuple[str, Any]] = [
    ("/v1/groups", {"path": "made"}),
    ("/v1/groups/web/processes", {"pid": 1}),
    ("/v1/groups/web/shrinks", {"target_bytes": "8G"}),
    ("/v1/limits/batch", {"items": [{"group": "web", "patch": {"max_bytes": "1G"}}]}),
    ("/v1/policies", ROOM | {"name": "made"}),
    ("/v1/policies/tagged/evaluate", None),
    ("/v1/simulations", {"scenario": "empty", "duration_seconds": 1}),
]


@pytest.mark.parametrize(("path", "body"), WITHOUT_ETAG)
@pytest.mark.parametrize("etag", [OTHER, "", "{}"])
def test_a_condition_on_what_has_no_etag_is_412_and_nothing_is_made(
    still: Still, path: str, body: Any, etag: str
) -> None:
    still.client.put("/v1/policies/tagged", json=ROOM).raise_for_status()
    before, mine = (
        still.stage.everything(),
        still.client.get("/v1/groups/web/limits").headers["etag"],
    )
    problem(
        still.client.post(path, json=body, headers={"If-Match": etag.format(mine)}),
        412,
        "precondition-failed",
    )
    assert still.stage.everything() == before


def test_a_condition_that_names_anything_holds_where_there_is_no_etag(still: Still) -> None:
    answer = still.client.post(
        "/v1/groups", params={"dry_run": True}, json={"path": "made"}, headers={"If-Match": "*"}
    )
    assert answer.status_code == 201
