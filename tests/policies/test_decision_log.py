"""Decisions on their way into the database.

What is new at once, what stays the same once a minute, and nothing lost on the way.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from shrinkd.errors import StoreUnavailable
from shrinkd.events.log import EventType
from shrinkd.policies import Reason, Verdict
from shrinkd.policies.decision_log import DecisionLog
from shrinkd.policies.records import Record
from shrinkd.storage import DecisionRow, Store
from tests.support.event_recorder import EventRecorder
from tests.support.locked_database import locked
from tests.support.policy_samples import MIB, group
from tests.support.races import together

SECOND = 1_000_000
WEB, DB = group("web"), group("db")
DONE: dict[str, Any] = {"freed_bytes": 3 * MIB, "shrink_id": "0" * 32, "errno": None}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(f"sqlite:///{tmp_path}/shrinkd.db?timeout=0.05")) as store:
        store.open()
        yield store


@pytest.fixture
def decisions(store: Store) -> DecisionLog:
    return DecisionLog(store.decisions)


def hold(second: float = 0, **given: Any) -> Record:
    told: dict[str, Any] = {"policy": "room", "generation": 1, "group": WEB, "mode": "enforce"}
    told |= {
        "verdict": Verdict.HOLD,
        "reason": Reason.BELOW_HIGH,
        "signals": {"usage_bytes": second},
        "look_seconds": 1.0,
    }
    return Record(at=int(second * SECOND), **(told | given))


def act(second: float = 0, **given: Any) -> Record:
    return hold(
        second,
        verdict=Verdict.ACT,
        reason=Reason.ABOVE_HIGH,
        asked_bytes=4 * MIB,
        granted_bytes=4 * MIB,
        **given,
    )


def written(decisions: DecisionLog, store: Store) -> list[DecisionRow]:
    """All rows, the oldest first."""
    decisions.write()
    return [*store.decisions.list(limit=1000)][::-1]


def told(rows: list[DecisionRow], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(row, name) for name in names) for row in rows]


def test_what_was_decided_is_written_whole(decisions: DecisionLog, store: Store) -> None:
    decisions.add([act(1)])
    (row,) = written(decisions, store)
    assert {name: value for name, value in asdict(row).items() if name != "id"} == {
        "at": SECOND,
        "policy": "room",
        "generation": 1,
        "group_id": WEB.id,
        "group_path": "web",
        "mode": "enforce",
        "verdict": "act",
        "reason": "above_high",
        "signals": {"usage_bytes": 1},
        "look_seconds": 1.0,
        "asked_bytes": 4 * MIB,
        "granted_bytes": 4 * MIB,
        "freed_bytes": None,
        "shrink_id": None,
        "errno": None,
        "times": 1,
    }


def test_what_stays_the_same_is_one_row_a_minute_that_counts_and_shows_the_last(
    decisions: DecisionLog, store: Store
) -> None:
    decisions.add(hold(second) for second in range(0, 121, 2))
    rows = written(decisions, store)
    assert told(rows, "at", "times") == [(58 * SECOND, 30), (118 * SECOND, 30), (120 * SECOND, 1)]
    assert rows[0].signals == {"usage_bytes": 58}


def test_a_clock_that_is_put_back_begins_a_new_row(decisions: DecisionLog, store: Store) -> None:
    decisions.add([hold(3600), hold(1), hold(2)])
    assert told(written(decisions, store), "at", "times") == [(3600 * SECOND, 1), (2 * SECOND, 2)]


def test_a_row_that_is_written_already_is_amended_when_its_minute_is_over(
    decisions: DecisionLog, store: Store
) -> None:
    decisions.add([hold(0)])
    first = written(decisions, store)
    row_id = first[0].id or 0
    decisions.add([hold(1), hold(2)])
    assert written(decisions, store) == first
    decisions.add([hold(60)])
    assert told(written(decisions, store), "id", "times") == [
        (row_id, 3),
        (row_id + 1, 1),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"verdict": Verdict.COOLDOWN},
        {"reason": Reason.AT_FLOOR},
        {"generation": 2},
        {"mode": "observe"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_change_of_mind_is_a_row_of_its_own(
    decisions: DecisionLog, store: Store, other: dict[str, Any]
) -> None:
    decisions.add([hold(0), hold(1), hold(2, **other), hold(3)])
    assert told(written(decisions, store), "at", "times") == [
        (SECOND, 2),
        (2 * SECOND, 1),
        (3 * SECOND, 1),
    ]


@pytest.mark.parametrize("verdict", [Verdict.ACT, Verdict.WOULD_ACT])
def test_every_act_is_a_row_of_its_own(
    decisions: DecisionLog, store: Store, verdict: Verdict
) -> None:
    decisions.add(hold(second, verdict=verdict) for second in range(3))
    assert told(written(decisions, store), "times") == [(1,), (1,), (1,)]


def test_policies_and_groups_are_folded_apart(decisions: DecisionLog, store: Store) -> None:
    for second in range(3):
        decisions.add([hold(second), hold(second, group=DB), hold(second, policy="other")])
    decisions.add([hold(61), hold(61, group=DB), hold(61, policy="other")])
    rows = told(written(decisions, store), "policy", "group_path", "times")
    assert rows[:3] == [("room", "web", 3), ("room", "db", 3), ("other", "web", 3)]
    assert len(rows) == 6


@pytest.mark.parametrize("is_written", [False, True])
def test_what_became_of_an_act_is_in_its_own_row(
    decisions: DecisionLog, store: Store, *, is_written: bool
) -> None:
    decisions.add([act(0), act(0, group=DB)])
    if is_written:
        decisions.write()
    decisions.finish(("room", WEB.id), WEB.id, **DONE)
    rows = written(decisions, store)
    assert told(rows, "group_path", "freed_bytes", "shrink_id") == [
        ("web", 3 * MIB, "0" * 32),
        ("db", None, None),
    ]


def test_what_became_of_an_act_is_told_of_the_last_decision_too(decisions: DecisionLog) -> None:
    decisions.add([act(0)])
    decisions.finish(("room", WEB.id), WEB.id, **DONE)
    last = decisions.last("room")
    assert last
    assert (last.freed_bytes, last.shrink_id) == (3 * MIB, "0" * 32)


def test_an_act_whose_policy_looks_again_before_it_ends_is_amended_all_the_same(
    decisions: DecisionLog, store: Store
) -> None:
    decisions.add([act(0)])
    decisions.add([hold(1, verdict=Verdict.SUPERSEDED, reason=Reason.CHAIN_BUSY), hold(2)])
    decisions.finish(("room", 0), WEB.id, **DONE)
    assert told(written(decisions, store), "verdict", "freed_bytes") == [
        ("act", 3 * MIB),
        ("superseded", None),
        ("hold", None),
    ]
    last = decisions.last("room")
    assert last
    assert (last.verdict, last.freed_bytes) == (Verdict.HOLD, None)


def test_what_ended_of_which_nothing_is_known_changes_no_row(
    decisions: DecisionLog, store: Store
) -> None:
    decisions.add([hold(0)])
    decisions.finish(("room", WEB.id), WEB.id, **DONE)
    decisions.finish(("room", DB.id), DB.id, **DONE)
    assert told(written(decisions, store), "freed_bytes") == [(None,)]


def test_the_end_of_an_act_is_not_told_of_the_next_one(
    decisions: DecisionLog, store: Store
) -> None:
    decisions.add([act(0)])
    decisions.finish(("room", WEB.id), WEB.id, **DONE)
    decisions.add([act(1)])
    assert told(written(decisions, store), "freed_bytes") == [(3 * MIB,), (None,)]


def test_what_cannot_be_written_waits_and_comes_in_its_order_with_what_is_new(
    decisions: DecisionLog, store: Store, tmp_path: Path
) -> None:
    decisions.add([act(0)])
    decisions.write()
    decisions.finish(("room", WEB.id), WEB.id, **DONE)
    decisions.add([hold(1)])
    with locked(tmp_path / "shrinkd.db"):
        for second in (2, 3):
            with pytest.raises(StoreUnavailable):
                decisions.write()
            decisions.add([act(second)])
    rows = written(decisions, store)
    assert told(rows, "at", "verdict") == [
        (0, "act"),
        (SECOND, "hold"),
        (2 * SECOND, "act"),
        (3 * SECOND, "act"),
    ]
    assert rows[0].freed_bytes == 3 * MIB


def test_what_is_written_is_written_once(decisions: DecisionLog, store: Store) -> None:
    decisions.add([act(0), hold(1)])
    assert written(decisions, store) == written(decisions, store)
    together(*[decisions.write] * 4, *[lambda: decisions.add([act(2)])] * 4)
    assert len(written(decisions, store)) == 6


def test_a_database_that_stays_away_costs_the_oldest_and_never_more_memory(store: Store) -> None:
    decisions = DecisionLog(store.decisions, most_unwritten=4)
    decisions.add(act(second) for second in range(7))
    assert told(written(decisions, store), "at") == [(second * SECOND,) for second in (3, 4, 5, 6)]


def test_the_last_decision_of_a_policy_is_known_whether_it_is_written_or_not(
    decisions: DecisionLog,
) -> None:
    decisions.add([act(0), hold(1), hold(2)])
    last = decisions.last("room")
    assert last
    assert (last.at, decisions.last("other")) == (2 * SECOND, None)


def test_what_is_forgotten_was_written_with_all_that_it_counts(
    decisions: DecisionLog, store: Store
) -> None:
    decisions.add([hold(0)])
    decisions.write()
    decisions.add(
        [hold(1), hold(2), hold(0, group=DB), hold(0, policy="other"), hold(1, policy="other")]
    )
    decisions.forget({("room", DB.id)})
    assert told(written(decisions, store), "policy", "group_path", "times") == [
        ("room", "web", 3),
        ("room", "db", 1),
        ("other", "web", 2),
    ]
    assert (decisions.last("room") is None, decisions.last("other")) == (False, None)
    decisions.add([hold(3)])
    assert len(written(decisions, store)) == 4


def test_an_act_that_ends_when_its_policy_is_no_more_is_amended(
    decisions: DecisionLog, store: Store
) -> None:
    decisions.add([act(0)])
    decisions.write()
    decisions.forget(())
    decisions.finish(("room", WEB.id), WEB.id, **DONE)
    assert told(written(decisions, store), "freed_bytes") == [(3 * MIB,)]


def test_a_row_that_was_deleted_meanwhile_is_not_made_again(
    decisions: DecisionLog, store: Store, tmp_path: Path
) -> None:
    decisions.add([act(0)])
    decisions.write()
    with closing(sqlite3.connect(tmp_path / "shrinkd.db", isolation_level=None)) as other:
        other.execute("DELETE FROM decisions")
    decisions.finish(("room", WEB.id), WEB.id, **DONE)
    assert written(decisions, store) == []


def test_acts_and_changes_of_mind_are_told_and_what_stays_the_same_is_not(
    store: Store,
) -> None:
    decisions = DecisionLog(store.decisions, heard := EventRecorder())
    would = [
        hold(
            second,
            verdict=Verdict.WOULD_ACT,
            reason=Reason.ABOVE_HIGH,
            mode="observe",
            policy="eye",
        )
        for second in (0, 1, 2)
    ]
    decisions.add(
        [
            hold(0),
            hold(1),
            act(2),
            act(3),
            hold(4),
            hold(70),
            hold(140),
            hold(141, generation=2),
            *would,
        ]
    )
    assert heard.of(EventType.DECISION, "policy", "verdict", "generation") == [
        ("room", "hold", 1),
        ("room", "act", 1),
        ("room", "act", 1),
        ("room", "hold", 1),
        ("room", "hold", 2),
        ("eye", "would_act", 1),
    ]
    assert heard.all[1] == (
        "decision",
        "web",
        {
            "policy": "room",
            "generation": 1,
            "mode": "enforce",
            "verdict": "act",
            "reason": "above_high",
            "asked_bytes": 4 * MIB,
            "granted_bytes": 4 * MIB,
        },
    )
