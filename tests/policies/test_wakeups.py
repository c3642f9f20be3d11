"""What wakes the daemon.

A bell, and a watch for each post, as many as there are descriptors for.
"""

import resource
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from shrinkd.policies.arbiter import Key
from shrinkd.policies.evaluator import Evaluator
from shrinkd.policies.wakeups import Wakeups
from tests.policies.test_evaluator import HALF, ROOM, House
from tests.support.policy_samples import MIB
from tests.support.polling import until


class Watched:
    """Groups of which a watermark waits for 230 MiB, and what wakes it there."""

    def __init__(self, *groups: str) -> None:
        self.house = House(dict.fromkeys(groups, HALF), ROOM)
        self.engine: Evaluator = self.house.engine
        self.lock = threading.Lock()
        self.wakes = Wakeups(self.house.machine, self.engine, lambda: self.house.now, self.lock)

    def arm(self) -> None:
        with self.lock:
            self.house.look()
            for binding in self.engine.bindings("room"):
                self.wakes.arm(binding)

    def fill(self, group: str) -> None:
        with self.house.machine.machine() as machine:
            machine.charge(machine.start(machine.cgroups[group]), "file", 140 * MIB // 4096)

    def empty(self, group: str) -> None:
        self.house.machine.reclaim(self.house.group(group), 140 * MIB)

    def close(self) -> None:
        self.wakes.close()
        self.house.machine.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    with closing(Watched("web")) as watched:
        watched.arm()
        until(lambda: watched.engine.armed)
        watched.wakes.wait(0)  # that the watch is there
        yield watched


def key(watched: Watched, group: str = "web") -> Key:
    return "room", watched.house.group(group).id


def test_what_a_post_waits_for_wakes_it(watched: Watched) -> None:
    watched.house.look()
    assert watched.wakes.wait(0) == []
    watched.fill("web")
    assert watched.wakes.wait(None) == [key(watched)]
    assert watched.wakes.hear(key(watched), 7.0)
    assert (watched.engine.next_look(), watched.wakes.wait(0)) == (7.0, [])


def test_while_something_is_done_to_a_group_it_wakes_nobody_and_then_for_what_comes(
    watched: Watched,
) -> None:
    watched.wakes.mute(key(watched))
    watched.fill("web")
    assert watched.wakes.wait(0) == []
    assert watched.wakes.unmute(key(watched), 0.0)
    assert watched.wakes.wait(0) == []
    watched.empty("web")
    assert watched.wakes.wait(None) == [key(watched)]


def test_a_bell_ends_a_wait(watched: Watched) -> None:
    watched.wakes.ring()
    assert watched.wakes.wait(None) == []


def test_a_group_that_is_gone_is_told_once(watched: Watched) -> None:
    with watched.house.machine.machine() as machine:
        machine.remove_tree(machine.cgroups["web"])
    ((name, group_id),) = watched.wakes.wait(None)
    assert [watched.wakes.hear((name, group_id), 0.0) for _ in range(2)] == [False, True]
    assert watched.engine.armed == set()


@contextmanager
def files(most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_descriptors_are_few_the_others_are_polled() -> None:
    with files(48), closing(Watched("a", "b", "c")) as watched:
        watched.arm()
        until(lambda: len(watched.engine.armed) == 2)
        watched.arm()
        watched.wakes.stop()
        assert len(watched.engine.armed) == 2
