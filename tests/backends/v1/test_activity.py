"""The activity of v1 groups.

Which of the hierarchies beside the memory controller's tells it, and when none is believed.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shrinkd.backends import Activity, Group
from shrinkd.backends.cgroup.mounts import mount_points
from tests.backends.hosts import MIB
from tests.backends.v1_host import V1Host, absent, open_host

Make = Callable[[str, Group], Path]


@pytest.fixture
def host() -> Iterator[V1Host]:
    if reason := absent():
        pytest.skip(reason)
    with open_host() as opened:
        yield opened


@pytest.fixture
def make() -> Iterator[Make]:
    """Make the twin of a group.

    In "unified", the cgroup2 mount, or in the hierarchy of a controller. Before `host`, to go after
    it.
    """
    made: list[Path] = []

    def make(where: str, group: Group) -> Path:
        mount = next(
            mount_points("cgroup2") if where == "unified" else mount_points("cgroup", where), None
        )
        if mount is None:
            pytest.skip(f"no {where} is mounted here")
        made.append(Path(mount, group.path))
        made[-1].mkdir()
        return made[-1]

    yield make
    for twin in made:
        twin.rmdir()


def move(pid: int, twin: Path) -> None:
    (twin / "cgroup.procs").write_text(str(pid))


def told(host: V1Host, group: Group) -> Activity:
    activity = host.backend.activity(group)
    assert activity
    return activity


def test_a_group_that_no_other_hierarchy_has_tells_no_activity(make: Make, host: V1Host) -> None:
    assert callable(make)
    assert host.backend.activity(host.group()) is None


@pytest.mark.parametrize("where", ["unified", "cpuacct"])
def test_cpu_time_is_that_of_the_twin(make: Make, host: V1Host, where: str) -> None:
    group = host.group()
    twin = make(where, group)
    worker = host.charge(group)
    move(worker.pid, twin)
    before = told(host, group).cpu_seconds
    worker.grow(32 * MIB)
    assert told(host, group).cpu_seconds > before


@pytest.mark.parametrize("where", ["unified", "cpuacct"])
def test_a_twin_that_lacks_a_process_of_the_group_tells_nothing(
    make: Make, host: V1Host, where: str
) -> None:
    group = host.group()
    worker = host.charge(group)
    twin = make(where, group)
    assert host.backend.activity(group) is None
    move(worker.pid, twin)
    assert host.backend.activity(group)


def test_a_process_of_a_group_inside_may_be_anywhere_in_the_twin(make: Make, host: V1Host) -> None:
    outer = host.group()
    worker = host.charge(host.group(outer))
    twin = make("cpuacct", outer)
    assert host.backend.activity(outer) is None
    move(worker.pid, twin)
    assert host.backend.activity(outer)


def test_cpuacct_tells_when_the_twin_in_cgroup2_lacks_a_process(make: Make, host: V1Host) -> None:
    group = host.group()
    worker = host.charge(group)
    make("unified", group)
    move(worker.pid, make("cpuacct", group))
    worker.grow(16 * MIB)
    assert told(host, group).cpu_seconds > 0


@pytest.mark.parametrize(
    ("where", "file", "frozen"),
    [("unified", "cgroup.freeze", "1"), ("freezer", "freezer.state", "FROZEN")],
)
def test_a_group_is_frozen_where_its_twin_is(
    make: Make, host: V1Host, where: str, file: str, frozen: str
) -> None:
    group = host.group()
    make("cpuacct", group)
    twin = make(where, group)
    assert not told(host, group).is_frozen
    (twin / file).write_text(frozen)
    assert told(host, group).is_frozen


def test_a_frozen_twin_freezes_nobody_who_is_not_in_it(make: Make, host: V1Host) -> None:
    group = host.group()
    twin = make("freezer", group)
    move(host.charge(group).pid, make("cpuacct", group))
    (twin / "freezer.state").write_text("FROZEN")
    assert not told(host, group).is_frozen
