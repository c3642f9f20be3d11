"""Idempotency-Key: execute a POST once per key, and answer its retries with the stored response.

A dry run stores nothing and leaves its key unused.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request, Response

from shrinkd.api.http import problems
from shrinkd.api.http.dependencies import is_dry_run
from shrinkd.api.http.request_context import request_context
from shrinkd.errors import InvalidRequest, MalformedBody, ShrinkdError
from shrinkd.storage import Answer, IdempotencyKeys, Key

_HEADER = "Idempotency-Key"
_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"|([!#-+\--~]+)')
"""A string of RFC 8941, or the same without quotes, which many clients send; then it may hold no
blanks and no commas."""
_MAX_KEY_CHARACTERS = 255
_REPEATABLE = frozenset(
    (
        # stored under the id that its key reserves, before it starts: a retry finds it
        "create_shrink",
        # a second execution changes nothing
        *("cancel_shrink", "evaluate_policy"),
        # their effects ended with the daemon
        *("create_simulation", "cancel_simulation", "change_clock", "plan_fault"),
    )
)
"""Operations that a retry may execute again if the daemon died during the first request. Any other
might overwrite a limit that someone has set since."""

Handler = Callable[[Request], Awaitable[Response]]


async def execute_once(request: Request, operation: str, body: object, handle: Handler) -> Response:
    """Execute a POST, or answer it with the stored response of the first request with its key.

    A retry has the caller, operation, key, address and JSON of the first request. Raises KeyReused
    for another request with that key, KeyInUse while the first one runs, OutcomeUnknown if the
    daemon died during it, InvalidRequest for a malformed key.
    """
    lines = request.headers.getlist(_HEADER)
    if not lines:
        return await handle(request)
    key, digest = (
        Key(request_context(request.scope).caller.name, operation, _read_key(lines)),
        _digest(request, body),
    )
    if is_dry_run(request):
        return await handle(request)
    # shielded, so that the response is stored for a retry also when the client disconnects
    return await asyncio.shield(_claim_and_execute(request, key, digest, handle))


async def _claim_and_execute(request: Request, key: Key, digest: str, handle: Handler) -> Response:
    """Claim the key and execute the request, or return the stored response of the key."""
    keys: IdempotencyKeys = request.app.state.parts.keys
    claim = await asyncio.to_thread(keys.begin, key, digest, repeatable=key.route in _REPEATABLE)
    if isinstance(claim, Answer):
        return Response(
            claim.body, claim.status, dict(claim.headers) | {"Idempotency-Replayed": "true"}
        )
    request_context(request.scope).resource_id = claim
    handling = asyncio.ensure_future(_handle(request, handle))
    # wait() is cancelled with the event loop: then nothing is stored, and the outcome stays unknown
    await asyncio.wait({handling})
    # an exception is a fault, or a refusal before anything was done
    is_stored = handling.exception() is None and _is_final(handling.result())
    await asyncio.to_thread(keys.end, key, _stored(handling.result()) if is_stored else None)
    return handling.result()


async def _handle(request: Request, handle: Handler) -> Response:
    try:
        return await handle(request)
    except ShrinkdError as error:
        return problems.answer(request.scope, error)


def _is_final(response: Response) -> bool:
    """Tell whether a retry would be answered alike.

    A 5xx, and any error with Retry-After, has changed nothing, so a retry is executed.
    """
    return response.status_code < 400 or (
        response.status_code < 500 and "retry-after" not in response.headers
    )


def _stored(response: Response) -> Answer:
    headers = tuple(
        (name, value) for name, value in response.headers.items() if name != "content-length"
    )
    return Answer(response.status_code, headers, bytes(response.body))


def _read_key(lines: list[str]) -> str:
    match = _KEY.fullmatch(lines[0].strip()) if len(lines) == 1 else None
    key = match and (re.sub(r"\\(.)", r"\1", match[1]) if match[1] else match[2])
    if not key or len(key) > _MAX_KEY_CHARACTERS:
        sentence = (
            f"one key of 1 to {_MAX_KEY_CHARACTERS} printable ASCII characters, such as "
            '"8e03978e-40d5-43dd-bc93-6894a57f9324"'
        )
        raise InvalidRequest(
            f"header/{_HEADER}: {sentence}.",
            errors=[{"pointer": f"header/{_HEADER}", "detail": sentence}],
        )
    return key


def _digest(request: Request, body: object) -> str:
    """Compute the fingerprint of a request: method, path, query and the value of its JSON.

    White space, the order of names in the JSON, and headers do not count.
    """
    try:
        text = json.dumps(
            [request.method, request.scope["path"], request.query_params.multi_items(), body],
            sort_keys=True,
        )
    except RecursionError:
        raise MalformedBody("The body is nested too deep.") from None
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


async def _resource_id(request: Request) -> str | None:
    return request_context(request.scope).resource_id


ReservedId = Annotated[str | None, Depends(_resource_id)]
"""Id for the resource that a POST creates, the same for its retries; None without a key."""
