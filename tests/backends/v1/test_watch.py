"""What is v1's own in a watch.

Bells that ring for others too, and pressure that a twin tells, as long as there is one.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from shrinkd.backends import EventsMove, Stalled
from shrinkd.backends.cgroup.mounts import mount_points
from shrinkd.errors import GroupGone, Unsupported, UnsupportedOption
from tests.backends.hosts import MIB
from tests.backends.v1_host import V1Host, absent, open_host
from tests.support.watch_polling import STALL, TRIGGERS, is_readable, told, watchable

_CAP_SYS_RESOURCE = 24  # include/uapi/linux/capability.h


@pytest.fixture
def host() -> Iterator[V1Host]:
    if reason := absent():
        pytest.skip(reason)
    with open_host() as opened:
        yield opened


@pytest.fixture
def twins(host: V1Host) -> Path:
    if Stalled not in host.backend.watchable:
        pytest.skip("no cgroup2 mount here wakes for pressure")
    return Path(next(mount_points("cgroup2")))


def may_choose_windows() -> bool:
    """Whether this process has CAP_SYS_RESOURCE."""
    effective = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("CapEff")
    )
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)


def test_every_trigger_is_watchable_where_a_cgroup2_mount_tells_pressure(host: V1Host) -> None:
    assert host.backend.watchable >= {type(trigger) for trigger in TRIGGERS} - (
        {Stalled} if not host.backend.has_pressure else set()
    )


def test_an_oom_of_the_parent_rings_in_every_child_and_is_told_where_somebody_was_killed(
    host: V1Host,
) -> None:
    outer = host.group()
    killed, spared = host.group(outer), host.group(outer)
    worker = host.charge(killed, anon=4 * MIB)
    host.backend.set_limits(outer, {"max_bytes": 16 * MIB})
    with host.backend.watch(spared, [EventsMove()]) as watched:
        assert not worker.grow(64 * MIB)
        assert is_readable(watched)
        assert not watched.read()


def test_a_group_without_a_twin_has_no_pressure_to_watch(host: V1Host, twins: Path) -> None:
    group = host.group()
    assert not (twins / group.path).exists()
    with pytest.raises(Unsupported, match="Stalled"):
        host.backend.watch(group, watchable(host))


def test_a_twin_that_goes_ends_the_watch_though_the_group_lives(host: V1Host, twins: Path) -> None:
    group = host.twinned_group()
    with host.backend.watch(group, [STALL]) as watched:
        (twins / group.path).rmdir()
        assert is_readable(watched)
        for _ in range(2):
            with pytest.raises(GroupGone):
                watched.read()
        assert not is_readable(watched, looks=5)
    assert host.backend.usage(group) >= 0


def test_what_is_in_the_group_and_not_in_its_twin_stalls_unseen(host: V1Host, twins: Path) -> None:
    group = host.twinned_group()
    host.backend.set_limits(group, {"max_bytes": 16 * MIB})
    worker = host.charge(group)
    (twins / "cgroup.procs").write_text(str(worker.pid))
    with host.backend.watch(group, [STALL]) as watched:
        worker.read_file(64 * MIB)
        assert not told(watched, looks=50)


@pytest.mark.usefixtures("twins")
def test_a_window_that_the_kernel_takes_from_the_privileged_alone_is_refused_with_the_rule(
    host: V1Host,
) -> None:
    group = host.twinned_group()
    refused = (
        contextlib.nullcontext()
        if may_choose_windows()
        else pytest.raises(UnsupportedOption, match="multiples of 2 s")
    )
    with refused:
        host.backend.watch(group, [Stalled("full", 100_000, 1_500_000)]).close()
