"""Record the simulator's answers to the curl scripts as the examples of the document.

`make examples` writes them anew.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shrinkd.settings import Settings
from tests.contracts.test_curl import SIMULATED, operation_of, run
from tests.support.checkout import ROOT
from tests.support.live_server import Live

KEPT = ROOT / "app" / "shrinkd" / "api" / "openapi" / "examples.json"
_LONGEST = 3000  # characters of JSON: a longer example is not read


class Recorder:
    """Middleware that records every JSON answer that is not a problem."""

    def __init__(self, app: ASGIApp, kept: list[tuple[str, str, str, Any]]) -> None:
        self._app, self._kept = app, kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started: Message = {}
        content = b""

        async def record(message: Message) -> None:
            nonlocal content
            if message["type"] == "http.response.start":
                started.update(message)
            elif dict(started.get("headers", ())).get(b"content-type") == b"application/json":
                content += message.get("body", b"")
            await send(message)

        await self._app(scope, receive, record)
        if content and started.get("status", 500) < 300:
            self._kept.append(
                (scope["method"], scope["path"], str(started["status"]), json.loads(content))
            )


def recorded() -> dict[str, dict[str, Any]]:
    """Choose one answer for each operation and status.

    That is the longest of those that are not too long. A dry run is chosen only if there is no
    other.
    """
    kept: list[tuple[str, str, str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            backend="simulator", scenario="demo", database_url=f"sqlite:///{folder}/shrinkd.db"
        )
        with Live(settings, middleware=lambda app: Recorder(app, kept)) as live:
            failed = [name for name in SIMULATED if run(name, SHRINKD_URL=live.url).returncode]
            named = [
                (operation_of(live.app, method, path), status, _shortened(body))
                for method, path, status, body in kept
            ]
    if failed:
        raise SystemExit(f"these scripts failed: {failed}")
    best: dict[str, dict[str, Any]] = {}
    for operation, status, body in sorted(named, key=_goodness):
        best.setdefault(operation, {})[status] = body
    best.pop("", None)
    return dict(sorted(best.items()))


def _goodness(answer: tuple[str, str, Any]) -> tuple[bool, bool, int]:
    length = len(json.dumps(answer[2]))
    is_short = length <= _LONGEST
    return bool(answer[2].get("dry_run")), not is_short, -length if is_short else length


def _shortened(value: Any) -> Any:
    """Cut lists to their first two items, since later ones look the same."""
    if isinstance(value, dict):
        return {name: _shortened(part) for name, part in value.items()}
    return [_shortened(part) for part in value[:2]] if isinstance(value, list) else value


def lacking(
    document: dict[str, Any], examples: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    """List the operations and statuses that promise JSON and have no example."""
    for operation in (
        operation for path in document["paths"].values() for operation in path.values()
    ):
        for status, response in operation["responses"].items():
            if "application/json" in response.get("content", ()) and status not in examples.get(
                operation["operationId"], ()
            ):
                yield operation["operationId"], status


if __name__ == "__main__":
    examples = recorded()
    KEPT.write_text(json.dumps(examples, indent=1) + "\n")
    sys.stdout.write(f"{sum(map(len, examples.values()))} examples are in {KEPT.name}\n")
