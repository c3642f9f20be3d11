"""Lists in pages.

Opaque tokens that hold the key of the last item, so that a page stays right while items come and
go.
"""

import base64
import json
import re
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Request, Response
from pydantic import Field

from shrinkd.errors import InvalidRequest

_LARGEST = 1000
_ALIEN = re.compile("[\0\ud800-\udfff]")

PageSize = Annotated[int, Field(ge=1, description="At most 1000; more is taken as 1000.")]
PageToken = Annotated[
    str | None,
    Field(description="next_page_token of the page before, with all else as it was there."),
]


def page_limit(page_size: int) -> int:
    return min(page_size, _LARGEST)


def write_token(order: str, *key: int | str) -> str:
    """A token for what comes after the item with this key, in a list of this order."""
    return base64.urlsafe_b64encode(json.dumps([order, *key]).encode()).decode().rstrip("=")


def read_token(token: str | None, order: str, kinds: tuple[type, ...]) -> tuple[Any, ...] | None:
    """The key in a token, of the types that the list sorts by.

    InvalidRequest for one that this list did not write.
    """
    if token is None:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, RecursionError):
        key = None
    if (
        not isinstance(key, list)
        or len(key) != 1 + len(kinds)
        or key[0] != order
        or not all(map(_is_ours, key[1:], kinds))
    ):
        raise InvalidRequest(
            "page_token is not one that this list, in this order, gave out: start again without it."
        )
    return tuple(key[1:])


def _is_ours(value: object, kind: type) -> bool:
    """Whether a part of a key is of its type, and one that a database can compare with."""
    return type(value) is kind and (
        abs(value) < 2**63 if isinstance(value, int) else not _ALIEN.search(str(value))
    )


def link_next(response: Response, request: Request, token: str | None) -> None:
    """Say where the next page is, for clients that follow RFC 8288.

    The path is quoted anew: a header takes no other letters.
    """
    if token:
        query = request.url.include_query_params(page_token=token).query
        response.headers["Link"] = (
            f'<{quote(request.scope["path"], safe="/:")}?{query}>; rel="next"'
        )
