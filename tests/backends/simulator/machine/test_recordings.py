"""Recordings.

An answer of the API becomes a group that uses the same, and what is no recording is pointed at.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from shrinkd.backends.simulator.backend import Simulator
from shrinkd.backends.simulator.controls import Recording, Scenario, with_recordings
from shrinkd.settings import Settings
from shrinkd.simulation.run import Plan, Report, simulate
from shrinkd.strict_model import pointer

MIB = 2**20
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
Values = list[int | None]


def answer(
    usage: Values,
    anon: Values | None = None,
    file: Values | None = None,
    *,
    begins: datetime = NOON,
    **given: Any,
) -> Any:
    """What GET …/stats/history says, in MiB."""
    series = {
        "usage_bytes": usage,
        "anon_bytes": anon,
        "file_bytes": file,
        "some_total_microseconds": [0] * len(usage),
    }
    told = {
        name: [value and value * MIB for value in values]
        for name, values in series.items()
        if values is not None
    }
    times = [
        (begins + timedelta(seconds=10 * number)).isoformat().replace("+00:00", "Z")
        for number in range(len(usage))
    ]
    return {
        "group": {"id": "7", "path": "web"},
        "step_seconds": 10,
        "times": times,
        "series": told,
    } | given


def recording(*values: Any, path: str = "web", **given: Any) -> Recording:
    return Recording.model_validate({"path": path, "history": answer(*values)} | given)


class Replayed:
    """A machine of recordings alone, whose time is put forward."""

    def __init__(self, *recordings: Recording, **scenario: Any) -> None:
        made = with_recordings(Scenario.model_validate(scenario), recordings)
        self.machine = Simulator(Settings(), clock=lambda: 0.0, scenario=made)

    def used(self, path: str = "web", steps: int = 1) -> list[tuple[int, int, int]]:
        """Usage, anon and file in MiB, in the middle of each step of 10 s."""
        (group,) = self.machine.groups(path, depth=0)
        seen = []
        for _ in range(steps):
            self.machine.time.advance(5)
            stat = self.machine.stat(group)
            seen.append(
                (
                    stat.usage_bytes // MIB,
                    (stat.anon_bytes or 0) // MIB,
                    (stat.file_bytes or 0) // MIB,
                )
            )
            self.machine.time.advance(5)
        return seen


def test_a_group_uses_what_was_recorded_kind_by_kind_and_begins_anew_at_the_end() -> None:
    replayed = Replayed(recording([100, 80, 140], [40, 40, 60], [50, 30, 80]))
    assert replayed.used(steps=4) == [(100, 40, 50), (80, 40, 30), (140, 60, 80), (100, 40, 50)]


def test_what_is_not_known_of_a_time_is_as_it_was_before() -> None:
    assert Replayed(recording([None, 80, None, 20])).used(steps=4) == [
        (80, 80, 0),
        (80, 80, 0),
        (80, 80, 0),
        (20, 20, 0),
    ]


def test_between_two_whole_readings_the_kinds_keep_their_shares() -> None:
    replayed = Replayed(recording([50, 100, 200, 40], [None, 40, None, 40], [None, 60, None, 0]))
    assert replayed.used(steps=4) == [(50, 20, 30), (100, 40, 60), (200, 80, 120), (40, 40, 0)]


def test_a_usage_of_no_known_kind_counts_as_anonymous_so_that_nothing_is_saved_by_a_guess() -> None:
    assert Replayed(recording([64])).used() == [(64, 64, 0)]


def test_counters_that_tell_of_more_than_is_used_are_shares_of_it() -> None:
    assert Replayed(recording([100], [60], [60])).used() == [(100, 50, 50)]


def test_recordings_of_one_host_stay_in_step() -> None:
    short = Recording.model_validate(
        {"path": "short", "history": answer([10, 20], begins=NOON + timedelta(seconds=10))}
    )
    replayed = Replayed(recording([1, 2, 3, 4]), short)
    groups = [replayed.machine.groups(path)[0] for path in ("web", "short")]
    seen = []
    for _ in range(6):
        replayed.machine.time.advance(5)
        seen.append(tuple(replayed.machine.usage(group) // MIB for group in groups))
        replayed.machine.time.advance(5)
    assert seen == [(1, 10), (2, 10), (3, 20), (4, 20), (1, 10), (2, 10)]


def test_a_recording_stands_beside_the_groups_of_a_scenario_under_a_limit_of_its_own() -> None:
    groups = [
        {"path": "box", "max_bytes": "1G"},
        {"path": "db", "memory": [{"kind": "anon", "size_bytes": "8M"}]},
    ]
    replayed = Replayed(
        recording([64], path="box/web", max_bytes="512M"), groups=groups, profile="v2"
    )
    assert replayed.used("box/web") == replayed.used("box") == [(64, 64, 0)]
    assert replayed.used("db") == [(8, 8, 0)]
    assert (
        replayed.machine.stat(replayed.machine.groups("box/web")[0]).limits.max_bytes == 512 * MIB
    )


def test_what_is_taken_comes_back_as_soon_as_its_heat_says() -> None:
    def after_a_minute(heat: str) -> int:
        replayed = Replayed(recording([64] * 12, [0] * 12, [64] * 12, heat_seconds=heat))
        replayed.used(steps=1)
        replayed.machine.reclaim(replayed.machine.groups("web")[0], 32 * MIB)
        return replayed.used(steps=6)[-1][0]

    assert (after_a_minute("hot"), after_a_minute("idle")) == (64, 32)


def plan(**given: Any) -> dict[str, Any]:
    return {
        "recordings": [{"path": "web", "history": answer([64, 128, 64])}],
        "duration_seconds": 30,
    } | given


def test_a_plan_of_recordings_alone_is_simulated_and_survives_being_handed_over() -> None:
    told = Plan.model_validate(plan())
    assert Plan.model_validate_json(told.model_dump_json(exclude_unset=True)) == told
    *_, report = simulate(told)
    assert isinstance(report, Report)
    (group,) = report.groups
    assert (group.path, round(group.mean_usage_bytes / MIB)) == ("web", 85)


WEB = plan()["recordings"][0]


@pytest.mark.parametrize(
    ("wrong", "where", "why"),
    [
        ({"recordings": []}, "#", "give a scenario, or recordings"),
        ({"recordings": [WEB, WEB]}, "#", "two recordings are of one path"),
        ({"recordings": [WEB, WEB | {"path": "web/inner"}]}, "#", "one inside the other"),
        ({"scenario": "demo"}, "#", "has a group 'web' of its own"),
        (
            {"scenario": "demo", "recordings": [WEB | {"path": "db/inner"}]},
            "#",
            "one inside the other",
        ),
        ({"scenario": {"memory_bytes": "100M"}}, "#", "the machine of the scenario has 104857600"),
        ({"recordings": [WEB | {"path": "a//b"}]}, "#/recordings/0/path", ""),
        ({"recordings": [WEB | {"max_bytes": -1}]}, "#/recordings/0/max_bytes", ""),
        ({"recordings": [{"path": "web"}]}, "#/recordings/0/history", "Field required"),
        ({"recordings": [WEB | {"heat_seconds": "mild"}]}, "#/recordings/0/heat_seconds", ""),
        ({"recordings": [WEB] * 33}, "#/recordings", "at most 32"),
    ],
)
def test_a_plan_of_recordings_that_cannot_be_is_pointed_at(
    wrong: dict[str, Any], where: str, why: str
) -> None:
    assert_refused(plan() | wrong, where, why)


@pytest.mark.parametrize(
    ("wrong", "where", "why"),
    [
        ({"times": []}, "#/times", ""),
        (
            {"times": ["2026-11-23T12:00:00Z"]},
            "#",
            "usage_bytes has 3 values, and there are 1 times",
        ),
        ({"times": ["2026-11-23T12:00:00Z"] * 3}, "#", "times go forward"),
        ({"times": ["2026-11-23T12:00:00", "x", 5]}, "#/times/0", "zone"),
        ({"times": ["x"]}, "#/times/0", "isoformat"),
        ({"times": [5]}, "#/times/0", "datetime"),
        ({"series": {"usage_bytes": [None] * 3}}, "#", "no value that is known"),
        ({"series": {}}, "#/series/usage_bytes", "Field required"),
        (
            {"series": {"usage_bytes": [1, 2, -3]}},
            "#/series/usage_bytes/2",
            "greater than or equal to 0",
        ),
        ({"series": {"usage_bytes": [1, 2, 3.5]}}, "#/series/usage_bytes/2", "integer"),
        (
            {"series": {"usage_bytes": [1, 2, 2**36 + 1]}},
            "#/series/usage_bytes/2",
            "less than or equal to",
        ),
        ({"series": {"usage_bytes": [1, 2, 3], "anon_bytes": [1]}}, "#", "anon_bytes has 1 values"),
        (
            {"series": {"usage_bytes": [1, 2, 3], "peak_bytes": [1, 2, 3]}},
            "#/series/peak_bytes",
            "Extra inputs",
        ),
        ({"items": []}, "#/items", "Extra inputs"),
    ],
)
def test_a_history_that_is_none_is_pointed_at(wrong: dict[str, Any], where: str, why: str) -> None:
    told = plan(recordings=[{"path": "web", "history": answer([64, 128, 64]) | wrong}])
    assert_refused(told, where.replace("#", "#/recordings/0/history"), why)


def assert_refused(told: dict[str, Any], where: str, why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Plan.model_validate(told)
    row = refused.value.errors()[0]
    assert pointer(row["loc"]) == where
    assert why in row["msg"]
