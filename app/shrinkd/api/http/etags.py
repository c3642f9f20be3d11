"""Conditional requests (RFC 9110, section 13): strong ETags over the very bytes that are sent."""

import hashlib
from collections.abc import Mapping, Sequence

from fastapi import Request, Response
from pydantic import BaseModel

from shrinkd.errors import PreconditionFailed


def etag_of(body: BaseModel) -> str:
    """The strong ETag of a body: no two different representations share one."""
    return etag_of_bytes(body.model_dump_json().encode())


def etag_of_bytes(content: bytes) -> str:
    """As etag_of, for a body that is bytes already."""
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def tagged(request: Request, body: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    """Answer a GET with its ETag: 304 when If-None-Match names it, 412 when If-Match does not."""
    return tagged_bytes(request, body.model_dump_json().encode(), headers)


def tagged_bytes(
    request: Request,
    content: bytes,
    headers: Mapping[str, str] | None = None,
    etag: str | None = None,
) -> Response:
    """As tagged, for JSON that is bytes already.

    With an ETag of its own where a part of it moves by itself.
    """
    etag = etag or etag_of_bytes(content)
    check_if_match(request, etag)
    named = _named(request.headers.getlist("if-none-match"), weak=True)
    unchanged = named is not None and ("*" in named or etag in named)
    headers = {**(headers or {}), "ETag": etag}
    return (
        Response(status_code=304, headers=headers)
        if unchanged
        else Response(content, headers=headers, media_type="application/json")
    )


def changed(
    body: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None, *, dry_run: bool
) -> Response:
    """Answer a change with what it came to, its ETag, and other headers of it.

    A trial came to nothing that these could name.
    """
    content = body.model_dump_json().encode()
    named = {} if dry_run else {**(headers or {}), "ETag": etag_of_bytes(content)}
    return Response(content, status, named, "application/json")


def check_if_match(request: Request, etag: str | None) -> None:
    """As check_lines, for the If-Match of a request."""
    check_lines(request.headers.getlist("if-match"), etag)


def check_lines(lines: Sequence[str], etag: str | None) -> None:
    """Raise PreconditionFailed when an If-Match names other ETags than the one that holds now.

    None where nothing is there.
    """
    named = _named(lines, weak=False)
    if named is not None and etag is None:
        raise PreconditionFailed("There is nothing here now that If-Match could name.")
    if named is not None and "*" not in named and etag not in named:
        raise PreconditionFailed(f"The ETag is {etag} now.", etag=etag)


def check_no_etag(request: Request) -> None:
    """Before a change at an address that is never read with an ETag.

    PreconditionFailed when an If-Match names one.
    """
    named = _named(request.headers.getlist("if-match"), weak=False)
    if named is not None and "*" not in named:
        raise PreconditionFailed("Nothing here has an ETag that If-Match could name: leave it out.")


def check_preconditions(request: Request, etag: str | None) -> None:
    """Before a change (section 13.2.2).

    As check_if_match, and PreconditionFailed too when If-None-Match names the ETag.
    """
    check_if_match(request, etag)
    named = _named(request.headers.getlist("if-none-match"), weak=True)
    if named is not None and etag is not None and ("*" in named or etag in named):
        raise PreconditionFailed(
            f"The ETag is {etag} now, which If-None-Match rules out.", etag=etag
        )


def _named(lines: Sequence[str], *, weak: bool) -> set[str] | None:
    """The ETags of a header that may be a list or sent twice.

    If-Match compares strongly, so there W/ matches nothing.
    """
    if not lines:
        return None
    named = {part.strip() for line in lines for part in line.split(",")}
    return {part.removeprefix("W/") for part in named} if weak else named
