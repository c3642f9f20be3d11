"""The HTTP API: from a request to one use case, and from its result or error to an answer."""

from shrinkd.api.app import build
from shrinkd.api.http.dependencies import Parts
from shrinkd.api.http.problems import unreadable

__all__ = [
    "Parts",
    "build",
    "unreadable",
]
