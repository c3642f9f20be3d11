"""Check the identity of peers: users by credentials on unix sockets, names by TLS certificates."""

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request

from shrinkd.api.http.dependencies import caller_of
from shrinkd.auth.tokens import make
from shrinkd.errors import SettingsError
from shrinkd.server.peer_identity import tls_context
from shrinkd.settings import Settings
from tests.support.bearer import new_token
from tests.support.certificates import OPENSSL, Authority
from tests.support.live_server import Live
from tests.support.problem_checks import problem
from tests.test_main import assert_refused, shrinkd

needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
_SECONDS = 60


def tell_callers(live: Live) -> Live:
    """Add a route to the server that answers who sends the request."""

    async def whoami(request: Request) -> list[str]:
        caller = caller_of(request.scope)
        return [caller.name, *map(str, caller.grants)]

    live.app.add_api_route("/v1/whoami", whoami)
    return live


def on(path: Path) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(path)), base_url="http://shrinkd", timeout=_SECONDS
    )


# -- unix sockets ------------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can read."""
    with tempfile.TemporaryDirectory(prefix="shrinkd-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def both(settings: Settings, place: Path) -> Iterator[Live]:
    """A server with tokens on a unix socket and on TCP."""
    make(place / "tokens", "first", ["read"], "1d")
    with Live(
        settings.model_copy(update={"tokens": str(place / "tokens")}),
        beside=(f"unix:{place}/api.sock",),
    ) as live:
        yield tell_callers(live)


def test_on_a_unix_socket_the_caller_is_the_user_who_asks_and_may_do_everything(
    both: Live, place: Path
) -> None:
    with on(place / "api.sock") as client:
        assert client.get("/v1/whoami").json() == [f"uid:{os.getuid()}", "admin"]
    problem(both.client.get("/v1/whoami"), 401, "unauthenticated")


def test_a_token_on_a_unix_socket_narrows_its_sender_down(both: Live, place: Path) -> None:
    narrow = {"Authorization": f"Bearer {new_token(both, 'read@web', name='narrow')}"}
    with on(place / "api.sock") as client:
        assert client.get("/v1/whoami", headers=narrow).json() == ["token:narrow", "read@web"]
        problem(
            client.get("/v1/whoami", headers={"Authorization": "Bearer shrinkd_unknown"}),
            401,
            "token-refused",
        )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_is_told_by_its_id_and_comes_in_by_the_group_alone(
    both: Live, place: Path
) -> None:
    assert both.alive

    def asked_by(user: int, group: int) -> subprocess.CompletedProcess[str]:
        command = ["curl", "-s", "--unix-socket", f"{place}/api.sock", "http://localhost/v1/whoami"]
        return subprocess.run(
            command,
            user=user,
            group=group,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )

    assert asked_by(4711, 0).stdout == '["uid:4711","admin"]'
    assert (asked_by(4711, 4711).returncode, asked_by(4711, 4711).stdout) == (7, "")


def test_a_daemon_without_tokens_takes_none_and_asks_for_none(server: Live) -> None:
    assert tell_callers(server).client.get("/v1/whoami").json() == ["anyone", "admin"]
    problem(
        server.client.get("/v1/groups", headers={"Authorization": "Bearer shrinkd_unknown"}),
        401,
        "token-refused",
    )


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def private(settings: Settings, authority: Authority, place: Path) -> Iterator[Live]:
    """A server with a certificate that accepts clients of the same authority."""
    certificate, key = authority.sign("server")
    make(place / "tokens", "certificate:orchestrator", ["read", "write@web"], "1d")
    tls = {
        "tls_certificate": certificate,
        "tls_key": key,
        "tls_client_ca": authority.certificate,
        "tokens": str(place / "tokens"),
    }
    with Live(settings.model_copy(update=tls), beside=(f"unix:{place}/api.sock",)) as live:
        yield tell_callers(live)


def trusting(authority: Authority, shown: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.certificate)
    if shown:
        context.load_cert_chain(*shown)
    return context


Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(private: Live, authority: Authority) -> Ask:
    """Ask for the caller name, with a certificate of this name or with none."""

    def asked(name: str | None = None, **headers: str) -> httpx.Response:
        context = trusting(authority, None if name is None else authority.sign(name))
        with httpx.Client(
            base_url=private.url, verify=context, timeout=_SECONDS, headers=headers
        ) as client:
            return client.get("/v1/whoami")

    return asked


@needs_openssl
def test_a_client_certificate_names_the_caller_and_the_file_says_what_it_may_do(ask: Ask) -> None:
    assert ask("orchestrator").json() == ["certificate:orchestrator", "read", "write@web"]


@needs_openssl
def test_a_certificate_without_a_line_in_the_file_may_do_nothing(ask: Ask) -> None:
    answer = problem(ask("stranger"), 403, "forbidden")
    assert "certificate:stranger" in answer["detail"]


@needs_openssl
def test_the_scopes_of_a_certificate_are_those_of_the_file_at_each_request(
    private: Live, authority: Authority, place: Path
) -> None:
    with httpx.Client(
        base_url=private.url, verify=trusting(authority, authority.sign("late")), timeout=_SECONDS
    ) as client:
        assert client.get("/v1/whoami").status_code == 403
        make(place / "tokens", "certificate:late", ["read"], "1d")
        private.parts.tokens.reload()
        assert client.get("/v1/whoami").json() == ["certificate:late", "read"]


@needs_openssl
def test_over_tls_a_token_does_as_well_and_nothing_does_not(ask: Ask, private: Live) -> None:
    assert ask(Authorization=f"Bearer {new_token(private, 'read', name='ci')}").json() == [
        "token:ci",
        "read",
    ]
    problem(ask(), 401, "unauthenticated")


@needs_openssl
def test_a_certificate_of_another_authority_is_not_let_in(
    private: Live, authority: Authority, tmp_path: Path
) -> None:
    forged = Authority(tmp_path, "forger").sign("orchestrator")
    with (
        httpx.Client(
            base_url=private.url, verify=trusting(authority, forged), timeout=_SECONDS
        ) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get("/v1/whoami")


def shown_name(private: Live, authority: Authority) -> str:
    """Return the common name of the certificate that a new connection gets."""
    with (
        socket.create_connection(("127.0.0.1", int(private.url.rpartition(":")[2]))) as plain,
        trusting(authority).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        subject: Any = (connection.getpeercert() or {})["subject"]
        return str(subject[0][0][1])


@needs_openssl
def test_a_certificate_is_renewed_without_a_new_start_and_one_that_cannot_be_used_changes_nothing(
    private: Live, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = (Path(name) for name in authority.sign("server"))
    assert shown_name(private, authority) == "server"
    for old, new in zip((certificate, key), authority.sign("renewed"), strict=True):
        shutil.copy(new, old)
    assert shown_name(private, authority) == "server"  # until SIGHUP
    private.server.reload()
    assert shown_name(private, authority) == "renewed"
    shutil.copy(authority.sign("other")[1], key)  # the key of another one
    private.server.reload()
    assert "the certificate stays as it was" in caplog.text
    assert shown_name(private, authority) == "renewed"


@needs_openssl
def test_on_a_tls_address_nothing_is_said_in_the_clear(private: Live) -> None:
    port = int(private.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in plain.recv(4096)


@needs_openssl
def test_beside_tls_a_unix_socket_stays_in_the_clear_and_asks_the_kernel(
    private: Live, place: Path
) -> None:
    assert private.alive
    with on(place / "api.sock") as client:
        assert client.get("/v1/whoami").json() == [f"uid:{os.getuid()}", "admin"]


@needs_openssl
def test_nothing_older_than_tls_1_2_is_spoken(private: Live) -> None:
    context = tls_context(private.parts.settings)
    assert context is not None
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@needs_openssl
def test_a_server_stops_also_while_a_private_connection_is_open(
    private: Live, authority: Authority
) -> None:
    port = int(private.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        trusting(authority).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        private.stop()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tls_certificate": "/c"}, "needs both SHRINKD_TLS_CERTIFICATE and SHRINKD_TLS_KEY"),
        ({"tls_key": "/k"}, "needs both SHRINKD_TLS_CERTIFICATE and SHRINKD_TLS_KEY"),
        ({"tls_client_ca": "/ca"}, "needs both SHRINKD_TLS_CERTIFICATE and SHRINKD_TLS_KEY"),
        (
            {"tls_certificate": "/c", "tls_key": "/k", "tls_client_ca": "/ca"},
            "SHRINKD_TLS_CLIENT_CA needs SHRINKD_TOKENS",
        ),
        ({"tls_certificate": "/none/c", "tls_key": "/none/k"}, "cannot be used: No such file"),
    ],
)
def test_tls_by_halves_is_refused_by_name(given: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        tls_context(Settings.model_validate(given))


@needs_openssl
def test_a_file_that_is_no_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.sign("server")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    for wrong in (
        {"tls_certificate": str(nonsense)},
        {"tls_key": str(nonsense)},
        {"tls_client_ca": str(nonsense), "tokens": "/t"},
    ):
        with pytest.raises(SettingsError, match="cannot be used"):
            tls_context(
                Settings.model_validate({"tls_certificate": certificate, "tls_key": key} | wrong)
            )


@needs_openssl
def test_a_key_behind_a_password_is_refused_and_nobody_is_asked_for_one(
    authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.sign("server")
    locked = str(tmp_path / "locked")
    subprocess.run(
        [str(OPENSSL), "ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked],
        check=True,
        capture_output=True,
    )
    with pytest.raises(SettingsError, match="encrypted with a password"):
        tls_context(Settings(tls_certificate=certificate, tls_key=locked))


@needs_openssl
def test_a_daemon_with_a_certificate_that_it_cannot_read_says_so_and_does_not_start(
    tmp_path: Path,
) -> None:
    settings = {
        "backend": "simulator",
        "listen": "tcp:127.0.0.1:0",
        "database_url": f"sqlite:///{tmp_path}/x.db",
        "log": "json",
    }
    assert_refused(
        shrinkd("serve", **settings, tls_certificate="/none/c", tls_key="/none/k"),
        2,
        "SHRINKD_TLS_CERTIFICATE",
    )
