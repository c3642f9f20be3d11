"""Check that every buffer between a socket and a handler has a bound.

docs/explanation/request-bounds.md lists them.
"""

import importlib
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import uvloop

from shrinkd.auth.tokens import make
from shrinkd.server.connection import LARGEST_HEAD_BYTES, MOST_HEADER_FIELDS
from shrinkd.server.listen import KERNEL_BUFFER_BYTES
from shrinkd.server.tls_handshakes import TlsListener
from shrinkd.settings import Settings
from tests.attacks.test_attacks import memory
from tests.backends.hosts import MIB
from tests.support.certificates import OPENSSL, Authority
from tests.support.checkout import ROOT
from tests.support.live_server import Daemon, Live
from tests.support.polling import until
from tests.support.problem_checks import problem
from tests.support.raw_socket import answers, connected, received, said

PAGE = ROOT / "docs" / "explanation" / "request-bounds.md"
HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"POST /v1/groups HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\n" + HOST
EVENTS = b"GET /v1/events HTTP/1.1\r\nAccept: text/event-stream\r\n" + HOST
STREAM = EVENTS + b"\r\n"
SOON = 0.05
"""Time for which a client waits for a daemon that reads no more."""
_LIMIT_SECONDS = 0.5
"""Time limit of the daemon under test. A busy machine does the client's part within it."""
FLOOD_BYTES = 16 * MIB
ROOM_BYTES = 8 * MIB
"""Limit of the growth of the daemon's memory, for any reason."""

needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that has served a request and a refusal, so that its memory is steady."""
    with closing(Daemon(tmp_path_factory.mktemp("flooded"))) as daemon:
        for line in ("/v1/groups", "/nowhere", "/openapi.json"):
            daemon.client.get(line)
        flood(daemon, LIVEZ, b"x" * 4096)
        yield daemon


def flood(daemon: Daemon, begin: bytes, more: bytes, size: int = FLOOD_BYTES) -> bytes:
    """Send `begin`, then `more` again and again while the daemon reads.

    Return its answer; fail when its memory grows.
    """
    before = largest = memory(daemon.pid)
    more *= max(65536 // len(more), 1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.settimeout(SOON)
        connection.sendall(begin)
        with suppress(OSError):  # it takes no more, or has closed
            for _ in range(size // len(more)):
                connection.sendall(more)
                largest = max(largest, memory(daemon.pid))
        largest = max(largest, memory(daemon.pid))
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(60)
        said = received(connection)
    assert largest - before < ROOM_BYTES
    return said


# -- the head ----------------------------------------------------------------------------------

HEADS = {
    "the path": (b"GET /", b"x"),
    "the query": (b"GET /v1/groups?", b"x=1&"),
    "the name of a field": (LIVEZ, b"x"),
    "the value of a field": (LIVEZ + b"X: ", b"x"),
    "fields": (LIVEZ, b"a:b\r\n"),
    "fields without a value": (LIVEZ, b"a:\r\n"),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_without_end_is_431_and_is_not_kept(
    flooded: Daemon, head: tuple[bytes, bytes]
) -> None:
    (answer,) = answers(flood(flooded, *head))
    problem(answer, 431, "header-too-large")


def test_a_head_that_arrives_in_one_piece_is_held_to_the_same_size(server: Live) -> None:
    (answer,) = said(
        server, b"GET /" + b"x" * LARGEST_HEAD_BYTES + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    )
    problem(answer, 431, "header-too-large")


def test_a_header_has_no_more_than_128_fields(server: Live) -> None:
    fields = [HOST, b"Connection: close\r\n", *[b"a: b\r\n"] * (MOST_HEADER_FIELDS - 2)]
    (answer,) = said(server, b"GET /livez HTTP/1.1\r\n" + b"".join(fields) + b"\r\n")
    assert answer.status_code == 200
    (answer,) = said(
        server, b"GET /livez HTTP/1.1\r\n" + b"".join([*fields, b"a: b\r\n"]) + b"\r\n"
    )
    problem(answer, 431, "header-too-large")


NO_REQUEST = {
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "zeros": b"\0" * 4096,
    "a word without end": b"x" * 4096,
}


@pytest.mark.parametrize("junk", NO_REQUEST.values(), ids=NO_REQUEST)
def test_what_is_no_request_is_400_and_is_not_kept(flooded: Daemon, junk: bytes) -> None:
    (answer,) = answers(flood(flooded, junk, junk))
    problem(answer, 400, "bad-request")


def test_blank_lines_before_a_request_are_passed_over_and_not_kept(flooded: Daemon) -> None:
    assert flood(flooded, b"\r\n", b"\r\n") == b""


def test_a_connection_on_which_only_blank_lines_come_ends_before_the_first_request_and_behind_one(
    settings: Settings,
) -> None:
    with Live(settings, arrival_seconds=_LIMIT_SECONDS) as live:
        assert said(live, b"\r\n\r\n") == []
        with connected(live) as connection:
            connection.sendall(LIVEZ + b"\r\n")
            text = connection.recv(65536)
            connection.sendall(b"\r\n")
            (answer,) = answers(text + received(connection))
    assert answer.status_code == 200


# -- what frames a body ------------------------------------------------------------------------

FRAMES = {
    "the size of a chunk": (CHUNKED, b"0"),
    "the extension of a chunk": (CHUNKED + b"2;", b"x"),
    "the value of an extension": (CHUNKED + b"2;x=", b"x"),
    "the extension of the last chunk": (CHUNKED + b"0;", b"x"),
    "trailers": (CHUNKED + b"0\r\n", b"a:b\r\n"),
    "the name of a trailer": (CHUNKED + b"0\r\n", b"x"),
    "the value of a trailer": (CHUNKED + b"0\r\nX: ", b"x"),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_what_frames_a_body_without_end_is_431_and_is_not_kept(
    flooded: Daemon, frame: tuple[bytes, bytes]
) -> None:
    (answer,) = answers(flood(flooded, *frame))
    problem(answer, 431, "header-too-large")


def test_trailers_are_dropped(server: Live) -> None:
    body = b'c\r\n{"path":"t"}\r\n0\r\n'
    trailers = b"Host: evil.example\r\nPrefer: return=minimal\r\nX: " + b"x" * 40_000 + b"\r\n\r\n"
    made, alive = said(server, CHUNKED + body + trailers + LIVEZ + b"Connection: close\r\n\r\n")
    assert (made.status_code, made.json()["path"]) == (201, "t")
    assert alive.status_code == 200


def test_a_token_in_a_trailer_lets_nobody_in(settings: Settings, tmp_path: Path) -> None:
    secret = str(make(tmp_path / "tokens", "ci", ["admin"], "1d")).encode()
    trailer = b'c\r\n{"path":"t"}\r\n0\r\nAuthorization: Bearer ' + secret + b"\r\n\r\n"
    with Live(settings.model_copy(update={"tokens": str(tmp_path / "tokens")})) as live:
        refused, behind = said(
            live,
            CHUNKED
            + trailer
            + b"GET /v1/groups HTTP/1.1\r\n"
            + HOST
            + b"Connection: close\r\n\r\n",
        )
    problem(refused, 401, "unauthenticated")
    problem(behind, 401, "unauthenticated")


# -- the body ----------------------------------------------------------------------------------

ANNOUNCED = b"Content-Length: 1000000000\r\n\r\n"
BODIES = {
    "to who reads it": (b"POST /v1/groups HTTP/1.1\r\n" + HOST + JSON + ANNOUNCED, b"x"),
    "in chunks of a byte": (CHUNKED, b"1\r\nx\r\n"),
    "in chunks with extensions": (CHUNKED, b"1;x=yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\nx\r\n"),
    "to nobody": (b"POST /nowhere HTTP/1.1\r\n" + HOST + ANNOUNCED, b"x"),
    "of a read": (b"GET /v1/groups HTTP/1.1\r\n" + HOST + ANNOUNCED, b"x"),
    "of a stream": (EVENTS + ANNOUNCED, b"x"),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_without_end_is_not_kept(flooded: Daemon, body: tuple[bytes, bytes]) -> None:
    assert flood(flooded, *body).startswith(b"HTTP/1.1 ")


def test_a_body_is_asked_for_once_and_only_where_it_is_wanted(server: Live) -> None:
    expecting = (
        HOST + JSON + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    with connected(server) as connection:
        connection.sendall(b"POST /v1/groups HTTP/1.1\r\n" + expecting)
        text = connection.recv(65536)
        connection.sendall(b"{}")
        text += received(connection)
    assert text.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 422 ")
    assert text.count(b"100 Continue") == 1
    assert b"100 Continue" not in b"".join(
        answer.content for answer in said(server, b"POST /nowhere HTTP/1.1\r\n" + expecting + b"{}")
    )


# -- behind a request --------------------------------------------------------------------------

BEHIND = {
    "requests": LIVEZ + b"\r\n",
    "bodies": b"POST /v1/groups HTTP/1.1\r\n" + HOST + JSON + ANNOUNCED + b"x" * 65536,
    "small bodies": b"POST /v1/groups HTTP/1.1\r\n"
    + HOST
    + JSON
    + b"Content-Length: 9000\r\n\r\n"
    + b"x" * 9000,
    "junk": b"\0" * 65536,
    "blank lines": b"\r\n",
}


@pytest.mark.parametrize("more", BEHIND.values(), ids=BEHIND)
def test_what_comes_behind_a_request_that_is_being_answered_is_not_kept(
    flooded: Daemon, more: bytes
) -> None:
    flood_behind(flooded, STREAM, more)


def flood_behind(daemon: Daemon, begin: bytes, more: bytes) -> None:
    """Flood behind a request whose answer has no end; the client closes."""
    before = memory(daemon.pid)
    more *= max(65536 // len(more), 1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.sendall(begin)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.settimeout(SOON)
        with suppress(OSError):
            for _ in range(FLOOD_BYTES // len(more)):
                connection.sendall(more)
        assert memory(daemon.pid) - before < ROOM_BYTES


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"x"])
def test_what_comes_behind_an_upgrade_is_no_request(server: Live, protocol: bytes) -> None:
    upgrade = HOST + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n"
    with connected(server) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n" + upgrade + b"\r\n")
        text = connection.recv(65536)
        with suppress(ConnectionError):
            connection.sendall(b"DELETE /v1/groups/cache HTTP/1.1\r\n" + HOST + b"\r\n")
        (answer,) = answers(text + received(connection))
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    body = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
    for length in (
        b"Content-Length: %d\r\n\r\n" % len(body),
        b"Transfer-Encoding: chunked\r\n\r\n",
    ):
        (answer,) = said(server, b"POST /v1/groups HTTP/1.1\r\n" + upgrade + JSON + length, body)
        problem(answer, 400, "bad-request")


# -- what is sent ------------------------------------------------------------------------------


def test_answers_that_nobody_takes_are_not_made(flooded: Daemon) -> None:
    assert flood(
        flooded, LIVEZ + b"\r\n", b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
    ).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("last", [b"Connection: close\r\n\r\n", b"\r\n"], ids=["closed", "idle"])
def test_a_connection_ends_also_while_its_client_leaves_a_little_of_the_last_answer(
    settings: Settings, tmp_path: Path, last: bytes
) -> None:
    path = tmp_path / "api.sock"
    with (
        Live(settings, beside=(f"unix:{path}",), taking_seconds=_LIMIT_SECONDS) as live,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        live.server.config.timeout_keep_alive = 1
        connection.connect(str(path))
        while not left_of(live):
            ask_once(live, connection)
        live.client.close()
        connection.sendall(LIVEZ + last)
        until(lambda: not live.connections())


def ask_once(live: Live, connection: socket.socket) -> None:
    """Request one answer without reading it.

    On return the kernel has taken what fits in its buffers.
    """
    before = live.server.server_state.total_requests
    connection.sendall(b"GET /problems HTTP/1.1\r\n" + HOST + b"\r\n")
    until(lambda: live.server.server_state.total_requests > before)
    live.client.get("/livez")


def left_of(live: Live) -> int:
    """Return the bytes that wait in the daemon for clients which do not read."""
    return sum(
        connection.transport.get_write_buffer_size()
        for connection in tuple(live.server.server_state.connections)
    )


def test_the_buffers_of_the_kernel_do_not_grow(server: Live) -> None:
    with connected(server):
        until(lambda: server.connections() == 1)
        (connection,) = server.server.server_state.connections
        taken: socket.socket = connection.transport.get_extra_info("socket")
        sizes = {
            taken.getsockopt(socket.SOL_SOCKET, option)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF)
        }
    assert max(sizes) <= 2 * KERNEL_BUFFER_BYTES  # the kernel doubles it, for its own book-keeping


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture
def private(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """A function that starts servers with TLS; keywords are limits of the connection."""
    certificate, key = Authority(tmp_path).sign("server")
    with ExitStack() as stack:
        secret = settings.model_copy(update={"tls_certificate": certificate, "tls_key": key})
        yield lambda **limits: stack.enter_context(Live(secret, **limits))


def dialled(live: Live, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(
        ("127.0.0.1", live.port), timeout=60, source_address=(source, 0)
    )


def has_ended(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def trusting_anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@needs_openssl
def test_handshakes_are_bounded_for_each_address_and_make_room_when_they_end(
    private: Callable[..., Live],
) -> None:
    live = private(most_connections=staticmethod(lambda: 64))  # 16 handshakes, 8 of one address
    with ExitStack() as stack:
        silent = [stack.enter_context(dialled(live)) for _ in range(20)]
        until(lambda: sum(map(has_ended, silent)) == 12)
        with trusting_anybody().wrap_socket(dialled(live, "127.0.0.2")) as another:
            another.sendall(LIVEZ + b"Connection: close\r\n\r\n")
            (answer,) = answers(received(another))
        assert answer.status_code == 200
        for connection in silent:
            connection.close()
        until(lambda: shakes_hands(live))


def shakes_hands(live: Live) -> bool:
    try:
        with trusting_anybody().wrap_socket(dialled(live)):
            return True
    except OSError:
        return False


@needs_openssl
def test_behind_tls_no_more_is_taken_than_is_read(private: Callable[..., Live]) -> None:
    live = private()
    taken = 0
    with trusting_anybody().wrap_socket(dialled(live)) as connection:
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 65536
        )  # or most of it would be this kernel's
        connection.sendall(STREAM)
        connection.recv(65536)
        connection.settimeout(1)
        with suppress(TimeoutError):
            while taken < FLOOD_BYTES:
                taken += connection.send(LIVEZ + b"\r\n")
    assert taken < 2 * MIB


# -- the page ----------------------------------------------------------------------------------

_UNITS = {"": 1, " KiB": 1 << 10, " MiB": 1 << 20, " s": 1, " bytes": 1}


def rows() -> list[list[str]]:
    table = re.findall(r"^\| (?!what \| |---)(.+) \|$", PAGE.read_text(), re.MULTILINE)
    return [row.split(" | ") for row in table]


def test_every_row_of_the_page_names_a_bound_and_a_test_and_every_test_is_in_a_row() -> None:
    tests = {
        name
        for file in sorted(ROOT.glob("tests/**/test_*.py"))
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    named = [re.findall(r"`(test_\w+)`", row[-1]) for row in rows()]
    assert [row for row in rows() if len(row) != 5 or not all(row)] == []
    assert all(named)
    assert {name for names in named for name in names} - tests == set()
    here = set(re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.MULTILINE))
    assert {name for name in here if "_page_" not in name} - {
        name for names in named for name in names
    } == set()


def test_every_constant_that_the_page_names_has_the_value_that_it_tells() -> None:
    told = re.findall(r"`([\w.]+)` = (\d+)( KiB| MiB| s| bytes|)\b", PAGE.read_text())
    assert len(told) > 10
    assert [
        (name, number, unit)
        for name, number, unit in told
        if value_of(name) != int(number) * _UNITS[unit]
    ] == []


def value_of(name: str) -> float:
    """Return a constant by its dotted name below the package.

    Names that begin with uvicorn or uvloop are of those; uvloop's are in a file beside its binary.
    """
    package = TlsListener.__module__.partition(".")[0]
    if name.startswith("uvloop."):
        text = (Path(uvloop.__file__).parent / "includes" / "consts.pxi").read_text()
        found = re.search(rf"{name.partition('.')[2]} = (\d+)( \* \d+)?", text)
        assert found
        return int(found[1])
    root = "uvicorn" if name.startswith("uvicorn.") else package
    value: object = importlib.import_module(root)
    path = root
    for part in name.removeprefix("uvicorn.").split("."):
        path = f"{path}.{part}"
        with suppress(ModuleNotFoundError):
            importlib.import_module(path)
        value = getattr(value, part)
    assert isinstance(value, int | float)
    return value
