"""The engine.

Who is looked at when, what comes of it, and that one group or policy that fails holds up no other.
"""

from datetime import timedelta
from typing import Any

import pytest

from shrinkd.backends import Group, Node
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.backends.simulator.controls import Fault, Scenario
from shrinkd.errors import KernelRefused
from shrinkd.policies import Outcome, Reason, Reclaim, Resize, Verdict
from shrinkd.policies.evaluator import Evaluator
from shrinkd.policies.guards import Guards
from shrinkd.policies.policy import Policy, parse
from shrinkd.policies.records import Looked
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
    """A machine whose time stands unless it is moved, and an engine over it."""

    def __init__(self, groups: dict[str, Any], *policies: dict[str, Any]) -> None:
        places = [{"path": path, **place} for path, place in groups.items()]
        self.machine = Simulator(
            Settings(), clock=lambda: 0.0, scenario=Scenario.model_validate({"groups": places})
        )
        self.engine = Evaluator(self.machine, Guards(self.machine.has_swappiness))
        self.now = 0.0
        self.policies: list[tuple[Policy, int]] = []
        self.assign(*policies)

    def assign(self, *policies: dict[str, Any]) -> None:
        self.policies = [(parse(policy), 1) for policy in policies] or self.policies
        self.engine.assign(self.policies, self.machine.groups(), self.now)

    def look(self, seconds: float = 0.0, busy: tuple[str, ...] = ()) -> Looked:
        self.now += seconds
        self.machine.time.advance(seconds)
        return self.engine.look(self.now, DAWN + timedelta(seconds=self.now), busy)

    def group(self, path: str) -> Group:
        return self.machine.groups(path)[0]

    def uses(self, verb: str) -> int:
        # any verb is a key
        return self.machine.faults.uses().get(verb, 0)  # type: ignore[call-overload, no-any-return]


def verdicts(looked: Looked) -> dict[str, tuple[Verdict, Reason]]:
    return {record.group.path: (record.verdict, record.reason) for record in looked.records}


def test_each_selected_group_is_looked_at_and_what_is_wanted_is_granted() -> None:
    house = House({"web": FULL, "db": HALF, "inner/deep": FULL}, ROOM)
    looked = house.look()
    assert verdicts(looked) == {
        "web": (Verdict.ACT, Reason.ABOVE_HIGH),
        "db": (Verdict.HOLD, Reason.BELOW_HIGH),
        "inner": (Verdict.HOLD, Reason.NO_LIMIT),
    }
    (grant,) = looked.grants
    assert grant.group == house.group("web")
    assert isinstance(grant.ask, Reclaim)
    assert grant.amount_bytes == 250 * MIB - int(grant.target_bytes or 0)


def test_a_group_in_which_a_grant_is_carried_out_is_looked_at_when_that_ends_and_not_before() -> (
    None
):
    house = House({"web": FULL}, ROOM)
    (grant,) = house.look().grants
    assert house.look(100).records == ()
    house.engine.finish(
        grant.key, grant.group, Outcome(grant.amount_bytes, 0, 0.1, "EBUSY"), house.now
    )
    assert verdicts(house.look()) == {"web": (Verdict.BACKOFF, Reason.LITTLE_FREED)}


def test_who_need_not_hurry_looks_again_in_its_own_time_when_its_grant_has_ended() -> None:
    house = House({"web": FULL}, KEEP)
    (grant,) = house.look().grants
    house.engine.finish(grant.key, grant.group, Outcome(0, 0, 0.1, "EBUSY"), house.now)
    assert house.look(9).records == ()
    assert verdicts(house.look(1)) == {"web": (Verdict.BACKOFF, Reason.LIMITS_DRIFTED)}


def test_a_policy_that_was_changed_in_its_pass_looks_when_that_ends() -> None:
    house = House({"web": FULL}, KEEP)
    (grant,) = house.look().grants
    house.assign(KEEP | {"priority": 7})
    assert house.look(1).records == ()
    house.engine.finish(grant.key, grant.group, Outcome(0, 0, 0.1, None), house.now)
    assert len(house.look().records) == 1


def test_a_group_that_goes_holds_up_no_other_and_one_that_comes_again_begins_anew() -> None:
    house = House({"web": FULL, "db": HALF}, ROOM)
    first = house.group("web")
    with house.machine.machine() as machine:
        machine.remove_tree(machine.cgroups["web"])
    assert verdicts(house.look()) == {"db": (Verdict.HOLD, Reason.BELOW_HIGH)}
    again = house.machine.make("web")
    house.assign()
    assert [binding.groups for binding in house.engine.bindings("room")] == [
        (house.group("db"),),
        (again,),
    ]
    assert first.id != again.id
    assert verdicts(house.look()) == {"web": (Verdict.HOLD, Reason.NO_LIMIT)}


def test_a_group_that_cannot_be_read_rests_after_three_times_and_the_others_keep_their_ticks() -> (
    None
):
    house = House({"web": HALF, "db": HALF}, ROOM)
    for use in (1, 2, 3):
        house.machine.faults.plan(Fault(verb="stat", group="web", use=use, error="EIO"))
    seen = [verdicts(house.look(61 if turn else 0)) for turn in range(4)]
    assert [sorted(turn) for turn in seen] == [["db", "web"]] * 4
    assert [turn["web"][1] for turn in seen] == [*[Reason.UNREADABLE] * 3, Reason.BELOW_HIGH]
    (tripped,) = [binding for binding in house.engine.bindings("room") if binding.breaker.opened]
    assert tripped.groups == (house.group("web"),)


def test_a_fault_of_ours_in_one_policy_is_logged_and_holds_up_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    house = House({"web": HALF}, ROOM, KEEP)
    (binding,) = house.engine.bindings("room")
    binding.state = None  # which its kind never sees otherwise
    assert {record.policy: record.errno for record in house.look().records} == {
        "room": "EIO",
        "keep": None,
    }
    assert "the policy room failed at 'web'" in caplog.text


def test_one_file_tells_of_a_group_that_stands_still_and_all_of_it_is_read_when_it_grows() -> None:
    house = House({"web": HALF}, ROOM)
    house.look()
    reads = house.uses("stat")
    for _ in range(5):
        assert house.look(5).records == ()
    assert house.uses("stat") == reads
    with house.machine.machine() as machine:
        machine.charge(machine.start(machine.cgroups["web"]), "file", 150 * MIB // 4096)
    assert verdicts(house.look(5)) == {"web": (Verdict.ACT, Reason.ABOVE_HIGH)}


def test_a_group_that_is_watched_is_polled_seldom_and_looked_at_when_its_watch_fires() -> None:
    house = House({"web": HALF}, ROOM)
    house.look()
    (binding,) = house.engine.bindings("room")
    house.engine.armed.add(binding.key)
    house.look(5)
    assert house.engine.next_look() - house.now == 60
    house.engine.wake(binding.key, house.now)
    assert len(house.look().records) == 1


def test_a_group_that_is_watched_is_polled_while_its_kernel_may_have_it_above_its_mark_still() -> (
    None
):
    house = House({"web": HALF}, ROOM)
    mark = int(256 * MIB * 0.9)
    with house.machine.machine() as machine:
        machine.charge(
            machine.start(machine.cgroups["web"]), "file", (mark - 100 * MIB) // 4096 - 10
        )
    house.look()
    house.engine.armed.add(house.engine.bindings("room")[0].key)
    house.look(5)
    assert house.engine.next_look() - house.now < 1


def test_where_we_change_limits_all_in_that_group_is_looked_at_at_once() -> None:
    house = House(
        {"web": HALF, "web/inner": HALF, "web2": HALF},
        ROOM,
        ROOM | {"name": "inner", "selector": {"parent": "web"}},
    )
    house.look()
    house.engine.limits_moved("web", house.now)
    assert sorted(verdicts(house.look())) == ["web", "web/inner"]


def test_what_became_of_a_pass_is_still_known_when_the_next_ask_is_refused() -> None:
    house = House({"web": FULL}, ROOM | {"spec": {"cooldown_seconds": 0}})
    (grant,) = house.look().grants
    house.engine.finish(
        grant.key,
        grant.group,
        Outcome(grant.amount_bytes, grant.amount_bytes // 2, 0.1, "ETIMEDOUT"),
        house.now,
    )
    assert verdicts(house.look(busy=("web",))) == {"web": (Verdict.SUPERSEDED, Reason.CHAIN_BUSY)}
    (binding,) = house.engine.bindings("room")
    assert binding.outcomes[grant.group.id].freed_bytes == grant.amount_bytes // 2
    assert len(house.look(1).grants) == 1
    assert binding.outcomes == {}


def passed(house: House, *, freed_bytes: int, errname: str | None = None) -> Looked:
    """The look behind a pass of a group that somebody watches."""
    (grant,) = house.look().grants
    house.engine.armed.add(grant.key)
    house.machine.reclaim(grant.group, freed_bytes)
    house.engine.wake(grant.key, house.now)  # usage fell below high
    house.engine.finish(
        grant.key, grant.group, Outcome(grant.amount_bytes, freed_bytes, 0.1, errname), house.now
    )
    return house.look()


def test_behind_a_pass_that_came_to_its_end_one_file_is_read_and_the_watch_tells_of_the_next() -> (
    None
):
    house = House({"web": FULL}, ROOM)
    assert passed(house, freed_bytes=40 * MIB).records == ()
    assert house.engine.next_look() - house.now == 60
    with house.machine.machine() as machine:
        machine.charge(machine.start(machine.cgroups["web"]), "file", 30 * MIB // 4096)
    house.engine.wake(house.engine.bindings("room")[0].key, house.now)
    (record,) = house.look(0.5).records
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
    house.look()
    assert verdicts(house.look(60, busy=("web",))) == {
        "web": (Verdict.SUPERSEDED, Reason.CHAIN_BUSY)
    }
    assert verdicts(house.look(10)) == {"web": (Verdict.ACT, Reason.DUE)}


def test_a_policy_that_only_observes_is_granted_nothing_and_goes_on_as_if_it_were() -> None:
    house = House({"web": FULL}, ROOM | {"mode": "observe"})
    looked = house.look()
    assert (verdicts(looked), looked.grants) == (
        {"web": (Verdict.WOULD_ACT, Reason.ABOVE_HIGH)},
        (),
    )


def test_a_policy_that_is_disabled_or_gone_looks_no_more_and_one_that_is_changed_begins_anew() -> (
    None
):
    house = House({"web": HALF}, ROOM)
    house.look()
    (before,) = house.engine.bindings("room")
    house.assign(ROOM | {"priority": 7})
    (after,) = house.engine.bindings("room")
    assert after is not before
    assert len(house.look().records) == 1
    house.assign(ROOM | {"enabled": False})
    assert house.look(100).records == ()


def test_what_a_policy_remembers_outlives_the_engine_and_only_news_are_handed_out() -> None:
    house = House({"web": HALF}, ROOM)
    house.look()
    states = house.engine.states()
    assert [key[0] for key in states] == ["room"]
    assert house.engine.states() == {}
    again = Evaluator(house.machine, Guards(has_swappiness=False), states)
    again.assign(house.policies, house.machine.groups(), 0)
    (binding,) = again.bindings("room")
    assert binding.state == house.engine.bindings("room")[0].state


def test_a_policy_that_was_disabled_at_the_start_begins_anew_when_it_is_enabled() -> None:
    house = House({"web": HALF}, ROOM)
    house.look()
    again = Evaluator(house.machine, Guards(has_swappiness=False), house.engine.states())
    for policies in ([], house.policies):
        again.assign(policies, house.machine.groups(), 0)
    (binding,) = again.bindings("room")
    assert binding.state == binding.kind.state()


def test_a_state_of_another_version_is_left_aside() -> None:
    house = House({"web": HALF})
    engine = Evaluator(
        house.machine,
        Guards(has_swappiness=False),
        {("room", house.group("web").id): {"no_such_field": 1}},
    )
    engine.assign([(parse(ROOM), 1)], house.machine.groups(), 0)
    assert len(engine.look(0, DAWN).records) == 1


def test_limits_that_drifted_are_granted_as_limits() -> None:
    house = House({"web": HALF}, KEEP)
    (grant,) = house.look().grants
    assert (grant.ask, grant.amount_bytes) == (Resize({"max_bytes": 1024 * MIB}), 0)


def test_an_evaluation_says_what_would_be_done_and_why_not_and_leaves_no_trace() -> None:
    house = House({"web": FULL, "db": HALF}, ROOM)
    before = house.engine.states()
    (policy, generation) = house.policies[0]
    records = house.engine.evaluate(policy, generation, house.machine.groups(), house.now, DAWN)
    told = {record.group.path: (record.verdict, record.reason, record.mode) for record in records}
    assert told == {
        "web": (Verdict.WOULD_ACT, Reason.ABOVE_HIGH, "enforce"),
        "db": (Verdict.HOLD, Reason.BELOW_HIGH, "enforce"),
    }
    assert (before != {}, house.engine.states()) == (True, {})
    assert len(house.look().grants) == 1


def test_evaluations_of_a_group_that_cannot_be_read_trip_nothing() -> None:
    house = House({"web": FULL}, ROOM)
    for use in (1, 2, 3):
        house.machine.faults.plan(Fault(verb="stat", group="web", use=use, error="EIO"))
    for _ in range(3):
        house.engine.evaluate(*house.policies[0], house.machine.groups(), house.now, DAWN)
    assert verdicts(house.look()) == {"web": (Verdict.ACT, Reason.ABOVE_HIGH)}


def test_a_policy_that_nobody_enforces_yet_can_be_evaluated() -> None:
    house = House({"web": FULL})
    records = house.engine.evaluate(parse(ROOM), 1, house.machine.groups(), 0, DAWN)
    assert [record.verdict for record in records] == [Verdict.WOULD_ACT]
    assert house.engine.bindings("room") == []


def test_a_group_whose_one_file_cannot_be_read_holds_up_no_other() -> None:
    house = House({"web": HALF, "db": HALF}, ROOM)
    house.look()
    house.machine.faults.plan(Fault(verb="usage", group="web", error="EIO"))
    assert verdicts(house.look(5)) == {"web": (Verdict.HOLD, Reason.BELOW_HIGH)}
    house.look(60)
    assert {binding.read_at for binding in house.engine.bindings("room")} == {house.now}


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
    engine = Evaluator(
        Forgetful(Settings(), scenario=house.machine.scenario), Guards(has_swappiness=False)
    )
    engine.assign(house.policies, house.machine.groups(), 0)
    with pytest.raises(KernelRefused):
        engine.look(0, DAWN)
    assert engine.next_look() == 0


def test_a_policy_that_went_and_came_again_remembers_nothing_of_an_earlier_life() -> None:
    house = House({"web": HALF}, ROOM)
    key = ("room", house.group("web").id)
    again = Evaluator(house.machine, Guards(has_swappiness=False), {key: {"growth": 7.0}})
    for policies, growth in ([(parse(ROOM), 1)], 7.0), ([], None), ([(parse(ROOM), 1)], 0.0):
        again.assign(policies, house.machine.groups(), 0)
        binding = again.binding(key)
        assert (binding and binding.state.growth) == growth
