"""Identify the peer of a connection by its unix credentials or its TLS certificate."""

import socket
import ssl
import struct
from asyncio import BaseTransport

from shrinkd.auth import Caller, Grant, Level
from shrinkd.errors import SettingsError
from shrinkd.settings import Settings

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def identify_peer(transport: BaseTransport) -> Caller | None:
    """Return the caller at the other end of a connection, or None where it is not known.

    A peer on a unix socket is root or in the socket's group, and gets the scope admin. A
    certificate gives only a name; its scopes are in the tokens file.
    """
    connection: socket.socket = transport.get_extra_info("socket")
    if connection.family == socket.AF_UNIX:
        _, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        return Caller(f"uid:{uid}", (Grant(Level.ADMIN),))
    subject = (transport.get_extra_info("peercert") or {}).get("subject", ())
    names = [value for part in subject for name, value in part if name == "commonName"]
    return Caller(f"certificate:{names[0]}", ()) if len(names) == 1 else None


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Make the TLS context for tcp: addresses, or None where they are served without TLS.

    SettingsError if a setting is missing or a file cannot be read.
    """
    if not settings.tls_certificate and not settings.tls_key and not settings.tls_client_ca:
        return None
    if not settings.tls_certificate or not settings.tls_key:
        raise SettingsError("TLS needs both SHRINKD_TLS_CERTIFICATE and SHRINKD_TLS_KEY.")
    if settings.tls_client_ca and not settings.tokens:
        raise SettingsError(
            "SHRINKD_TLS_CLIENT_CA needs SHRINKD_TOKENS, which gives each certificate its scopes."
        )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, settings.tls_certificate, settings.tls_key)
    if settings.tls_client_ca:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except OSError as error:
            raise SettingsError(
                f"SHRINKD_TLS_CLIENT_CA cannot be used: {error.strerror or error}."
            ) from None
        context.verify_mode = ssl.CERT_OPTIONAL  # a client without one can send a token
    return context


def reload_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    """Read the certificate files again, for the handshakes from now on.

    SettingsError, and nothing changed, if they cannot be used. Authorities are only added: to
    remove one, restart the daemon.
    """
    # first into a new context: a key of another certificate would leave this one half changed
    tls_context(settings)
    _load_certificate(context, str(settings.tls_certificate), str(settings.tls_key))
    if settings.tls_client_ca:
        context.load_verify_locations(settings.tls_client_ca)


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_reject_password)
    except OSError as error:
        raise SettingsError(
            "SHRINKD_TLS_CERTIFICATE and SHRINKD_TLS_KEY cannot be used: "
            f"{error.strerror or error}."
        ) from None


def _reject_password() -> str:
    raise SettingsError(
        "SHRINKD_TLS_KEY is encrypted with a password, and the daemon cannot ask for it: "
        "use a key without a password."
    )
