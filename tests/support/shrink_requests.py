"""Start shrinks over HTTP and wait for them."""

from typing import Any

import httpx

MIB = 2**20
ENDLESS: dict[str, Any] = {"target_bytes": "200M", "max_bytes_per_second": "1M"}
"""A shrink of the demo's `web` that takes minutes, with a first pass that ends at once."""


def start(client: httpx.Client, group: str = "web", **request: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/groups/{group}/shrinks", json=request or ENDLESS)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def finished(client: httpx.Client, shrink: dict[str, Any]) -> dict[str, Any]:
    """Wait for a shrink and return it."""
    body: dict[str, Any] = client.get(shrink["links"]["self"], headers={"Prefer": "wait=60"}).json()
    assert body["done"], body
    return body


def shrunk(client: httpx.Client, group: str = "web", **request: Any) -> dict[str, Any]:
    return finished(client, start(client, group, **request))


def running(client: httpx.Client, group: str = "web", **request: Any) -> dict[str, Any]:
    """Start a shrink and wait until a worker runs it."""
    shrink = start(client, group, **request)
    while shrink["state"] == "queued":
        shrink = client.get(shrink["links"]["self"]).json()
    return shrink
