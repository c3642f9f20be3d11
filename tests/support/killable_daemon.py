"""Daemons to be killed by the hundred.

Each is a fork of one process that has imported everything, and has no port to listen on.

The first that a daemon says comes when it has recovered.
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
from tests.support.forked_daemon import FORKS

_WATCHED = tuple(
    str(Path(main.__file__).parent / name)
    for name in (
        "backends",
        "shrinks/job",
        "groups/limit_journal.py",
        "memcontrol.py",
        "storage/limit_intents.py",
        "api/routes/limits.py",
    )
)


class Answer(NamedTuple):
    """What a daemon answered, and how many lines of the watched code that took, if somebody
    counted.
    """

    status: int
    body: Any
    lines: int


class Mortal:
    """A daemon that can be killed at any moment, and begun again."""

    def __init__(self, settings: Settings, *, has_policies: bool = False) -> None:
        """`has_policies`: from its begin on it carries policies out, as one that serves does."""
        self._line, theirs = FORKS.Pipe()
        self._nursery = FORKS.Process(
            target=_nurse, args=(settings, theirs), kwargs={"has_policies": has_policies}
        )
        self._nursery.start()
        theirs.close()
        self._pid = 0

    def begin(self) -> list[str]:
        """Start a daemon, wait until it has settled what the last one left, and answer in which
        state the newest shrink is.
        """
        self._line.send("begin")
        self._pid, states = self._line.recv()
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
        """Send the one request that a daemon takes; None when it dies over it.

        It gets a kill -9 after so many seconds, or right before so many lines of its code, and
        lives on if it was faster. A negative number of lines is never reached, and they are
        counted.
        """
        self._line.send((method, path, body, lines))
        self._line.recv()  # that it has heard: what a dead one has not read, the next would
        return self._answer() if self._line.poll(seconds) else self.kill()

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
        self._line.close()
        self._nursery.join()
        self._nursery.close()

    def _answer(self) -> Answer | None:
        """What it says; None tells its death."""
        said: Answer | None = self._line.recv()
        if said is None:
            self._pid = 0
        return said


def _live(settings: Settings, line: Connection, *, has_policies: bool) -> None:
    app = main.create_app(settings)
    if has_policies:
        app.state.wiring.daemon.start()
    line.send((os.getpid(), [row.state for row in app.state.wiring.store.shrinks.list(limit=1)]))
    method, path, body, dies_at = line.recv()
    line.send("heard")
    with _counted(dies_at) as lines:
        status, answer = asyncio.run(_request(app, method, path, body))
    line.send(Answer(status, answer, next(lines) - 1))
    line.recv()


async def _request(app: Any, method: str, path: str, body: Any) -> tuple[int, Any]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://shrinkd"
    ) as client:
        answer = await client.request(method, path, json=body, headers={"Prefer": "wait=60"})
    return answer.status_code, answer.json()


@contextmanager
def _counted(dies_at: int) -> Iterator[Iterator[int]]:
    """Count the lines of the watched code, in this thread and in new ones, and die before one of
    them. 0.

    Run as fast as ever.
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


def _nurse(settings: Settings, line: Connection, *, has_policies: bool) -> None:
    os.setpgid(0, 0)  # Ctrl-C is for the tests
    logging.disable()  # each would say on our terminal that its predecessor was killed
    asyncio.run(_warm_up(settings))
    with suppress(EOFError):
        while line.recv():
            child = os.fork()
            if not child:
                _live(settings, line, has_policies=has_policies)
                os._exit(0)
            os.waitpid(child, 0)
            line.send(None)


async def _warm_up(settings: Settings) -> None:
    """Live once to a natural end, so that the daemons, which are forks, import nothing any more."""
    app = main.create_app(settings)
    async with app.router.lifespan_context(app):
        await _request(app, "GET", "/v1/shrinks", None)
