"""Run the whole daemon on a real memory controller: the story of the tutorial.

It also shows the effect of a bare write, and what survives SIGKILL.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from shrinkd.backends import Backend, Group
from tests.backends.hosts import MIB, cache_of
from tests.support.cgroup_host import CgroupHost, CgroupWorker
from tests.support.live_server import Daemon

ANON, CACHE = 100 * MIB, 256 * MIB


@dataclass(slots=True)
class Story:
    """A daemon whose root is a group of the test, with a group `web` in it.

    `web` has 100 MiB of anonymous memory and 256 MiB of page cache.
    """

    start: Callable[[], Daemon]
    host: CgroupHost[Backend]
    group: Group
    worker: CgroupWorker

    @property
    def limit(self) -> str:
        return self.host.limit(self.group)

    @property
    def usage(self) -> int:
        return self.host.backend.usage(self.group)

    @property
    def cache(self) -> int:
        return cache_of(self.host, self.group)


@pytest.fixture
def story(kernel: CgroupHost[Backend], daemon: Callable[..., Daemon]) -> Story:
    root = kernel.group()
    group = kernel.backend.make(f"{root.path}/web")
    worker = kernel.charge(group, anon=ANON, cache=CACHE)
    where = str(Path(kernel.backend.node().root, root.path))
    return Story(
        lambda: daemon(backend=kernel.backend.name, cgroup_root=where), kernel, group, worker
    )


def shrink(client: httpx.Client, *, wait: int = 0, **request: Any) -> dict[str, Any]:
    answer = client.post(
        "/v1/groups/web/shrinks", json=request, headers={"Prefer": f"wait={wait}"} if wait else {}
    )
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def wait_for(client: httpx.Client, shrink_id: str) -> dict[str, Any]:
    body: dict[str, Any] = client.get(
        f"/v1/shrinks/{shrink_id}", headers={"Prefer": "wait=60"}
    ).json()
    return body


def wait_for_progress(client: httpx.Client, shrink_id: str) -> None:
    while not client.get(f"/v1/shrinks/{shrink_id}").json()["progress"]["passes"]:
        pass


def test_a_limit_that_cannot_hold_is_refused_and_one_that_can_is_shrunk_to_with_nobody_killed(
    story: Story,
) -> None:
    story.worker.read_file(700 * MIB - CACHE)
    client, limit, cache = story.start().client, story.limit, story.cache
    refused = client.patch("/v1/groups/web/limits", json={"max_bytes": "80M"})
    assert (refused.status_code, refused.json()["errno"]) == (409, "EBUSY")
    assert story.limit == limit
    assert story.cache >= cache * 0.99
    done = shrink(client, wait=60, target_bytes="150M", set_max_bytes="150M")
    assert done["state"] == "succeeded"
    assert story.limit == f"{150 * MIB}\n"
    assert story.usage < 150 * MIB
    assert story.worker.alive()
    assert client.get("/v1/groups/web/stats").json()["events"]["oom_kill"] == 0


@pytest.mark.parametrize("kernel", ["v1"], indirect=True)
def test_a_bare_write_of_such_a_limit_throws_the_page_cache_away_on_v1(
    kernel: CgroupHost[Backend],
) -> None:
    group = kernel.group()
    worker = kernel.charge(group, anon=ANON, cache=CACHE)
    with pytest.raises(OSError, match="busy"):
        kernel.write_limit(group, 80 * MIB)
    assert cache_of(kernel, group) < CACHE * 0.01
    assert worker.alive()


@pytest.mark.parametrize("kernel", ["v2"], indirect=True)
def test_a_bare_write_of_such_a_limit_kills_on_v2(kernel: CgroupHost[Backend]) -> None:
    group = kernel.group()
    worker = kernel.charge(group, anon=ANON, cache=CACHE)
    kernel.write_limit(group, 80 * MIB)
    assert not worker.grow(0)
    assert kernel.backend.stat(group).events.oom_kill == 1


def test_a_shrink_below_what_can_be_reclaimed_stalls_and_moves_no_limit(story: Story) -> None:
    limit = story.limit
    done = shrink(story.start().client, wait=60, target_bytes="32M", set_max_bytes="32M")
    assert (done["state"], done["error"]["type"], done["error"]["errno"]) == (
        "failed",
        "/problems/shrink-stalled",
        "EBUSY",
    )
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


def test_a_daemon_that_is_killed_in_a_shrink_leaves_nothing_lowered_and_the_next_one_says_so(
    story: Story,
) -> None:
    limit, daemon = story.limit, story.start()
    began = shrink(
        daemon.client, target_bytes="128M", set_max_bytes="128M", max_bytes_per_second="8M"
    )
    wait_for_progress(daemon.client, began["id"])
    daemon.kill()
    assert story.limit == limit
    after = story.start().client
    known = [(row["id"], row["state"]) for row in after.get("/v1/shrinks").json()["items"]]
    assert known == [(began["id"], "interrupted")]
    assert story.limit == limit
    assert (
        story.usage > (ANON + CACHE) * 0.9
    )  # not to the page: a host with DAMON reclaims by itself
    assert shrink(after, wait=60, target_bytes="200M")["state"] == "succeeded"


def test_a_group_that_is_removed_in_a_shrink_is_gone_and_its_successor_is_not_touched(
    story: Story,
) -> None:
    client = story.start().client
    began = shrink(client, target_bytes="128M", max_bytes_per_second="8M")
    wait_for_progress(client, began["id"])
    story.worker.stop()
    story.host.backend.remove(story.group)
    successor = story.host.backend.make(story.group.path)
    story.host.charge(successor, cache=CACHE)
    done = wait_for(client, began["id"])
    assert (done["state"], done["error"]["type"]) == ("failed", "/problems/group-gone")
    assert story.host.backend.usage(successor) >= CACHE * 0.9
