"""Idempotency-Key.

A POST that is sent again under its key is answered again, and not carried out again. A dry run uses
no key up.
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
"""A string of RFC 8941, or what people write instead: the same without its quotes, and then without
blanks and commas."""
_LONGEST = 255
_REPEATABLE = frozenset(
    (
        # written down under the id that its key was given, before it begins: the second time finds
        # it
        "create_shrink",
        *("cancel_shrink", "evaluate_policy"),  # twice is once
        *(
            "create_simulation",
            "cancel_simulation",
            "change_clock",
            "plan_fault",
        ),  # what came of them died with the daemon
    )
)
"""What can be carried out anew when the daemon died in it. Else one could set a limit back that
somebody has changed meanwhile."""

CarryOut = Callable[[Request], Awaitable[Response]]


async def answer_once(
    request: Request, operation: str, body: object, carry_out: CarryOut
) -> Response:
    """Carry a request out, or answer what it came to before.

    The same operation, key, address and JSON of the same caller.
    """
    lines = request.headers.getlist(_HEADER)
    if not lines:
        return await carry_out(request)
    key, asked = (
        Key(request_context(request.scope).caller.name, operation, _read_key(lines)),
        _digest(request, body),
    )
    if is_dry_run(request):
        return await carry_out(
            request
        )  # which writes nothing, and leaves the key to the request that it tries out
    # Shielded: who hangs up, or is hung up on, has begun something, and is to find its answer.
    return await asyncio.shield(_once(request, key, asked, carry_out))


async def _once(request: Request, key: Key, asked: str, carry_out: CarryOut) -> Response:
    keys: IdempotencyKeys = request.app.state.wiring.keys
    begun = await asyncio.to_thread(keys.begin, key, asked, repeatable=key.route in _REPEATABLE)
    if isinstance(begun, Answer):
        return Response(
            begun.body, begun.status, dict(begun.headers) | {"Idempotency-Replayed": "true"}
        )
    request_context(request.scope).resource_id = begun
    carried = asyncio.ensure_future(_answered(request, carry_out))
    await asyncio.wait(
        {carried}
    )  # and not beyond the end of the loop: what is unknown then stays so
    is_kept = carried.exception() is None and _is_final(
        carried.result()
    )  # an exception is a fault, or was refused before it began
    await asyncio.to_thread(keys.end, key, _kept(carried.result()) if is_kept else None)
    return carried.result()


async def _answered(request: Request, carry_out: CarryOut) -> Response:
    try:
        return await carry_out(request)
    except ShrinkdError as error:
        return problems.answer(request.scope, error)


def _is_final(response: Response) -> bool:
    """Whether trying again cannot help.

    An error that says when to has changed nothing, and so has one of this daemon.
    """
    return response.status_code < 400 or (
        response.status_code < 500 and "retry-after" not in response.headers
    )


def _kept(response: Response) -> Answer:
    headers = tuple(
        (name, value) for name, value in response.headers.items() if name != "content-length"
    )
    return Answer(response.status_code, headers, bytes(response.body))


def _read_key(lines: list[str]) -> str:
    match = _KEY.fullmatch(lines[0].strip()) if len(lines) == 1 else None
    key = match and (re.sub(r"\\(.)", r"\1", match[1]) if match[1] else match[2])
    if not key or len(key) > _LONGEST:
        sentence = (
            f"one key of 1 to {_LONGEST} printable ASCII characters, such as "
            '"8e03978e-40d5-43dd-bc93-6894a57f9324"'
        )
        raise InvalidRequest(
            f"header/{_HEADER}: {sentence}.",
            errors=[{"pointer": f"header/{_HEADER}", "detail": sentence}],
        )
    return key


def _digest(request: Request, body: object) -> str:
    """What tells one request from another.

    Neither blanks nor the order of names in its JSON, and no preference.
    """
    try:
        asked = json.dumps(
            [request.method, request.scope["path"], request.query_params.multi_items(), body],
            sort_keys=True,
        )
    except RecursionError:
        raise MalformedBody("The body is not JSON of ours: it is nested too deep.") from None
    return hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()


async def _makes(request: Request) -> str | None:
    return request_context(request.scope).resource_id


Makes = Annotated[str | None, Depends(_makes)]
"""The id for what a request makes, the same when it is carried out anew; None without a key."""
