"""Attack the daemon in each way of the table in docs/explanation/what-it-withstands.md.

The names of the tests begin like the rows of that table.
"""

import ast
import ctypes
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from shrinkd.auth.scopes import ANYONE
from shrinkd.backends.cgroup.mounts import mount_points
from shrinkd.errors import GroupGone, GroupNotFound, InvalidGroupName
from shrinkd.settings import Settings
from tests.backends.cgroup.test_tree import directory, tree_of
from tests.backends.hosts import opened
from tests.support.checkout import ROOT
from tests.support.leaks import nothing_stays_open
from tests.support.live_server import Daemon, Live
from tests.support.problem_checks import problem
from tests.support.raw_socket import answers, connected, received, said
from tests.support.scripted_simulator import MIB, Stage

HOST = b"Host: localhost\r\n"
LAST = HOST + b"Connection: close\r\n"
JSON = b"Content-Type: application/json\r\n"
LARGEST = 64 << 10
REQUESTS = int(os.environ.get("SHRINKD_TEST_REQUESTS", "1000"))


class Target:
    """A daemon on a simulator whose time stands still, and its groups and limits."""

    def __init__(self, live: Live, stage: Stage) -> None:
        self.live = live
        self.stage = stage

    def said(self, line: bytes, head: bytes = LAST, body: bytes = b"") -> httpx.Response:
        """Send one request, check that the machine did not change, and return the answer."""
        before = self.stage.everything()
        (answer,) = said(self.live, line + b" HTTP/1.1\r\n" + head + b"\r\n" + body)
        assert self.stage.everything() == before
        return answer


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    stage = Stage()
    settings = Settings(
        backend="simulator",
        hosts=("node1.example",),
        database_url=f"sqlite:///{tmp_path_factory.mktemp('attacks')}/db",
    )
    with nothing_stays_open(), Live(settings, stage.make_backend) as live:
        yield Target(live, stage)


# -- names -------------------------------------------------------------------------------------

CLIMBING = [
    b"..",
    b"../etc",
    b"web/../db",
    b"%2e%2e/etc",
    b"%2E./etc",
    b"web%2F..%2Fdb",
    b"web/%2e%2e/%2e%2e/etc",
    b"web/./db",
    b"web//db",
]


@pytest.mark.parametrize(
    "path", [*CLIMBING, b"web%00", b"web%0d%0aX-Made:%20up", b"web%7f", b"a" * 256]
)
@pytest.mark.parametrize(
    "line", [b"GET /v1/groups/%b", b"DELETE /v1/groups/%b", b"GET /v1/groups/%b/stats"]
)
def test_a_path_that_climbs_out_or_hides_a_control_byte_is_no_name_of_a_group(
    target: Target, line: bytes, path: bytes
) -> None:
    problem(target.said(line % path), 422, "invalid-group-name")


@pytest.mark.parametrize(
    "path", ["../made", "web/../made", "/made", "made/", "ma\0de", "ma\nde", "\ud800", "..", "."]
)
def test_a_path_in_a_body_is_held_to_the_same_rules(target: Target, path: str) -> None:
    body = json.dumps({"path": path}).encode()
    answer = target.said(
        b"POST /v1/groups", LAST + JSON + b"Content-Length: %d\r\n" % len(body), body
    )
    assert answer.status_code in {400, 422}


@pytest.mark.parametrize(
    "path",
    [
        b"%252e%252e/web",
        b"%c0%ae%c0%ae/web",
        b"%e0%80%ae%e0%80%ae/web",
        b"%uff0e%uff0e/web",
        b"..\\web",
    ],
)
def test_a_path_that_is_encoded_twice_or_wrongly_is_the_name_of_nothing(
    target: Target, path: bytes
) -> None:
    problem(target.said(b"GET /v1/groups/" + path), 404, "group-not-found")


@pytest.mark.parametrize(
    "path",
    [
        b"%2e%2e/__main__.py",
        b"..%2f__main__.py",
        b"/etc/passwd",
        b"..%5c__main__.py",
        b"%2e%2e%2f%2e%2e%2fREADME.md",
    ],
)
def test_a_page_that_is_asked_for_by_a_path_outside_is_not_found(
    target: Target, path: bytes
) -> None:
    problem(target.said(b"GET /ui/" + path), 404, "not-found")


def _exchange(one: Path, other: Path) -> None:
    """Swap two names in one step: renameat2(2) with RENAME_EXCHANGE."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0


def test_a_symlink_that_is_swapped_in_during_the_request_leads_nowhere(tmp_path: Path) -> None:
    outside, inside = (
        directory(tmp_path, "outside/web", "secret"),
        directory(tmp_path, "root/shop/web", "ours"),
    )
    (tmp_path / "link").symlink_to(outside.parent)
    (inside / "link").symlink_to(outside / "file")
    done, told = threading.Event(), set()

    def swap() -> None:
        while not done.is_set():
            _exchange(inside.parent, tmp_path / "link")  # above the group
            _exchange(inside.parent, tmp_path / "link")
            _exchange(inside / "file", inside / "link")  # and the control file itself
            _exchange(inside / "file", inside / "link")

    thread, tree = threading.Thread(target=swap), tree_of(tmp_path / "root")
    thread.start()
    try:
        for number in range(2000):
            with suppress(InvalidGroupName, GroupGone, GroupNotFound):
                told.add(tree.read_at("shop/web", "file"))
            with suppress(InvalidGroupName, GroupGone, GroupNotFound):
                group = tree.find("shop/web")
                tree._forget(group)  # noqa: SLF001
                with tree.opened(group, "file") as file:
                    os.write(file, b"ours")
            with suppress(InvalidGroupName, GroupGone, GroupNotFound):
                tree.make(f"shop/made-{number}")
    finally:
        done.set()
        thread.join()
        tree.close()
    assert told == {b"ours"}
    assert (outside / "file").read_text() == "secret"
    assert [path.name for path in outside.parent.iterdir()] == ["web"]


def test_a_group_made_again_under_the_name_of_another_is_a_stranger(target: Target) -> None:
    old = target.stage.group("again", cache=8 * MIB)
    target.stage.vanish("again")
    target.stage.group("again", cache=8 * MIB)
    before = target.stage.everything()
    for path, body in (("limits", {"max_bytes": "4M"}), ("shrinks", {"target_bytes": 0})):
        method = "PATCH" if path == "limits" else "POST"
        problem(
            target.live.client.request(method, f"/v1/groups/id:{old.id}/{path}", json=body),
            404,
            "group-not-found",
        )
    assert target.stage.everything() == before


def test_a_group_beside_the_managed_root_or_above_it_is_out_of_reach_by_any_name(
    tmp_path: Path,
) -> None:
    with opened("v1") as host:
        managed, beside = host.group(), host.group()
        root = Path(next(mount_points("cgroup", "memory")))
        settings = Settings(
            backend="v1",
            cgroup_root=str(root / managed.path),
            database_url=f"sqlite:///{tmp_path}/db",
        )
        strangers = [path.name for path in root.iterdir() if path.is_dir()]
        with Live(settings) as live:
            assert [group["path"] for group in live.client.get("/v1/groups").json()["items"]] == []
            for name in {beside.path, managed.path, *strangers}:
                for climb in ("..%2f", "%2e%2e/", "../", "..%2f..%2fmemory%2f"):
                    (answer,) = said(
                        live,
                        f"GET /v1/groups/{climb}{name}/limits HTTP/1.1\r\n".encode()
                        + LAST
                        + b"\r\n",
                    )
                    problem(answer, 422, "invalid-group-name")
            for name in (f"id:{beside.id}", f"id:{(root).stat().st_ino}", beside.path):
                answer = live.client.patch(f"/v1/groups/{name}/limits", json={"max_bytes": "64M"})
                problem(answer, 404, "group-not-found")
        assert host.backend.stat(beside).limits.max_bytes is None


WRITES = {
    'b"%d" % pid',
    'b"%d %d %b" % (self.fileno(), file, argument)',
    'f"{line} {stall} {window}".encode()',
    'b"?"',
    'b"+memory"',
    'b"0 swappiness=60"',
    'b"0"',
    'b"%d" % value',
    'b"%d" % asked + (b"" if swappiness is None else b" swappiness=%d" % swappiness)',
    "format_limit_file(limit)",
}
"""All that is ever written to the kernel: numbers, and words of our own. `argument` is a number or
one of v1's levels."""


def test_a_string_of_a_client_reaches_no_control_file() -> None:
    found = set()
    for module in sorted((ROOT / "app" / "shrinkd" / "backends").rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "os.write",
                "os.pwrite",
                "os.writev",
                "timed_write",
            }:
                found.add(ast.unparse(node.args[1]))
    assert found == {ast.unparse(ast.parse(line)) for line in WRITES}


# -- bodies and heads --------------------------------------------------------------------------


def test_a_key_that_stands_twice_in_json_is_refused_by_its_name(target: Target) -> None:
    body = b'{"max_bytes": null, "max_bytes": "1M"}'
    answer = target.said(
        b"PATCH /v1/groups/web/limits", LAST + JSON + b"Content-Length: %d\r\n" % len(body), body
    )
    assert "max_bytes" in problem(answer, 422, "invalid-request")["errors"][0]["pointer"]


def test_a_parameter_that_stands_twice_is_refused_as_is_one_that_nobody_knows(
    target: Target,
) -> None:
    for query in (b"dry_run=true&dry_run=false", b"dryrun=true"):
        problem(
            target.said(
                b"PATCH /v1/groups/web/limits?" + query,
                LAST + JSON + b"Content-Length: 2\r\n",
                b"{}",
            ),
            422,
            "invalid-request",
        )


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 1000000000000\r\n", b"x" * 100),
        (b"Content-Length: %d\r\n" % (LARGEST + 1), b" " * 100),
        (
            b"Transfer-Encoding: chunked\r\n",
            b"%x\r\n" % (LARGEST + 1) + b" " * (LARGEST + 1) + b"\r\n",
        ),
        (b"Expect: 100-continue\r\nContent-Length: 1000000\r\n", b""),
    ],
)
def test_a_body_larger_than_any_is_not_read_to_its_end(
    target: Target, head: bytes, body: bytes
) -> None:
    problem(
        target.said(b"PATCH /v1/groups/web/limits", LAST + JSON + head, body), 413, "body-too-large"
    )


@pytest.mark.parametrize("head", [b"X: " + b"x" * 70_000, b"X: 1\r\n" * 12_000])
def test_a_head_without_end_is_not_read_to_its_end(target: Target, head: bytes) -> None:
    problem(target.said(b"GET /livez", HOST + head), 431, "header-too-large")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"[" * 30_000 + b"]" * 30_000,
        b"\xff\xfe{}",
        b"{}\0",
        b"1e999999999x",
        b"NaN",
    ],
)
def test_json_that_is_deep_or_broken_is_refused_as_such(target: Target, body: bytes) -> None:
    answer = target.said(
        b"PATCH /v1/groups/web/limits", LAST + JSON + b"Content-Length: %d\r\n" % len(body), body
    )
    problem(answer, 400, "malformed-body")


def test_a_number_of_any_length_is_too_large_at_once(target: Target) -> None:
    body = b'{"max_bytes": ' + b"9" * 60_000 + b"}"
    answer = target.said(
        b"PATCH /v1/groups/web/limits", LAST + JSON + b"Content-Length: %d\r\n" % len(body), body
    )
    problem(answer, 422, "invalid-request")


SECOND = b"DELETE /v1/groups/web HTTP/1.1\r\n" + HOST + b"\r\n"
SMUGGLING = {
    "both lengths": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, the other way": b"Transfer-Encoding: chunked\r\nContent-Length: "
    b"6\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "a list of lengths": b"Content-Length: 0, 5\r\n\r\n",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a length with a sign": b"Content-Length: +5\r\n\r\n",
    "a length beyond 64 bits": b"Content-Length: 18446744073709551617\r\n\r\n",
    "a coding that is not the last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding that is none": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Content-Length : 5\r\n\r\n",
    "a folded line": b"X: 1\r\n Content-Length: 5\r\n\r\n",
    "a line that ends in CR alone": b"X: 1\rContent-Length: 5\r\n\r\n",
    "a NUL": b"X: 1\0\r\n\r\n",
    "a chunk beyond 64 bits": b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n",
    "a chunk that is no number": b"Transfer-Encoding: chunked\r\n\r\n0x5\r\n\r\n",
}


@pytest.mark.parametrize("rest", SMUGGLING.values(), ids=SMUGGLING)
def test_a_request_smuggled_behind_another_is_never_taken_for_one(
    target: Target, rest: bytes
) -> None:
    before = target.stage.everything()
    (answer,) = said(
        target.live, b"PATCH /v1/groups/web/limits HTTP/1.1\r\n" + HOST + JSON + rest + SECOND
    )
    problem(answer, 400, "bad-request")
    assert target.stage.everything() == before


@pytest.mark.parametrize("method", [b"TRACE", b"PUT", b"OPTIONS", b"PROPFIND"])
def test_a_method_that_is_not_offered_does_nothing_and_echoes_nothing(
    target: Target, method: bytes
) -> None:
    answer = target.said(method + b" /v1/groups/web", LAST + b"X-Secret: 12345\r\n")
    assert "12345" not in problem(answer, 405, "method-not-allowed").values()
    assert answer.headers["allow"] == "DELETE, GET, HEAD"


@pytest.mark.parametrize(
    ("line", "head"),
    [
        (b"GET http://evil.example/livez", LAST),
        (b"CONNECT evil.example:443", LAST),
        (b"OPTIONS *", LAST),
        (b"GET /livez", LAST + HOST),
        (b"GET /livez", b"Connection: close\r\n"),
        (b"GET livez", LAST),
    ],
)
def test_a_request_as_for_a_proxy_or_without_one_host_is_not_ours(
    target: Target, line: bytes, head: bytes
) -> None:
    problem(target.said(line, head), 400, "bad-request")


@pytest.mark.parametrize(
    "given",
    [
        b"a b",
        b"x\tset-cookie: a",
        b"<script>",
        b"a" * 65,
        "\N{PILE OF POO}".encode(),
        b"",
        b"../..",
    ],
)
def test_a_request_id_that_could_mean_something_is_replaced(target: Target, given: bytes) -> None:
    answer = target.said(b"GET /livez", LAST + b"Request-Id: " + given + b"\r\n")
    assert answer.status_code == 200
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", answer.headers["request-id"])


# -- browsers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:80",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"",
        b"[::1",
        b"\xff",
    ],
)
def test_a_name_that_was_made_to_lead_here_is_not_answered_to(target: Target, host: bytes) -> None:
    problem(
        target.said(b"GET /v1/groups", b"Connection: close\r\nHost: " + host + b"\r\n"),
        421,
        "misdirected-request",
    )


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LOCALHOST:80",
        b"127.0.0.1",
        b"127.0.0.2:8080",
        b"[::1]:80",
        b"192.0.2.1",
        b"Node1.example.",
    ],
)
def test_a_name_that_is_ours_and_every_address_are_answered_to(target: Target, host: bytes) -> None:
    assert (
        target.said(b"GET /livez", b"Connection: close\r\nHost: " + host + b"\r\n").status_code
        == 200
    )


FROM_ELSEWHERE = [
    b"Origin: http://evil.example\r\n",
    b"Origin: null\r\n",
    b"Origin: http://localhost:3000\r\n",
    b"Sec-Fetch-Site: cross-site\r\n",
    b"Sec-Fetch-Site: same-site\r\n",
    b"Origin: http://localhost\r\nSec-Fetch-Site: cross-site\r\n",
]


@pytest.mark.parametrize("head", FROM_ELSEWHERE)
@pytest.mark.parametrize(
    "line",
    [b"POST /v1/shrinks/some/cancel", b"DELETE /v1/groups/web", b"POST /v1/groups/web/shrinks"],
)
def test_a_change_that_a_page_from_elsewhere_sends_is_refused(
    target: Target, line: bytes, head: bytes
) -> None:
    problem(target.said(line, LAST + head), 403, "cross-site-request")


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"Origin: http://localhost\r\n",
        b"Origin: https://node1.example:8443\r\n",
        b"Sec-Fetch-Site: same-origin\r\n",
    ],
)
def test_a_change_by_a_program_or_by_our_own_page_is_taken(target: Target, head: bytes) -> None:
    problem(target.said(b"POST /v1/shrinks/some/cancel", LAST + head), 404, "shrink-not-found")


@pytest.mark.parametrize(
    "media_type",
    [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b""],
)
def test_a_form_or_a_text_that_a_page_can_send_unasked_is_not_taken_for_json(
    target: Target, media_type: bytes
) -> None:
    body = b'{"max_bytes": "1M"}'
    head = LAST + b"Content-Type: " + media_type + b"\r\nContent-Length: %d\r\n" % len(body)
    problem(target.said(b"PATCH /v1/groups/web/limits", head, body), 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "path", ["/docs", "/problems", "/problems/busy", "/ui/init.js", "/ui/favicon.svg"]
)
def test_a_page_that_is_framed_or_injected_into_shows_and_runs_nothing(
    target: Target, path: str
) -> None:
    headers = target.live.client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == (
        "nosniff",
        "no-referrer",
    )


@pytest.mark.parametrize(
    "path", ["/v1/groups", "/v1/groups/web/stats", "/openapi.json", "/nowhere", "/ui/none"]
)
def test_an_answer_is_not_taken_for_another_type_nor_given_to_other_sites(
    target: Target, path: str
) -> None:
    headers = target.live.client.get(path, headers={"Origin": "http://evil.example"}).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert [name for name in headers if name.startswith("access-control-")] == []


# -- holding on --------------------------------------------------------------------------------


def memory(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) << 10


def test_a_crowd_of_half_open_connections_keeps_nobody_out_and_ends(settings: Settings) -> None:
    with Live(settings, arrival_seconds=1.0) as live, ExitStack() as stack:
        crowd = [stack.enter_context(connected(live)) for _ in range(500)]
        for number, connection in enumerate(crowd):
            connection.sendall(
                (
                    b"GET /livez HTTP/1.1\r\nX: ",
                    b"POST /v1/groups HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n{",
                )[number < 100]
            )
        assert [live.client.get("/v1/groups").status_code for _ in range(20)] == [200] * 20
        ends = [answers(received(connection)) for connection in crowd]
    for (answer,) in ends:
        problem(answer, 408, "request-timeout")


def test_a_client_that_reads_nothing_of_its_answers_is_dropped(settings: Settings) -> None:
    with (
        Live(settings, taking_seconds=0.05) as live,
        connected(live, window_bytes=4096) as connection,
    ):
        connection.sendall((b"GET /ui/swagger-ui-bundle.js HTTP/1.1\r\n" + HOST + b"\r\n") * 16)
        connection.recv(1)
        while live.connections():
            time.sleep(0.01)


def test_a_client_that_asks_for_more_than_its_share_at_once_is_told_to_come_back(
    settings: Settings,
) -> None:
    stage = Stage()
    with Live(settings, stage.make_backend) as live, ExitStack() as stack:
        shrink = {"target_bytes": 0, "timeout_seconds": 10, "max_bytes_per_second": 1}
        here = live.client.post("/v1/groups/web/shrinks", json=shrink).json()["links"]["self"]
        waiting = [stack.enter_context(connected(live)) for _ in range(128)]
        for connection in waiting:
            connection.sendall(
                f"GET {here} HTTP/1.1\r\nPrefer: wait=10\r\n".encode() + LAST + b"\r\n"
            )
        while (answer := live.client.get("/v1/groups")).status_code == 200:
            time.sleep(0.01)
        assert answer.headers["retry-after"] == "1"
        assert problem(answer, 429, "too-many-requests")["waiting"] == 128
        assert ANYONE.name in answer.text
        waiting.pop().close()
        while (answer := live.client.get("/v1/groups")).status_code == 429:
            time.sleep(0.01)
        assert answer.status_code == 200


@pytest.mark.long
def test_a_stream_of_requests_as_large_as_can_be_leaves_the_daemon_as_small_as_it_was(
    daemon: Callable[..., Daemon],
) -> None:
    it = daemon()
    body = b'{"path": "' + b"x" * (LARGEST - 12) + b'"}'
    for number in range(REQUESTS):
        if number == REQUESTS // 5:
            before = memory(it.pid)
        answer = it.client.post(
            "/v1/groups", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 422
    assert memory(it.pid) - before < 16 * MIB


def test_the_table_of_the_documents_is_this_one() -> None:
    page = (ROOT / "docs" / "explanation" / "what-it-withstands.md").read_text()
    page, _, others = page.partition("| attack on a part |")
    for name in re.findall(r"`(tests/\w+/test_\w+\.py)`", others):
        assert (ROOT / name).is_file(), name
    told = [
        row.partition(" (")[0]
        for row in re.findall(r"^\| (?!attack|---)([^|]+?) \|", page, re.MULTILINE)
    ]
    rows = [re.sub(r"\W+", "_", row.lower()) for row in told]
    tests = [
        node.name
        for node in ast.parse(Path(__file__).read_text()).body
        if isinstance(node, ast.FunctionDef)
    ]
    names = [name.removeprefix("test_") for name in tests if name.startswith("test_")]
    allowing = {"a_name_that_is_ours", "a_change_by_a_program", "the_table"}
    attacks = [name for name in names if not name.startswith(tuple(allowing))]
    assert [name for name in attacks if not name.startswith(tuple(rows))] == []
    assert [row for row in rows if not any(name.startswith(row) for name in attacks)] == []
