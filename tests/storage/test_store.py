"""The store, on SQLite and on PostgreSQL.

What is written stays, states change by compare-and-set, and a refusal has a name.
"""

import collections
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from stat import S_IMODE
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from shrinkd.errors import (
    DaemonStopped,
    SettingsError,
    ShrinkInProgress,
    ShrinkNotFound,
    StoreUnavailable,
)
from shrinkd.policies import Reason, Verdict
from shrinkd.storage import ACTIVE_STATES, Answer, Key, Store, group_matches, serialize_error
from shrinkd.storage.decisions import KEEP_SECONDS as KEEP_DECISIONS_SECONDS
from shrinkd.storage.decisions import DecisionRow
from shrinkd.storage.events import KEEP_SECONDS as KEEP_EVENTS_SECONDS
from shrinkd.storage.events import EventRow
from shrinkd.storage.idempotency_keys import IdempotencyRow
from shrinkd.storage.limit_intents import LimitIntentRow
from shrinkd.storage.policies import PolicyRow
from shrinkd.storage.shrinks import KEEP_SECONDS as KEEP_FINISHED_SECONDS
from shrinkd.storage.shrinks import ShrinkRow
from shrinkd.storage.tables import metadata
from tests.support.checkout import ROOT
from tests.support.locked_database import locked
from tests.support.postgres import Postgres
from tests.support.races import together

MIGRATIONS = ROOT / "migrations"
DAY = 24 * 3600 * 1_000_000
NOW = 1_795_000_000_000_000


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shrinkd.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.emptied()


@contextmanager
def opened(url: str, *more: Any) -> Iterator[Store]:
    with closing(Store(url, *more)) as store:
        store.open()
        yield store


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with opened(url) as store:
        yield store


def row(number: int = 1, **changes: Any) -> ShrinkRow:
    values: dict[str, Any] = {
        "id": f"{number:032x}",
        "boot_id": "boot",
        "group_id": number,
        "group_path": f"group-{number}",
        "state": "queued",
        "request": {"target_bytes": 2**62, "reason": "caf\xe9 \N{SNOWMAN}"},
        "progress": {"passes": 0, "elapsed_seconds": 0.25},
        "error": None,
        "policy": None,
        "created_at": NOW + number,
        "started_at": None,
        "finished_at": None,
    }
    return ShrinkRow(**values | changes)


def test_a_shrink_reads_as_it_was_written(store: Store) -> None:
    store.shrinks.record(row())
    assert store.shrinks.get(row().id) == row()


def test_the_largest_numbers_and_the_strangest_names_come_back_whole(store: Store) -> None:
    strange = row(
        group_id=2**63 - 1,
        group_path="caf\xe9/\N{SNOWMAN}/'\"%;--\\",
        created_at=2**62,
        error={"detail": "\x7f\u2028"},
    )
    store.shrinks.record(strange)
    assert store.shrinks.get(strange.id) == strange


@pytest.mark.parametrize(
    "shrink_id", ["none", "", "0" * 32, "\0", "\ud800", "x" * 10_000, "0" * 31 + "\n"]
)
def test_a_shrink_that_is_none_is_not_found(store: Store, shrink_id: str) -> None:
    with pytest.raises(ShrinkNotFound):
        store.shrinks.get(shrink_id)


@pytest.mark.parametrize("state", ACTIVE_STATES)
def test_a_group_has_one_active_shrink(store: Store, state: str) -> None:
    store.shrinks.record(row(1, group_id=7, state=state))
    with pytest.raises(ShrinkInProgress):
        store.shrinks.record(row(2, group_id=7))
    store.shrinks.record(row(3, group_id=8))


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled", "interrupted"])
def test_a_group_whose_shrink_is_done_may_have_another(store: Store, state: str) -> None:
    store.shrinks.record(row(1, group_id=7, state=state))
    store.shrinks.record(row(2, group_id=7))


def test_a_move_from_the_state_that_is_expected_is_made(store: Store) -> None:
    store.shrinks.record(row())
    moved = row(state="running", started_at=NOW + 5, progress={"passes": 3})
    assert store.shrinks.move(row().id, "queued", moved)
    assert store.shrinks.get(row().id) == moved


@pytest.mark.parametrize("expected", ["running", "cancelling", "succeeded", ""])
def test_a_move_from_another_state_is_not_made(store: Store, expected: str) -> None:
    store.shrinks.record(row())
    assert not store.shrinks.move(row().id, expected, row(state="failed"))
    assert store.shrinks.get(row().id) == row()


def test_of_two_who_finish_a_shrink_at_once_one_does(store: Store) -> None:
    for number in range(100):
        store.shrinks.record(row(number, state="running"))
        finishes = [
            partial(store.shrinks.move, row(number).id, "running", row(number, state=state))
            for state in ("succeeded", "cancelled")
        ]
        first, second = together(*finishes)
        assert first != second
        assert store.shrinks.get(row(number).id).state == ("succeeded" if first else "cancelled")


def listed(store: Store, **filters: Any) -> list[int]:
    return [int(found.id, 16) for found in store.shrinks.list(**{"limit": 100} | filters)]


def test_shrinks_are_listed_the_newest_first_and_of_one_time_by_id(store: Store) -> None:
    for number, created_at in [(1, 10), (2, 30), (3, 20), (4, 30)]:
        store.shrinks.record(row(number, created_at=created_at))
    assert listed(store) == [4, 2, 3, 1]
    assert listed(store, limit=2) == [4, 2]
    assert listed(store, before=(30, row(4).id)) == [2, 3, 1]
    assert listed(store, before=(20, row(3).id)) == [1]
    assert listed(store, before=(0, "")) == []


def test_a_clock_that_was_set_back_makes_no_shrink_disappear_from_the_list(store: Store) -> None:
    for number, created_at in [(1, NOW), (2, NOW - 365 * DAY), (3, NOW + 365 * DAY)]:
        store.shrinks.record(row(number, created_at=created_at))
    assert listed(store) == [3, 1, 2]


def test_shrinks_are_listed_by_state_by_group_and_from_a_time_on(store: Store) -> None:
    for number, state in enumerate(["queued", "running", "failed", "succeeded"]):
        store.shrinks.record(row(number, state=state, group_path=f"group-{number % 2}"))
    assert listed(store, states=("failed", "running")) == [2, 1]
    assert listed(store, groups="group-0") == [2, 0]
    assert listed(store, since=NOW + 2) == [3, 2]
    assert listed(store, states=("queued",), groups="group-1") == []


WITHIN = {
    (): [],
    ("web",): ["web", "web/a"],
    ("Web",): ["Web/a"],
    ("web/a", "db"): ["web/a"],
    ("we_",): [],
    ("w%",): ["w%/a"],
    ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}ro",): [
        "b\N{LATIN SMALL LETTER U WITH DIAERESIS}ro/a"
    ],
}


@pytest.mark.parametrize(("subtrees", "paths"), WITHIN.items(), ids=str)
def test_of_subtrees_is_what_is_at_or_below_them_letter_by_letter(
    store: Store, subtrees: tuple[str, ...], paths: list[str]
) -> None:
    there = [
        "web",
        "web/a",
        "webmail",
        "Web/a",
        "w%/a",
        "wx/a",
        "b\N{LATIN SMALL LETTER U WITH DIAERESIS}ro/a",
    ]
    for number, path in enumerate(there):
        store.shrinks.record(row(number, state="succeeded", group_path=path))
    decide(store, *(decision(number, group_path=path) for number, path in enumerate(there)))
    assert [there[number] for number in listed(store, groups=subtrees)][::-1] == paths
    assert [there[number] for number in decided(store, within=subtrees)][::-1] == paths
    assert [path for path in there if group_matches(path, subtrees)] == paths


def test_what_was_left_active_is_settled_and_what_was_done_stays(store: Store) -> None:
    states = [*ACTIVE_STATES, "succeeded", "failed", "cancelled", "interrupted"]
    for number, state in enumerate(states):
        store.shrinks.record(
            row(number, state=state, finished_at=None if state in ACTIVE_STATES else NOW)
        )
    assert store.shrinks.interrupt_active(NOW + DAY, DaemonStopped("It died.")) == len(
        ACTIVE_STATES
    )
    settled = [store.shrinks.get(row(number).id) for number in range(len(states))]
    assert [found.state for found in settled] == ["interrupted"] * 3 + states[3:]
    assert [found.finished_at for found in settled] == [NOW + DAY] * 3 + [NOW] * 4
    assert [found.error for found in settled] == [
        serialize_error(DaemonStopped("It died."))
    ] * 3 + [None] * 4
    assert store.shrinks.interrupt_active(NOW + DAY, DaemonStopped("It died.")) == 0


def test_what_finished_seven_days_ago_is_forgotten_and_no_sooner(store: Store) -> None:
    week = KEEP_FINISHED_SECONDS * 1_000_000
    for number, finished_at in enumerate([NOW - week - 1, NOW - week, NOW, NOW + week, None]):
        store.shrinks.record(
            row(number, state="succeeded" if finished_at else "running", finished_at=finished_at)
        )
    assert store.shrinks.expire(NOW) == 1
    assert listed(store) == [4, 3, 2, 1]


def test_of_the_finished_shrinks_of_policies_the_newest_stay_and_callers_lose_none(
    store: Store,
) -> None:
    for number in range(6):
        store.shrinks.record(
            row(number, state="succeeded", finished_at=NOW, policy="room" if number % 2 else None)
        )
    assert store.shrinks.expire(NOW, most=2) == 1
    assert listed(store) == [5, 4, 3, 2, 0]


def test_finished_shrinks_are_written_down_together_and_none_twice(store: Store) -> None:
    rows = [row(number, state="succeeded", finished_at=NOW, policy="room") for number in range(3)]
    store.shrinks.record_finished(rows[:2])
    store.shrinks.record_finished(rows)
    assert listed(store) == [2, 1, 0]


def test_a_group_that_was_made_here_is_remembered_until_it_is_forgotten(store: Store) -> None:
    store.made_groups.record("boot", 2**63 - 1, "caf\xe9", NOW)
    store.made_groups.record("boot", 2, "web", NOW)
    assert store.made_groups.list_ids("boot") == {2**63 - 1, 2}
    store.made_groups.delete("boot", 2)
    store.made_groups.delete("boot", 3)
    assert store.made_groups.list_ids("boot") == {2**63 - 1}


def test_the_groups_of_another_boot_mean_nothing_and_go_with_the_next_one_made(
    store: Store,
) -> None:
    store.made_groups.record("before", 1, "web", NOW)
    assert store.made_groups.list_ids("boot") == set()
    store.made_groups.record("boot", 1, "web", NOW)
    assert store.made_groups.list_ids("before") == set()


def intent(group_id: int = 1, boot_id: str = "boot", **changes: Any) -> LimitIntentRow:
    steps = [
        {"max_bytes": None, "soft_limit_bytes": 2**63 - 4096},
        {"max_bytes": 0, "soft_limit_bytes": 2**63 - 4096},
    ]
    values: dict[str, Any] = {
        "boot_id": boot_id,
        "group_id": group_id,
        "path": "caf\xe9",
        "steps": steps,
        "created_at": NOW,
    }
    return LimitIntentRow(**values | changes)


def test_an_intent_reads_as_it_was_written_until_it_is_forgotten(store: Store) -> None:
    written = [intent(2**63 - 1), intent(2)]
    for row_of_one in written:
        store.limit_intents.record(row_of_one)
    assert sorted(store.limit_intents.list("boot"), key=attrgetter("group_id")) == written[::-1]
    store.limit_intents.delete("boot", 2**63 - 1)
    store.limit_intents.delete("boot", 3)
    assert store.limit_intents.list("boot") == [intent(2)]


def test_a_group_has_one_intent_and_it_is_the_last(store: Store) -> None:
    store.limit_intents.record(intent(path="before"))
    store.limit_intents.record(intent(path="after"))
    assert store.limit_intents.list("boot") == [intent(path="after")]


def test_the_intents_of_another_boot_mean_nothing_and_go_with_the_next_one(store: Store) -> None:
    store.limit_intents.record(intent(boot_id="before"))
    assert store.limit_intents.list("boot") == []
    store.limit_intents.record(intent())
    assert store.limit_intents.list("before") == []


def policy(name: str = "a", generation: int = 1, **changes: Any) -> PolicyRow:
    body = {
        "name": name,
        "kind": "limit",
        "selector": {"group": "caf\xe9/*"},
        "spec": {"limits": {"max_bytes": None, "low_bytes": 2**62}},
    }
    values: dict[str, Any] = {
        "name": name,
        "kind": "limit",
        "priority": 100,
        "enabled": True,
        "body": body,
        "generation": generation,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return PolicyRow(**values | changes)


def test_policies_read_as_they_were_written_in_the_order_of_their_names(store: Store) -> None:
    assert store.policies.list() == []
    assert [store.policies.put(policy(name), None) for name in ("b", "a", "c")] == [True] * 3
    assert store.policies.list() == [policy("a"), policy("b"), policy("c")]


def test_a_policy_is_put_only_where_the_generation_is_the_one_that_is_expected(
    store: Store,
) -> None:
    assert not store.policies.put(policy(generation=2), 1)
    assert store.policies.put(policy(), None)
    assert not store.policies.put(policy(priority=7), None)
    assert not store.policies.put(policy(generation=4), 3)
    assert store.policies.list() == [policy()]
    assert store.policies.put(policy(generation=2, enabled=False), 1)
    assert store.policies.list() == [policy(generation=2, enabled=False)]


def test_a_policy_is_deleted_with_what_it_remembers_and_only_in_the_generation_that_is_expected(
    store: Store,
) -> None:
    store.policies.put(policy("a", 3), None)
    store.policy_states.save("boot", {("a", 1): {}, ("b", 1): {}})
    assert not store.policies.delete("a", 2)
    assert set(store.policy_states.load("boot")) == {("a", 1), ("b", 1)}
    assert store.policies.delete("a", 3)
    assert (store.policies.list(), set(store.policy_states.load("boot"))) == ([], {("b", 1)})
    assert not store.policies.delete("a", 3)


def decision(number: int = 1, **changes: Any) -> DecisionRow:
    values: dict[str, Any] = {
        "id": None,
        "at": NOW + number,
        "policy": "a",
        "generation": 2**40,
        "group_id": 2**63 - 1,
        "group_path": "caf\xe9",
        "mode": "enforce",
        "verdict": Verdict.HOLD,
        "reason": Reason.LIMITS_KEPT,
        "signals": {"usage_bytes": 2**62, "some_percent": 0.1, "who": None},
        "look_seconds": 0.1,
        "asked_bytes": 2**62,
        "granted_bytes": None,
        "freed_bytes": None,
        "shrink_id": None,
        "errno": None,
        "times": 1,
    }
    return DecisionRow(**values | changes)


def decide(store: Store, *rows: DecisionRow) -> list[int]:
    return [*store.decisions.record(rows)]


def test_decisions_read_as_they_were_written_and_have_ids_that_count_up(store: Store) -> None:
    rows = [decision(number) for number in range(2500)]
    ids = decide(store, *rows)
    assert ids == sorted(set(ids))
    assert (
        store.decisions.list(limit=5000)
        == [replace(row, id=row_id) for row_id, row in zip(ids, rows, strict=True)][::-1]
    )
    assert decide(store, decision())[0] > ids[-1]


def test_a_decision_that_is_written_again_is_written_in_its_own_place_with_what_is_new(
    store: Store,
) -> None:
    first, second = decide(store, decision(1), decision(2))
    folded = decision(5, id=first, times=60)
    done = decision(2, id=second, freed_bytes=7, errno="EBUSY", shrink_id="0" * 32)
    assert store.decisions.record([done, decision(6), folded]) == [
        second,
        second + 1,
        first,
    ]
    assert store.decisions.list(limit=9) == [
        decision(6, id=second + 1),
        done,
        folded,
    ]


def test_a_decision_that_was_forgotten_meanwhile_does_not_come_back_as_another(
    store: Store,
) -> None:
    (first,) = decide(store, decision())
    assert store.decisions.expire(NOW + 30 * DAY) == 1
    assert store.decisions.record([decision(id=first, times=2)]) == [first]
    assert store.decisions.list(limit=9) == []
    assert decide(store, decision())[0] > first


def test_no_decision_at_all_is_written_as_easily(store: Store) -> None:
    assert store.decisions.record([]) == []


def decided(store: Store, **filters: Any) -> list[int]:
    return [row.at - NOW for row in store.decisions.list(**{"limit": 100} | filters)]


def test_decisions_are_listed_by_policy_by_group_by_verdict_from_a_time_on_and_in_pages(
    store: Store,
) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"policy": "b"},
        {"group_path": "web"},
        {"verdict": Verdict.ACT},
        {"policy": "b", "verdict": Verdict.GONE},
    ]
    ids = decide(store, *(decision(number, **change) for number, change in enumerate(changes)))
    assert decided(store) == [4, 3, 2, 1, 0]
    assert decided(store, policy="b") == [4, 1]
    assert decided(store, group_path="web") == [2]
    assert decided(store, verdicts=("act", "gone")) == [4, 3]
    assert decided(store, since=NOW + 3) == [4, 3]
    assert decided(store, before=(ids[3],), limit=2) == [2, 1]
    assert decided(store, policy="a", verdicts=("gone",)) == []


def test_decisions_are_forgotten_after_seven_days_and_no_sooner(store: Store) -> None:
    week = KEEP_DECISIONS_SECONDS * 1_000_000
    decide(store, decision(-week - 1), decision(-week), decision(0))
    assert store.decisions.expire(NOW) == 1
    assert decided(store) == [0, -week]


def test_the_oldest_decisions_are_forgotten_beyond_so_many(store: Store) -> None:
    decide(store, *(decision(number) for number in range(7)))
    assert store.decisions.expire(NOW, most=7) == 0
    assert store.decisions.expire(NOW, most=3) == 4
    assert decided(store) == [6, 5, 4]


# -- events ------------------------------------------------------------------------------------


def event(number: int, at: int = NOW, **changes: Any) -> EventRow:
    values: dict[str, Any] = {
        "id": number,
        "at": at,
        "type": "group.made",
        "group_id": 7,
        "group_path": "web",
        "data": {"n": number},
    }
    return EventRow(**values | changes)


def ids(rows: Sequence[EventRow]) -> list[int]:
    return [row.id for row in rows]


def test_events_read_as_they_were_written_and_in_the_order_of_their_ids(store: Store) -> None:
    rows = [
        event(1),
        event(2, type="policy.deleted", group_id=None, group_path=None),
        event(3, data={"a": [1.5, None, "\N{SNOWMAN}"]}),
    ]
    store.events.record(rows)
    assert store.events.list(0, 9) == rows
    assert ids(store.events.list(1, 1)) == [2]
    assert store.events.span() == (1, 3)


def test_before_the_first_event_there_is_an_empty_span(store: Store) -> None:
    assert (store.events.span(), store.events.list(0, 9), store.events.oldest_to_keep(NOW)) == (
        (1, 0),
        [],
        1,
    )


def test_an_event_that_is_there_already_stays_as_it_is(store: Store) -> None:
    store.events.record([event(1), event(2)])
    store.events.record([event(2, type="other"), event(3)])
    assert [(row.id, row.type) for row in store.events.list(0, 9)] == [
        (1, "group.made"),
        (2, "group.made"),
        (3, "group.made"),
    ]


def test_events_are_selected_by_type_and_by_where_to_the_letter(store: Store) -> None:
    paths = ["web", "web/a", "Web/a", "webby", "w_b/a", "w%/a", None]
    store.events.record(
        [event(number, group_path=path) for number, path in enumerate(paths, 1)]
        + [event(8, type="other"), event(9, type="gap")]
    )
    assert ids(store.events.list(0, 9, within=[{"web"}])) == [1, 2, 8, 9]
    assert ids(store.events.list(0, 9, within=[{"web", "Web"}])) == [1, 2, 3, 8, 9]
    assert ids(store.events.list(0, 9, within=[{"web"}, {"web/a", "webby"}])) == [2]
    assert ids(store.events.list(0, 9, within=[{"w_b"}])) == [5]
    assert ids(store.events.list(0, 9, within=[()])) == []
    assert ids(store.events.list(0, 9, types={"other"}, within=[{"web"}])) == [8]
    assert ids(store.events.list(0, 9, types={"other"}, within=[{"nowhere"}], always="gap")) == [9]


def test_events_are_forgotten_by_age_and_by_number_and_the_newest_never_is(store: Store) -> None:
    week = KEEP_EVENTS_SECONDS * 1_000_000
    store.events.record([event(1, NOW - week - 1), event(2, NOW - week), event(3), event(4)])
    assert store.events.oldest_to_keep(NOW) == 2
    assert store.events.oldest_to_keep(NOW, most=1) == 4
    assert store.events.oldest_to_keep(NOW + 2 * week) == 4
    store.events.delete_before(3)
    assert store.events.span() == (3, 4)


def test_states_read_as_the_last_that_was_saved(store: Store) -> None:
    store.policy_states.save(
        "boot", {("a", 0): {"step_bytes": 2**62}, ("a", 2**63 - 1): {"seconds": 0.1}, ("b", 0): {}}
    )
    store.policy_states.save("boot", {("a", 0): {"step_bytes": None}})
    store.policy_states.save("boot", {})
    assert store.policy_states.load("boot") == {
        ("a", 0): {"step_bytes": None},
        ("a", 2**63 - 1): {"seconds": 0.1},
        ("b", 0): {},
    }


def test_the_states_of_another_boot_mean_nothing_and_go_with_the_next_ones(store: Store) -> None:
    store.policy_states.save("before", {("a", 1): {}, ("b", 1): {}})
    assert store.policy_states.load("boot") == {}
    store.policy_states.save("boot", {("a", 1): {}})
    assert store.policy_states.load("before") == {}


def test_a_database_that_answers_can_be_pinged(store: Store) -> None:
    store.ping()


def test_what_is_closed_is_still_there_when_it_is_opened_again(url: str) -> None:
    with opened(url) as store:
        store.shrinks.record(row())
    with opened(url) as store:
        assert store.shrinks.get(row().id) == row()


def test_a_second_daemon_does_not_get_the_database_until_the_first_is_gone(url: str) -> None:
    with opened(url):
        with (
            closing(Store(url)) as second,
            pytest.raises(SettingsError, match="Another shrinkd has this database"),
        ):
            second.open()
        with closing(Store(url)) as third, pytest.raises(SettingsError):
            third.open()
    with opened(url):
        pass


# -- the schema --------------------------------------------------------------------------------


def engine(url: str) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.NullPool)


def alembic(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def tables(url: str) -> set[str]:
    return set(sa.inspect(engine(url)).get_table_names())


def test_the_migrations_come_to_the_tables_of_the_code(url: str) -> None:
    with opened(url):
        pass
    with engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_migrations_can_be_taken_back_and_made_again(url: str) -> None:
    with opened(url):
        pass
    with engine(url).begin() as connection:
        command.downgrade(alembic(connection), "base")
    assert tables(url) == {"alembic_version"}
    with opened(url) as store:
        store.shrinks.record(row())


def test_a_database_of_a_newer_release_is_refused_by_its_revision_and_left_alone(url: str) -> None:
    with opened(url):
        pass
    with engine(url).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with (
        closing(Store(url)) as store,
        pytest.raises(
            SettingsError, match=r"A newer shrinkd wrote this database \(revision 9999\)"
        ),
    ):
        store.open()
    with engine(url).connect() as connection:
        assert (
            connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            == "9999"
        )


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The migrations as they are, and one more."""
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    for file in (MIGRATIONS / "env.py", *(MIGRATIONS / "versions").glob("*.py")):
        (folder / file.relative_to(MIGRATIONS)).write_text(file.read_text())
    (folder / "versions" / "9999_more.py").write_text(
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        "revision, down_revision, branch_labels, depends_on = '9999', '0006', None, None\n"
        "def upgrade() -> None:\n"
        "    op.create_table('more', sa.Column('id', sa.Integer, primary_key=True))\n"
    )
    return folder


def test_an_older_database_is_brought_up_to_date_with_all_that_is_in_it(
    url: str, next_release: Path
) -> None:
    with opened(url) as store:
        store.shrinks.record(row())
    with opened(url, next_release) as store:
        assert store.shrinks.get(row().id) == row()
    assert "more" in tables(url)


# -- SQLite alone ------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shrinkd.db"


def test_an_older_database_is_copied_before_it_is_brought_up_to_date(
    path: Path, next_release: Path
) -> None:
    with opened(f"sqlite:///{path}") as store:
        store.shrinks.record(row())
    with opened(f"sqlite:///{path}", next_release):
        pass
    copy = path.with_name("shrinkd.db.revision-0006")
    assert "more" not in tables(f"sqlite:///{copy}")
    with opened(f"sqlite:///{copy}") as store:
        assert store.shrinks.get(row().id) == row()
    assert S_IMODE(copy.stat().st_mode) == 0o600


def test_a_copy_that_an_earlier_try_left_does_not_stop_the_next(
    path: Path, next_release: Path
) -> None:
    with opened(f"sqlite:///{path}"):
        pass
    path.with_name("shrinkd.db.revision-0006").write_bytes(b"half of")
    with opened(f"sqlite:///{path}", next_release):
        pass
    assert "shrinks" in tables(f"sqlite:///{path}.revision-0006")


def test_a_database_that_is_up_to_date_is_not_copied(path: Path) -> None:
    for _ in range(2):
        with opened(f"sqlite:///{path}"):
            pass
    assert {file.name for file in path.parent.iterdir()} == {"shrinkd.db"}


def test_nobody_else_may_read_the_database(path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(f"sqlite:///{path}") as store:
            store.shrinks.record(row())
            modes = {file.name: S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}, modes


def test_the_folder_of_the_database_is_made(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}/new/folder/shrinkd.db"):
        pass


def test_a_locked_database_is_unavailable_for_writing_and_only_as_long_as_it_is_locked(
    path: Path,
) -> None:
    with opened(f"sqlite:///{path}?timeout=0.05") as store:
        store.shrinks.record(row())
        with locked(path):
            with pytest.raises(StoreUnavailable, match="database is locked"):
                store.shrinks.record(row(2))
            with pytest.raises(StoreUnavailable):
                store.shrinks.move(row().id, "queued", row(state="running"))
            with pytest.raises(StoreUnavailable):
                store.ping()
            assert store.shrinks.get(row().id) == row()
        store.shrinks.record(row(2))


@pytest.fixture
def full(path: Path) -> Iterator[Store]:
    """A store whose database cannot grow by one page."""
    with opened(f"sqlite:///{path}"):
        pass

    def no_more(connection: Any, _record: object) -> None:
        connection.execute(
            "PRAGMA max_page_count = 1"
        )  # which SQLite takes as: as many as there are

    sa.event.listen(sa.Engine, "connect", no_more)
    try:
        with opened(f"sqlite:///{path}") as store:
            yield store
    finally:
        sa.event.remove(sa.Engine, "connect", no_more)


def test_a_full_database_is_unavailable_and_keeps_what_it_has(full: Store) -> None:
    fill = (row(number, progress={"filler": "x" * 1000}) for number in range(1000))
    with pytest.raises(StoreUnavailable, match="database or disk is full"):
        collections.deque(map(full.shrinks.record, fill), maxlen=0)
    written = listed(full)
    assert written == list(range(len(written)))[::-1]
    assert full.shrinks.get(row(0).id).group_path == "group-0"


def key(name: str = "one", **changes: Any) -> IdempotencyRow:
    values: dict[str, Any] = {
        "caller": "token:ci",
        "route": "create_group",
        "key": name,
        "request": "a" * 32,
        "makes": "0" * 32,
        "created_at": NOW,
    }
    return IdempotencyRow(**values | changes)


ANSWER = Answer(201, (("location", "/v1/groups/web"),), b'{"path": "\xe2\x82\xac"}')


def test_a_key_is_claimed_once_and_then_shown(store: Store) -> None:
    assert store.idempotency_keys.claim(key()) is None
    assert store.idempotency_keys.claim(key(request="b" * 32)) == key()
    assert store.idempotency_keys.claim(key("two")) is None


def test_what_a_request_came_to_is_kept_with_its_key(store: Store) -> None:
    for name in ("one", "two", "three"):
        store.idempotency_keys.claim(key(name))
    one, two = (Key("token:ci", "create_group", name) for name in ("one", "two"))
    store.idempotency_keys.settle({one: ANSWER, two: None})
    answered = store.idempotency_keys.claim(key())
    assert answered
    assert (answered.answer, answered.request, answered.created_at) == (ANSWER, "a" * 32, NOW)
    assert store.idempotency_keys.claim(key("two")) is None
    unanswered = store.idempotency_keys.claim(key("three"))
    assert unanswered
    assert unanswered.answer is None


def test_a_key_of_yesterday_is_new(store: Store) -> None:
    store.idempotency_keys.claim(key())
    assert store.idempotency_keys.claim(key(created_at=NOW + DAY)) is not None
    assert store.idempotency_keys.claim(key(created_at=NOW + DAY + 1)) is None
    last = key(created_at=NOW + DAY + 1)
    assert store.idempotency_keys.claim(key(created_at=NOW + DAY + 2)) == last


def test_old_keys_are_forgotten_and_of_each_caller_all_but_the_newest(store: Store) -> None:
    for number in range(6):
        store.idempotency_keys.claim(
            key(str(number), created_at=NOW + number, caller="token:ci" if number else "uid:0")
        )
    assert store.idempotency_keys.expire(NOW + 5, most=5) == 0
    assert store.idempotency_keys.expire(NOW + 5, most=2) == 3
    assert [
        store.idempotency_keys.claim(key(name, caller=caller)) is None
        for name, caller in (("0", "uid:0"), ("5", "token:ci"), ("3", "token:ci"))
    ] == [
        False,
        False,
        True,
    ]
    assert store.idempotency_keys.expire(NOW + 2 * DAY) == 4


def test_a_database_that_was_removed_is_unavailable(path: Path) -> None:
    with opened(f"sqlite:///{path}") as store:
        path.unlink()
        with pytest.raises(StoreUnavailable, match="was removed"):
            store.ping()


def test_more_requests_than_connections_are_unavailable_at_worst(path: Path) -> None:
    with opened(f"sqlite:///{path}?timeout=0.05") as store, locked(path):
        assert {type(answer) for answer in together(*[store.ping] * 40)} == {StoreUnavailable}


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("nonsense", SettingsError, "SHRINKD_DATABASE_URL"),
        ("", SettingsError, "SHRINKD_DATABASE_URL"),
        ("sqlite://", SettingsError, "in memory"),
        ("sqlite:///:memory:", SettingsError, "in memory"),
        ("sqlite:///file:x?uri=true", SettingsError, "in memory"),
        ("oracle://x/y", SettingsError, "SHRINKD_DATABASE_URL"),
        ("nosuchdatabase://x/y", SettingsError, "SHRINKD_DATABASE_URL"),
        ("sqlite:////proc/none/shrinkd.db", StoreUnavailable, "proc"),
        ("sqlite:////dev/null/shrinkd.db", StoreUnavailable, "File exists"),
        ("sqlite:////tmp", StoreUnavailable, "Is a directory"),
        ("postgresql+psycopg://x@/y?host=/no/such/folder", StoreUnavailable, "no/such/folder"),
    ],
)
def test_an_address_that_is_no_database_of_ours_is_refused_in_one_line(
    url: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught, closing(Store(url)) as store:
        store.open()
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("my diary\n" * 1000)
    with (
        closing(Store(f"sqlite:///{path}")) as store,
        pytest.raises(StoreUnavailable, match="not a database"),
    ):
        store.open()
    assert path.read_text() == "my diary\n" * 1000
