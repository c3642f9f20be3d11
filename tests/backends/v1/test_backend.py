"""What is cgroup v1's own.

Two limits that hold each other, decimal bytes, positions in memory.stat, and passes cut by time.

The rest of the promise is the conformance suite's.
"""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shrinkd.backends import Backend, Group, LimitName, load
from shrinkd.backends.cgroup.mounts import mount_points
from shrinkd.backends.v1.backend import V1
from shrinkd.backends.v1.files import LIMIT, MEMSW_LIMIT, SOFT_LIMIT
from shrinkd.backends.v1.limit_order import plan_writes
from shrinkd.errors import (
    BackendUnavailable,
    Busy,
    GroupGone,
    LimitOrder,
    ProcessNotFound,
    Unsupported,
    UnsupportedLimit,
    UnsupportedOption,
)
from shrinkd.settings import Settings
from shrinkd.sizes import UNLIMITED
from tests.backends.hosts import MIB
from tests.backends.v1_host import V1Host, absent, open_host
from tests.support.cgroup_host import (
    assert_only_read_when_mounted_read_only,
    descriptors_and_timers,
)

GROUP = Group("group", 1)
NO_LIMITS = {LIMIT: UNLIMITED, MEMSW_LIMIT: UNLIMITED, SOFT_LIMIT: UNLIMITED}


@pytest.fixture
def host() -> Iterator[V1Host]:
    if reason := absent():
        pytest.skip(reason)
    with open_host() as opened:
        yield opened


def written(host: V1Host, group: Group, name: str) -> str:
    return (Path(host.backend.root) / group.path / name).read_text().strip()


def below(host: V1Host, group: Group) -> Backend:
    """A backend that manages the groups inside of a group."""
    return V1(Settings(cgroup_root=f"{host.backend.root}/{group.path}"))


# The order of the writes


@pytest.mark.parametrize(
    ("held", "changes", "writes"),
    [
        ({}, {"max_bytes": 100}, [(LIMIT, 100)]),
        ({}, {"max_bytes": 100, "swap_max_bytes": 50}, [(LIMIT, 100), (MEMSW_LIMIT, 150)]),
        (
            {LIMIT: 100, MEMSW_LIMIT: 150},
            {"max_bytes": 200, "swap_max_bytes": 50},
            [(MEMSW_LIMIT, 250), (LIMIT, 200)],
        ),
        (
            {LIMIT: 200, MEMSW_LIMIT: 250},
            {"max_bytes": 100, "swap_max_bytes": 50},
            [(LIMIT, 100), (MEMSW_LIMIT, 150)],
        ),
        (
            {LIMIT: 100, MEMSW_LIMIT: 300},
            {"max_bytes": 200, "swap_max_bytes": 50},
            [(LIMIT, 200), (MEMSW_LIMIT, 250)],
        ),
        (
            {LIMIT: 100, MEMSW_LIMIT: 150},
            {"max_bytes": None, "swap_max_bytes": None},
            [(MEMSW_LIMIT, UNLIMITED), (LIMIT, UNLIMITED)],
        ),
        ({LIMIT: 100, MEMSW_LIMIT: 150}, {"swap_max_bytes": None}, [(MEMSW_LIMIT, UNLIMITED)]),
        ({LIMIT: 100, MEMSW_LIMIT: 150}, {"swap_max_bytes": 0}, [(MEMSW_LIMIT, 100)]),
        ({LIMIT: 100, MEMSW_LIMIT: 150}, {"max_bytes": 120}, [(LIMIT, 120)]),
        ({LIMIT: 100, MEMSW_LIMIT: 150}, {"max_bytes": 100}, []),
        ({}, {"soft_limit_bytes": 70}, [(SOFT_LIMIT, 70)]),
        ({SOFT_LIMIT: 70}, {"soft_limit_bytes": None}, [(SOFT_LIMIT, UNLIMITED)]),
    ],
)
def test_memory_stays_below_memory_and_swap_between_any_two_writes(
    held: dict[str, int], changes: Mapping[LimitName, int | None], writes: list[tuple[str, int]]
) -> None:
    now = NO_LIMITS | held
    assert plan_writes(GROUP, now, changes) == writes
    for name, value in writes:
        now[name] = value
        assert now[LIMIT] <= now[MEMSW_LIMIT]


@pytest.mark.parametrize("maximum", [151, None])
def test_a_maximum_alone_that_contradicts_memory_and_swap_names_both(maximum: int | None) -> None:
    with pytest.raises(LimitOrder, match="Send swap_max_bytes too") as caught:
        plan_writes(GROUP, NO_LIMITS | {LIMIT: 100, MEMSW_LIMIT: 150}, {"max_bytes": maximum})
    assert caught.value.members == {
        "group": GROUP,
        "max_bytes": maximum,
        "memory_and_swap_max_bytes": 150,
    }


def test_swap_has_no_limit_of_its_own_without_a_maximum() -> None:
    with pytest.raises(LimitOrder, match="needs a max_bytes"):
        plan_writes(GROUP, NO_LIMITS, {"swap_max_bytes": 50})


def test_a_kernel_without_memsw_has_one_limit_to_write() -> None:
    assert plan_writes(GROUP, {LIMIT: UNLIMITED}, {"max_bytes": 100}) == [(LIMIT, 100)]


# Finding the controller


def test_a_directory_that_is_no_v1_memory_group_is_refused_with_a_way_out() -> None:
    unfit = [
        "/tmp",
        next(mount_points("cgroup2"), "/proc"),
        next(mount_points("cgroup", "cpu"), "/sys"),
    ]
    for root in unfit:
        with pytest.raises(BackendUnavailable):
            V1(Settings(cgroup_root=root))


def test_probing_leaves_no_group_behind(host: V1Host) -> None:
    outer = host.group()
    backend = below(host, outer)
    assert [group.path for group in backend.groups()] == [""]
    backend.close()


def test_a_backend_can_be_made_and_used_in_any_thread(host: V1Host) -> None:
    group = host.group()
    host.charge(group, cache=8 * MIB)
    freed: list[int] = []

    def work() -> None:
        backend = load("v1")(Settings())
        freed.append(backend.reclaim(group, MIB))
        backend.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert freed[0] > 0


def test_a_controller_mounted_read_only_is_read_and_not_written(host: V1Host) -> None:
    assert_only_read_when_mounted_read_only("v1", f"{host.backend.root}/{host.group().path}")


# Limits


def test_limits_are_written_as_decimal_bytes_and_no_limit_as_the_kernel_prints_it(
    host: V1Host,
) -> None:
    group = host.group()
    host.backend.set_limits(group, {"max_bytes": 64 * MIB, "soft_limit_bytes": 32 * MIB})
    assert written(host, group, LIMIT) == str(64 * MIB)
    assert written(host, group, SOFT_LIMIT) == str(32 * MIB)
    host.backend.set_limits(group, {"max_bytes": None, "soft_limit_bytes": None})
    assert written(host, group, LIMIT) == written(host, group, SOFT_LIMIT) == str(UNLIMITED)


def test_swap_is_limited_through_memory_and_swap_together(host: V1Host) -> None:
    if "swap_max_bytes" not in host.backend.settable_limits:
        pytest.skip("this kernel has no memory.memsw files")
    group = host.group()
    for maximum, swap in ((64, 16), (128, 0), (32, 512)):
        host.backend.set_limits(group, {"max_bytes": maximum * MIB, "swap_max_bytes": swap * MIB})
        assert written(host, group, MEMSW_LIMIT) == str((maximum + swap) * MIB)
        assert host.backend.stat(group).limits.swap_max_bytes == swap * MIB


def test_a_contradiction_is_refused_before_anything_is_written(host: V1Host) -> None:
    group = host.group()
    host.backend.set_limits(group, {"max_bytes": 64 * MIB, "swap_max_bytes": 0})
    with pytest.raises(LimitOrder):
        host.backend.set_limits(group, {"max_bytes": 128 * MIB, "soft_limit_bytes": MIB})
    assert written(host, group, LIMIT) == str(64 * MIB)
    assert written(host, group, SOFT_LIMIT) == str(UNLIMITED)


def test_a_limit_equal_to_usage_is_refused_though_the_kernel_would_take_it(host: V1Host) -> None:
    group = host.group()
    with pytest.raises(Busy):
        host.backend.set_limits(group, {"max_bytes": 0})


def test_a_limit_above_the_managed_root_is_felt_and_named_by_a_slash(host: V1Host) -> None:
    outer = host.group()
    host.group(outer)
    host.backend.set_limits(outer, {"max_bytes": 64 * MIB})
    backend = below(host, outer)
    for group in backend.groups():
        limits = backend.stat(group).limits
        assert (limits.effective_max_bytes, limits.limited_by) == (64 * MIB, "/")
    backend.close()


def test_the_root_of_the_controller_takes_no_limit_and_no_pass(host: V1Host) -> None:
    root = host.backend.find("")
    with pytest.raises(UnsupportedLimit):
        host.backend.set_limits(root, {"max_bytes": 1 << 50}, dry_run=True)
    with pytest.raises(Unsupported):
        host.backend.reclaim(root, MIB)


# Passes


def test_a_pass_is_cut_long_before_the_page_cache_is_gone(host: V1Host) -> None:
    group = host.group()
    host.charge(group, cache=128 * MIB)
    for _ in range(5):
        assert 0 < host.backend.reclaim(group, MIB) <= 16 * MIB


def test_a_pass_over_large_folios_is_cut_as_well(host: V1Host) -> None:
    group = host.group()
    host.charge(group, cache=256 * MIB, large_folios=True)
    assert 0 < host.backend.reclaim(group, 4 * MIB) <= 128 * MIB


def test_passes_come_down_to_the_anonymous_memory_and_stop_there(host: V1Host) -> None:
    group = host.group()
    host.charge(group, anon=16 * MIB, cache=64 * MIB)
    fruitless = 0
    for _ in range(500):
        fruitless += host.backend.reclaim(group, 256 * MIB) == 0
        if fruitless == 5:
            break
    assert host.backend.usage(group) == pytest.approx(16 * MIB, abs=host.slack_bytes)


def test_passes_of_many_threads_leave_no_descriptor_and_no_timer(host: V1Host) -> None:
    group = host.group()
    host.charge(group, cache=32 * MIB)
    host.backend.reclaim(group, 4096)
    before = descriptors_and_timers()
    threads = [threading.Thread(target=host.backend.reclaim, args=(group, 4096)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert descriptors_and_timers() == before


def test_one_reclaim_has_no_swappiness_of_its_own(host: V1Host) -> None:
    with pytest.raises(UnsupportedOption):
        host.backend.reclaim(host.group(), MIB, swappiness=10)


# Around it


def test_process_zero_is_not_taken_for_this_process(host: V1Host) -> None:
    group = host.group()
    with pytest.raises(ProcessNotFound):
        host.backend.attach(group, 0)
    assert not written(host, group, "cgroup.procs")


def test_pressure_is_that_of_the_twin_in_a_cgroup2_mount_while_it_lives(host: V1Host) -> None:
    if not host.backend.has_pressure:
        pytest.skip("no cgroup2 mount here tells pressure")
    group = host.group()
    twin = Path(next(mount_points("cgroup2")), group.path)
    assert host.backend.stat(group).pressure is None
    twin.mkdir()
    try:
        pressure = host.backend.stat(group).pressure
    finally:
        twin.rmdir()
    assert pressure
    assert pressure.some.total_microseconds >= pressure.full.total_microseconds
    assert host.backend.stat(group).pressure is None


def test_the_group_of_a_probe_that_was_killed_serves_the_next_one_and_goes_with_it(
    host: V1Host,
) -> None:
    root = host.group()
    left = host.backend.make(f"{root.path}/shrinkd-probe")
    backend = below(host, root)
    backend.close()
    assert backend.settable_limits == host.backend.settable_limits
    with pytest.raises(GroupGone):
        host.backend.usage(left)
