"""What the operator decides.

SHRINKD_* variables become one frozen Settings, passed along and never global.
"""

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shrinkd.errors import SettingsError

_PREFIX = "SHRINKD_"
_OF_CLIENTS = frozenset(
    {"SHRINKD_URL", "SHRINKD_TOKEN"}
)  # read by app/client alone, in a shell that may start a daemon as well
_TEST_PREFIX = (
    "SHRINKD_TEST_"  # read by the test suite alone, and inherited by the daemons that it starts
)


class Settings(BaseModel):
    """Every setting of the daemon; the README has a line for each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Literal["auto", "v1", "v2", "simulator"] = "auto"
    listen: tuple[str, ...] = ()
    """Comma list of unix:PATH and tcp:HOST:PORT; empty takes the backend's own default."""
    hosts: tuple[str, ...] = ()
    """Comma list of the names that clients reach a tcp: address by; localhost, and every address,
    need none."""
    database_url: str = "sqlite:////var/lib/shrinkd/shrinkd.db"
    cgroup_root: str | None = None
    """The directory that groups are named relative to; None is the mounted memory controller."""
    subtrees: tuple[str, ...] = ()
    """Path globs of the groups that the daemon may change; none given means all."""
    tokens: str | None = None
    """The file that says which tokens and certificates may do what; None: nobody is asked."""
    tls_certificate: str | None = None
    """PEM file of the chain that is shown on tcp: addresses; None: they are served in the clear."""
    tls_key: str | None = None
    tls_client_ca: str | None = None
    """PEM file of those who sign the certificates of clients; None: no client is asked for one."""
    max_running_shrinks: int = Field(default=4, ge=1, le=64)
    log: Literal["auto", "text", "json"] = "auto"
    scenario: str = "demo"
    """What the simulator starts with: a name of its gallery, or the path of a JSON file."""

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
            kind, _, rest = address.partition(":")
            host, _, port = rest.rpartition(":")
            if not (
                (kind == "unix" and rest.startswith("/"))
                or (
                    kind == "tcp"
                    and host
                    and port.isascii()
                    and port.isdigit()
                    and int(port) <= 0xFFFF
                )
            ):
                raise ValueError(f"{address!r} is neither unix:/PATH nor tcp:HOST:PORT")
        return addresses

    @cached_property
    def host_names(self) -> frozenset[str]:
        """The names, in lower case, that a request for this daemon may be addressed to.

        "" stands for any IP address.
        """
        listen = (
            address.removeprefix("tcp:").rpartition(":")[0]
            for address in self.listen
            if address.startswith("tcp:")
        )
        return frozenset(name.lower() for name in ("", "localhost", *listen, *self.hosts))


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the environment; SettingsError names the variable that is wrong or unknown."""
    known = {_PREFIX + name.upper() for name in Settings.model_fields}
    for name in environ:
        if (
            name.startswith(_PREFIX)
            and not name.startswith(_TEST_PREFIX)
            and name not in known | _OF_CLIENTS
        ):
            raise SettingsError(
                f"{name} is not a setting of shrinkd; there are: {', '.join(sorted(known))}."
            )
    given = {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in environ.items()
        if name in known
    }
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            f"{_PREFIX}{str(first['loc'][0]).upper()}: "
            f"{first['msg'].removeprefix('Value error, ')}."
        ) from None
