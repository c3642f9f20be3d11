"""What every backend promises of the activity of groups.

CPU time that only grows, counted in the group and all around it.
"""

from shrinkd.backends import Activity, Group
from tests.backends.hosts import MIB, Host, on


def cpu_seconds(host: Host, group: Group) -> float:
    activity = host.backend.activity(group)
    assert activity
    return activity.cpu_seconds


@on("activity")
def test_a_new_group_has_used_no_cpu_time_and_is_not_frozen(host: Host) -> None:
    assert host.backend.activity(host.twinned_group()) == Activity(cpu_seconds=0.0, is_frozen=False)


@on("activity")
def test_what_a_process_does_is_counted_in_its_group_and_around_it_and_nowhere_else(
    host: Host,
) -> None:
    outer = host.twinned_group()
    inner, sibling = host.twinned_group(outer), host.twinned_group(outer)
    host.charge(inner, anon=32 * MIB)
    assert 0 < cpu_seconds(host, inner) <= cpu_seconds(host, outer)
    assert not cpu_seconds(host, sibling)


@on("activity")
def test_who_goes_on_to_work_uses_more_cpu_time(host: Host) -> None:
    group = host.twinned_group()
    worker = host.charge(group, anon=16 * MIB)
    before = cpu_seconds(host, group)
    worker.grow(16 * MIB)
    assert cpu_seconds(host, group) > before


@on("activity")
def test_cpu_time_stays_when_who_used_it_is_gone_and_in_the_group_around_when_its_group_is(
    host: Host,
) -> None:
    outer = host.twinned_group()
    inner = host.twinned_group(outer)
    worker = host.charge(inner, anon=16 * MIB)
    used = cpu_seconds(host, inner)
    worker.stop()
    assert cpu_seconds(host, inner) >= used
    host.backend.remove(inner)
    assert cpu_seconds(host, outer) >= used


def test_the_whole_of_the_tree_is_a_group_as_well(host: Host) -> None:
    root = host.backend.groups(depth=0)[0]
    activity = host.backend.activity(root)
    assert activity is None or activity.cpu_seconds >= 0


def test_the_node_tells_the_pressure_of_the_machine_where_groups_tell_theirs(host: Host) -> None:
    pressure = host.backend.node().pressure
    if pressure:
        assert pressure.some.total_microseconds >= pressure.full.total_microseconds >= 0
    else:
        assert not host.backend.has_pressure
