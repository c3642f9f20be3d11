"""Daemons that tests kill by the hundred.

Each is a fork of one process that has imported everything, takes one request through a pipe, and
listens on no port.
"""

import asyncio
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import httpx

from shrinkd import main
from shrinkd.settings import Settings
from tests.support.forked_daemon import FORK_CONTEXT

_WATCHED = tuple(
    str(Path(main.__file__).parent / name)
    for name in (
        "backends",
        "shrinks/job",
        "groups",
        "memcontrol.py",
        "storage/limit_intents.py",
        "api/routes/limits.py",
    )
)


class Answer(NamedTuple):
    """Status and body of an answer, and the executed lines of the watched code, if counted."""

    status: int
    body: Any
    lines: int


class KillableDaemon:
    """A daemon that can be killed at any moment and started again."""

    def __init__(self, settings: Settings, *, has_policies: bool = False) -> None:
        """Fork the process that starts the daemons. With `has_policies` they carry policies out."""
        self._pipe, other_end = FORK_CONTEXT.Pipe()
        self._forker = FORK_CONTEXT.Process(
            target=_fork_daemons, args=(settings, other_end), kwargs={"has_policies": has_policies}
        )
        self._forker.start()
        other_end.close()
        self._pid = 0

    def begin(self) -> list[str]:
        """Start a daemon, wait for its recovery, and return the newest shrink's state in a list."""
        self._pipe.send("begin")
        self._pid, states = self._pipe.recv()
        return list(states)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        seconds: float | None = None,
        lines: int = 0,
    ) -> Answer | None:
        """Send the one request that a daemon takes; None when it is killed before it answers.

        It is killed after `seconds`, or before the given number of `lines` of its code, unless it
        has answered. A negative number of lines is never reached, and the lines are counted.
        """
        self._pipe.send((method, path, body, lines))
        self._pipe.recv()  # the daemon has read the request: else the next one would
        return self._answer() if self._pipe.poll(seconds) else self.kill()

    def kill(self) -> Answer | None:
        """Send SIGKILL unless it is dead; return an answer that had not been read."""
        if not self._pid:
            return None
        with suppress(ProcessLookupError):  # a thread that counts may have killed it meanwhile
            os.kill(self._pid, signal.SIGKILL)
        answer = self._answer()
        if answer:
            self._answer()
        return answer

    def close(self) -> None:
        self.kill()
        self._pipe.close()
        self._forker.join()
        self._forker.close()

    def _answer(self) -> Answer | None:
        """Receive an answer, or None for the end of the daemon."""
        answer: Answer | None = self._pipe.recv()
        if answer is None:
            self._pid = 0
        return answer


def _run_daemon(settings: Settings, pipe: Connection, *, has_policies: bool) -> None:
    app = main.create_app(settings)
    if has_policies:
        app.state.parts.daemon.start()
    pipe.send((os.getpid(), [row.state for row in app.state.parts.store.shrinks.list(limit=1)]))
    method, path, body, dies_at = pipe.recv()
    pipe.send("received")
    with _counted(dies_at) as lines:
        status, answer = asyncio.run(_request(app, method, path, body))
    pipe.send(Answer(status, answer, next(lines) - 1))
    pipe.recv()


async def _request(app: Any, method: str, path: str, body: Any) -> tuple[int, Any]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://shrinkd"
    ) as client:
        answer = await client.request(method, path, json=body, headers={"Prefer": "wait=60"})
    return answer.status_code, answer.json()


@contextmanager
def _counted(dies_at: int) -> Iterator[Iterator[int]]:
    """Count executed lines of the watched code, and kill the process before one of them.

    Lines of this thread and of new ones count. With `dies_at` 0 nothing is counted, and the code
    runs at full speed.
    """
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


def _fork_daemons(settings: Settings, pipe: Connection, *, has_policies: bool) -> None:
    os.setpgid(0, 0)  # so that Ctrl-C reaches only the tests
    logging.disable()  # each would log that its predecessor was killed
    asyncio.run(_warm_up(settings))
    with suppress(EOFError):
        while pipe.recv():
            child = os.fork()
            if not child:
                _run_daemon(settings, pipe, has_policies=has_policies)
                os._exit(0)
            os.waitpid(child, 0)
            pipe.send(None)


async def _warm_up(settings: Settings) -> None:
    """Run one daemon to its normal end, so that the forks have nothing left to import."""
    app = main.create_app(settings)
    async with app.router.lifespan_context(app):
        await _request(app, "GET", "/v1/shrinks", None)
