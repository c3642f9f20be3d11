"""The HTTP API: parse a request, call one use case, and answer its result or its error."""

from shrinkd.api.app import build
from shrinkd.api.http.dependencies import Parts
from shrinkd.api.http.problems import unreadable

__all__ = [
    "Parts",
    "build",
    "unreadable",
]
