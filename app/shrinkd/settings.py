"""Settings of the daemon: SHRINKD_* variables, read once into one frozen object."""

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shrinkd.default_paths import state_directory
from shrinkd.errors import SettingsError

_PREFIX = "SHRINKD_"
_CLIENT_VARIABLES = frozenset({"SHRINKD_URL", "SHRINKD_TOKEN"})
"""Read by shrinkd.client alone, in a shell that may start a daemon as well."""
_TEST_PREFIX = "SHRINKD_TEST_"
"""Read by the test suite alone, and inherited by the daemons that it starts."""


def default_database_url(environ: Mapping[str, str] = os.environ) -> str:
    """Return the URL of an SQLite file in the state directory of this user.

    SettingsError for a user who has no home directory.
    """
    try:
        return f"sqlite:///{state_directory(environ) / 'shrinkd.db'}"
    except RuntimeError:
        raise SettingsError(
            "SHRINKD_DATABASE_URL is not set, and this user has no home directory to keep the "
            "database in: set SHRINKD_DATABASE_URL, XDG_STATE_HOME or HOME."
        ) from None


class Settings(BaseModel):
    """Every setting of the daemon; docs/reference/settings.md has a row for each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Literal["auto", "v1", "v2", "simulator"] = "auto"
    listen: tuple[str, ...] = ()
    """Comma list of unix:PATH and tcp:HOST:PORT; empty: the default address of the backend."""
    hosts: tuple[str, ...] = ()
    """Comma list of names by which clients reach a tcp: address, besides localhost and IP
    addresses."""
    database_url: str = Field(default_factory=default_database_url)
    cgroup_root: str | None = None
    """The directory that group paths are relative to; None: the mounted memory controller."""
    subtrees: tuple[str, ...] = ()
    """Path globs of the groups that the daemon may change; empty: all groups."""
    tokens: str | None = None
    """The file of tokens and certificates with their scopes; None: requests need no token."""
    tls_certificate: str | None = None
    """PEM file of the certificate chain for tcp: addresses; None: no TLS."""
    tls_key: str | None = None
    tls_client_ca: str | None = None
    """PEM file of the authorities that sign client certificates; None: clients send none."""
    max_running_shrinks: int = Field(default=4, ge=1, le=64)
    log: Literal["auto", "text", "json"] = "auto"
    scenario: str = "demo"
    """The scenario that the simulator starts with: a name of its gallery, or the path of a JSON
    file."""

    @field_validator("listen", "subtrees", "hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for address in addresses:
            if not (_is_unix(address) or _is_tcp(address)):
                raise ValueError(f"{address!r} is neither unix:/PATH nor tcp:HOST:PORT")
        return addresses

    @cached_property
    def host_names(self) -> frozenset[str]:
        """The names, in lower case, that the Host header of a request may have.

        "" stands for any IP address.
        """
        listen = (
            address.removeprefix("tcp:").rpartition(":")[0]
            for address in self.listen
            if address.startswith("tcp:")
        )
        return frozenset(name.lower() for name in ("", "localhost", *listen, *self.hosts))


def _is_unix(address: str) -> bool:
    return address.startswith("unix:/")


def _is_tcp(address: str) -> bool:
    kind, _, rest = address.partition(":")
    host, _, port = rest.rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port) <= 0xFFFF
    return kind == "tcp" and bool(host) and is_port


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the environment.

    SettingsError names the variable that is wrong or unknown.
    """
    known = {_PREFIX + name.upper() for name in Settings.model_fields}
    for name in environ:
        if (
            name.startswith(_PREFIX)
            and not name.startswith(_TEST_PREFIX)
            and name not in known | _CLIENT_VARIABLES
        ):
            raise SettingsError(
                f"{name} is not a setting of shrinkd; there are: {', '.join(sorted(known))}."
            )
    given = {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in environ.items()
        if name in known
    }
    if "database_url" not in given:
        given["database_url"] = default_database_url(environ)
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            f"{_PREFIX}{str(first['loc'][0]).upper()}: "
            f"{first['msg'].removeprefix('Value error, ')}."
        ) from None
