"""Changes of limits, by each way that leads to one: the events tell what the kernel holds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shrinkd.backends import Group, LimitName
from shrinkd.errors import LimitBelowUsage, PreconditionFailed, UnsupportedLimit
from shrinkd.events.log import EventType
from shrinkd.groups.limits import Actor
from shrinkd.settings import Settings
from shrinkd.shrinks.run import Request
from shrinkd.sizes import PAGE_BYTES
from tests.support.event_recorder import EventRecorder
from tests.support.live_server import Live
from tests.support.scripted_simulator import MIB, Stage

BEFORE: dict[LimitName, int | None] = {"max_bytes": 64 * MIB, "swap_max_bytes": 16 * MIB}


class Scene:
    """A daemon on a v1 machine with a group of 4 MiB, and the events that it publishes."""

    def __init__(self, live: Live, stage: Stage) -> None:
        self.live, self.stage = live, stage
        self.group: Group = stage.group("group", anon=4 * MIB)
        stage.simulator.set_limits(self.group, BEFORE)
        self.heard = EventRecorder()
        live.parts.bus.subscribe_events(self.heard)

    def changes(self) -> list[dict[str, Any]]:
        """The data of each event `limits.changed`."""
        told = [each for each in self.heard.all if each[0] == EventType.LIMITS_CHANGED]
        assert {path for _, path, _ in told} <= {"group"}
        return [data for _, _, data in told]

    def held(self) -> dict[str, int | None]:
        limits = self.stage.simulator.stat(self.group).limits
        return {"max_bytes": limits.max_bytes, "swap_max_bytes": limits.swap_max_bytes}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    stage = Stage()
    settings = Settings(
        backend="simulator", scenario="empty", database_url=f"sqlite:///{tmp_path}/shrinkd.db"
    )
    with Live(settings, stage.make_backend) as live:
        yield Scene(live, stage)


def by_patch(scene: Scene, max_bytes: int) -> dict[str, Any]:
    address = "/v1/groups/group/limits"
    scene.live.client.patch(address, json={"max_bytes": max_bytes}).raise_for_status()
    return {}


def by_batch(scene: Scene, max_bytes: int) -> dict[str, Any]:
    items = [{"group": "group", "patch": {"max_bytes": max_bytes}}]
    answer = scene.live.client.post("/v1/limits/batch", json={"items": items})
    assert [item["status"] for item in answer.json()["items"]] == [200]
    return {}


def by_shrink(scene: Scene, max_bytes: int) -> dict[str, Any]:
    request = {"target_bytes": max_bytes, "set_max_bytes": max_bytes}
    answer = scene.live.client.post(
        "/v1/groups/group/shrinks", json=request, headers={"Prefer": "wait=60"}
    )
    assert answer.json()["state"] == "succeeded"
    return {"policy": None, "shrink_id": answer.json()["id"]}


def by_a_policys_shrink(scene: Scene, max_bytes: int) -> dict[str, Any]:
    request = Request(60, target_bytes=max_bytes, set_max_bytes=max_bytes)
    job = scene.live.parts.jobs.submit(scene.group, request, policy="night")
    job.finished.result(60)
    return {"policy": "night", "shrink_id": job.id}


def by_policy(scene: Scene, max_bytes: int) -> dict[str, Any]:
    scene.live.parts.limits.change_limits(
        scene.group, {"max_bytes": max_bytes}, Actor(policy="night")
    )
    return {"policy": "night"}


WAYS = pytest.mark.parametrize(
    "change", [by_patch, by_batch, by_shrink, by_a_policys_shrink, by_policy]
)
Change = Callable[[Scene, int], dict[str, Any]]


@WAYS
def test_the_event_of_a_change_has_every_limit_that_moved_as_the_kernel_holds_it(
    scene: Scene, change: Change
) -> None:
    actor = change(scene, 32 * MIB + PAGE_BYTES - 1)
    # v1 limits memory and swap together: what the maximum loses, swap gains
    moved = {"max_bytes": 32 * MIB, "swap_max_bytes": 48 * MIB}
    assert (scene.held(), scene.changes()) == (moved, [moved | actor])


@WAYS
def test_a_change_that_moves_nothing_publishes_nothing(scene: Scene, change: Change) -> None:
    change(scene, 64 * MIB + PAGE_BYTES - 1)
    assert (scene.held(), scene.changes()) == (BEFORE, [])


def test_a_change_that_is_refused_or_a_dry_run_publishes_nothing(scene: Scene) -> None:
    def refuse(_: object) -> None:
        raise PreconditionFailed("no")

    limits, group = scene.live.parts.limits, scene.group
    with pytest.raises(LimitBelowUsage):
        limits.change_limits(group, {"max_bytes": MIB})
    with pytest.raises(UnsupportedLimit):
        limits.change_limits(group, {"high_bytes": MIB}, Actor(policy="night"))
    with pytest.raises(PreconditionFailed):
        limits.change_limits(group, {"max_bytes": 32 * MIB}, precondition=refuse)
    limits.change_limits(group, {"max_bytes": 32 * MIB}, dry_run=True)
    assert (scene.held(), scene.changes()) == (BEFORE, [])


def test_a_shrink_that_fails_to_set_its_limit_publishes_none(scene: Scene) -> None:
    request = Request(60, target_bytes=MIB, set_max_bytes=MIB)  # anonymous memory without swap
    job = scene.live.parts.jobs.submit(scene.group, request)
    job.finished.result(60)
    assert (str(job.state), scene.held(), scene.changes()) == ("failed", BEFORE, [])


def test_the_limits_of_a_new_group_are_in_the_event_that_it_was_made(scene: Scene) -> None:
    new = {"path": "new", "limits": {"max_bytes": 32 * MIB + 1}}
    scene.live.client.post("/v1/groups", json=new).raise_for_status()
    assert scene.heard.all == [("group.made", "new", {"max_bytes": 32 * MIB})]
