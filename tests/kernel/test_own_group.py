"""Run the whole daemon on a real kernel in a container as Docker makes them.

No request and no policy shrinks or moves the daemon itself.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from shrinkd.backends import Backend, Group
from tests.backends.hosts import MIB
from tests.support.cgroup_host import CgroupHost
from tests.support.live_server import Daemon, Process
from tests.support.polling import until
from tests.support.problem_checks import problem

# The host's hierarchy on top of the one that a container has of itself, in a cgroup namespace; and
# a stick of an unusual name.
CONTAINER = r"""
mount --make-rprivate /
mkdir "$TMP/host" "$TMP/$STICK"
mount -t tmpfs none "$TMP/$STICK"
mount --bind "$HOST_ROOT" "$TMP/host"
mount --bind "$HOST_ROOT/$OWN" "$HOST_ROOT"
mount --bind "$TMP/host" "$HOST_ROOT"
exec "$0" -P -m shrinkd serve
"""
JOIN = 'echo $$ >"$HOST_ROOT/$OWN/cgroup.procs"; exec unshare -mC sh -ec "$0" "$1"'
LIMIT = {"max_bytes": "1G"}


@dataclass
class Ship:
    """A daemon in the group `own` that manages the groups of `top`.

    The groups `other` and `free` are empty.
    """

    daemon: Daemon
    kernel: CgroupHost[Backend]
    top: Group
    own: Group
    other: Group
    free: Group

    def post(self, group: Group, suffix: str, body: dict[str, Any]) -> httpx.Response:
        return self.daemon.client.post(f"/v1/groups/{group.path}/{suffix}", json=body)

    def patch(self, group: Group) -> httpx.Response:
        return self.daemon.client.patch(f"/v1/groups/{group.path}/limits", json=LIMIT)

    def where(self) -> dict[str, Any]:
        told: dict[str, Any] = self.daemon.client.get("/v1/node").json()["own_group"]
        return told

    def move(self, group: Group) -> None:
        """Move the process as another program would."""
        Path(self.kernel.backend.node().root, group.path, "cgroup.procs").write_text(
            str(self.daemon.pid)
        )

    def limited(self, group: Group) -> bool:
        return self.kernel.limit(group) == f"{1024 * MIB}\n"


@pytest.fixture
def ship(kernel: CgroupHost[Backend], tmp_path: Path) -> Iterator[Ship]:
    top = kernel.group()
    groups = [kernel.backend.make(f"{top.path}/{name}") for name in ("own", "other", "free")]
    root, own = kernel.backend.node().root, groups[0].path

    def begin(environ: Mapping[str, str], log: Path) -> Process:
        given = {"HOST_ROOT": root, "OWN": own, "TMP": str(tmp_path), "STICK": "usb\u2028\udce9"}
        with log.open("ab") as lines:
            return subprocess.Popen(
                ["sh", "-ec", JOIN, CONTAINER, sys.executable],
                env=dict(environ) | given,
                stdout=lines,
                stderr=lines,
                process_group=0,
            )

    daemon = Daemon(tmp_path, begin, backend=kernel.backend.name, subtrees=f"{top.path}/*")
    try:
        yield Ship(daemon, kernel, top, *groups)
    finally:
        daemon.close()


def test_nobody_changes_the_group_of_the_daemon_nor_moves_it_nor_what_is_there_with_it(
    ship: Ship,
) -> None:
    stranger, outsider = (
        ship.kernel.charge(ship.own),
        ship.kernel.charge(ship.top) if ship.kernel.backend.name == "v1" else None,
    )
    assert ship.where() == {"state": "found", "path": ship.own.path, "suspects": [], "detail": None}
    client, own = ship.daemon.client, f"/v1/groups/{ship.own.path}"
    problem(ship.patch(ship.own), 403, "protected-group")
    problem(client.delete(own), 403, "protected-group")
    problem(ship.post(ship.own, "shrinks", {"reclaim_bytes": "1M"}), 403, "protected-group")
    (item,) = client.post(
        "/v1/limits/batch", json={"items": [{"group": ship.own.path, "patch": LIMIT}]}
    ).json()["items"]
    assert (item["status"], item["body"]["type"]) == (403, "/problems/protected-group")
    problem(
        client.post("/v1/groups", json={"path": f"{ship.own.path}/inner"}), 403, "protected-group"
    )
    for pid in (ship.daemon.pid, stranger.pid):
        problem(ship.post(ship.other, "processes", {"pid": pid}), 403, "protected-group")
    problem(ship.post(ship.own, "processes", {"pid": os.getpid()}), 403, "protected-group")
    problem(
        ship.post(ship.other, "processes", {"pid": os.getpid()}), 404, "process-not-found"
    )  # outside SHRINKD_SUBTREES
    if outsider:
        problem(ship.post(ship.other, "processes", {"pid": outsider.pid}), 404, "process-not-found")
    assert ship.where()["path"] == ship.own.path
    assert client.post("/v1/groups", json={"path": f"{ship.top.path}/beside"}).status_code == 201


def test_a_daemon_that_was_moved_keeps_its_hands_off_the_group_where_it_is_now(ship: Ship) -> None:
    assert ship.patch(ship.other).status_code == 200
    ship.move(ship.other)
    problem(ship.patch(ship.other), 403, "protected-group")
    assert ship.where()["path"] == ship.other.path
    assert ship.patch(ship.own).status_code == 200


def test_no_policy_acts_on_the_group_of_the_daemon_wherever_it_was_moved(ship: Ship) -> None:
    ship.move(ship.other)
    policy = {
        "kind": "limit",
        "selector": {"group": f"{ship.top.path}/*"},
        "spec": {"limits": LIMIT},
    }
    ship.daemon.client.put("/v1/policies/keep", json=policy).raise_for_status()
    until(lambda: ship.limited(ship.free) and ship.limited(ship.own))
    assert not ship.limited(ship.other)
    ship.move(ship.own)
    until(lambda: ship.limited(ship.other))
    ship.daemon.client.get("/readyz").raise_for_status()
