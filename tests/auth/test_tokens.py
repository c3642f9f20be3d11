"""Tokens.

A secret is shown once and kept as its hash, in a file that is ours alone, whole at any moment, and
read again on demand.
"""

import json
import logging
import os
import signal
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shrinkd.auth.tokens import PREFIX, Tokens, make, read_entries, revoke
from shrinkd.errors import SettingsError, TokenRefused
from tests.support.live_server import Daemon
from tests.support.polling import until
from tests.support.problem_checks import problem
from tests.test_main import assert_refused, shrinkd

DAY = 86400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).timestamp()

    def __call__(self) -> float:
        return self.now


def made(path: Path, name: str = "ci", *scopes: str, span: str = "1d") -> str:
    return str(make(path, name, list(scopes) or ["read"], span))


def test_a_secret_is_256_bits_with_our_mark_and_no_two_are_alike(path: Path) -> None:
    secrets = {made(path, f"ci-{number}") for number in range(20)}
    assert len(secrets) == 20
    assert {(secret.startswith(PREFIX), len(secret) - len(PREFIX)) for secret in secrets} == {
        (True, 43)
    }  # 43 x 6 bits >= 256


def test_the_file_has_no_secret_and_is_for_its_owner_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        secret = made(path)
    finally:
        os.umask(before)
    assert secret.removeprefix(PREFIX) not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["tokens"]


def test_a_token_is_known_with_its_scopes(path: Path) -> None:
    secret = made(path, "ci", "read", "write@web")
    caller = Tokens(str(path), Clock()).bearer(secret.encode())
    assert (caller.name, [str(grant) for grant in caller.grants]) == (
        "token:ci",
        ["read", "write@web"],
    )


@pytest.mark.parametrize("wrong", [b"", b"shrinkd_", b"nonsense", b"\xff" * 50, b"x" * 10_000])
def test_what_is_no_token_is_refused(path: Path, wrong: bytes) -> None:
    made(path)
    with pytest.raises(TokenRefused):
        Tokens(str(path), Clock()).bearer(wrong)


def test_a_token_one_letter_off_is_refused(path: Path) -> None:
    secret = made(path)
    with pytest.raises(TokenRefused):
        Tokens(str(path), Clock()).bearer(secret[:-2].encode() + b"--")


def test_a_token_that_shares_the_begin_of_its_hash_with_another_is_refused(path: Path) -> None:
    secret = made(path)
    entry = json.loads(path.read_text())
    path.write_text(
        json.dumps(
            entry | {"sha256": entry["sha256"][:-1] + ("0" if entry["sha256"][-1] != "0" else "1")}
        )
    )
    with pytest.raises(TokenRefused):
        Tokens(str(path), Clock()).bearer(secret.encode())


def test_a_token_holds_until_it_expires_by_the_clock_of_each_use(path: Path) -> None:
    clock = Clock()
    secret = made(path, span="90d").encode()
    tokens = Tokens(str(path), clock)
    clock.now += 89.9 * DAY
    assert tokens.bearer(secret).name == "token:ci"
    clock.now += 0.1 * DAY
    with pytest.raises(TokenRefused) as expired:
        tokens.bearer(secret)
    with pytest.raises(TokenRefused) as unknown:
        tokens.bearer(b"shrinkd_unknown")
    assert expired.value.detail == unknown.value.detail


@pytest.mark.parametrize(
    ("span", "wanted"),
    [("30m", timedelta(minutes=30)), ("12h", timedelta(hours=12)), ("2w", timedelta(weeks=2))],
)
def test_a_span_is_a_number_and_a_unit(path: Path, span: str, wanted: timedelta) -> None:
    before = datetime.now(UTC)
    made(path, span=span)
    expires = read_entries(path)[0].expires_at
    assert expires is not None
    assert wanted - timedelta(seconds=1) <= expires - before <= wanted + timedelta(minutes=1)


@pytest.mark.parametrize(
    "span", ["", "90", "d", "0d", "-1d", "1.5d", "90 d", "999999d", "\N{ARABIC-INDIC DIGIT FOUR}d"]
)
def test_what_is_no_span_is_refused(path: Path, span: str) -> None:
    with pytest.raises(SettingsError, match="is no time that a token can hold"):
        made(path, span=span)


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("", "read"),
        ("a b", "read"),
        ("../x", "read"),
        ("x" * 65, "read"),
        ("ci", "root"),
        ("ci", "read@"),
    ],
)
def test_what_cannot_be_a_token_is_refused_before_anything_is_written(
    path: Path, name: str, scope: str
) -> None:
    with pytest.raises(SettingsError, match=r"is no name|is no scope"):
        made(path, name, scope)
    assert not path.exists()


def test_a_name_stands_for_one_token_until_that_is_revoked(path: Path) -> None:
    first = made(path)
    with pytest.raises(SettingsError, match="There is a token 'ci' already"):
        made(path)
    revoke(path, "ci")
    second = made(path)
    tokens = Tokens(str(path), Clock())
    assert tokens.bearer(second.encode()).name == "token:ci"
    with pytest.raises(TokenRefused):
        tokens.bearer(first.encode())


def test_revoking_what_is_not_there_is_said(path: Path) -> None:
    made(path)
    with pytest.raises(SettingsError, match="There is no token 'other'"):
        revoke(path, "other")


def test_writers_at_the_same_time_lose_nothing(path: Path) -> None:
    threads = [threading.Thread(target=made, args=(path, f"ci-{number}")) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.name for entry in read_entries(path)} == {f"ci-{number}" for number in range(16)}


def test_a_write_that_cannot_be_done_leaves_the_file_as_it_was(path: Path) -> None:
    made(path)
    before = path.read_text()
    with pytest.raises(SettingsError):
        made(path.parent / "none" / "tokens")
    with pytest.raises(SettingsError, match="already"):
        made(path)
    assert path.read_text() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["tokens"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o602, 0o620])
def test_a_file_that_others_could_read_or_write_is_refused(path: Path, mode: int) -> None:
    made(path)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=f"chmod 600 {path}"):
        Tokens(str(path), Clock())
    with pytest.raises(SettingsError, match="chmod 600"):
        made(path, "other")


SPOILT = {
    "no JSON": "nonsense",
    "unknown name": '{"name": "ci", "scopes": ["read"], "sha256": "SHA", "expires_at": '
    '"2030-01-01T00:00:00Z", "more": 1}',
    "no hash": '{"name": "ci", "scopes": ["read"], "expires_at": "2030-01-01T00:00:00Z"}',
    "no expiry": '{"name": "ci", "scopes": ["read"], "sha256": "SHA"}',
    "no scope": '{"name": "ci", "scopes": [], "sha256": "SHA", "expires_at": '
    '"2030-01-01T00:00:00Z"}',
    "wrong scope": '{"name": "ci", "scopes": ["root"], "sha256": "SHA", "expires_at": '
    '"2030-01-01T00:00:00Z"}',
    "wrong hash": '{"name": "ci", "scopes": ["read"], "sha256": "abc", "expires_at": '
    '"2030-01-01T00:00:00Z"}',
    "a time of nowhere": '{"name": "ci", "scopes": ["read"], "sha256": "SHA", "expires_at": '
    '"2030-01-01T00:00:00"}',
    "a certificate with a hash": '{"name": "certificate:x", "scopes": ["read"], "sha256": "SHA", '
    '"expires_at": "2030-01-01T00:00:00Z"}',
    "an empty line": "\n",
    "a name twice": "FIRST",
}


@pytest.mark.parametrize("line", SPOILT.values(), ids=SPOILT)
def test_a_line_that_is_not_understood_is_named_and_not_shown(path: Path, line: str) -> None:
    made(path, "first")
    first = path.read_text().strip()
    path.write_text(f"{first}\n" + line.replace("SHA", "ab" * 32).replace("FIRST", first) + "\n")
    with pytest.raises(SettingsError, match=f"^{path}, line 2: ") as caught:
        Tokens(str(path), Clock())
    assert "abab" not in caught.value.detail
    assert json.loads(first)["sha256"] not in caught.value.detail


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_file_that_is_not_there_or_says_nothing_stops_the_start(
    path: Path, content: bytes | None
) -> None:
    if content is not None:
        path.touch(mode=0o600)
        path.write_bytes(content)
    with pytest.raises(SettingsError, match="shrinkd token make"):
        Tokens(str(path), Clock())


def test_a_pipe_in_the_place_of_the_file_holds_nobody(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(SettingsError, match="has to be a file"):
        Tokens(str(path), Clock())


def test_read_again_a_new_token_holds_and_a_revoked_one_does_not(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = made(path, "old")
    tokens = Tokens(str(path), Clock())
    new = made(path, "new")
    revoke(path, "old")
    with caplog.at_level(logging.INFO):
        tokens.reload()
    assert tokens.bearer(new.encode()).name == "token:new"
    with pytest.raises(TokenRefused):
        tokens.bearer(old.encode())
    assert "1 tokens" in caplog.text
    assert new not in caplog.text


def test_the_last_token_can_be_revoked(path: Path) -> None:
    secret = made(path)
    tokens = Tokens(str(path), Clock())
    revoke(path, "ci")
    tokens.reload()
    with pytest.raises(TokenRefused):
        tokens.bearer(secret.encode())


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_text("{"), lambda path: path.chmod(0o644), Path.unlink],
    ids=["damaged", "open", "gone"],
)
def test_a_spoilt_file_read_again_changes_nothing_and_the_log_says_why(
    path: Path, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    secret = made(path)
    tokens = Tokens(str(path), Clock())
    spoil(path)
    tokens.reload()
    assert tokens.bearer(secret.encode()).name == "token:ci"
    assert "the tokens stay as they were" in caplog.text


def test_a_certificate_has_scopes_and_no_secret(path: Path) -> None:
    assert make(path, "certificate:node agent", ["write@web"], "1d") is None
    entry = read_entries(path)[0]
    assert (entry.name, entry.sha256, entry.expires_at) == ("certificate:node agent", None, None)


# -- the command line and the daemon


def test_the_command_line_makes_lists_and_revokes(path: Path) -> None:
    settings = {"tokens": str(path)}
    done = shrinkd(
        "token",
        "make",
        "ci",
        "--scope",
        "read",
        "--scope",
        "write@web",
        "--expires",
        "12h",
        **settings,
    )
    assert (
        done.returncode,
        done.stderr,
        done.stdout.startswith(PREFIX),
        done.stdout.count("\n"),
    ) == (0, "", True, 1)
    made(path, "old", span="1m")
    (name, scopes, expires, state), _ = (
        line.split("\t") for line in shrinkd("token", "list", **settings).stdout.splitlines()
    )
    assert (name, scopes, state) == ("ci", "read,write@web", "holds")
    assert datetime.fromisoformat(expires) > datetime.now(UTC)
    assert shrinkd("token", "revoke", "ci", **settings).returncode == 0
    assert [entry.name for entry in read_entries(path)] == ["old"]


@pytest.mark.parametrize(
    "command", [("list",), ("revoke", "ci"), ("make", "ci", "--scope", "read")]
)
def test_a_command_without_its_file_says_which_setting_it_takes(command: tuple[str, ...]) -> None:
    assert_refused(shrinkd("token", *command), 2, "SHRINKD_TOKENS")


def test_a_daemon_does_not_start_on_a_file_that_others_can_read(path: Path, tmp_path: Path) -> None:
    made(path)
    path.chmod(0o644)
    sound = {
        "backend": "simulator",
        "listen": f"unix:{tmp_path}/api.sock",
        "database_url": f"sqlite:///{tmp_path}/x.db",
        "log": "json",
    }
    assert_refused(shrinkd("serve", **sound, tokens=str(path)), 2, "chmod 600")


def test_a_running_daemon_forgets_a_revoked_token_at_sighup_keeps_all_when_the_file_is_damaged(
    path: Path, daemon: Callable[..., Daemon]
) -> None:
    secrets = {name: made(path, name) for name in ("stays", "goes")}
    running = daemon(tokens=str(path))

    def status(name: str) -> int:
        return running.client.get(
            "/v1/groups", headers={"Authorization": f"Bearer {secrets[name]}"}
        ).status_code

    assert (status("stays"), status("goes")) == (200, 200)
    revoke(path, "goes")
    assert status("goes") == 200  # until it is told
    os.kill(running.pid, signal.SIGHUP)
    until(lambda: status("goes") == 401)
    path.write_text("{")
    os.kill(running.pid, signal.SIGHUP)
    until(lambda: "the tokens stay as they were" in running.log.read_text())
    assert (status("stays"), status("goes")) == (200, 401)
    problem(
        running.client.get("/v1/groups", headers={"Authorization": f"Bearer {secrets['goes']}"}),
        401,
        "token-refused",
    )
    assert running.stop() == 0
    assert [name for name, secret in secrets.items() if secret in running.log.read_text()] == []
