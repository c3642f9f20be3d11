"""What wakes the daemon.

A bell, and a watch for each post, as many as there are descriptors for.
"""

import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from shrinkd.backends import Group
from shrinkd.policies.bindings import Key
from shrinkd.policies.notifier import Notifier
from shrinkd.policies.wakeups import Wakeups, Woken
from tests.policies.test_evaluator import HALF, ROOM, House
from tests.support.policy_samples import MIB
from tests.support.polling import until


class Watched:
    """Groups of which a watermark waits for 230 MiB, and the watches for that."""

    def __init__(self, *groups: str) -> None:
        self.house = House(dict.fromkeys(groups, HALF), ROOM)
        self.notifier = Notifier()
        self.wakeups = Wakeups(self.house.machine, self.notifier)

    def watch(self) -> None:
        self.house.tick()
        for binding in self.house.evaluator.bindings:
            self.wakeups.watch(binding)

    def fill(self, group: str) -> None:
        with self.house.machine.machine() as machine:
            machine.charge(machine.start(machine.cgroups[group]), "file", 140 * MIB // 4096)

    def empty(self, group: str) -> None:
        self.house.machine.reclaim(self.house.group(group), 140 * MIB)

    def close(self) -> None:
        self.wakeups.close()
        self.notifier.close()
        self.house.machine.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    with closing(Watched("web")) as watched:
        watched.watch()
        until(lambda: watched.wakeups.usage_watched)
        watched.wakeups.wait(None)  # the notification of the new watch
        assert watched.wakeups.read(()) == Woken((key(watched),))
        yield watched


def key(watched: Watched, group: str = "web") -> Key:
    return "room", watched.house.group(group).id


def test_what_a_post_waits_for_wakes_it(watched: Watched) -> None:
    assert watched.wakeups.wait(0) == []
    watched.fill("web")
    assert watched.wakeups.wait(None) == [key(watched)]
    assert watched.wakeups.read([key(watched)]) == Woken((key(watched),))
    assert (watched.wakeups.wait(0), watched.wakeups.read([key(watched)])) == ([], Woken())


def test_while_something_is_done_to_a_group_it_wakes_nobody_and_then_for_what_comes(
    watched: Watched,
) -> None:
    watched.wakeups.suspend(key(watched))
    watched.fill("web")
    assert watched.wakeups.wait(0) == []
    assert watched.wakeups.resume(key(watched)) == Woken((key(watched),))
    assert watched.wakeups.wait(0) == []
    watched.empty("web")
    assert watched.wakeups.wait(None) == [key(watched)]


def test_a_notification_ends_a_wait(watched: Watched) -> None:
    watched.notifier.notify()
    assert watched.wakeups.wait(None) == []


def test_limits_that_changed_are_handed_out_once_and_none_after_the_end(watched: Watched) -> None:
    for path in ("web", "db", "web"):
        watched.notifier.notify_limits(Group(path, 7))
    assert watched.wakeups.wait(None) == []
    assert watched.notifier.take_limits() == ["web", "db"]
    assert watched.notifier.take_limits() == []
    watched.wakeups.close()
    watched.notifier.close()
    watched.notifier.notify_limits(Group("web", 7))
    watched.notifier.notify()
    assert watched.notifier.take_limits() == []


def test_a_group_that_is_gone_is_told_once(watched: Watched) -> None:
    with watched.house.machine.machine() as machine:
        machine.remove_tree(machine.cgroups["web"])
    keys = watched.wakeups.wait(None)
    assert [watched.wakeups.read(keys) for _ in range(2)] == [
        Woken(removed=tuple(keys)),
        Woken(),
    ]
    assert watched.wakeups.usage_watched == set()


def test_a_binding_that_is_not_retained_wakes_nobody(watched: Watched) -> None:
    watched.wakeups.retain(frozenset())
    watched.fill("web")
    assert (watched.wakeups.wait(0), watched.wakeups.usage_watched) == ([], set())


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
        watched.watch()
        until(lambda: len(watched.wakeups.usage_watched) == 2)
        watched.watch()
        watched.wakeups.stop()
        assert len(watched.wakeups.usage_watched) == 2
