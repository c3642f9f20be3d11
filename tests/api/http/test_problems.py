"""Problems: an error in any layer is an RFC 9457 document with the request's id."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from shrinkd import errors
from shrinkd.api.http import problems
from shrinkd.api.http.problem_types import BY_SLUG, PROBLEMS, problem_of
from shrinkd.errors import ShrinkdError
from tests.api.conftest import Still
from tests.support.live_server import Live
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import Method


def classes(kind: type[ShrinkdError] = ShrinkdError) -> Iterator[type[ShrinkdError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from classes(below)


@pytest.mark.parametrize("kind", [kind for kind in classes() if kind is not errors.Interrupted])
def test_every_error_has_a_problem_of_its_own_and_not_that_of_a_class_above(
    kind: type[ShrinkdError],
) -> None:
    assert kind in PROBLEMS


@pytest.mark.parametrize("kind", list(classes()))
def test_every_error_has_a_status_that_says_it_failed(kind: type[ShrinkdError]) -> None:
    assert 400 <= problem_of(kind("Something.")).status < 600


def test_an_error_that_is_new_takes_the_problem_of_the_class_above() -> None:
    class NewKindOfBusy(errors.GroupBusy):
        pass

    assert problem_of(NewKindOfBusy("Busy.")).slug == "group-busy"


@pytest.mark.parametrize("slug", sorted(BY_SLUG))
def test_every_problem_has_a_page_that_explains_it(client: httpx.Client, slug: str) -> None:
    page = client.get(f"/problems/{slug}")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert slug in page.text


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/v1", 404, "not-found"),
        ("GET", "/v1/groups/no/such", 404, "group-not-found"),
        ("GET", "/v1/shrinks/none", 404, "shrink-not-found"),
        ("GET", "/v1/shrinks/none/events", 404, "shrink-not-found"),
        ("GET", "/v1/policies/none", 404, "policy-not-found"),
        ("GET", "/problems/none", 404, "problem-not-found"),
        ("GET", "/ui/nothing.js", 404, "not-found"),
        ("GET", "/ui/../app/main.py", 404, "not-found"),
        ("GET", "/ui/%2e%2e/main.py", 404, "not-found"),
        ("GET", "/livez/", 404, "not-found"),
        ("DELETE", "/livez", 405, "method-not-allowed"),
        ("POST", "/ui/init.js", 405, "method-not-allowed"),
        ("GET", "/v1/groups?unknown=1", 422, "invalid-request"),
        ("GET", "/v1/groups?page_size=0", 422, "invalid-request"),
        ("GET", "/v1/groups/web%00", 422, "invalid-group-name"),
    ],
)
def test_what_cannot_be_answered_is_a_problem(
    client: httpx.Client, method: Method, path: str, status: int, slug: str
) -> None:
    problem(client.request(method, path), status, slug)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/livez", "GET, HEAD"),
        ("/v1/groups", "GET, HEAD, POST"),
        ("/v1/groups/web", "DELETE, GET, HEAD"),
        ("/v1/groups/web/limits", "GET, HEAD, PATCH"),
        ("/v1/groups/web/shrinks", "GET, HEAD, POST"),
        ("/v1/groups/web/processes", "POST"),
        ("/v1/shrinks/some/cancel", "POST"),
        ("/v1/policies", "GET, HEAD, POST"),
        ("/v1/policies/some/evaluate", "POST"),
        ("/v1/groups/web/policies", "GET, HEAD"),
        ("/v1/groups/web/decisions", "GET, HEAD"),
        ("/ui/init.js", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "TRACE"])
def test_a_method_that_is_not_allowed_is_told_all_that_are(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == allowed


def test_removing_a_sub_resource_is_not_removing_a_group(client: httpx.Client) -> None:
    problem(client.delete("/v1/groups/web/limits"), 405, "method-not-allowed")


@pytest.fixture
def faulty(server: Live) -> Live:
    async def fault() -> None:
        raise ZeroDivisionError("a secret")

    server.app.add_api_route("/fault", fault)
    return server


def test_a_fault_of_ours_is_a_problem_that_tells_nothing_of_the_inside(faulty: Live) -> None:
    answer = faulty.client.get("/fault", headers={"Request-Id": "mine-1"})
    assert problem(answer, 500, "internal-error")["instance"] == "mine-1"
    assert "secret" not in answer.text


def test_a_fault_spoils_nothing_for_the_next_request(faulty: Live) -> None:
    assert [
        faulty.client.get(path).status_code for path in ("/fault", "/livez", "/fault", "/livez")
    ] == [500, 200, 500, 200]


def test_a_fault_answers_head_without_a_body(faulty: Live) -> None:
    answer = faulty.client.head("/fault")
    assert (answer.status_code, answer.content) == (500, b"")
    assert faulty.client.get("/livez").status_code == 200


def raw(still: Still, request: bytes) -> httpx.Response:
    """Send raw bytes that no client library would send; return the answer of the server."""
    host, port = still.live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(request)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return httpx.Response(
        int(status.split()[1]), headers=dict(line.split(": ", 1) for line in lines), content=body
    )


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"what is this\r\n\r\n",
        b"BREW /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nBroken\x00: 1\r\n\r\n",
        b"POST /v1/groups HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        (
            b"POST /v1/groups HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: "
            b"2\r\n\r\n"
        ),
        (
            b"POST /v1/groups HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        ),
    ],
)
def test_bytes_that_are_no_request_are_a_problem_too(still: Still, request_bytes: bytes) -> None:
    problem(raw(still, request_bytes), 400, "bad-request")


@pytest.mark.parametrize("header", [b"X-Long: " + b"x" * 70_000, b"X-Many: 1\r\n" * 7_000])
def test_a_header_without_end_is_a_problem_and_not_read_to_its_end(
    still: Still, header: bytes
) -> None:
    problem(
        raw(still, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + header), 431, "header-too-large"
    )


def test_a_head_of_ordinary_size_is_read_however_it_is_cut(still: Still) -> None:
    head = (
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Long: " + b"x" * 60_000
    )
    assert raw(still, head + b"\r\n\r\n").status_code == 200


def test_an_upgrade_that_is_not_offered_is_answered_as_if_it_had_not_been_asked_for(
    still: Still,
) -> None:
    head = (
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: "
        b"websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    )
    assert raw(still, head).status_code == 200


def test_an_error_that_the_store_kept_is_the_problem_that_it_was() -> None:
    row = {
        "kind": "ShrinkStalled",
        "detail": "Stuck.",
        "members": {"group": {"path": "web", "id": 7}, "usage_bytes": 1},
    }
    document = problems.restored(json.loads(json.dumps(row)))
    assert document is not None
    assert (document["type"], document["group"], document["usage_bytes"]) == (
        "/problems/shrink-stalled",
        {"id": "7", "path": "web"},
        1,
    )


def test_an_error_of_a_kind_that_is_no_more_is_still_a_problem() -> None:
    document = problems.restored(
        {"kind": "OfAnOlderRelease", "detail": "Something.", "members": {}}
    )
    assert document is not None
    assert (document["type"], document["detail"]) == ("/problems/internal-error", "Something.")
