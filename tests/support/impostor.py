"""A server in the daemon's place that puts one text wherever an answer has text."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_PROGRESS: dict[str, Any] = {
    **dict.fromkeys(
        ("start_bytes", "usage_bytes", "target_bytes", "reclaimed_bytes", "bytes_per_second"), 0
    ),
    "eta_seconds": None,
}
_TEXTS = (
    "id",
    "path",
    "name",
    "kind",
    "mode",
    "reason",
    "verdict",
    "created_at",
    "decided_at",
    "kernel",
    "policy",
)
_SHRINK = "/v1/shrinks/1"


class Impostor:
    """An HTTP server on the loopback; use it as a context manager.

    `name` is the text in its answers; `problem` is the slug of the problem with which it refuses.
    """

    def __init__(self) -> None:
        self.name, self.problem = "web", ""
        answering = type("_Answering", (_Answering,), {"whose": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), answering)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="anybody"
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def body(self) -> dict[str, Any]:
        """One answer to everything: it has the members of all of them."""
        name = self.name
        group = {"id": "4711", "path": name}
        row: dict[str, Any] = {
            **dict.fromkeys(_TEXTS, name),
            "aliases": [name],
            "signals": {name: name},
            "group": group,
            f"x{name}": name,
            "state": "succeeded",
            "done": True,
            "progress": _PROGRESS,
            "error": None,
            "links": {
                "self": _SHRINK,
                "events": f"{_SHRINK}/events",
                "cancel": f"{_SHRINK}/cancel",
            },
        }
        return row | {"items": [row], "next_page_token": None}

    def refusal(self) -> dict[str, Any]:
        group = {"id": "4711", "path": self.name}
        body = {"target_bytes": 1 << 20}
        told = {
            "type": f"/problems/{self.problem}",
            "status": 409,
            "detail": f"About {self.name}.",
            "group": group,
        }
        return told | {"next": {"body": body}, "shrink": {"id": self.name}}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Answering(BaseHTTPRequestHandler):
    whose: Impostor

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.whose.problem:
            self._send(409, "application/problem+json", json.dumps(self.whose.refusal()))
        elif "event-stream" in self.headers.get("Accept", ""):
            named = "".join(
                each
                for each in self.whose.name
                if each not in "\r\n\0" and not "\ud800" <= each <= "\udfff"
            )
            kind = "state" if self.path.startswith(_SHRINK) else f"x{named}"
            frames = f"event: {kind}\nid: 1{named}\ndata: {json.dumps(self.whose.body())}\n\n"
            self._send(
                200,
                "text/event-stream",
                f"{frames}event: problem\ndata: {json.dumps(self.whose.refusal())}\n\n",
            )
        else:
            self._send(200, "application/json", json.dumps(self.whose.body()))

    # http.server calls these names
    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _answer  # noqa: N815

    def _send(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""
