"""Send requests with a bearer token that is made for the test."""

from itertools import count
from pathlib import Path
from typing import Any

import httpx

from shrinkd.auth.tokens import make
from tests.support.live_server import Live
from tests.support.scripted_simulator import Method

_numbers = count(1)


class Bearer:
    """A caller with a token of the given scopes, on the client of a live server."""

    def __init__(self, live: Live, *scopes: str) -> None:
        self.live, self.name = live, f"test-{next(_numbers)}"
        self.secret = new_token(live, *scopes, name=self.name)

    def request(self, method: Method, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.secret}"} | options.pop("headers", {})
        return self.live.client.request(method, path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **options)

    def patch(self, path: str, body: object, **options: Any) -> httpx.Response:
        return self.request("PATCH", path, json=body, **options)

    def put(self, path: str, body: object, **options: Any) -> httpx.Response:
        return self.request("PUT", path, json=body, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", path, **options)


def new_token(live: Live, *scopes: str, name: str) -> str:
    """Make a token that the server accepts at once, and return its secret."""
    secret = make(Path(live.parts.settings.tokens), name, list(scopes), "1d")
    live.parts.tokens.reload()
    return str(secret)
