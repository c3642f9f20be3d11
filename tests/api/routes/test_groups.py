"""Groups over HTTP.

Listed, read, made with all that belongs to them or not at all, filled, and removed.
"""

import math
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import httpx
import pytest

from shrinkd.settings import Settings
from tests.api.conftest import Still
from tests.support.live_server import Live
from tests.support.locked_database import locked
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import MIB, Stage
from tests.support.shrink_requests import running
from tests.support.sse_client import STREAM, frames


@pytest.fixture(autouse=True)
def _as_before(still: Still) -> Iterator[None]:
    """Each test takes away what it makes."""
    before = still.stage.everything().keys()
    yield
    assert still.stage.everything().keys() == before


def make(client: httpx.Client, path: str, **limits: object) -> httpx.Response:
    return client.post("/v1/groups", json={"path": path} | ({"limits": limits} if limits else {}))


def remove(client: httpx.Client, path: str) -> None:
    assert client.delete(f"/v1/groups/{path}").status_code == 204


def test_the_list_has_every_group_but_the_root_by_path(still: Still) -> None:
    listed = [item["path"] for item in still.client.get("/v1/groups").json()["items"]]
    assert listed == sorted(group.path for group in still.stage.simulator.groups()[1:])


def test_an_item_of_the_list_has_what_matters_first(client: httpx.Client) -> None:
    item = next(
        item for item in client.get("/v1/groups").json()["items"] if item["path"] == "cache"
    )
    assert list(item) == [
        "id",
        "path",
        "aliases",
        "usage_bytes",
        "max_bytes",
        "effective_max_bytes",
    ]
    assert (item["max_bytes"], item["effective_max_bytes"]) == (512 * MIB, 512 * MIB)


@pytest.mark.parametrize(
    ("query", "listed"),
    [
        ("parent=batch", ["batch/etl"]),
        ("parent=web", []),
        ("depth=1", ["batch", "cache", "db", "kubepods.slice", "leaky", "system.slice", "web"]),
        ("parent=unit:system.slice&depth=1", ["system.slice/nginx.service"]),
        ("parent=batch&depth=99999999999999999999", ["batch/etl"]),
    ],
)
def test_the_list_can_be_of_a_part_of_the_tree(
    client: httpx.Client, query: str, listed: list[str]
) -> None:
    assert [
        item["path"] for item in client.get(f"/v1/groups?fields=path&{query}").json()["items"]
    ] == listed


def test_the_list_has_the_fields_that_are_asked_for(client: httpx.Client) -> None:
    items = client.get("/v1/groups?fields=managed, path,anon_bytes").json()["items"]
    assert {tuple(item) for item in items} == {("path", "managed", "anon_bytes")}


@pytest.mark.parametrize(
    "query",
    [
        "fields=nope",
        "fields=",
        "fields=path,,id",
        "order_by=nope",
        "order_by=",
        "order_by=--path",
        "order_by=id",
    ],
)
def test_a_field_or_an_order_that_is_none_is_refused_with_those_that_there_are(
    client: httpx.Client, query: str
) -> None:
    assert (
        "usage_bytes"
        in problem(client.get(f"/v1/groups?{query}"), 422, "invalid-request")["detail"]
    )


@pytest.mark.parametrize("query", ["depth=0", "depth=-1", "depth=all", f"depth={'9' * 5000}"])
def test_a_depth_that_is_none_is_refused(client: httpx.Client, query: str) -> None:
    problem(client.get(f"/v1/groups?{query}"), 422, "invalid-request")


@pytest.mark.parametrize(
    ("parent", "status", "slug"),
    [("none", 404, "group-not-found"), ("a//b", 422, "invalid-group-name")],
)
def test_a_parent_that_is_none_is_refused(
    client: httpx.Client, parent: str, status: int, slug: str
) -> None:
    problem(client.get("/v1/groups", params={"parent": parent}), status, slug)


def test_a_group_has_its_names_its_limits_and_where_its_parts_are(client: httpx.Client) -> None:
    body = client.get("/v1/groups/batch/etl").json()
    assert (body["path"], body["managed"], body["dry_run"]) == ("batch/etl", False, False)
    assert body["limits"] == client.get("/v1/groups/batch/etl/limits").json()
    assert {
        client.get(body["links"][name]).status_code
        for name in ("self", "limits", "shrinks", "stats")
    } == {200}


def test_a_group_is_made_where_the_answer_says(client: httpx.Client) -> None:
    made = make(client, "batch/nightly", max_bytes="256M")
    assert (made.status_code, made.headers["location"]) == (201, "/v1/groups/batch/nightly")
    assert client.get(made.headers["location"]).json() == made.json()
    assert made.json()["limits"]["max_bytes"] == 256 * MIB
    assert made.json()["managed"]
    assert (
        client.get(
            made.headers["location"], headers={"If-None-Match": made.headers["etag"]}
        ).status_code
        == 304
    )
    remove(client, "batch/nightly")


def test_policies_do_not_keep_away_from_a_group_that_was_just_made(
    still: Still,
) -> None:
    make(still.client, "fresh", max_bytes="64M")
    (group,) = still.stage.simulator.groups("fresh")
    assert still.live.parts.limits.locks.manual_age(group) == math.inf
    still.client.patch("/v1/groups/fresh/limits", json={"max_bytes": "32M"})
    assert still.live.parts.limits.locks.manual_age(group) < math.inf
    remove(still.client, "fresh")


def test_a_group_that_is_there_is_not_made_again(client: httpx.Client) -> None:
    problem(make(client, "web"), 409, "group-exists")


def test_a_group_without_a_parent_is_not_made(client: httpx.Client) -> None:
    assert "no" in problem(make(client, "no/such/parent"), 404, "group-not-found")["detail"]


@pytest.mark.parametrize(
    ("limits", "status", "slug"),
    [
        ({"high_bytes": "1G"}, 422, "unsupported-limit"),
        ({"max_bytes": "1G", "low_bytes": "1M"}, 422, "unsupported-limit"),
        ({"swap_max_bytes": "1G"}, 409, "limit-order"),
        ({"max_bytes": 0}, 409, "limit-below-usage"),
    ],
)
def test_a_group_whose_limits_are_refused_is_not_made(
    still: Still, limits: dict[str, object], status: int, slug: str
) -> None:
    problem(make(still.client, "refused", **limits), status, slug)
    problem(still.client.get("/v1/groups/refused"), 404, "group-not-found")


@pytest.mark.parametrize(
    ("path", "limits"),
    [
        ("tried", {}),
        ("batch/tried", {"max_bytes": "2G"}),
        ("batch/etl/tried", {"max_bytes": "2G"}),
        ("batch/etl/tried", {"max_bytes": "1M"}),
        ("batch/etl/tried", {"max_bytes": "1M", "swap_max_bytes": "2M", "soft_limit_bytes": 0}),
        ("tried", {"swap_max_bytes": None}),
    ],
)
def test_a_dry_run_answers_as_the_making_would_and_makes_nothing(
    still: Still, path: str, limits: dict[str, object]
) -> None:
    before = still.stage.everything()
    tried = still.client.post("/v1/groups?dry_run=true", json={"path": path, "limits": limits})
    assert tried.status_code == 201
    assert still.stage.everything() == before
    made = make(still.client, path, **limits).json()
    assert tried.json()["dry_run"]
    assert tried.json()["limits"] | {"group": None, "dry_run": False} == made["limits"] | {
        "group": None
    }
    remove(still.client, path)


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({"path": "web"}, 409, "group-exists"),
        ({"path": "no/parent"}, 404, "group-not-found"),
        ({"path": "a//b"}, 422, "invalid-group-name"),
        ({"path": "x", "limits": {"high_bytes": 1}}, 422, "unsupported-limit"),
        ({"path": "x", "limits": {"max_bytes": 0}}, 409, "limit-below-usage"),
        ({"path": "x", "limits": {"swap_max_bytes": "1G"}}, 409, "limit-order"),
    ],
)
def test_a_dry_run_refuses_what_the_making_would(
    still: Still, body: dict[str, object], status: int, slug: str
) -> None:
    problem(still.client.post("/v1/groups?dry_run=true", json=body), status, slug)


def test_a_group_of_somebody_else_is_not_removed(still: Still) -> None:
    still.stage.simulator.make("theirs")
    body = problem(still.client.delete("/v1/groups/theirs"), 403, "group-not-managed")
    assert body["group"]["path"] == "theirs"
    still.stage.simulator.remove(still.stage.simulator.groups("theirs")[0])


def test_a_group_that_was_made_again_by_somebody_else_is_not_removed(still: Still) -> None:
    make(still.client, "again")
    still.stage.simulator.remove(still.stage.simulator.groups("again")[0])
    theirs = still.stage.simulator.make("again")
    problem(still.client.delete("/v1/groups/again"), 403, "group-not-managed")
    still.stage.simulator.remove(theirs)


def test_a_group_with_something_inside_is_not_removed(client: httpx.Client) -> None:
    make(client, "outer")
    make(client, "outer/inner")
    problem(client.delete("/v1/groups/outer"), 409, "group-not-empty")
    remove(client, "outer/inner")
    remove(client, "outer")


def test_a_dry_run_of_a_removal_removes_nothing(client: httpx.Client) -> None:
    make(client, "tried")
    tried = client.delete("/v1/groups/tried?dry_run=true")
    assert (tried.status_code, tried.json()) == (200, {"dry_run": True})
    remove(client, "tried")


@pytest.mark.parametrize("path", ["outer", "theirs"])
def test_a_dry_run_of_a_removal_refuses_what_the_removal_would(still: Still, path: str) -> None:
    make(still.client, "outer")
    make(still.client, "outer/inner")
    theirs = still.stage.simulator.make("theirs")
    tried, real = (
        still.client.delete(f"/v1/groups/{path}?dry_run=true"),
        still.client.delete(f"/v1/groups/{path}"),
    )
    assert (tried.status_code, tried.json()["type"]) == (real.status_code, real.json()["type"])
    remove(still.client, "outer/inner")
    remove(still.client, "outer")
    still.stage.simulator.remove(theirs)


def pid_in(still: Still, path: str) -> int:
    with still.stage.simulator.machine() as machine:
        return next(iter(machine.cgroups[path].processes))


def test_a_process_is_moved_and_its_memory_stays_where_it_was(still: Still) -> None:
    make(still.client, "target")
    usage, pid = (
        still.client.get("/v1/groups/web/stats").json()["usage_bytes"],
        pid_in(still, "web"),
    )
    assert still.client.post("/v1/groups/target/processes", json={"pid": pid}).status_code == 204
    assert pid_in(still, "target") == pid
    assert still.client.get("/v1/groups/web/stats").json()["usage_bytes"] == usage
    assert still.client.post("/v1/groups/web/processes", json={"pid": pid}).status_code == 204
    remove(still.client, "target")


def test_a_process_that_is_moved_is_told_and_a_dry_run_is_not(still: Still) -> None:
    pid, there = pid_in(still, "web"), "/v1/groups/web/processes"
    with (
        httpx.Client(base_url=still.live.url) as other,
        other.stream("GET", "/v1/events?type=process.added", headers=STREAM) as answer,
    ):
        still.client.post("/v1/groups/db/processes?dry_run=true", json={"pid": pid})
        assert still.client.post(there, json={"pid": pid}).status_code == 204
        told = takewhile(lambda frame: frame.data["group"]["path"] != "web", frames(answer))
        assert all(
            frame.data["group"]["path"] == "target" for frame in told
        )  # which the test before may have left to be told


def test_a_dry_run_moves_no_process(still: Still) -> None:
    pid = pid_in(still, "web")
    tried = still.client.post("/v1/groups/db/processes?dry_run=true", json={"pid": pid})
    assert (tried.status_code, tried.json()) == (200, {"dry_run": True})
    assert pid_in(still, "web") == pid


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_a_process_that_is_none_is_not_found(client: httpx.Client, query: str) -> None:
    body = problem(
        client.post(f"/v1/groups/db/processes{query}", json={"pid": 2**31 - 1}),
        404,
        "process-not-found",
    )
    assert body["errno"] == "ESRCH"


def test_a_group_that_is_shrunk_is_not_removed(still: Still) -> None:
    make(still.client, "busy")
    still.stage.charge("busy", "file", 64 * MIB)
    shrink = running(still.client, "busy", reclaim_bytes="60M", max_bytes_per_second="128K")
    body = problem(still.client.delete("/v1/groups/busy"), 409, "shrink-in-progress")
    assert body["shrink"]["id"] == shrink["id"]
    still.client.post(shrink["links"]["cancel"]).raise_for_status()
    still.client.get(shrink["links"]["self"], headers={"Prefer": "wait=60"})
    with still.stage.simulator.machine():
        still.stage.vanish("busy")


@pytest.fixture
def fenced(settings: Settings) -> Iterator[Live]:
    """A daemon that may change batch and everything below, and nothing else."""
    with Live(settings.model_copy(update={"subtrees": ("batch",)}), Stage().make_backend) as live:
        yield live


def test_outside_the_allowed_subtrees_everything_can_be_read_and_nothing_can_be_changed(
    fenced: Live,
) -> None:
    client = fenced.client
    assert client.get("/v1/groups/web").status_code == 200
    assert client.get("/v1/groups/web/stats").status_code == 200
    refused = [
        client.patch("/v1/groups/web/limits", json={"max_bytes": None}),
        client.patch("/v1/groups/web/limits?dry_run=true", json={"max_bytes": None}),
        client.post("/v1/groups/web/shrinks", json={"reclaim_bytes": 1}),
        client.post("/v1/groups/web/processes", json={"pid": 1000}),
        client.post("/v1/groups", json={"path": "web/inside"}),
        client.post("/v1/groups", json={"path": "beside"}),
        client.delete("/v1/groups/web"),
        client.delete("/v1/groups/no-such-group"),
    ]
    for answer in refused:
        problem(answer, 404, "group-not-found")


def test_inside_the_allowed_subtrees_everything_can_be_changed(fenced: Live) -> None:
    client = fenced.client
    assert client.get("/v1/node").json()["subtrees"] == ["batch"]
    assert (
        client.patch("/v1/groups/batch/etl/limits", json={"soft_limit_bytes": "1G"}).status_code
        == 200
    )
    assert make(client, "batch/new").status_code == 201
    remove(client, "batch/new")


def test_an_id_is_no_way_round_the_subtrees(fenced: Live) -> None:
    outside = fenced.client.get("/v1/groups/web").json()["id"]
    problem(
        fenced.client.patch(f"/v1/groups/id:{outside}/limits", json={"max_bytes": None}),
        404,
        "group-not-found",
    )


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_no_process_is_taken_from_outside_the_subtrees(fenced: Live, query: str) -> None:
    with fenced.parts.backend.machine() as machine:
        pid, inside = (next(iter(machine.cgroups[path].processes)) for path in ("web", "batch/etl"))
    there = f"/v1/groups/batch/processes{query}"
    body = problem(fenced.client.post(there, json={"pid": pid}), 404, "process-not-found")
    assert "outside the subtrees" in body["detail"]
    assert fenced.parts.backend.group_of(pid).path == "web"
    assert fenced.client.post(there, json={"pid": inside}).is_success


def test_what_was_made_here_is_still_known_to_be_after_a_restart_of_the_same_machine(
    settings: Settings,
) -> None:
    stage = Stage()
    backend = stage.make_backend(settings)
    with Live(settings, lambda _settings: backend) as live:
        make(live.client, "made")
    with Live(settings, lambda _settings: backend) as live:
        assert live.client.get("/v1/groups/made").json()["managed"]
        remove(live.client, "made")


def test_what_was_made_in_another_boot_is_not_taken_for_a_group_of_this_one(
    settings: Settings,
) -> None:
    with Live(settings, Stage().make_backend) as live:
        make(live.client, "made")
    with Live(settings, Stage().make_backend) as live:
        live.parts.backend.make("made")
        assert not live.client.get("/v1/groups/made").json()["managed"]


def database_of(still: Still) -> Path:
    return Path(still.live.parts.settings.database_url.removeprefix("sqlite:///").partition("?")[0])


def test_a_group_that_cannot_be_written_down_is_not_made(still: Still) -> None:
    with locked(database_of(still)):
        answer = make(still.client, "unwritten", max_bytes="1G")
    problem(answer, 503, "store-unavailable")
    assert answer.headers["retry-after"] == "1"
    problem(still.client.get("/v1/groups/unwritten"), 404, "group-not-found")


def test_a_group_is_removed_whether_or_not_that_can_be_written_down(still: Still) -> None:
    make(still.client, "removed")
    with locked(database_of(still)):
        assert still.client.delete("/v1/groups/removed").status_code == 204
    problem(still.client.get("/v1/groups/removed"), 404, "group-not-found")


def test_limits_need_no_database(still: Still) -> None:
    with locked(database_of(still)):
        assert (
            still.client.patch("/v1/groups/web/limits", json={"soft_limit_bytes": "1G"}).status_code
            == 200
        )
    still.client.patch("/v1/groups/web/limits", json={"soft_limit_bytes": None}).raise_for_status()


def test_a_dry_run_gives_out_no_etag_and_no_address(client: httpx.Client) -> None:
    tried = client.post("/v1/groups?dry_run=true", json={"path": "tried"})
    patched = client.patch("/v1/groups/web/limits?dry_run=true", json={"max_bytes": "8G"})
    assert (tried.status_code, patched.status_code) == (201, 200)
    assert not {"etag", "location"} & (tried.headers.keys() | patched.headers.keys())
