"""Sockets, TLS and each connection's bounds.

What stands between the network and the application.
"""
