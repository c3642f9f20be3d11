"""Convert the location of a validation error into a JSON pointer into the request body."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shrinkd.strict_model import pointer


def location_of(row: Mapping[str, Any], body: object) -> str:
    """Return the location of an error that pydantic reports.

    In the body it is a JSON pointer such as "#/max_bytes", elsewhere the part of the request and a
    name, such as "query/page_size". `body` is the parsed body, None if there is none.
    """
    place, *names = row["loc"]
    if place != "body":
        return "/".join(map(str, row["loc"]))
    is_missing = row["type"] == "missing"
    found = names if body is None else _existing(names, body, is_missing=is_missing)
    tag = row.get("ctx", {}).get("discriminator")
    return pointer([*found, tag.strip("'")] if tag else found)


def _existing(names: Sequence[str | int], body: object, *, is_missing: bool) -> Iterable[str | int]:
    """Yield the names that exist in the body, and the missing one at the end.

    Pydantic puts names of union members between them, which are not in the body.
    """
    value: Any = body
    for number, name in enumerate(names):
        is_index = isinstance(value, list) and isinstance(name, int) and name < len(value)
        if is_index or (isinstance(value, dict) and name in value):
            value = value[name]
            yield name
        elif is_missing and number == len(names) - 1:
            yield name
