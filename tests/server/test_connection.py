"""Check the limits of one connection: it ends by itself, has its share, and costs little."""

import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from shrinkd.settings import Settings
from tests.support.live_server import Live
from tests.support.polling import until
from tests.support.problem_checks import problem
from tests.support.raw_socket import answers, connected, received, said

HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
BODY = (
    b"POST /v1/groups HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
    b'application/json\r\nContent-Length: 20\r\n\r\n{"path'
)
SOON = 0.5
"""Time limit under test. A busy machine does the client's part within it."""


@pytest.fixture
def open_with(settings: Settings) -> Iterator[Callable[..., Live]]:
    """A function that starts servers with given limits."""
    with ExitStack() as stack:
        yield lambda **limits: stack.enter_context(Live(settings, **limits))


@pytest.fixture
def hasty(open_with: Callable[..., Live]) -> Live:
    return open_with(arrival_seconds=SOON)


@pytest.mark.parametrize("begun", [b"G", HEAD, HEAD + b"X: " + b"y" * 1000, BODY, BODY[:-6]])
def test_a_request_that_does_not_arrive_in_time_is_a_problem_and_the_end(
    hasty: Live, begun: bytes
) -> None:
    (answer,) = said(hasty, begun)
    problem(answer, 408, "request-timeout")
    assert answer.headers["connection"] == "close"


def test_a_request_that_comes_byte_by_byte_has_no_more_time(hasty: Live) -> None:
    sent = 0
    with connected(hasty) as connection:
        while not select.select([connection], [], [], SOON / 10)[0]:
            connection.sendall(HEAD[sent : sent + 1] if sent < len(HEAD) else b"X")
            sent += 1
        (answer,) = answers(received(connection))
    problem(answer, 408, "request-timeout")


def test_a_connection_that_says_nothing_is_closed_without_a_word(hasty: Live) -> None:
    assert said(hasty) == []


def test_one_that_was_whole_is_answered_before_the_next_is_given_up(hasty: Live) -> None:
    first, second = said(hasty, HEAD + b"\r\n" + HEAD)
    assert first.status_code == 200
    problem(second, 408, "request-timeout")


def test_who_is_waited_for_by_the_daemon_is_not_late(open_with: Callable[..., Live]) -> None:
    live = open_with(arrival_seconds=SOON)
    shrink = live.client.post(
        "/v1/groups/web/shrinks",
        json={"target_bytes": 0, "timeout_seconds": 60, "max_bytes_per_second": 1},
    ).json()
    request = (
        f"GET {shrink['links']['self']} HTTP/1.1\r\nHost: localhost\r\nPrefer: "
        "wait=1\r\nConnection: close\r\n\r\n"
    )
    (answer,) = said(live, request.encode())
    assert answer.status_code == 200


def test_a_body_that_is_still_coming_when_the_answer_is_out_ends_the_connection(
    hasty: Live,
) -> None:
    (answer,) = said(
        hasty,
        b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
        + b"x" * 1000,
    )
    problem(answer, 404, "not-found")


def test_whoever_takes_nothing_of_its_answer_is_dropped(open_with: Callable[..., Live]) -> None:
    live = open_with(taking_seconds=SOON)
    with connected(live, window_bytes=4096) as connection:
        connection.sendall(b"GET /ui/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10)
        text = connection.recv(1)
        until(lambda: live.connections() == 0)
        text += received(connection)
    assert len(text) < 10 * 1_732_839


def test_a_slow_reader_that_does_read_has_all_of_its_answer(open_with: Callable[..., Live]) -> None:
    live = open_with(taking_seconds=SOON)
    text = b""
    with connected(live) as connection:
        connection.sendall(
            b"GET /ui/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        while part := connection.recv(65536):
            text += part
            time.sleep(SOON / 20)
    (answer,) = answers(text)
    assert len(answer.content) == 1_732_839


def test_a_peer_has_no_more_than_half_of_all_connections_and_room_again_when_it_closes_one(
    open_with: Callable[..., Live],
) -> None:
    live = open_with(most_connections=staticmethod(lambda: 8))
    with ExitStack() as stack:
        held = [stack.enter_context(connected(live)) for _ in range(4)]
        for connection in held:
            connection.sendall(HEAD)
        (answer,) = said(live, HEAD + b"\r\n")
        problem(answer, 429, "too-many-connections")
        assert answer.headers["retry-after"] == "1"
        held[0].close()
        until(lambda: live.connections() == 3)
        assert live.client.get("/livez").status_code == 200


def test_when_all_connections_are_taken_the_next_is_told_so(open_with: Callable[..., Live]) -> None:
    (answer,) = said(open_with(most_connections=staticmethod(lambda: 0)), HEAD + b"\r\n")
    problem(answer, 503, "overloaded")
    assert answer.headers["retry-after"] == "1"


def test_behind_the_one_that_is_answered_sixteen_may_wait_and_the_others_are_not_read(
    open_with: Callable[..., Live],
) -> None:
    live = open_with()
    assert [answer.status_code for answer in said(live, (HEAD + b"\r\n") * 1000)] == [200] * 17


def test_nonsense_behind_a_request_is_not_taken_for_its_answer(
    open_with: Callable[..., Live],
) -> None:
    made = (
        b"POST /v1/groups HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
        b'application/json\r\nContent-Length: 14\r\n\r\n{"path":"made"}'
    )
    made = made.replace(b": 14", b": %d" % len(b'{"path":"made"}'))
    assert [answer.status_code for answer in said(open_with(), made + b"nonsense\r\n\r\n")] == [201]


def test_a_client_that_hangs_up_in_its_body_is_no_fault(
    open_with: Callable[..., Live], caplog: pytest.LogCaptureFixture
) -> None:
    live = open_with()
    with connected(live) as connection:
        connection.sendall(BODY)
        until(lambda: live.connections() == 1)
    until(lambda: live.connections() == 0)
    assert live.client.get("/livez").status_code == 200
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
