"""The OpenAPI document: what FastAPI says of the routes, and what it cannot know of them; valid by the official schema of 3.1."""

import re
from copy import deepcopy
from typing import Any

from fastapi import Body

from app.api.problems import MEDIA_TYPE, body_of
from app.errors import AmbiguousReference, GroupGone, GroupNotFound, InvalidGroupName, ShrinkdError

DESCRIPTION = """
Lower a container's memory without killing it.

- `PATCH …/limits` compares and sets: it takes effect, or it is 409 and nothing at all has changed.
- `POST …/shrinks` reclaims first, as a job with progress, a deadline and a cancel button.
- Sizes go in as bytes or as `"400M"` (always binary) and come out as bytes; no limit is `null`.
- `?dry_run=true` makes every check of a change, and no change.
- Every error is `application/problem+json`; its `type` is a page of this daemon that explains it.
- Every answer has a `Request-Id`, which the log and the problem's `instance` repeat.
"""
TAGS = [
    {"name": "groups", "description": "Control groups: one incarnation each, by path or by the name of what runs in it."},
    {"name": "limits", "description": "Compare and set, at once."},
    {"name": "shrinks", "description": "Reclaim as a job, then set the limit if wanted."},
    {"name": "stats", "description": "One vocabulary on every kernel, read when asked."},
    {"name": "node", "description": "What this machine is and can."},
    {"name": "health", "description": "For supervisors, load balancers and bug reports."},
    {"name": "docs", "description": "Pages for people."},
]
_PROBLEM_SCHEMA = {
    "type": "object",
    "title": "Problem",
    "description": "Why it did not work (RFC 9457). Every number in `detail` is also a member of its own.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "A page of this daemon."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The request id."},
        "errno": {"type": "string", "description": "The kernel's answer, where one is behind it.", "examples": ["EBUSY"]},
        "errors": {
            "type": "array",
            "description": "What is wrong with a request, place by place.",
            "items": {"type": "object", "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}}},
        },
    },
}
_PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
_SHARED = {
    "4XX": {"description": "The request cannot be carried out; `type` tells why.", "content": {MEDIA_TYPE: _PROBLEM}},
    "5XX": {"description": "The daemon cannot carry it out; `type` tells why.", "content": {MEDIA_TYPE: _PROBLEM}},
}
_GENERATED = "Successful Response"
_MEANINGS = {
    "200": "As asked.",
    "201": "Made. `Location` is its address.",
    "202": "Under way. `Location` is its address, and `Retry-After` says when to look again.",
    "204": "Done.",
}
_LOCATION = {"Location": {"description": "Its address.", "schema": {"type": "string", "format": "uri-reference"}}}
_GIBIBYTE = 2**30
_EXAMPLE_MEMBERS: dict[str, dict[str, Any]] = {
    "limit-below-usage": {
        "detail": "Cannot set max_bytes to 67108864 (64 MiB): the group uses 371195904 bytes (354 MiB).",
        "group": {"id": "354371", "path": "web"},
        "field": "max_bytes",
        "requested_bytes": 67108864,
        "usage_bytes": 371195904,
        "shortfall_bytes": 304087041,
        "reclaimable_estimate_bytes": 268435456,
        "peak_bytes": 371195904,
        "current_max_bytes": _GIBIBYTE,
        "next": {"method": "POST", "href": "/v1/groups/web/shrinks", "body": {"target_bytes": 67108864, "set_max_bytes": 67108864}},
    },
    "shrink-in-progress": {
        "detail": "A shrink of this group is in progress: wait for it, or cancel it.",
        "group": {"id": "354371", "path": "web"},
        "shrink": {"id": "019a1b2c3d4e5f60718293a4b5c6d7e8", "href": "/v1/shrinks/019a1b2c3d4e5f60718293a4b5c6d7e8"},
    },
}
_OF_GROUPS = (GroupNotFound, AmbiguousReference, GroupGone, InvalidGroupName)

UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "It is still what `If-None-Match` names."}}


def refuses(*kinds: type[ShrinkdError], group: bool = False) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that raises these; with `group`, also what a reference to a group can raise."""
    refusals: dict[int | str, dict[str, Any]] = {}
    for kind in (*kinds, *(_OF_GROUPS if group else ())):
        example = body_of(kind("…")) | {"instance": "115384857b170c00"}
        title, status, slug = str(example["title"]), int(str(example["status"])), str(example["type"]).rpartition("/")[2]
        refusal = refusals.setdefault(status, {"description": "", "content": {MEDIA_TYPE: _PROBLEM | {"examples": {}}}})
        refusal["description"] = f"{refusal['description']} `{slug}`: {title}.".lstrip()
        value = example | {"detail": f"{title}."} | _EXAMPLE_MEMBERS.get(slug, {})
        refusal["content"][MEDIA_TYPE]["examples"][slug] = {"summary": title, "value": value}
    return refusals


def bodies(**examples: tuple[str, dict[str, Any]]) -> object:
    """The Annotated part of a request body with examples: name=("What it shows", value)."""
    body: object = Body(openapi_examples={name: {"summary": summary, "value": value} for name, (summary, value) in examples.items()})
    return body


def complete(generated: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with every operation completed; what was given stays as it is, since FastAPI keeps it."""
    document = deepcopy(generated)
    for path in document["paths"].values():
        for operation in path.values():
            _complete_operation(operation)
    schemas = document["components"]["schemas"]
    schemas["Problem"] = deepcopy(_PROBLEM_SCHEMA)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document


def _complete_operation(operation: dict[str, Any]) -> None:
    """Summary, problems, and the headers that routes read by themselves."""
    operation["summary"] = re.split(r"[.:;](?:\s|$)", operation["description"], maxsplit=1)[0]
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    operation["responses"] = responses = dict(sorted(responses.items())) | deepcopy(_SHARED)
    for status, response in responses.items():
        if response["description"] == _GENERATED:
            response["description"] = _MEANINGS[status]
        if status in {"201", "202"}:
            response["headers"] = _LOCATION
        for content in response.get("content", {}).values():
            content.pop("itemSchema", None)  # of OpenAPI 3.2, and this document says 3.1
    parameters = operation.setdefault("parameters", [])
    if "304" in responses:
        parameters.append(_header("If-None-Match", "ETags of what is known already: 304 if one still holds."))
    if "412" in responses:
        parameters.append(_header("If-Match", "ETags of what the change is meant for: 412 if none holds."))


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}
