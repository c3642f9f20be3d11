"""Start daemons as forks of one process that has imported the application.

The import takes 2 s here, and half a minute in the VM. tests/test_main.py starts daemons by their
command.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path

FORK_CONTEXT = multiprocessing.get_context("forkserver")


class ForkedDaemon:
    """`shrinkd serve` in a fork, with the interface of a subprocess.Popen of that command.

    Once its exit code is known, nothing of it is open here.
    """

    def __init__(self, environ: Mapping[str, str], log: Path) -> None:
        self._process = FORK_CONTEXT.Process(target=_serve, args=(dict(environ), log))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._process.exitcode
            if self._code is not None:
                self._process.close()
        return self._code

    def wait(self) -> int:
        if self._code is None:
            self._process.join()
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, which: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, which)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def prepare() -> None:
    """Start the process that is forked.

    It imports while other tests run, and holds two descriptors of this process until the end.
    """
    FORK_CONTEXT.set_forkserver_preload(
        [
            "shrinkd.cli.app",
            "shrinkd.server.listen",
            "shrinkd.backends.v1.backend",
            "shrinkd.backends.v2.backend",
            "tests.support.killable_daemon",
            "tests.support.namespaces",
        ]
    )
    forkserver.ensure_running()


def _serve(environ: dict[str, str], log: Path) -> None:
    from shrinkd.cli.app import main

    os.setpgid(0, 0)  # so that Ctrl-C reaches only the tests
    with log.open("ab") as lines:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(lines.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["shrinkd", "serve"]
    main()
