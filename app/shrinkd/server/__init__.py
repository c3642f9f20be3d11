"""Sockets, TLS and each connection's bounds: what stands between the network and the application."""
