"""Check a problem against RFC 9457 and the contract."""

from typing import Any

import httpx


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """Check that an answer is this problem, complete and well-formed; return its document."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["type"]) == (status, f"/problems/{slug}"), body
    assert {"type", "title", "status", "detail", "instance"} <= body.keys()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == answer.headers["request-id"]
    return body
