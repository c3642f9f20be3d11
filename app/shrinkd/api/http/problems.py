"""Answer every error with an RFC 9457 problem document.

Only this module turns error classes into responses; `problem_types` has their statuses and texts.
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
from shrinkd.api.http.error_locations import location_of
from shrinkd.api.http.group_reference import href_of
from shrinkd.api.http.problem_types import BY_STATUS, PROBLEMS, Problem, problem_of
from shrinkd.api.http.request_context import request_context
from shrinkd.backends import Group
from shrinkd.errors import ShrinkdError
from shrinkd.strict_model import reason

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"

_WITHOUT_ERRNO = {400, 401, 412, 413, 415, 421}
"""Statuses of problems without `errno`, because no kernel call is behind them."""


def body_of(error: ShrinkdError) -> dict[str, object]:
    """Build the problem document of an error, without an instance. Failed shrinks carry it, too."""
    problem = problem_of(error)
    members = {
        name: _plain(value)
        for name, value in error.members.items()
        if name not in {"errno", "shrink_id"}
    }
    errname = None if problem.status in _WITHOUT_ERRNO else error.errname
    return _document(problem, error.detail, errname) | members | _extras(error)


def restored(row: Mapping[str, Any] | None) -> dict[str, object] | None:
    """Build the problem document of a stored error (see storage.serialize_error).

    None for no error.
    """
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
    """Return the members that hold addresses: `next` and `shrink`."""
    group = error.members.get("group")
    if isinstance(error, errors.LimitBelowUsage) and isinstance(group, Group):
        requested = error.members["requested_bytes"]
        body = {"target_bytes": requested, "set_max_bytes": requested}
        return {"next": {"method": "POST", "href": f"{href_of(group)}/shrinks", "body": body}}
    if shrink_id := error.members.get("shrink_id"):
        return {"shrink": {"id": shrink_id, "href": f"/v1/shrinks/{shrink_id}"}}
    return {}


def answer(scope: Scope, error: ShrinkdError) -> Response:
    """Answer an error with its problem. For middleware, which has a scope and no Request."""
    return _respond(scope, body_of(error), _headers(error))


def _respond(scope: Scope, document: dict[str, object], headers: Mapping[str, str]) -> Response:
    context = request_context(scope)
    context.problem = str(document["type"]).rpartition("/")[2]
    body = json.dumps(document | {"instance": context.request_id})
    return Response(body, int(str(document["status"])), dict(headers), MEDIA_TYPE)


def _headers(error: ShrinkdError) -> dict[str, str]:
    if shrink_id := error.members.get("shrink_id"):
        return {"Location": f"/v1/shrinks/{shrink_id}", "Retry-After": "1"}
    if isinstance(error, errors.Unauthenticated):
        refused = ', error="invalid_token"' if isinstance(error, errors.TokenRefused) else ""
        return {"WWW-Authenticate": f'Bearer realm="shrinkd"{refused}'}  # RFC 6750, section 3
    if isinstance(error, errors.BodyTooLarge):
        return {"Connection": "close"}  # the client may still be sending the rest
    return (
        {"Retry-After": "1"}
        if isinstance(error, errors.KeyInUse) or problem_of(error).status in {429, 503}
        else {}
    )


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ShrinkdError)  # noqa: S101  # it is registered for those alone
    return answer(request.scope, error)


async def _on_validation(request: Request, error: Exception) -> Response:
    rows = error.errors() if isinstance(error, RequestValidationError) else []
    body = error.body if isinstance(error, RequestValidationError) else None
    listed = [{"pointer": location_of(row, body), "detail": reason(row["msg"])} for row in rows]
    detail = "; ".join(f"{row['pointer']}: {row['detail']}" for row in listed) + "."
    return _respond(
        request.scope,
        _document(PROBLEMS[errors.InvalidRequest], detail, "EINVAL") | {"errors": listed},
        {},
    )


async def _on_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    problem = BY_STATUS.get(status) or Problem(status, "bad-request", HTTPStatus(status).phrase, "")
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    detail = f"{request.method} {request.url.path!a}: {problem.title.lower()}. {problem.advice}"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return _respond(request.scope, _document(problem, detail, None), headers)


def _allowed(request: Request) -> list[str]:
    """List every method of this address; the router knows only those of the first match."""
    scope = {**request.scope, "root_path": ""}  # a mount has set it to the prefix it removed
    matching = (route for route in request.app.routes if route.matches(scope)[0].value)
    methods = {
        method for route in matching for method in getattr(route, "methods", None) or {"GET"}
    }
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


async def _on_fault(request: Request, error: Exception) -> Response:
    instance = request_context(request.scope).request_id
    log.error("request %s failed with an internal error", instance, exc_info=error)
    document = _document(
        PROBLEMS[errors.ShrinkdError],
        "The daemon met a fault; its log describes it under this instance.",
        errno.errorcode[errno.EIO],
    )
    # Starlette raises the error again behind this response, so the server closes the connection
    return _respond(request.scope, document, {"Connection": "close"})


async def _on_disconnect(request: Request, _error: Exception) -> Response:
    """Answer a client that disconnected before its body was complete.

    Only the access log shows this response; it keeps the disconnect from counting as a fault.
    """
    return _respond(request.scope, _document(BY_STATUS[400], "The body is not complete.", None), {})


def unreadable(status: int) -> tuple[bytes, dict[str, str]]:
    """Build body and header of the problem for bytes that could not be parsed as a request.

    The server sends them, as no application has seen the request.
    """
    problem, instance = BY_STATUS[status], secrets.token_hex(8)
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
    """Register handlers that answer every exception of the application with a problem."""
    app.add_exception_handler(ShrinkdError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_fault)
