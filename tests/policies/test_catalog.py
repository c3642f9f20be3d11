"""Policies in memory.

What the database has and nothing else, one change at a time, and no two that would be in each
other's way.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shrinkd.backends import MemStat
from shrinkd.errors import (
    InvalidRequest,
    PolicyConflict,
    PolicyExists,
    PolicyNotFound,
    PolicyUnreadable,
    PreconditionFailed,
    StoreUnavailable,
)
from shrinkd.events.bus import EventBus
from shrinkd.events.log import EventType
from shrinkd.policies import Kind, kinds
from shrinkd.policies.catalog import PolicyCatalog, StoredPolicy
from shrinkd.policies.kinds.limit import KeepLimits
from shrinkd.policies.policy import Policy, parse
from shrinkd.settings import Settings
from shrinkd.storage import Store
from tests.storage.test_store import policy as stored_policy
from tests.support.event_recorder import EventRecorder
from tests.support.locked_database import locked
from tests.support.races import together
from tests.support.scripted_simulator import Stage


def policy(name: str = "a", group: str = "web", **changes: Any) -> Policy:
    return parse(
        {
            "name": name,
            "kind": "limit",
            "selector": {"group": group},
            "spec": {"limits": {"max_bytes": "8G"}},
        }
        | changes,
    )


def whatever_is_there(_: StoredPolicy | None) -> None:
    """No condition."""


def only_a_new_one(before: StoredPolicy | None) -> None:
    if before is not None:
        raise PolicyExists("It is there.")


def only_generation(number: int, before: StoredPolicy | None) -> None:
    if before is None or before.generation != number:
        raise PreconditionFailed("It has changed.")


@dataclass
class House:
    """A stage, a store and the policies between them."""

    path: Path
    stage: Stage
    store: Store
    policies: PolicyCatalog
    bus: EventBus
    changes: list[int] = field(default_factory=list)
    """How many policies there were, at each change that was told."""

    def put(
        self,
        policy: Policy,
        check: Callable[[StoredPolicy | None], None] = whatever_is_there,
        **how: bool,
    ) -> StoredPolicy:
        return self.policies.put(policy, check, **how)

    def names(self) -> list[str]:
        return [kept.policy.name for kept in self.policies.all()]

    def again(self, known: dict[str, Kind] | None = None, *subtrees: str) -> PolicyCatalog:
        """The policies as the next start finds them."""
        return PolicyCatalog(self.stage.simulator, self.store.policies, EventBus(), subtrees, known)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    stage, path = Stage(), tmp_path / "shrinkd.db"
    with (
        closing(stage.make_backend(Settings(scenario="demo"))),
        closing(Store(f"sqlite:///{path}?timeout=0.05")) as store,
    ):
        store.open()
        bus = EventBus()
        house = House(path, stage, store, PolicyCatalog(stage.simulator, store.policies, bus), bus)
        bus.policies.subscribe(lambda: house.changes.append(len(house.policies.all())))
        yield house


def test_what_is_put_is_there_and_still_is_after_a_restart(house: House) -> None:
    kept = house.put(policy())
    assert (kept.policy, kept.generation, kept.created_at) == (policy(), 1, kept.updated_at)
    assert house.policies.get("a") == kept
    assert house.policies.all() == house.again().all() == [kept]


def test_policies_are_listed_by_name(house: House) -> None:
    for name, group in [("b", "web"), ("c", "db"), ("a", "cache")]:
        house.put(policy(name, group))
    assert house.names() == [kept.policy.name for kept in house.again().all()] == ["a", "b", "c"]


def test_what_was_left_out_of_a_policy_is_kept_as_left_out(house: House) -> None:
    house.put(policy())
    (row,) = house.store.policies.list()
    assert row.body == {
        "name": "a",
        "kind": "limit",
        "selector": {"group": "web"},
        "spec": {"limits": {"max_bytes": 2**33}},
    }
    assert (row.kind, row.priority, row.enabled) == ("limit", 100, True)


def test_a_change_is_the_next_generation(house: House) -> None:
    first = house.put(policy())
    second = house.put(policy(priority=7))
    assert (second.generation, second.created_at, second.policy.priority) == (
        2,
        first.created_at,
        7,
    )
    assert second.updated_at > first.updated_at
    assert house.again().all() == [second]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"priority": 100},
        {"enabled": True, "floor": {"bytes": "64M"}},
        {"swap": "allow", "active": None},
    ],
)
def test_what_means_the_same_is_no_change(house: House, changes: dict[str, Any]) -> None:
    first = house.put(policy())
    assert house.put(policy(**changes)) == first == house.policies.get("a")
    assert len(house.changes) == 1


def test_no_limit_is_another_wish_than_none_for_that_limit(house: House) -> None:
    house.put(policy())
    assert (
        house.put(policy(spec={"limits": {"max_bytes": "8G", "soft_limit_bytes": None}})).generation
        == 2
    )


def test_the_one_that_writes_sees_what_is_there(house: House) -> None:
    seen: list[StoredPolicy | None] = []
    first = house.put(policy(), seen.append)
    second = house.put(policy(priority=7), seen.append)
    house.policies.delete("a", seen.append)
    assert seen == [None, first, second]


def test_a_change_whose_condition_fails_is_not_made(house: House) -> None:
    kept = house.put(policy())
    with pytest.raises(PolicyExists):
        house.put(policy(priority=7), only_a_new_one)
    with pytest.raises(PreconditionFailed):
        house.policies.delete("a", partial(only_generation, 2))
    assert house.policies.all() == house.again().all() == [kept]
    assert house.changes == [1]


def test_a_trial_makes_every_check_and_no_change(house: House) -> None:
    first = house.put(policy())
    tried = house.put(policy(priority=7), dry_run=True)
    assert (tried.policy.priority, tried.generation) == (7, 2)
    assert house.put(policy("b", "db"), dry_run=True).generation == 1
    with pytest.raises(PolicyConflict):
        house.put(policy("b"), dry_run=True)
    house.policies.delete("a", whatever_is_there, dry_run=True)
    with pytest.raises(PolicyNotFound):
        house.policies.delete("b", whatever_is_there, dry_run=True)
    assert house.policies.all() == house.again().all() == [first]
    assert house.changes == [1]


def test_what_is_deleted_is_gone_and_begins_anew(house: House) -> None:
    house.put(policy())
    house.put(policy(priority=7))
    house.policies.delete("a", whatever_is_there)
    assert house.policies.all() == house.again().all() == []
    for verb in (
        house.policies.get,
        partial(house.policies.switch, enabled=True),
        partial(house.policies.delete, check=whatever_is_there),
    ):
        with pytest.raises(PolicyNotFound, match="There is no policy 'a'"):
            verb("a")
    assert house.put(policy()).generation == 1


def test_a_policy_is_switched_off_and_on(house: House) -> None:
    house.put(policy())
    off = house.policies.switch("a", enabled=False)
    assert (off.policy.enabled, off.generation) == (False, 2)
    assert house.policies.switch("a", enabled=False) == off
    assert house.again().get("a") == off
    assert house.policies.switch("a", enabled=True).policy == policy()
    assert len(house.changes) == 3


def test_each_change_is_told_when_it_can_be_seen(house: House) -> None:
    house.put(policy())
    house.put(policy("b", "db"))
    house.policies.delete("a", whatever_is_there)
    assert house.changes == [1, 2, 1]


# Who would be in whose way


def conflict(house: House, new: Policy) -> PolicyConflict:
    with pytest.raises(PolicyConflict) as caught:
        house.put(new)
    return caught.value


def test_two_of_a_kind_and_a_priority_share_no_group(house: House) -> None:
    house.put(policy())
    error = conflict(house, policy("b", "w*"))
    web = house.stage.simulator.groups("web")[0]
    assert error.members == {
        "policies": ["b", "a"],
        "kind": "limit",
        "priority": 100,
        "shared": 1,
        "groups": [{"id": str(web.id), "path": "web"}],
    }
    assert house.names() == ["a"]


def test_two_of_another_priority_may(house: House) -> None:
    house.put(policy())
    house.put(policy("b", "w*", priority=99))
    error = conflict(house, policy("b", "w*"))
    assert error.detail.startswith("b and a are both of the kind limit, with priority 100")
    assert house.policies.get("b").policy.priority == 99


def test_two_that_share_no_group_may(house: House) -> None:
    house.put(policy())
    house.put(policy("b", "db"))
    assert house.names() == ["a", "b"]


def test_two_that_select_in_the_same_way_are_in_the_way_of_each_other_even_without_a_group(
    house: House,
) -> None:
    house.put(policy(group="nobody"))
    assert conflict(house, policy("b", "nobody")).members["groups"] == []
    house.put(policy("b", "nobody-else"))


def test_a_policy_is_not_in_the_way_of_itself(house: House) -> None:
    house.put(policy())
    assert house.put(policy(group="*")).generation == 2


def test_of_two_who_want_the_same_groups_at_once_one_gets_them(house: House) -> None:
    for number in range(50):
        racers = [
            partial(house.put, policy(f"{name}-{number}", priority=number)) for name in ("a", "b")
        ]
        assert {type(answer) for answer in together(*racers)} == {StoredPolicy, PolicyConflict}
    assert len(house.again().all()) == 50


def test_of_two_who_replace_the_same_generation_at_once_one_does(house: House) -> None:
    house.put(policy(priority=0))
    for number in range(1, 50):
        racers = [
            partial(house.put, policy(priority=2 * number + side), partial(only_generation, number))
            for side in (0, 1)
        ]
        assert {type(answer) for answer in together(*racers)} == {StoredPolicy, PreconditionFailed}
    assert house.again().get("a").generation == 50


def test_a_group_knows_who_selects_it(house: House) -> None:
    web, etl = (house.stage.simulator.groups(path)[0] for path in ("web", "batch/etl"))
    house.put(policy("b", "w*"))
    house.put(policy("a", "*", priority=7))
    assert [kept.policy.name for kept in house.policies.of(web)] == ["a", "b"]
    assert house.policies.of(etl) == []


def test_what_this_daemon_may_not_change_is_selected_by_nobody(house: House) -> None:
    policies = house.again(None, "db")
    policies.put(policy("a", "*"), whatever_is_there)
    policies.put(policy("b", "w*"), whatever_is_there)
    with pytest.raises(PolicyConflict, match="share 1 groups, such as 'db'"):
        policies.put(policy("c", "db"), whatever_is_there)
    web, db = (house.stage.simulator.groups(path)[0] for path in ("web", "db"))
    assert policies.of(web) == []
    assert [kept.policy.name for kept in policies.of(db)] == ["a"]


# What cannot mean anything


def of_kind(**changes: Any) -> dict[str, Kind]:
    return {"limit": replace(kinds()["limit"], **changes)}


def test_a_spec_is_checked_against_each_group_that_is_selected(house: House) -> None:
    def check(spec: KeepLimits, stat: MemStat, total_bytes: int) -> None:
        assert total_bytes == house.stage.simulator.node().total_bytes
        if stat.limits.effective_max_bytes is None and spec.interval_seconds == 1:
            raise ValueError("there is no limit to take a percentage of")

    policies = house.again(of_kind(check=check))
    unlimited, limited = (
        next(
            group.path
            for group in house.stage.simulator.groups()[1:]
            if (house.stage.limits()[group.path] is None) == wanted
        )
        for wanted in (True, False)
    )
    spec = {"limits": {"max_bytes": "8G"}, "interval_seconds": 1}
    with pytest.raises(
        InvalidRequest,
        match=f"at the group '{unlimited}', there is no limit to take a percentage of",
    ) as caught:
        policies.put(policy(group=unlimited, spec=spec), whatever_is_there)
    assert caught.value.members["errors"] == [
        {
            "pointer": "#/spec",
            "detail": f"at the group '{unlimited}', there is no limit to take a percentage of",
        }
    ]
    policies.put(policy(group=limited, spec=spec), whatever_is_there)
    policies.put(policy("b", unlimited), whatever_is_there)


def test_a_group_that_goes_while_a_policy_is_written_is_in_nobodys_way(house: House) -> None:
    house.stage.group("going")
    house.stage.at(2, lambda: house.stage.vanish("going"))
    assert house.put(policy(group="going")).generation == 1
    assert house.stage.did_happen()


def test_a_policy_switches_only_what_is_there(house: House) -> None:
    policies = house.again(of_kind(switches=lambda _: ["night"]))
    with pytest.raises(InvalidRequest, match="there is no policy 'night' to be switched"):
        policies.put(policy(), whatever_is_there)
    house.put(policy("night", "db"))
    house.again(of_kind(switches=lambda _: ["night"])).put(policy(), whatever_is_there)


# Databases that do not do what one would like


def test_a_database_that_takes_nothing_leaves_everything_as_it_was(house: House) -> None:
    kept = house.put(policy())
    with locked(house.path):
        for change in (
            partial(house.put, policy(priority=7)),
            partial(house.put, policy("b", "db")),
            partial(house.policies.switch, "a", enabled=False),
            partial(house.policies.delete, "a", whatever_is_there),
        ):
            with pytest.raises(StoreUnavailable):
                change()
        assert house.policies.all() == [kept]
    assert house.changes == [1]


@pytest.mark.parametrize("there", [None, 5])
def test_a_policy_that_is_another_one_in_the_database_is_read_anew_before_it_is_changed(
    house: House, there: int | None
) -> None:
    house.put(policy())
    house.store.policies.delete("a", 1)
    if there is not None:
        house.store.policies.put(stored_policy("a", there), None)
    with pytest.raises(PreconditionFailed, match="read again"):
        house.put(policy(priority=7))
    assert [kept.generation for kept in house.policies.all()] == ([] if there is None else [there])
    assert len(house.changes) == 2
    assert house.put(policy(priority=7)).generation == (there or 0) + 1


def test_a_policy_that_is_gone_from_the_database_is_not_deleted_twice(house: House) -> None:
    house.put(policy())
    house.store.policies.delete("a", 1)
    with pytest.raises(PreconditionFailed):
        house.policies.delete("a", whatever_is_there)
    with pytest.raises(PolicyNotFound):
        house.policies.delete("a", whatever_is_there)


ALIEN = [
    {},
    "a text",
    None,
    {"name": "alien", "kind": "of-tomorrow", "selector": {"group": "*"}, "spec": {}},
    {
        "name": "alien",
        "kind": "limit",
        "selector": {"group": "*"},
        "spec": {"limits": {"max_bytes": 1}},
        "mood": "new",
    },
    {
        "name": "alien",
        "kind": "limit",
        "selector": {"label": "*"},
        "spec": {"limits": {"max_bytes": 1}},
    },
    {"name": "alien", "kind": "limit", "selector": {"group": "*"}, "spec": {"limits": {}}},
]


@pytest.mark.parametrize("body", ALIEN, ids=str)
def test_a_policy_of_another_version_is_kept_and_named_and_stops_nobody(
    house: House, body: object, caplog: pytest.LogCaptureFixture
) -> None:
    house.put(policy())
    alien = stored_policy("alien", 7, kind="of-tomorrow", body=body)
    house.store.policies.put(alien, None)
    with caplog.at_level(logging.WARNING):
        policies = house.again()
    assert [kept.policy.name for kept in policies.all()] == ["a"]
    assert [(found.name, found.kind, found.generation) for found in policies.unreadable()] == [
        ("alien", "of-tomorrow", 7)
    ]
    assert "the policy alien, of the kind of-tomorrow, is stored and not carried out" in caplog.text
    policies.put(policy("b", "db"), whatever_is_there)
    policies.delete("b", whatever_is_there)
    assert alien in house.store.policies.list()


def test_a_policy_of_another_version_is_not_written_over_and_can_be_deleted(house: House) -> None:
    house.store.policies.put(
        stored_policy("alien", 7, kind="of-tomorrow", body={"kind": "of-tomorrow"}), None
    )
    policies = house.again()
    for verb in (
        policies.get,
        partial(policies.switch, enabled=True),
        lambda name: policies.put(policy(name), whatever_is_there),
    ):
        with pytest.raises(
            PolicyUnreadable, match="Another version of shrinkd wrote the policy 'alien'"
        ) as caught:
            verb("alien")
        assert caught.value.members == {"kind": "of-tomorrow", "generation": 7}
    seen: list[StoredPolicy | None] = []
    policies.delete("alien", seen.append)
    assert (seen, policies.unreadable(), house.store.policies.list()) == ([None], [], [])
    assert policies.put(policy("alien"), whatever_is_there).generation == 1


def test_each_change_is_told_and_what_changes_nothing_is_not(house: House) -> None:
    house.bus.subscribe_events(heard := EventRecorder())
    house.put(policy(), dry_run=True)
    house.put(policy())
    house.put(policy())
    house.policies.switch("a", enabled=False)
    house.policies.delete("a", whatever_is_there, dry_run=True)
    house.policies.delete("a", whatever_is_there)
    assert heard.of(EventType.POLICY_CHANGED, "name", "kind", "enabled", "generation") == [
        ("a", "limit", True, 1),
        ("a", "limit", False, 2),
    ]
    assert heard.all[-1] == ("policy.deleted", None, {"name": "a"})
    assert len(heard.all) == 3


def test_a_change_that_the_database_did_not_take_is_not_told(house: House) -> None:
    house.bus.subscribe_events(heard := EventRecorder())
    with locked(house.path), pytest.raises(StoreUnavailable):
        house.put(policy())
    assert heard.all == []
