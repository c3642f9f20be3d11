"""Cut lists into pages by keyset.

A page token holds the key of the last item, not its number, so that the next page stays right while
items come and go.
"""

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Protocol, TypeVar
from urllib.parse import quote

from fastapi import Request, Response
from pydantic import Field

from shrinkd.errors import InvalidRequest

_LARGEST = 1000
_NOT_COMPARABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that a database does not take in a text."""

T = TypeVar("T")

PageSize = Annotated[int, Field(ge=1, description="At most 1000; more is taken as 1000.")]
PageToken = Annotated[
    str | None,
    Field(description="next_page_token of the page before, with all else as it was there."),
]


class PageQuery(Protocol):
    """The query parameters of a list that comes in pages."""

    @property
    def page_size(self) -> int: ...
    @property
    def page_token(self) -> str | None: ...


@dataclass(frozen=True)
class Keyset(Generic[T]):
    """One order of a list: its name in page tokens, and the unique key that it sorts by."""

    order: str
    key_types: tuple[type, ...]
    key_of: Callable[[T], tuple[int | str, ...]]

    def page(
        self, query: PageQuery, fetch: Callable[[int, tuple[Any, ...] | None], Sequence[T]]
    ) -> tuple[Sequence[T], str | None]:
        """Answer the items of one page, and the token of the next; None behind the last item.

        `fetch` answers at most so many items, in this order, behind the item with this key (None:
        from the first one on). InvalidRequest for a page token that this list did not write.
        """
        limit, after = page_limit(query.page_size), self.position(query)
        found = fetch(limit + 1, after)
        if len(found) <= limit:
            return found, None
        return found[:limit], self.token(self.key_of(found[limit - 1]))

    def position(self, query: PageQuery) -> tuple[Any, ...] | None:
        """Read the key in the page token of a query, or None where it has none. InvalidRequest."""
        return read_token(query.page_token, self.order, self.key_types)

    def token(self, key: tuple[int | str, ...]) -> str:
        """Write the page token for what comes behind the item with this key."""
        return write_token(self.order, *key)


def page_limit(page_size: int) -> int:
    """Answer the number of items of a page: the size that was asked for, and at most 1000."""
    return min(page_size, _LARGEST)


def write_token(order: str, *key: int | str) -> str:
    """Write a token for what comes after the item with this key, in a list of this order."""
    return base64.urlsafe_b64encode(json.dumps([order, *key]).encode()).decode().rstrip("=")


def read_token(token: str | None, order: str, kinds: tuple[type, ...]) -> tuple[Any, ...] | None:
    """Read the key in a token, which has the types that the list sorts by.

    InvalidRequest for a token that this list did not write.
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
        or not all(map(_is_key_part, key[1:], kinds))
    ):
        raise InvalidRequest(
            "page_token is not one that this list, in this order, gave out: start again without it."
        )
    return tuple(key[1:])


def _is_key_part(value: object, kind: type) -> bool:
    """Tell whether a part of a key has its type, and a database can compare with it."""
    return type(value) is kind and (
        abs(value) < 2**63 if isinstance(value, int) else not _NOT_COMPARABLE.search(str(value))
    )


def link_next(response: Response, request: Request, token: str | None) -> None:
    """Add a Link header with the address of the next page (RFC 8288), if there is one.

    The path is quoted again, because a header takes only ASCII.
    """
    if token:
        query = request.url.include_query_params(page_token=token).query
        response.headers["Link"] = (
            f'<{quote(request.scope["path"], safe="/:")}?{query}>; rel="next"'
        )
