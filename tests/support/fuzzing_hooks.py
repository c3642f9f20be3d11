"""What schemathesis has to know beside the document.

Which refusals of a request that fits its schema are no failure, and why.
"""

import json
import re
from typing import Any

import schemathesis

SIZE = re.compile(r"\d+([KMGTP](IB?)?)?", re.IGNORECASE)
WORDS_OF_A_BOUND = (
    "Input should",
    "Field required",
    "Extra inputs",
    "String should",
    "List should",
    "Tuple should",
    "a size is",
    "a time is",
)
"""How a refusal begins that is about a type, a bound or a pattern: the document has to state each
of these.

Our other words are for rules that no schema states: exactly one of several members (as a oneOf it
would be a union of models to every generated client), one member that bounds another, a page token
that this list gave out, a grammar such as cron's."""


@schemathesis.hook
def filter_failure(_context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Keep what is a failure.

    A refusal that the document names for this operation is an answer to a request that fits its
    schema.
    """
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    problem = json.loads(response.content)
    slug = problem["type"].rpartition("/")[2]
    if slug == "body-too-large":  # no schema bounds the sum of its parts
        return False
    if slug == "invalid-request":
        return _is_about_a_bound(problem) and not _has_number_beyond_a_schema(case.body)
    refusals = (
        case.operation.definition.raw["responses"]
        .get(str(response.status_code), {})
        .get("content", {})
    )
    return slug not in refusals.get("application/problem+json", {}).get("examples", ())


def _is_about_a_bound(problem: dict[str, Any]) -> bool:
    """Nothing but that.

    Where a member is a union, what the half that was not meant says of it stands beside the other.
    """
    return all(
        error["detail"].startswith(WORDS_OF_A_BOUND) for error in problem.get("errors", [problem])
    )


def _has_number_beyond_a_schema(value: object) -> bool:
    """JSON Schema takes 1.0 for an integer, where here a float is no number of bytes.

    And it bounds no number in a string.
    """
    if isinstance(value, dict | list):
        return any(
            map(_has_number_beyond_a_schema, value.values() if isinstance(value, dict) else value)
        )
    return (
        value.is_integer()
        if isinstance(value, float)
        else isinstance(value, str) and SIZE.fullmatch(value) is not None
    )
