"""Events over HTTP: pages, and streams in which every gap is reported."""

import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import pytest

from shrinkd.api.routes.events import EventQuery, selection
from shrinkd.auth.scopes import ANYONE, Caller, Grant, Level
from shrinkd.backends import Group
from shrinkd.events.log import RECENT, EventType
from shrinkd.settings import Settings
from shrinkd.storage import now
from shrinkd.storage.events import KEEP_SECONDS as KEEP_EVENTS_SECONDS
from tests.support.live_server import Live
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import Stage
from tests.support.shrink_requests import shrunk
from tests.support.sse_client import STREAM, Frame, frames

MADE = EventType.GROUP_MADE
_LATER = 2 * KEEP_EVENTS_SECONDS * 1_000_000


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(
        Settings(
            backend="simulator", scenario="demo", database_url=f"sqlite:///{tmp_path}/shrinkd.db"
        ),
        Stage().make_backend,
    ) as live:
        wait_for_writes(live)
        yield live


def wait_for_writes(live: Live) -> None:
    """Wait until every published event can be read."""
    events, name = live.parts.events, token_hex(8)
    events.publish(EventType.POLICY_DELETED, name="marker", of=name)
    while not any(
        event.data.get("of") == name
        for event in events.recent(max(events.newest - 10, 0), 10) or ()
    ):
        time.sleep(0.01)


def publish_events(live: Live, *paths: str, data: str = "") -> None:
    for number, path in enumerate(paths):
        live.parts.events.publish(MADE, Group(path, number), data=data)


def list_all(live: Live, **query: Any) -> list[dict[str, Any]]:
    """Return all events, in as many pages as it takes."""
    items: list[dict[str, Any]] = []
    following: str | None = "/v1/events"
    while following:
        answer = live.client.get(following, params=query or None)
        assert answer.status_code == 200, answer.text
        items += answer.json()["items"]
        following, query = answer.links.get("next", {}).get("url"), {}
    return items


def types(items: list[dict[str, Any]]) -> list[str]:
    return [item["type"] for item in items if item["data"].get("name") != "marker"]


def stream(client: httpx.Client, **query: Any) -> Any:
    return client.stream("GET", "/v1/events", headers=STREAM, params=query)


def test_what_callers_do_is_told_in_its_order_with_the_group_it_is_of(live: Live) -> None:
    client = live.client
    group = client.post(
        "/v1/groups", json={"path": "web/new", "limits": {"max_bytes": "64M"}}
    ).json()
    client.patch("/v1/groups/web/new/limits", json={"max_bytes": "32M"})
    client.patch("/v1/groups/web/new/limits", json={"max_bytes": "32M"})
    client.patch("/v1/groups/web/new/limits?dry_run=true", json={"max_bytes": "16M"})
    shrink = shrunk(client, "web", reclaim_bytes="1M")
    client.put(
        "/v1/policies/night",
        json={
            "kind": "limit",
            "enabled": False,
            "selector": {"group": "db"},
            "spec": {"limits": {"max_bytes": "8G"}},
        },
    )
    client.delete("/v1/policies/night")
    client.delete("/v1/groups/web/new")
    wait_for_writes(live)
    items = [
        item
        for item in list_all(live)
        if item["type"] != "decision" and item["data"].get("name") != "marker"
    ]
    states = [item["data"]["state"] for item in items if item["type"] == "shrink.state"]
    assert states == ["queued", "running", "succeeded"]
    others = [
        (item["type"], item["group"] and item["group"]["path"], item["data"])
        for item in items
        if item["type"] != "shrink.state"
    ]
    assert others == [
        ("daemon.started", None, {"version": live.app.version, "interrupted_shrinks": 0}),
        ("group.made", "web/new", {"max_bytes": 64 << 20}),
        ("limits.changed", "web/new", {"max_bytes": 32 << 20}),
        (
            "policy.changed",
            None,
            {"name": "night", "kind": "limit", "enabled": False, "generation": 1},
        ),
        ("policy.deleted", None, {"name": "night"}),
        ("group.removed", "web/new", {}),
    ]
    assert items[1]["group"] == {"id": group["id"], "path": "web/new"}
    assert {item["data"]["shrink_id"] for item in items if item["type"] == "shrink.state"} == {
        shrink["id"]
    }


def test_pages_have_each_event_once_and_say_where_to_go_on(live: Live) -> None:
    publish_events(live, *["web"] * 25)
    wait_for_writes(live)
    items = list_all(live, page_size=7)
    assert [item["id"] for item in items] == list(range(1, live.parts.events.newest + 1))
    page = live.client.get("/v1/events", params={"page_size": 7, "after": 20}).json()
    assert ([item["id"] for item in page["items"]], page["last_id"]) == (
        [21, 22, 23, 24, 25, 26, 27],
        27,
    )
    nothing = live.client.get("/v1/events", params={"type": "simulation.state"}).json()
    assert nothing == {"items": [], "last_id": live.parts.events.newest, "next_page_token": None}


def test_events_are_listed_by_type_and_at_a_group_and_below(live: Live) -> None:
    publish_events(live, "web", "web/cart", "webby", "db")
    wait_for_writes(live)
    assert [item["group"]["path"] for item in list_all(live, group="web")] == ["web", "web/cart"]
    assert types(list_all(live, type=["daemon.started", "simulation.state"])) == ["daemon.started"]
    problem(live.client.get("/v1/events?type=nonsense"), 422, "invalid-request")
    problem(live.client.get("/v1/events?group=../etc"), 422, "invalid-group-name")
    problem(live.client.get("/v1/events?after=-1"), 422, "invalid-request")


def test_events_that_are_not_kept_are_410_for_a_page(live: Live) -> None:
    publish_events(live, "web", "web")
    wait_for_writes(live)
    newest = live.parts.events.newest
    live.parts.events.expire(now() + _LATER)
    body = problem(live.client.get("/v1/events?after=1"), 410, "events-expired")
    assert (body["after"], body["oldest_id"], body["newest_id"]) == (1, newest, newest)
    problem(live.client.get(f"/v1/events?after={newest + 1}"), 410, "events-expired")
    assert [item["id"] for item in list_all(live)] == [newest]
    assert live.client.get(f"/v1/events?after={newest}").json()["items"] == []


def test_a_stream_tells_what_comes_from_its_begin_on(live: Live) -> None:
    with stream(live.client, type="group.made", group="web") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        publish_events(live, "web", "db", "web/cart")
        heard = list(islice(frames(answer), 2))
    assert [(frame.name, frame.data["group"]["path"]) for frame in heard] == [
        ("group.made", "web"),
        ("group.made", "web/cart"),
    ]
    assert [frame.id for frame in heard] == [frame.data["id"] for frame in heard]
    with httpx.Client(base_url=live.url) as other:
        page = other.get("/v1/events", params={"type": "group.made", "group": "web"}).json()
    assert page["items"] == [frame.data for frame in heard]


@pytest.mark.parametrize("count", [5, RECENT + 200])
def test_a_stream_goes_on_behind_the_last_event_that_was_received(live: Live, count: int) -> None:
    publish_events(live, *["web"] * count)
    wait_for_writes(live)
    newest = live.parts.events.newest
    with live.client.stream(
        "GET", "/v1/events?after=1", headers=STREAM | {"Last-Event-ID": "3"}
    ) as answer:
        assert [frame.id for frame in islice(frames(answer), newest - 3)] == list(
            range(4, newest + 1)
        )


def test_between_the_database_and_what_is_new_nothing_is_lost_or_told_twice(live: Live) -> None:
    """Start streams at any moment during writes, from events that memory no longer holds."""
    publish_events(live, *["web"] * (RECENT + 300))
    wait_for_writes(live)
    stopping = threading.Event()

    def write() -> None:
        while not stopping.wait(0.0005):
            publish_events(live, "web", "db")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(8):
            newest = live.parts.events.newest
            begin = newest - RECENT - 100
            with stream(live.client, after=begin) as answer:
                count = newest - begin + 150
                assert [frame.id for frame in islice(frames(answer), count)] == list(
                    range(begin + 1, begin + 1 + count)
                )
    finally:
        stopping.set()
        writer.join()


def test_what_is_too_old_is_a_gap_and_then_all_that_is_kept(live: Live) -> None:
    publish_events(live, *["web"] * (RECENT + 1))
    wait_for_writes(live)
    newest = live.parts.events.newest
    live.parts.events.expire(now() + _LATER)
    with stream(live.client, after=1) as answer:
        gap, kept = islice(frames(answer), 2)
    assert gap == Frame("gap", {"after": 1, "oldest_id": newest, "newest_id": newest}, newest - 1)
    assert kept.id == newest


@pytest.mark.parametrize(
    "last", ["999999", "999999999999999999", "0xff", "another", "-1", "1" * 40]
)
def test_an_id_of_another_database_is_a_gap_and_then_what_comes(live: Live, last: str) -> None:
    newest = live.parts.events.newest
    with live.client.stream(
        "GET", "/v1/events", headers=STREAM | {"Last-Event-ID": last}
    ) as answer:
        heard = frames(answer)
        gap = next(heard)
        assert (gap.name, gap.id, gap.data["newest_id"]) == ("gap", newest, newest)
        publish_events(live, "web")
        assert next(heard).id == newest + 1


def test_what_was_dropped_is_told_whatever_is_asked_for(live: Live) -> None:
    with stream(live.client, type="group.removed", group="db") as answer:
        live.parts.events.publish(EventType.GAP, dropped=7)
        assert next(frames(answer)).data["data"] == {"dropped": 7}


def test_a_stream_ends_for_a_listener_that_hangs_up_and_its_place_is_free(live: Live) -> None:
    for _ in range(600):
        with stream(live.client, after=0) as answer:
            next(frames(answer))


def test_head_of_events_ends_at_once(live: Live) -> None:
    assert live.client.head("/v1/events", headers=STREAM).status_code == 200
    assert live.client.head("/v1/events").headers["content-type"] == "application/json"


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html, */*;q=0.8"])
def test_who_does_not_ask_for_a_stream_gets_a_page(live: Live, accept: str) -> None:
    answer = live.client.get("/v1/events", headers={"Accept": accept})
    assert (answer.headers["content-type"], answer.headers["vary"]) == (
        "application/json",
        "Accept",
    )


@pytest.mark.parametrize(
    "accept",
    [
        "text/event-stream",
        "Text/Event-Stream;q=1, */*",
        "application/json;q=0.5, text/event-stream",
    ],
)
def test_who_asks_for_a_stream_gets_one(live: Live, accept: str) -> None:
    answer = live.client.head("/v1/events", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("text/event-stream")


def query(**given: str) -> EventQuery:
    return EventQuery.model_validate(given)


def test_a_caller_sees_what_is_at_and_below_its_subtrees_and_of_the_whole_node_only_with_that() -> (
    None
):
    here = Caller("token:ci", (Grant(Level.WRITE, "web"), Grant(Level.READ, "db")))
    assert selection(here, query()).within == (frozenset({"web", "db"}),)
    assert selection(here, query(group="web/cart")).within == (
        frozenset({"web/cart"}),
        frozenset({"web", "db"}),
    )
    assert selection(ANYONE, query()).within == ()
    assert selection(Caller("nobody", ()), query()).within == (frozenset(),)
