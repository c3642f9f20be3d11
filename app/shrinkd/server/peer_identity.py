"""Who is at the other end of a connection.

By the kernel's word on a unix socket, by a certificate on TLS.
"""

import socket
import ssl
import struct
from asyncio import BaseTransport

from shrinkd.auth import Caller, Grant, Level
from shrinkd.errors import SettingsError
from shrinkd.settings import Settings

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def peer_of(transport: BaseTransport) -> Caller | None:
    """The other end of a connection, or None where nothing tells.

    A certificate names a caller; the scopes are the tokens file's to say.

    Who can connect to a unix socket of ours is root or of its group, and may do everything.
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
    """What tcp.

    Addresses are served with; None is in the clear. SettingsError for what is missing or cannot be
    read.
    """
    if not settings.tls_certificate and not settings.tls_key and not settings.tls_client_ca:
        return None
    if not settings.tls_certificate or not settings.tls_key:
        raise SettingsError("TLS takes both SHRINKD_TLS_CERTIFICATE and SHRINKD_TLS_KEY.")
    if settings.tls_client_ca and not settings.tokens:
        raise SettingsError(
            "SHRINKD_TLS_CLIENT_CA takes SHRINKD_TOKENS, which says what each certificate may do."
        )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    _load(context, settings.tls_certificate, settings.tls_key)
    if settings.tls_client_ca:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except OSError as error:
            raise SettingsError(
                f"SHRINKD_TLS_CLIENT_CA cannot be used: {error.strerror or error}."
            ) from None
        context.verify_mode = ssl.CERT_OPTIONAL  # who shows none can still send a token
    return context


def renew(context: ssl.SSLContext, settings: Settings) -> None:
    """Have the handshakes to come show the certificate that the files hold now.

    SettingsError, and nothing changed, if it cannot be used.

    Authorities are only added: one that is to be trusted no more takes a new start.
    """
    tls_context(
        settings
    )  # a key that is not the certificate's would leave a context with half of each
    _load(context, str(settings.tls_certificate), str(settings.tls_key))
    if settings.tls_client_ca:
        context.load_verify_locations(settings.tls_client_ca)


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except OSError as error:
        raise SettingsError(
            "SHRINKD_TLS_CERTIFICATE and SHRINKD_TLS_KEY cannot be used: "
            f"{error.strerror or error}."
        ) from None


def _refuse_password() -> str:
    raise SettingsError(
        "SHRINKD_TLS_KEY is locked by a password, which nobody is here to type: give one without."
    )
