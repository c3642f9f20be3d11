"""Settings from the environment: every variable is known, checked, and named when it is wrong."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from shrinkd.default_paths import state_directory
from shrinkd.errors import SettingsError
from shrinkd.settings import Settings, read_settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read_settings({}) == Settings()


def test_variables_of_others_are_none_of_our_business() -> None:
    assert (
        read_settings({"PATH": "/bin", "shrinkd_backend": "nonsense", "XSHRINKD_LOG": "?"})
        == Settings()
    )


def test_variables_of_the_test_suite_are_left_to_it() -> None:
    assert read_settings({"SHRINKD_TEST_REQUIRE_ALL": "1"}) == Settings()


def test_variables_of_clients_are_left_to_them() -> None:
    assert (
        read_settings({"SHRINKD_URL": "unix:/run/x.sock", "SHRINKD_TOKEN": "secret"}) == Settings()
    )


def test_the_database_is_in_the_state_directory_of_the_environment_that_is_read() -> None:
    environ = {"XDG_STATE_HOME": "/s", "HOME": "/home/a"}
    assert read_settings(environ).database_url == f"sqlite:///{state_directory(environ)}/shrinkd.db"
    assert state_directory(environ, uid=1) == Path("/s/shrinkd")


def test_every_setting_has_its_variable() -> None:
    environ = {
        "SHRINKD_BACKEND": "simulator",
        "SHRINKD_LISTEN": "unix:/run/x.sock, tcp:[::1]:8080,",
        "SHRINKD_DATABASE_URL": "sqlite://",
        "SHRINKD_CGROUP_ROOT": "/sys/fs/cgroup/memory/docker",
        "SHRINKD_SUBTREES": "kubepods.slice/*, batch",
        "SHRINKD_TOKENS": "/etc/shrinkd/tokens",
        "SHRINKD_TLS_CERTIFICATE": "/etc/shrinkd/tls.crt",
        "SHRINKD_TLS_KEY": "/etc/shrinkd/tls.key",
        "SHRINKD_TLS_CLIENT_CA": "/etc/shrinkd/clients.crt",
        "SHRINKD_MAX_RUNNING_SHRINKS": "8",
        "SHRINKD_LOG": "json",
        "SHRINKD_HOSTS": "node1.example, Node1",
        "SHRINKD_SCENARIO": "empty",
    }
    assert {f"SHRINKD_{name.upper()}" for name in Settings.model_fields} == environ.keys()
    assert read_settings(environ) == Settings(
        backend="simulator",
        listen=("unix:/run/x.sock", "tcp:[::1]:8080"),
        database_url="sqlite://",
        cgroup_root="/sys/fs/cgroup/memory/docker",
        subtrees=("kubepods.slice/*", "batch"),
        tokens="/etc/shrinkd/tokens",
        tls_certificate="/etc/shrinkd/tls.crt",
        tls_key="/etc/shrinkd/tls.key",
        tls_client_ca="/etc/shrinkd/clients.crt",
        max_running_shrinks=8,
        log="json",
        hosts=("node1.example", "Node1"),
        scenario="empty",
    )


def test_the_names_that_a_request_may_be_for_are_those_listened_on_and_those_given() -> None:
    settings = Settings(listen=("unix:/run/x.sock", "tcp:Inner.example:80"), hosts=("Node1",))
    assert settings.host_names == {"", "localhost", "inner.example", "node1"}


def test_a_misspelt_variable_stops_the_start_and_says_what_there_is() -> None:
    with pytest.raises(
        SettingsError,
        match=r"^SHRINKD_BAKEND is not a setting of shrinkd; there are: .*SHRINKD_BACKEND",
    ):
        read_settings({"SHRINKD_BAKEND": "v1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHRINKD_BACKEND", "v3"),
        ("SHRINKD_BACKEND", ""),
        ("SHRINKD_LISTEN", "8080"),
        ("SHRINKD_LISTEN", "tcp:8080"),
        ("SHRINKD_LISTEN", "tcp:localhost:http"),
        ("SHRINKD_LISTEN", "tcp:localhost:65536"),
        ("SHRINKD_LISTEN", "tcp:localhost:8\N{ARABIC-INDIC DIGIT FOUR}"),
        ("SHRINKD_LISTEN", "unix:relative.sock"),
        ("SHRINKD_LISTEN", "unix:/run/x.sock,udp:localhost:80"),
        ("SHRINKD_MAX_RUNNING_SHRINKS", "0"),
        ("SHRINKD_MAX_RUNNING_SHRINKS", "65"),
        ("SHRINKD_MAX_RUNNING_SHRINKS", "four"),
        ("SHRINKD_LOG", "xml"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: ") as caught:
        read_settings({name: value})
    assert "Value error" not in caught.value.detail
    assert "\n" not in caught.value.detail


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().backend = "v1"
