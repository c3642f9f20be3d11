"""Preferences of a client (RFC 7240): parse `Prefer`, and honour `return=minimal`.

`wait`, where an operation takes it, is read by its route.
"""

import re

from fastapi import Request, Response

from shrinkd.api.http.dependencies import is_dry_run

READ_ONLY_POSTS = frozenset({"evaluate_policy"})
"""POST operations that change nothing. They always answer their body, which is all they are for."""
_PREFERENCE = re.compile(
    r'(?:^|,)\s*([!#-\'*+.0-9A-Z^-z|~-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s",;]*))?\s*(?=$|[,;])',
    re.ASCII,
)
_MINIMAL_STATUS = {200: 204, 201: 201, 202: 202}
"""Status of a response without its body, by its status with it."""


def preferences(request: Request) -> dict[str, str]:
    """Return the preferences of a request by name in lower case; "" is one without a value.

    The first of two with the same name counts.
    """
    lines = ",".join(request.headers.getlist("prefer"))  # it may be sent more than once
    found: dict[str, str] = {}
    for name, value in _PREFERENCE.findall(lines):
        found.setdefault(name.lower(), value.strip('"'))
    return found


def apply_return(request: Request, response: Response) -> Response:
    """Remove the body from the response to a change if the client sent `Prefer: return=minimal`.

    A dry run keeps its body, which is its only result; so do a problem and a 207, whose parts are
    responses of their own.
    """
    is_minimal = preferences(request).get("return", "").lower() == "minimal"
    if (
        not is_minimal
        or response.status_code not in _MINIMAL_STATUS
        or not response.body
        or is_dry_run(request)
    ):
        return response
    headers = {
        name: value
        for name, value in response.headers.items()
        if name not in {"content-length", "content-type"}
    }
    applied = [*filter(None, [headers.get("preference-applied")]), "return=minimal"]
    return Response(
        status_code=_MINIMAL_STATUS[response.status_code],
        headers=headers | {"preference-applied": ", ".join(applied)},
    )
