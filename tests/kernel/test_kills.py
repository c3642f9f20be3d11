"""Cancel shrinks and kill daemons a hundred times each on a real controller: no limit is wrong.

A right limit is the old or the new one, as the daemon answered if it did, and usage is not above
it.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shrinkd.backends import Backend
from shrinkd.errors import ShrinkFinished
from shrinkd.events.bus import discard
from shrinkd.groups.limit_journal import LimitJournal
from shrinkd.groups.limits import GroupLimits
from shrinkd.groups.locks import GroupLocks
from shrinkd.settings import Settings
from shrinkd.shrinks.job import State
from shrinkd.shrinks.queue import ShrinkQueue
from shrinkd.shrinks.run import Request
from shrinkd.sizes import page_floor
from shrinkd.storage import Store
from tests.backends.hosts import MIB
from tests.support.cgroup_host import CgroupHost
from tests.support.killable_daemon import KillableDaemon

pytestmark = pytest.mark.long

ROUNDS = 100
OLD_LIMIT, ANON, FULL, TARGET = 256 * MIB, 8 * MIB, 32 * MIB, 16 * MIB
HEADROOMS = (64 << 10, -MIB, MIB, 4 * MIB)
"""Distances of a maximum from usage: close to it, below it, and two far above."""
ENDLESS = 1 << 40

Asked = tuple[str, str, Any]
"""Method, path and body of a request."""


class Scene:
    """A group `web` with a process that owns 8 MiB and one that reads page cache.

    The reader stops at 32 MiB, or goes on.
    """

    def __init__(self, kernel: CgroupHost[Backend]) -> None:
        self.kernel = kernel
        root = kernel.group()
        self.root = str(Path(kernel.backend.node().root, root.path))
        self.group = kernel.backend.make(f"{root.path}/web")
        self._owner = kernel.charge(self.group, anon=ANON)
        self._reader = kernel.charge(self.group)
        self._reader.keep_reading(ENDLESS)

    @property
    def usage(self) -> int:
        return self.kernel.backend.usage(self.group)

    @property
    def limit(self) -> int:
        return int(self.kernel.limit(self.group))

    def reset(self, *, goes_on: bool) -> None:
        self.kernel.write_limit(self.group, OLD_LIMIT)
        while self.usage > FULL:
            self.kernel.backend.reclaim(self.group, self.usage - FULL)
        self._reader.resume()
        while self.usage < FULL:
            pass
        if not goes_on:
            self._reader.pause()

    def stand_still(self) -> None:
        """Stop all charges, so that a wrong state stays wrong."""
        assert self._reader.pause()
        assert self._owner.alive()


@pytest.fixture
def scene(kernel: CgroupHost[Backend]) -> Scene:
    return Scene(kernel)


@pytest.fixture
def jobs(scene: Scene, tmp_path: Path) -> Iterator[ShrinkQueue]:
    store = Store(f"sqlite:///{tmp_path}/jobs.db")
    store.open()
    backend = scene.kernel.backend
    journal = LimitJournal(backend, store.limit_intents)
    limits = GroupLimits(backend, journal, GroupLocks(), discard)
    jobs = ShrinkQueue(store.shrinks, limits, discard, 2)
    yield jobs
    jobs.close()
    store.close()


@pytest.fixture
def killable(scene: Scene, tmp_path: Path) -> Iterator[KillableDaemon]:
    database = f"sqlite:///{tmp_path}/killable.db"
    killable = KillableDaemon(
        Settings.model_validate(
            {
                "backend": scene.kernel.backend.name,
                "cgroup_root": scene.root,
                "database_url": database,
            }
        )
    )
    yield killable
    killable.close()


def a_patch(scene: Scene, headroom: int) -> tuple[int, Asked]:
    """Return a limit and the request that sets it."""
    limit = page_floor(scene.usage) + headroom
    return limit, ("PATCH", "/v1/groups/web/limits", {"max_bytes": limit})


def a_shrink(_scene: Scene, _headroom: int) -> tuple[int, Asked]:
    return TARGET, (
        "POST",
        "/v1/groups/web/shrinks",
        {"target_bytes": TARGET, "set_max_bytes": TARGET, "timeout_seconds": 1},
    )


def test_a_shrink_that_is_cancelled_at_any_moment_has_set_its_limit_or_left_it(
    scene: Scene, jobs: ShrinkQueue
) -> None:
    chance = random.Random(20080718)
    states = set()
    longest = None
    for _ in range(ROUNDS):
        scene.reset(goes_on=chance.random() < 0.5 and longest is not None)
        began = time.perf_counter()
        job = jobs.submit(
            scene.group, Request(timeout_seconds=60, target_bytes=TARGET, set_max_bytes=TARGET)
        )
        with suppress(TimeoutError):
            job.finished.result(longest and longest * chance.random())
        with suppress(ShrinkFinished):
            jobs.cancel(job.id)
        job.finished.result()
        longest = longest or time.perf_counter() - began
        scene.stand_still()
        assert scene.limit == (TARGET if job.state is State.SUCCEEDED else OLD_LIMIT)
        assert scene.usage <= scene.limit
        states.add(job.state)
    assert State.CANCELLED in states


def measure(
    scene: Scene, killable: KillableDaemon, make: Callable[[Scene, int], tuple[int, Asked]]
) -> tuple[float, int]:
    """Measure a request that is not killed: in seconds, and in executed lines."""
    scene.reset(goes_on=False)
    killable.begin()
    began = time.perf_counter()
    killable.ask(*make(scene, HEADROOMS[0])[1])
    seconds = time.perf_counter() - began
    killable.kill()
    scene.reset(goes_on=False)
    killable.begin()
    counted = killable.ask(*make(scene, HEADROOMS[0])[1], lines=-1)
    killable.kill()
    assert counted
    return seconds, counted.lines


def test_a_daemon_that_is_killed_at_any_moment_leaves_the_old_limit_or_the_new_one(
    scene: Scene, killable: KillableDaemon
) -> None:
    chance = random.Random(20080718)
    requests = [(make, *measure(scene, killable, make)) for make in (a_patch, a_shrink)]
    seen = set(killable.begin())
    for number in range(ROUNDS):
        make, seconds, lines = requests[number % 2]
        scene.reset(goes_on=chance.random() < 0.5)
        limit, asked = make(scene, chance.choice(HEADROOMS))
        moment = chance.random() * 1.1
        if chance.random() < 0.5:
            answer = killable.ask(*asked, seconds=moment * seconds)
        else:
            answer = killable.ask(*asked, lines=int(moment * lines) + 1)
        answer = killable.kill() or answer
        scene.stand_still()
        states = killable.begin()
        assert scene.limit in (OLD_LIMIT, limit)
        assert scene.usage <= scene.limit
        assert all(State(state).done for state in states)
        if answer:
            is_set = answer.status < 300 and answer.body.get("state", "succeeded") == "succeeded"
            assert scene.limit == (limit if is_set else OLD_LIMIT), answer
        seen.update(states)
    assert "interrupted" in seen
