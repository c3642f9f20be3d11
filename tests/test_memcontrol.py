"""The four routines against the simulator.

The contract of the 2008 mails, and the slips of the posted code that are not kept.

Races are scripted, not waited for: a task's cond_resched() runs what a test wants to happen between
two passes, and a clock read inside a verb what it wants to happen between two verbs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkd.backends import Group, Intent, LimitName, Limits, unrecorded
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.backends.simulator.machine.accounting import Kind, Process
from shrinkd.errors import (
    Busy,
    GroupBusy,
    GroupGone,
    Interrupted,
    LimitBelowUsage,
    LimitOrder,
    ShrinkdError,
    ShrinkStalled,
    TimedOut,
    UnsupportedLimit,
)
from shrinkd.memcontrol import (
    MEM_CGROUP_RECLAIM_RETRIES,
    Memcg,
    check_under_val,
    resize_limit,
    set_limit,
    set_limits,
    shrink_usage_to,
)
from shrinkd.settings import Settings
from shrinkd.sizes import PAGE_BYTES
from tests.support.scripted_task import ScriptedTask

MIB = 2**20


@dataclass
class Bench:
    """A group of a simulated machine on which somebody charges memory at the n-th verb from now."""

    at_verb: dict[int, Callable[[], object]] = field(default_factory=dict)
    verbs: int = 0
    kind: type[Simulator] = Simulator

    def __post_init__(self) -> None:
        self.simulator = self.kind(
            Settings(scenario="empty"), clock=self._tick, sleep=lambda _seconds: None
        )
        self.group: Group = self.simulator.make("group")
        with self.simulator.machine() as self.machine:
            self.process: Process = self.machine.start(self.machine.cgroups["group"])
        self.memcg = Memcg(self.simulator, self.group)

    def _tick(self) -> float:
        """Stand still, and let happen what is written for this verb.

        Every verb looks at the clock once, first of all.
        """
        self.verbs += 1
        self.at_verb.pop(self.verbs, lambda: None)()
        return 0.0

    def at(self, verb: int, happens: Callable[[], object]) -> None:
        self.at_verb[self.verbs + verb] = happens

    def charge(self, kind: Kind, size: int) -> None:
        """Charge without a verb, and so without a look at the clock."""
        self.machine.charge(self.process, kind, size // PAGE_BYTES)

    def anon(self, size: int) -> None:
        self.charge("anon", size)

    def cache(self, size: int) -> None:
        self.charge("file", size)

    def release(self, size: int) -> None:
        self.machine.release(self.process, "anon", size // PAGE_BYTES)

    def vanish(self) -> None:
        self.machine.exit(self.process)
        self.machine.remove(self.machine.cgroups["group"])

    def usage(self) -> int:
        return self.machine.cgroups["group"].usage * PAGE_BYTES

    def limit(self) -> int | None:
        return self.simulator.stat(self.group).limits.max_bytes


@pytest.fixture
def bench() -> Bench:
    return Bench()


# check_under_val and set_limit: patches 1/4 and 2/4


@pytest.mark.parametrize(
    ("val", "under"), [(16 * MIB - 1, False), (16 * MIB, False), (16 * MIB + 1, True), (0, False)]
)
def test_under_means_strictly_below(bench: Bench, val: int, *, under: bool) -> None:
    bench.anon(16 * MIB)
    assert check_under_val(bench.memcg, val) is under


def test_nothing_is_below_zero_not_even_an_empty_group(bench: Bench) -> None:
    assert not check_under_val(bench.memcg, 0)


@pytest.mark.parametrize("limit", [0, PAGE_BYTES, 15 * MIB, 16 * MIB])
def test_a_limit_at_or_below_usage_is_refused_with_every_number(bench: Bench, limit: int) -> None:
    bench.anon(4 * MIB)
    bench.cache(12 * MIB)
    with pytest.raises(LimitBelowUsage) as caught:
        set_limit(bench.memcg, limit)
    assert caught.value.members == {
        "group": bench.group,
        "field": "max_bytes",
        "requested_bytes": limit,
        "usage_bytes": 16 * MIB,
        "shortfall_bytes": 16 * MIB - limit + 1,
        "reclaimable_estimate_bytes": 12 * MIB,
        "peak_bytes": 16 * MIB,
        "current_max_bytes": None,
    }
    assert (bench.usage(), bench.limit()) == (16 * MIB, None)


def test_a_refusal_is_a_sentence_with_bytes_and_words(bench: Bench) -> None:
    bench.anon(16 * MIB)
    with pytest.raises(
        LimitBelowUsage,
        match=r"^Cannot set max_bytes to 8388608 \(8 MiB\): "
        r"the group uses 16777216 bytes \(16 MiB\)\.$",
    ):
        set_limit(bench.memcg, 8 * MIB)


def test_a_limit_just_above_usage_is_set(bench: Bench) -> None:
    bench.anon(16 * MIB)
    set_limit(bench.memcg, 16 * MIB + PAGE_BYTES)
    assert bench.limit() == 16 * MIB + PAGE_BYTES


def test_a_charge_between_the_look_and_the_write_is_a_refusal_too(bench: Bench) -> None:
    bench.anon(8 * MIB)
    bench.at(2, lambda: bench.anon(8 * MIB))
    with pytest.raises(LimitBelowUsage) as caught:
        set_limit(bench.memcg, 12 * MIB)
    assert isinstance(caught.value.__cause__, Busy)
    assert caught.value.members["usage_bytes"] == 16 * MIB
    assert bench.limit() is None


def test_no_limit_is_never_below_usage(bench: Bench) -> None:
    bench.anon(8 * MIB)
    set_limit(bench.memcg, 16 * MIB)
    set_limits(bench.memcg, {"max_bytes": None})
    assert bench.limit() is None


def test_other_limits_need_no_look_at_usage(bench: Bench) -> None:
    bench.anon(8 * MIB)
    set_limits(bench.memcg, {"soft_limit_bytes": MIB})
    assert bench.simulator.stat(bench.group).limits.soft_limit_bytes == MIB


def test_a_refused_maximum_takes_the_other_limits_with_it(bench: Bench) -> None:
    bench.anon(8 * MIB)
    with pytest.raises(LimitBelowUsage):
        set_limits(bench.memcg, {"soft_limit_bytes": MIB, "max_bytes": MIB})
    assert bench.simulator.stat(bench.group).limits.soft_limit_bytes is None


def test_a_dry_run_refuses_alike_and_sets_nothing(bench: Bench) -> None:
    bench.anon(8 * MIB)
    with pytest.raises(LimitBelowUsage):
        set_limits(bench.memcg, {"max_bytes": MIB}, dry_run=True)
    set_limits(bench.memcg, {"max_bytes": 16 * MIB}, dry_run=True)
    assert bench.limit() is None


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"swap_max_bytes": MIB}, LimitOrder),
        ({"max_bytes": 16 * MIB, "high_bytes": MIB}, UnsupportedLimit),
    ],
)
def test_other_refusals_of_the_controller_pass_unchanged(
    bench: Bench, changes: Mapping[LimitName, int | None], error: type[ShrinkdError]
) -> None:
    with pytest.raises(error):
        set_limits(bench.memcg, changes)


class Cautious(Simulator):
    """A controller that wants a MiB of room below a maximum for a group that grows.

    Here all of them do.
    """

    def set_limits(
        self,
        group: Group,
        changes: Mapping[LimitName, int | None],
        *,
        intent: Intent = unrecorded,
        dry_run: bool = False,
    ) -> Limits:
        if (changes["max_bytes"] or 0) - self.usage(group) < MIB:
            raise GroupBusy("It grows.", room_bytes=MIB)
        return super().set_limits(group, changes, intent=intent, dry_run=dry_run)


def test_a_limit_that_is_too_close_says_how_much_room_is_wanted_and_how_much_is_missing() -> None:
    bench = Bench(kind=Cautious)
    bench.anon(16 * MIB)
    with pytest.raises(
        LimitBelowUsage,
        match="grows too fast to be limited so closely: 1048576 bytes of room are wanted",
    ) as caught:
        set_limit(bench.memcg, 16 * MIB + MIB // 4)
    assert caught.value.members["room_bytes"] == MIB
    assert caught.value.members["shortfall_bytes"] == MIB * 3 // 4
    assert bench.limit() is None


def test_a_resize_that_comes_too_close_shrinks_further_by_the_room_that_is_wanted() -> None:
    bench = Bench(kind=Cautious)
    bench.cache(32 * MIB)
    current = ScriptedTask()
    resize_limit(bench.memcg, 16 * MIB, current)
    assert bench.limit() == 16 * MIB
    assert 14 * MIB <= bench.usage() <= 15 * MIB
    assert [bool(done.progress) for done in current.passes] == [True, False, True]


# shrink_usage_to: patches 3/4 and 4/4


@dataclass(frozen=True)
class Case:
    """A shrink: memory before, target, and what is left of it and of the retries."""

    anon: int
    cache: int
    target: int
    usage: int
    retries: int | None
    """None: it stalled."""
    passes: int


@pytest.mark.parametrize(
    "case",
    [
        Case(4, 60, 32 * MIB, usage=32 * MIB - 32 * PAGE_BYTES, retries=5, passes=1),
        Case(4, 60, 64 * MIB, usage=64 * MIB - 32 * PAGE_BYTES, retries=5, passes=1),
        Case(4, 60, 64 * MIB + 1, usage=64 * MIB, retries=5, passes=0),
        Case(4, 60, 4 * MIB + PAGE_BYTES, usage=4 * MIB, retries=5, passes=1),
        Case(4, 60, 4 * MIB, usage=4 * MIB, retries=None, passes=6),
        Case(16, 0, 8 * MIB, usage=16 * MIB, retries=None, passes=5),
        Case(0, 16, 0, usage=0, retries=None, passes=6),
        Case(0, 0, 0, usage=0, retries=None, passes=5),
        Case(0, 0, PAGE_BYTES, usage=0, retries=5, passes=0),
    ],
    ids=lambda case: f"{case.anon}M anon, {case.cache}M cache to {case.target}",
)
def test_a_shrink_ends_where_the_mails_say(bench: Bench, case: Case) -> None:
    bench.anon(case.anon * MIB)
    bench.cache(case.cache * MIB)
    current = ScriptedTask()
    if case.retries is None:
        with pytest.raises(ShrinkStalled) as caught:
            shrink_usage_to(bench.memcg, case.target, current)
        assert caught.value.errname == "EBUSY"
        assert (caught.value.members["usage_bytes"], caught.value.members["target_bytes"]) == (
            case.usage,
            case.target,
        )
    else:
        assert shrink_usage_to(bench.memcg, case.target, current) == case.retries
    assert (bench.usage(), len(current.passes), bench.limit()) == (case.usage, case.passes, None)


def test_the_task_hears_of_every_pass(bench: Bench) -> None:
    bench.anon(4 * MIB)
    bench.cache(MIB)
    current = ScriptedTask(largest_bytes=MIB)
    with pytest.raises(ShrinkStalled):
        shrink_usage_to(bench.memcg, MIB, current)
    assert [done.progress for done in current.passes] == [MIB, 0, 0, 0, 0, 0]
    assert [done.retry_count for done in current.passes] == [5, 4, 3, 2, 1, 0]
    assert {done.usage_bytes for done in current.passes} == {4 * MIB}


def test_a_task_grants_each_pass_what_it_may_free(bench: Bench) -> None:
    bench.cache(16 * MIB)
    current = ScriptedTask(largest_bytes=MIB)
    shrink_usage_to(bench.memcg, 12 * MIB + 1, current)
    assert [done.progress for done in current.passes] == [MIB] * 4


def test_success_is_looked_at_before_a_signal(bench: Bench) -> None:
    bench.cache(16 * MIB)
    current = ScriptedTask()
    current.then[1] = current.interrupt
    shrink_usage_to(bench.memcg, 8 * MIB, current)
    assert bench.usage() < 8 * MIB


def test_a_signal_is_looked_at_before_the_first_pass(bench: Bench) -> None:
    bench.cache(16 * MIB)
    current = ScriptedTask()
    current.interrupt()
    with pytest.raises(Interrupted):
        shrink_usage_to(bench.memcg, 8 * MIB, current)
    assert bench.usage() == 16 * MIB


def test_a_signal_is_looked_at_before_giving_up(bench: Bench) -> None:
    bench.anon(16 * MIB)
    current = ScriptedTask()
    current.then[MEM_CGROUP_RECLAIM_RETRIES] = current.interrupt
    with pytest.raises(Interrupted):
        shrink_usage_to(bench.memcg, 8 * MIB, current)


def test_a_deadline_is_a_signal_of_another_kind(bench: Bench) -> None:
    bench.cache(16 * MIB)
    current = ScriptedTask(largest_bytes=MIB)
    current.then[3] = lambda: setattr(current, "pending", TimedOut("Too long."))
    with pytest.raises(TimedOut):
        shrink_usage_to(bench.memcg, 8 * MIB, current)
    assert bench.usage() == 13 * MIB


def test_progress_forgives_no_fruitless_pass(bench: Bench) -> None:
    bench.anon(16 * MIB)
    current = ScriptedTask({2: lambda: bench.cache(MIB), 4: lambda: bench.cache(MIB)})
    with pytest.raises(ShrinkStalled):
        shrink_usage_to(bench.memcg, 8 * MIB, current)
    assert [bool(done.progress) for done in current.passes] == [
        False,
        False,
        True,
        False,
        True,
        False,
        False,
    ]


def test_memory_that_goes_by_itself_is_success_and_no_progress(bench: Bench) -> None:
    bench.anon(16 * MIB)
    current = ScriptedTask({2: lambda: bench.release(12 * MIB)})
    assert shrink_usage_to(bench.memcg, 8 * MIB, current) == 3


@pytest.mark.parametrize("verb", range(1, 8))
def test_a_group_that_goes_before_any_verb_ends_its_shrink(bench: Bench, verb: int) -> None:
    bench.cache(16 * MIB)
    bench.at(verb, bench.vanish)
    with pytest.raises(GroupGone):
        shrink_usage_to(bench.memcg, 4 * MIB, ScriptedTask(largest_bytes=MIB))


@given(
    anon=st.integers(0, 64),
    cache=st.integers(0, 64),
    target=st.integers(0, 130),
    grant=st.integers(1, 64),
)
def test_a_shrink_succeeds_exactly_when_the_rest_is_below_its_target(
    anon: int, cache: int, target: int, grant: int
) -> None:
    bench = Bench()
    bench.anon(anon * MIB)
    bench.cache(cache * MIB)
    try:
        shrink_usage_to(bench.memcg, target * MIB, ScriptedTask(largest_bytes=grant * MIB))
    except ShrinkStalled:
        assert anon >= target
        assert bench.usage() == anon * MIB
    else:
        assert anon < target
        assert bench.usage() < target * MIB
    assert bench.limit() is None


# resize_limit: patch 3/4


def test_a_resize_shrinks_then_sets(bench: Bench) -> None:
    bench.anon(4 * MIB)
    bench.cache(60 * MIB)
    resize_limit(bench.memcg, 16 * MIB, ScriptedTask())
    assert bench.limit() == 16 * MIB
    assert bench.usage() == 16 * MIB - 32 * PAGE_BYTES


def test_a_failed_resize_keeps_what_it_reclaimed_and_moves_no_limit(bench: Bench) -> None:
    bench.anon(16 * MIB)
    bench.cache(16 * MIB)
    set_limit(bench.memcg, 64 * MIB)
    with pytest.raises(ShrinkStalled):
        resize_limit(bench.memcg, 8 * MIB, ScriptedTask())
    assert (bench.usage(), bench.limit()) == (16 * MIB, 64 * MIB)


def test_a_charge_between_shrinking_and_setting_is_shrunk_again(bench: Bench) -> None:
    bench.cache(32 * MIB)
    bench.at(
        6, lambda: bench.cache(8 * MIB)
    )  # usage, usage, reclaim, usage, usage; and now the usage of set_limit
    current = ScriptedTask()
    resize_limit(bench.memcg, 16 * MIB, current)
    assert bench.limit() == 16 * MIB
    assert [bool(done.progress) for done in current.passes] == [True, False, True]


@pytest.mark.parametrize("verb", range(1, 8))
def test_a_group_that_goes_before_any_verb_ends_its_resize(bench: Bench, verb: int) -> None:
    bench.cache(16 * MIB)
    bench.at(
        verb, bench.vanish
    )  # usage, usage, reclaim, usage, usage; then the usage and the write of set_limit
    with pytest.raises(GroupGone):
        resize_limit(bench.memcg, 12 * MIB, ScriptedTask())


# The slips of the posted code


def test_slip_1_the_error_of_a_shrink_reaches_its_writer(bench: Bench) -> None:
    bench.anon(16 * MIB)
    with pytest.raises(ShrinkStalled):
        resize_limit(bench.memcg, 8 * MIB, ScriptedTask())
    current = ScriptedTask()
    current.interrupt()
    with pytest.raises(Interrupted):
        resize_limit(bench.memcg, 8 * MIB, current)


def test_slip_2_a_resize_ends_when_the_limit_is_set_and_goes_on_when_it_is_not(
    bench: Bench,
) -> None:
    bench.cache(32 * MIB)
    bench.at(6, lambda: bench.cache(8 * MIB))
    resize_limit(bench.memcg, 16 * MIB, ScriptedTask())
    assert bench.limit() == 16 * MIB
    verbs = bench.verbs
    resize_limit(bench.memcg, 64 * MIB, ScriptedTask())
    assert bench.limit() == 64 * MIB
    assert (
        bench.verbs == verbs + 4
    )  # the shrink's look, the set's, the set, and limit() of this test: no second round


def test_slip_3_looking_takes_no_lock(bench: Bench) -> None:
    bench.anon(MIB)
    seen: list[bool] = []
    bench.at(
        1, lambda: seen.append(bench.usage() == MIB)
    )  # a charge or a look in the middle of a look would wait for ever
    assert check_under_val(bench.memcg, 2 * MIB)
    assert seen == [True]


def test_slip_4_a_set_that_keeps_failing_still_hears_signals(bench: Bench) -> None:
    bench.cache(8 * MIB)
    bench.at(2, lambda: bench.cache(16 * MIB))  # the shrink looks: below. The set looks: above
    current = ScriptedTask()
    current.interrupt()
    with pytest.raises(Interrupted) as caught:
        resize_limit(bench.memcg, 16 * MIB, current)
    assert isinstance(caught.value.__cause__, LimitBelowUsage)
    assert bench.limit() is None


def test_slip_5_one_budget_bounds_a_race_against_a_fast_charger(bench: Bench) -> None:
    bench.cache(8 * MIB)
    current = ScriptedTask(always=lambda: race_again(bench))
    race_again(bench)
    with pytest.raises(ShrinkStalled):
        resize_limit(bench.memcg, 16 * MIB, current)
    assert [done.retry_count for done in current.passes] == [4, 3, 2, 1, 0]
    assert bench.limit() is None


def race_again(bench: Bench) -> None:
    """Be below the limit at the shrink's next reading, and above it at the following set's."""
    bench.machine.reclaim(bench.process.cgroup, 16 * MIB // PAGE_BYTES)
    bench.at(2, lambda: bench.cache(16 * MIB))
