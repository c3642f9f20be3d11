"""Test every backend on every host by the memory tests of the Linux Test Project.

The scenarios are those of testcases/kernel/controllers/memcg, whose tests are named beside ours.
They are written for v1 and hold on every controller, except what is v1's alone: resetting a count,
writing "1xx", charges that move with a process.
"""

from collections.abc import Callable

import pytest

from shrinkd.errors import Busy
from shrinkd.sizes import PAGE_BYTES
from tests.backends.hosts import (
    MIB,
    Host,
    SwapHost,
    Worker,
    failures_of,
    limit_without_swap,
    on,
    parse_limit_file,
)

GROWING: dict[str, Callable[[Worker, int], bool]] = {
    "anonymous": lambda worker, size: worker.grow(size),
    "locked": lambda worker, size: worker.lock(size),
    "shared": lambda worker, size: worker.share(size),
}


# Kinds of memory


def test_locked_memory_is_anonymous_and_unevictable(
    host: Host,
) -> None:  # memcg_stat, memcg_stat_rss
    group = host.group()
    host.charge(group, anon=4 * MIB).lock(8 * MIB)
    stat = host.backend.stat(group)
    assert stat.anon_bytes == pytest.approx(12 * MIB, abs=host.slack_bytes)
    assert stat.unevictable_bytes == pytest.approx(8 * MIB, abs=host.slack_bytes)


def test_shared_memory_is_file_memory_and_not_anonymous(
    host: Host,
) -> None:  # memcg_stat, memcg_stat_rss
    group = host.group()
    host.charge(group, anon=4 * MIB, cache=4 * MIB).share(8 * MIB)
    stat = host.backend.stat(group)
    assert stat.anon_bytes == pytest.approx(4 * MIB, abs=host.slack_bytes)
    assert stat.file_bytes == pytest.approx(12 * MIB, abs=host.slack_bytes)
    assert stat.shmem_bytes == pytest.approx(8 * MIB, abs=host.slack_bytes)
    assert stat.mapped_bytes is None or stat.mapped_bytes == pytest.approx(
        8 * MIB, abs=host.slack_bytes
    )


def test_shared_memory_outlives_its_process_and_has_nowhere_to_go(
    host: Host,
) -> None:  # memcg_stat, memcg_force_empty
    if host.backend.node().swap_free_bytes:
        pytest.skip("this host has swap, so shared memory has somewhere to go")
    group = host.group()
    worker = host.charge(group, cache=8 * MIB)
    worker.share(8 * MIB)
    worker.stop()
    assert host.backend.stat(group).reclaimable_estimate_bytes == pytest.approx(
        8 * MIB, abs=host.slack_bytes
    )
    while host.backend.reclaim(group, 32 * MIB):
        pass
    assert host.backend.usage(group) == pytest.approx(8 * MIB, abs=host.slack_bytes)
    with pytest.raises(Busy):
        host.backend.set_limits(group, {"max_bytes": 4 * MIB})


def test_the_peak_of_a_group_is_that_of_those_inside_together(
    host: Host,
) -> None:  # memcg_max_usage_in_bytes, memcg_subgroup_charge
    outer = host.group()
    first, second = host.group(outer), host.group(outer)
    workers = [host.charge(first, anon=8 * MIB), host.charge(second, anon=4 * MIB)]
    for worker in workers:
        worker.stop()
    peaks = [host.backend.stat(group).peak_bytes for group in (outer, first, second)]
    if None not in peaks:
        assert peaks == [pytest.approx(size * MIB, abs=host.slack_bytes) for size in (12, 8, 4)]


# Charges and the maximum


@pytest.mark.parametrize("kind", GROWING)
def test_two_pages_do_not_fit_in_one(
    host: Host, kind: str
) -> None:  # memcg_limit_in_bytes, memcg_failcnt
    group = host.group()
    limit_without_swap(host, group, PAGE_BYTES)
    assert parse_limit_file(host, group) == PAGE_BYTES
    worker = host.charge(group)
    assert not GROWING[kind](worker, 2 * PAGE_BYTES)
    assert host.backend.stat(group).events.oom_kill == 1
    assert failures_of(host, group) > 0


def test_memory_within_the_maximum_is_had_and_no_failure_is_counted(
    host: Host,
) -> None:  # memcg_limit_in_bytes, memcg_failcnt
    group = host.group()
    limit_without_swap(host, group, 16 * MIB)
    worker = host.charge(group)
    assert all(grow(worker, 4 * MIB) for grow in GROWING.values())
    assert failures_of(host, group) == 0


def test_a_failure_counts_where_the_limit_is_and_a_kill_where_the_process_was(
    host: Host,
) -> None:  # memcg_subgroup_charge
    outer = host.group()
    inner = host.group(outer)
    limit_without_swap(host, outer, 16 * MIB)
    assert not host.charge(inner).grow(32 * MIB)
    assert failures_of(host, outer) > 0
    assert failures_of(host, inner) == 0
    assert host.backend.stat(inner).events.oom_kill == 1


# Setting the maximum


def test_a_maximum_of_nothing_is_refused_even_to_an_empty_group(
    host: Host,
) -> None:  # memcg_limit_in_bytes
    group = host.group()
    with pytest.raises(Busy):
        host.backend.set_limits(group, {"max_bytes": 0})
    assert parse_limit_file(host, group) is None


def test_what_cannot_be_had_is_refused_at_once_and_harms_nobody(
    host: Host,
) -> None:  # memcg_regression test_2
    group = host.group()
    worker = host.charge(group, anon=16 * MIB)
    before = host.backend.stat(group)
    for size in [PAGE_BYTES, 8 * MIB, 15 * MIB] * 5:
        with pytest.raises(Busy):
            host.backend.set_limits(group, {"max_bytes": size})
    after = host.backend.stat(group)
    assert worker.alive()
    assert (after.limits, after.events) == (before.limits, before.events)
    assert (
        after.counters.pages_scanned == before.counters.pages_scanned
    )  # nobody even looked for something to reclaim
    assert after.usage_bytes == pytest.approx(16 * MIB, abs=host.slack_bytes)
    assert worker.grow(MIB)


# Swap


@on("swap")
@pytest.mark.usefixtures("swap")
def test_a_refused_maximum_swaps_nothing_out(host: SwapHost) -> None:  # memcg_regression test_2
    group = host.group()
    host.charge(group, anon=16 * MIB)
    with pytest.raises(Busy):
        host.backend.set_limits(group, {"max_bytes": 8 * MIB})
    assert host.backend.stat(group).swap_bytes == 0


@on("swap")
@pytest.mark.usefixtures("swap")
def test_swap_that_a_group_may_not_use_saves_nobody(
    host: SwapHost,
) -> None:  # memcg_memsw_limit_in_bytes
    group = host.group()
    host.backend.set_limits(group, {"max_bytes": 16 * MIB, "swap_max_bytes": 0})
    assert not host.charge(group).grow(24 * MIB)
    assert host.backend.stat(group).swap_bytes == 0


@on("swap")
@pytest.mark.usefixtures("swap")
def test_swap_comes_back_with_the_end_of_its_process(
    host: SwapHost,
) -> None:  # memcg_regression test_4
    group = host.group()
    worker = host.charge(group, anon=16 * MIB)
    while host.backend.usage(group) > 8 * MIB:
        assert host.backend.reclaim(group, 4 * MIB)
    worker.stop()
    host.backend.remove(group)
    node = host.backend.node()
    assert node.swap_total_bytes - node.swap_free_bytes <= host.slack_bytes
