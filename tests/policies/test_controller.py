"""The policy daemon on a simulated machine.

What it does is an ordinary shrink, it gives way, and nothing that fails or hangs holds it up.

A pass hangs here until the test lets go; everything else takes as long as it takes, and is asked
for until it is so.
"""

import errno
import math
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from shrinkd.backends import Group, MemStat, Node
from shrinkd.backends.protection import OwnGroup
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.backends.simulator.controls import Fault, Scenario
from shrinkd.errors import LimitBelowUsage
from shrinkd.events.bus import EventBus
from shrinkd.events.log import EventType
from shrinkd.groups.limit_journal import LimitJournal
from shrinkd.groups.limits import GroupLimits
from shrinkd.groups.locks import GroupLocks
from shrinkd.policies import Reason, Verdict
from shrinkd.policies.catalog import PolicyCatalog
from shrinkd.policies.controller import Clock, PolicyController, Scope
from shrinkd.policies.policy import parse
from shrinkd.settings import Settings
from shrinkd.shrinks.queue import ShrinkQueue
from shrinkd.shrinks.run import Request
from shrinkd.sizes import PAGE_BYTES
from shrinkd.storage import DecisionRow, ShrinkRow, Store
from tests.support.event_recorder import EventRecorder
from tests.support.locked_database import locked
from tests.support.policy_samples import MIB
from tests.support.polling import until

GIB = 1 << 30
HIGH, LOW = int(7.2 * GIB), int(6.8 * GIB)
"""Of 8 GiB; between the two are more passes than one."""
FULL = {"max_bytes": "8G", "memory": [{"kind": "file", "size_bytes": "7900M"}]}
HALF = {"max_bytes": "8G", "memory": [{"kind": "file", "size_bytes": "4G"}]}
SHARE = {
    "name": "share",
    "kind": "balance",
    "selector": {"group": "*"},
    "spec": {"budget": "4G", "release": "3G"},
}
ROOM = {"name": "room", "kind": "watermark", "selector": {"group": "*"}, "floor": {"bytes": 0}}
KEEP = {
    "name": "keep",
    "kind": "limit",
    "selector": {"group": "*"},
    "spec": {"limits": {"max_bytes": "1G"}},
}
_HANGS_SECONDS = 60


def differs(told: Callable[[], object], before: object) -> bool:
    return told() != before


class Machine(Simulator):
    """A simulator with a daemon in one of its groups, on a host that may be short of something."""

    own_path: str | None = None

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.shortages: list[OSError] = []
        self.meanwhile: list[Callable[[], object]] = []
        """What happens behind a reading, once each."""

    def stat(self, group: Group, *, raw: bool = False) -> MemStat:
        found = super().stat(group, raw=raw)
        while self.meanwhile:
            self.meanwhile.pop()()
        return found

    def node(self) -> Node:
        if self.shortages:
            raise self.shortages.pop()
        return super().node()

    def own_group(self) -> OwnGroup:
        if self.shortages:
            raise self.shortages.pop()
        return OwnGroup(self.own_path)


class House:
    """A machine, a database and all that is between them.

    Ended and begun again it is as after a restart, on the same machine.
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        path: Path,
        groups: Mapping[str, Any],
        own_path: str | None = None,
        subtrees: tuple[str, ...] = (),
        profile: str = "v1",
        record_readings: Callable[[Mapping[int, MemStat]], None] = lambda _: None,
    ) -> None:
        places = [{"path": group, **place} for group, place in groups.items()]
        self.path, self.subtrees = path, subtrees
        self.record_readings = record_readings
        self.let_go = threading.Event()
        scenario = Scenario.model_validate(
            {"groups": places, "memory_bytes": "128G", "profile": profile}
        )
        self.machine = Machine(Settings(), sleep=self._sleep, scenario=scenario)
        self.machine.own_path = own_path
        self.store = Store(f"sqlite:///{path}?timeout=0.05")
        self.store.open()
        self.begin()

    def _sleep(self, seconds: float) -> None:
        if seconds == _HANGS_SECONDS:
            self.let_go.wait()

    def begin(self) -> None:
        backend, store, clock = self.machine, self.store, self.machine.time
        self.bus = bus = EventBus()
        bus.readings.subscribe(self.record_readings)
        self.locks = GroupLocks(bus.limits.publish)
        journal = LimitJournal(backend, store.limit_intents)
        limits = GroupLimits(backend, journal, self.locks, bus.publish)
        self.jobs = ShrinkQueue(store.shrinks, limits, bus.publish, max_running=2)
        self.policies = PolicyCatalog(backend, store.policies, bus, self.subtrees)
        self.daemon = PolicyController(
            limits,
            store,
            self.policies,
            self.jobs,
            Scope(Clock(clock.now, lambda: clock.speed), self.subtrees),
            bus,
        )
        self.daemon.start()

    def end(self) -> None:
        self.daemon.stop()
        self.let_go.set()
        self.jobs.close()
        self.daemon.close()

    def close(self) -> None:
        self.end()
        self.store.close()
        self.machine.close()

    def put(self, *policies: Mapping[str, Any], **changes: Any) -> None:
        for policy in policies:
            self.policies.put(parse({**policy, **changes}), lambda _: None)

    def delete(self, name: str) -> None:
        self.policies.delete(name, lambda _: None)

    def fault(self, verb: str, group: str, **what: Any) -> None:
        self.machine.faults.plan(
            Fault.model_validate({"verb": verb, "group": group or None, **what})
        )

    def hang(self, *groups: str) -> None:
        for group in groups:
            self.fault("reclaim", group, delay_seconds=_HANGS_SECONDS)

    def let_go_of(self, shrink_id: str) -> None:
        """Let the pass go on once its shrink was told to end."""
        job = self.jobs.job(shrink_id)
        assert job
        until(job.run.signal_pending)
        self.let_go.set()

    def group(self, path: str) -> Group:
        return self.machine.groups(path)[0]

    def usage(self, path: str) -> int:
        return self.machine.usage(self.group(path))

    def limit(self, path: str) -> int | None:
        return self.machine.stat(self.group(path)).limits.max_bytes

    def fill(self, path: str, size: int) -> None:
        with self.machine.machine() as machine:
            machine.charge(machine.start(machine.cgroups[path]), "file", size // PAGE_BYTES)

    def shrinks(self, group: str | None = None, *states: str) -> list[ShrinkRow]:
        """The newest first."""
        return self.jobs.shrinks(limit=100, before=None, states=states, group=group, since=None)

    def running(self, group: str) -> ShrinkRow:
        (running, *_) = until(lambda: self.shrinks(group, "running"))
        return cast("ShrinkRow", running)

    def last(self, policy: str = "room") -> tuple[Verdict, Reason] | None:
        last = self.daemon.status(policy).last_decision
        return (last.verdict, last.reason) if last else None

    def looks(self) -> int:
        return self.machine.faults.uses()["stat"]

    def rows(self, **of: Any) -> list[DecisionRow]:
        """The decisions in the database, the newest first."""
        return [*self.store.decisions.list(limit=1000, **of)]


Build = Callable[..., House]


# What it does, it does as everybody does


def test_a_pass_is_a_shrink_like_any_other_with_the_name_of_its_policy(
    build: Build,
) -> None:
    house = build({"web": FULL, "db": HALF})
    house.hang("web")
    house.put(ROOM)
    running = house.running("web")
    assert (running.policy, running.request["reason"]) == ("room", "the policy room")
    assert house.jobs.shrink(running.id).state == "running"
    house.let_go.set()
    until(lambda: house.usage("web") < LOW)
    done = until(lambda: house.shrinks("web", "succeeded"))[0]
    assert (done.id, done.policy) == (running.id, "room")
    assert house.jobs.shrink(running.id).progress["usage_bytes"] < LOW
    assert house.shrinks("db") == []


def test_what_was_done_is_in_the_database_with_its_decision(build: Build) -> None:
    house = build({"web": FULL})
    house.put(ROOM)
    (act,) = until(lambda: [row for row in house.rows(policy="room") if row.shrink_id])
    assert (act.verdict, act.reason, act.errno, act.group_path) == (
        "act",
        "above_high",
        None,
        "web",
    )
    assert (
        act.freed_bytes
        == until(lambda: house.store.shrinks.list(limit=9))[0].progress["reclaimed_bytes"]
    )
    assert house.store.shrinks.get(act.shrink_id).policy == "room"


def test_a_shrink_of_a_policy_can_be_cancelled(build: Build) -> None:
    house = build({"web": FULL})
    house.hang("web")
    house.put(ROOM)
    shrink_id = house.running("web").id
    assert house.jobs.cancel(shrink_id).state == "cancelling"
    house.let_go.set()
    (row,) = until(lambda: [row for row in house.rows(policy="room") if row.shrink_id == shrink_id])
    assert (row.errno, house.jobs.shrink(shrink_id).state) == ("EINTR", "cancelled")


def test_in_observe_mode_nothing_is_done(build: Build) -> None:
    house = build({"web": FULL})
    house.put(ROOM, mode="observe")
    until(lambda: house.last() == (Verdict.WOULD_ACT, Reason.ABOVE_HIGH))
    assert (house.shrinks(), house.usage("web") > HIGH) == ([], True)


def test_what_is_made_of_a_policy_is_told_while_a_look_hangs(build: Build) -> None:
    house = build({"web": HALF, "db": HALF})
    house.put(ROOM)
    until(house.last)
    looks = house.looks()
    house.fault("stat", "web", delay_seconds=_HANGS_SECONDS)
    house.machine.time.run(60)
    until(lambda: not house.machine.faults.planned())
    assert house.daemon.status("room").matched_groups == 2
    house.let_go.set()
    until(lambda: house.looks() > looks + 1)


# People go first


def test_a_callers_own_shrink_ends_that_of_a_policy_and_the_policies_of_the_group_wait_behind_it(
    build: Build,
) -> None:
    house = build({"web": FULL, "db": FULL})
    house.machine.time.run(20)  # past the policy's own rest behind a pass that was cut short
    house.hang("web")
    house.put(ROOM)
    policys = house.running("web")
    mine = []
    caller = threading.Thread(
        target=lambda: mine.append(
            house.jobs.submit(house.group("web"), Request(60, target_bytes=7500 * MIB))
        )
    )
    caller.start()
    house.let_go_of(policys.id)
    caller.join()
    mine[0].finished.result()
    assert [(row.id, row.state) for row in house.shrinks("web")] == [
        (mine[0].id, "succeeded"),
        (policys.id, "cancelled"),
    ]
    until(
        lambda: any(
            row.reason == "manual_change" and row.verdict == "vetoed"
            for row in house.rows(group_path="web")
        )
    )
    until(lambda: house.usage("db") < LOW)
    assert (house.usage("web") > HIGH, len(house.shrinks("web"))) == (True, 2)


def test_a_callers_own_change_of_limits_ends_the_shrink_of_a_policy_and_has_the_group_to_itself(
    build: Build,
) -> None:
    house = build({"web": FULL})
    house.machine.time.run(20)  # past the policy's own rest behind a pass that was cut short
    house.hang("web")
    house.put(ROOM)
    threading.Thread(target=house.let_go_of, args=(house.running("web").id,)).start()
    with house.locks.hold(house.group("web")):
        assert [row.state for row in house.shrinks("web")] == ["cancelled"]
        usage = house.usage("web")
        until(lambda: house.last() == (Verdict.VETOED, Reason.MANUAL_CHANGE))
        assert house.usage("web") == usage
    until(lambda: any(row.reason == "manual_change" for row in house.rows(policy="room")))
    assert len(house.shrinks("web")) == 1


def test_a_group_that_a_caller_has_just_made_has_its_policies_at_once(build: Build) -> None:
    house = build({"web": HALF})
    house.put(ROOM)
    new = house.machine.make("new")
    with house.locks.hold(new, is_new=True):
        house.machine.set_limits(new, {"max_bytes": 8 * GIB})
    house.fill("new", 7900 * MIB)
    until(lambda: house.usage("new") < LOW)


def test_policies_do_not_keep_away_behind_a_change_that_was_refused(build: Build) -> None:
    house = build({"web": HALF})
    with suppress(LimitBelowUsage), house.locks.hold(house.group("web")):
        raise LimitBelowUsage("refused")
    assert house.locks.manual_age(house.group("web")) == math.inf
    with house.locks.hold(house.group("web")):
        pass
    with suppress(LimitBelowUsage), house.locks.hold(house.group("web")):
        assert house.locks.manual_age(house.group("web")) == 0
        raise LimitBelowUsage("refused")
    assert 0 < house.locks.manual_age(house.group("web")) < math.inf


def test_a_trial_of_a_callers_change_leaves_the_policies_of_the_group_at_their_work(
    build: Build,
) -> None:
    house = build({"web": FULL})
    house.hang("web")
    house.put(ROOM)
    running = house.running("web").id
    with house.locks.hold(house.group("web"), dry_run=True):
        assert house.locks.manual_age(house.group("web")) == math.inf
    house.let_go.set()
    until(lambda: house.usage("web") < LOW)
    assert [(row.id, row.state) for row in house.shrinks("web")] == [(running, "succeeded")]


def test_a_policy_does_not_touch_a_group_that_a_caller_shrinks(build: Build) -> None:
    house = build({"web": FULL})
    house.hang("web")
    mine = house.jobs.submit(house.group("web"), Request(60, target_bytes=GIB))
    house.put(ROOM)
    until(lambda: house.last() == (Verdict.VETOED, Reason.MANUAL_CHANGE))
    house.let_go.set()
    mine.finished.result()
    assert [row.policy for row in house.shrinks("web")] == [None]


# Groups come and go


def test_a_group_that_appears_has_its_policies_at_once(build: Build) -> None:
    house = build({"web": HALF})
    house.put(ROOM)
    until(lambda: house.last() == (Verdict.HOLD, Reason.BELOW_HIGH))
    house.machine.set_limits(house.machine.make("new"), {"max_bytes": 8 * GIB})
    house.fill("new", 7900 * MIB)
    until(lambda: house.usage("new") < LOW)
    assert house.daemon.status("room").matched_groups == 2


def test_a_group_that_goes_is_left_and_one_that_comes_in_its_place_is_another(build: Build) -> None:
    house = build({"web": HALF, "db": HALF})
    house.put(ROOM)
    until(lambda: house.daemon.status("room").matched_groups == 2)
    with house.machine.machine() as machine:
        machine.remove_tree(machine.cgroups["web"])
    until(lambda: house.daemon.status("room").matched_groups == 1)
    house.machine.set_limits(house.machine.make("web"), {"max_bytes": 8 * GIB})
    house.fill("web", 7900 * MIB)
    until(lambda: house.usage("web") < LOW)


def test_a_group_that_vanishes_under_a_pass_ends_that_pass_and_no_other(build: Build) -> None:
    house = build({"web": FULL, "db": FULL})
    house.fault("reclaim", "web", vanishes=True)
    house.put(ROOM)
    until(lambda: house.usage("db") < LOW)
    (failed,) = until(lambda: house.shrinks("web", "failed"))
    assert failed.error["kind"] == "GroupGone"
    until(lambda: house.daemon.status("room").matched_groups == 1)


def test_neither_its_own_group_nor_those_around_it_nor_what_is_not_its_to_change_is_ever_touched(
    build: Build,
) -> None:
    groups = dict.fromkeys(
        ["system/shrinkd", "system/other", "system/shrinkd/inner", "elsewhere/web"], FULL
    )
    house = build(groups, own_path="system/shrinkd", subtrees=("system", "system/**"))
    for number, pattern in enumerate(["*", "*/*", "*/*/*"]):
        house.put(
            ROOM
            | {
                "name": f"room-{number}",
                "selector": {"group": pattern},
                "spec": {"high": "5G", "low": "4G"},
            }
        )
    until(
        lambda: (
            house.usage("system/other") < 4 * GIB and house.usage("system/shrinkd/inner") < 4 * GIB
        )
    )
    assert {row.group_path for row in house.shrinks()} == {
        "system/other",
        "system/shrinkd/inner",
    }
    assert [house.daemon.status(f"room-{number}").matched_groups for number in range(3)] == [
        0,
        1,
        1,
    ]


# Policies come, change and go


def test_a_policy_that_is_disabled_in_its_pass_begins_no_other(build: Build) -> None:
    house = build({"web": FULL})
    house.hang("web")
    house.put(ROOM)
    house.running("web")
    house.put(ROOM, enabled=False)
    until(lambda: house.daemon.status("room").matched_groups == 0)
    house.let_go.set()
    until(lambda: house.shrinks("web", "succeeded"))
    house.fill("web", 1024 * MIB)
    (row,) = until(lambda: [row for row in house.rows(policy="room") if row.shrink_id])
    assert (row.freed_bytes > 0, len(house.shrinks("web")), house.usage("web") > HIGH) == (
        True,
        1,
        True,
    )


def test_a_policy_that_is_changed_in_its_pass_goes_on_as_the_new_one_when_that_ends(
    build: Build,
) -> None:
    house = build({"web": FULL})
    house.hang("web")
    house.put(ROOM)
    house.running("web")
    house.put(ROOM, spec={"high": "50%", "low": "40%"})
    until(lambda: house.daemon.status("room").observed_generation == 2)
    assert len(house.shrinks("web")) == 1
    house.let_go.set()
    until(lambda: house.usage("web") < int(3.2 * GIB) + MIB)
    assert [
        row.generation for row in until(lambda: house.rows(policy="room", verdict="act")[:2])
    ] == [2, 1]


def test_a_policy_that_is_deleted_and_made_anew_begins_anew(build: Build) -> None:
    house = build({"web": FULL})
    house.fault("reclaim", "web", error="EBUSY")
    house.put(ROOM)
    until(lambda: house.last() == (Verdict.BACKOFF, Reason.LITTLE_FREED))
    house.end()
    house.begin()
    until(lambda: house.last() == (Verdict.BACKOFF, Reason.LITTLE_FREED))
    house.delete("room")
    until(lambda: house.last() is None)
    house.put(ROOM)
    until(lambda: house.usage("web") < LOW)


def test_a_failing_policy_a_hanging_group_and_a_deleted_policy_hold_up_no_other(
    build: Build,
) -> None:
    house = build(dict.fromkeys(["bad", "hung", "doomed", "web"], FULL))
    for use in range(
        2, 52
    ):  # the first is that of the policy, which looks whether it can be written
        house.fault("stat", "bad", use=use, error="EIO")
    house.hang("hung", "doomed")
    house.put(ROOM, selector={"group": "[bhw]*"})
    house.put(ROOM, name="goes", selector={"group": "doomed"})
    house.running("hung")
    doomed = house.running("doomed").id
    house.delete("goes")
    for _ in range(5):
        until(lambda: house.usage("web") < LOW)
        assert not house.let_go.is_set()
        house.fill("web", HIGH - house.usage("web") + 64 * MIB)
    until(lambda: house.usage("web") < LOW)
    assert {row.group_path for row in house.shrinks(None, "running")} == {"hung", "doomed"}
    assert (house.shrinks("bad"), house.usage("bad") > HIGH) == ([], True)
    house.let_go.set()
    until(lambda: house.usage("hung") < LOW)
    (row,) = until(lambda: [row for row in house.rows(policy="goes") if row.shrink_id])
    assert row.shrink_id == doomed


def test_a_tree_that_cannot_be_walked_is_walked_again(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    house = build({"web": FULL})
    web = house.group("web")
    house.fault(
        "groups", "", use=2, error="EIO"
    )  # the first is that of the policy, which looks whether it can be written
    house.put(ROOM)
    until(lambda: house.machine.usage(web) < LOW)
    assert "will be again" in caplog.text


def test_an_amount_is_not_taken_from_below_the_floor_where_usage_has_fallen_since_it_was_granted(
    build: Build,
) -> None:
    house = build({"web": FULL})
    house.put(SHARE, floor={"bytes": "7818M"}, enabled=False)
    web = house.group("web")
    house.machine.meanwhile.append(lambda: house.machine.reclaim(web, 80 * MIB))
    house.policies.switch("share", enabled=True)
    until(lambda: house.shrinks("web", "succeeded"))
    assert house.usage("web") > 7817 * MIB


def test_a_group_whose_limit_is_lowered_here_is_looked_at_at_once(build: Build) -> None:
    house = build({"web": HALF})
    house.machine.time.run(0)
    house.put(ROOM)
    until(
        lambda: house.looks() == 3
    )  # that of who wrote the policy, the first, and one when the watch was there
    with house.locks.hold(house.group("web"), "another"):
        house.machine.set_limits(house.group("web"), {"max_bytes": 4 * GIB + 64 * MIB})
    until(lambda: house.shrinks("web", "succeeded"))


def test_what_nobody_expected_of_the_host_ends_no_policy(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    house = build({"web": FULL})
    web = house.group("web")
    house.put(ROOM, enabled=False)
    house.machine.shortages.append(OSError(errno.EMFILE, "Too many open files"))
    house.policies.switch("room", enabled=True)
    until(lambda: house.machine.usage(web) < LOW)
    assert "Too many open files" in caplog.text


def test_a_watch_for_the_limit_alone_leaves_usage_to_the_poll(build: Build) -> None:
    house = build({"web": {"max_bytes": "8G"}}, profile="v2")
    house.machine.time.run(0)
    house.put(ROOM)
    until(
        lambda: house.looks() == 3
    )  # that of who wrote the policy, the first, and one when the watch was there
    house.fill("web", 7900 * MIB)
    house.machine.time.advance(6)
    until(house.shrinks)


# Limits and switches


def test_a_wanted_maximum_below_usage_is_shrunk_to_first_and_then_set(build: Build) -> None:
    house = build({"web": HALF, "db": {"max_bytes": "2G"}})
    house.put(KEEP)
    until(lambda: house.limit("web") == house.limit("db") == GIB)
    (shrink,) = house.shrinks()
    assert (shrink.group_path, shrink.policy, shrink.request["set_max_bytes"]) == (
        "web",
        "keep",
        GIB,
    )
    (row,) = until(lambda: [row for row in house.rows(group_path="web") if row.shrink_id])
    assert (row.shrink_id, row.verdict, row.reason, row.errno) == (
        shrink.id,
        "act",
        "limits_drifted",
        None,
    )
    assert row.freed_bytes > 2 * GIB


@pytest.mark.long
def test_a_wanted_maximum_that_cannot_be_reached_is_not_set_and_nobody_dies_for_it(
    build: Build,
) -> None:
    house = build(
        {"web": {"max_bytes": "8G", "memory": [{"kind": "unevictable", "size_bytes": "4G"}]}}
    )
    house.put(KEEP)
    until(lambda: house.last("keep") == (Verdict.BACKOFF, Reason.LIMITS_DRIFTED))
    (row,) = until(lambda: [row for row in house.rows(verdict="act") if row.shrink_id])
    assert (row.errno, house.jobs.shrink(row.shrink_id).state) == ("EBUSY", "failed")
    assert (house.limit("web"), house.usage("web") >= 4 * GIB) == (8 * GIB, True)
    assert house.machine.stat(house.group("web")).events.oom_kill == 0


def test_the_limits_that_a_policy_sets_are_published_once_as_the_kernel_holds_them(
    build: Build,
) -> None:
    house = build({"web": {"max_bytes": "8G"}, "db": {"max_bytes": GIB}})
    house.bus.subscribe_events(heard := EventRecorder())
    house.put(KEEP, spec={"limits": {"max_bytes": GIB + 1}})
    until(lambda: house.limit("web") == GIB and not house.locks.busy())
    assert [each for each in heard.all if each[0] == EventType.LIMITS_CHANGED] == [
        ("limits.changed", "web", {"max_bytes": GIB, "policy": "keep"})
    ]


def test_a_caller_who_ends_the_shrink_for_a_limit_is_no_error_of_the_policy(build: Build) -> None:
    house = build({"web": HALF})
    house.hang("web")
    house.put(KEEP)
    house.jobs.cancel(house.running("web").id)
    house.let_go.set()
    (row,) = until(lambda: [row for row in house.rows(verdict="act") if row.shrink_id])
    assert (row.errno, house.limit("web")) == ("EINTR", 8 * GIB)


def test_shrinks_for_limits_that_hang_hold_up_neither_the_limits_of_others_nor_what_is_written(
    build: Build,
) -> None:
    hung = [f"hung-{number}" for number in range(6)]
    house = build(dict.fromkeys(hung, HALF))
    house.hang(*hung)
    house.put(KEEP)
    until(lambda: len(house.shrinks(None, "running")) == len(hung))
    house.machine.make("quick")
    until(lambda: house.limit("quick") == GIB)
    until(lambda: house.rows(group_path="quick"))
    assert len(house.shrinks(None, "running")) == len(hung)


@pytest.mark.long
def test_a_schedule_that_was_due_while_nobody_looked_switches_a_policy_once(build: Build) -> None:
    house = build({"web": FULL})
    switch = {
        "cron": "* * * * *",
        "switch": {"policy": "room", "enabled": True},
        "misfire": "run_once",
        "grace_seconds": 1,
    }
    house.put(ROOM, enabled=False)
    house.end()
    done_at = int((datetime.now(UTC) - timedelta(hours=1)).timestamp() * 1e6)
    house.store.policy_states.save(
        house.machine.node().boot_id, {("nightly", house.group("web").id): {"done_at": done_at}}
    )
    house.begin()
    house.put({"name": "nightly", "kind": "schedule", "selector": {"group": "web"}, "spec": switch})
    until(lambda: house.usage("web") < LOW)
    assert house.policies.get("room").policy.enabled
    assert until(lambda: [row.errno for row in house.rows(policy="nightly", verdict="act")]) == [
        None
    ]


# What lasts, and what does not get in the way


def test_what_a_policy_remembers_outlives_a_restart(build: Build) -> None:
    house = build({"web": FULL})
    house.fault("reclaim", "web", error="EBUSY")
    house.put(ROOM)
    until(lambda: house.last() == (Verdict.BACKOFF, Reason.LITTLE_FREED))
    before = house.shrinks()
    house.end()
    house.begin()
    until(lambda: house.last() == (Verdict.BACKOFF, Reason.LITTLE_FREED))
    assert house.shrinks() == before
    house.machine.time.advance(10)
    until(lambda: house.usage("web") < LOW)


def test_what_was_decided_is_in_the_database_after_a_stop_and_counts_whole(build: Build) -> None:
    house = build({"web": HALF})
    house.put(
        ROOM | {"kind": "limit", "spec": {"limits": {"max_bytes": "8G"}, "interval_seconds": 1}}
    )
    for _ in range(5):
        looks = house.looks()
        house.machine.time.advance(1)
        until(partial(differs, house.looks, looks))
    house.end()
    assert sum(row.times for row in house.rows(policy="room")) >= 5
    house.begin()


def test_a_database_that_is_locked_delays_the_rows_and_holds_up_no_look_and_no_shrink(
    build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house = build({"web": HALF})
    house.put(ROOM)
    until(lambda: house.last() == (Verdict.HOLD, Reason.BELOW_HIGH))
    with locked(tmp_path / "shrinkd.db"):
        for _ in range(3):
            house.fill("web", HIGH - house.usage("web") + 64 * MIB)
            until(lambda: house.usage("web") < LOW)
        until(lambda: "not written down yet" in caplog.text)
        until(lambda: [row.state for row in house.shrinks("web")] == ["succeeded"] * 3)
        assert house.store.shrinks.list(limit=9) == []
    until(lambda: len([row for row in house.rows(verdict="act") if row.shrink_id]) == 3)
    until(lambda: len(house.store.shrinks.list(limit=9)) == 3)


def test_what_was_not_written_when_the_last_policy_went_is_written_when_the_database_is_back(
    build: Build, tmp_path: Path
) -> None:
    house = build({"web": FULL})
    house.hang("web")
    house.put(ROOM)
    house.running("web")
    house.delete("room")
    until(lambda: house.daemon.status("room").matched_groups == 0)
    with locked(tmp_path / "shrinkd.db"):
        house.let_go.set()
        until(lambda: house.shrinks("web", "succeeded"))
    until(lambda: house.store.shrinks.list(limit=9))
    assert until(
        lambda: [(row.freed_bytes or 0) > 0 for row in house.rows(policy="room") if row.shrink_id]
    ) == [True]


def test_a_stop_waits_for_no_pass_and_a_close_for_no_database(build: Build, tmp_path: Path) -> None:
    house = build({"web": FULL})
    house.hang("web")
    house.put(ROOM)
    shrink_id = house.running("web").id
    house.daemon.stop()
    assert (house.daemon.is_alive, house.jobs.shrink(shrink_id).state) == (False, "running")
    with locked(tmp_path / "shrinkd.db"):
        house.end()
    assert house.limit("web") == 8 * GIB
    house.begin()
    until(lambda: house.usage("web") < LOW)


def test_a_pass_that_ends_behind_a_stop_brings_no_look(build: Build) -> None:
    looks: list[object] = []
    house = build({"web": FULL}, record_readings=looks.append)
    house.hang("web")
    house.put(ROOM)
    house.running("web")
    house.daemon.stop()
    looks.clear()
    house.let_go.set()
    until(lambda: not house.locks.busy())
    house.end()
    assert (looks, [(row.freed_bytes or 0) > 0 for row in house.rows(policy="room")]) == (
        [],
        [True],
    )
    house.begin()


def test_a_policy_that_is_changed_when_the_daemon_is_closed_wakes_nobody(build: Build) -> None:
    house = build({"web": FULL})
    house.end()
    house.put(ROOM)
    assert (house.usage("web") > HIGH, house.shrinks()) == (True, [])
    house.begin()
    until(lambda: house.usage("web") < LOW)


def test_a_daemon_that_is_never_started_leaves_nothing_open(tmp_path: Path) -> None:
    machine = Simulator(Settings(scenario="empty"))
    with closing(Store(f"sqlite:///{tmp_path}/shrinkd.db")) as store:
        store.open()
        bus = EventBus()
        journal = LimitJournal(machine, store.limit_intents)
        limits = GroupLimits(machine, journal, GroupLocks(), bus.publish)
        jobs = ShrinkQueue(store.shrinks, limits, bus.publish, 1)
        policies = PolicyCatalog(machine, store.policies, bus)
        daemon = PolicyController(limits, store, policies, jobs, Scope(), bus)
        jobs.close()
        daemon.close()
    assert not daemon.is_alive
