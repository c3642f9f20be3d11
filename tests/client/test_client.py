"""The client, blocking and asynchronous: its requests, its results and errors, its retries."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, closing
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import httpx
import pytest

from shrinkd.client import (
    AsyncClient,
    Client,
    ClientError,
    LimitBelowUsage,
    NotFound,
    NotUnderstood,
    PreconditionFailed,
    Problem,
    ShrinkFailed,
    ShrinkInProgress,
    Terms,
    TooLate,
    TryAgain,
    Unreachable,
    address_of,
    types,
)
from shrinkd.client._sse import EventParser, ServerEvent
from tests.contracts.test_openapi import DOCUMENT
from tests.support.live_server import Daemon, Live

URL = "http://shrinkd.test"
Talk = Callable[[httpx.Request], httpx.Response]


class Clock:
    """Time that passes by sleeping alone; `slept` is how."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_awaited(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def asked() -> list[httpx.Request]:
    return []


Scripted = Callable[..., Client]


@pytest.fixture
def scripted(clock: Clock, asked: list[httpx.Request]) -> Iterator[Scripted]:
    """Make a client that is answered with these, one after the other, the last one for ever.

    An exception is a connection that fails.
    """
    made: list[Client] = []

    def script(*answers: httpx.Response | Exception, **terms: Any) -> Client:
        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            said = answers[min(len(asked), len(answers)) - 1]
            if isinstance(said, Exception):
                raise said
            stream = httpx.ByteStream(said.content)
            return httpx.Response(said.status_code, headers=said.headers, stream=stream)

        patience = Terms(clock=clock, jitter=lambda: 1.0, **terms)
        made.append(
            Client(URL, terms=patience, transport=httpx.MockTransport(answer), sleep=clock.sleep)
        )
        return made[-1]

    yield script
    for client in made:
        client.close()


def problem(status: int, slug: str = "internal-error", **members: Any) -> httpx.Response:
    body = {
        "type": f"/problems/{slug}",
        "status": status,
        "title": "?",
        "detail": f"A {slug}.",
        "instance": "r-1",
    } | members
    return httpx.Response(status, json=body, headers={"Content-Type": "application/problem+json"})


def stream(*parts: str) -> httpx.Response:
    return httpx.Response(
        200, content="".join(parts).encode(), headers={"Content-Type": "text/event-stream"}
    )


OK = httpx.Response(200, json={"version": "1", "python": "3"})
BROKEN = httpx.ReadError("reset")
REFUSED = httpx.ConnectError("refused")


# What is tried again


@pytest.mark.parametrize(
    "trouble",
    [BROKEN, REFUSED, *(httpx.Response(status) for status in (429, 502, 503, 504))],
    ids=str,
)
def test_a_read_is_tried_again_until_it_is_answered(
    scripted: Scripted, asked: list[httpx.Request], trouble: Any
) -> None:
    assert scripted(trouble, trouble, OK).version()["version"] == "1"
    assert len(asked) == 3


def test_the_back_off_doubles_and_is_cut_by_the_dice(scripted: Scripted, clock: Clock) -> None:
    with pytest.raises(Unreachable):
        scripted(BROKEN, attempts=5).version()
    assert clock.slept == [0.1, 0.2, 0.4, 0.8]


def test_retry_after_is_honoured(scripted: Scripted, clock: Clock) -> None:
    scripted(httpx.Response(503, headers={"Retry-After": "7"}), OK).version()
    assert clock.slept == [7.0]


def test_what_the_deadline_does_not_leave_time_for_is_not_waited_for(
    scripted: Scripted, clock: Clock
) -> None:
    with pytest.raises(TryAgain):
        scripted(problem(503, "not-ready"), timeout_seconds=5, attempts=99).version()
    assert clock.now < 5
    with pytest.raises(TryAgain):
        scripted(httpx.Response(503, headers={"Retry-After": "7"}), timeout_seconds=5).version()


def test_each_attempt_has_the_time_that_is_left(
    scripted: Scripted, asked: list[httpx.Request]
) -> None:
    scripted(httpx.Response(503, headers={"Retry-After": "7"}), OK, timeout_seconds=10).version()
    assert [request.extensions["timeout"]["read"] for request in asked] == [10, 3]


def test_a_change_that_may_have_arrived_is_not_sent_twice(
    scripted: Scripted, asked: list[httpx.Request]
) -> None:
    for trouble in (BROKEN, problem(503, "store-unavailable")):
        asked.clear()
        with pytest.raises(ClientError):
            scripted(trouble).set_limits("web", max_bytes="1G")
        assert len(asked) == 1


def test_a_change_that_cannot_have_arrived_is(
    scripted: Scripted, asked: list[httpx.Request]
) -> None:
    scripted(REFUSED, httpx.Response(200, json={})).set_limits("web", max_bytes="1G")
    assert len(asked) == 2


def test_a_change_under_a_condition_takes_effect_once_so_it_is_tried_again(
    scripted: Scripted, asked: list[httpx.Request]
) -> None:
    scripted(BROKEN, httpx.Response(204)).delete_policy("x", if_match='"e"')
    assert [request.headers["if-match"] for request in asked] == ['"e"', '"e"']


def test_a_post_has_one_key_for_all_its_attempts_and_another_one_the_next_time(
    scripted: Scripted, asked: list[httpx.Request]
) -> None:
    client = scripted(BROKEN, httpx.Response(502), httpx.Response(200, json={"items": []}))
    client.evaluate_policy("x")
    client.evaluate_policy("x")
    keys = [request.headers["idempotency-key"] for request in asked]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]


def test_a_conflict_is_never_tried_again(scripted: Scripted, asked: list[httpx.Request]) -> None:
    with pytest.raises(ShrinkInProgress):
        scripted(problem(409, "shrink-in-progress")).shrink("web", reclaim_bytes=1)
    assert len(asked) == 1


# What is wrong


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(404, "group-not-found"), NotFound),
        (problem(410, "group-gone"), NotFound),
        (problem(409, "limit-below-usage"), LimitBelowUsage),
        (problem(409, "shrink-in-progress"), ShrinkInProgress),
        (problem(412, "precondition-failed"), PreconditionFailed),
        (problem(429, "too-many-shrinks"), TryAgain),
        (problem(409, "group-busy"), TryAgain),
        (problem(422, "invalid-request"), Problem),
    ],
)
def test_a_problem_is_of_the_class_that_a_caller_decides_by(
    scripted: Scripted, answer: httpx.Response, kind: type[Problem]
) -> None:
    with pytest.raises(Problem) as caught:
        scripted(answer).node()
    assert type(caught.value) is kind
    assert (caught.value.detail, caught.value.request_id) == (f"A {caught.value.slug}.", "r-1")


@pytest.mark.parametrize("page", [b"<html>", b"[]", b"", b"\xff"])
def test_an_error_that_a_proxy_wrote_has_its_status(scripted: Scripted, page: bytes) -> None:
    with pytest.raises(Problem) as caught:
        scripted(httpx.Response(418, content=page)).node()
    assert (caught.value.status, caught.value.slug) == (418, "about:blank")


def test_an_answer_that_is_no_json_is_told_from_one_of_the_daemon(scripted: Scripted) -> None:
    with pytest.raises(NotUnderstood):
        scripted(httpx.Response(200, content=b"<html>")).node()


def test_the_time_that_ran_out_is_told_from_nobody_being_there(clock: Clock) -> None:
    def hang(_: httpx.Request) -> httpx.Response:
        clock.now += 100
        raise httpx.ReadTimeout("slow")

    with (
        Client(
            URL, terms=Terms(clock=clock), transport=httpx.MockTransport(hang), sleep=clock.sleep
        ) as client,
        pytest.raises(TooLate),
    ):
        client.node()


# How things are named


@pytest.mark.parametrize(
    ("group", "path"),
    [
        ("a/b", b"/v1/groups/a/b/limits"),
        ("id:7", b"/v1/groups/id:7/limits"),
        ("a b?c#d%2F\u00e4", b"/v1/groups/a%20b%3Fc%23d%252F%C3%A4/limits"),
        ("../policies/x", b"/v1/groups/%2E%2E/policies/x/limits"),
        ("a/./b", b"/v1/groups/a/%2E/b/limits"),
    ],
)
def test_a_group_stays_in_its_part_of_the_address(
    scripted: Scripted, asked: list[httpx.Request], group: str, path: bytes
) -> None:
    scripted(httpx.Response(200, json={})).limits(group)
    assert asked[0].url.raw_path == path


def test_the_daemon_is_looked_for_where_the_environment_says() -> None:
    assert address_of("unix:/x", {"SHRINKD_URL": "http://y"}) == "unix:/x"
    assert address_of(None, {"SHRINKD_URL": "http://y/", "SHRINKD_LISTEN": "unix:/z"}) == "http://y"
    assert address_of(None, {"SHRINKD_LISTEN": "unix:/z, tcp:127.0.0.1:1"}) == "unix:/z"
    assert address_of(None, {"SHRINKD_LISTEN": "tcp:[::1]:1"}) == "http://[::1]:1"
    assert address_of(None, {}) in {"unix:/run/shrinkd/api.sock", "http://127.0.0.1:8080"}


@pytest.mark.parametrize("url", ["ftp://x", "x:8080", "unix:relative"])
def test_what_is_no_address_is_named(url: str) -> None:
    with pytest.raises(ValueError, match=url):
        Client(url)


def test_a_token_is_sent_and_never_shown(asked: list[httpx.Request]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(401)

    with (
        Client(URL, token="s3cret", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(Problem) as caught,
    ):
        client.node()
    assert asked[0].headers["authorization"] == "Bearer s3cret"
    assert (
        "s3cret"
        not in f"{client!r} {client.http.headers!r} {caught.value!r} {caught.value.members}"
    )


# Pages and streams


def test_pages_are_fetched_as_they_are_needed(
    scripted: Scripted, asked: list[httpx.Request]
) -> None:
    pages = [
        {"items": [{"n": 1}, {"n": 2}], "next_page_token": "t"},
        {"items": [{"n": 3}], "next_page_token": None},
    ]
    groups = scripted(*(httpx.Response(200, json=page) for page in pages)).groups(parent="a")
    assert [next(groups)["n"], next(groups)["n"], len(asked)] == [1, 2, 1]
    assert [group["n"] for group in groups] == [3]
    assert [
        (request.url.params["parent"], request.url.params.get("page_token")) for request in asked
    ] == [("a", None), ("a", "t")]


SAID = (
    'id: 7\nevent: state\ndata: {"a":\ndata: 1}\nother: x\n\n: a '
    "comment\n\ndata:b\u2028c\r\n\r\nid\ndata\r\rdata: cut"
)
HEARD = [
    ServerEvent("state", '{"a":\n1}', "7"),
    ServerEvent("message", "b\u2028c", "7"),
    ServerEvent("message", "", ""),
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_stream_is_read_as_the_standard_says_wherever_it_is_cut(step: int) -> None:
    said, reader = SAID.encode(), EventParser()
    parts = (said[at : at + step] for at in range(0, len(said), step))
    assert [event for part in parts for event in reader.parse(part)] == HEARD


def test_events_go_on_behind_the_last_one_that_was_heard(
    scripted: Scripted, asked: list[httpx.Request], clock: Clock
) -> None:
    cut = stream('id: 1\nevent: limit\ndata: {"n": 1}\n\nid: 2\ndata: {"n"')
    client = scripted(
        cut,
        REFUSED,
        stream('retry: 3000\nid: 2\nevent: gap\ndata: {"n": 2}\n\n'),
        stream('id: 3\ndata: {"n": 3}\n\n'),
    )
    with closing(client.events(after="0", of_type="limit")) as events:
        heard = [next(events) for _ in range(3)]
    assert [(event.type, event.id, event.members["n"]) for event in heard] == [
        ("limit", "1", 1),
        ("gap", "2", 2),
        ("message", "3", 3),
    ]
    assert [request.headers["last-event-id"] for request in asked] == ["0", "1", "1", "2"]
    assert asked[0].url.params["type"] == "limit"
    assert clock.slept[-1] == 3.0


def test_events_that_are_not_kept_any_more_are_a_problem(scripted: Scripted) -> None:
    with pytest.raises(Problem) as caught:
        next(scripted(problem(410, "events-expired")).events(after="1"))
    assert caught.value.slug == "events-expired"


def test_a_daemon_that_stops_is_no_event_and_a_problem_in_a_stream_is_raised(
    scripted: Scripted,
) -> None:
    failed = json.dumps(
        {"type": "/problems/store-unavailable", "status": 503, "detail": "No disk."}
    )
    events = scripted(
        stream("event: closing\ndata: {}\n\n"),
        stream(f"id: 1\ndata: {{}}\n\nevent: problem\ndata: {failed}\n\n"),
    ).events()
    assert next(events).id == "1"
    with pytest.raises(TryAgain, match="No disk"):
        next(events)


def test_a_stream_that_nobody_takes_up_again_ends_in_an_error(
    scripted: Scripted, clock: Clock
) -> None:
    with pytest.raises(Unreachable):
        list(scripted(stream("data: {}\n\n"), BROKEN, timeout_seconds=9).events())
    assert 5 < clock.now < 20


def shrink(state: str, **more: Any) -> dict[str, Any]:
    done = state in {"succeeded", "failed", "cancelled", "interrupted"}
    links = {
        "self": "/v1/shrinks/s",
        "cancel": "/v1/shrinks/s/cancel",
        "events": "/v1/shrinks/s/events",
        "group": "/v1/groups/web",
    }
    return {
        "id": "s",
        "state": state,
        "done": done,
        "error": None,
        "progress": {"passes": 0},
        "links": links,
    } | more


def test_progress_is_asked_for_where_no_stream_comes_through(
    scripted: Scripted, asked: list[httpx.Request]
) -> None:
    answers = [shrink("queued"), {}, shrink("running"), shrink("succeeded")]
    handle = scripted(*(httpx.Response(200, json=answer) for answer in answers)).shrink(
        "web", target_bytes=1
    )
    assert [now["state"] for now in handle] == ["queued", "running", "succeeded"]
    assert asked[-1].headers["prefer"] == "wait=1"


def test_progress_goes_on_where_the_stream_broke_off(scripted: Scripted) -> None:
    def state(name: str) -> str:
        return f"event: state\ndata: {json.dumps(shrink(name))}\n\n"

    handle = scripted(
        httpx.Response(202, json=shrink("queued")),
        stream(state("running"), 'event: progress\ndata: {"passes": 4}\n\n'),
        stream(state("succeeded")),
    ).shrink("web", target_bytes=1)
    assert [(now["state"], now["progress"]["passes"]) for now in handle] == [
        ("running", 0),
        ("running", 4),
        ("succeeded", 0),
    ]


def test_waiting_ends_in_time_and_leaves_the_shrink_alone(
    scripted: Scripted, asked: list[httpx.Request]
) -> None:
    handle = scripted(httpx.Response(202, json=shrink("running"))).shrink("web", target_bytes=1)
    with pytest.raises(TooLate, match="running"):
        handle.wait(within_seconds=3)
    assert {request.method for request in asked[1:]} == {"GET"}


@pytest.mark.parametrize("ended", ["failed", "cancelled", "interrupted"])
def test_who_waits_hears_how_it_went_wrong(scripted: Scripted, ended: str) -> None:
    handle = scripted(httpx.Response(202, json=shrink(ended))).shrink("web", target_bytes=1)
    with pytest.raises(ShrinkFailed) as caught:
        handle.wait()
    assert caught.value.slug == f"shrink-{ended}"


# With a daemon


def test_a_limit_is_refused_a_shrink_makes_room_and_the_limit_holds(server: Live) -> None:
    with Client(server.url) as client:
        with pytest.raises(LimitBelowUsage) as caught:
            client.set_limits("web", max_bytes="200M")
        handle = client.shrink("web", **caught.value.members["next"]["body"])
        seen = list(handle)
        assert (seen[-1]["state"], handle.wait()["done"]) == ("succeeded", True)
        limits = client.limits("web")
        assert limits["max_bytes"] == 200 << 20
        with pytest.raises(PreconditionFailed):
            client.set_limits("web", if_match='"other"', max_bytes=None)
        assert (
            client.set_limits("web", if_match=limits["etag"], max_bytes=None)["max_bytes"] is None
        )


def test_a_shrink_is_found_again_and_cancelled(server: Live) -> None:
    with Client(server.url) as client:
        begun = client.shrink("web", target_bytes="100M", max_bytes_per_second="1M")
        begun.cancel()
        with pytest.raises(ShrinkFailed) as caught:
            client.follow(begun.now["id"]).wait(within_seconds=60)
        assert caught.value.slug == "shrink-cancelled"
        assert [found["id"] for found in client.shrinks(group="web", state=["cancelled"])] == [
            begun.now["id"]
        ]


def test_every_read_is_answered(server: Live) -> None:
    with Client(server.url) as client:
        assert client.version().keys() == {"version", "python"}
        assert client.node()["backend"] == "simulator"
        assert client.stats("web")["usage_bytes"] > 0
        assert len(client.stats_all(fields="usage_bytes")["items"]) == len(list(client.groups()))
        assert client.history("web", fields="usage_bytes")["series"]["usage_bytes"]
        with pytest.raises(NotFound):
            client.group("none")


def test_a_group_is_made_and_removed(server: Live) -> None:
    with Client(server.url) as client:
        made = client.make_group("batch/new", max_bytes="64M")
        assert client.make_group("batch/other", dry_run=True)["dry_run"]
        client.remove_group("batch/new", if_match=made["etag"])
        with pytest.raises(NotFound):
            client.group("batch/new")
        with pytest.raises(NotFound):
            client.add_process("web", 2**31 - 2, dry_run=True)


def test_a_policy_is_written_tried_and_taken_away(server: Live) -> None:
    with Client(server.url) as client:
        written = client.put_policy(
            "keep",
            {
                "kind": "limit",
                "selector": {"group": "web"},
                "spec": {"limits": {"max_bytes": "1G"}},
            },
        )
        assert client.policy("keep")["etag"] == written["etag"]
        assert [policy["name"] for policy in client.policies(group="web")] == ["keep"]
        assert [
            decision["group"]["path"] for decision in client.evaluate_policy("keep")["items"]
        ] == ["web"]
        assert all(decision["policy"] == "keep" for decision in client.decisions(policy="keep"))
        client.delete_policy("keep", if_match=written["etag"])
        with pytest.raises(ValueError, match="one of the two"):
            client.decisions()


def test_the_awaiting_client_does_all_of_it_too(server: Live) -> None:
    async def walk() -> None:
        async with AsyncClient(server.url) as client:
            assert "web" in [group["path"] async for group in client.groups()]
            with pytest.raises(LimitBelowUsage):
                await client.set_limits("web", max_bytes="64M")
            handle = await client.shrink("web", target_bytes="200M")
            async with aclosing(handle.progress()) as progress:
                assert [now["state"] async for now in progress][-1] == "succeeded"
            assert (await handle.wait())["done"]
            slow = await client.shrink("web", target_bytes="100M", max_bytes_per_second="1M")
            waiting = asyncio.create_task(slow.wait())
            await (await client.follow(slow.now["id"])).cancel()
            with pytest.raises(ShrinkFailed):
                await waiting

    asyncio.run(walk())


def test_the_awaiting_client_tries_again_and_takes_up_streams(clock: Clock) -> None:
    answers: Iterator[httpx.Response | Exception] = iter(
        [REFUSED, stream("id: 1\ndata: {}\n\n"), stream("id: 2\ndata: {}\n\n")]
    )

    def answer(_: httpx.Request) -> httpx.Response:
        said = next(answers)
        if isinstance(said, Exception):
            raise said
        return httpx.Response(said.status_code, headers=said.headers, content=_cut(said.content))

    async def listened() -> list[str]:
        transport = httpx.MockTransport(answer)
        async with (
            AsyncClient(
                URL, terms=Terms(clock=clock), transport=transport, sleep=clock.sleep_awaited
            ) as client,
            aclosing(client.events()) as events,
        ):
            return [(await anext(events)).id, (await anext(events)).id]

    assert asyncio.run(listened()) == ["1", "2"]
    assert len(clock.slept) == 2


async def _cut(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 5):
        yield content[at : at + 5]


def test_a_daemon_on_a_unix_socket_is_reached(daemon: Callable[..., Daemon]) -> None:
    with Client(f"unix:{daemon().socket}") as client:
        assert client.node()["backend"] == "simulator"
        assert f"{client!r}".startswith("Client('unix:/")


# What it needs, and what it says that bodies are


def test_a_client_needs_nothing_of_the_server() -> None:
    told = "import sys, shrinkd.client; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {
        "fastapi",
        "starlette",
        "sqlalchemy",
        "uvicorn",
        "uvloop",
        "pydantic",
        "alembic",
        "typer",
    } & set(loaded) == set()


BODIES = {
    name: kind for name, kind in vars(types).items() if is_typeddict(kind) and name != "Tagged"
}
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def schema_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        SCHEMAS[known] for known in (name, f"{name}Body", f"{name}-Output") if known in SCHEMAS
    )
    return found


def kinds_of(schema: dict[str, Any]) -> set[str]:
    """Return the types and the words that a schema allows, as a set.

    Other constraints on a value, such as a minimum, are left out.
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2].removesuffix("-Output").removesuffix("Body")
        return {name} if name in BODIES else kinds_of(SCHEMAS[name])
    if "anyOf" in schema:
        return set[str]().union(*(kinds_of(each) for each in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return set(schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return {f"[{kind}]" for kind in kinds_of(schema["items"])}
    return {schema["type"]}


_WORDS = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def kinds_told(hint: Any) -> set[str]:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is NotRequired:
        return kinds_told(parts[0])
    if origin in {Union, UnionType}:
        return set[str]().union(*map(kinds_told, parts))
    if origin is Literal:
        return set(parts)
    if origin is list:
        return {f"[{kind}]" for kind in kinds_told(parts[0])}
    return (
        {"object"} if origin is dict else {hint.__name__} if is_typeddict(hint) else {_WORDS[hint]}
    )


def without_words(kinds: set[str]) -> set[str]:
    """A word beside any string is a string."""
    return kinds - {"max"} if "string" in kinds else kinds


def loosely(kinds: Iterable[str], told: set[str]) -> set[str]:
    """A closed list that the client takes as any string is a string."""
    return (
        {"string"} | {"null"} & set(kinds)
        if told <= {"string", "null"} and not {"integer"} & set(kinds)
        else set(kinds)
    )


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_as_the_document_has_it(name: str) -> None:
    schema = schema_of(name)
    hints = {
        member: hint
        for member, hint in get_type_hints(BODIES[name], include_extras=True).items()
        if member != "etag"
    }
    assert hints.keys() == schema["properties"].keys()
    if "required" in schema:
        assert BODIES[name].__required_keys__ == set(schema["required"])
    else:
        assert BODIES[name].__required_keys__ == frozenset()
    wrong = {
        member: (told, meant)
        for member, hint in hints.items()
        if (told := kinds_told(hint))
        != (meant := without_words(kinds_of(schema["properties"][member])))
        and told != loosely(meant, told)
    }
    assert wrong == {}
