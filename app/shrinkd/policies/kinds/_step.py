"""The type Step: the most that a policy asks for at once, at least the smallest ask."""

from typing import Annotated

from pydantic import Field, WithJsonSchema

from shrinkd.policies.kind import MIN_ASK_BYTES
from shrinkd.strict_model import Size, size_schema

Step = Annotated[
    Size,
    Field(ge=MIN_ASK_BYTES),
    WithJsonSchema(size_schema(2**63 - 1, MIN_ASK_BYTES), mode="validation"),
]
