"""Policies on a simulated machine.

Decided by the plan alone, beside the same machine without them, and what each ask comes to there.
"""

from typing import Any

import pytest
from pydantic import ValidationError

from shrinkd.simulation.run import GroupReport, Plan, Report, simulate
from tests.support.policy_samples import MIB

ROOM = {"name": "room", "kind": "watermark", "selector": {"group": "*"}, "floor": {"bytes": 0}}
SPIKES: dict[str, Any] = {"scenario": "spikes", "policies": [ROOM], "duration_seconds": 90}


def still(*groups: dict[str, Any]) -> dict[str, Any]:
    """A machine on which nothing happens by itself."""
    return {"profile": "v2", "groups": list(groups)}


def cache(path: str, size: str, **place: Any) -> dict[str, Any]:
    return {
        "path": path,
        "memory": [{"kind": "file", "size_bytes": size, "heat_seconds": "cold"}],
        **place,
    }


def lived(**plan: Any) -> Report:
    *_, report = simulate(Plan.model_validate({"duration_seconds": 20} | plan))
    assert isinstance(report, Report)
    return report


def by_path(reports: tuple[GroupReport, ...]) -> dict[str, GroupReport]:
    return {report.path: report for report in reports}


@pytest.fixture(scope="module")
def spikes() -> Report:
    return lived(**SPIKES)


def test_the_same_plan_comes_to_the_same(spikes: Report) -> None:
    assert lived(**SPIKES) == spikes


def test_beside_it_the_same_machine_lives_without_policies(spikes: Report) -> None:
    bare = lived(**SPIKES | {"policies": []})
    assert (bare.baseline, bare.decisions, bare.saved_bytes) == (spikes.baseline, {}, 0)
    assert [report.path for report in spikes.groups] == [report.path for report in spikes.baseline]
    assert all(report.saved_bytes == report.reclaimed_bytes == 0 for report in bare.groups)


def test_a_watermark_keeps_a_writer_off_its_limit(spikes: Report) -> None:
    without, with_it = (
        by_path(reports)["writer"].limit_hits for reports in (spikes.baseline, spikes.groups)
    )
    assert without > 100
    assert with_it == 0
    assert by_path(spikes.groups)["writer"].reclaimed_bytes > 0
    assert spikes.decisions["room"]["act"] > 0


def test_what_is_saved_is_what_the_other_machine_uses_more() -> None:
    night = {"name": "night", "kind": "limit", "selector": {"group": "web"}, "floor": {"bytes": 0}}
    report = lived(
        scenario=still(cache("web", "512M"), cache("db", "128M")),
        policies=[night | {"spec": {"limits": {"max_bytes": "256M"}}}],
    )
    web, db = by_path(report.groups)["web"], by_path(report.groups)["db"]
    assert (
        web.end_usage_bytes < 257 * MIB,
        by_path(report.baseline)["web"].end_usage_bytes >= 512 * MIB,
    ) == (True, True)
    assert (
        web.saved_bytes == by_path(report.baseline)["web"].mean_usage_bytes - web.mean_usage_bytes
    )
    assert (report.saved_bytes, db.saved_bytes, db.seconds_to_50_percent) == (
        web.saved_bytes,
        0,
        None,
    )
    assert 0 < (web.seconds_to_50_percent or 0) < (web.seconds_to_90_percent or 0) <= 20


def test_a_limit_below_usage_is_shrunk_to_and_kept_and_nobody_dies_for_it() -> None:
    keep = {
        "name": "keep",
        "kind": "limit",
        "selector": {"group": "web"},
        "spec": {"limits": {"max_bytes": "256M"}},
    }
    report = lived(scenario=still(cache("web", "512M")), policies=[keep])
    (web,) = report.groups
    assert (web.reclaimed_bytes >= 256 * MIB, web.end_usage_bytes <= 256 * MIB, web.oom_kills) == (
        True,
        True,
        0,
    )
    assert report.decisions["keep"]["hold"] > 0


def test_a_limit_that_cannot_be_reached_is_not_set() -> None:
    stuck = {"path": "web", "memory": [{"kind": "unevictable", "size_bytes": "512M"}]}
    keep = {
        "name": "keep",
        "kind": "limit",
        "selector": {"group": "web"},
        "spec": {"limits": {"max_bytes": "256M"}},
    }
    report = lived(scenario=still(stuck), policies=[keep])
    assert (report.groups[0].oom_kills, report.groups[0].end_usage_bytes >= 512 * MIB) == (0, True)
    assert report.decisions["keep"].keys() == {"act", "backoff"}


@pytest.mark.parametrize(
    ("starts_at", "is_switched"), [("2026-01-01T00:00:50Z", True), ("2026-01-01T00:01:10Z", False)]
)
def test_a_schedule_switches_another_policy_by_the_calendar_of_the_plan(
    starts_at: str, *, is_switched: bool
) -> None:
    off = {
        "name": "keep",
        "kind": "limit",
        "enabled": False,
        "selector": {"group": "web"},
        "spec": {"limits": {"max_bytes": "256M"}},
    }
    on = {"cron": "1 0 * * *", "switch": {"policy": "keep", "enabled": True}}
    nightly = {"name": "nightly", "kind": "schedule", "selector": {"group": "web"}, "spec": on}
    report = lived(
        scenario=still(cache("web", "512M")), policies=[off, nightly], starts_at=starts_at
    )
    assert (report.groups[0].end_usage_bytes < 257 * MIB) == is_switched
    assert ("keep" in report.decisions) == is_switched


def test_what_a_policy_that_only_observes_would_do_is_counted_and_not_done() -> None:
    room = ROOM | {"mode": "observe", "spec": {"high": "256M", "low": "128M"}}
    report = lived(scenario=still(cache("web", "512M")), policies=[room])
    assert report.decisions["room"].keys() == {"would_act"}
    assert (report.saved_bytes, report.groups[0].reclaimed_bytes) == (0, 0)


def test_progress_is_told_from_nothing_to_all() -> None:
    *news, last = simulate(Plan.model_validate(SPIKES | {"duration_seconds": 30}))
    told = [ratio for ratio in news if isinstance(ratio, float)]
    assert (told[0], told, isinstance(last, Report)) == (0, sorted(told), True)
    assert len(told) == len(news) == 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scenario": "nowhere"}, "no scenario 'nowhere'"),
        ({"policies": [ROOM, ROOM]}, "same name"),
        ({"duration_seconds": 7 * 86400, "step_seconds": 0.1}, "steps"),
        ({"duration_seconds": 0}, "greater than 0"),
        ({"starts_at": "2026-01-01T00:00:00"}, "timezone"),
        ({"starts_at": 0}, "RFC 3339"),
        ({"policies": [ROOM | {"kind": "magic"}]}, "magic"),
    ],
)
def test_a_plan_that_cannot_be_lived_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Plan.model_validate(SPIKES | wrong)
