"""Serve the application over sockets and TLS, each connection bounded in time, size and number."""

from shrinkd.server.listen import check_listen, run

__all__ = [
    "check_listen",
    "run",
]
