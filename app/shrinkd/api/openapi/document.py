"""The OpenAPI document.

What FastAPI says of the routes, and what it cannot know of them; valid by the official schema of
3.1.
"""

import json
import pkgutil
import re
from copy import deepcopy
from typing import Any

from fastapi import Body

from shrinkd.api.http.prefer import READ_ONLY_POSTS
from shrinkd.api.http.problems import MEDIA_TYPE, body_of, unreadable
from shrinkd.api.openapi.schemas import complete_schemas
from shrinkd.errors import (
    AmbiguousReference,
    BodyTooLarge,
    CrossSiteRequest,
    Forbidden,
    GroupGone,
    GroupNotFound,
    InternalError,
    InvalidGroupName,
    InvalidRequest,
    KernelRefused,
    KeyInUse,
    KeyReused,
    MalformedBody,
    MisdirectedRequest,
    NotFound,
    NotReady,
    NotWritable,
    OutcomeUnknown,
    OutOfResources,
    PreconditionFailed,
    ShrinkdError,
    StoreUnavailable,
    TokenRefused,
    TooManyRequests,
    Unauthenticated,
    UnsupportedMedia,
)

DESCRIPTION = """
Lower a container's memory without killing it.

- `PATCH …/limits` compares and sets: it takes effect, or it is 409 and nothing at all has changed.
- `POST …/shrinks` reclaims first, as a job with progress, a deadline and a cancel button.
- A group stands in an address by its path, slashes as they are or as `%2F`, or by another of its names, such as `container:…`.
- Sizes go in as bytes or as `"400M"` (always binary) and come out as bytes; no limit is `null`.
- `?dry_run=true` makes every check of a change, and no change.
- What one GET reads has an `ETag`, for `If-None-Match` and, where it can be changed, `If-Match`; another `If-Match` is 412.
- A POST under an `Idempotency-Key` takes effect once, however often it is sent; `Prefer: return=minimal` answers no body.
- Lists come in pages: `next_page_token` goes back in as `?page_token=`, and `Link` holds that whole address.
- Every error is `application/problem+json`; its `type` is a page of this daemon that explains it.
- A token or a client certificate carries scopes, `read`, `write` or `admin`, for all groups or a subtree; what one may not read is a 404.
- Every answer has a `Request-Id`, which the log and the problem's `instance` repeat.
"""
TAGS = [
    {
        "name": "groups",
        "description": "Control groups: one incarnation each, by path or by the name of what runs "
        "in it.",
    },
    {"name": "limits", "description": "Compare and set, at once."},
    {"name": "shrinks", "description": "Reclaim as a job, then set the limit if wanted."},
    {
        "name": "policies",
        "description": "What each group's memory ought to be: kept by the daemon, and explained.",
    },
    {"name": "events", "description": "What has happened, listed or as it comes."},
    {"name": "stats", "description": "One vocabulary on every kernel, read when asked."},
    {
        "name": "simulator",
        "description": "The workloads, the time and the faults of a simulated machine; a real one "
        "answers 404.",
    },
    {
        "name": "simulations",
        "description": "Policies tried on a simulated machine, before a host feels them.",
    },
    {"name": "node", "description": "What this machine is and can."},
    {"name": "audit", "description": "Who tried to change what, and what came of it."},
    {"name": "health", "description": "For supervisors, load balancers and bug reports."},
    {"name": "docs", "description": "Pages for people."},
]
_SECURITY = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `shrinkd token make`, for its scopes and until it expires.",
    },
    "certificate": {
        "type": "mutualTLS",
        "description": "A client certificate, for the scopes that its common name was given.",
    },
}
_PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
_HEADERS: dict[str, tuple[str, dict[str, str]]] = {
    "ETag": (
        "Names this very state, strongly: for If-None-Match and If-Match.",
        {"type": "string"},
    ),
    "Link": ('The next page as rel="next", when there is one (RFC 8288).', {"type": "string"}),
    "Location": (
        "The address of what was made, or of what is in the way.",
        {"type": "string", "format": "uri-reference"},
    ),
    "Idempotency-Replayed": (
        "`true`: nothing was done now, and this is what the first request of this key was answered.",
        {"type": "string"},
    ),
    "Preference-Applied": (
        "What was honoured of what `Prefer` asked for: `wait=N`, `return=minimal`.",
        {"type": "string"},
    ),
    "Request-Id": (
        "The name of this request in the log: the client's own, where it sent a harmless one.",
        {"type": "string"},
    ),
    "WWW-Authenticate": ("How to say who calls (RFC 6750).", {"type": "string"}),
    "Retry-After": (
        "Seconds after which to look or try again, where that may help.",
        {"type": "integer"},
    ),
}


def sends(*names: str) -> dict[str, Any]:
    """The part of a response that documents its headers."""
    return {"headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}}


_KEY = (
    "A name for this very request, which its retries keep: it takes effect once, and they are "
    "answered as it was. For 24 h, for each "
    "caller and operation by itself; a dry run uses none up. 1 to 255 printable ASCII characters, "
    "with quotes around them or without."
)
_PREFER = "`return=minimal`: no body, if it works; a dry run and a batch keep theirs."
_STREAMED = (
    " The first block is `retry` alone, and a comment comes every 15 s where nothing else does. It "
    "ends with a `problem`, whose data is "
    "the problem document, where it cannot go on, and with `closing` when the daemon stops."
)
_GENERATED = {"Successful Response", "Created"}
_MEANINGS = {
    "200": "As asked.",
    "201": "Made. `Location` is its address (a dry run has none).",
    "202": "Under way. `Location` is its address (a dry run has none), and `Retry-After` says when "
    "to look again.",
    "204": "Done.",
    "207": "What came of each item, in the order of the request; each has a status of its own.",
}
_GIBIBYTE = 2**30
_EXAMPLE_MEMBERS: dict[str, dict[str, Any]] = {
    "limit-below-usage": {
        "detail": "Cannot set max_bytes to 67108864 (64 MiB): the group uses 371195904 bytes (354 "
        "MiB).",
        "group": {"id": "354371", "path": "web"},
        "field": "max_bytes",
        "requested_bytes": 67108864,
        "usage_bytes": 371195904,
        "shortfall_bytes": 304087041,
        "reclaimable_estimate_bytes": 268435456,
        "peak_bytes": 371195904,
        "current_max_bytes": _GIBIBYTE,
        "next": {
            "method": "POST",
            "href": "/v1/groups/web/shrinks",
            "body": {"target_bytes": 67108864, "set_max_bytes": 67108864},
        },
    },
    "invalid-request": {
        "detail": "query/dryrun: not a parameter of this operation; there are: dry_run.",
        "errors": [
            {
                "pointer": "query/dryrun",
                "detail": "not a parameter of this operation; there are: dry_run",
            }
        ],
    },
    "events-expired": {
        "detail": "The event 7 is too old: event 1042 is the oldest that is kept.",
        "after": 7,
        "oldest_id": 1042,
        "newest_id": 201041,
    },
    "range-too-large": {
        "detail": "That is 21600 steps for each of 6 fields, and one answer has at most 10000 "
        "values.",
        "steps": 21600,
        "fields": 6,
        "most_values": 10000,
    },
    "unauthenticated": {
        "detail": "A token is wanted here: send Authorization: Bearer and one of `shrinkd token "
        "make`."
    },
    "forbidden": {
        "detail": "That takes the scope 'write@web', which 'token:ci' does not have.",
        "scope": "write@web",
    },
    "shrink-in-progress": {
        "detail": "A shrink of this group is in progress: wait for it, or cancel it.",
        "group": {"id": "354371", "path": "web"},
        "shrink": {
            "id": "019a1b2c3d4e5f60718293a4b5c6d7e8",
            "href": "/v1/shrinks/019a1b2c3d4e5f60718293a4b5c6d7e8",
        },
    },
}
_GENERAL = (InvalidRequest, Unauthenticated, TokenRefused, Forbidden)
_OF_GROUPS = (GroupNotFound, AmbiguousReference, GroupGone, InvalidGroupName)
_NULL = "\0null"
"""Stands for null until the document is complete: FastAPI leaves nulls out, and in an example one
means "no limit"."""

_SIDES = re.compile(r'(?<=[/"])(\w+)-(Input|Output)(?=")')
"""How FastAPI tells a model that is sent from the same one answered; here the answer has the plain
name."""

Responses = dict[int | str, dict[str, Any]]
PAGED: Responses = {200: sends("Link")}
UNCHANGED: Responses = {
    200: sends("ETag"),
    304: {"description": "It is still what `If-None-Match` names."} | sends("ETag"),
}


def refuses(*kinds: type[ShrinkdError], group: bool = False) -> Responses:
    """The `responses` of a route that raises these.

    With `group`, also what a reference to a group can raise.
    """
    refusals: Responses = {}
    for kind in (*kinds, *(_OF_GROUPS if group else ())):
        _add_refusal(refusals, kind)
    return refusals


def _add_refusal(refusals: Responses, kind: type[ShrinkdError]) -> None:
    _add_problem(refusals, body_of(kind("…")))


def _add_problem(refusals: Responses, body: dict[str, Any]) -> None:
    title, status, slug = body["title"], body["status"], body["type"].rpartition("/")[2]
    refusal = refusals.setdefault(
        status, {"description": "", "content": {MEDIA_TYPE: _PROBLEM | {"examples": {}}}}
    )
    refusal["description"] = f"{refusal['description']} `{slug}`: {title}.".lstrip()
    value = (
        body | {"detail": f"{title}.", "instance": "e6d766de-1d"} | _EXAMPLE_MEMBERS.get(slug, {})
    )
    refusal["content"][MEDIA_TYPE]["examples"][slug] = {"summary": title, "value": value}
    if status == 401:
        _send(refusal, "WWW-Authenticate")
    elif slug == "shrink-in-progress":
        _send(refusal, "Location", "Retry-After")
    elif status in {429, 503} or slug == "idempotency-key-in-use":
        _send(refusal, "Retry-After")


def _send(response: dict[str, Any], *names: str) -> None:
    """Document headers beside those that the response has."""
    response["headers"] = response.get("headers", {}) | sends(*names)["headers"]


def _shared(*kinds: type[ShrinkdError], by_server: tuple[int, ...] = ()) -> Responses:
    """Refusals that no route raises by itself.

    `by_server`, the statuses of what is answered before there is a request.
    """
    refusals = refuses(*kinds)
    for status in by_server:
        _add_problem(refusals, json.loads(unreadable(status)[0]))
    for response in refusals.values():
        _send(response, "Request-Id")
    return refusals


def _any_problem(description: str, like: type[ShrinkdError]) -> dict[str, Any]:
    example = body_of(like("…")) | {"instance": "e6d766de-1d"}
    return {
        "description": description,
        "content": {MEDIA_TYPE: _PROBLEM | {"example": example}},
    } | sends("Request-Id", "Retry-After")


_ANYWHERE = _shared(
    *(
        MisdirectedRequest,
        TooManyRequests,
        InternalError,
        KernelRefused,
        StoreUnavailable,
        NotWritable,
        OutOfResources,
    ),
    by_server=(408, 429, 431, 503),
) | {
    "4XX": _any_problem("The request cannot be carried out; `type` tells why.", NotFound),
    "5XX": _any_problem("The daemon cannot carry it out; `type` tells why.", NotReady),
}
"""What any operation may answer, whatever it does."""
_WITH_A_BODY = _shared(MalformedBody, BodyTooLarge, UnsupportedMedia)
"""And one that takes a body."""
_SHARED = _ANYWHERE | _WITH_A_BODY | _shared(PreconditionFailed)


def _named(status: int | str) -> str:
    return f"Problem{status}"


def _share(responses: Responses, shared: Responses) -> None:
    """Add what others answer, too.

    By its name, or where the operation has that status of its own, to what stands there.
    """
    for status, response in shared.items():
        own = responses.setdefault(status, {"$ref": f"#/components/responses/{_named(status)}"})
        if "$ref" not in own:
            own["description"] += f" {response['description']}"
            own["content"][MEDIA_TYPE]["examples"] |= response["content"][MEDIA_TYPE]["examples"]
            own["headers"] = response["headers"] | own.get("headers", {})


def bodies(**examples: tuple[str, dict[str, Any]]) -> object:
    """The Annotated part of a request body with examples: name=("What it shows", value)."""
    shown: dict[str, Any] = {
        name: {
            "summary": summary,
            "value": {key: _NULL if part is None else part for key, part in value.items()},
        }
        for name, (summary, value) in examples.items()
    }
    body: object = Body(openapi_examples=shown)
    return body


def complete(generated: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with every operation and schema completed.

    What was given stays as it is, since FastAPI keeps it.
    """
    text = _SIDES.sub(_name_side, json.dumps(generated).replace(json.dumps(_NULL), "null"))
    document: dict[str, Any] = json.loads(text, parse_float=_number)
    answers = json.loads(pkgutil.get_data(__package__, "examples.json") or "{}")
    for path in document["paths"].values():
        for method, operation in path.items():
            _complete_operation(operation)
            _complete_change(method, operation)
            _add_answers(operation["responses"], answers.get(operation["operationId"], {}))
    components = document["components"]
    components["headers"] = {
        name: {"description": meaning, "schema": dict(schema)}
        for name, (meaning, schema) in _HEADERS.items()
    }
    components["securitySchemes"] = _SECURITY
    document["security"] = [
        {},
        *({name: []} for name in _SECURITY),
    ]  # {}: a unix socket, and a simulator, ask for nothing
    components["responses"] = {
        _named(status): deepcopy(response) for status, response in _SHARED.items()
    }
    complete_schemas(components["schemas"])
    return document


def _name_side(found: re.Match[str]) -> str:
    return found[1] + ("Input" if found[2] == "Input" else "")


def _add_answers(responses: dict[str, Any], answers: dict[str, Any]) -> None:
    """To each promise of JSON, what the simulator once answered there (`make examples` asks it)."""
    for status, answer in answers.items():
        if status in responses:
            responses[status]["content"]["application/json"]["example"] = answer


def _number(text: str) -> float:
    """FastAPI makes every bound a float.

    Integers again, and the largest size is one below the float next to it.
    """
    value = float(text)
    return min(int(value), 2**63 - 1) if value.is_integer() else value


def _complete_operation(operation: dict[str, Any]) -> None:
    """Summary, problems, and the headers that routes read by themselves."""
    operation["summary"] = re.split(r"[.:;](?:\s|$)", operation["description"], maxsplit=1)[0]
    if "HTTPValidationError" in str(operation["responses"].get("422")):
        del operation["responses"]["422"]
    stated: Responses = {
        int(status): response for status, response in operation["responses"].items()
    }
    # The pages take any query, and all else refuses what it does not know. Only what tells of this
    # node asks who calls.
    general = {"docs": (), "health": (InvalidRequest,)}.get(operation["tags"][0], _GENERAL)
    for kind in general:
        _add_refusal(stated, kind)
    if general != _GENERAL:
        operation["security"] = []
    _share(stated, _ANYWHERE | (_WITH_A_BODY if "requestBody" in operation else {}))
    operation["responses"] = responses = {
        str(status): stated[status] for status in sorted(stated, key=str)
    }
    for status, response in responses.items():
        if "$ref" not in response:
            _complete_answer(status, response)
    parameters = operation.setdefault("parameters", [])
    if "304" in responses:
        parameters.append(
            _header("If-None-Match", "ETags of what is known already: 304 if one still holds.")
        )
    if "412" in responses:
        parameters.append(
            _header("If-Match", "ETags of what the change is meant for: 412 if none holds.")
        )
        parameters.append(
            _header(
                "If-None-Match",
                "ETags of what it is not meant for: 412 if one holds; `*`, if there is anything "
                "yet.",
            )
        )


def _complete_answer(status: str, response: dict[str, Any]) -> None:
    if response["description"] in _GENERATED:
        response["description"] = _MEANINGS[status]
    _send(response, "Request-Id")
    for media_type, content in response.get("content", {}).items():
        content.pop("itemSchema", None)  # of OpenAPI 3.2, and this document says 3.1
        if media_type == "text/event-stream":
            response["description"] += _STREAMED
            content.pop(
                "schema", None
            )  # it would be about the stream as one string, which is what nobody reads


def _complete_change(method: str, operation: dict[str, Any]) -> None:
    """What every change takes.

    A preference for less to read, and if it is a POST a key under which it is done once.
    """
    parameters, responses = operation["parameters"], operation["responses"]
    if method == "get":
        return
    _add_refusal({403: responses["403"]}, CrossSiteRequest)
    responses.setdefault("412", {"$ref": f"#/components/responses/{_named(412)}"})
    if operation["operationId"] not in READ_ONLY_POSTS:
        _complete_preference(parameters, responses)
    if method == "post":
        parameters.append(
            _header("Idempotency-Key", _KEY)
            | {"schema": {"type": "string", "minLength": 1, "maxLength": 512}}
        )
        refusals: Responses = {
            int(status): responses[status] for status in ("409", "422") if status in responses
        }
        for kind in (KeyInUse, OutcomeUnknown, KeyReused):
            _add_refusal(refusals, kind)
        for status, refusal in refusals.items():
            _send(refusal, "Request-Id")
            responses[str(status)] = refusal
        _add_header(responses, "Idempotency-Replayed", "24")
    operation["responses"] = dict(sorted(responses.items()))


def _complete_preference(parameters: list[dict[str, Any]], responses: dict[str, Any]) -> None:
    waits = [parameter for parameter in parameters if parameter["name"] == "prefer"]
    for parameter in waits:
        parameter["description"] += f" {_PREFER}"
    if not waits:
        parameters.append(_header("Prefer", _PREFER))
    if "200" in responses and "204" not in responses:
        responses["204"] = {"description": "Done, and `return=minimal` was wanted."} | sends(
            "Request-Id"
        )
        responses["204"]["headers"] |= {
            name: header
            for name, header in responses["200"]["headers"].items()
            if name in {"ETag", "Location"}
        }
    _add_header(responses, "Preference-Applied", "2")


def _add_header(responses: dict[str, Any], name: str, classes: str) -> None:
    """Document a header of all answers of these classes that the operation has for its own."""
    for status, response in responses.items():
        if status[0] in classes and "$ref" not in response:
            _send(response, name)


def _header(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
    }
