"""limit: what has to be written so that the limits are as wanted, and when it is tried again."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from shrinkd.backends import LimitName, Limits
from shrinkd.policies import Decision, Outcome, Reason, Resize, Verdict
from shrinkd.policies.kinds.limit import KeepLimits, kind
from shrinkd.sizes import UNLIMITED
from tests.support.group_views import MIB, Looks, member, seen

V2 = Limits(
    512 * MIB,
    high_bytes=None,
    low_bytes=0,
    min_bytes=0,
    swap_max_bytes=None,
    unsupported=("soft_limit_bytes",),
)
V1 = Limits(512 * MIB, soft_limit_bytes=None, unsupported=("high_bytes", "low_bytes", "min_bytes"))
TAKEN = Outcome(0, 0, 0.1)
REFUSED = Outcome(0, 0, 0.1, "EBUSY")
KEPT = (Verdict.HOLD, Reason.LIMITS_KEPT)
ACT = (Verdict.ACT, Reason.LIMITS_DRIFTED)
BACKOFF = (Verdict.BACKOFF, Reason.LIMITS_DRIFTED)


def said(decision: Decision) -> tuple[Verdict, Reason]:
    return decision.verdict, decision.reason


@pytest.mark.parametrize(
    ("wanted", "held", "written"),
    [
        ({"max_bytes": "512M"}, V2, None),
        ({"max_bytes": "256M"}, V2, {"max_bytes": 256 * MIB}),
        ({"max_bytes": None}, V2, {"max_bytes": None}),
        ({"max_bytes": "max"}, replace(V2, max_bytes=None), None),
        ({"max_bytes": 512 * MIB + 4095}, V2, None),
        ({"max_bytes": 2**63 - 1}, replace(V2, max_bytes=None), None),
        ({"max_bytes": UNLIMITED}, V2, {"max_bytes": None}),
        ({"high_bytes": "400M", "max_bytes": "512M"}, V2, {"high_bytes": 400 * MIB}),
        (
            {"high_bytes": "400M", "low_bytes": "1M"},
            V2,
            {"high_bytes": 400 * MIB, "low_bytes": MIB},
        ),
        ({"high_bytes": "400M", "max_bytes": "512M"}, V1, None),
        ({"low_bytes": None, "min_bytes": 0}, V2, None),
        (
            {"low_bytes": None, "min_bytes": "max"},
            replace(V2, low_bytes=MIB),
            {"low_bytes": 0, "min_bytes": UNLIMITED},
        ),
        (
            {"low_bytes": "max", "min_bytes": 2**63 - 1},
            replace(V2, low_bytes=UNLIMITED, min_bytes=UNLIMITED),
            None,
        ),
        (
            {"soft_limit_bytes": "400M", "max_bytes": 0},
            V1,
            {"max_bytes": 0, "soft_limit_bytes": 400 * MIB},
        ),
    ],
)
def test_what_differs_is_written_and_what_is_absent_is_left_alone(
    wanted: dict[str, Any], held: Limits, written: dict[LimitName, int | None] | None
) -> None:
    decision = Looks(kind, limits=wanted).look(seen(member(limits=held)))
    assert said(decision) == (KEPT if written is None else ACT)
    assert decision.ask == (None if written is None else Resize(written))
    assert decision.look_seconds == 10


def test_a_drift_is_told_with_both_numbers() -> None:
    decision = Looks(kind, limits={"max_bytes": "256M"}).look(seen(member(limits=V2)))
    assert decision.signals == {"max_bytes": 512 * MIB, "wanted_max_bytes": 256 * MIB}


def test_a_drift_of_a_protection_is_told_in_the_words_of_the_api() -> None:
    decision = Looks(kind, limits={"low_bytes": "max"}).look(seen(member(limits=V2)))
    assert decision.signals == {"low_bytes": 0, "wanted_low_bytes": "max"}


def test_limits_that_this_kernel_does_not_have_are_not_called_kept() -> None:
    decision = Looks(kind, limits={"high_bytes": "1M"}).look(seen(member(limits=V1)))
    assert said(decision) == (Verdict.HOLD, Reason.NO_SIGNAL)


def test_it_looks_as_often_as_the_spec_says() -> None:
    assert (
        Looks(kind, limits={"max_bytes": "512M"}, interval_seconds=3)
        .look(seen(member(limits=V2)))
        .look_seconds
        == 3
    )


@pytest.mark.parametrize("outcome", [REFUSED, TAKEN])
def test_a_change_that_is_refused_or_does_not_last_is_tried_later_and_later(
    outcome: Outcome,
) -> None:
    looks, at, waits = Looks(kind, limits={"max_bytes": "256M"}), 100.0, []
    assert said(looks.look(seen(member(limits=V2), at=at))) == ACT
    for _ in range(7):
        decision = looks.look(seen(member(limits=V2, outcome=outcome), at=at))
        assert said(decision) == BACKOFF
        waits.append(decision.look_seconds)
        assert (
            said(looks.look(seen(member(limits=V2), at=at + decision.look_seconds / 2))) == BACKOFF
        )
        at += decision.look_seconds
        assert said(looks.look(seen(member(limits=V2), at=at))) == ACT
    assert waits == [10, 20, 40, 80, 160, 300, 300]


def test_a_drift_after_limits_were_kept_is_repaired_at_once() -> None:
    looks = Looks(kind, limits={"max_bytes": "256M"})
    looks.look(seen(member(limits=V2, outcome=REFUSED), at=100))
    assert said(looks.look(seen(member(limits=replace(V2, max_bytes=256 * MIB)), at=105))) == KEPT
    assert said(looks.look(seen(member(limits=V2), at=106))) == ACT


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({}, "Field required"),
        ({"limits": {}}, "name at least one limit to keep"),
        ({"limits": {"max": "1M"}}, "not permitted"),
        ({"limits": {"max_bytes": "1MB"}}, "write MiB"),
        ({"limits": {"max_bytes": -1}}, "not negative"),
        ({"limits": {"max_bytes": 1}, "interval_seconds": 0.5}, "greater than or equal to 1"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_with_a_reason(
    spec: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        KeepLimits(**spec)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("more", [{}, {"exclude_unset": True}])
def test_limits_come_back_from_json_as_they_were_named(more: dict[str, Any]) -> None:
    spec = KeepLimits.model_validate({"limits": {"max_bytes": None, "low_bytes": "1M"}})
    again = KeepLimits.model_validate(
        spec.model_dump(mode="json", **more) | {"interval_seconds": 10}
    )
    assert again.limits.model_fields_set == {"max_bytes", "low_bytes"}
    assert KeepLimits.model_validate_json(spec.model_dump_json()).limits.model_fields_set == {
        "max_bytes",
        "low_bytes",
    }
