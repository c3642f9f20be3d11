"""watermark: when a pass begins, how far it is to go, and when the next one may."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from pydantic import ValidationError

from shrinkd.backends import Events, EventsMove, Limits, MemStat, UsageCrosses
from shrinkd.policies import Decision, Host, Outcome, Reason, Reclaim, Verdict
from shrinkd.policies.kinds.watermark import Marks, Watermark, kind, marks
from tests.support.group_views import MADE, MIB, Looks, member, seen

LIMIT = 256 * MIB
HIGH = LIMIT * 9 // 10
LOW = LIMIT * 85 // 100
CUT = Outcome(asked_bytes=20 * MIB, freed_bytes=5 * MIB, seconds=30, errname="ETIMEDOUT")
FRUITLESS = Outcome(asked_bytes=20 * MIB, freed_bytes=MIB, seconds=1, errname="EBUSY")
ACT = (Verdict.ACT, Reason.ABOVE_HIGH)
BELOW = (Verdict.HOLD, Reason.BELOW_HIGH)
COOLDOWN = (Verdict.COOLDOWN, Reason.COOLING_DOWN)
BACKOFF = (Verdict.BACKOFF, Reason.LITTLE_FREED)


def said(decision: Decision) -> tuple[Verdict, Reason]:
    return decision.verdict, decision.reason


@pytest.mark.parametrize(
    ("spec", "usage", "floor", "answer", "target"),
    [
        ({}, HIGH - 4096, 0, BELOW, None),
        ({}, HIGH, 0, ACT, LOW),
        ({}, LIMIT, 0, ACT, LOW),
        ({}, 0, 0, BELOW, None),
        ({"high": "50%", "low": "49%"}, 128 * MIB, 0, ACT, LIMIT * 49 // 100),
        ({"high": "92.5%", "low": "91.5%"}, LIMIT * 925 // 1000, 0, ACT, LIMIT * 915 // 1000),
        ({"high": "100M", "low": "84M"}, 100 * MIB - 1, 0, BELOW, None),
        ({"high": "100M", "low": "84M"}, 100 * MIB, 0, ACT, 84 * MIB),
        ({}, LIMIT, LOW + MIB, ACT, LOW + MIB),
        ({}, LIMIT, LOW - MIB, ACT, LOW),
        ({}, HIGH, HIGH, (Verdict.HOLD, Reason.AT_FLOOR), None),
        ({}, HIGH, LIMIT, (Verdict.HOLD, Reason.AT_FLOOR), None),
        ({}, HIGH, HIGH - MIB + 1, (Verdict.HOLD, Reason.ASK_TOO_SMALL), None),
        ({}, HIGH, HIGH - MIB, ACT, HIGH - MIB),
    ],
)
def test_a_pass_begins_at_high_and_goes_to_low_or_to_the_floor(
    spec: dict[str, Any], usage: int, floor: int, answer: tuple[Verdict, Reason], target: int | None
) -> None:
    decision = Looks(kind, **spec).look(seen(member(usage, limit=LIMIT, floor_bytes=floor)))
    assert said(decision) == answer
    assert decision.ask == (
        None if target is None else Reclaim(target_bytes=target, timeout_seconds=30)
    )


def test_a_pass_is_given_the_time_that_the_spec_says() -> None:
    decision = Looks(kind, max_pass_seconds=3).look(seen(member(LIMIT, limit=LIMIT)))
    assert decision.ask == Reclaim(target_bytes=LOW, timeout_seconds=3)


def test_between_the_marks_a_pass_that_was_cut_is_not_taken_up_again() -> None:
    looks = Looks(kind, cooldown_seconds=0)
    assert said(looks.look(seen(member(LIMIT, limit=LIMIT), at=0))) == ACT
    assert said(looks.look(seen(member(HIGH - MIB, limit=LIMIT, outcome=CUT), at=30))) == BELOW


@pytest.mark.parametrize(
    ("limits", "host", "found"),
    [
        (Limits(None), 8192 * MIB, None),
        (Limits(LIMIT, effective_max_bytes=LIMIT), 8192 * MIB, Marks(HIGH, LOW)),
        (Limits(None, effective_max_bytes=LIMIT), 8192 * MIB, Marks(HIGH, LOW)),
        (Limits(LIMIT, effective_max_bytes=100 * MIB), 8192 * MIB, Marks(90 * MIB, 85 * MIB)),
        (Limits(LIMIT, effective_max_bytes=LIMIT), LIMIT, None),
        (Limits(LIMIT, effective_max_bytes=LIMIT), LIMIT + 1, Marks(HIGH, LOW)),
        (Limits(10 * MIB, effective_max_bytes=10 * MIB), 8192 * MIB, Marks(9 * MIB, 8 * MIB)),
        (Limits(0, effective_max_bytes=0), 8192 * MIB, Marks(0, 0)),
    ],
)
def test_a_percentage_is_of_the_least_limit_below_the_host_s_total(
    limits: Limits, host: int, found: Marks | None
) -> None:
    stat = MemStat(4096, limits)
    assert marks(Watermark.model_validate({}), stat, host) == found
    answer = Looks(kind).look(seen(member(stat=stat), host=Host(host, host)))
    assert (answer.reason is Reason.NO_LIMIT) is (found is None)
    assert answer.ask is None


def test_bytes_need_no_limit() -> None:
    assert marks(
        Watermark.model_validate({"high": "100M", "low": "84M"}), MemStat(0, Limits(None)), 1
    ) == Marks(100 * MIB, 84 * MIB)


def test_a_high_that_usage_never_comes_to_is_refused() -> None:
    spec, below = Watermark.model_validate({"high": "100M", "low": "84M"}), 99 * MIB
    kind.check(spec, MemStat(0, Limits(None)), 1 << 40)
    kind.check(spec, MemStat(0, Limits(100 * MIB, effective_max_bytes=100 * MIB)), 1 << 40)
    with pytest.raises(ValueError, match="never comes to a high of 100 MiB: the limit is 99 MiB"):
        kind.check(spec, MemStat(0, Limits(below, effective_max_bytes=below)), 1 << 40)


@pytest.mark.parametrize(
    ("headroom", "growth", "look"),
    [
        (64 * MIB, 0, 1),
        (6400 * MIB, 0, 5),
        (MIB, 0, 0.1),
        (64 * MIB, 32 * MIB, 1),
        (64 * MIB, 128 * MIB, 0.25),
        (64 * MIB, 6400 * MIB, 0.1),
        (64 * MIB, -500 * MIB, 1),
    ],
)
def test_it_looks_again_before_twice_the_growth_could_reach_high(
    headroom: int, growth: int, look: float
) -> None:
    high = 10240 * MIB
    looks = Looks(kind, high=high, low=high - 16 * MIB)
    looks.look(seen(member(high - headroom - growth), at=100))
    decision = looks.look(seen(member(high - headroom), at=101))
    assert said(decision) == BELOW
    assert decision.look_seconds == look
    assert decision.signals["growth_bytes_per_second"] == max(growth, 0)


@pytest.mark.parametrize("told_after", [0.0, 0.25])
def test_a_pass_hides_nothing_of_how_fast_the_group_grows(told_after: float) -> None:
    looks = Looks(kind)
    looks.look(seen(member(HIGH - 64 * MIB, limit=LIMIT), at=100))
    looks.look(seen(member(HIGH, limit=LIMIT), at=100.25))
    usage = HIGH - MADE.freed_bytes + int(told_after * 256) * MIB
    after = looks.look(seen(member(usage, limit=LIMIT, outcome=MADE), at=100.25 + told_after))
    assert after.signals["growth_bytes_per_second"] == 256 * MIB
    later = looks.look(seen(member(usage, limit=LIMIT), at=105.25 + told_after))
    assert later.signals["growth_bytes_per_second"] == 128 * MIB


def test_a_batch_of_charges_right_after_a_look_is_no_torrent() -> None:
    looks = Looks(kind)
    looks.look(seen(member(100 * MIB, limit=LIMIT), at=100))
    assert (
        looks.look(seen(member(102 * MIB, limit=LIMIT), at=100.001)).signals[
            "growth_bytes_per_second"
        ]
        == 0
    )
    assert (
        looks.look(seen(member(102 * MIB, limit=LIMIT), at=101)).signals["growth_bytes_per_second"]
        == 2 * MIB
    )


def test_below_high_it_is_woken_by_usage_and_where_usage_is_silent_by_the_limit() -> None:
    silent = MemStat(0, Limits(LIMIT, effective_max_bytes=LIMIT), events=Events(max=0))
    assert Looks(kind).look(seen(member(0, limit=LIMIT))).wake_on == (UsageCrosses(HIGH),)
    assert Looks(kind).look(seen(member(stat=silent))).wake_on == (UsageCrosses(HIGH), EventsMove())


def test_the_watch_that_began_a_pass_outlives_it() -> None:
    assert Looks(kind).look(seen(member(LIMIT, limit=LIMIT))).wake_on == (UsageCrosses(HIGH),)


@pytest.mark.parametrize(
    ("outcome", "answer", "look"),
    [
        (MADE, ACT, None),
        (replace(MADE, freed_bytes=0), ACT, None),
        (CUT, COOLDOWN, 5),
        (replace(CUT, freed_bytes=2 * MIB), COOLDOWN, 5),
        (replace(CUT, freed_bytes=2 * MIB - 1), BACKOFF, 10),
        (replace(CUT, freed_bytes=0, errname="EINTR"), COOLDOWN, 5),
        (FRUITLESS, BACKOFF, 10),
    ],
)
def test_only_a_pass_that_did_not_make_it_is_followed_by_a_rest(
    outcome: Outcome, answer: tuple[Verdict, Reason], look: float | None
) -> None:
    looks = Looks(kind)
    looks.look(seen(member(LIMIT, limit=LIMIT), at=100))
    decision = looks.look(seen(member(LIMIT, limit=LIMIT, outcome=outcome), at=101))
    assert said(decision) == answer
    assert look in {None, decision.look_seconds}


def test_a_rest_ends_in_the_next_pass() -> None:
    looks = Looks(kind)
    assert said(looks.look(seen(member(LIMIT, limit=LIMIT, outcome=CUT), at=100))) == COOLDOWN
    assert said(looks.look(seen(member(LIMIT, limit=LIMIT), at=104.5))) == COOLDOWN
    assert said(looks.look(seen(member(LIMIT, limit=LIMIT), at=105))) == ACT


def test_passes_that_free_little_come_later_and_later() -> None:
    looks, at, waits = Looks(kind), 100.0, []
    for _ in range(7):
        decision = looks.look(seen(member(LIMIT, limit=LIMIT, outcome=FRUITLESS), at=at))
        assert said(decision) == BACKOFF
        waits.append(decision.look_seconds)
        at += decision.look_seconds
        assert said(looks.look(seen(member(LIMIT, limit=LIMIT), at=at))) == ACT
    assert waits == [10, 20, 40, 80, 160, 300, 300]


@pytest.mark.parametrize(("outcome", "usage"), [(MADE, LIMIT), (CUT, LIMIT), (None, LOW - 4096)])
def test_backing_off_begins_anew_once_memory_was_freed(outcome: Outcome | None, usage: int) -> None:
    looks = Looks(kind)
    looks.look(seen(member(LIMIT, limit=LIMIT, outcome=FRUITLESS), at=100))
    looks.look(seen(member(LIMIT, limit=LIMIT, outcome=FRUITLESS), at=110))
    looks.look(seen(member(usage, limit=LIMIT, outcome=outcome), at=131))
    assert (
        looks.look(seen(member(LIMIT, limit=LIMIT, outcome=FRUITLESS), at=140)).look_seconds == 10
    )


@dataclass
class Writer:
    """A group that writes page cache at one rate below 256 MiB, with passes that begin late.

    The kernel reclaims it at 1 GiB/s.
    """

    rate: int
    late_seconds: float = 0.02
    usage: float = 0
    hits: int = 0

    def live(self, looks: Looks, seconds: float, *, woken: bool) -> None:
        step, look_at, pass_at, target, outcome = 0.001, 0.0, 0.0, None, None
        for tick in range(int(seconds / step)):
            now, before = tick * step, self.usage
            self._write(step)
            crossed = woken and before < HIGH <= self.usage
            if target is not None and now >= pass_at:
                self.usage = max(self.usage - 1024 * MIB * step, target - 4096)
                if self.usage < target:
                    target, outcome, look_at = None, MADE, now
            if target is None and (now >= look_at or crossed):
                decision = looks.look(
                    seen(member(int(self.usage), limit=LIMIT, outcome=outcome), at=now)
                )
                outcome, look_at, pass_at = (
                    None,
                    now + decision.look_seconds,
                    now + self.late_seconds,
                )
                target = decision.ask.target_bytes if isinstance(decision.ask, Reclaim) else None

    def _write(self, seconds: float) -> None:
        self.usage += self.rate * seconds
        if self.usage >= LIMIT:
            self.hits += 1
            self.usage = LIMIT


@pytest.mark.parametrize("rate", [64 * MIB, 256 * MIB])
def test_a_writer_never_comes_to_its_limit_where_usage_wakes(rate: int) -> None:
    writer = Writer(rate)
    writer.live(Looks(kind), 15, woken=True)
    assert writer.hits == 0


@pytest.mark.parametrize("rate", [64 * MIB, 256 * MIB])
def test_a_writer_that_is_known_never_comes_to_its_limit_where_usage_is_polled(rate: int) -> None:
    writer, looks = Writer(rate), Looks(kind)
    writer.live(looks, 5, woken=False)
    writer.hits = 0
    writer.live(looks, 15, woken=False)
    assert writer.hits == 0


def test_without_a_policy_the_same_writer_does() -> None:
    writer = Writer(64 * MIB)
    writer.live(Looks(kind, high=2 * LIMIT, low=LIMIT), 15, woken=True)
    assert writer.hits > 0


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"high": "86%", "low": "85.5%"}, "at least 1 % below high"),
        ({"high": "80%"}, "at least 1 % below high"),
        ({"high": "32M", "low": "17M"}, "at least 16 MiB below high"),
        ({"high": "400M"}, "both in percent or both in bytes"),
        ({"high": "100%"}, "no percentage above 0% and below 100%"),
        ({"low": "0%"}, "no percentage above 0% and below 100%"),
        ({"low": "0.000%"}, "no percentage above 0% and below 100%"),
        ({"high": "090%"}, "no percentage above 0% and below 100%"),
        ({"high": "९०%"}, "no percentage above 0% and below 100%"),
        ({"high": "-1%"}, "no percentage above 0% and below 100%"),
        ({"high": "1e1%"}, "no percentage above 0% and below 100%"),
        ({"high": "90 %"}, "no percentage above 0% and below 100%"),
        ({"high": "90"}, "both in percent or both in bytes"),
        ({"high": "4.5G"}, "a size is decimal digits"),
        ({"high": 0.9}, "a size is an integer"),
        ({"high": True}, "a size is an integer"),
        ({"max_pass_seconds": 0}, "greater than or equal to 1"),
        ({"cooldown_seconds": -1}, "greater than or equal to 0"),
        ({"cool_down": 1}, "not permitted"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_with_a_reason(
    spec: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Watermark(**spec)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [{"high": "86%"}, {"high": 32 * MIB, "low": 16 * MIB}, {"high": "99.999%", "low": "0.001%"}],
)
def test_the_least_band_is_taken(spec: dict[str, Any]) -> None:
    assert spec.items() <= Watermark(**spec).model_dump().items()
