"""The HTTP API: parse a request, call one use case, and answer its result or its error."""

from shrinkd.api.http.dependencies import Parts

__all__ = [
    "Parts",
]
