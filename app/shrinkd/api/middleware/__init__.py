"""Middleware around every route: request ids, authentication, audit, host check, bounds."""
