"""Run policies on a real memory controller.

A watermark keeps a reader off its limit, and a killed daemon leaves no group throttled.
"""

import os
import random
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shrinkd.backends import Backend, Group
from shrinkd.events.bus import EventBus
from shrinkd.policies.catalog import PolicyCatalog
from shrinkd.policies.policy import parse
from shrinkd.settings import Settings
from shrinkd.storage import Store
from tests.backends.hosts import MIB, failures_of
from tests.support.cgroup_host import CgroupHost, CgroupWorker
from tests.support.killable_daemon import KillableDaemon
from tests.support.live_server import Daemon
from tests.support.polling import until

pytestmark = pytest.mark.long

ROUNDS = {"v1": 30 if os.environ.get("SHRINKD_TEST_REQUIRE_ALL") == "1" else 4, "v2": 3}
"""Fewer in the VM: an emulated machine takes a quarter of a minute for one."""
STEPS, STEP_BYTES = 100, MIB
"""Some 5 s of a reader at 20 MiB/s at the most: a daemon in the VM, which is emulated, is many
times slower than its kernel."""
LIMIT = 64 * MIB
_REST_SECONDS = 0.05
_TELLING = (
    "usage",
    "failcnt",
    "stat",
    "events",
    "current",
    "peak",
    "pressure",
    "procs",
    "threads",
    "tasks",
    "numa",
    "slabinfo",
    "kmem",
)
"""Parts of the names of those control files that tell of the group, and are nobody's to set."""

Start = Callable[..., Daemon]
ROOM = {
    "kind": "watermark",
    "floor": {"bytes": 0},
    "spec": {"high": "50%", "low": "25%", "cooldown_seconds": 0},
}
SQUEEZE = {"kind": "pressure", "floor": {"bytes": 0}}
IDLE = {
    "kind": "idle",
    "floor": {"bytes": 0},
    "spec": {"idle_seconds": 10, "interval_seconds": 1, "step_bytes": "4M"},
}


def begin(kernel: CgroupHost[Backend], start: Start, root: Group) -> Daemon:
    return start(
        backend=kernel.backend.name,
        cgroup_root=kernel.backend.node().root,
        subtrees=f"{root.path}/*",
    )


def put(daemon: Daemon, name: str, group: Group, policy: dict[str, Any]) -> None:
    daemon.client.put(
        f"/v1/policies/{name}", json=policy | {"selector": {"group": group.path}}
    ).raise_for_status()


def shrinks(daemon: Daemon, group: Group) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = daemon.client.get(
        "/v1/shrinks", params={"group": group.path}
    ).json()["items"]
    return items


def read_on(kernel: CgroupHost[Backend], groups: list[Group]) -> None:
    """Fill groups with page cache step by step, each step with a new file."""
    readers = [kernel.charge(group) for group in groups]
    for _ in range(STEPS):
        for reader in readers:
            reader.read_file(STEP_BYTES)
        time.sleep(_REST_SECONDS)


def test_with_a_watermark_a_reader_seldom_meets_its_limit(
    kernel: CgroupHost[Backend], daemon: Start
) -> None:
    root = kernel.group()
    groups = [kernel.backend.make(f"{root.path}/{name}") for name in ("kept", "bare")]
    for group in groups:
        kernel.backend.set_limits(group, {"max_bytes": LIMIT})
    it = begin(kernel, daemon, root)
    put(it, "room", groups[0], ROOM)
    read_on(kernel, groups)
    kept, bare = (failures_of(kernel, group) for group in groups)
    assert (
        2 * kept < bare
    )  # none on a machine that has a moment for the daemon: make bench counts there
    done = shrinks(it, groups[0])
    assert {shrink["policy"] for shrink in done} == {"room"}
    assert kernel.limit(groups[0]) == f"{LIMIT}\n"
    assert it.stop() == 0


def held(kernel: CgroupHost[Backend], groups: list[Group]) -> dict[str, str]:
    """Return every setting of the groups as the kernel reports it."""
    settings = {}
    for group in groups:
        for file in Path(kernel.backend.node().root, group.path).iterdir():
            if (
                file.is_file()
                and file.stat().st_mode & 0o400
                and not any(part in file.name for part in _TELLING)
            ):
                settings[f"{group.path}/{file.name}"] = file.read_text()
    return settings


def test_a_daemon_that_is_killed_while_its_policies_act_leaves_every_control_file_as_it_was(
    kernel: CgroupHost[Backend], tmp_path: Path
) -> None:
    chance = random.Random(20080718)
    root = kernel.group()
    groups = [kernel.backend.make(f"{root.path}/{name}") for name in ("room", "squeeze", "idle")]
    for group in groups:
        kernel.backend.set_limits(group, {"max_bytes": LIMIT})
    workers = [kernel.charge(group, anon=MIB) for group in groups]
    before = held(kernel, groups)
    assert list(before.values()).count(f"{LIMIT}\n") >= len(groups)
    where = {
        "cgroup_root": kernel.backend.node().root,
        "subtrees": f"{root.path}/*",
        "database_url": f"sqlite:///{tmp_path}/killable.db",
    }
    settings = Settings.model_validate(where | {"backend": kernel.backend.name})
    keep(settings, kernel, dict(zip(groups, (ROOM, SQUEEZE, IDLE), strict=True)))
    with closing(KillableDaemon(settings, has_policies=True)) as killable:
        for _ in range(ROUNDS[kernel.backend.name]):
            killable.begin()
            fill(workers)
            until(lambda: kernel.backend.usage(groups[0]) < LIMIT // 2)
            fill(workers)
            time.sleep(_REST_SECONDS * chance.random())
            killable.kill()
            assert held(kernel, groups) == before
    assert all(worker.alive() for worker in workers)


def keep(
    settings: Settings, kernel: CgroupHost[Backend], wanted: dict[Group, dict[str, Any]]
) -> None:
    """Store policies for a daemon to find at its start."""
    with closing(Store(settings.database_url)) as store:
        store.open()
        policies = PolicyCatalog(kernel.backend, store.policies, EventBus(), settings.subtrees)
        for group, policy in wanted.items():
            name = group.path.rpartition("/")[2]
            policies.put(
                parse(policy | {"name": name, "selector": {"group": group.path}}), lambda _: None
            )


def fill(workers: list[CgroupWorker]) -> None:
    for worker in workers:
        worker.read_file(LIMIT * 3 // 4)
