"""Base models that refuse unknown names and guessed types, and field types for sizes and times.

Request bodies and scenarios share one grammar for sizes and one way to point to a place.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from shrinkd.sizes import parse_limit, parse_protection, parse_size, protection_to_json


def size_schema(largest: int, smallest: int = 0) -> dict[str, Any]:
    return {
        "anyOf": [
            {"type": "integer", "minimum": smallest, "maximum": largest},
            {
                "type": "string",
                "pattern": "^(0|[1-9][0-9]{0,18})([KkMmGgTtPp]([Ii][Bb]?)?)?$",
                "examples": ["400M"],
            },
        ],
        "description": 'Bytes, or a string in the kernel\'s notation such as "400M" (always '
        "binary).",
    }


_SIZE_SCHEMA = size_schema(2**63 - 1)
Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema(_SIZE_SCHEMA, mode="validation")]
Limit = Annotated[
    int | None,
    BeforeValidator(parse_limit),
    WithJsonSchema(
        {
            "anyOf": [*_SIZE_SCHEMA["anyOf"], {"const": "max"}, {"type": "null"}],
            "description": _SIZE_SCHEMA["description"] + " null: no limit.",
        }
    ),
]


Protection = Annotated[
    int | None,
    BeforeValidator(parse_protection),
    PlainSerializer(protection_to_json),
    WithJsonSchema(
        {
            "anyOf": [*_SIZE_SCHEMA["anyOf"], {"const": "max"}, {"type": "null"}],
            "description": _SIZE_SCHEMA["description"]
            + ' "max": infinite, all usage is protected. null: as if never set, 0.',
        }
    ),
]
"""Usage that reclaim spares, in bytes: UNLIMITED is infinite. None only if the field is absent:
null is 0."""
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d", re.ASCII)


def _check_moment(value: object) -> object:
    if not isinstance(value, datetime) and not (isinstance(value, str) and _RFC3339.match(value)):
        raise ValueError("a time is written as RFC 3339 has it: 2026-11-23T08:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_check_moment), Field(strict=False)]
"""A time in a body or a query. Pydantic alone accepts 0.5, half a second into 1970."""


class Strict(BaseModel):
    """Validate received JSON strictly: no unknown names, no type conversions."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


class LimitSizes(Strict):
    """Hold the limits of a group under their API names."""

    max_bytes: Limit = None
    high_bytes: Limit = None
    low_bytes: Protection = None
    min_bytes: Protection = None
    swap_max_bytes: Limit = None
    soft_limit_bytes: Limit = None


def pointer(names: Iterable[str | int]) -> str:
    """Return a JSON pointer as a fragment, such as "#/age" (RFC 9457)."""
    return "#" + "".join(f"/{str(name).replace('~', '~0').replace('/', '~1')}" for name in names)


def reason(message: str) -> str:
    """Return pydantic's message without the class of a validator's error."""
    return message.removeprefix("Value error, ")
