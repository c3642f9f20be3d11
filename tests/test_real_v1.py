"""The whole daemon on this machine's own cgroup v1 controller: the story of the README, and what survives its death."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.backends import Group
from tests.backends import v1_host
from tests.backends.hosts import MIB
from tests.backends.v1_host import V1Host, V1Worker
from tests.live import Daemon

ANON, CACHE = 96 * MIB, 256 * MIB


@dataclass(slots=True)
class Story:
    """A daemon whose root is a group of ours, and in it `web`, with 96 MiB of anonymous memory and 256 MiB of page cache."""

    start: Callable[[], Daemon]
    host: V1Host
    group: Group
    worker: V1Worker

    @property
    def limit(self) -> str:
        """What the kernel says, not what the daemon does."""
        return self._file("memory.limit_in_bytes").read_text()

    @property
    def usage(self) -> int:
        return int(self._file("memory.usage_in_bytes").read_text())

    @property
    def cache(self) -> int:
        return self.host.backend.stat(self.group).file_bytes or 0

    def _file(self, name: str) -> Path:
        return Path(self.host.backend.node().root, self.group.path, name)


@pytest.fixture
def story(daemon: Callable[..., Daemon]) -> Iterator[Story]:
    if reason := v1_host.absent():
        pytest.skip(f"the host v1 is absent: {reason}")
    with v1_host.open_host() as host:
        root = host.group()
        group = host.backend.make(f"{root.path}/web")
        worker = host.charge(group, anon=ANON, cache=CACHE)
        where = str(Path(host.backend.node().root, root.path))
        yield Story(lambda: daemon(backend="v1", cgroup_root=where), host, group, worker)


def shrink(client: httpx.Client, *, wait: int = 0, **request: Any) -> dict[str, Any]:
    answer = client.post("/v1/groups/web/shrinks", json=request, headers={"Prefer": f"wait={wait}"} if wait else {})
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def wait_for(client: httpx.Client, shrink_id: str) -> dict[str, Any]:
    body: dict[str, Any] = client.get(f"/v1/shrinks/{shrink_id}", headers={"Prefer": "wait=60"}).json()
    return body


def wait_for_progress(client: httpx.Client, shrink_id: str) -> None:
    while not client.get(f"/v1/shrinks/{shrink_id}").json()["progress"]["passes"]:
        pass


def test_a_limit_that_cannot_hold_is_refused_with_the_cache_intact(story: Story) -> None:
    client, limit, cache = story.start().client, story.limit, story.cache
    answer = client.patch("/v1/groups/web/limits", json={"max_bytes": "64M"})
    assert (answer.status_code, answer.json()["errno"]) == (409, "EBUSY")
    assert story.limit == limit
    assert story.cache >= cache * 0.99


def test_shrinking_then_setting_lowers_the_limit_and_kills_nobody(story: Story) -> None:
    client = story.start().client
    done = shrink(client, wait=60, target_bytes="200M", set_max_bytes="200M")
    assert done["state"] == "succeeded"
    assert story.limit == f"{200 * MIB}\n"
    assert story.usage < 200 * MIB
    assert story.worker.alive()
    assert client.get("/v1/groups/web/stats").json()["events"]["oom_kill"] == 0


def test_a_shrink_below_what_can_be_reclaimed_stalls_and_moves_no_limit(story: Story) -> None:
    limit = story.limit
    done = shrink(story.start().client, wait=60, target_bytes="32M", set_max_bytes="32M")
    assert (done["state"], done["error"]["type"], done["error"]["errno"]) == ("failed", "/problems/shrink-stalled", "EBUSY")
    assert done["progress"]["retries_left"] == 0
    assert story.limit == limit
    assert story.worker.alive()


def test_a_cancelled_shrink_stops_within_a_pass_and_moves_no_limit(story: Story) -> None:
    client, limit = story.start().client, story.limit
    began = shrink(client, target_bytes="128M", set_max_bytes="128M", max_bytes_per_second="8M")
    wait_for_progress(client, began["id"])
    asked = client.post(f"/v1/shrinks/{began['id']}/cancel")
    done = wait_for(client, began["id"])
    assert (asked.status_code, done["state"]) == (202, "cancelled")
    assert done["progress"]["passes"] <= asked.json()["progress"]["passes"] + 1
    assert story.limit == limit


def test_a_daemon_that_is_killed_in_a_shrink_leaves_nothing_lowered_and_the_next_one_says_so(story: Story) -> None:
    limit, daemon = story.limit, story.start()
    began = shrink(daemon.client, target_bytes="128M", set_max_bytes="128M", max_bytes_per_second="8M")
    wait_for_progress(daemon.client, began["id"])
    daemon.kill()
    assert story.limit == limit
    usage = story.usage
    after = story.start().client
    assert after.get(f"/v1/shrinks/{began['id']}").json()["state"] == "interrupted"
    assert story.limit == limit
    assert story.usage >= usage - story.host.slack_bytes
    assert shrink(after, wait=60, target_bytes="200M")["state"] == "succeeded"


def test_a_group_that_is_removed_in_a_shrink_is_gone_and_its_successor_is_not_touched(story: Story) -> None:
    client = story.start().client
    began = shrink(client, target_bytes="128M", max_bytes_per_second="8M")
    wait_for_progress(client, began["id"])
    story.worker.stop()
    story.host.backend.remove(story.group)
    successor = story.host.backend.make(story.group.path)
    story.host.charge(successor, cache=CACHE)
    done = wait_for(client, began["id"])
    assert (done["state"], done["error"]["type"]) == ("failed", "/problems/group-gone")
    assert story.host.backend.usage(successor) >= CACHE * 0.99
