"""Where in a request something is wrong.

From the location that pydantic gives to a JSON pointer into what was sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shrinkd.strict_model import pointer


def pointed(row: Mapping[str, Any], body: object) -> str:
    """A pointer into the body; elsewhere, the part and the name."""
    place, *names = row["loc"]
    if place != "body":
        return "/".join(map(str, row["loc"]))
    found = names if body is None else _found(names, body, is_missing=row["type"] == "missing")
    tag = row.get("ctx", {}).get("discriminator")
    return pointer([*found, tag.strip("'")] if tag else found)


def _found(
    names: Sequence[str | int], value: Any, *, is_missing: bool
) -> Iterable[str | int]:  # JSON
    """The names that lead somewhere.

    Between them stand the names of the member of a union, which nobody has sent.
    """
    for number, name in enumerate(names):
        is_index = isinstance(value, list) and isinstance(name, int) and name < len(value)
        if is_index or (isinstance(value, dict) and name in value):
            value = value[name]
            yield name
        elif is_missing and number == len(names) - 1:
            yield name
