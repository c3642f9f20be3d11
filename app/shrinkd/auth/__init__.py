"""Authorize callers: scopes, principals and tokens."""

from shrinkd.auth import tokens
from shrinkd.auth.scopes import ANYONE, NOBODY, Caller, Grant, Level
from shrinkd.auth.tokens import Tokens

__all__ = [
    "ANYONE",
    "NOBODY",
    "Caller",
    "Grant",
    "Level",
    "Tokens",
    "tokens",
]
