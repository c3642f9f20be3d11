"""What every backend promises of a watch, tried on every host for the triggers that it takes."""

import asyncio
import select

import pytest

from shrinkd.backends import EventsMove, Group, Stalled, Trigger, UsageCrosses, Watch
from shrinkd.errors import GroupGone, InvalidRequest, Unsupported
from tests.backends.hosts import HOST_NAMES, MIB, Host, offers, on
from tests.support.races import together
from tests.support.watch_polling import STALL, TRIGGERS, is_readable, thrash, told, watchable


def watch(host: Host, group: Group, *triggers: Trigger) -> Watch:
    return host.backend.watch(group, triggers)


@pytest.mark.parametrize("host", HOST_NAMES, indirect=True)
def test_a_host_offers_the_watches_that_its_backend_takes(
    host: Host, request: pytest.FixtureRequest
) -> None:
    offered = offers(request.node.callspec.params["host"])
    assert ("usage_watch" in offered, "stall_watch" in offered) == tuple(
        kind in host.backend.watchable for kind in (UsageCrosses, Stalled)
    )


# What fires


@on("usage_watch")
def test_usage_that_rises_over_a_value_fires_for_that_value_alone(host: Host) -> None:
    group = host.group()
    with watch(host, group, UsageCrosses(16 * MIB), UsageCrosses(64 * MIB)) as watched:
        host.charge(group, anon=32 * MIB)
        assert told(watched) == {UsageCrosses(16 * MIB)}


@on("usage_watch")
def test_usage_that_falls_below_a_value_fires_again(host: Host) -> None:
    group = host.group()
    with watch(host, group, UsageCrosses(16 * MIB)) as watched:
        worker = host.charge(group, anon=32 * MIB)
        assert told(watched)
        worker.stop()
        assert told(watched) == {UsageCrosses(16 * MIB)}


@on("usage_watch")
def test_usage_that_is_above_already_fires_nothing(host: Host) -> None:
    group = host.group()
    host.charge(group, anon=32 * MIB)
    with watch(host, group, UsageCrosses(16 * MIB)) as watched:
        assert not is_readable(watched, looks=10)


@on("usage_watch")
def test_a_value_within_the_page_that_usage_ends_at_is_not_reached_yet(host: Host) -> None:
    group = host.group()
    host.charge(group, anon=16 * MIB)
    barely_above = UsageCrosses(host.backend.usage(group) + 1)
    with watch(host, group, barely_above) as watched:
        host.charge(group, anon=16 * MIB)
        assert told(watched, looks=40) == {barely_above}


def test_a_charge_that_fails_at_the_limit_moves_the_events(host: Host) -> None:
    group = host.group()
    with watch(host, group, EventsMove()) as watched:
        thrash(host, group)
        assert told(watched) == {EventsMove()}


def test_a_kill_moves_the_events(host: Host) -> None:
    group = host.group()
    worker = host.charge(group, anon=4 * MIB)
    host.backend.set_limits(group, {"max_bytes": 16 * MIB})
    with watch(host, group, EventsMove()) as watched:
        assert not worker.grow(64 * MIB)
        assert told(watched) == {EventsMove()}


def test_reclaim_of_our_own_moves_no_event(host: Host) -> None:
    group = host.group()
    host.charge(group, cache=64 * MIB)
    with watch(host, group, EventsMove()) as watched:
        for _ in range(8):
            host.backend.reclaim(group, 4 * MIB)
        assert not told(watched, looks=10)


@on("stall_watch")
def test_a_stall_fires_also_through_an_epoll_around_the_watch(host: Host) -> None:
    group = host.twinned_group()
    with watch(host, group, STALL) as watched, select.epoll() as around:
        around.register(watched, select.EPOLLIN)
        thrash(host, group)
        assert any(around.poll(0.05) and watched.read() for _ in range(400))


@pytest.mark.parametrize(("stall", "window"), [(0, 1), (2, 1), (1, 10_000_001), (-1, 1)])
def test_a_stall_that_no_window_holds_is_refused_when_it_is_made(stall: int, window: int) -> None:
    with pytest.raises(InvalidRequest):
        Stalled("some", stall, window)


# What does not


def test_a_quiet_group_is_never_readable(host: Host) -> None:
    group = host.twinned_group()
    host.charge(group, anon=4 * MIB, cache=4 * MIB)
    with host.backend.watch(group, watchable(host)) as watched:
        assert not is_readable(watched, looks=20)
        assert not watched.read()


def test_an_event_is_told_once(host: Host) -> None:
    group = host.group()
    with watch(host, group, EventsMove()) as watched:
        thrash(host, group)
        assert told(watched)
        assert not watched.read()


@on("stall_watch")
def test_a_stall_is_told_once(host: Host) -> None:
    group = host.twinned_group()
    with watch(host, group, STALL) as watched:
        thrash(host, group)
        assert told(watched)
        assert not watched.read()


def test_what_another_group_does_fires_nothing(host: Host) -> None:
    group, other = host.group(), host.group()
    with watch(host, group, EventsMove()) as watched:
        thrash(host, other)
        assert not is_readable(watched, looks=10)


def test_a_trigger_that_cannot_be_watched_is_refused(host: Host) -> None:
    group = host.group()
    for trigger in set(TRIGGERS) - set(watchable(host)):
        with pytest.raises(Unsupported, match=type(trigger).__name__):
            host.backend.watch(group, [*watchable(host), trigger])


# Around it


def test_a_group_that_is_removed_ends_its_watch_and_silences_it(host: Host) -> None:
    group = host.twinned_group()
    with host.backend.watch(group, watchable(host)) as watched:
        host.backend.remove(group)
        assert is_readable(watched)
        for _ in range(2):
            with pytest.raises(GroupGone):
                watched.read()
        assert not is_readable(watched, looks=5)


def test_every_read_sees_that_the_group_was_removed(host: Host) -> None:
    for trigger in watchable(host):
        group = host.twinned_group()
        with watch(host, group, trigger) as watched:
            host.backend.remove(group)
            with pytest.raises(GroupGone):
                watched.read()


def test_a_group_that_was_removed_before_cannot_be_watched(host: Host) -> None:
    group = host.group()
    host.backend.remove(group)
    with pytest.raises(GroupGone):
        host.backend.watch(group, watchable(host))


def test_two_watches_of_one_group_are_told_each(host: Host) -> None:
    group = host.group()
    with watch(host, group, EventsMove()) as one, watch(host, group, EventsMove()) as other:
        thrash(host, group)
        assert told(one) == told(other) == {EventsMove()}


def test_a_watch_that_closes_leaves_the_other_one_working(host: Host) -> None:
    group = host.group()
    with watch(host, group, EventsMove()) as kept:
        watch(host, group, EventsMove()).close()
        thrash(host, group)
        assert told(kept)


def test_of_two_threads_that_read_one_is_told(host: Host) -> None:
    group = host.group()
    with watch(host, group, EventsMove()) as watched:
        thrash(host, group)
        assert is_readable(watched)
        assert sum(map(len, together(watched.read, watched.read))) == 1


def test_a_watch_may_close_while_another_thread_reads_and_tells_nothing_then(host: Host) -> None:
    group = host.group()
    watched = host.backend.watch(group, watchable(host)[:1])
    assert together(watched.close, watched.read, watched.close)[1] == frozenset()
    host.backend.remove(group)
    assert watched.read() == frozenset()


def test_an_event_loop_sleeps_until_something_happens(host: Host) -> None:
    group = host.twinned_group()
    fired: list[frozenset[Trigger]] = []

    async def listen(watched: Watch) -> int:
        loop = asyncio.get_running_loop()
        loop.add_reader(watched.fileno(), lambda: fired.append(watched.read()))
        for _ in range(10):
            await asyncio.sleep(0.05)
        idle = len(fired)
        await loop.run_in_executor(None, thrash, host, group)
        for _ in range(200):
            if any(fired):
                break
            await asyncio.sleep(0.05)
        loop.remove_reader(watched.fileno())
        return idle

    with host.backend.watch(group, watchable(host)) as watched:
        assert asyncio.run(listen(watched)) == 0
    assert any(fired)
