"""The evaluator.

When each binding is evaluated, with what result, and that a failing one holds up no other.
"""

from datetime import timedelta
from typing import Any

import pytest

from shrinkd.backends import Group, Node
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.backends.simulator.controls import Fault, Scenario
from shrinkd.errors import KernelRefused
from shrinkd.policies import Outcome, Reason, Reclaim, Resize, Verdict
from shrinkd.policies.bindings import Key
from shrinkd.policies.evaluator import Evaluator
from shrinkd.policies.guards import Guards
from shrinkd.policies.policy import Policy, parse
from shrinkd.policies.records import Tick
from shrinkd.settings import Settings
from tests.support.policy_samples import DAWN, MIB

ROOM = {"name": "room", "kind": "watermark", "selector": {"parent": ""}, "floor": {"bytes": 0}}
KEEP = {
    "name": "keep",
    "kind": "limit",
    "selector": {"parent": ""},
    "spec": {"limits": {"max_bytes": "1G"}},
}
FULL = {"max_bytes": "256M", "memory": [{"kind": "file", "size_bytes": "250M"}]}
HALF = {"max_bytes": "256M", "memory": [{"kind": "file", "size_bytes": "100M"}]}


class House:
    """A machine whose time stands unless it is moved, and an evaluator over it."""

    def __init__(self, groups: dict[str, Any], *policies: dict[str, Any]) -> None:
        places = [{"path": path, **place} for path, place in groups.items()]
        self.machine = Simulator(
            Settings(), clock=lambda: 0.0, scenario=Scenario.model_validate({"groups": places})
        )
        self.watched: set[Key] = set()
        self.evaluator = Evaluator(
            self.machine, Guards(self.machine.has_swappiness), watched=self.watched
        )
        self.now = 0.0
        self.policies: list[tuple[Policy, int]] = []
        self.assign(*policies)

    def assign(self, *policies: dict[str, Any]) -> None:
        self.policies = [(parse(policy), 1) for policy in policies] or self.policies
        self.evaluator.assign(self.policies, self.machine.groups(), self.now)

    def tick(self, seconds: float = 0.0, busy: tuple[str, ...] = ()) -> Tick:
        self.now += seconds
        self.machine.time.advance(seconds)
        return self.evaluator.tick(self.now, DAWN + timedelta(seconds=self.now), busy)

    def group(self, path: str) -> Group:
        return self.machine.groups(path)[0]

    def uses(self, verb: str) -> int:
        # any verb is a key
        return self.machine.faults.uses().get(verb, 0)  # type: ignore[call-overload, no-any-return]


def verdicts(tick: Tick) -> dict[str, tuple[Verdict, Reason]]:
    return {record.group.path: (record.verdict, record.reason) for record in tick.records}


def test_each_selected_group_is_looked_at_and_what_is_wanted_is_granted() -> None:
    house = House({"web": FULL, "db": HALF, "inner/deep": FULL}, ROOM)
    tick = house.tick()
    assert verdicts(tick) == {
        "web": (Verdict.ACT, Reason.ABOVE_HIGH),
        "db": (Verdict.HOLD, Reason.BELOW_HIGH),
        "inner": (Verdict.HOLD, Reason.NO_LIMIT),
    }
    (action,) = tick.actions
    assert action.group == house.group("web")
    assert isinstance(action.ask, Reclaim)
    assert action.amount_bytes == 250 * MIB - int(action.target_bytes or 0)


def test_a_group_in_which_a_grant_is_carried_out_is_looked_at_when_that_ends_and_not_before() -> (
    None
):
    house = House({"web": FULL}, ROOM)
    (action,) = house.tick().actions
    assert house.tick(100).records == ()
    house.evaluator.finish(
        action.key, action.group, Outcome(action.amount_bytes, 0, 0.1, "EBUSY"), house.now
    )
    assert verdicts(house.tick()) == {"web": (Verdict.BACKOFF, Reason.LITTLE_FREED)}


def test_who_need_not_hurry_looks_again_in_its_own_time_when_its_grant_has_ended() -> None:
    house = House({"web": FULL}, KEEP)
    (action,) = house.tick().actions
    house.evaluator.finish(action.key, action.group, Outcome(0, 0, 0.1, "EBUSY"), house.now)
    assert house.tick(9).records == ()
    assert verdicts(house.tick(1)) == {"web": (Verdict.BACKOFF, Reason.LIMITS_DRIFTED)}


def test_a_policy_that_was_changed_in_its_pass_looks_when_that_ends() -> None:
    house = House({"web": FULL}, KEEP)
    (action,) = house.tick().actions
    house.assign(KEEP | {"priority": 7})
    assert house.tick(1).records == ()
    house.evaluator.finish(action.key, action.group, Outcome(0, 0, 0.1, None), house.now)
    assert len(house.tick().records) == 1


def test_a_group_that_goes_holds_up_no_other_and_one_that_comes_again_begins_anew() -> None:
    house = House({"web": FULL, "db": HALF}, ROOM)
    first = house.group("web")
    with house.machine.machine() as machine:
        machine.remove_tree(machine.cgroups["web"])
    assert verdicts(house.tick()) == {"db": (Verdict.HOLD, Reason.BELOW_HIGH)}
    again = house.machine.make("web")
    house.assign()
    assert [binding.groups for binding in house.evaluator.bindings.of_policy("room")] == [
        (house.group("db"),),
        (again,),
    ]
    assert first.id != again.id
    assert verdicts(house.tick()) == {"web": (Verdict.HOLD, Reason.NO_LIMIT)}


def test_a_group_that_cannot_be_read_rests_after_three_times_and_the_others_keep_their_ticks() -> (
    None
):
    house = House({"web": HALF, "db": HALF}, ROOM)
    for use in (1, 2, 3):
        house.machine.faults.plan(Fault(verb="stat", group="web", use=use, error="EIO"))
    seen = [verdicts(house.tick(61 if turn else 0)) for turn in range(4)]
    assert [sorted(turn) for turn in seen] == [["db", "web"]] * 4
    assert [turn["web"][1] for turn in seen] == [*[Reason.UNREADABLE] * 3, Reason.BELOW_HIGH]
    (tripped,) = [
        binding for binding in house.evaluator.bindings.of_policy("room") if binding.breaker.opened
    ]
    assert tripped.groups == (house.group("web"),)


def test_a_fault_of_ours_in_one_policy_is_logged_and_holds_up_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    house = House({"web": HALF}, ROOM, KEEP)
    (binding,) = house.evaluator.bindings.of_policy("room")
    binding.state = None  # which its kind never sees otherwise
    assert {record.policy: record.errno for record in house.tick().records} == {
        "room": "EIO",
        "keep": None,
    }
    assert "the policy room failed at 'web'" in caplog.text


def test_one_file_tells_of_a_group_that_stands_still_and_all_of_it_is_read_when_it_grows() -> None:
    house = House({"web": HALF}, ROOM)
    house.tick()
    reads = house.uses("stat")
    for _ in range(5):
        assert house.tick(5).records == ()
    assert house.uses("stat") == reads
    with house.machine.machine() as machine:
        machine.charge(machine.start(machine.cgroups["web"]), "file", 150 * MIB // 4096)
    assert verdicts(house.tick(5)) == {"web": (Verdict.ACT, Reason.ABOVE_HIGH)}


def test_a_group_that_is_watched_is_polled_seldom_and_looked_at_when_its_watch_fires() -> None:
    house = House({"web": HALF}, ROOM)
    house.tick()
    (binding,) = house.evaluator.bindings.of_policy("room")
    house.watched.add(binding.key)
    house.tick(5)
    assert house.evaluator.bindings.next_due_at() - house.now == 60
    house.evaluator.wake(binding.key, house.now)
    assert len(house.tick().records) == 1


def test_a_group_that_is_watched_is_polled_while_its_kernel_may_have_it_above_its_mark_still() -> (
    None
):
    house = House({"web": HALF}, ROOM)
    mark = int(256 * MIB * 0.9)
    with house.machine.machine() as machine:
        machine.charge(
            machine.start(machine.cgroups["web"]), "file", (mark - 100 * MIB) // 4096 - 10
        )
    house.tick()
    house.watched.add(house.evaluator.bindings.of_policy("room")[0].key)
    house.tick(5)
    assert house.evaluator.bindings.next_due_at() - house.now < 1


def test_where_we_change_limits_all_in_that_group_is_looked_at_at_once() -> None:
    house = House(
        {"web": HALF, "web/inner": HALF, "web2": HALF},
        ROOM,
        ROOM | {"name": "inner", "selector": {"parent": "web"}},
    )
    house.tick()
    house.evaluator.limits_changed("web", house.now)
    assert sorted(verdicts(house.tick())) == ["web", "web/inner"]


def test_what_became_of_a_pass_is_still_known_when_the_next_ask_is_refused() -> None:
    house = House({"web": FULL}, ROOM | {"spec": {"cooldown_seconds": 0}})
    (action,) = house.tick().actions
    house.evaluator.finish(
        action.key,
        action.group,
        Outcome(action.amount_bytes, action.amount_bytes // 2, 0.1, "ETIMEDOUT"),
        house.now,
    )
    assert verdicts(house.tick(busy=("web",))) == {"web": (Verdict.SUPERSEDED, Reason.CHAIN_BUSY)}
    (binding,) = house.evaluator.bindings.of_policy("room")
    assert binding.outcomes[action.group.id].freed_bytes == action.amount_bytes // 2
    assert len(house.tick(1).actions) == 1
    assert binding.outcomes == {}


def passed(house: House, *, freed_bytes: int, errname: str | None = None) -> Tick:
    """The look behind a pass of a group that somebody watches."""
    (action,) = house.tick().actions
    house.watched.add(action.key)
    house.machine.reclaim(action.group, freed_bytes)
    house.evaluator.wake(action.key, house.now)  # usage fell below high
    house.evaluator.finish(
        action.key, action.group, Outcome(action.amount_bytes, freed_bytes, 0.1, errname), house.now
    )
    return house.tick()


def test_behind_a_pass_that_came_to_its_end_one_file_is_read_and_the_watch_tells_of_the_next() -> (
    None
):
    house = House({"web": FULL}, ROOM)
    assert passed(house, freed_bytes=40 * MIB).records == ()
    assert house.evaluator.bindings.next_due_at() - house.now == 60
    with house.machine.machine() as machine:
        machine.charge(machine.start(machine.cgroups["web"]), "file", 30 * MIB // 4096)
    house.evaluator.wake(house.evaluator.bindings.of_policy("room")[0].key, house.now)
    (record,) = house.tick(0.5).records
    assert (record.verdict, record.signals["growth_bytes_per_second"]) == (Verdict.ACT, 60 * MIB)


@pytest.mark.parametrize(
    ("freed_bytes", "errname", "answer"),
    [
        (2 * MIB, None, (Verdict.ACT, Reason.ABOVE_HIGH)),
        (10 * MIB, "ETIMEDOUT", (Verdict.COOLDOWN, Reason.COOLING_DOWN)),
    ],
)
def test_behind_any_other_pass_there_is_a_look_at_once(
    freed_bytes: int, errname: str | None, answer: tuple[Verdict, Reason]
) -> None:
    assert verdicts(
        passed(House({"web": FULL}, ROOM), freed_bytes=freed_bytes, errname=errname)
    ) == {"web": answer}


def test_what_was_not_granted_was_not_asked_for() -> None:
    nightly = {
        "name": "nightly",
        "kind": "schedule",
        "selector": {"group": "web"},
        "floor": {"bytes": 0},
    }
    spec = {"cron": "1 0 * * *", "shrink": {"target_bytes": "64M"}}
    house = House({"web": FULL}, nightly | {"spec": spec})
    house.tick()
    assert verdicts(house.tick(60, busy=("web",))) == {
        "web": (Verdict.SUPERSEDED, Reason.CHAIN_BUSY)
    }
    assert verdicts(house.tick(10)) == {"web": (Verdict.ACT, Reason.DUE)}


def test_a_policy_that_only_observes_is_granted_nothing_and_goes_on_as_if_it_were() -> None:
    house = House({"web": FULL}, ROOM | {"mode": "observe"})
    tick = house.tick()
    assert (verdicts(tick), tick.actions) == (
        {"web": (Verdict.WOULD_ACT, Reason.ABOVE_HIGH)},
        (),
    )


def test_a_policy_that_is_disabled_or_gone_looks_no_more_and_one_that_is_changed_begins_anew() -> (
    None
):
    house = House({"web": HALF}, ROOM)
    house.tick()
    (before,) = house.evaluator.bindings.of_policy("room")
    house.assign(ROOM | {"priority": 7})
    (after,) = house.evaluator.bindings.of_policy("room")
    assert after is not before
    assert len(house.tick().records) == 1
    house.assign(ROOM | {"enabled": False})
    assert house.tick(100).records == ()


def test_what_a_policy_remembers_outlives_the_engine_and_only_news_are_handed_out() -> None:
    house = House({"web": HALF}, ROOM)
    house.tick()
    states = house.evaluator.bindings.changed_states()
    assert [key[0] for key in states] == ["room"]
    assert house.evaluator.bindings.changed_states() == {}
    again = Evaluator(house.machine, Guards(has_swappiness=False), states)
    again.assign(house.policies, house.machine.groups(), 0)
    (binding,) = again.bindings.of_policy("room")
    assert binding.state == house.evaluator.bindings.of_policy("room")[0].state


def test_a_policy_that_was_disabled_at_the_start_begins_anew_when_it_is_enabled() -> None:
    house = House({"web": HALF}, ROOM)
    house.tick()
    again = Evaluator(
        house.machine, Guards(has_swappiness=False), house.evaluator.bindings.changed_states()
    )
    for policies in ([], house.policies):
        again.assign(policies, house.machine.groups(), 0)
    (binding,) = again.bindings.of_policy("room")
    assert binding.state == binding.kind.state()


def test_a_state_of_another_version_is_left_aside() -> None:
    house = House({"web": HALF})
    evaluator = Evaluator(
        house.machine,
        Guards(has_swappiness=False),
        {("room", house.group("web").id): {"no_such_field": 1}},
    )
    evaluator.assign([(parse(ROOM), 1)], house.machine.groups(), 0)
    assert len(evaluator.tick(0, DAWN).records) == 1


def test_limits_that_drifted_are_granted_as_limits() -> None:
    house = House({"web": HALF}, KEEP)
    (action,) = house.tick().actions
    assert (action.ask, action.amount_bytes) == (Resize({"max_bytes": 1024 * MIB}), 0)


def test_an_evaluation_says_what_would_be_done_and_why_not_and_leaves_no_trace() -> None:
    house = House({"web": FULL, "db": HALF}, ROOM)
    before = house.evaluator.bindings.changed_states()
    (policy, generation) = house.policies[0]
    records = house.evaluator.preview(policy, generation, house.machine.groups(), house.now, DAWN)
    told = {record.group.path: (record.verdict, record.reason, record.mode) for record in records}
    assert told == {
        "web": (Verdict.WOULD_ACT, Reason.ABOVE_HIGH, "enforce"),
        "db": (Verdict.HOLD, Reason.BELOW_HIGH, "enforce"),
    }
    assert (before != {}, house.evaluator.bindings.changed_states()) == (True, {})
    assert len(house.tick().actions) == 1


def test_evaluations_of_a_group_that_cannot_be_read_trip_nothing() -> None:
    house = House({"web": FULL}, ROOM)
    for use in (1, 2, 3):
        house.machine.faults.plan(Fault(verb="stat", group="web", use=use, error="EIO"))
    for _ in range(3):
        house.evaluator.preview(*house.policies[0], house.machine.groups(), house.now, DAWN)
    assert verdicts(house.tick()) == {"web": (Verdict.ACT, Reason.ABOVE_HIGH)}


def test_a_policy_that_nobody_enforces_yet_can_be_evaluated() -> None:
    house = House({"web": FULL})
    records = house.evaluator.preview(parse(ROOM), 1, house.machine.groups(), 0, DAWN)
    assert [record.verdict for record in records] == [Verdict.WOULD_ACT]
    assert house.evaluator.bindings.of_policy("room") == []


def test_a_group_whose_one_file_cannot_be_read_holds_up_no_other() -> None:
    house = House({"web": HALF, "db": HALF}, ROOM)
    house.tick()
    house.machine.faults.plan(Fault(verb="usage", group="web", error="EIO"))
    assert verdicts(house.tick(5)) == {"web": (Verdict.HOLD, Reason.BELOW_HIGH)}
    house.tick(60)
    assert {binding.read_at for binding in house.evaluator.bindings.of_policy("room")} == {
        house.now
    }


class Forgetful(Simulator):
    """A machine that cannot say what it is, once."""

    fails = True

    def node(self) -> Node:
        if self.fails:
            self.fails = False
            raise KernelRefused("It cannot be read.", errno="EIO")
        return super().node()


def test_what_was_due_when_the_host_could_not_be_read_is_still_due() -> None:
    house = House({"web": FULL}, ROOM)
    evaluator = Evaluator(
        Forgetful(Settings(), scenario=house.machine.scenario), Guards(has_swappiness=False)
    )
    evaluator.assign(house.policies, house.machine.groups(), 0)
    with pytest.raises(KernelRefused):
        evaluator.tick(0, DAWN)
    assert evaluator.bindings.next_due_at() == 0


def test_a_policy_that_went_and_came_again_remembers_nothing_of_an_earlier_life() -> None:
    house = House({"web": HALF}, ROOM)
    key = ("room", house.group("web").id)
    again = Evaluator(house.machine, Guards(has_swappiness=False), {key: {"growth": 7.0}})
    for policies, growth in ([(parse(ROOM), 1)], 7.0), ([], None), ([(parse(ROOM), 1)], 0.0):
        again.assign(policies, house.machine.groups(), 0)
        binding = again.bindings.get(key)
        assert (binding and binding.state.growth) == growth
