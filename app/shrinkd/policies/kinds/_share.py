"""The type Share: a percentage of a whole, kept as it was written ("90%"), or bytes."""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from shrinkd.sizes import parse_size
from shrinkd.strict_model import size_schema

_PERCENT = r"(?:[1-9][0-9]?|0)(?:\.[0-9]{1,3})?%"
_SIZE = size_schema(2**63 - 1)


def parse_share(value: object) -> int | str:
    """Check a percentage, which stays text, or parse a size. Raises ValueError."""
    if not isinstance(value, str) or not value.endswith("%"):
        return parse_size(value)
    if not re.fullmatch(_PERCENT, value, re.ASCII) or not percent_of(value):
        raise ValueError(
            f'{value!r} is no percentage above 0% and below 100%, such as "90%" or "92.5%"'
        )
    return value


@lru_cache(maxsize=256)
def percent_of(share: str) -> Fraction:
    """Return the number before the percent sign, exactly."""
    return Fraction(share.removesuffix("%"))


def bytes_of(share: int | str, whole_bytes: int) -> int:
    """Return the share in bytes; a percentage is of `whole_bytes`."""
    if isinstance(share, int):
        return share
    percent = percent_of(share)
    return percent.numerator * whole_bytes // (percent.denominator * 100)


Share = Annotated[
    int | str,
    BeforeValidator(parse_share),
    WithJsonSchema(
        {
            "anyOf": [
                *_SIZE["anyOf"],
                {"type": "string", "pattern": f"^{_PERCENT}$", "examples": ["90%"]},
            ],
            "description": 'A percentage such as "90%", or bytes: ' + _SIZE["description"],
        }
    ),
]
