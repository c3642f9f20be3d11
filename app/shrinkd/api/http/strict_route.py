"""Requests taken strictly.

JSON without duplicate keys, a media type that says so, and no name in the query that means nothing.

What holds for every change alike is here as well: a POST is carried out once for each
Idempotency-Key, no If-Match is let through unread, and the answer says no more than preferred.
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
from shrinkd.api.http.idempotency import answer_once
from shrinkd.api.http.prefer import QUESTIONS, returned
from shrinkd.api.middleware.audit import attempt
from shrinkd.errors import BodyTooLarge, MalformedBody, UnsupportedMedia

LARGEST_BODY_BYTES = 64 << 10
_MEDIA_TYPES = {"application/json", "application/merge-patch+json"}


class StrictRoute(APIRoute):
    """A route that refuses query names it does not know, and reads its body, where it takes one, by
    the rules of this module.

    Unknown names matter: ?dryrun=true, let through, would be a change that its sender thought was
    none.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = _query_names(self.dependant)
        once = {name for name, is_list in known.items() if not is_list}
        takes_body, operation = self.body_field is not None, self.operation_id or self.name
        has_no_etag = 412 not in self.responses

        async def read_strictly(request: Request) -> Response:
            if unknown := request.query_params.keys() - known.keys():
                _refuse_all(
                    "query",
                    unknown,
                    "not a parameter of this operation; there are: "
                    f"{', '.join(sorted(known)) or 'none'}",
                )
            if repeated := once & _repeated(name for name, _ in request.query_params.multi_items()):
                _refuse_all("query", repeated, "this parameter stands twice")
            body = await _read(request) if takes_body else None
            await attempt(request, operation, body)
            return await answer(_Read(request, body) if takes_body else request, body)

        async def answer(request: Request, body: object) -> Response:
            if request.method == "GET":
                return await handle(request)
            if has_no_etag:
                check_no_etag(request)
            response = await (
                answer_once(request, operation, body, handle)
                if request.method == "POST"
                else handle(request)
            )
            return response if operation in QUESTIONS else returned(request, response)

        return read_strictly


def _query_names(dependant: Dependant) -> dict[str, bool]:
    """The names that a route and its dependencies take from the query, and whether as a list.

    A model stands for its fields.
    """
    names: dict[str, bool] = {}
    for field in dependant.query_params:
        annotation: Any = field.field_info.annotation
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        fields = annotation.model_fields if is_model else {field.alias: field.field_info}
        names |= {name: get_origin(info.annotation) is list for name, info in fields.items()}
    for below in dependant.dependencies:
        names |= _query_names(below)
    return names


def _repeated(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def _refuse_all(place: str, names: Iterable[str], sentence: str) -> NoReturn:
    raise RequestValidationError(
        [
            {"type": "refused", "loc": (place, name), "msg": sentence, "input": None}
            for name in sorted(names)
        ]
    )


class _Read(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, request: Request, value: object) -> None:
        super().__init__(request.scope, request.receive)
        self._body = b"read"
        self._json = value


async def _read(request: Request) -> object:
    text = await _bounded(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if text and media_type not in _MEDIA_TYPES:
        raise UnsupportedMedia(
            f"A body of type {media_type or 'none'!a} is not taken here; send application/json.",
            media_type=media_type,
        )
    try:
        return json.loads(
            text.decode(), object_pairs_hook=_object, parse_int=_integer, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"The body is not JSON: {error}.") from None


async def _bounded(request: Request) -> bytes:
    """The body, unless it is larger than any that this API needs.

    Then it is not even read to its end.
    """
    announced = request.headers.get("content-length", "0")
    text = bytearray()
    if not announced.isdecimal() or int(announced) <= LARGEST_BODY_BYTES:
        async for chunk in request.stream():
            text += chunk
            if len(text) > LARGEST_BODY_BYTES:
                break
        else:
            return bytes(text)
    raise BodyTooLarge(
        f"The body is larger than {LARGEST_BODY_BYTES} bytes; no request of this API needs that.",
        limit_bytes=LARGEST_BODY_BYTES,
    )


def _integer(digits: str) -> int:
    """int() takes 4300 digits.

    A number of 40 is too large for every field already, and is refused there by name.
    """
    return int(digits[:40])


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        _refuse_all("body", _repeated(name for name, _ in pairs), "this key stands twice")
    return value


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")
