"""The locks of groups, with shrinks that are no more than what the locks see of one."""

import threading
from dataclasses import dataclass, field

import pytest

from shrinkd.backends import Group
from shrinkd.errors import GroupBusy, ShrinkdError, ShrinkInProgress
from shrinkd.groups.locks import GroupLocks

WEB, DB = Group("web", 1), Group("db", 2)


@dataclass
class Shrink:
    """A shrink that ends when it is killed, if it has the locks."""

    id: str
    group: Group = WEB
    policy: str | None = None
    state: str = "running"
    has_set_limit: bool = False
    locks: GroupLocks | None = None
    signals: list[ShrinkdError] = field(default_factory=list)

    def kill(self, signal: ShrinkdError) -> None:
        self.signals.append(signal)
        if self.locks:
            threading.Thread(target=self.locks.leave, args=(self,)).start()


def test_a_group_that_is_held_is_busy_and_others_are_free() -> None:
    locks = GroupLocks()
    with locks.hold(WEB):
        assert locks.busy() == {"web"}
        with pytest.raises(GroupBusy), locks.hold(WEB, "night"):
            pass
        with locks.hold(DB, "night"):
            assert locks.busy() == {"web", "db"}
    assert locks.busy() == set()


def test_a_shrink_occupies_its_group_until_it_leaves() -> None:
    locks, shrink = GroupLocks(), Shrink("a")
    with locks.admit(shrink):
        pass
    assert (locks.busy(), locks.manual_age(WEB)) == ({"web"}, 0)
    with pytest.raises(ShrinkInProgress) as refused, locks.hold(WEB):
        pass
    assert refused.value.members["shrink_id"] == "a"
    locks.leave(shrink)
    with locks.hold(WEB):
        pass


def test_a_shrink_whose_admission_fails_or_is_a_dry_run_occupies_nothing() -> None:
    locks = GroupLocks()
    with pytest.raises(ZeroDivisionError), locks.admit(Shrink("a")):
        raise ZeroDivisionError
    with locks.admit(Shrink("b"), dry_run=True):
        pass
    assert locks.busy() == set()


def test_a_callers_change_ends_a_policys_shrink_and_waits_for_its_end() -> None:
    locks = GroupLocks()
    shrink = Shrink("a", policy="room", locks=locks)
    with locks.admit(shrink):
        pass
    assert locks.has_policy_shrink(WEB)
    with locks.hold(WEB, dry_run=True):
        assert shrink.signals == []
    with locks.hold(WEB):
        assert (len(shrink.signals), locks.has_policy_shrink(WEB)) == (1, False)


def test_a_release_is_notified_where_limits_may_have_changed() -> None:
    notified: list[Group] = []
    locks = GroupLocks(notified.append)
    with locks.hold(WEB):
        assert notified == []
    with locks.hold(WEB, dry_run=True):
        pass
    for shrink in (Shrink("a", DB), Shrink("b", DB, has_set_limit=True)):
        with locks.admit(shrink):
            pass
        locks.leave(shrink)
    assert notified == [WEB, DB]
