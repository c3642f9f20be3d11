"""Conditional requests (RFC 9110, section 13): strong ETags computed over the bytes of the body."""

import hashlib
from collections.abc import Mapping, Sequence

from fastapi import Request, Response
from pydantic import BaseModel

from shrinkd.errors import PreconditionFailed


def etag_of(body: BaseModel) -> str:
    """Compute the strong ETag of a body: two different representations never share one."""
    return etag_of_bytes(body.model_dump_json().encode())


def etag_of_bytes(content: bytes) -> str:
    """Compute the strong ETag of an encoded body."""
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def tagged(request: Request, body: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    """Answer a GET with its ETag, or with 304 if If-None-Match names that.

    Raises PreconditionFailed if If-Match names others only.
    """
    return tagged_bytes(request, body.model_dump_json().encode(), headers)


def tagged_bytes(
    request: Request,
    content: bytes,
    headers: Mapping[str, str] | None = None,
    etag: str | None = None,
) -> Response:
    """Answer a GET with encoded JSON as `tagged` does.

    `etag` replaces the one of the bytes, for a body that has parts which change by themselves.
    """
    etag = etag or etag_of_bytes(content)
    check_if_match(request, etag)
    named = _parse(request.headers.getlist("if-none-match"), weak=True)
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
    """Answer a change with the new state, its ETag and the given headers.

    A dry run has neither, because there is no new state that they could name.
    """
    content = body.model_dump_json().encode()
    named = {} if dry_run else {**(headers or {}), "ETag": etag_of_bytes(content)}
    return Response(content, status, named, "application/json")


def check_if_match(request: Request, etag: str | None) -> None:
    """Check the If-Match of a request as `check_lines` does."""
    check_lines(request.headers.getlist("if-match"), etag)


def check_lines(lines: Sequence[str], etag: str | None) -> None:
    """Raise PreconditionFailed if the If-Match lines name other ETags than the current one.

    `etag` is None if the resource does not exist.
    """
    named = _parse(lines, weak=False)
    if named is not None and etag is None:
        raise PreconditionFailed("The resource that If-Match names does not exist.")
    if named is not None and "*" not in named and etag not in named:
        raise PreconditionFailed(f"The ETag is {etag} now.", etag=etag)


def check_no_etag(request: Request) -> None:
    """Raise PreconditionFailed if If-Match names an ETag of a resource that never has one."""
    named = _parse(request.headers.getlist("if-match"), weak=False)
    if named is not None and "*" not in named:
        raise PreconditionFailed("This operation has no ETag to compare: send it without If-Match.")


def check_preconditions(request: Request, etag: str | None) -> None:
    """Check If-Match and If-None-Match before a change (section 13.2.2).

    Raises PreconditionFailed as `check_if_match` does, and if If-None-Match names the ETag.
    """
    check_if_match(request, etag)
    named = _parse(request.headers.getlist("if-none-match"), weak=True)
    if named is not None and etag is not None and ("*" in named or etag in named):
        raise PreconditionFailed(
            f"The ETag is {etag} now, and If-None-Match excludes it.", etag=etag
        )


def _parse(lines: Sequence[str], *, weak: bool) -> set[str] | None:
    """Parse the ETags of a header, which may be a list or be sent twice; None if it is absent.

    If-Match compares strongly, so an ETag that begins with W/ matches nothing there.
    """
    if not lines:
        return None
    named = {part.strip() for line in lines for part in line.split(",")}
    return {part.removeprefix("W/") for part in named} if weak else named
