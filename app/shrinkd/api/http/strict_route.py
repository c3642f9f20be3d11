"""Route class that parses requests strictly and applies the rules that all operations share.

Strict: unknown or repeated query parameters, JSON with duplicate keys or NaN, other media types and
bodies over 64 KiB are refused.

Shared by all changes: a POST is executed once per Idempotency-Key, an If-Match that the operation
cannot compare is refused, and `Prefer: return=minimal` is honoured.
"""

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NoReturn, get_origin

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel

from shrinkd.api.http.etags import check_no_etag
from shrinkd.api.http.idempotency import execute_once
from shrinkd.api.http.prefer import READ_ONLY_POSTS, apply_return
from shrinkd.api.middleware.audit import begin_attempt
from shrinkd.errors import BodyTooLarge, MalformedBody, UnsupportedMedia

MAX_BODY_BYTES = 64 << 10
"""Bound of every request body. FastAPI's `max_body_size` is no replacement: where Content-Length
announces more, it answers every response, even a 401 or a 404, as text/plain, and ours are problems
(test_fastapis_max_body_size_answers_a_long_announced_body_in_plain_text)."""
_MEDIA_TYPES = {"application/json", "application/merge-patch+json"}


class StrictRoute(APIRoute):
    """Route that applies the rules of this module to each request before its handler runs.

    Unknown query parameters are refused because `?dryrun=true`, if it were ignored, would make the
    change that its caller meant to try.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        parameters = _query_parameters(self.dependant)
        takes_body, operation = self.body_field is not None, self.operation_id or self.name
        has_no_etag = 412 not in self.responses

        async def parse_and_answer(request: Request) -> Response:
            _check_query(request, parameters)
            body = await _parse_body(request) if takes_body else None
            await begin_attempt(request, operation, body)
            return await answer(_ParsedRequest(request, body) if takes_body else request, body)

        async def answer(request: Request, body: object) -> Response:
            if request.method == "GET":
                return await handle(request)
            if has_no_etag:
                check_no_etag(request)
            response = await (
                execute_once(request, operation, body, handle)
                if request.method == "POST"
                else handle(request)
            )
            return response if operation in READ_ONLY_POSTS else apply_return(request, response)

        return parse_and_answer


def _check_query(request: Request, parameters: dict[str, bool]) -> None:
    """Refuse unknown parameters, and repeated ones that are not lists."""
    if unknown := request.query_params.keys() - parameters.keys():
        known = ", ".join(sorted(parameters)) or "none"
        _refuse_all("query", unknown, f"not a parameter of this operation; there are: {known}")
    single = {name for name, is_list in parameters.items() if not is_list}
    if repeated := single & _repeated(name for name, _ in request.query_params.multi_items()):
        _refuse_all("query", repeated, "this parameter is given twice")


def _query_parameters(dependant: Dependant) -> dict[str, bool]:
    """Map each query parameter of a route and its dependencies to whether it is a list.

    A model counts as its fields.
    """
    names: dict[str, bool] = {}
    for field in dependant.query_params:
        annotation: Any = field.field_info.annotation
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        fields = annotation.model_fields if is_model else {field.alias: field.field_info}
        names |= {name: get_origin(info.annotation) is list for name, info in fields.items()}
    for dependency in dependant.dependencies:
        names |= _query_parameters(dependency)
    return names


def _repeated(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def _refuse_all(place: str, names: Iterable[str], sentence: str) -> NoReturn:
    """Raise a validation error with one row per name. `place`: "query" or "body"."""
    raise RequestValidationError(
        [
            {"type": "refused", "loc": (place, name), "msg": sentence, "input": None}
            for name in sorted(names)
        ]
    )


class _ParsedRequest(Request):
    """Request whose body has been parsed already, so that FastAPI does not parse it again."""

    def __init__(self, request: Request, value: object) -> None:
        super().__init__(request.scope, request.receive)
        self._body = b"parsed"  # FastAPI asks for JSON only where there are bytes
        self._json = value


async def _parse_body(request: Request) -> object:
    text = await _read_body(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if text and media_type not in _MEDIA_TYPES:
        raise UnsupportedMedia(
            f"A body of type {media_type or 'none'!a} is not accepted; send application/json.",
            media_type=media_type,
        )
    try:
        return json.loads(
            text.decode(),
            object_pairs_hook=_parse_object,
            parse_int=_parse_int,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"The body is not JSON: {error}.") from None


async def _read_body(request: Request) -> bytes:
    """Read the body; stop and raise BodyTooLarge as soon as it is over MAX_BODY_BYTES."""
    announced = request.headers.get("content-length", "0")
    text = bytearray()
    if not announced.isdecimal() or int(announced) <= MAX_BODY_BYTES:
        async for chunk in request.stream():
            text += chunk
            if len(text) > MAX_BODY_BYTES:
                break
        else:
            return bytes(text)
    raise BodyTooLarge(
        f"The body is larger than {MAX_BODY_BYTES} bytes, the most that this API accepts.",
        limit_bytes=MAX_BODY_BYTES,
    )


def _parse_int(digits: str) -> int:
    """Parse at most 40 digits, because int() raises ValueError above 4300.

    A number of 40 digits is too large for every field, so validation refuses it by name.
    """
    return int(digits[:40])


def _parse_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        _refuse_all("body", _repeated(name for name, _ in pairs), "this key is given twice")
    return value


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")
