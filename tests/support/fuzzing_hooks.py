"""Configure schemathesis: which refusals of requests that fit their schema are correct."""

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
    """Return a failure, or drop it if the document names the refusal for this operation."""
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
    """Return True when every error of a request is a bound of a number or a size.

    For a member that is a union, the errors of the other half are listed beside it.
    """
    return all(
        error["detail"].startswith(WORDS_OF_A_BOUND) for error in problem.get("errors", [problem])
    )


def _has_number_beyond_a_schema(value: object) -> bool:
    """Return True for numbers that JSON Schema takes and the API does not.

    The schema takes 1.0 as an integer, and cannot bound a number in a string.
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
