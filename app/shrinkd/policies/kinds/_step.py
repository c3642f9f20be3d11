"""How much a policy may ask for at once, in bytes: never less than what is worth an ask."""

from typing import Annotated

from pydantic import Field, WithJsonSchema

from shrinkd.policies.kind import MIN_ASK_BYTES
from shrinkd.strict_model import Size, size_schema

Step = Annotated[
    Size,
    Field(ge=MIN_ASK_BYTES),
    WithJsonSchema(size_schema(2**63 - 1, MIN_ASK_BYTES), mode="validation"),
]
