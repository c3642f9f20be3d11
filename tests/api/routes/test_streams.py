"""Streams of stats and shrinks: shared readings, bounded buffers, and their ends."""

import socket
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from shrinkd.backends import Group, MemStat
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.errors import KernelRefused
from shrinkd.events.broadcast import StreamHub
from shrinkd.events.log import EventType
from shrinkd.settings import Settings
from tests.support.live_server import Live
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import Stage
from tests.support.shrink_requests import running
from tests.support.sse_client import Follower, frames, read_all

STATS = "/v1/groups/web/stats/stream"


class CountingStage(Stage):
    """Stage that counts calls of stat(), and can make them fail."""

    reads = 0
    broken = False

    def make_backend(self, settings: Settings) -> Simulator:
        stage = self

        class Counting(Simulator):
            def stat(self, group: Group, *, raw: bool = False) -> MemStat:
                stage.reads += 1
                if stage.broken:
                    raise KernelRefused("The kernel said no.", errno="EIO")
                return super().stat(group, raw=raw)

        self.simulator = Counting(settings, clock=self._tick, sleep=lambda _seconds: None)
        return self.simulator


@pytest.fixture
def stage() -> CountingStage:
    return CountingStage()


@pytest.fixture
def live(tmp_path: Path, stage: CountingStage) -> Iterator[Live]:
    with Live(
        Settings(
            backend="simulator", scenario="demo", database_url=f"sqlite:///{tmp_path}/shrinkd.db"
        ),
        stage.make_backend,
    ) as live:
        yield live


def test_a_stats_stream_tells_readings_as_get_does(live: Live) -> None:
    with live.client.stream("GET", STATS, params={"interval_seconds": 0.2}) as answer:
        heard = list(islice(frames(answer), 3))
    reading = live.client.get("/v1/groups/web/stats").json()
    assert [(frame.name, frame.data) for frame in heard] == [("stats", reading)] * 3


def test_however_many_listen_a_group_is_read_once_a_tick(live: Live, stage: CountingStage) -> None:
    followers = [Follower(live, f"{STATS}?interval_seconds=60").begun() for _ in range(100)]
    for follower in followers:
        while "stats" not in follower.names:
            follower.read()
    assert stage.reads == 1
    for follower in followers:
        follower.close()


def test_a_stream_of_a_group_that_goes_ends_with_gone(live: Live, stage: CountingStage) -> None:
    group = stage.simulator.make("web/short")
    with live.client.stream(
        "GET", "/v1/groups/web/short/stats/stream", params={"interval_seconds": 0.2}
    ) as answer:
        heard = frames(answer)
        next(heard)
        stage.simulator.remove(group)
        *_, last = heard
    assert (last.name, last.data) == ("gone", {"id": str(group.id), "path": "web/short"})


def test_what_ends_a_stream_from_inside_is_told_as_a_problem(
    live: Live, stage: CountingStage
) -> None:
    with live.client.stream("GET", STATS, params={"interval_seconds": 0.2}) as answer:
        heard = frames(answer)
        next(heard)
        stage.broken = True
        *_, last = heard
    assert (last.name, last.data["type"], last.data["errno"]) == (
        "problem",
        "/problems/kernel-refused",
        "EIO",
    )


@pytest.mark.parametrize("interval", ["0.1", "61", "nan", "inf", "-1", "often"])
def test_an_interval_that_is_too_short_or_none_is_refused(live: Live, interval: str) -> None:
    problem(live.client.get(f"{STATS}?interval_seconds={interval}"), 422, "invalid-request")


def test_a_stream_of_a_group_that_is_not_there_is_404(live: Live) -> None:
    problem(live.client.get("/v1/groups/nowhere/stats/stream"), 404, "group-not-found")


def test_a_group_named_stream_is_reached_by_its_id(live: Live, stage: CountingStage) -> None:
    stage.simulator.make("web/stats")
    group = stage.simulator.make("web/stats/stream")
    assert (
        live.client.get(f"/v1/groups/id:{group.id}").json()["links"]["self"]
        == f"/v1/groups/id:{group.id}"
    )


def test_more_streams_than_a_caller_may_have_are_429_until_one_ends(live: Live) -> None:
    live.parts.streams = StreamHub(most=3, most_of_a_caller=2)
    shrink = running(live.client)
    followers = [Follower(live, path).begun() for path in (STATS, shrink["links"]["events"])]
    for path in (STATS, "/v1/events", shrink["links"]["events"]):
        refused = live.client.get(path, headers={"Accept": "text/event-stream"})
        body = problem(refused, 429, "too-many-streams")
        assert (body["open"], body["most_of_a_caller"], refused.headers["retry-after"]) == (
            2,
            2,
            "1",
        )
    assert live.client.get("/v1/events").status_code == 200
    live.client.post(shrink["links"]["cancel"])
    read_all([followers[1]], None)
    assert live.client.head(STATS).status_code == 200
    for follower in followers:
        follower.close()


def test_two_hundred_streams_one_that_does_not_read_and_one_that_hangs_up(live: Live) -> None:
    """Readers get every event; nothing is queued for the one that does not read.

    It gets every event later.
    """
    followers = [Follower(live, "/v1/events?after=0").begun() for _ in range(200)]
    stalled, fickle, *readers = followers
    connections = live.server.server_state.connections
    for connection in connections:  # the kernel would hold a megabyte for each
        connection.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        )
    count = 400
    for number in range(count):
        live.parts.events.publish(
            EventType.GROUP_MADE, Group("web", 1), number=number, text="x" * 400
        )
        if number == count // 3:
            fickle.close()
    everything = list(range(1, count + 2))
    read_all(readers, everything[-1])
    assert [follower for follower in readers if follower.ids != everything] == []
    assert {name for follower in readers for name in follower.names} == {
        "daemon.started",
        "group.made",
    }
    assert (
        0
        < max(connection.transport.get_write_buffer_size() for connection in connections)
        < 256 << 10
    )
    read_all([stalled], everything[-1])
    assert stalled.ids == everything
    for follower in followers:
        follower.close()
