"""Complete the OpenAPI 3.1 document that FastAPI generates from the routes."""

import json
import pkgutil
import re
from copy import deepcopy
from typing import Any

from shrinkd.api.http.prefer import READ_ONLY_POSTS
from shrinkd.api.http.problems import MEDIA_TYPE
from shrinkd.api.openapi.responses import (
    NULL_PLACEHOLDER,
    Responses,
    add_headers,
    add_refusal,
    any_problem,
    sends,
    shared_refusals,
)
from shrinkd.api.openapi.schemas import complete_schemas
from shrinkd.api.openapi.texts import (
    HEADERS,
    IDEMPOTENCY_KEY,
    MEANINGS,
    PREFER,
    SECURITY_SCHEMES,
    STREAMED,
)
from shrinkd.errors import (
    BodyTooLarge,
    CrossSiteRequest,
    Forbidden,
    InternalError,
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

_GENERATED_DESCRIPTIONS = {"Successful Response", "Created"}
_ALL_OPERATIONS: tuple[type[ShrinkdError], ...] = (
    InvalidRequest,
    Unauthenticated,
    TokenRefused,
    Forbidden,
)
_BY_TAG: dict[str, tuple[type[ShrinkdError], ...]] = {"docs": (), "health": (InvalidRequest,)}
"""Tags with fewer refusals: pages accept any query, and neither needs a caller, because they
disclose nothing of the node."""
_ANY_OPERATION = shared_refusals(
    MisdirectedRequest,
    TooManyRequests,
    InternalError,
    KernelRefused,
    StoreUnavailable,
    NotWritable,
    OutOfResources,
    by_server=(408, 429, 431, 503),
) | {
    "4XX": any_problem("The request cannot be executed; `type` tells why.", NotFound),
    "5XX": any_problem("The daemon cannot execute it; `type` tells why.", NotReady),
}
_ANY_WITH_BODY = shared_refusals(MalformedBody, BodyTooLarge, UnsupportedMedia)
_SHARED = _ANY_OPERATION | _ANY_WITH_BODY | shared_refusals(PreconditionFailed)
_MODEL_SIDE = re.compile(r'(?<=[/"])(\w+)-(Input|Output)(?=")')
"""Suffix by which FastAPI tells the model of a request from the same model of a response; in this
document the response has the plain name."""


def complete(generated: dict[str, Any]) -> dict[str, Any]:
    """Return FastAPI's document with every operation and schema completed.

    `generated` stays unchanged, because FastAPI caches it.
    """
    plain = json.dumps(generated).replace(json.dumps(NULL_PLACEHOLDER), "null")
    text = _MODEL_SIDE.sub(_rename_side, plain)
    document: dict[str, Any] = json.loads(text, parse_float=_parse_number)
    answers = json.loads(pkgutil.get_data(__package__, "examples.json") or "{}")
    for path in document["paths"].values():
        for method, operation in path.items():
            _complete_operation(operation)
            _complete_change(method, operation)
            _add_examples(operation["responses"], answers.get(operation["operationId"], {}))
    components = document["components"]
    components["headers"] = {
        name: {"description": meaning, "schema": dict(schema)}
        for name, (meaning, schema) in HEADERS.items()
    }
    components["securitySchemes"] = SECURITY_SCHEMES
    # {}: a unix socket, and a simulator, need no credentials
    document["security"] = [{}, *({name: []} for name in SECURITY_SCHEMES)]
    components["responses"] = {
        _component(status): deepcopy(response) for status, response in _SHARED.items()
    }
    complete_schemas(components["schemas"])
    return document


def _rename_side(found: re.Match[str]) -> str:
    return found[1] + ("Input" if found[2] == "Input" else "")


def _parse_number(text: str) -> float:
    """Restore integers, because FastAPI writes every bound as a float.

    The largest size, 2^63 - 1, has no float of its own: the next one is 2^63.
    """
    value = float(text)
    return min(int(value), 2**63 - 1) if value.is_integer() else value


def _add_examples(responses: dict[str, Any], answers: dict[str, Any]) -> None:
    """Add to each JSON response an answer of the simulator, recorded by `make examples`."""
    for status, answer in answers.items():
        if status in responses:
            responses[status]["content"]["application/json"]["example"] = answer


def _component(status: int | str) -> str:
    return f"Problem{status}"


def _complete_operation(operation: dict[str, Any]) -> None:
    """Add the summary, the problems, and the headers that no route declares as parameters."""
    operation["summary"] = re.split(r"[.:;](?:\s|$)", operation["description"], maxsplit=1)[0]
    if "HTTPValidationError" in str(operation["responses"].get("422")):
        del operation["responses"]["422"]
    stated: Responses = {
        int(status): response for status, response in operation["responses"].items()
    }
    refusals = _BY_TAG.get(operation["tags"][0], _ALL_OPERATIONS)
    for kind in refusals:
        add_refusal(stated, kind)
    if refusals != _ALL_OPERATIONS:
        operation["security"] = []
    _share(stated, _ANY_OPERATION | (_ANY_WITH_BODY if "requestBody" in operation else {}))
    operation["responses"] = responses = {
        str(status): stated[status] for status in sorted(stated, key=str)
    }
    for status, response in responses.items():
        if "$ref" not in response:
            _complete_answer(status, response)
    _add_conditions(operation.setdefault("parameters", []), responses)


def _share(responses: Responses, shared: Responses) -> None:
    """Add shared responses: by reference, or merged into the operation's own of that status."""
    for status, response in shared.items():
        own = responses.setdefault(status, {"$ref": f"#/components/responses/{_component(status)}"})
        if "$ref" not in own:
            own["description"] += f" {response['description']}"
            own["content"][MEDIA_TYPE]["examples"] |= response["content"][MEDIA_TYPE]["examples"]
            own["headers"] = response["headers"] | own.get("headers", {})


def _complete_answer(status: str, response: dict[str, Any]) -> None:
    if response["description"] in _GENERATED_DESCRIPTIONS:
        response["description"] = MEANINGS[status]
    add_headers(response, "Request-Id")
    for media_type, content in response.get("content", {}).items():
        content.pop("itemSchema", None)  # of OpenAPI 3.2, and this document says 3.1
        if media_type == "text/event-stream":
            response["description"] += STREAMED
            content.pop("schema", None)  # it describes the whole stream as one string


def _add_conditions(parameters: list[dict[str, Any]], responses: dict[str, Any]) -> None:
    """Add the headers of conditional requests: of a GET where 304 is possible, of a change 412."""
    if "304" in responses:
        parameters.append(
            _header("If-None-Match", "ETags of known states: 304 if one of them is current.")
        )
    if "412" in responses:
        parameters.append(
            _header("If-Match", "ETags of the states to change: 412 if none of them is current.")
        )
        parameters.append(
            _header(
                "If-None-Match",
                "ETags of states not to change: 412 if one of them is current; `*`: 412 if the "
                "resource exists.",
            )
        )


def _complete_change(method: str, operation: dict[str, Any]) -> None:
    """Add what every change accepts: `Prefer`, and for a POST `Idempotency-Key`."""
    parameters, responses = operation["parameters"], operation["responses"]
    if method == "get":
        return
    add_refusal({403: responses["403"]}, CrossSiteRequest)
    responses.setdefault("412", {"$ref": f"#/components/responses/{_component(412)}"})
    if operation["operationId"] not in READ_ONLY_POSTS:
        _add_prefer(parameters, responses)
    if method == "post":
        _add_idempotency_key(parameters, responses)
    operation["responses"] = dict(sorted(responses.items()))


def _add_idempotency_key(parameters: list[dict[str, Any]], responses: dict[str, Any]) -> None:
    parameters.append(
        _header("Idempotency-Key", IDEMPOTENCY_KEY)
        | {"schema": {"type": "string", "minLength": 1, "maxLength": 512}}
    )
    refusals: Responses = {
        int(status): responses[status] for status in ("409", "422") if status in responses
    }
    for kind in (KeyInUse, OutcomeUnknown, KeyReused):
        add_refusal(refusals, kind)
    for status, refusal in refusals.items():
        add_headers(refusal, "Request-Id")
        responses[str(status)] = refusal
    _add_header(responses, "Idempotency-Replayed", "24")


def _add_prefer(parameters: list[dict[str, Any]], responses: dict[str, Any]) -> None:
    declared = [parameter for parameter in parameters if parameter["name"] == "prefer"]
    for parameter in declared:  # of a route that takes wait=N
        parameter["description"] += f" {PREFER}"
    if not declared:
        parameters.append(_header("Prefer", PREFER))
    if "200" in responses and "204" not in responses:
        responses["204"] = {"description": "Done, with `return=minimal`."} | sends("Request-Id")
        responses["204"]["headers"] |= {
            name: header
            for name, header in responses["200"]["headers"].items()
            if name in {"ETag", "Location"}
        }
    _add_header(responses, "Preference-Applied", "2")


def _add_header(responses: dict[str, Any], name: str, classes: str) -> None:
    """Document a header of every response of the operation's own whose status is of a class.

    `classes`: first digits, such as "24".
    """
    for status, response in responses.items():
        if status[0] in classes and "$ref" not in response:
            add_headers(response, name)


def _header(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
    }
