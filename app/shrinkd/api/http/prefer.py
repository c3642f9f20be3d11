"""What a client would rather have (RFC 7240).

`Prefer: return=minimal` here, and `wait` where something can be waited for.
"""

import re

from fastapi import Request, Response

from shrinkd.api.http.dependencies import is_dry_run

QUESTIONS = frozenset({"evaluate_policy"})
"""The POSTs that change nothing: what they answer is all that there is of them."""
_PREFERENCE = re.compile(
    r'(?:^|,)\s*([!#-\'*+.0-9A-Z^-z|~-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s",;]*))?\s*(?=$|[,;])',
    re.ASCII,
)
_SHRUNK = {200: 204, 201: 201, 202: 202}


def preferences(request: Request) -> dict[str, str]:
    """The preferences of a request by their names in small letters, "" without a value.

    Of two by one name the first counts.
    """
    lines = ",".join(request.headers.getlist("prefer"))  # it may be sent more than once
    found: dict[str, str] = {}
    for name, value in _PREFERENCE.findall(lines):
        found.setdefault(name.lower(), value.strip('"'))
    return found


def returned(request: Request, response: Response) -> Response:
    """The response to a change, without its body where the client wants no more than to hear that
    it worked.

    A trial keeps its body, which is all that it is for, and so do a problem and a 207, whose parts
    are answers of their own.
    """
    is_minimal = preferences(request).get("return", "").lower() == "minimal"
    if (
        not is_minimal
        or response.status_code not in _SHRUNK
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
        status_code=_SHRUNK[response.status_code],
        headers=headers | {"preference-applied": ", ".join(applied)},
    )
