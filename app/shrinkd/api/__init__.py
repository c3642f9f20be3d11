"""The HTTP API: from a request to one use case, and from its result or error to an answer."""

from shrinkd.api.http.dependencies import Parts

__all__ = [
    "Parts",
]
