"""Errors on their way out: a class becomes a status, a slug and an RFC 9457 problem, here and nowhere else."""

import errno
import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app import errors
from app.api.pointing import pointed
from app.api.references import href_of
from app.backends import Group
from app.closed import reason
from app.errors import ShrinkdError

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of problem: what /problems/<slug> shows."""

    status: int
    slug: str
    title: str
    advice: str
    """What a client does about it, in a sentence or two."""


def _rows(*rows: tuple[type[ShrinkdError], int, str, str, str]) -> dict[type[ShrinkdError], Problem]:
    return {row[0]: Problem(*row[1:]) for row in rows}


_STAYS = "What was reclaimed stays reclaimed and no limit was changed."
PROBLEMS = _rows(
    (errors.ShrinkdError, 500, "internal-error", "The daemon met a fault", "Report it with the request id; the log has the rest."),
    (errors.InternalError, 500, "internal-error", "The daemon met a fault", "Report it with the request id; the log has the rest."),
    (errors.InvalidRequest, 422, "invalid-request", "The request is not valid", "Mend what `errors` points at. Nothing was changed."),
    (
        errors.InvalidGroupName,
        422,
        "invalid-group-name",
        "That cannot be the name of a group",
        "A name is a path below the managed root: components of 1 to 255 bytes, not . or .., no control characters, no symbolic link.",
    ),
    (errors.RangeTooLarge, 422, "range-too-large", "That is too much for one answer", "Ask for less time, longer steps or fewer fields."),
    (errors.MalformedBody, 400, "malformed-body", "The body is not JSON", "Send one JSON value in UTF-8, nested less than 100 deep."),
    (errors.BodyTooLarge, 413, "body-too-large", "The body is too large", "No request of this API needs more than 64 KiB."),
    (
        errors.UnsupportedMedia,
        415,
        "unsupported-media-type",
        "The body is not sent as JSON",
        "Send `Content-Type: application/json` (`curl --json` does).",
    ),
    (errors.NotFound, 404, "not-found", "There is no such thing", "Look the address up at /docs."),
    (
        errors.GroupNotFound,
        404,
        "group-not-found",
        "There is no such group",
        "GET /v1/groups lists them. A group outside SHRINKD_SUBTREES counts as not there for changes.",
    ),
    (
        errors.ShrinkNotFound,
        404,
        "shrink-not-found",
        "There is no such shrink",
        "GET /v1/shrinks lists them; finished ones are kept for 7 days.",
    ),
    (
        errors.SimulationNotFound,
        404,
        "simulation-not-found",
        "There is no such simulation",
        "GET /v1/simulations lists them; the last hundred are kept, and none over a restart of the daemon.",
    ),
    (errors.PolicyNotFound, 404, "policy-not-found", "There is no such policy", "GET /v1/policies lists them."),
    (errors.ProblemNotFound, 404, "problem-not-found", "There is no such problem", "GET /problems lists them."),
    (
        errors.NotSimulator,
        404,
        "not-simulator",
        "Only a simulator has that",
        "The workloads, the clock and the faults of a real kernel are nobody's to choose. Start a daemon with SHRINKD_BACKEND=simulator.",
    ),
    (
        errors.ProcessNotFound,
        404,
        "process-not-found",
        "There is no such process",
        "Give the pid as this daemon sees it: in its own pid namespace.",
    ),
    (
        errors.GroupGone,
        410,
        "group-gone",
        "The group was removed",
        "If the path exists again it is another group: look it up anew, and decide anew. Nothing was done to a stranger.",
    ),
    (errors.GroupExists, 409, "group-exists", "The group exists already", "Use it as it is, or take another name."),
    (
        errors.PolicyExists,
        409,
        "policy-exists",
        "There is a policy of that name",
        "PUT to its address replaces it, with If-Match if it is to be the one that you have read. Or take another name.",
    ),
    (
        errors.PolicyConflict,
        409,
        "policy-conflict",
        "Another policy would be in its way",
        (
            "Two policies of one kind at one priority may not select the same groups: nobody could say which goes first. "
            "`policies` names both and `groups` what they share. Give one of them another priority, or a selector that leaves those out."
        ),
    ),
    (
        errors.PolicyUnreadable,
        409,
        "policy-unreadable",
        "Another version of shrinkd wrote that policy",
        "It is kept as it is, and not carried out. Run the version that wrote it, or DELETE it and write it anew.",
    ),
    (
        errors.GroupNotEmpty,
        409,
        "group-not-empty",
        "The group is not empty",
        "End or move its processes and remove the groups inside first.",
    ),
    (
        errors.GroupNotManaged,
        403,
        "group-not-managed",
        "The group was not made here",
        "Only groups made through this API are removed through it.",
    ),
    (
        errors.AmbiguousReference,
        409,
        "ambiguous-reference",
        "More than one group answers to that",
        "Pick one of `candidates` by its id or path.",
    ),
    (errors.Busy, 409, "busy", "The kernel is busy", "Try again."),
    (
        errors.GroupBusy,
        409,
        "group-busy",
        "The kernel holds the group busy",
        "Try again; if it stays so, look who else writes to the group.",
    ),
    (
        errors.LimitBelowUsage,
        409,
        "limit-below-usage",
        "The limit is below what the group uses",
        (
            "A limit takes effect at once or changes nothing at all: no limit was moved and not one page of cache was dropped. "
            "`next` is the request that shrinks first and then sets it; it succeeds if enough can be reclaimed "
            "(`reclaimable_estimate_bytes` against `shortfall_bytes`). `room_bytes`, for a group that grows too fast to be limited so "
            "closely, is how far below the limit its usage has to be."
        ),
    ),
    (
        errors.LimitOrder,
        409,
        "limit-order",
        "The limit contradicts another one",
        "Change both in one request. cgroup v1 counts memory and swap together, so max_bytes cannot pass that sum.",
    ),
    (errors.Unsupported, 422, "unsupported", "This node cannot do that", "GET /v1/node tells what it can."),
    (
        errors.UnsupportedLimit,
        422,
        "unsupported-limit",
        "This kernel has no such limit",
        "`unsupported` in GET limits names what it lacks.",
    ),
    (
        errors.UnsupportedOption,
        422,
        "unsupported-option",
        "This kernel does not take that option",
        "GET /v1/node tells the capabilities. Leave the option out.",
    ),
    (
        errors.ShrinkInProgress,
        409,
        "shrink-in-progress",
        "The group is being shrunk",
        "One shrink at a time per group. `Location` is the running one: wait for it, or cancel it.",
    ),
    (
        errors.ShrinkStalled,
        409,
        "shrink-stalled",
        "No progress in five passes",
        (
            f"What is left cannot be reclaimed: anonymous memory without swap, locked pages, or a workload that charges as fast. {_STAYS} "
            "Choose a higher target, add swap, or stop the workload."
        ),
    ),
    (
        errors.TimedOut,
        504,
        "shrink-timed-out",
        "The shrink ran out of time",
        f"{_STAYS} Start another with a longer timeout_seconds, or a higher rate.",
    ),
    (errors.Interrupted, 409, "shrink-cancelled", "The shrink was cancelled", _STAYS),
    (
        errors.DaemonStopped,
        503,
        "shrink-interrupted",
        "The daemon stopped in the shrink",
        "What was reclaimed stays reclaimed. GET its limits to see whether one was set, then start it again.",
    ),
    (errors.ShrinkFinished, 409, "shrink-finished", "The shrink has finished", "There is nothing left to cancel."),
    (
        errors.TooManyShrinks,
        429,
        "too-many-shrinks",
        "Too many shrinks are waiting",
        "Try again after Retry-After, when some have finished.",
    ),
    (
        errors.TooManySimulations,
        429,
        "too-many-simulations",
        "Too many simulations run or wait",
        "Wait until some of `active` have finished, or cancel one.",
    ),
    (errors.NotReady, 503, "not-ready", "The daemon is not ready", "Try again after Retry-After."),
    (
        errors.PreconditionFailed,
        412,
        "precondition-failed",
        "It has changed since you read it",
        "Read it again, decide again, and send the new ETag.",
    ),
    (
        errors.StoreUnavailable,
        503,
        "store-unavailable",
        "The database cannot be used",
        "Free disk space, or look who has it locked; then try again.",
    ),
    (
        errors.KernelRefused,
        500,
        "kernel-refused",
        "The kernel gave an unexpected answer",
        "`errno` is what it said. Report it with the request id.",
    ),
    (
        errors.NotWritable,
        503,
        "not-writable",
        "The controller cannot be written to",
        "Run the daemon as root, with the controller mounted read-write.",
    ),
    (errors.BackendUnavailable, 503, "backend-unavailable", "There is no memory controller", "See SHRINKD_BACKEND in the README."),
    (errors.SettingsError, 500, "settings-error", "A setting is wrong", "See the settings in the README."),
)
_OF_STATUS = {
    400: Problem(400, "bad-request", "The request cannot be read", "Send it as HTTP says."),
    404: PROBLEMS[errors.NotFound],
    405: Problem(405, "method-not-allowed", "That cannot be done here", "`Allow` lists what can."),
    431: Problem(431, "header-too-large", "The header is too large", "No request of this API needs a header of more than 64 KiB."),
    500: PROBLEMS[errors.ShrinkdError],
}
_OF_HTTP_ALONE = {400, 412, 413, 415}
"""Where no kernel would answer, `errno` would only puzzle."""
BY_SLUG = {problem.slug: problem for problem in (*PROBLEMS.values(), *_OF_STATUS.values())}


def problem_of(error: ShrinkdError) -> Problem:
    """The problem of an error's class, or of the nearest class above it."""
    return next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)


def body_of(error: ShrinkdError) -> dict[str, object]:
    """An error as a problem document, without an instance: what a failed shrink carries, too."""
    problem = problem_of(error)
    members = {name: _plain(value) for name, value in error.members.items() if name not in {"errno", "shrink_id"}}
    errname = None if problem.status in _OF_HTTP_ALONE else error.errname
    return _document(problem, error.detail, errname) | members | _extras(error)


def restored(row: Mapping[str, Any] | None) -> dict[str, object] | None:
    """The problem document of an error that the store kept (see store.describe)."""
    if row is None:
        return None
    kind = getattr(errors, row["kind"], errors.InternalError)
    members = {name: Group(**value) if name == "group" else value for name, value in row["members"].items()}
    return body_of(kind(row["detail"], **members))


def _document(problem: Problem, detail: str, errname: str | None) -> dict[str, object]:
    document: dict[str, object] = {"type": f"/problems/{problem.slug}", "title": problem.title, "status": problem.status, "detail": detail}
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


def _respond(request: Request, document: dict[str, object], headers: Mapping[str, str]) -> Response:
    instance = request.scope.get("state", {}).get("request_id", "")
    body = json.dumps(document | {"instance": instance})
    return Response(body, int(str(document["status"])), dict(headers), MEDIA_TYPE)


def _headers(error: ShrinkdError) -> dict[str, str]:
    if shrink_id := error.members.get("shrink_id"):
        return {"Location": f"/v1/shrinks/{shrink_id}", "Retry-After": "1"}
    if isinstance(error, errors.BodyTooLarge):
        return {"Connection": "close"}  # the rest of the body is on its way
    return {"Retry-After": "1"} if problem_of(error).status in {429, 503} else {}


async def _on_error(request: Request, error: Exception) -> Response:
    known = error if isinstance(error, ShrinkdError) else ShrinkdError(repr(error))
    return _respond(request, body_of(known), _headers(known))


async def _on_validation(request: Request, error: Exception) -> Response:
    rows = error.errors() if isinstance(error, RequestValidationError) else []
    body = error.body if isinstance(error, RequestValidationError) else None
    listed = [{"pointer": pointed(row, body), "detail": reason(row["msg"])} for row in rows]
    detail = "; ".join(f"{row['pointer']}: {row['detail']}" for row in listed) + "."
    return _respond(request, _document(PROBLEMS[errors.InvalidRequest], detail, "EINVAL") | {"errors": listed}, {})


async def _on_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    problem = _OF_STATUS.get(status) or Problem(status, "bad-request", HTTPStatus(status).phrase, "")
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    detail = f"{request.method} {request.url.path!a}: {problem.title.lower()}. {problem.advice}"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return _respond(request, _document(problem, detail, None), headers)


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
        PROBLEMS[errors.ShrinkdError], "The daemon met a fault that its log describes under this instance.", errno.errorcode[errno.EIO]
    )
    return _respond(request, document, {"Connection": "close"})  # the server hears of the fault too, and closes


def unreadable(status: int) -> tuple[bytes, dict[str, str]]:
    """The body and header of the problem for bytes that never became a request: the server's part of the contract."""
    problem, instance = _OF_STATUS[status], secrets.token_hex(8)
    body = json.dumps(_document(problem, f"{problem.title}. {problem.advice}", None) | {"instance": instance}).encode()
    return body, {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), "Request-Id": instance, "Connection": "close"}


def install(app: FastAPI) -> None:
    """Answer everything that is raised, in any layer of the application, with a problem."""
    app.add_exception_handler(ShrinkdError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)
