"""Ask a backend about its own process in separate namespaces and mounts.

No mount of the machine is touched.
"""

import ctypes
import json
import logging
import os
import subprocess
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shrinkd.backends import Backend, Group, load
from shrinkd.errors import ShrinkdError
from shrinkd.settings import Settings
from tests.support.forked_daemon import FORK_CONTEXT

_NAMESPACES = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "pid": 0x20000000,
}  # include/uapi/linux/sched.h
_UNUSUAL = "usb\u2028\x1c\x85\udce9 \\a\nb"
"""Ends of lines for str.splitlines(), a byte that is not UTF-8, and what the kernel
escapes."""
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Setting:
    """Namespaces and mounts of a process, and the path at which it finds the hierarchy.

    `mounting` is a script for sh(1), with the variables root, own, tmp and unusual: the hierarchy,
    the group of the process in it, an empty folder, and a path in it that does not exist yet.
    """

    name: str
    mounting: str = ":"
    at: str = "{root}"
    namespaces: tuple[str, ...] = ()
    has_twins: bool = True
    """The other hierarchies of cgroup v1 are still to be seen."""


@dataclass(frozen=True)
class Question:
    """The groups of one run: the process is in `own` and moves to `other`.

    It looks for its own group, and tries as dry runs the changes that are refused there.
    """

    setting: Setting
    backend: str
    root: str
    own: str
    other: str
    stranger: int
    """The id of a process that is in `own`, too."""
    folder: Path
    below: str = ""
    """The managed root is this group of the hierarchy."""


def ask(question: Question) -> dict[str, Any]:
    """Return what the process has found; AssertionError with what it has raised."""
    process = FORK_CONTEXT.Process(target=_answer, args=(question,))
    process.start()
    process.join()
    process.close()
    told: dict[str, Any] = json.loads((question.folder / "told").read_text())
    assert "met" not in told, told["met"]
    return told


def _answer(question: Question) -> None:
    Path(question.root, question.own, "cgroup.procs").write_text(str(os.getpid()))
    flags = sum(_NAMESPACES[name] for name in ("mount", *question.setting.namespaces))
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if "pid" in question.setting.namespaces and (first := os.fork()):
        os.waitpid(first, 0)
        return
    try:
        told = _found(question)
    except BaseException:  # noqa: BLE001
        told = {"met": traceback.format_exc()}
    (question.folder / "told").write_text(json.dumps(told))
    if "pid" in question.setting.namespaces:
        os._exit(0)


def _found(question: Question) -> dict[str, Any]:
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("shrinkd").addHandler(handler)
    folder = question.folder
    variables = {
        "root": question.root,
        "own": question.own,
        "tmp": str(folder),
        "unusual": str(folder / _UNUSUAL),
    }
    mounting = f"mount --make-rprivate /; {question.setting.mounting}"
    subprocess.run(
        ["sh", "-ec", mounting], env=os.environ | variables, check=True, capture_output=True
    )
    root = question.setting.at.format(**variables) + f"/{question.below}" * bool(question.below)
    backend = load(question.backend)(Settings.model_construct(cgroup_root=root, subtrees=()))
    found = backend.own_group()
    told: dict[str, Any] = {
        "node": backend.node().root,
        "path": found.path,
        "suspects": found.suspects,
        "logged": logged,
    }
    told["has_pressure"] = backend.has_pressure
    other = backend.groups(question.other, 0)[0]
    for path in filter(None, (found.path, (found.path or "").rpartition("/")[0])):
        told[path] = _refusals(backend, backend.groups(path, 0)[0])
    told["beside"] = _told(lambda: backend.make("shrinkd-beside", dry_run=True))
    told["there"], told["moves"] = (
        _refusals(backend, other),
        _moves(backend, other, question.stranger),
    )
    Path(root, question.other, "cgroup.procs").write_text(str(os.getpid()))
    told["moved"], told["held"] = backend.own_group().path, backend.group_of(os.getpid()).path
    backend.close()
    return told


def _refusals(backend: Backend, group: Group) -> dict[str, str]:
    tries: dict[str, Callable[[], object]] = {
        "set_limits": lambda: backend.set_limits(group, {"max_bytes": 1 << 40}, dry_run=True),
        "reclaim": lambda: backend.reclaim(group, 4096),
        "remove": lambda: backend.remove(group, dry_run=True),
        "make": lambda: backend.make(f"{group.path}/inner", dry_run=True),
    }
    return {verb: _told(attempt) for verb, attempt in tries.items()}


def _moves(backend: Backend, group: Group, stranger: int) -> dict[str, str]:
    """Dry-run moves of this process, of a thread of it, and of another process of its group."""
    thread = threading.Thread(target=(ended := threading.Event()).wait)
    thread.start()
    pids = {
        "daemon": os.getpid(),
        "thread": thread.native_id or 0,
        "stranger": stranger,
        "nobody": 4194305,
    }
    answers = {
        who: _told(partial(backend.attach, group, pid, dry_run=True)) for who, pid in pids.items()
    }
    ended.set()
    thread.join()
    return answers


def _told(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except ShrinkdError as error:
        return type(error).__name__
    return "done"
