"""Declare the responses, headers and example bodies of a route, for its `responses=` and models."""

import json
from typing import Any

from fastapi import Body

from shrinkd.api.http.problems import MEDIA_TYPE, body_of, unreadable
from shrinkd.api.openapi.texts import PROBLEM_EXAMPLES
from shrinkd.errors import (
    AmbiguousReference,
    GroupGone,
    GroupNotFound,
    InvalidGroupName,
    ShrinkdError,
)

Responses = dict[int | str, dict[str, Any]]

NULL_PLACEHOLDER = "\0null"
"""Stands for null until the document is complete: FastAPI leaves nulls out, and in an example null
means "no limit"."""
_REQUEST_ID = "e6d766de-1d"
_GROUP_REFUSALS = (GroupNotFound, AmbiguousReference, GroupGone, InvalidGroupName)
_PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}


def sends(*names: str) -> dict[str, Any]:
    """Return the part of a response that documents its headers."""
    return {"headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}}


PAGED: Responses = {200: sends("Link")}
UNCHANGED: Responses = {
    200: sends("ETag"),
    304: {"description": "The state is still the one that `If-None-Match` names."} | sends("ETag"),
}


def refuses(*kinds: type[ShrinkdError], group: bool = False) -> Responses:
    """Return the `responses` of a route that raises these errors.

    `group`: the route takes a reference to a group, and raises its errors, too.
    """
    refusals: Responses = {}
    for kind in (*kinds, *(_GROUP_REFUSALS if group else ())):
        add_refusal(refusals, kind)
    return refusals


def bodies(**examples: tuple[str, dict[str, Any]]) -> object:
    """Return the Annotated part of a request body: name=(summary, value) for each example."""
    shown: dict[str, Any] = {
        name: {
            "summary": summary,
            "value": {
                key: NULL_PLACEHOLDER if part is None else part for key, part in value.items()
            },
        }
        for name, (summary, value) in examples.items()
    }
    body: object = Body(openapi_examples=shown)
    return body


def add_refusal(refusals: Responses, kind: type[ShrinkdError]) -> None:
    """Add the problem of an error class to the responses, by its status."""
    _add_problem(refusals, body_of(kind("…")))


def add_headers(response: dict[str, Any], *names: str) -> None:
    """Document more headers of a response."""
    response["headers"] = response.get("headers", {}) | sends(*names)["headers"]


def shared_refusals(*kinds: type[ShrinkdError], by_server: tuple[int, ...] = ()) -> Responses:
    """Return responses that no route raises by itself, and that all of them may answer.

    `by_server`: statuses that the server answers before there is a request.
    """
    refusals = refuses(*kinds)
    for status in by_server:
        _add_problem(refusals, json.loads(unreadable(status)[0]))
    for response in refusals.values():
        add_headers(response, "Request-Id")
    return refusals


def any_problem(description: str, like: type[ShrinkdError]) -> dict[str, Any]:
    """Return the response of a whole class of statuses; `like` is the error of its example."""
    example = body_of(like("…")) | {"instance": _REQUEST_ID}
    return {
        "description": description,
        "content": {MEDIA_TYPE: _PROBLEM | {"example": example}},
    } | sends("Request-Id", "Retry-After")


def _add_problem(refusals: Responses, body: dict[str, Any]) -> None:
    title, status, slug = body["title"], body["status"], body["type"].rpartition("/")[2]
    refusal = refusals.setdefault(
        status, {"description": "", "content": {MEDIA_TYPE: _PROBLEM | {"examples": {}}}}
    )
    refusal["description"] = f"{refusal['description']} `{slug}`: {title}.".lstrip()
    value = body | {"detail": f"{title}.", "instance": _REQUEST_ID} | PROBLEM_EXAMPLES.get(slug, {})
    refusal["content"][MEDIA_TYPE]["examples"][slug] = {"summary": title, "value": value}
    if status == 401:
        add_headers(refusal, "WWW-Authenticate")
    elif slug == "shrink-in-progress":
        add_headers(refusal, "Location", "Retry-After")
    elif status in {429, 503} or slug == "idempotency-key-in-use":
        add_headers(refusal, "Retry-After")
