"""What the routines of memcontrol promise, tried on every host.

The contract of the 2008 mails on a controller of today.
"""

import pytest

from shrinkd.errors import Interrupted, LimitBelowUsage, ShrinkStalled
from shrinkd.memcontrol import (
    MEM_CGROUP_RECLAIM_RETRIES,
    Memcg,
    check_under_val,
    resize_limit,
    set_limit,
    set_limits,
    shrink_usage_to,
)
from shrinkd.sizes import PAGE_BYTES
from tests.backends.hosts import MIB, Host, cache_of, parse_limit_file
from tests.support.scripted_task import ScriptedTask


def test_a_limit_above_usage_is_set_at_once(host: Host) -> None:
    group = host.group()
    host.charge(group, anon=4 * MIB, cache=16 * MIB)
    set_limit(Memcg(host.backend, group), 32 * MIB)
    assert parse_limit_file(host, group) == 32 * MIB
    assert cache_of(host, group) >= 15 * MIB


def test_a_refused_limit_costs_no_cache_and_says_the_numbers(host: Host) -> None:
    group = host.group()
    worker = host.charge(group, anon=16 * MIB, cache=64 * MIB)
    host.backend.set_limits(group, {"max_bytes": 512 * MIB})
    before = cache_of(host, group)
    with pytest.raises(LimitBelowUsage) as caught:
        set_limits(Memcg(host.backend, group), {"max_bytes": 32 * MIB})
    assert cache_of(host, group) >= before * 0.99
    assert parse_limit_file(host, group) == 512 * MIB
    assert worker.alive()
    assert caught.value.members["requested_bytes"] == 32 * MIB
    assert caught.value.members["current_max_bytes"] == 512 * MIB
    assert caught.value.members["usage_bytes"] == pytest.approx(80 * MIB, abs=host.slack_bytes)


def test_one_page_for_a_process_is_refused_and_shrinking_to_it_gives_up(
    host: Host,
) -> None:  # LTP memcg_regression test_2
    group = host.group()
    worker = host.charge(group, anon=16 * MIB)
    memcg = Memcg(host.backend, group)
    with pytest.raises(LimitBelowUsage):
        set_limit(memcg, PAGE_BYTES)
    with pytest.raises(ShrinkStalled):
        resize_limit(memcg, PAGE_BYTES, ScriptedTask())
    assert worker.alive()
    assert parse_limit_file(host, group) is None


def test_a_shrink_brings_usage_below_the_target_and_not_far_below(
    host: Host,
) -> None:  # selftests reclaim
    group = host.group()
    worker = host.charge(group, anon=8 * MIB, cache=64 * MIB)
    shrink_usage_to(Memcg(host.backend, group), 40 * MIB, ScriptedTask())
    assert 36 * MIB <= host.backend.usage(group) < 40 * MIB
    assert worker.alive()
    assert parse_limit_file(host, group) is None


def test_a_shrink_of_a_small_group_does_nothing_even_with_a_signal_pending(host: Host) -> None:
    group = host.group()
    host.charge(group, cache=8 * MIB)
    current = ScriptedTask()
    current.interrupt()
    shrink_usage_to(Memcg(host.backend, group), 32 * MIB, current)
    assert not current.passes


def test_a_signal_ends_a_shrink_and_keeps_what_it_reclaimed(host: Host) -> None:
    group = host.group()
    host.charge(group, cache=64 * MIB)
    current = ScriptedTask(largest_bytes=2 * MIB)
    current.then[2] = current.interrupt
    with pytest.raises(Interrupted):
        resize_limit(Memcg(host.backend, group), 8 * MIB, current)
    assert len(current.passes) == 2
    assert 8 * MIB <= host.backend.usage(group) <= 64 * MIB - 2 * MIB + host.slack_bytes
    assert parse_limit_file(host, group) is None


def test_a_signal_comes_before_giving_up(host: Host) -> None:
    group = host.group()
    host.charge(group, anon=16 * MIB)
    current = ScriptedTask()
    current.always = lambda: (
        current.interrupt() if current.fruitless() == MEM_CGROUP_RECLAIM_RETRIES else None
    )
    with pytest.raises(Interrupted):
        shrink_usage_to(Memcg(host.backend, group), MIB, current)


def test_a_shrink_gives_up_after_five_fruitless_passes(host: Host) -> None:
    group = host.group()
    host.charge(group, anon=16 * MIB, cache=16 * MIB)
    host.backend.set_limits(group, {"max_bytes": 64 * MIB})
    current = ScriptedTask()
    with pytest.raises(ShrinkStalled):
        resize_limit(Memcg(host.backend, group), 8 * MIB, current)
    assert current.fruitless() == MEM_CGROUP_RECLAIM_RETRIES
    assert host.backend.usage(group) == pytest.approx(16 * MIB, abs=host.slack_bytes)
    assert parse_limit_file(host, group) == 64 * MIB


def test_progress_in_between_forgives_no_fruitless_pass(host: Host) -> None:
    group = host.group()
    worker = host.charge(group, anon=16 * MIB)
    current = ScriptedTask()
    current.always = lambda: (
        worker.read_file(4 * MIB)
        if current.fruitless() == 3 and not current.passes[-1].progress
        else None
    )
    with pytest.raises(ShrinkStalled):
        shrink_usage_to(Memcg(host.backend, group), 8 * MIB, current)
    assert current.fruitless() == MEM_CGROUP_RECLAIM_RETRIES
    assert sum(done.progress for done in current.passes) >= 2 * MIB


def test_resizing_shrinks_and_then_sets_the_limit(host: Host) -> None:
    group = host.group()
    worker = host.charge(group, anon=16 * MIB, cache=64 * MIB)
    resize_limit(Memcg(host.backend, group), 40 * MIB, ScriptedTask())
    assert parse_limit_file(host, group) == 40 * MIB
    assert check_under_val(Memcg(host.backend, group), 40 * MIB + 1)
    assert worker.alive()


def test_resizing_upwards_reclaims_nothing(host: Host) -> None:
    group = host.group()
    host.charge(group, cache=16 * MIB)
    host.backend.set_limits(group, {"max_bytes": 64 * MIB})
    current = ScriptedTask()
    resize_limit(Memcg(host.backend, group), 128 * MIB, current)
    assert parse_limit_file(host, group) == 128 * MIB
    assert not current.passes
