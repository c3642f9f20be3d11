"""What is cgroup v2's own.

Controllers that are enabled downwards, four limits beside the maximum, and a kernel that kills.

The rest of the promise is the conformance suite's. What needs a v2 kernel has the parameter "v2",
by which the VM gets it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shrinkd.backends import Group, LimitName, Limits
from shrinkd.backends.cgroup.memory_stat import StatLines
from shrinkd.backends.cgroup.mounts import mount_points
from shrinkd.backends.v2.ancestors import mounts_with_memory
from shrinkd.backends.v2.backend import V2
from shrinkd.backends.v2.files import (
    EVENT_LINES,
    EVENTS,
    PEAK,
    STAT,
    STAT_LINES,
    SWAP,
    USAGE,
    describe,
    format_limit_file,
    parse_limit_file,
)
from shrinkd.errors import (
    BackendUnavailable,
    Busy,
    GroupBusy,
    GroupGone,
    GroupNotFound,
    Unsupported,
    UnsupportedLimit,
)
from shrinkd.settings import Settings
from shrinkd.sizes import UNLIMITED
from tests.backends.hosts import MIB, cache_of
from tests.backends.v2_host import V2Host, open_host
from tests.support.cgroup_host import (
    assert_only_read_when_mounted_read_only,
    descriptors_and_timers,
)


@pytest.fixture(params=["v2"])
def host() -> Iterator[V2Host]:
    with open_host() as opened:
        yield opened


@pytest.fixture
def below(host: V2Host) -> Iterator[Callable[[Group], V2]]:
    """Make backends that manage the groups inside of a group."""
    made: list[V2] = []

    def make(group: Group) -> V2:
        made.append(V2(Settings(cgroup_root=f"{host.backend.root}/{group.path}")))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def written(host: V2Host, group: Group, name: str) -> str:
    return (Path(host.backend.root) / group.path / name).read_text().strip()


def write(host: V2Host, group: Group, name: str, text: str) -> None:
    (Path(host.backend.root) / group.path / name).write_text(text)


# What the files say, on any host

CAPTURED = b"""\
anon 16842752
file 33554432
kernel 1052672
kernel_stack 16384
pagetables 131072
shmem 4096
zswap 0
file_mapped 8192
file_dirty 12288
file_writeback 0
swapcached 0
inactive_anon 16834560
active_anon 12288
inactive_file 25165824
active_file 8388608
unevictable 0
slab_reclaimable 262144
slab_unreclaimable 524288
slab 786432
workingset_refault_anon 3
workingset_refault_file 5
pgscan 70
pgsteal 60
pgscan_direct 70
pgfault 4711
pgmajfault 11
"""


def test_a_captured_reading_is_told_in_the_one_vocabulary() -> None:
    texts = {STAT: CAPTURED, USAGE: b"51499008\n", PEAK: b"60000000\n", SWAP: b"0\n"}
    stat = describe(texts, StatLines(STAT_LINES).parse(CAPTURED), Limits(max_bytes=None))
    assert (stat.usage_bytes, stat.peak_bytes, stat.swap_bytes) == (51499008, 60000000, 0)
    assert (stat.anon_bytes, stat.file_bytes, stat.kernel_bytes) == (16842752, 33554432, 1052672)
    assert stat.working_set_bytes == 51499008 - 25165824
    assert (
        stat.counters.pages_scanned,
        stat.counters.pages_reclaimed,
        stat.counters.page_faults,
    ) == (70, 60, 4711)
    assert (stat.counters.refaults_anon, stat.counters.refaults_file) == (3, 5)


def test_what_a_kernel_does_not_tell_is_none() -> None:
    stat = describe(
        {STAT: CAPTURED},
        StatLines(STAT_LINES).parse(CAPTURED.replace(b"kernel 1052672\n", b"")),
        Limits(max_bytes=None),
    )
    assert stat.kernel_bytes is stat.peak_bytes is stat.swap_bytes is stat.zswap_bytes is None
    assert stat.usage_bytes == 16842752 + 33554432  # the top of the hierarchy


def test_events_are_found_by_name_and_those_of_newer_kernels_left_out() -> None:
    text = b"low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\nsock_throttled 7\n"
    assert StatLines(EVENT_LINES).parse(text) == {
        "low": 1,
        "high": 2,
        "max": 3,
        "oom": 4,
        "oom_kill": 5,
    }


@pytest.mark.parametrize(
    ("limit", "text"), [(UNLIMITED, b"max"), (2**63, b"max"), (0, b"0"), (4096, b"4096")]
)
def test_limits_are_decimal_bytes_or_max(limit: int, text: bytes) -> None:
    assert format_limit_file(limit) == text
    assert parse_limit_file(text + b"\n") == min(limit, UNLIMITED)


def test_a_directory_without_the_v2_memory_controller_is_refused_with_a_way_out() -> None:
    beside_v1 = [] if any(mounts_with_memory()) else list(mount_points("cgroup2"))
    for root in ["/tmp", "/nowhere", next(mount_points("cgroup", "memory"), "/proc"), *beside_v1]:
        with pytest.raises(BackendUnavailable):
            V2(Settings(cgroup_root=root))


# Groups that have the controller


def test_the_controller_is_enabled_from_the_managed_root_down_to_the_parent_of_a_group(
    host: V2Host,
) -> None:
    outer = host.group()
    middle = host.group(outer)
    host.group(middle)
    for group in (host.backend.find(""), outer, middle):
        assert "memory" in written(host, group, "cgroup.subtree_control").split()


def test_a_directory_without_the_controller_is_not_listed_and_not_found(host: V2Host) -> None:
    outer = host.group()
    bare = Path(host.backend.root, outer.path, "bare")
    bare.mkdir()
    try:
        assert host.backend.groups(outer.path) == [outer]
        with pytest.raises(GroupNotFound, match="no memory controller"):
            host.backend.groups(f"{outer.path}/bare")
    finally:
        bare.rmdir()


@pytest.mark.parametrize("dry_run", [False, True])
def test_no_group_is_made_beside_processes_and_nothing_is_enabled_for_it(
    host: V2Host, *, dry_run: bool
) -> None:
    group = host.group()
    host.charge(group)
    with pytest.raises(GroupBusy, match="has processes"):
        host.backend.make(f"{group.path}/inner", dry_run=dry_run)
    assert written(host, group, "cgroup.subtree_control") == ""


@pytest.mark.parametrize("dry_run", [False, True])
def test_no_process_is_taken_beside_groups(host: V2Host, *, dry_run: bool) -> None:
    outer = host.group()
    worker = host.charge(host.group(outer))
    with pytest.raises(GroupBusy, match="innermost"):
        host.backend.attach(outer, worker.pid, dry_run=dry_run)


def test_making_on_trial_enables_nothing(host: V2Host) -> None:
    outer = host.group()
    host.backend.make(f"{outer.path}/tried", dry_run=True)
    assert written(host, outer, "cgroup.subtree_control") == ""


def test_the_root_of_the_hierarchy_is_read_and_takes_no_limit_and_no_pass(host: V2Host) -> None:
    root = host.backend.find("")
    stat = host.backend.stat(root)
    assert stat.usage_bytes > 0
    assert host.backend.usage(root) > 0
    assert stat.limits.max_bytes is stat.limits.effective_max_bytes is None
    with pytest.raises(UnsupportedLimit):
        host.backend.set_limits(root, {"max_bytes": 1 << 50}, dry_run=True)
    with pytest.raises(Unsupported):
        host.backend.reclaim(root, MIB)


def test_probing_changes_nothing(host: V2Host, below: Callable[[Group], V2]) -> None:
    outer = host.group()
    backend = below(outer)
    assert [group.path for group in backend.groups()] == [""]
    assert written(host, outer, "cgroup.subtree_control") == ""


def test_a_root_that_was_delegated_has_limits_passes_and_groups(
    host: V2Host, below: Callable[[Group], V2]
) -> None:
    outer = host.group()
    host.backend.set_limits(outer, {"max_bytes": 64 * MIB})
    backend = below(outer)
    inner = backend.make("inner")
    host.charge(Group(f"{outer.path}/inner", inner.id), cache=8 * MIB)
    for group in backend.groups():
        limits = backend.stat(group).limits
        assert (limits.effective_max_bytes, limits.limited_by) == (64 * MIB, "/")
        assert backend.usage(group) == pytest.approx(8 * MIB, abs=host.slack_bytes)
    backend.set_limits(backend.find(""), {"max_bytes": 32 * MIB})
    assert backend.reclaim(backend.find(""), MIB) > 0
    assert written(host, outer, "memory.max") == str(32 * MIB)


def test_a_limit_above_the_managed_root_is_felt_and_named_by_a_slash(
    host: V2Host, below: Callable[[Group], V2]
) -> None:
    outer = host.group()
    middle = host.group(outer)
    host.backend.set_limits(outer, {"max_bytes": 64 * MIB})
    limits = below(middle).stat(below(middle).find("")).limits
    assert (limits.max_bytes, limits.effective_max_bytes, limits.limited_by) == (
        None,
        64 * MIB,
        "/",
    )


def test_a_controller_mounted_read_only_is_read_and_not_written(host: V2Host) -> None:
    assert_only_read_when_mounted_read_only("v2", f"{host.backend.root}/{host.group().path}")


# Limits


def test_limits_are_written_as_decimal_bytes_and_no_limit_as_max(host: V2Host) -> None:
    group = host.group()
    names: dict[LimitName, str] = {
        "max_bytes": "memory.max",
        "high_bytes": "memory.high",
        "low_bytes": "memory.low",
        "min_bytes": "memory.min",
        "swap_max_bytes": "memory.swap.max",
    }
    assert host.backend.settable_limits == names.keys()
    host.backend.set_limits(group, {name: (number + 32) * MIB for number, name in enumerate(names)})
    assert [written(host, group, file) for file in names.values()] == [
        str((number + 32) * MIB) for number in range(len(names))
    ]
    host.backend.set_limits(group, dict.fromkeys(names, None))
    assert [written(host, group, file) for file in names.values()] == [
        "max",
        "max",
        "0",
        "0",
        "max",
    ]
    host.backend.set_limits(group, {"low_bytes": UNLIMITED, "min_bytes": UNLIMITED})
    assert [written(host, group, file) for file in names.values()] == ["max"] * len(names)
    limits = host.backend.stat(group).limits
    assert (limits.low_bytes, limits.min_bytes) == (UNLIMITED, UNLIMITED)


def test_a_protection_is_0_unless_it_is_given(host: V2Host) -> None:
    limits = host.backend.stat(host.group()).limits
    assert (limits.max_bytes, limits.high_bytes, limits.low_bytes, limits.min_bytes) == (
        None,
        None,
        0,
        0,
    )


def test_a_high_below_usage_is_busy_and_reclaims_nothing(host: V2Host) -> None:
    group = host.group()
    host.charge(group, anon=4 * MIB, cache=32 * MIB)
    with pytest.raises(Busy):
        host.backend.set_limits(group, {"high_bytes": 8 * MIB})
    assert written(host, group, "memory.high") == "max"
    assert cache_of(host, group) >= 31 * MIB


def test_a_high_that_is_refused_gets_the_maximum_put_back(host: V2Host) -> None:
    group = host.group()
    host.charge(group, cache=32 * MIB)
    with pytest.raises(Busy):
        host.backend.set_limits(
            group, {"max_bytes": 64 * MIB, "high_bytes": 8 * MIB, "low_bytes": MIB}
        )
    assert [written(host, group, name) for name in ("memory.max", "memory.high", "memory.low")] == [
        "max",
        "max",
        "0",
    ]


def test_where_a_bare_write_kills_the_backend_refuses_and_costs_nothing(host: V2Host) -> None:
    group = host.group()
    worker = host.charge(group, anon=24 * MIB, cache=64 * MIB)
    with pytest.raises(Busy):
        host.backend.set_limits(group, {"max_bytes": 16 * MIB})
    assert worker.alive()
    assert cache_of(host, group) >= 63 * MIB
    write(host, group, "memory.max", str(16 * MIB))
    assert not worker.grow(4096)
    assert not worker.alive()


def test_an_idle_process_over_the_maximum_of_another_writer_is_left_alone(host: V2Host) -> None:
    group = host.group()
    worker = host.charge(group, anon=16 * MIB)
    host.backend.set_limits(group, {"max_bytes": 32 * MIB})
    for _ in range(20):
        with pytest.raises(Busy):
            host.backend.set_limits(
                group, {"max_bytes": host.backend.usage(group) // 4096 * 4096 - MIB}
            )
    assert worker.alive()
    assert written(host, group, "memory.max") == str(32 * MIB)


def test_a_group_that_went_with_those_around_it_is_gone(host: V2Host) -> None:
    outer = host.group()
    inner = host.group(outer)
    host.backend.stat(inner)
    host.backend.remove(inner)
    host.backend.remove(outer)
    with pytest.raises(GroupGone):
        host.backend.stat(inner)


# Passes


def test_a_pass_never_frees_much_more_than_its_goal(host: V2Host) -> None:
    group = host.group()
    host.charge(group, cache=64 * MIB)
    for goal in (4096, MIB, 3 * MIB):
        assert 0 < host.backend.reclaim(group, goal) <= goal + host.slack_bytes


def test_a_pass_that_gives_less_than_asked_for_tells_what_it_gave(host: V2Host) -> None:
    group = host.group()
    host.charge(group, anon=8 * MIB, cache=3 * MIB)
    assert host.backend.reclaim(group, 64 * MIB) == pytest.approx(3 * MIB, abs=host.slack_bytes)


def test_passes_leave_no_descriptor_and_no_timer(host: V2Host) -> None:
    group = host.group()
    host.charge(group, cache=16 * MIB)
    host.backend.reclaim(group, MIB)
    before = descriptors_and_timers()
    for _ in range(10):
        host.backend.reclaim(group, MIB)
    assert descriptors_and_timers() == before


def test_what_a_group_inside_protects_is_neither_freed_nor_counted_on(host: V2Host) -> None:
    outer = host.group()
    kept, free = host.group(outer), host.group(outer)
    host.backend.stat(outer)  # and now the daemon knows who has no minimum
    host.backend.set_limits(kept, {"min_bytes": 64 * MIB})
    workers = [host.charge(group, cache=16 * MIB) for group in (kept, free)]
    assert host.backend.stat(outer).reclaimable_estimate_bytes == pytest.approx(
        16 * MIB, abs=host.slack_bytes
    )
    while host.backend.reclaim(outer, 64 * MIB):
        pass
    assert cache_of(host, kept) >= 15 * MIB
    assert cache_of(host, free) <= host.slack_bytes
    assert all(worker.alive() for worker in workers)


# With swap


@pytest.mark.usefixtures("swap")
def test_with_swap_a_shrink_reaches_below_anonymous_memory(host: V2Host) -> None:
    group = host.group()
    worker = host.charge(group, anon=32 * MIB)
    assert host.backend.stat(group).reclaimable_estimate_bytes == pytest.approx(
        32 * MIB, abs=host.slack_bytes
    )
    while host.backend.usage(group) > 12 * MIB:
        assert host.backend.reclaim(group, 4 * MIB)
    stat = host.backend.stat(group)
    assert (stat.swap_bytes or 0) >= 16 * MIB
    assert worker.alive()


@pytest.mark.usefixtures("swap")
def test_swappiness_0_leaves_anonymous_memory_where_it_is(host: V2Host) -> None:
    group = host.group()
    host.charge(group, anon=16 * MIB)
    if not host.backend.has_swappiness:
        pytest.skip("this kernel takes no swappiness")
    assert host.backend.reclaim(group, 4 * MIB, swappiness=0) <= host.slack_bytes
    assert host.backend.reclaim(group, 4 * MIB, swappiness=200) > 0


@pytest.mark.usefixtures("swap")
@pytest.mark.parametrize("levels", [0, 1])
def test_the_estimate_counts_on_no_more_swap_than_the_groups_around_may_use(
    host: V2Host, levels: int
) -> None:
    outer = host.group()
    inner = host.group(outer)
    host.backend.set_limits((inner, outer)[levels], {"swap_max_bytes": 4 * MIB})
    host.charge(inner, anon=16 * MIB)
    assert host.backend.stat(inner).reclaimable_estimate_bytes == pytest.approx(
        4 * MIB, abs=host.slack_bytes
    )


def test_events_of_a_reading_are_those_of_the_file(host: V2Host) -> None:
    group = host.group()
    worker = host.charge(group, anon=4 * MIB)
    host.backend.set_limits(group, {"max_bytes": 16 * MIB})
    worker.read_file(32 * MIB)
    lines = dict(line.split() for line in written(host, group, EVENTS).splitlines())
    assert host.backend.stat(group).events.max == int(lines["max"]) > 0


@pytest.mark.parametrize("levels", [0, 1])
def test_a_group_is_frozen_as_long_as_it_or_one_around_it_is(host: V2Host, levels: int) -> None:
    outer = host.group()
    inner = host.group(outer)
    for text, is_frozen in ("1", True), ("0", False):
        write(host, (inner, outer)[levels], "cgroup.freeze", text)
        activity = host.backend.activity(inner)
        assert activity
        assert activity.is_frozen == is_frozen


# Groups that the kernel kills as one: selftests oom_group_*; and one that fills in a single call:
# selftests high_sync


def test_a_group_that_dies_as_one_counts_them_all_and_the_one_that_was_picked_twice(
    host: V2Host,
) -> None:
    outer = host.group()
    inner, beside = host.group(outer), host.group(outer)
    host.backend.set_limits(inner, {"max_bytes": 16 * MIB})
    write(host, inner, "memory.oom.group", "1")
    neighbour, idle, spared = (
        host.charge(beside, anon=20 * MIB),
        host.charge(inner, anon=MIB),
        host.charge(inner, anon=MIB),
    )
    Path("/proc", str(spared.pid), "oom_score_adj").write_text("-1000")
    assert not host.charge(inner).grow(32 * MIB)
    assert not idle.grow(0)
    assert spared.alive()
    assert neighbour.alive()
    assert [host.backend.stat(group).events.oom_kill for group in (outer, inner, beside)] == [
        3,
        3,
        0,
    ]


def test_the_groups_inside_of_one_that_dies_as_one_die_with_it(host: V2Host) -> None:
    outer = host.group()
    first, second = host.group(outer), host.group(outer)
    host.backend.set_limits(outer, {"max_bytes": 32 * MIB})
    write(host, outer, "memory.oom.group", "1")
    neighbour = host.charge(first, anon=20 * MIB)
    assert not host.charge(second).grow(20 * MIB)
    assert not neighbour.grow(0)
    assert all(host.backend.stat(group).events.oom_kill for group in (outer, first, second))


def test_a_process_is_held_at_high_in_the_middle_of_one_call(host: V2Host) -> None:
    group = host.group()
    host.backend.set_limits(group, {"high_bytes": 16 * MIB, "max_bytes": 140 * MIB})
    worker = host.charge(group)
    worker.begin_to_lock(200 * MIB)
    while not (events := host.backend.stat(group).events).high:
        assert worker.alive()
    assert events.max == 0
    assert host.backend.usage(group) < 140 * MIB
    worker.stop()
