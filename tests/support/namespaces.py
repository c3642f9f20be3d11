"""A process that asks a backend about itself, in namespaces and among mounts of its own, so that no
mount of the machine is touched.
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
from tests.support.forked_daemon import FORKS

_NAMESPACES = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "pid": 0x20000000,
}  # include/uapi/linux/sched.h
_UNUSUAL = "usb\u2028\x1c\x85\udce9 \\a\nb"
"""What str.splitlines() takes for the end of a line, a byte that is no UTF-8, and what the kernel
escapes."""
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Setting:
    """Namespaces that a process has for itself beside that of its mounts, what is mounted in there,
    and where it finds the hierarchy.

    `mounting` is for sh(1), which has the variables root, own, tmp and unusual: the hierarchy, the
    group of the process in it, an empty folder, and a path in that which is not there yet.
    """

    name: str
    mounting: str = ":"
    at: str = "{root}"
    namespaces: tuple[str, ...] = ()
    has_twins: bool = True
    """The other hierarchies of cgroup v1 are still to be seen."""


@dataclass(frozen=True)
class Question:
    """What a process in the group `own` is to do.

    Find itself, try on trial what is not to be done there, and move to `other`.
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
    """Answer what the process has found, or raise AssertionError with what it met."""
    process = FORKS.Process(target=_answer, args=(question,))
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
    except BaseException:  # the test shows it
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
    """What becomes of moving us, a thread of ours, and somebody who is in our group, to another
    group, on trial.
    """
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
