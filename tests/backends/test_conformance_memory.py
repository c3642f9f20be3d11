"""What every backend promises of readings, limits and passes, tried on every host.

Scenarios marked LTP and selftests are those of the kernel's own tests
(testcases/kernel/controllers/memcg, tools/testing/selftests/cgroup/test_memcontrol.c). No test
expects usage to stand still.
"""

import statistics
from concurrent.futures import ThreadPoolExecutor

import pytest

from shrinkd.backends import LIMIT_NAMES, PROTECTIONS, LimitName, from_kernel, to_kernel
from shrinkd.errors import Busy, GroupGone, LimitBelowUsage, UnsupportedLimit, UnsupportedOption
from shrinkd.memcontrol import Memcg, set_limits
from shrinkd.sizes import PAGE_BYTES, UNLIMITED
from tests.backends.hosts import MIB, Host, cache_of, on, parse_limit_file

# Reading


def test_stat_tells_memory_by_kind(host: Host) -> None:  # LTP memcg_stat
    group = host.group()
    host.charge(group, anon=8 * MIB, cache=16 * MIB)
    stat = host.backend.stat(group)
    assert stat.usage_bytes == pytest.approx(24 * MIB, abs=host.slack_bytes)
    assert stat.anon_bytes == pytest.approx(8 * MIB, abs=host.slack_bytes)
    assert stat.file_bytes == pytest.approx(16 * MIB, abs=host.slack_bytes)
    assert (stat.active_file_bytes or 0) + (stat.inactive_file_bytes or 0) == pytest.approx(
        16 * MIB, abs=host.slack_bytes
    )


def test_stat_tells_locked_memory(host: Host) -> None:  # LTP memcg_stat
    group = host.group()
    host.charge(group, locked=8 * MIB)
    assert host.backend.stat(group).unevictable_bytes == pytest.approx(
        8 * MIB, abs=host.slack_bytes
    )


def test_the_estimate_counts_cache_and_no_memory_that_has_nowhere_to_go(host: Host) -> None:
    if host.backend.node().swap_free_bytes:
        pytest.skip("this host has swap, so anonymous memory has somewhere to go")
    group = host.group()
    host.charge(group, anon=8 * MIB, locked=4 * MIB, cache=16 * MIB)
    assert host.backend.stat(group).reclaimable_estimate_bytes == pytest.approx(
        16 * MIB, abs=host.slack_bytes
    )


def test_the_peak_outlives_the_process(
    host: Host,
) -> None:  # LTP memcg_max_usage_in_bytes, selftests current_peak
    group = host.group()
    host.charge(group, anon=16 * MIB).stop()
    stat = host.backend.stat(group)
    if stat.peak_bytes is None:
        pytest.skip("this kernel keeps no peak")
    assert stat.usage_bytes <= host.slack_bytes
    assert stat.peak_bytes == pytest.approx(16 * MIB, abs=host.slack_bytes)


def test_memory_is_charged_to_every_ancestor_and_to_no_sibling(
    host: Host,
) -> None:  # LTP memcg_subgroup_charge
    outer = host.group()
    inner, other, sibling = host.group(outer), host.group(outer), host.group(outer)
    host.charge(inner, anon=8 * MIB)
    host.charge(other, anon=4 * MIB)
    assert host.backend.usage(inner) == pytest.approx(8 * MIB, abs=host.slack_bytes)
    assert host.backend.usage(outer) == pytest.approx(12 * MIB, abs=host.slack_bytes)
    assert host.backend.stat(outer).anon_bytes == pytest.approx(12 * MIB, abs=host.slack_bytes)
    assert host.backend.usage(sibling) <= host.slack_bytes


def test_control_files_are_shown_only_when_asked_for(host: Host) -> None:
    group = host.group()
    assert not host.backend.stat(group).raw
    assert host.backend.stat(group, raw=True).raw


def test_pressure_is_told_by_those_who_can(host: Host) -> None:
    pressure = host.backend.stat(host.group()).pressure
    if not host.backend.has_pressure:
        assert pressure is None
    elif pressure is not None:
        assert pressure.some.total_microseconds >= pressure.full.total_microseconds >= 0


# Limits


def test_a_limit_reads_back_as_it_was_set_and_can_be_taken_off(
    host: Host,
) -> None:  # LTP memcg_limit_in_bytes
    group = host.group()
    host.backend.set_limits(group, {"max_bytes": 64 * MIB + PAGE_BYTES})
    assert parse_limit_file(host, group) == 64 * MIB + PAGE_BYTES
    host.backend.set_limits(group, {"max_bytes": None})
    assert parse_limit_file(host, group) is None


def test_every_settable_limit_reads_back_beside_a_maximum(host: Host) -> None:
    group = host.group()
    wanted: dict[LimitName, int | None] = dict.fromkeys(host.backend.settable_limits, 32 * MIB)
    host.backend.set_limits(group, wanted)
    limits = host.backend.stat(group).limits
    assert {name: getattr(limits, name) for name in wanted} == wanted


@pytest.mark.parametrize("size", [None, 0, 32 * MIB, UNLIMITED])
def test_what_is_read_of_a_group_without_usage_can_be_written_and_changes_nothing(
    host: Host, size: int | None
) -> None:
    group = host.group()
    names = sorted(
        host.backend.settable_limits - (set() if size else {"max_bytes", "high_bytes"})
    )  # usage is never below 0
    wanted: dict[LimitName, int | None] = {
        name: from_kernel(name, to_kernel(name, size)) for name in names
    }
    host.backend.set_limits(group, wanted | {"max_bytes": wanted.get("max_bytes", 64 * MIB)})
    before = host.backend.stat(group).limits
    read = {
        name: getattr(before, name) for name in LIMIT_NAMES if name in host.backend.settable_limits
    }
    assert host.backend.set_limits(group, read) == before
    assert {name: read[name] for name in names} == wanted


@on("low_bytes", "min_bytes")
@pytest.mark.parametrize("name", sorted(PROTECTIONS))
def test_a_protection_as_if_never_set_is_that_of_a_new_group(host: Host, name: LimitName) -> None:
    group = host.group()
    new = host.backend.stat(group).limits
    assert getattr(host.backend.set_limits(group, {name: UNLIMITED}), name) == UNLIMITED
    assert host.backend.set_limits(group, {name: None}) == new
    assert getattr(new, name) == 0


def test_what_cannot_be_set_is_unsupported_and_refused(host: Host) -> None:
    group = host.group()
    unsupported = set(LIMIT_NAMES) - host.backend.settable_limits
    assert set(host.backend.stat(group).limits.unsupported) == unsupported
    for name in unsupported:
        with pytest.raises(UnsupportedLimit):
            host.backend.set_limits(group, {"max_bytes": 64 * MIB, name: 32 * MIB})
    assert parse_limit_file(host, group) is None


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("size", [8 * MIB, 32 * MIB, 256 * MIB, None])
def test_a_trial_answers_the_limits_that_the_change_leaves(
    host: Host, size: int | None, *, limited: bool
) -> None:
    outer = host.group()
    inner = host.group(outer)
    host.backend.set_limits(outer, {"max_bytes": 64 * MIB})
    if limited:
        host.backend.set_limits(inner, dict.fromkeys(host.backend.settable_limits, 128 * MIB))
    alone: dict[LimitName, int | None] = (
        {"max_bytes": size} if size else {}
    )  # None alone may contradict a limit of swap
    for change in (alone, dict.fromkeys(host.backend.settable_limits, size), {}):
        tried = host.backend.set_limits(inner, change, dry_run=True)
        assert host.backend.set_limits(inner, change) == tried == host.backend.stat(inner).limits


def test_a_group_that_was_only_tried_is_to_a_trial_what_a_new_one_is(host: Host) -> None:
    outer = host.group()
    host.backend.set_limits(outer, {"max_bytes": 64 * MIB})
    tried, made = host.backend.make(f"{outer.path}/tried", dry_run=True), host.group(outer)
    assert host.backend.usage(tried) == host.backend.stat(tried).usage_bytes == 0
    answers = []
    for group in (tried, made):
        answer = host.backend.set_limits(
            group, dict.fromkeys(host.backend.settable_limits, 96 * MIB), dry_run=True
        )
        effective = (answer.effective_max_bytes, answer.limited_by)
        assert effective == (64 * MIB, outer.path)
        answers.append((host.backend.stat(group).limits, answer))
        with pytest.raises(LimitBelowUsage):
            set_limits(Memcg(host.backend, group), {"max_bytes": 0}, dry_run=True)
    assert answers[0] == answers[1]


def test_a_group_that_was_only_tried_cannot_be_changed(host: Host) -> None:
    outer = host.group()
    tried = host.backend.make(f"{outer.path}/tried", dry_run=True)
    for verb in (
        lambda: host.backend.set_limits(tried, {"max_bytes": 64 * MIB}),
        lambda: host.backend.remove(tried),
        lambda: host.backend.reclaim(tried, MIB),
    ):
        with pytest.raises(GroupGone):
            verb()


def test_setting_on_trial_sets_nothing(host: Host) -> None:
    group = host.group()
    host.backend.set_limits(group, {"max_bytes": 64 * MIB}, dry_run=True)
    assert parse_limit_file(host, group) is None


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_maximum_below_usage_is_busy_and_costs_nothing(host: Host, *, dry_run: bool) -> None:
    group = host.group()
    worker = host.charge(group, anon=8 * MIB, cache=32 * MIB)
    before = cache_of(host, group)
    with pytest.raises(Busy):
        host.backend.set_limits(group, {"max_bytes": 16 * MIB}, dry_run=dry_run)
    assert cache_of(host, group) >= before * 0.99
    assert parse_limit_file(host, group) is None
    assert worker.alive()


def test_limits_are_set_all_or_none(host: Host) -> None:
    group = host.group()
    host.charge(group, anon=16 * MIB)
    before = host.backend.stat(group).limits
    with pytest.raises(Busy):
        host.backend.set_limits(group, dict.fromkeys(host.backend.settable_limits, 8 * MIB))
    assert host.backend.stat(group).limits == before


def test_the_effective_limit_is_the_least_on_the_way_up(
    host: Host,
) -> None:  # LTP memcg_stat, hierarchical_memory_limit
    outer = host.group()
    inner = host.group(outer)
    host.backend.set_limits(outer, {"max_bytes": 32 * MIB})
    host.backend.set_limits(inner, {"max_bytes": 64 * MIB})
    limits = host.backend.stat(inner).limits
    assert (limits.max_bytes, limits.effective_max_bytes, limits.limited_by) == (
        64 * MIB,
        32 * MIB,
        outer.path,
    )
    host.backend.set_limits(inner, {"max_bytes": 16 * MIB})
    limits = host.backend.stat(inner).limits
    assert (limits.effective_max_bytes, limits.limited_by) == (16 * MIB, inner.path)


def test_a_parent_cannot_be_limited_below_what_its_child_uses(host: Host) -> None:
    outer = host.group()
    host.charge(host.group(outer), anon=16 * MIB)
    with pytest.raises(Busy):
        host.backend.set_limits(outer, {"max_bytes": 8 * MIB})


def test_reading_beyond_the_limit_counts_failures_and_kills_nobody(
    host: Host,
) -> None:  # LTP memcg_failcnt, selftests max
    group = host.group()
    worker = host.charge(group, anon=4 * MIB)
    host.backend.set_limits(group, {"max_bytes": 16 * MIB})
    worker.read_file(64 * MIB)
    stat = host.backend.stat(group)
    assert worker.alive()
    assert stat.usage_bytes <= 16 * MIB
    assert (stat.events.limit_failures or 0) + (stat.events.max or 0) > 0


def test_growing_beyond_the_limit_is_death(host: Host) -> None:  # selftests max, oom_events
    group = host.group()
    worker = host.charge(group, anon=4 * MIB)
    host.backend.set_limits(group, {"max_bytes": 16 * MIB})
    assert not worker.grow(64 * MIB)
    assert not worker.alive()
    assert host.backend.stat(group).events.oom_kill in {None, 1}


def test_a_child_cannot_grow_beyond_the_limit_of_its_parent(host: Host) -> None:
    outer = host.group()
    inner = host.group(outer)
    worker = host.charge(inner, anon=4 * MIB)
    host.backend.set_limits(outer, {"max_bytes": 16 * MIB})
    assert not worker.grow(64 * MIB)
    assert parse_limit_file(host, inner) is None


# One pass


def test_a_pass_frees_about_what_was_asked_for(host: Host) -> None:
    group = host.group()
    host.charge(group, cache=128 * MIB)
    freed = []
    for _ in range(9):
        before = host.backend.usage(group)
        freed.append(host.backend.reclaim(group, 4 * MIB))
        assert freed[-1] == pytest.approx(before - host.backend.usage(group), abs=host.slack_bytes)
    assert 0 < statistics.median(freed) <= 6 * MIB


def test_a_swappiness_of_a_callers_own_is_taken_or_refused(host: Host) -> None:
    group = host.group()
    host.charge(group, cache=16 * MIB)
    if host.backend.has_swappiness:
        assert host.backend.reclaim(group, 4 * MIB, swappiness=0) > 0
    else:
        with pytest.raises(UnsupportedOption):
            host.backend.reclaim(group, 4 * MIB, swappiness=0)
        assert cache_of(host, group) >= 15 * MIB


def test_passes_free_the_cache_and_leave_anonymous_memory(
    host: Host,
) -> None:  # LTP memcg_force_empty
    if host.backend.node().swap_free_bytes:
        pytest.skip("this host has swap, so anonymous memory has somewhere to go")
    group = host.group()
    worker = host.charge(group, anon=8 * MIB, locked=4 * MIB, cache=32 * MIB)
    while host.backend.reclaim(group, 64 * MIB):
        pass
    assert host.backend.usage(group) == pytest.approx(12 * MIB, abs=host.slack_bytes)
    assert worker.alive()


def test_a_pass_moves_no_limit(host: Host) -> None:
    group = host.group()
    host.charge(group, cache=32 * MIB)
    host.backend.set_limits(group, {"max_bytes": 64 * MIB})
    before = host.backend.stat(group).limits
    host.backend.reclaim(group, 8 * MIB)
    assert host.backend.stat(group).limits == before


def test_a_pass_over_a_parent_reaches_its_children(host: Host) -> None:
    outer = host.group()
    inner = host.group(outer)
    host.charge(inner, cache=16 * MIB)
    while host.backend.reclaim(outer, 32 * MIB):
        pass
    assert host.backend.usage(inner) <= host.slack_bytes


def test_threads_may_reclaim_limit_and_read_one_group_at_once(host: Host) -> None:
    group = host.group()
    host.charge(group, anon=4 * MIB, cache=64 * MIB)

    def work(number: int) -> None:
        for _ in range(5):
            host.backend.reclaim(group, MIB)
            host.backend.set_limits(group, {"max_bytes": 256 * MIB + number * MIB})
            host.backend.stat(group)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert parse_limit_file(host, group) in {256 * MIB + number * MIB for number in range(4)}
