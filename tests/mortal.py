"""Daemons to be killed by the hundred: each is a fork of one process that has imported everything, and has no port to listen on.

What a daemon is told, and what it says, is a line of JSON. The first that it says comes when it has recovered.
"""

import asyncio
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import httpx

from app import main
from app.settings import Settings

_WATCHED = tuple(
    str(Path(main.__file__).parent / name) for name in ("backends", "job", "intents.py", "memcontrol.py", "store.py", "api/limits.py")
)


class Answer(NamedTuple):
    """What a daemon answered, and how many lines of the watched code that took, if somebody counted."""

    status: int
    body: Any
    lines: int


class Mortal:
    """A daemon that can be killed at any moment, and begun again."""

    def __init__(self, settings: Settings, *, has_policies: bool = False) -> None:
        """`has_policies`: from its begin on it carries policies out, as one that serves does."""
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.mortal", settings.model_dump_json(), *["policies"] * has_policies],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._pid = 0

    def begin(self) -> list[str]:
        """Start a daemon, wait until it has settled what the last one left, and answer in which state the newest shrink is."""
        print(file=self._nursery.stdin, flush=True)
        self._pid, states = self._hear()
        return list(states)

    def ask(self, method: str, path: str, body: Any = None, *, seconds: float | None = None, lines: int = 0) -> Answer | None:
        """Send the one request that a daemon takes; None when it dies over it.

        It gets a kill -9 after so many seconds, or right before so many lines of its code, and lives on if it was faster.
        A negative number of lines is never reached, and they are counted.
        """
        print(json.dumps([method, path, body, lines]), file=self._nursery.stdin, flush=True)
        self._hear()  # that it has heard: what a dead one has not read, the next would
        assert self._nursery.stdout is not None
        is_in_time = seconds is None or select.select([self._nursery.stdout], [], [], seconds)[0]
        return self._answer() if is_in_time else self.kill()

    def kill(self) -> Answer | None:
        """Kill -9, unless it is dead already; answers what it had said and nobody heard."""
        if not self._pid:
            return None
        with suppress(ProcessLookupError):  # its threads may count on behind an answer
            os.kill(self._pid, signal.SIGKILL)
        said = self._answer()
        if said:
            self._answer()
        return said

    def close(self) -> None:
        self.kill()
        self._nursery.communicate()

    def _answer(self) -> Answer | None:
        """What it says; None tells its death."""
        said = self._hear()
        if said is None:
            self._pid = 0
        return said and Answer(*said)

    def _hear(self) -> Any:
        assert self._nursery.stdout is not None
        line = self._nursery.stdout.readline()
        assert line, f"the nursery ended with {self._nursery.wait()}"
        return json.loads(line)


def _live(settings: Settings, *, has_policies: bool) -> None:
    app = main.create_app(settings)
    if has_policies:
        app.state.wiring.daemon.start()
    _say([os.getpid(), [row["state"] for row in app.state.wiring.store.list_shrinks(limit=1)]])
    if line := sys.stdin.readline():
        method, path, body, dies_at = json.loads(line)
        _say("heard")
        with _counted(dies_at) as lines:
            status, answer = asyncio.run(_request(app, method, path, body))
        _say([status, answer, next(lines) - 1])
        sys.stdin.readline()


async def _request(app: Any, method: str, path: str, body: Any) -> tuple[int, Any]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shrinkd") as client:
        answer = await client.request(method, path, json=body, headers={"Prefer": "wait=60"})
    return answer.status_code, answer.json()


@contextmanager
def _counted(dies_at: int) -> Iterator[Iterator[int]]:
    """Count the lines of the watched code, in this thread and in new ones, and die before one of them. 0: run as fast as ever."""
    lines = itertools.count(1)

    def on_line(_frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line" and next(lines) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        return on_line if frame.f_code.co_filename.startswith(_WATCHED) else None

    if dies_at:
        threading.settrace(on_call)
        sys.settrace(on_call)
    yield lines
    sys.settrace(None)


def _say(something: Any) -> None:
    sys.stdout.write(json.dumps(something) + "\n")
    sys.stdout.flush()


def _nurse(settings: Settings, *, has_policies: bool) -> None:
    asyncio.run(_warm_up(settings))
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            _live(settings, has_policies=has_policies)
            os._exit(0)
        os.waitpid(child, 0)
        _say(None)


async def _warm_up(settings: Settings) -> None:
    """Live once to a natural end, so that the daemons, which are forks, import nothing any more."""
    app = main.create_app(settings)
    async with app.router.lifespan_context(app):
        await _request(app, "GET", "/v1/shrinks", None)


if __name__ == "__main__":
    _nurse(Settings.model_validate_json(sys.argv[1]), has_policies="policies" in sys.argv[2:])
