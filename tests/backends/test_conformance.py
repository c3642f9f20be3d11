"""Test the promises of Backend for groups and processes on every host.

This suite names no backend: differences are capabilities, and sizes are compared within the slack
of the host. The same holds for test_conformance_memory.py and test_conformance_shrink.py.
"""

from collections.abc import Callable
from contextlib import suppress

import pytest

from shrinkd.backends import BACKEND_NAMES, Backend, Group, load
from shrinkd.errors import (
    GroupBusy,
    GroupExists,
    GroupGone,
    GroupNotEmpty,
    GroupNotFound,
    InvalidGroupName,
    ProcessNotFound,
)
from shrinkd.memcontrol import Memcg, resize_limit, shrink_usage_to
from shrinkd.sizes import PAGE_BYTES
from tests.backends.hosts import MIB, Host, parse_limit_file
from tests.support.scripted_task import ScriptedTask

VERBS: dict[str, Callable[[Backend, Group], object]] = {
    "groups": lambda backend, group: backend.groups(group.path),
    "usage": lambda backend, group: backend.usage(group),
    "stat": lambda backend, group: backend.stat(group),
    "activity": lambda backend, group: backend.activity(group),
    "set_limits": lambda backend, group: backend.set_limits(group, {"max_bytes": 64 * MIB}),
    "try_limits": lambda backend, group: backend.set_limits(
        group, {"max_bytes": 64 * MIB}, dry_run=True
    ),
    "reclaim": lambda backend, group: backend.reclaim(group, MIB),
    "make_inside": lambda backend, group: backend.make(f"{group.path}/inside"),
    "remove": lambda backend, group: backend.remove(group),
    "try_remove": lambda backend, group: backend.remove(group, dry_run=True),
    "attach": lambda backend, group: backend.attach(group, 1_000_000_000),
}


# The node, and what the backend says of itself


def test_a_backend_is_found_by_the_name_that_it_gives(host: Host) -> None:
    assert host.backend.name in BACKEND_NAMES
    assert load(host.backend.name) is type(host.backend)


def test_the_node_tells_its_memory_and_keeps_its_identity(host: Host) -> None:
    node = host.backend.node()
    assert 0 < node.available_bytes <= node.total_bytes
    assert 0 <= node.swap_free_bytes <= node.swap_total_bytes
    assert node.page_size_bytes == PAGE_BYTES
    assert node.boot_id == host.backend.node().boot_id


def test_a_maximum_can_be_set_everywhere(host: Host) -> None:
    assert "max_bytes" in host.backend.settable_limits


# Making, listing, removing


def test_a_new_group_is_empty_and_has_no_limit(host: Host) -> None:
    group = host.group()
    stat = host.backend.stat(group)
    assert stat.usage_bytes <= host.slack_bytes
    assert stat.limits.max_bytes is None


def test_a_made_group_is_listed_once_with_its_id(host: Host) -> None:
    group = host.group()
    assert host.backend.groups().count(group) == 1


def test_a_listing_has_parents_before_children(host: Host) -> None:
    outer = host.group()
    inner = host.group(outer)
    innermost = host.group(inner)
    assert host.backend.groups(outer.path) == [outer, inner, innermost]


def test_a_listing_ends_at_the_depth_asked_for(host: Host) -> None:
    outer = host.group()
    inner = host.group(outer)
    host.group(inner)
    assert host.backend.groups(outer.path, depth=0) == [outer]
    assert host.backend.groups(outer.path, depth=1) == [outer, inner]


def test_making_and_removing_leaves_what_was_there(host: Host) -> None:
    outer = host.group()
    before = host.backend.groups(outer.path)
    host.backend.remove(host.backend.make(f"{outer.path}/passing"))
    assert host.backend.groups(outer.path) == before


def test_a_name_with_spaces_and_letters_beyond_ascii_is_a_name(host: Host) -> None:
    outer = host.group()
    group = host.backend.make(f"{outer.path}/größe 5%2f")
    assert host.backend.groups(group.path) == [group]
    host.backend.remove(group)


def test_a_group_is_not_made_twice(host: Host) -> None:
    group = host.group()
    with pytest.raises(GroupExists):
        host.backend.make(group.path)
    with pytest.raises(GroupExists):
        host.backend.make(group.path, dry_run=True)


def test_a_group_is_not_made_below_a_missing_one(host: Host) -> None:
    group = host.group()
    with pytest.raises(GroupNotFound):
        host.backend.make(f"{group.path}/missing/child")


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a//b", "a/../b", "nul\0", "line\n", "x" * 256, "\udc80"]
)
def test_a_name_that_leads_astray_is_refused(host: Host, name: str) -> None:
    group = host.group()
    with pytest.raises(InvalidGroupName):
        host.backend.make(f"{group.path}/{name}")


def test_making_on_trial_makes_nothing(host: Host) -> None:
    outer = host.group()
    assert host.backend.make(f"{outer.path}/tried", dry_run=True) == Group(f"{outer.path}/tried", 0)
    assert host.backend.groups(outer.path) == [outer]


def test_removing_on_trial_removes_nothing(host: Host) -> None:
    group = host.group()
    host.backend.remove(group, dry_run=True)
    assert host.backend.groups(group.path) == [group]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_group_with_a_group_inside_is_not_removed(host: Host, *, dry_run: bool) -> None:
    outer = host.group()
    host.group(outer)
    with pytest.raises(GroupNotEmpty):
        host.backend.remove(outer, dry_run=dry_run)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_group_with_a_process_is_not_removed(host: Host, *, dry_run: bool) -> None:
    group = host.group()
    worker = host.charge(group)
    with pytest.raises(GroupNotEmpty):
        host.backend.remove(group, dry_run=dry_run)
    assert worker.alive()


def test_this_process_is_not_near_a_group_that_was_made_for_a_test(host: Host) -> None:
    own, group = host.backend.own_group(), host.group()
    assert not own.suspects
    assert not own.may_contain_daemon(group.path)
    assert not own.may_be_charged_to_daemon(group.path)


def test_a_group_of_page_cache_alone_is_removed(host: Host) -> None:
    group = host.group()
    host.charge(group, cache=4 * MIB).stop()
    host.backend.remove(group)
    with pytest.raises(GroupNotFound):
        host.backend.groups(group.path)


# A group that is gone


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_that_a_group_is_gone(host: Host, verb: str) -> None:
    group = host.group()
    host.backend.remove(group)
    with pytest.raises((GroupGone, GroupNotFound)) as caught:
        VERBS[verb](host.backend, group)
    by_path = verb in {"groups", "make_inside"}
    assert caught.type is (GroupNotFound if by_path else GroupGone)


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {"groups", "make_inside"}))
def test_no_verb_takes_a_group_of_the_same_path_for_the_one_before(host: Host, verb: str) -> None:
    gone = host.group()
    host.backend.remove(gone)
    again = host.backend.make(gone.path)
    assert again.id != gone.id
    with pytest.raises(GroupGone):
        VERBS[verb](host.backend, gone)
    assert parse_limit_file(host, again) is None
    host.backend.remove(again)


def test_a_shrink_notices_that_its_group_went_between_two_passes(host: Host) -> None:
    group = host.group()
    worker = host.charge(group, anon=2 * MIB, cache=16 * MIB)

    def vanish() -> None:
        worker.stop()
        host.backend.remove(group)

    with pytest.raises(GroupGone):
        shrink_usage_to(
            Memcg(host.backend, group), PAGE_BYTES, ScriptedTask({1: vanish}, largest_bytes=MIB)
        )


def test_a_shrink_never_goes_on_with_a_stranger_of_the_same_path(host: Host) -> None:
    group = host.group()
    worker = host.charge(group, cache=16 * MIB)
    strangers = []

    def replace() -> None:
        worker.stop()
        host.backend.remove(group)
        strangers.append(host.backend.make(group.path))

    with pytest.raises(GroupGone):
        resize_limit(Memcg(host.backend, group), MIB, ScriptedTask({1: replace}, largest_bytes=MIB))
    assert parse_limit_file(host, strangers[0]) is None
    host.backend.remove(strangers[0])


# Processes


def test_an_attached_process_is_charged_to_its_new_group_from_then_on(host: Host) -> None:
    old, new = host.group(), host.group()
    worker = host.charge(old, anon=8 * MIB)
    host.backend.attach(new, worker.pid)
    worker.grow(16 * MIB)
    assert host.backend.usage(old) == pytest.approx(8 * MIB, abs=host.slack_bytes)
    assert host.backend.usage(new) == pytest.approx(16 * MIB, abs=host.slack_bytes)


def test_a_process_is_found_in_the_group_that_it_is_in_now(host: Host) -> None:
    first, second = host.group(), host.group()
    worker = host.charge(first)
    assert host.backend.group_of(worker.pid) == first
    host.backend.attach(second, worker.pid)
    assert host.backend.group_of(worker.pid) == second
    worker.stop()
    with pytest.raises(GroupNotFound):
        host.backend.group_of(worker.pid)


def test_attaching_on_trial_moves_nothing(host: Host) -> None:
    old, new = host.group(), host.group()
    worker = host.charge(old)
    host.backend.attach(new, worker.pid, dry_run=True)
    worker.grow(8 * MIB)
    assert host.backend.usage(new) <= host.slack_bytes


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_process_that_ended_cannot_be_attached(host: Host, *, dry_run: bool) -> None:
    group = host.group()
    worker = host.charge(group)
    worker.stop()
    with pytest.raises(ProcessNotFound):
        host.backend.attach(group, worker.pid, dry_run=dry_run)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_process_beside_groups_is_taken_or_busy_says_that_it_is_not(
    host: Host, *, dry_run: bool
) -> None:
    outer = host.group()
    inner = host.group(outer)
    worker = host.charge(inner)
    with suppress(GroupBusy):  # where only the innermost groups have processes
        host.backend.attach(outer, worker.pid, dry_run=dry_run)
        worker.stop()
    assert host.backend.groups(outer.path) == [outer, inner]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_group_beside_processes_is_made_or_busy_says_that_it_is_not(
    host: Host, *, dry_run: bool
) -> None:
    outer = host.group()
    worker = host.charge(outer)
    made = []
    with suppress(GroupBusy):
        made.append(host.backend.make(f"{outer.path}/inner", dry_run=dry_run))
    worker.stop()
    assert host.backend.groups(outer.path) == [outer, *(group for group in made if group.id)]


def test_anonymous_memory_goes_with_its_process_and_cache_stays(host: Host) -> None:
    group = host.group()
    host.charge(group, anon=16 * MIB, cache=8 * MIB).stop()
    assert host.backend.usage(group) == pytest.approx(8 * MIB, abs=host.slack_bytes)
