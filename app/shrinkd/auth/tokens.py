"""Read and change the file of tokens: one line of JSON per token hash or client certificate.

A secret is 256 random bits, so its bare SHA-256 cannot be inverted: slow hashes are for passwords
that people remember.
"""

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from stat import S_ISREG
from typing import Self

from pydantic import AwareDatetime, ValidationError, model_validator

from shrinkd.auth.scopes import Caller, Grant
from shrinkd.errors import SettingsError, TokenRefused
from shrinkd.strict_model import Strict, reason

PREFIX = "shrinkd_"
"""Lets scanners for secrets in logs and repositories recognize a token of shrinkd."""
_CERTIFICATE = "certificate:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}|certificate:[^\x00-\x1f\x7f]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_INDEXED = 16  # hexadecimal digits of a digest that index a line; the whole digest is then compared
_SPAN = re.compile(r"([1-9]\d{0,4})([mhdw])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

log = logging.getLogger("shrinkd")


class Entry(Strict):
    """Hold one line of the file: the scopes of a token, or of certificates with a common name."""

    name: str
    """The operator's name for the token, or "certificate:" and a common name."""
    scopes: tuple[str, ...]
    sha256: str | None = None
    """The hash of the token as it is sent; a certificate has none."""
    expires_at: AwareDatetime | None = None
    """The expiry of a token; a certificate contains its own."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"{self.name!a} is no name: write letters, digits, '.', '_' and '-', or "
                "certificate: and a common name"
            )
        if not self.scopes:
            raise ValueError(f"{self.name!a} has no scope, so it could do nothing")
        [Grant.parse(scope) for scope in self.scopes]
        is_token = (
            self.sha256 is not None
            and self.expires_at is not None
            and bool(_SHA256.fullmatch(self.sha256))
        )
        is_bare = self.sha256 is None and self.expires_at is None
        if not (is_bare if self.is_certificate else is_token):
            raise ValueError(
                f"{self.name!a} needs sha256 and expires_at if it is a token, and neither if it is "
                "a certificate"
            )
        return self

    @property
    def is_certificate(self) -> bool:
        return self.name.startswith(_CERTIFICATE)

    @property
    def caller(self) -> Caller:
        name = self.name if self.is_certificate else f"token:{self.name}"
        return Caller(name, tuple(Grant.parse(scope) for scope in self.scopes))

    def is_expired(self, moment: float) -> bool:
        return self.expires_at is not None and self.expires_at.timestamp() <= moment


class Tokens:
    """Hold the lines of one file since the last (re)load.

    Thread-safe: readers continue while another thread reloads.
    """

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        """Load the file; `clock` returns seconds since the epoch.

        SettingsError for a file that is missing, accessible to others, empty or invalid.
        """
        self._path, self._clock = Path(path), clock
        self._bearers: dict[str, tuple[Entry, Caller]] = {}
        self._certificates: dict[str, Caller] = {}
        if not self._replace_entries(read_entries(self._path)):
            raise SettingsError(f"{path} has no token in it: make one with `shrinkd token make`.")

    def reload(self) -> None:
        """Reload the file.

        An invalid file changes nothing, and is logged; an empty one revokes every token.
        """
        try:
            count = self._replace_entries(read_entries(self._path))
        except SettingsError as error:
            # a traceback would not help the operator
            log.error("the tokens stay as they were: %s", error)  # noqa: TRY400
        else:
            log.info("%d tokens and certificates were read from %s", count, self._path)

    def bearer(self, secret: bytes) -> Caller:
        """Return the caller with this token.

        TokenRefused if it is unknown or expired; the two are not distinguished.
        """
        digest = hashlib.sha256(secret).hexdigest()
        entry, caller = self._bearers.get(digest[:_INDEXED], (None, None))
        if (
            entry
            and caller
            and hmac.compare_digest(str(entry.sha256), digest)
            and not entry.is_expired(self._clock())
        ):
            return caller
        raise TokenRefused("The token that was sent is none that holds here now.")

    def certified(self, peer: Caller) -> Caller:
        """Return the certificate's caller with the scopes of its line; none without a line."""
        return self._certificates.get(peer.name, peer)

    def _replace_entries(self, entries: list[Entry]) -> int:
        self._bearers = {
            str(entry.sha256)[:_INDEXED]: (entry, entry.caller)
            for entry in entries
            if not entry.is_certificate
        }
        self._certificates = {entry.name: entry.caller for entry in entries if entry.is_certificate}
        return len(entries)


def read_entries(path: Path) -> list[Entry]:
    """Read the lines of a file that only its owner can access.

    SettingsError names the invalid line, and quotes nothing of it.
    """
    entries: dict[str, Entry] = {}
    for number, line in enumerate(_read(path).splitlines(), start=1):
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError as error:
            raise SettingsError(
                f"{path}, line {number}: {reason(error.errors()[0]['msg'])}."
            ) from None
        if entry.name in entries:
            raise SettingsError(f"{path}, line {number}: {entry.name!a} is there already.")
        entries[entry.name] = entry
    return list(entries.values())


def make(path: Path, name: str, scopes: list[str], span: str) -> str | None:
    """Add a line, and return the secret of the new token; None for a certificate.

    The secret is stored nowhere else.
    """
    secret = None if name.startswith(_CERTIFICATE) else PREFIX + secrets.token_urlsafe(32)
    members: dict[str, object] = {"name": name, "scopes": tuple(scopes)}
    if secret is not None:
        members |= {
            "sha256": hashlib.sha256(secret.encode()).hexdigest(),
            "expires_at": datetime.now(UTC).replace(microsecond=0) + _span(span),
        }
    try:
        entry = Entry.model_validate(members)
    except ValidationError as error:
        raise SettingsError(f"{reason(error.errors()[0]['msg'])}.") from None
    with _changing(path) as entries:
        if any(each.name == name for each in entries):
            raise SettingsError(
                f"There is a token {name!a} already: revoke it, or take another name."
            )
        entries.append(entry)
    return secret


def revoke(path: Path, name: str) -> None:
    """Remove a line. SettingsError if there is none of that name."""
    with _changing(path) as entries:
        if all(each.name != name for each in entries):
            raise SettingsError(f"There is no token {name!a} in {path}.")
        entries[:] = [each for each in entries if each.name != name]


def _span(text: str) -> timedelta:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise SettingsError(
            f"{text!a} is no time that a token can hold: write a number and m, h, d or w, such as "
            "90d."
        )
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _read(path: Path) -> str:
    try:
        # O_NONBLOCK: a pipe in its place must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not S_ISREG(found.st_mode) or found.st_mode & 0o077:
                raise SettingsError(
                    f"{path} has to be a file that its owner alone can read and write: chmod 600 "
                    f"{path}."
                )
            return file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(
            f"The tokens of {path} cannot be read ({said}): make one with `shrinkd token make`."
        ) from None


@contextmanager
def _changing(path: Path) -> Iterator[list[Entry]]:
    """Yield the lines to one writer at a time, and replace the file with the changed ones.

    Readers see the old file or the new one.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(f"There is no place for {path}: {error.strerror}.") from None
    try:
        # The folder is locked, since each change replaces the file.
        fcntl.flock(folder, fcntl.LOCK_EX)
        entries = read_entries(path) if path.exists() else []
        yield entries
        _replace(
            path,
            "".join(
                json.dumps(entry.model_dump(mode="json", exclude_none=True)) + "\n"
                for entry in entries
            ),
        )
        os.fsync(folder)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    # mode 0600 from the start
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
