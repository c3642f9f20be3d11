"""The client sends its token only to an address that was named, or to a trusted user's socket.

No other listener, proxy or redirect receives it.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

import httpx
import pytest

from shrinkd.client import AsyncClient, Client, NotTrusted, NotUnderstood, address_of, is_unverified
from shrinkd.client._addresses import find_address, token_for
from tests.cli.test_working_directory import COMMAND
from tests.contracts.test_curl import FOLDER

SECRET = "shrinkd_secret"  # of no daemon
BEARER = f"Bearer {SECRET}"
PAGE = json.dumps({"items": [{"path": "web"}], "next_page_token": None}).encode()
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


class Listener:
    """Somebody who listens, and what was said to it.

    The path and the Authorization of each request.
    """

    def __init__(self, path: Path | None = None, onward: str = "") -> None:
        heard: list[tuple[str, str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append((self.path, self.headers.get("Authorization")))
                self.send_response(307 if onward else 200)
                self.send_header("Location", f"{onward}{self.path}")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(PAGE)))
                self.end_headers()
                self.wfile.write(PAGE)

            do_CONNECT = do_PATCH = do_GET  # noqa: N815  # as http.server has them

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

            def address_string(self) -> str:
                return "client"

        self.heard = heard
        self._server = (
            UnixStreamServer(str(path), Handler)
            if path
            else ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        )
        self.address = (
            f"unix:{path}" if path else f"http://127.0.0.1:{self._server.socket.getsockname()[1]}"
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def tokens(self) -> list[str | None]:
        return [token for _, token in self.heard]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    with ExitStack() as stack:

        def start(*args: Any, **named: Any) -> Listener:
            listener = Listener(*args, **named)
            stack.callback(listener.close)
            return listener

        yield start


@pytest.fixture
def unnamed(listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch) -> Listener:
    """A listener at the default TCP address of a client.

    It stands for the port of the simulator, which this host may have in use.
    """
    listener = listen()
    monkeypatch.delenv("SHRINKD_URL", raising=False)
    monkeypatch.setenv("SHRINKD_LISTEN", listener.address.replace("http://", "tcp:"))
    monkeypatch.setenv("SHRINKD_TOKEN", SECRET)
    return listener


def listed(client: Client) -> list[str]:
    with client:
        return [str(group["path"]) for group in client.groups()]


async def listed_awaited(client: AsyncClient) -> list[str]:
    async with client:
        return [str(group["path"]) async for group in client.groups()]


# An address that nobody named


def test_who_listens_where_nobody_was_sent_is_asked_without_the_token_and_that_is_said(
    unnamed: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    assert listed(Client()) == asyncio.run(listed_awaited(AsyncClient())) == ["web"]
    assert unnamed.tokens == [None, None]
    assert caplog.text.count(f"SHRINKD_TOKEN is not sent to {unnamed.address}") == 2


def test_the_port_of_the_simulator_is_such_an_address(caplog: pytest.LogCaptureFixture) -> None:
    found = find_address(None, {})
    if found.socket is None:  # a daemon on this host would be found first
        assert found.url == "http://127.0.0.1:8080"
        assert is_unverified(None, {})
        assert token_for(found, None, {"SHRINKD_TOKEN": SECRET}) is None
        assert "http://127.0.0.1:8080" in caplog.text


def test_a_token_that_is_given_for_no_address_is_not_lost_in_silence(unnamed: Listener) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="give the url, or SHRINKD_URL"):
            kind(token=SECRET)
    assert unnamed.heard == []


def test_a_token_goes_where_an_argument_or_the_environment_says(
    unnamed: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(Client(unnamed.address))
    listed(Client(unnamed.address, token="another"))
    monkeypatch.setenv("SHRINKD_URL", unnamed.address)
    listed(Client())
    asyncio.run(listed_awaited(AsyncClient(token="another")))
    assert unnamed.tokens == [BEARER, "Bearer another", BEARER, "Bearer another"]


# The commands


def shrinkd(*words: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [COMMAND, *words], env=os.environ | environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done


def test_a_command_asks_a_stranger_without_the_token_and_says_so(unnamed: Listener) -> None:
    said = shrinkd("groups", "--json").stderr
    assert (
        said.strip()
        == f"SHRINKD_TOKEN is not sent to {unnamed.address}, where anybody may listen: set "
        "SHRINKD_URL if it belongs there"
    )
    assert unnamed.tokens == [None]


def test_a_token_file_for_no_address_is_a_wrong_use(unnamed: Listener, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    assert (
        "the token is not sent to"
        in shrinkd("groups", "--token-file", str(tmp_path / "token"), code=2).stderr
    )
    shrinkd("groups", "--token-file", str(tmp_path / "token"), "--url", unnamed.address)
    assert unnamed.tokens == [BEARER]


def test_completion_asks_no_stranger_and_whom_somebody_named_with_the_token(
    unnamed: Listener,
) -> None:
    words: dict[str, Any] = {
        "_SHRINKD_COMPLETE": "complete_bash",
        "COMP_WORDS": "shrinkd limit w",
        "COMP_CWORD": "2",
    }
    assert shrinkd(**words).stdout.split() == []
    assert unnamed.heard == []
    assert shrinkd(**words, SHRINKD_URL=unnamed.address).stdout.split() == ["web"]
    assert unnamed.tokens == [BEARER]


# Unix sockets

LISTENING = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as bound:
    bound.bind(sys.argv[1]); bound.listen(); print("listens", flush=True)
    while True:
        connection, _ = bound.accept()
        with connection:
            print(connection.recv(65536), flush=True)
"""


@pytest.fixture
def anothers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The default socket of a client, on which another user's process listens.

    The process prints what it receives.
    """
    monkeypatch.delenv("SHRINKD_URL", raising=False)
    monkeypatch.setenv("SHRINKD_TOKEN", SECRET)
    with tempfile.TemporaryDirectory(prefix="shrinkd-") as folder:
        os.chown(folder, 65534, 65534)
        path = f"{folder}/api.sock"
        monkeypatch.setenv("SHRINKD_LISTEN", f"unix:{path}")
        with subprocess.Popen(
            [sys.executable, "-c", LISTENING, path], stdout=subprocess.PIPE, text=True, cwd="/"
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == "listens\n"
            yield f"unix:{path}", process
            process.kill()


@as_root
def test_another_user_on_the_unix_socket_gets_nothing_unless_it_was_named(
    anothers: tuple[str, subprocess.Popen[str]],
) -> None:
    address, process = anothers
    with pytest.raises(NotTrusted, match="The user 65534 listens on"):
        listed(Client())
    with pytest.raises(NotTrusted, match="SHRINKD_URL"):
        asyncio.run(listed_awaited(AsyncClient()))
    assert "neither root nor you" in shrinkd("groups", code=1).stderr
    assert process.stdout
    assert [process.stdout.readline() for _ in range(3)] == ["b''\n"] * 3
    shrinkd("groups", "--url", address, code=75)
    assert BEARER in process.stdout.readline()


def test_on_the_unix_socket_root_and_the_own_user_get_the_token(
    listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = listen(tmp_path / "api.sock")
    monkeypatch.delenv("SHRINKD_URL", raising=False)
    monkeypatch.setenv("SHRINKD_LISTEN", ours.address)
    monkeypatch.setenv("SHRINKD_TOKEN", SECRET)
    assert address_of() == ours.address
    assert listed(Client()) == asyncio.run(listed_awaited(AsyncClient(token="another"))) == ["web"]
    assert ours.tokens == [BEARER, "Bearer another"]


# On the way


def test_a_redirect_is_not_followed_and_is_no_success(listen: Callable[..., Listener]) -> None:
    elsewhere = listen()
    here = listen(onward=elsewhere.address)
    with Client(here.address, token=SECRET) as client:
        for ask in (client.node, lambda: client.set_limits("web", max_bytes="1G")):
            with pytest.raises(NotUnderstood, match="is not followed"):
                ask()
    assert elsewhere.heard == []


def test_neither_a_proxy_nor_netrc_has_a_part_in_it(
    listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemon, proxy = listen(), listen()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.address)
        monkeypatch.setenv(name.lower(), proxy.address)
    (tmp_path / "netrc").write_text("default login root password known\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    listed(Client(daemon.address, token=SECRET))
    asyncio.run(listed_awaited(AsyncClient(daemon.address, token=SECRET)))
    listed(Client(daemon.address))
    subprocess.run(
        [FOLDER / "01-node.sh"],
        env=os.environ | {"SHRINKD_URL": daemon.address},
        capture_output=True,
        check=False,
    )
    assert set(daemon.tokens[:2]) == {BEARER}
    assert set(daemon.tokens[2:]) == {None}
    assert len(daemon.tokens) > 3
    assert proxy.heard == []


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1",
        "http://node1.example:8080",
        "http://127.0.0.1@192.0.2.1",
        "http://127.0.0.1.example",
    ],
)
def test_no_token_is_sent_in_the_clear_beyond_this_host(url: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="in the clear"):
            kind(url, token=SECRET)
    Client(url).close()
    with Client(
        url, token=SECRET, transport=httpx.MockTransport(lambda _: httpx.Response(200, json={}))
    ) as client:
        client.node()  # how that one sends it is its own affair


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "http://127.9.9.9",
        "http://[::1]:8080",
        "http://localhost",
        "https://node1.example",
    ],
)
def test_a_token_may_go_to_this_host_and_behind_tls(url: str) -> None:
    assert token_for(find_address(url, {}), SECRET, {}) == SECRET


# The scripts

CURL = """#!/usr/bin/env bash
printf '%s\\n' "$@" >> "$SEEN.words"
while (($#)); do if [[ $1 == --config ]]; then cat "$2" >> "$SEEN.config"; fi; shift; done
exit 7
"""


@pytest.fixture
def curl(tmp_path: Path) -> Callable[..., tuple[str, str, str]]:
    """Run a script with a curl that sends nothing.

    Answer the words that it was called with, its configuration, and what was said.
    """
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "curl").write_text(CURL)
    (tmp_path / "bin" / "curl").chmod(0o755)

    def run(**environ: str) -> tuple[str, str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("SHRINKD_")
        }
        kept |= {"PATH": f"{tmp_path}/bin:{kept['PATH']}", "SEEN": str(tmp_path / "seen")}
        done = subprocess.run(
            [FOLDER / "01-node.sh"], env=kept | environ, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        words, config = (tmp_path / "seen.words", tmp_path / "seen.config")
        return *(path.read_text() if path.exists() else "" for path in (words, config)), done.stderr  # type: ignore[return-value]

    return run


@pytest.mark.parametrize(
    "place",
    [
        {"SHRINKD_URL": "http://127.0.0.1:1"},
        {"SHRINKD_SOCKET": "/none"},
        {"SHRINKD_URL": "https://node1.example"},
    ],
)
def test_a_script_sends_the_token_where_it_is_told_to_and_no_list_of_processes_has_it(
    curl: Callable[..., tuple[str, str, str]], place: dict[str, str]
) -> None:
    words, config, _ = curl(SHRINKD_TOKEN=SECRET, **place)
    assert BEARER in config
    assert SECRET not in words
    assert words.startswith("-q\n")
    assert "--noproxy\n*\n" in words


def test_a_script_sends_no_token_where_nobody_sent_it(
    curl: Callable[..., tuple[str, str, str]],
) -> None:
    words, config, said = curl(SHRINKD_TOKEN=SECRET)
    assert "SHRINKD_TOKEN is not sent to http://127.0.0.1:8080" in said
    assert SECRET not in words + config
    assert "http://127.0.0.1:8080/livez" in words


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1", "HTTP://192.0.2.1", "192.0.2.1:80", "http://127.0.0.1:1@192.0.2.1"]
)
def test_a_script_sends_no_token_in_the_clear_beyond_this_host(
    curl: Callable[..., tuple[str, str, str]], url: str
) -> None:
    words, config, said = curl(SHRINKD_TOKEN=SECRET, SHRINKD_URL=url)
    assert "in the clear" in said
    assert (words, config) == ("", "")
