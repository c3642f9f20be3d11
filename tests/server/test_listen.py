"""Check that sockets are bound safely or not at all, and that no other socket is removed."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shrinkd.errors import SettingsError
from shrinkd.server.listen import check_listen, listening
from shrinkd.settings import Settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api.sock"


@pytest.mark.parametrize(
    "address",
    [
        "tcp:0.0.0.0:80",
        "tcp:[::]:80",
        "tcp:192.0.2.1:80",
        "tcp:example.org:80",
        "tcp:[2001:db8::1]:80",
        "tcp:0:80",
    ],
)
def test_an_address_that_others_can_reach_is_refused_even_to_a_simulator(address: str) -> None:
    with pytest.raises(
        SettingsError,
        match="reachable from elsewhere: set SHRINKD_TOKENS and SHRINKD_TLS_CERTIFICATE and "
        "SHRINKD_TLS_KEY",
    ):
        check_listen((address,), Settings(), simulated=True)


@pytest.mark.parametrize(
    "address",
    ["tcp:127.0.0.1:0", "tcp:127.9.9.9:0", "tcp:[::1]:0", "tcp:localhost:0", "unix:/run/x.sock"],
)
def test_a_simulator_may_listen_where_only_this_host_is(address: str) -> None:
    check_listen((address,), Settings(), simulated=True)


@pytest.mark.parametrize(
    "address", ["tcp:127.0.0.1:80", "tcp:[::1]:80", "tcp:localhost:80", "tcp:0.0.0.0:80"]
)
def test_real_limits_are_offered_on_no_tcp_port_without_tokens(address: str) -> None:
    with pytest.raises(SettingsError, match="set SHRINKD_TOKENS, or use unix:/PATH"):
        check_listen(("unix:/run/x.sock", address), Settings(), simulated=False)


@pytest.mark.parametrize("simulated", [True, False])
def test_an_address_that_others_can_reach_takes_tokens_and_tls_alike(*, simulated: bool) -> None:
    private = Settings(tls_certificate="/c", tls_key="/k")
    with pytest.raises(
        SettingsError,
        match="elsewhere: set SHRINKD_TLS_CERTIFICATE and SHRINKD_TLS_KEY, or use a loopback",
    ):
        check_listen(("tcp:0.0.0.0:80",), Settings(tokens="/t"), simulated=simulated)
    with pytest.raises(SettingsError, match="set SHRINKD_TOKENS, or use"):
        check_listen(("tcp:0.0.0.0:80",), private, simulated=simulated)
    check_listen(
        ("tcp:0.0.0.0:80",), private.model_copy(update={"tokens": "/t"}), simulated=simulated
    )


def test_with_tokens_real_limits_are_offered_on_a_loopback_port() -> None:
    check_listen(("tcp:127.0.0.1:80",), Settings(tokens="/t"), simulated=False)


def test_a_unix_socket_is_for_its_owner_and_group_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with listening((f"unix:{path}",)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
    finally:
        os.umask(before)


def test_a_socket_goes_with_the_daemon(path: Path) -> None:
    with listening((f"unix:{path}", "tcp:127.0.0.1:0")):
        pass
    assert not path.exists()


def test_a_socket_that_another_daemon_has_put_in_the_place_of_ours_is_left_to_it(
    path: Path,
) -> None:
    with ExitStack() as another:
        with listening((f"unix:{path}",)) as (ours,):
            ours.close()  # as when it drains
            another.enter_context(listening((f"unix:{path}",)))
        assert path.is_socket()
    assert not path.exists()


def test_the_folder_of_a_socket_is_made(tmp_path: Path) -> None:
    with listening((f"unix:{tmp_path}/new/folder/api.sock",)) as sockets:
        assert len(sockets) == 1


def test_the_socket_of_a_dead_daemon_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listening((f"unix:{path}",)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.fixture(params=["answers", "is busy"])
def foreign(request: pytest.FixtureRequest, path: Path) -> Iterator[Path]:
    """A socket of another program, with a full backlog or room for a connection."""
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(0)
        if request.param == "is busy":
            waiting.connect(str(path))
        yield path


def test_a_socket_on_which_somebody_answers_is_left_to_them(foreign: Path) -> None:
    with pytest.raises(SettingsError, match="Somebody answers"), listening((f"unix:{foreign}",)):
        pass
    assert foreign.is_socket()


PRECIOUS: dict[str, Callable[[Path, Path], object]] = {
    "file": lambda path, target: path.write_text(target.read_text()),
    "folder": lambda path, _target: path.mkdir(),
    "link": lambda path, target: path.symlink_to(target),
    "dangling link": lambda path, target: path.symlink_to(target.with_name("nothing")),
    "pipe": lambda path, _target: os.mkfifo(path),
}


@pytest.mark.parametrize("make", PRECIOUS.values(), ids=PRECIOUS)
def test_what_is_no_socket_is_left_alone(path: Path, make: Callable[[Path, Path], object]) -> None:
    target = path.with_name("target")
    target.write_text("precious")
    make(path, target)
    with pytest.raises(SettingsError, match="is not a socket"), listening((f"unix:{path}",)):
        pass
    assert path.is_symlink() or path.exists()
    assert target.read_text() == "precious"


@pytest.mark.parametrize(
    "address",
    [
        "tcp:no.such.host.invalid:80",
        "unix:/proc/none/api.sock",
        "unix:/dev/null/api.sock",
        f"unix:/tmp/{'x' * 200}",
    ],
)
def test_an_address_that_cannot_be_had_is_named_and_nothing_stays_bound(
    path: Path, address: str
) -> None:
    with (
        pytest.raises(SettingsError, match="cannot be bound") as caught,
        listening((f"unix:{path}", address)),
    ):
        pass
    assert address in caught.value.detail
    assert not path.exists()


def test_a_port_that_somebody_has_is_named(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingsError, match="in use"), listening((f"unix:{path}", address)):
            pass
    assert not path.exists()
