"""schedule: which moments are due, which were missed, and what is then wanted of a group."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from shrinkd.backends import Group, Limits
from shrinkd.policies import Ask, Decision, Reason, Reclaim, Resize, Switch, Verdict
from shrinkd.policies.kinds.schedule import Calendar, Schedule, kind
from tests.support.group_views import GROUP, MIB, NOON, Looks, member, seen

NIGHTLY: dict[str, Any] = {"cron": "0 3 * * *", "shrink": {"target_bytes": "100M"}}
DUE = (Verdict.ACT, Reason.DUE)
NOT_DUE = (Verdict.HOLD, Reason.NOT_DUE)
MISSED = (Verdict.HOLD, Reason.MISSED)
FIRST = (Verdict.HOLD, Reason.FIRST_LOOK)


def said(decision: Decision) -> tuple[Verdict, Reason]:
    return decision.verdict, decision.reason


def at(text: str) -> datetime:
    """A moment as RFC 3339 writes it; UTC when it does not say."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def walk(spec: dict[str, Any], *walls: str, usage: int = 500 * MIB) -> list[tuple[Verdict, Reason]]:
    looks = Looks(kind, **spec)
    return [said(looks.look(seen(member(usage), wall=at(wall)))) for wall in walls]


@pytest.mark.parametrize(
    ("spec", "looks"),
    [
        ({}, {"2026-03-04T02:59": FIRST, "2026-03-04T03:00": DUE}),
        (
            {},
            {
                "2026-03-04T02:59": FIRST,
                "2026-03-04T02:59:59.999": NOT_DUE,
                "2026-03-04T03:00:00.001": DUE,
                "2026-03-04T03:00:01": NOT_DUE,
            },
        ),
        ({}, {"2026-03-04T03:00": FIRST, "2026-03-04T03:00:30": NOT_DUE}),
        ({}, {"2026-03-04T02:59": FIRST, "2026-03-04T03:00:59": DUE}),
        (
            {},
            {
                "2026-03-04T02:59": FIRST,
                "2026-03-04T03:01:01": MISSED,
                "2026-03-04T03:01:02": NOT_DUE,
                "2026-03-05T03:00": DUE,
            },
        ),
        ({"grace_seconds": 7200}, {"2026-03-04T02:59": FIRST, "2026-03-04T04:59": DUE}),
        (
            {"misfire": "run_once"},
            {"2026-03-04T02:59": FIRST, "2026-03-09T12:00": DUE, "2026-03-09T12:01": NOT_DUE},
        ),
        (
            {},
            {"2026-03-04T02:59": FIRST, "2026-03-09T03:00:10": DUE, "2026-03-09T03:00:20": NOT_DUE},
        ),
        (
            {"cron": "* * * * *"},
            {"2026-03-04T02:59:30": FIRST, "2026-03-04T03:00": DUE, "2026-03-04T03:01": DUE},
        ),
        (
            {"cron": "* * * * *"},
            {
                "2016-03-04T02:59:30": FIRST,
                "2026-03-04T03:00:30": DUE,
                "2026-03-04T03:00:45": NOT_DUE,
            },
        ),
        (
            {"timezone": "Asia/Kolkata"},
            {"2026-03-03T21:29": FIRST, "2026-03-03T21:30": DUE, "2026-03-04T03:00": NOT_DUE},
        ),
    ],
)
def test_a_moment_is_done_once_in_its_grace_and_else_missed(
    spec: dict[str, Any], looks: dict[str, tuple[Verdict, Reason]]
) -> None:
    assert walk(NIGHTLY | spec, *looks) == list(looks.values())


@pytest.mark.parametrize("misfire", ["skip", "run_once"])
def test_a_clock_that_is_put_back_does_no_moment_twice(misfire: str) -> None:
    walls = [
        "2026-03-04T02:59",
        "2026-03-04T03:00",
        "2026-03-04T01:00",
        "2026-03-04T03:00",
        "2026-03-04T03:00:30",
        "2026-03-05T03:00",
    ]
    assert walk(NIGHTLY | {"misfire": misfire}, *walls) == [
        FIRST,
        DUE,
        NOT_DUE,
        NOT_DUE,
        NOT_DUE,
        DUE,
    ]


@pytest.mark.parametrize(("misfire", "answer"), [("skip", MISSED), ("run_once", DUE)])
def test_a_clock_that_is_put_forward_has_missed_what_lies_between(
    misfire: str, answer: tuple[Verdict, Reason]
) -> None:
    assert walk(
        NIGHTLY | {"misfire": misfire}, "2026-03-04T02:00", "2026-03-04T05:00", "2026-03-04T05:01"
    ) == [FIRST, answer, NOT_DUE]


def test_a_clock_that_was_wrong_by_years_does_not_silence_it() -> None:
    assert walk(NIGHTLY, "2036-03-04T02:59", "2026-03-04T02:59", "2026-03-04T03:00") == [
        FIRST,
        FIRST,
        DUE,
    ]


BERLIN = NIGHTLY | {"timezone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("cron", "start", "done"),
    [
        (
            "30 2 * * *",
            "2026-03-28T12:00",
            ["2026-03-29T01:00", "2026-03-30T00:30"],
        ),  # skipped: at the end of the gap
        (
            "30 2 * * *",
            "2026-10-24T12:00",
            ["2026-10-25T00:30", "2026-10-26T01:30"],
        ),  # twice: the first one
        ("0 3 * * *", "2026-10-24T12:00", ["2026-10-25T02:00", "2026-10-26T02:00"]),
        (
            "30 * * * *",
            "2026-10-24T23:45",
            ["2026-10-25T00:30", "2026-10-25T01:30", "2026-10-25T02:30"],
        ),
        (
            "0 * * * *",
            "2026-03-28T23:30",
            ["2026-03-29T00:00", "2026-03-29T01:00", "2026-03-29T02:00"],
        ),
    ],
)
def test_summer_time_neither_skips_nor_doubles(cron: str, start: str, done: list[str]) -> None:
    looks, wall = Looks(kind, **BERLIN | {"cron": cron}), at(start)
    acts: list[datetime] = []
    for _ in range(48 * 12):
        if looks.look(seen(member(500 * MIB), wall=wall)).verdict is Verdict.ACT and len(
            acts
        ) < len(done):
            acts.append(wall)
        wall += timedelta(minutes=5)
    assert acts == [at(moment) for moment in done]


def test_who_begins_in_an_hour_that_comes_twice_is_not_late_for_its_first_half() -> None:
    spec = BERLIN | {"cron": "30 2 * * *", "misfire": "run_once"}
    assert walk(spec, "2026-10-25T01:10", "2026-10-25T01:30", "2026-10-25T12:00") == [
        FIRST,
        NOT_DUE,
        NOT_DUE,
    ]


@pytest.mark.parametrize(
    ("wall", "look"),
    [
        ("2026-03-04T02:59:45", 15),
        ("2026-03-04T02:59:59.99", 0.05),
        ("2026-03-04T02:00", 60),
        ("2026-03-04T03:00:10", 60),
    ],
)
def test_it_looks_at_the_moment_and_within_a_minute(wall: str, look: float) -> None:
    assert Looks(kind, **NIGHTLY).look(seen(member(), wall=at(wall))).look_seconds == look


def test_it_says_when_it_is_due_and_how_late_it_was() -> None:
    looks = Looks(kind, **NIGHTLY)
    assert looks.look(seen(member(500 * MIB), wall=at("2026-03-04T02:59"))).signals == {
        "next_moment": "2026-03-04T03:00:00+00:00"
    }
    decision = looks.look(seen(member(500 * MIB), wall=at("2026-03-04T03:00:07.5")))
    assert decision.signals == {"moment": "2026-03-04T03:00:00+00:00", "late_seconds": 7.5}


def test_an_ask_that_was_not_granted_is_made_again_from_the_state_before_it() -> None:
    looks = Looks(kind, **NIGHTLY)
    looks.look(seen(member(500 * MIB), wall=at("2026-03-04T02:59")))
    kept = looks.state
    first = looks.look(seen(member(500 * MIB), wall=at("2026-03-04T03:00")))
    looks.state = kept
    second = looks.look(
        seen(member(500 * MIB), wall=at("2026-03-04T03:00") + timedelta(seconds=first.look_seconds))
    )
    assert (said(first), said(second)) == (DUE, DUE)


def test_jitter_gives_each_group_one_place_in_it() -> None:
    spec = Schedule(**NIGHTLY | {"jitter_seconds": 600})
    state = Calendar(int(at("2026-03-04T02:59:59").timestamp() * 1_000_000))
    dues = []
    for number in range(50):
        one = member(500 * MIB, group=Group("group", 4000 + number))
        _, (decision,) = kind.decide(spec, state, seen(one, wall=at("2026-03-04T02:59:59")))
        dues.append(at(str(decision.signals["next_moment"])))
        assert (
            said(kind.decide(spec, state, seen(one, wall=dues[-1] - timedelta(seconds=1)))[1][0])
            == NOT_DUE
        )
        assert said(kind.decide(spec, state, seen(one, wall=dues[-1]))[1][0]) == DUE
    begin = at("2026-03-04T03:00")
    assert all(begin <= due <= begin + timedelta(minutes=10) for due in dues)
    assert len({due.minute for due in dues}) >= 8


def test_a_group_that_appears_in_the_jitter_is_not_late() -> None:
    spec = NIGHTLY | {"jitter_seconds": 3600, "misfire": "run_once"}
    assert walk(spec, "2026-03-04T03:00:01", "2026-03-04T05:00") == [FIRST, NOT_DUE]


TWO = Limits(
    512 * MIB, soft_limit_bytes=None, effective_max_bytes=512 * MIB, unsupported=("high_bytes",)
)


@pytest.mark.parametrize(
    ("what", "usage", "floor", "answer"),
    [
        (
            {"shrink": {"target_bytes": "100M"}},
            500 * MIB,
            0,
            Reclaim(target_bytes=100 * MIB, timeout_seconds=300, is_one_pass=True),
        ),
        (
            {"shrink": {"target_bytes": "100M"}},
            500 * MIB,
            200 * MIB,
            Reclaim(target_bytes=200 * MIB, timeout_seconds=300, is_one_pass=True),
        ),
        (
            {"shrink": {"target_bytes": "100M", "timeout_seconds": 7}},
            500 * MIB,
            0,
            Reclaim(target_bytes=100 * MIB, timeout_seconds=7, is_one_pass=True),
        ),
        ({"shrink": {"target_bytes": "100M"}}, 99 * MIB, 0, Reason.AT_TARGET),
        ({"shrink": {"target_bytes": "100M"}}, 101 * MIB - 1, 0, Reason.ASK_TOO_SMALL),
        ({"shrink": {"target_bytes": "100M"}}, 500 * MIB, 500 * MIB, Reason.AT_FLOOR),
        ({"shrink": {"target_bytes": "100M"}}, 99 * MIB, 300 * MIB, Reason.AT_FLOOR),
        (
            {"shrink": {"reclaim_bytes": "50M"}},
            500 * MIB,
            0,
            Reclaim(reclaim_bytes=50 * MIB, timeout_seconds=300, is_one_pass=True),
        ),
        (
            {"shrink": {"reclaim_bytes": "50M"}},
            500 * MIB,
            480 * MIB,
            Reclaim(reclaim_bytes=20 * MIB, timeout_seconds=300, is_one_pass=True),
        ),
        (
            {"shrink": {"reclaim_bytes": "1000M"}},
            500 * MIB,
            0,
            Reclaim(reclaim_bytes=500 * MIB, timeout_seconds=300, is_one_pass=True),
        ),
        ({"shrink": {"reclaim_bytes": 4096}}, 500 * MIB, 0, Reason.ASK_TOO_SMALL),
        (
            {"shrink": {"reclaim_percent": 25}},
            400 * MIB,
            0,
            Reclaim(reclaim_bytes=100 * MIB, timeout_seconds=300, is_one_pass=True),
        ),
        (
            {"shrink": {"reclaim_percent": 100}},
            400 * MIB,
            64 * MIB,
            Reclaim(reclaim_bytes=336 * MIB, timeout_seconds=300, is_one_pass=True),
        ),
        ({"limits": {"max_bytes": "256M"}}, 400 * MIB, 0, Resize({"max_bytes": 256 * MIB})),
        ({"limits": {"max_bytes": None}}, 400 * MIB, 0, Resize({"max_bytes": None})),
        (
            {"limits": {"max_bytes": "512M", "soft_limit_bytes": "1M"}},
            400 * MIB,
            0,
            Resize({"soft_limit_bytes": MIB}),
        ),
        ({"limits": {"max_bytes": "512M"}}, 400 * MIB, 0, Reason.LIMITS_KEPT),
        ({"limits": {"high_bytes": "5M"}}, 400 * MIB, 0, Reason.NO_SIGNAL),
        ({"switch": {"policy": "other", "enabled": False}}, 0, 0, Switch("other", enabled=False)),
        (
            {"switch": {"policy": "other", "enabled": True}},
            0,
            400 * MIB,
            Switch("other", enabled=True),
        ),
    ],
)
def test_when_it_is_due_it_asks_for_what_the_spec_says_above_the_floor(
    what: dict[str, Any], usage: int, floor: int, answer: Ask | Reason
) -> None:
    looks = Looks(kind, cron="0 3 * * *", **what)
    looks.look(seen(member(), wall=at("2026-03-04T02:59")))
    one = member(usage, limits=replace(TWO), floor_bytes=floor)
    decision = looks.look(seen(one, wall=at("2026-03-04T03:00")))
    assert (decision.ask or decision.reason) == answer
    assert decision.group == GROUP
    assert said(looks.look(seen(one, wall=at("2026-03-04T03:00:01")))) == NOT_DUE


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"cron": "0 3 * * *"}, "exactly one of shrink, limits and switch"),
        (
            NIGHTLY | {"switch": {"policy": "a", "enabled": True}},
            "exactly one of shrink, limits and switch",
        ),
        (
            NIGHTLY | {"shrink": {}},
            "exactly one of target_bytes, reclaim_bytes and reclaim_percent",
        ),
        (
            NIGHTLY | {"shrink": {"target_bytes": 1, "reclaim_bytes": 1}},
            "exactly one of target_bytes, reclaim_bytes and reclaim_percent",
        ),
        (NIGHTLY | {"shrink": {"reclaim_percent": 0}}, "greater than 0"),
        ({"cron": "0 3 * * *", "limits": {}}, "name at least one limit"),
        (
            {"cron": "0 3 * * *", "switch": {"policy": "Not A Name", "enabled": True}},
            "match pattern",
        ),
        (
            {"cron": "0 3 * * *", "switch": {"policy": "a", "enabled": True}, "jitter_seconds": 5},
            "leave jitter_seconds out",
        ),
        (NIGHTLY | {"cron": "0 25 * * *"}, "no cron expression of five fields (Bad hour)"),
        (NIGHTLY | {"timezone": "Mars/Olympus"}, "no time zone of the IANA list"),
        (NIGHTLY | {"misfire": "never"}, "'skip' or 'run_once'"),
        (NIGHTLY | {"grace_seconds": 0}, "greater than or equal to 1"),
        ({"shrink": {"target_bytes": 1}}, "Field required"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_with_a_reason(
    spec: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Schedule(**spec)
    assert sentence in str(caught.value)


def test_the_first_look_does_nothing_even_on_the_moment() -> None:
    assert walk(NIGHTLY | {"cron": "0 12 * * *"}, NOON.isoformat()) == [FIRST]
