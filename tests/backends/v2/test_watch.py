"""What is v2's own in a watch.

No word about usage, files that a group may lack, and a removal that memory.events is not told of.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shrinkd.backends import EventsMove, Stalled, UsageCrosses
from shrinkd.errors import GroupGone, Unsupported
from tests.backends.v2_host import V2Host, open_host
from tests.support.watch_polling import STALL, is_readable, thrash, told


@pytest.fixture(params=["v2"])
def host() -> Iterator[V2Host]:
    with open_host() as opened:
        yield opened


def test_events_and_stalls_wake_and_usage_does_not(host: V2Host) -> None:
    assert EventsMove in host.backend.watchable
    assert UsageCrosses not in host.backend.watchable
    assert (Stalled in host.backend.watchable) == host.backend.has_pressure


def test_events_move_with_those_of_the_groups_inside(host: V2Host) -> None:
    outer = host.group()
    inner = host.group(outer)
    with host.backend.watch(outer, [EventsMove()]) as watched:
        thrash(host, inner)
        assert told(watched) == {EventsMove()}


def test_the_top_of_the_hierarchy_has_no_events_to_watch(host: V2Host) -> None:
    with pytest.raises(Unsupported, match="EventsMove"):
        host.backend.watch(host.backend.find(""), [EventsMove()])


def test_a_group_whose_pressure_is_not_accounted_has_none_to_watch(host: V2Host) -> None:
    group = host.group()
    Path(host.backend.root, group.path, "cgroup.pressure").write_text("0")
    with pytest.raises(Unsupported, match="Stalled"):
        host.backend.watch(group, [EventsMove(), STALL])


def test_events_alone_do_not_wake_for_a_removal_and_a_read_tells_it(host: V2Host) -> None:
    """The day this fails, a kernel wakes for it: Watch.read can promise more."""
    group = host.group()
    with host.backend.watch(group, [EventsMove()]) as watched:
        host.backend.remove(group)
        assert not is_readable(watched, looks=10)
        with pytest.raises(GroupGone):
            watched.read()


def test_a_stall_within_a_short_window_is_told_to_the_privileged(host: V2Host) -> None:
    group = host.group()
    stall = Stalled("full", 1000, 500_000)
    with host.backend.watch(group, [stall]) as watched:
        thrash(host, group)
        assert told(watched) == {stall}
