"""The OpenAPI document: what FastAPI says of the routes, and what it cannot know of them; valid by the official schema of 3.1."""

import json
import pkgutil
import re
from copy import deepcopy
from typing import Any

from fastapi import Body

from app.api.preferences import QUESTIONS
from app.api.problems import MEDIA_TYPE, body_of
from app.errors import (
    AmbiguousReference,
    Forbidden,
    GroupGone,
    GroupNotFound,
    InvalidGroupName,
    InvalidRequest,
    KeyInUse,
    KeyReused,
    MalformedBody,
    OutcomeUnknown,
    ShrinkdError,
    StoreUnavailable,
    Unauthenticated,
)

DESCRIPTION = """
Lower a container's memory without killing it.

- `PATCH …/limits` compares and sets: it takes effect, or it is 409 and nothing at all has changed.
- `POST …/shrinks` reclaims first, as a job with progress, a deadline and a cancel button.
- A group stands in an address by its path, slashes as they are or as `%2F`, or by another of its names, such as `container:…`.
- Sizes go in as bytes or as `"400M"` (always binary) and come out as bytes; no limit is `null`.
- `?dry_run=true` makes every check of a change, and no change.
- What one GET reads has an `ETag`, for `If-None-Match` and, where it can be changed, `If-Match`.
- A POST under an `Idempotency-Key` takes effect once, however often it is sent; `Prefer: return=minimal` answers no body.
- Lists come in pages: `next_page_token` goes back in as `?page_token=`, and `Link` holds that whole address.
- Every error is `application/problem+json`; its `type` is a page of this daemon that explains it.
- A token or a client certificate carries scopes, `read`, `write` or `admin`, for all groups or a subtree; what one may not read is a 404.
- Every answer has a `Request-Id`, which the log and the problem's `instance` repeat.
"""
TAGS = [
    {"name": "groups", "description": "Control groups: one incarnation each, by path or by the name of what runs in it."},
    {"name": "limits", "description": "Compare and set, at once."},
    {"name": "shrinks", "description": "Reclaim as a job, then set the limit if wanted."},
    {"name": "policies", "description": "What each group's memory ought to be: kept by the daemon, and explained."},
    {"name": "events", "description": "What has happened, listed or as it comes."},
    {"name": "stats", "description": "One vocabulary on every kernel, read when asked."},
    {"name": "simulator", "description": "The workloads, the time and the faults of a simulated machine; a real one answers 404."},
    {"name": "simulations", "description": "Policies tried on a simulated machine, before a host feels them."},
    {"name": "node", "description": "What this machine is and can."},
    {"name": "audit", "description": "Who tried to change what, and what came of it."},
    {"name": "health", "description": "For supervisors, load balancers and bug reports."},
    {"name": "docs", "description": "Pages for people."},
]
_SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token of `shrinkd token make`, for its scopes and until it expires."},
    "certificate": {"type": "mutualTLS", "description": "A client certificate, for the scopes that its common name was given."},
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "title": "Problem",
    "description": "Why it did not work (RFC 9457). Every number in `detail` is also a member of its own.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "description": "`/problems/` and a name, and a page of this daemon: branch on it.",
        },
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The request id."},
        "errno": {"type": "string", "description": "The kernel's answer, where one is behind it.", "examples": ["EBUSY"]},
        "errors": {
            "type": "array",
            "description": "What is wrong with a request, place by place.",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "Into the body, a JSON pointer as a fragment; elsewhere the part and the name.",
                        "examples": ["#/max_bytes", "query/page_size"],
                    },
                    "detail": {"type": "string"},
                },
            },
        },
        "next": {
            "type": "object",
            "description": "The request that would make it work, where there is one.",
            "required": ["method", "href", "body"],
            "properties": {
                "method": {"type": "string"},
                "href": {"type": "string", "format": "uri-reference"},
                "body": {"type": "object", "additionalProperties": True},
            },
        },
        "shrink": {
            "type": "object",
            "description": "The shrink that is in the way.",
            "required": ["id", "href"],
            "properties": {"id": {"type": "string"}, "href": {"type": "string", "format": "uri-reference"}},
        },
    },
    "additionalProperties": True,
}
_PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
_HEADERS: dict[str, tuple[str, dict[str, str]]] = {
    "ETag": ("Names this very state, strongly: for If-None-Match and If-Match.", {"type": "string"}),
    "Link": ('The next page as rel="next", when there is one (RFC 8288).', {"type": "string"}),
    "Location": ("The address of what was made, or of what is in the way.", {"type": "string", "format": "uri-reference"}),
    "Idempotency-Replayed": (
        "`true`: nothing was done now, and this is what the first request of this key was answered.",
        {"type": "string"},
    ),
    "Preference-Applied": ("What was honoured of what `Prefer` asked for: `wait=N`, `return=minimal`.", {"type": "string"}),
    "Request-Id": ("The name of this request in the log: the client's own, where it sent a harmless one.", {"type": "string"}),
    "WWW-Authenticate": ("How to say who calls (RFC 6750).", {"type": "string"}),
    "Retry-After": ("Seconds after which to look or try again, where that may help.", {"type": "integer"}),
}


def sends(*names: str) -> dict[str, Any]:
    """The part of a response that documents its headers."""
    return {"headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}}


def _any_problem(description: str, kind: type[ShrinkdError], detail: str) -> dict[str, Any]:
    example = body_of(kind(detail)) | {"instance": "e6d766de-1d"}
    return {"description": description, "content": {MEDIA_TYPE: _PROBLEM | {"example": example}}}


_SHARED = {
    "4XX": _any_problem("The request cannot be carried out; `type` tells why.", MalformedBody, "The body is not JSON."),
    "5XX": _any_problem("The daemon cannot carry it out; `type` tells why.", StoreUnavailable, "The database is locked.")
    | sends("Retry-After"),
}
_KEY = (
    "A name for this very request, which its retries keep: it takes effect once, and they are answered as it was. For 24 h; "
    "for each caller and operation by itself. 1 to 255 printable ASCII characters, with quotes around them or without."
)
_PREFER = "`return=minimal`: no body, if it works; a dry run and a batch keep theirs."
_GENERATED = "Successful Response"
_MEANINGS = {
    "200": "As asked.",
    "201": "Made. `Location` is its address.",
    "202": "Under way. `Location` is its address (a dry run has none), and `Retry-After` says when to look again.",
    "204": "Done.",
    "207": "What came of each item, in the order of the request; each has a status of its own.",
}
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
    "invalid-request": {
        "detail": "query/dryrun: not a parameter of this operation; there are: dry_run.",
        "errors": [{"pointer": "query/dryrun", "detail": "not a parameter of this operation; there are: dry_run"}],
    },
    "events-expired": {
        "detail": "The event 7 is too old: event 1042 is the oldest that is kept.",
        "after": 7,
        "oldest_id": 1042,
        "newest_id": 201041,
    },
    "range-too-large": {
        "detail": "That is 21600 steps for each of 6 fields, and one answer has at most 10000 values.",
        "steps": 21600,
        "fields": 6,
        "most_values": 10000,
    },
    "unauthenticated": {"detail": "A token is wanted here: send Authorization: Bearer and one of `shrinkd token make`."},
    "forbidden": {"detail": "That takes the scope 'write@web', which 'token:ci' does not have.", "scope": "write@web"},
    "shrink-in-progress": {
        "detail": "A shrink of this group is in progress: wait for it, or cancel it.",
        "group": {"id": "354371", "path": "web"},
        "shrink": {"id": "019a1b2c3d4e5f60718293a4b5c6d7e8", "href": "/v1/shrinks/019a1b2c3d4e5f60718293a4b5c6d7e8"},
    },
}
_GENERAL = (InvalidRequest, Unauthenticated, Forbidden)
_OF_GROUPS = (GroupNotFound, AmbiguousReference, GroupGone, InvalidGroupName)
_NULL = "\0null"
"""Stands for null until the document is complete: FastAPI leaves nulls out, and in an example one means "no limit"."""

_SIDES = re.compile(r'(?<=[/"])(\w+)-(Input|Output)(?=")')
"""How FastAPI tells a model that is sent from the same one answered; here the answer has the plain name."""

Responses = dict[int | str, dict[str, Any]]
PAGED: Responses = {200: sends("Link")}
UNCHANGED: Responses = {200: sends("ETag"), 304: {"description": "It is still what `If-None-Match` names."} | sends("ETag")}


def refuses(*kinds: type[ShrinkdError], group: bool = False) -> Responses:
    """The `responses` of a route that raises these; with `group`, also what a reference to a group can raise."""
    refusals: Responses = {}
    for kind in (*kinds, *(_OF_GROUPS if group else ())):
        _add_refusal(refusals, kind)
    return refusals


def _add_refusal(refusals: Responses, kind: type[ShrinkdError]) -> None:
    example = body_of(kind("…")) | {"instance": "e6d766de-1d"}
    title, status, slug = str(example["title"]), int(str(example["status"])), str(example["type"]).rpartition("/")[2]
    refusal = refusals.setdefault(status, {"description": "", "content": {MEDIA_TYPE: _PROBLEM | {"examples": {}}}})
    refusal["description"] = f"{refusal['description']} `{slug}`: {title}.".lstrip()
    value = example | {"detail": f"{title}."} | _EXAMPLE_MEMBERS.get(slug, {})
    refusal["content"][MEDIA_TYPE]["examples"][slug] = {"summary": title, "value": value}
    if status == 401:
        refusal |= sends("WWW-Authenticate")
    elif slug == "shrink-in-progress":
        refusal |= sends("Location", "Retry-After")
    elif status in {429, 503} or slug == "idempotency-key-in-use":
        refusal |= sends("Retry-After")


def bodies(**examples: tuple[str, dict[str, Any]]) -> object:
    """The Annotated part of a request body with examples: name=("What it shows", value)."""
    shown: dict[str, Any] = {
        name: {"summary": summary, "value": {key: _NULL if part is None else part for key, part in value.items()}}
        for name, (summary, value) in examples.items()
    }
    body: object = Body(openapi_examples=shown)
    return body


def complete(generated: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with every operation and schema completed; what was given stays as it is, since FastAPI keeps it."""
    text = _SIDES.sub(_name_side, json.dumps(generated).replace(json.dumps(_NULL), "null"))
    document: dict[str, Any] = json.loads(text, parse_float=_number)
    answers = json.loads(pkgutil.get_data(__package__, "examples.json") or "{}")
    for path in document["paths"].values():
        for method, operation in path.items():
            _complete_operation(operation)
            _complete_change(method, operation)
            _add_answers(operation["responses"], answers.get(operation["operationId"], {}))
    components = document["components"]
    components["headers"] = {name: {"description": meaning, "schema": dict(schema)} for name, (meaning, schema) in _HEADERS.items()}
    components["securitySchemes"] = _SECURITY
    document["security"] = [{}, *({name: []} for name in _SECURITY)]  # {}: a unix socket, and a simulator, ask for nothing
    schemas = components["schemas"]
    schemas["Problem"] = deepcopy(_PROBLEM_SCHEMA)
    schemas["StatsBody"]["required"].remove("raw")  # there with ?raw=true alone
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for name, schema in schemas.items():
        schema["title"] = name  # generated clients name their classes by it, and two of one name would be one too many
        _complete_times(schema)
    return document


def _name_side(found: re.Match[str]) -> str:
    return found[1] + ("Input" if found[2] == "Input" else "")


def _add_answers(responses: dict[str, Any], answers: dict[str, Any]) -> None:
    """To each promise of JSON, what the simulator once answered there (`make examples` asks it)."""
    for status, answer in answers.items():
        if status in responses:
            responses[status]["content"]["application/json"]["example"] = answer


def _number(text: str) -> float:
    """FastAPI makes every bound a float: integers again, and the largest size is one below the float next to it."""
    value = float(text)
    return min(int(value), 2**63 - 1) if value.is_integer() else value


def _complete_times(schema: dict[str, Any]) -> None:
    """Every name that ends in _at is a time by RFC 3339."""
    for name, member in schema.get("properties", {}).items():
        for kind in (member, *member.get("anyOf", ())) if name.endswith("_at") else ():
            if kind.get("type") == "string":
                kind["format"] = "date-time"


def _complete_operation(operation: dict[str, Any]) -> None:
    """Summary, problems, and the headers that routes read by themselves."""
    operation["summary"] = re.split(r"[.:;](?:\s|$)", operation["description"], maxsplit=1)[0]
    if "HTTPValidationError" in str(operation["responses"].get("422")):
        del operation["responses"]["422"]
    stated: Responses = {int(status): response for status, response in operation["responses"].items()}
    # The pages take any query, and all else refuses what it does not know. Only what tells of this node asks who calls.
    general = {"docs": (), "health": (InvalidRequest,)}.get(operation["tags"][0], _GENERAL)
    for kind in general:
        _add_refusal(stated, kind)
    if general != _GENERAL:
        operation["security"] = []
    operation["responses"] = responses = {str(status): stated[status] for status in sorted(stated, key=int)} | deepcopy(_SHARED)
    for status, response in responses.items():
        if response["description"] == _GENERATED:
            response["description"] = _MEANINGS[status]
        response["headers"] = sends("Request-Id")["headers"] | response.get("headers", {})
        for media_type, content in response.get("content", {}).items():
            content.pop("itemSchema", None)  # of OpenAPI 3.2, and this document says 3.1
            if media_type == "text/event-stream":
                content.pop("schema", None)  # it would be about the stream as one string, which is what nobody reads
    parameters = operation.setdefault("parameters", [])
    if "304" in responses:
        parameters.append(_header("If-None-Match", "ETags of what is known already: 304 if one still holds."))
    if "412" in responses:
        parameters.append(_header("If-Match", "ETags of what the change is meant for: 412 if none holds."))


def _complete_change(method: str, operation: dict[str, Any]) -> None:
    """What every change takes: a preference for less to read, and if it is a POST a key under which it is done once."""
    parameters, responses = operation["parameters"], operation["responses"]
    if method == "get":
        return
    if operation["operationId"] not in QUESTIONS:
        _complete_preference(parameters, responses)
    if method == "post":
        parameters.append(_header("Idempotency-Key", _KEY) | {"schema": {"type": "string", "minLength": 1, "maxLength": 512}})
        refusals: Responses = {int(status): responses[status] for status in ("409", "422") if status in responses}
        for kind in (KeyInUse, OutcomeUnknown, KeyReused):
            _add_refusal(refusals, kind)
        responses |= {str(status): refusal for status, refusal in refusals.items()}
        _add_headers(responses, "Idempotency-Replayed")
    operation["responses"] = dict(sorted(responses.items()))


def _complete_preference(parameters: list[dict[str, Any]], responses: dict[str, Any]) -> None:
    waits = [parameter for parameter in parameters if parameter["name"] == "prefer"]
    for parameter in waits:
        parameter["description"] += f" {_PREFER}"
    if not waits:
        parameters.append(_header("Prefer", _PREFER))
    if "200" in responses and "204" not in responses:
        responses["204"] = {"description": "Done, and `return=minimal` was wanted."} | sends("Request-Id")
        responses["204"]["headers"] |= {name: header for name, header in responses["200"]["headers"].items() if name == "ETag"}
    _add_headers(responses, "Preference-Applied")


def _add_headers(responses: dict[str, Any], *names: str) -> None:
    for status, response in responses.items():
        if status.startswith("2"):
            response["headers"] |= sends(*names)["headers"]


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}
