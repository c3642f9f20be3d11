"""Policies on a real memory controller: a watermark keeps a reader off its limit, and a daemon that dies leaves no group throttled."""

import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from app.backends import Backend, Group
from tests.backends.cgroups import CgroupHost
from tests.backends.hosts import MIB, failures_of
from tests.live import Daemon

ROUNDS = 30 if os.environ.get("SHRINKD_TEST_REQUIRE_ALL") == "1" else 4
STEPS, STEP_BYTES = 60, 3 * MIB
"""Some 3 s of a reader at a moderate rate, at the least: 180 MiB through a limit of 64 MiB."""
LIMIT = 64 * MIB
_REST_SECONDS = 0.05
_POLLS = 1200
_TELLING = ("usage", "failcnt", "stat", "events", "current", "peak", "pressure", "procs", "threads", "tasks", "numa", "slabinfo", "kmem")
"""Parts of the names of those control files that tell of the group, and are nobody's to set."""

Start = Callable[..., Daemon]
ROOM = {"kind": "watermark", "floor": {"bytes": 0}, "spec": {"high": "75%", "low": "50%", "cooldown_seconds": 0}}
SQUEEZE = {"kind": "pressure", "floor": {"bytes": 0}}
IDLE = {"kind": "idle", "floor": {"bytes": 0}, "spec": {"idle_seconds": 10, "interval_seconds": 1, "step_bytes": "4M"}}


def begin(kernel: CgroupHost[Backend], start: Start, root: Group) -> Daemon:
    return start(backend=kernel.backend.name, cgroup_root=kernel.backend.node().root, subtrees=f"{root.path}/*")


def put(daemon: Daemon, name: str, group: Group, policy: dict[str, Any]) -> None:
    daemon.client.put(f"/v1/policies/{name}", json=policy | {"selector": {"group": group.path}}).raise_for_status()


def until(told: Callable[[], Any]) -> Any:
    for _ in range(_POLLS):
        if found := told():
            return found
        time.sleep(_REST_SECONDS)
    raise AssertionError("it has not come")


def shrinks(daemon: Daemon, group: Group) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = daemon.client.get("/v1/shrinks", params={"group": group.path}).json()["items"]
    return items


def has_more_than(count: int, daemon: Daemon, group: Group) -> bool:
    return len(shrinks(daemon, group)) > count


def read_on(kernel: CgroupHost[Backend], group: Group) -> None:
    """Fill a group with page cache, step by step: each step a file that nobody has read."""
    reader = kernel.charge(group)
    for _ in range(STEPS):
        reader.read_file(STEP_BYTES)
        time.sleep(_REST_SECONDS)
    reader.stop()


def test_a_watermark_keeps_a_reader_off_its_limit(kernel: CgroupHost[Backend], daemon: Start) -> None:
    root = kernel.group()
    groups = [kernel.backend.make(f"{root.path}/{name}") for name in ("kept", "bare")]
    for group in groups:
        kernel.backend.set_limits(group, {"max_bytes": LIMIT})
    it = begin(kernel, daemon, root)
    put(it, "room", groups[0], ROOM)
    for group in groups:
        read_on(kernel, group)
    kept, bare = (failures_of(kernel, group) for group in groups)
    assert (kept, bare > 0) == (0, True)
    done = shrinks(it, groups[0])
    assert {shrink["policy"] for shrink in done} == {"room"}
    assert kernel.limit(groups[0]) == f"{LIMIT}\n"
    assert it.stop() == 0


def held(kernel: CgroupHost[Backend], groups: list[Group]) -> dict[str, str]:
    """Every setting of the groups, as the kernel itself says it."""
    settings = {}
    for group in groups:
        for file in Path(kernel.backend.node().root, group.path).iterdir():
            if file.is_file() and file.stat().st_mode & 0o400 and not any(part in file.name for part in _TELLING):
                settings[f"{group.path}/{file.name}"] = file.read_text()
    return settings


def test_a_daemon_that_is_killed_while_its_policies_act_leaves_every_control_file_as_it_was(
    kernel: CgroupHost[Backend], daemon: Start
) -> None:
    chance = random.Random(20080718)
    root = kernel.group()
    groups = [kernel.backend.make(f"{root.path}/{name}") for name in ("room", "squeeze", "idle")]
    workers = [kernel.charge(group, anon=MIB) for group in groups]
    for group in groups:
        kernel.backend.set_limits(group, {"max_bytes": LIMIT})
    before = held(kernel, groups)
    assert any(f"{LIMIT}\n" == text for text in before.values())
    it = begin(kernel, daemon, root)
    for group, policy in zip(groups, (ROOM, SQUEEZE, IDLE), strict=True):
        put(it, group.path.rpartition("/")[2], group, policy)
    for _ in range(ROUNDS):
        count = len(shrinks(it, groups[0]))
        for worker in workers:
            worker.read_file(LIMIT * 7 // 8)
        until(partial(has_more_than, count, it, groups[0]))
        for worker in workers:
            worker.read_file(LIMIT // 4)
        time.sleep(_REST_SECONDS * chance.random())
        it.kill()
        assert held(kernel, groups) == before
        it.close()
        it = begin(kernel, daemon, root)
        assert {policy["name"] for policy in it.client.get("/v1/policies").json()["items"]} == {"room", "squeeze", "idle"}
    assert all(worker.alive() for worker in workers)
    assert held(kernel, groups) == before
