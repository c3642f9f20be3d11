"""The database and the socket are in system directories for root, in XDG directories for others."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from shrinkd.client import address_of
from shrinkd.default_paths import make_private_directory, socket_path, state_directory
from tests.support.live_server import Daemon

USER = 65534
HOME = {"HOME": "/home/a"}


@pytest.mark.parametrize(
    ("environ", "uid", "state", "socket"),
    [
        ({}, 0, "/var/lib/shrinkd", "/run/shrinkd/api.sock"),
        (
            HOME | {"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"},
            0,
            "/var/lib/shrinkd",
            "/run/shrinkd/api.sock",
        ),
        (
            HOME | {"XDG_RUNTIME_DIR": "/run/user/1"},
            1,
            "/home/a/.local/state/shrinkd",
            "/run/user/1/shrinkd/api.sock",
        ),
        (HOME | {"XDG_STATE_HOME": "/s"}, 1, "/s/shrinkd", None),
        (
            HOME | {"XDG_STATE_HOME": "", "XDG_RUNTIME_DIR": ""},
            1,
            "/home/a/.local/state/shrinkd",
            None,
        ),
        (
            HOME | {"XDG_STATE_HOME": "relative", "XDG_RUNTIME_DIR": "relative"},
            1,
            "/home/a/.local/state/shrinkd",
            None,
        ),
    ],
)
def test_root_has_system_directories_and_others_have_those_of_xdg(
    environ: Mapping[str, str], uid: int, state: str, socket: str | None
) -> None:
    assert state_directory(environ, uid) == Path(state)
    assert socket_path(environ, uid) == (Path(socket) if socket else None)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_directories_are_made_for_their_owner_alone(tmp_path: Path, depth: int) -> None:
    tmp_path.chmod(0o755)
    inner = tmp_path.joinpath(*"abc"[:depth])
    make_private_directory(inner)
    made = [inner, *inner.parents][:depth]
    assert [stat.S_IMODE(each.stat().st_mode) for each in made] == [0o700] * depth
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_directory_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_private_directory(tmp_path / "file")


# As an ordinary user


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home directory of USER; its runtime directory is `run` inside."""
    folder = tmp_path / "home"
    for each in (folder, folder / "run"):
        each.mkdir(mode=0o700)
        os.chown(each, USER, USER)
    return folder


@pytest.fixture
def as_user() -> list[str]:
    """The words before a command that make USER run it, who may read what root's Python is in."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("to run a command as another user needs root and setpriv")
    capability = "+dac_read_search"
    ids = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    words = ["setpriv", *ids, f"--inh-caps={capability}", f"--ambient-caps={capability}"]
    if subprocess.run([*words, sys.executable, "-c", ""], check=False).returncode:
        pytest.skip(
            "this user may not pass CAP_DAC_READ_SEARCH on, so another could not read Python"
        )
    return words


def environ_of(home: Path, **settings: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "PYTHONDONTWRITEBYTECODE": "1",
    } | settings


@pytest.fixture
def daemon(home: Path, as_user: list[str], tmp_path: Path) -> Iterator[Daemon]:
    """A daemon of USER without a setting but the simulator and the socket of a real backend."""
    socket = socket_path(environ_of(home), USER)
    assert socket

    def begin(_: Mapping[str, str], __: Path) -> subprocess.Popen[bytes]:
        settings = {"SHRINKD_BACKEND": "simulator", "SHRINKD_LISTEN": f"unix:{socket}"}
        with (tmp_path / "daemon.log").open("ab") as lines:
            return subprocess.Popen(
                [*as_user, sys.executable, "-m", "shrinkd", "serve"],
                env=environ_of(home, **settings),
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
                process_group=0,
            )

    with closing(Daemon(socket.parent, begin)) as started:
        yield started


def test_a_users_daemon_keeps_its_state_and_its_socket_in_that_users_directories(
    daemon: Daemon, home: Path
) -> None:
    state = home / ".local" / "state" / "shrinkd"
    assert (state / "shrinkd.db").is_file()
    made = (home / ".local", state.parent, state, daemon.socket.parent)
    assert [(each.stat().st_uid, stat.S_IMODE(each.stat().st_mode)) for each in made] == [
        (USER, 0o700)
    ] * 4
    assert (state / "shrinkd.db").stat().st_uid == daemon.socket.stat().st_uid == USER


def test_a_users_command_finds_that_users_daemon_without_being_told(
    daemon: Daemon, home: Path, as_user: list[str]
) -> None:
    done = subprocess.run(
        [*as_user, sys.executable, "-m", "shrinkd", "node", "--json"],
        env=environ_of(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert '"backend":"simulator"' in done.stdout.replace(" ", ""), done.stderr
    assert daemon.client.get("/livez").is_success


def test_a_user_without_a_runtime_directory_is_told_what_to_set(
    home: Path, as_user: list[str]
) -> None:
    told = (
        "from shrinkd.server.listen import default_addresses\n"
        "try: default_addresses(simulated=False)\n"
        "except Exception as error: print(error.detail)\n"
        "print(default_addresses(simulated=True))\n"
    )
    environ = environ_of(home)
    del environ["XDG_RUNTIME_DIR"]
    done = subprocess.run(
        [*as_user, sys.executable, "-c", told],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "XDG_RUNTIME_DIR is not set" in done.stdout
    assert "SHRINKD_LISTEN=unix:/PATH" in done.stdout
    assert "tcp:127.0.0.1:8080" in done.stdout


def test_a_user_without_a_home_is_told_what_to_set(as_user: list[str], tmp_path: Path) -> None:
    nobody_known = [word.replace(str(USER), "54321") for word in as_user]
    done = subprocess.run(
        [*nobody_known, sys.executable, "-m", "shrinkd", "db", "upgrade"],
        env={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("shrinkd: SHRINKD_DATABASE_URL is not set")
    assert done.stderr.count("\n") == 1


def test_a_client_of_root_ignores_the_runtime_directory(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    socket = tmp_path / "shrinkd" / "api.sock"
    socket.parent.mkdir()
    socket.touch()
    assert address_of(None, {"XDG_RUNTIME_DIR": str(tmp_path)}) != f"unix:{socket}"
