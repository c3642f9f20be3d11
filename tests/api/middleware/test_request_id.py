"""Outermost middleware: request id of every response, and HEAD for every GET."""

import re

import httpx
import pytest

from tests.api.conftest import Still

OURS = re.compile("[0-9a-f]{8}-[0-9a-f]+")
READABLE = [
    "/livez",
    "/readyz",
    "/version",
    "/v1/node",
    "/v1/groups",
    "/v1/groups/web",
    "/v1/groups/web/limits",
    "/v1/groups/web/stats",
]
READABLE += [
    "/v1/stats",
    "/v1/shrinks",
    "/v1/groups/web/shrinks",
    "/docs",
    "/openapi.json",
    "/problems",
    "/problems/not-found",
    "/ui/init.js",
]


@pytest.mark.parametrize("path", [*READABLE, "/nowhere"])
def test_every_answer_has_a_request_id(client: httpx.Client, path: str) -> None:
    assert OURS.fullmatch(client.get(path).headers["request-id"])


def test_no_two_requests_share_an_id(client: httpx.Client) -> None:
    ids = [client.get("/livez").headers["request-id"] for _ in range(20)]
    assert len(set(ids)) == len(ids)


def test_a_harmless_id_of_the_client_is_kept(client: httpx.Client) -> None:
    assert (
        client.get("/livez", headers={"Request-Id": "trace-4711.a_b"}).headers["request-id"]
        == "trace-4711.a_b"
    )


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a,b", '"a"', "caf\xe9", "<script>"])
def test_an_id_that_could_harm_a_log_or_a_page_is_replaced(
    client: httpx.Client, given: str
) -> None:
    answer = client.get("/livez", headers=[(b"Request-Id", given.encode("latin-1"))])
    assert OURS.fullmatch(answer.headers["request-id"])


@pytest.mark.parametrize("path", READABLE)
def test_head_answers_as_get_does_and_without_a_body(client: httpx.Client, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert {name for name in head.headers if name != "date"} == {
        name for name in get.headers if name != "date"
    }
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers.get("etag") == get.headers.get("etag")


def test_head_leaves_its_connection_usable(still: Still) -> None:
    with httpx.Client(base_url=still.live.url, limits=httpx.Limits(max_connections=1)) as client:
        connections = {
            client.head(path).extensions["network_stream"].get_extra_info("client_addr")
            for path in READABLE
        }
    assert len(connections) == 1


@pytest.mark.parametrize("path", ["/nowhere", "/v1/groups/no", "/v1/groups?page_size=no"])
def test_head_of_what_goes_wrong_has_the_status_and_no_body(
    client: httpx.Client, path: str
) -> None:
    head = client.head(path)
    assert (head.status_code, head.content) == (client.get(path).status_code, b"")
    assert head.headers["content-type"] == "application/problem+json"


def test_no_answer_tells_what_serves_it(client: httpx.Client) -> None:
    assert "server" not in client.get("/livez").headers
