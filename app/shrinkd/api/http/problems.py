"""Errors on their way out.

A class becomes a status, a slug and an RFC 9457 problem, here and nowhere else.
"""

import errno
import json
import logging
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from shrinkd import errors
from shrinkd.api.http.error_locations import pointed
from shrinkd.api.http.group_reference import href_of
from shrinkd.api.http.problem_types import PROBLEMS, Problem
from shrinkd.backends import Group
from shrinkd.errors import ShrinkdError
from shrinkd.strict_model import reason

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"

_OF_STATUS = {
    400: Problem(400, "bad-request", "The request cannot be read", "Send it as HTTP says."),
    404: PROBLEMS[errors.NotFound],
    405: Problem(405, "method-not-allowed", "That cannot be done here", "`Allow` lists what can."),
    408: Problem(
        408,
        "request-timeout",
        "The request did not arrive in time",
        "Send all of it within ten seconds of its first byte.",
    ),
    429: Problem(
        429,
        "too-many-connections",
        "Too many connections are open",
        "Use those that are open again, or close some. Nobody has more than half of all that this "
        "daemon takes.",
    ),
    431: Problem(
        431,
        "header-too-large",
        "The header is too large",
        "No request of this API needs more than 64 KiB or 128 fields of it, nor trailers.",
    ),
    500: PROBLEMS[errors.ShrinkdError],
    503: Problem(
        503,
        "overloaded",
        "This daemon has no room for another connection",
        "Try again after Retry-After.",
    ),
}
_OF_HTTP_ALONE = {400, 401, 412, 413, 415, 421}
"""Where no kernel would answer, `errno` would only puzzle."""
BY_SLUG = {problem.slug: problem for problem in (*PROBLEMS.values(), *_OF_STATUS.values())}


def problem_of(error: ShrinkdError) -> Problem:
    """The problem of an error's class, or of the nearest class above it."""
    return next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)


def body_of(error: ShrinkdError) -> dict[str, object]:
    """An error as a problem document, without an instance: what a failed shrink carries, too."""
    problem = problem_of(error)
    members = {
        name: _plain(value)
        for name, value in error.members.items()
        if name not in {"errno", "shrink_id"}
    }
    errname = None if problem.status in _OF_HTTP_ALONE else error.errname
    return _document(problem, error.detail, errname) | members | _extras(error)


def restored(row: Mapping[str, Any] | None) -> dict[str, object] | None:
    """Make the problem document of a stored error (see storage.serialize_error)."""
    if row is None:
        return None
    kind = getattr(errors, row["kind"], errors.InternalError)
    members = {
        name: Group(**value) if name == "group" else value for name, value in row["members"].items()
    }
    return body_of(kind(row["detail"], **members))


def _document(problem: Problem, detail: str, errname: str | None) -> dict[str, object]:
    document: dict[str, object] = {
        "type": f"/problems/{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
    }
    return document | ({"errno": errname} if errname else {})


def _plain(value: object) -> object:
    return {"id": str(value.id), "path": value.path} if isinstance(value, Group) else value


def _extras(error: ShrinkdError) -> dict[str, object]:
    """The members that only this layer knows: where to go next."""
    group = error.members.get("group")
    if isinstance(error, errors.LimitBelowUsage) and isinstance(group, Group):
        requested = error.members["requested_bytes"]
        body = {"target_bytes": requested, "set_max_bytes": requested}
        return {"next": {"method": "POST", "href": f"{href_of(group)}/shrinks", "body": body}}
    if shrink_id := error.members.get("shrink_id"):
        return {"shrink": {"id": shrink_id, "href": f"/v1/shrinks/{shrink_id}"}}
    return {}


def answer(scope: Scope, error: ShrinkdError) -> Response:
    """The problem of an error, for what stands before the application and has a scope alone."""
    return _respond(scope, body_of(error), _headers(error))


def _respond(scope: Scope, document: dict[str, object], headers: Mapping[str, str]) -> Response:
    state = scope.setdefault("state", {})
    state["problem"], instance = (
        str(document["type"]).rpartition("/")[2],
        state.get("request_id", ""),
    )
    body = json.dumps(document | {"instance": instance})
    return Response(body, int(str(document["status"])), dict(headers), MEDIA_TYPE)


def _headers(error: ShrinkdError) -> dict[str, str]:
    if shrink_id := error.members.get("shrink_id"):
        return {"Location": f"/v1/shrinks/{shrink_id}", "Retry-After": "1"}
    if isinstance(error, errors.Unauthenticated):
        refused = ', error="invalid_token"' if isinstance(error, errors.TokenRefused) else ""
        return {"WWW-Authenticate": f'Bearer realm="shrinkd"{refused}'}  # RFC 6750, section 3
    if isinstance(error, errors.BodyTooLarge):
        return {"Connection": "close"}  # the rest of the body is on its way
    return (
        {"Retry-After": "1"}
        if isinstance(error, errors.KeyInUse) or problem_of(error).status in {429, 503}
        else {}
    )


async def _on_error(request: Request, error: Exception) -> Response:
    known = error if isinstance(error, ShrinkdError) else ShrinkdError(repr(error))
    return answer(request.scope, known)


async def _on_validation(request: Request, error: Exception) -> Response:
    rows = error.errors() if isinstance(error, RequestValidationError) else []
    body = error.body if isinstance(error, RequestValidationError) else None
    listed = [{"pointer": pointed(row, body), "detail": reason(row["msg"])} for row in rows]
    detail = "; ".join(f"{row['pointer']}: {row['detail']}" for row in listed) + "."
    return _respond(
        request.scope,
        _document(PROBLEMS[errors.InvalidRequest], detail, "EINVAL") | {"errors": listed},
        {},
    )


async def _on_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    problem = _OF_STATUS.get(status) or Problem(
        status, "bad-request", HTTPStatus(status).phrase, ""
    )
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    detail = f"{request.method} {request.url.path!a}: {problem.title.lower()}. {problem.advice}"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return _respond(request.scope, _document(problem, detail, None), headers)


def _allowed(request: Request) -> list[str]:
    """Every method of this address: the router knows only those of the first route that fits."""
    scope = {**request.scope, "root_path": ""}  # a mount has noted there what it took off
    fitting = (route for route in request.app.routes if route.matches(scope)[0].value)
    methods = {method for route in fitting for method in getattr(route, "methods", None) or {"GET"}}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


async def _on_fault(request: Request, error: Exception) -> Response:
    instance = request.scope.get("state", {}).get("request_id", "")
    log.error("request %s met a fault", instance, exc_info=error)
    document = _document(
        PROBLEMS[errors.ShrinkdError],
        "The daemon met a fault that its log describes under this instance.",
        errno.errorcode[errno.EIO],
    )
    return _respond(
        request.scope, document, {"Connection": "close"}
    )  # the server hears of the fault too, and closes


async def _on_hang_up(request: Request, _error: Exception) -> Response:
    """A client that is gone before its body was all here.

    No fault, and nobody to read this but the log.
    """
    return _respond(
        request.scope, _document(_OF_STATUS[400], "The body did not come to its end.", None), {}
    )


def unreadable(status: int) -> tuple[bytes, dict[str, str]]:
    """The body and header of the problem for bytes that never became a request.

    The server's part of the contract.
    """
    problem, instance = _OF_STATUS[status], secrets.token_hex(8)
    body = json.dumps(
        _document(problem, f"{problem.title}. {problem.advice}", None) | {"instance": instance}
    ).encode()
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Request-Id": instance,
        "Connection": "close",
    }
    headers["X-Content-Type-Options"] = "nosniff"
    return body, headers | ({"Retry-After": "1"} if status in {429, 503} else {})


def install(app: FastAPI) -> None:
    """Answer everything that is raised, in any layer of the application, with a problem."""
    app.add_exception_handler(ShrinkdError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_hang_up)
    app.add_exception_handler(Exception, _on_fault)
