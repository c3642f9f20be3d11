"""References to groups: each form finds its group and no other.

An invalid name changes nothing.
"""

import json

import httpx
import pytest

from shrinkd.api.http.group_reference import href_of, may_change
from shrinkd.backends import Group
from shrinkd.errors import GroupNotFound
from shrinkd.groups.names import aliases_of
from shrinkd.settings import Settings
from tests.api.conftest import Still
from tests.support.problem_checks import problem

SHOP = "kubepods.slice/kubepods-pod3f0c7a52_91d4_4c1e_8a6b_5e2d90b7c413.slice"
CONTAINER = "2c4dee605d22b97f1a8c3e5460d7f92b8e14a6c30f5d9b7182e6a4c0d3f5b719"
IN_SHOP = f"{SHOP}/cri-containerd-{CONTAINER}.scope"


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("web", "web"),
        ("batch/etl", "batch/etl"),
        ("batch%2Fetl", "batch/etl"),
        ("batch%2fetl", "batch/etl"),
        ("%77eb", "web"),
        (IN_SHOP, IN_SHOP),
        (f"container:{CONTAINER}", IN_SHOP),
        (f"container:{CONTAINER[:12]}", IN_SHOP),
        ("container%3A2c4dee605d22", IN_SHOP),
        ("pod:3f0c7a52-91d4-4c1e-8a6b-5e2d90b7c413", SHOP),
        ("unit:nginx.service", "system.slice/nginx.service"),
        ("unit:system.slice", "system.slice"),
    ],
)
@pytest.mark.parametrize("suffix", ["", "/limits", "/stats", "/shrinks"])
def test_a_reference_finds_its_group(
    client: httpx.Client, reference: str, path: str, suffix: str
) -> None:
    answer = client.get(f"/v1/groups/{reference}{suffix}")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (
        body.get("path", body.get("group", {"path": path})["path"] if "items" not in body else path)
        == path
    )


def test_an_id_finds_this_incarnation_and_no_later_one(still: Still) -> None:
    first = still.stage.simulator.make("again")
    assert still.client.get(f"/v1/groups/id:{first.id}").json()["path"] == "again"
    still.stage.simulator.remove(first)
    second = still.stage.simulator.make("again")
    problem(still.client.get(f"/v1/groups/id:{first.id}"), 404, "group-not-found")
    assert still.client.get(f"/v1/groups/id:{second.id}").json()["id"] == str(second.id)
    still.stage.simulator.remove(second)


def test_a_process_finds_the_group_that_it_is_in_now(still: Still) -> None:
    for group in ("web", "db", "web"):
        still.client.post(f"/v1/groups/{group}/processes", json={"pid": 1000}).raise_for_status()
        assert still.client.get("/v1/groups/pid:1000").json()["path"] == group
        assert still.client.get("/v1/groups/pid:1000/stats").json()["group"]["path"] == group
    assert still.client.get("/v1/groups?parent=pid:1000").status_code == 200


@pytest.mark.parametrize(
    ("number", "status", "slug"),
    [("999", 404, "group-not-found"), ("2147483648", 404, "group-not-found")],
)
def test_a_process_that_is_in_no_group_finds_none(
    client: httpx.Client, number: str, status: int, slug: str
) -> None:
    for suffix in ("", "/stats", "/limits"):
        problem(client.get(f"/v1/groups/pid:{number}{suffix}"), status, slug)


def test_a_process_of_the_root_finds_no_group(still: Still) -> None:
    with still.stage.simulator.machine() as machine:
        pid = machine.start(machine.root).pid
    problem(still.client.get(f"/v1/groups/pid:{pid}"), 404, "group-not-found")


@pytest.mark.parametrize(
    "number",
    ["", "0", "-1", "+1", "01", "1 ", "0x3e8", "self", "1000/x", "\u0661", "99999999999", "1/2"],
)
def test_what_is_no_process_id_is_refused(client: httpx.Client, number: str) -> None:
    problem(client.get(f"/v1/groups/pid:{number}/limits"), 422, "invalid-request")


def test_an_id_finds_the_group_to_change_as_well(still: Still) -> None:
    group = still.stage.simulator.groups("leaky")[0]
    answer = still.client.patch(
        f"/v1/groups/id:{group.id}/limits?dry_run=true", json={"max_bytes": "2G"}
    )
    assert (answer.status_code, answer.json()["group"]) == (
        200,
        {"id": str(group.id), "path": "leaky"},
    )


@pytest.mark.parametrize("text", ["", "0", "1.0", "-1", "+1", "abc", "9" * 5000, "0x10"])
def test_an_id_that_nobody_has_is_not_found(client: httpx.Client, text: str) -> None:
    problem(client.get(f"/v1/groups/id:{text}"), 404, "group-not-found")


def test_the_root_is_no_group_of_anybody(still: Still) -> None:
    root = still.stage.simulator.groups(depth=0)[0]
    problem(
        still.client.patch(f"/v1/groups/id:{root.id}/limits", json={"max_bytes": "1G"}),
        404,
        "group-not-found",
    )


@pytest.mark.parametrize(
    ("reference", "status", "slug"),
    [
        ("container:2c4dee605d2", 422, "invalid-request"),
        ("container:", 422, "invalid-request"),
        ("container:2C4DEE605D22", 422, "invalid-request"),
        ("container:zzzzzzzzzzzz", 422, "invalid-request"),
        (f"container:{CONTAINER}0", 422, "invalid-request"),
        ("container:000000000000", 404, "group-not-found"),
        ("pod:3f0c7a52_91d4_4c1e_8a6b_5e2d90b7c413", 404, "group-not-found"),
        ("pod:3f0c7a52", 404, "group-not-found"),
        ("unit:", 404, "group-not-found"),
        ("unit:nginx", 404, "group-not-found"),
        ("unit:system.slice/nginx.service", 404, "group-not-found"),
        ("unknown:web", 404, "group-not-found"),
        ("WEB", 404, "group-not-found"),
        ("web%2520", 404, "group-not-found"),
        ("w*b", 404, "group-not-found"),
    ],
)
def test_a_reference_that_names_nothing_says_so(
    client: httpx.Client, reference: str, status: int, slug: str
) -> None:
    problem(client.get(f"/v1/groups/{reference}"), status, slug)


def test_a_reference_that_names_two_groups_lists_both(still: Still) -> None:
    twins = [still.stage.simulator.make(f"{parent}/{CONTAINER}") for parent in ("web", "db")]
    body = problem(
        still.client.get(f"/v1/groups/container:{CONTAINER[:20]}"), 409, "ambiguous-reference"
    )
    candidates = {(candidate["id"], candidate["path"]) for candidate in body["candidates"]}
    assert candidates >= {(str(group.id), group.path) for group in twins}
    assert len(candidates) == 3
    for group in twins:
        still.stage.simulator.remove(group)


def test_an_ambiguous_reference_changes_nothing(still: Still) -> None:
    twin = still.stage.simulator.make("web/nginx.service")
    before = still.stage.everything()
    problem(
        still.client.patch("/v1/groups/unit:nginx.service/limits", json={"max_bytes": None}),
        409,
        "ambiguous-reference",
    )
    problem(
        still.client.post("/v1/groups/unit:nginx.service/shrinks", json={"reclaim_bytes": "1M"}),
        409,
        "ambiguous-reference",
    )
    assert still.stage.everything() == before
    still.stage.simulator.remove(twin)


NO_NAMES = {
    "nothing": "",
    "a slash before": "/web",
    "a slash behind": "web/",
    "two slashes": "batch//etl",
    "two slashes, encoded": "batch%2F%2Fetl",
    "dot": "%2e",
    "dot dot": "%2e%2e",
    "dot dot inside": "web/%2e%2e/db",
    "dot dot behind": "web/..%2Fdb",
    "dot dot at the end": "web/%2E.",
    "dot inside": "batch/%2e/etl",
    "nul": "web%00",
    "nul inside": "we%00b",
    "line break": "web%0A",
    "line break inside": "we%0Ab",
    "control": "web%1f",
    "delete": "web%7F",
    "300 bytes": "x" * 300,
    "256 bytes": "x" * 256,
    "300 bytes in 100 characters": "%E2%82%AC" * 100,
    "300 bytes inside": f"web/{'x' * 300}/y",
}


@pytest.mark.parametrize("name", NO_NAMES.values(), ids=NO_NAMES)
@pytest.mark.parametrize(
    ("method", "suffix"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/limits"),
        ("PATCH", "/limits"),
        ("GET", "/stats"),
        ("POST", "/shrinks"),
    ],
)
def test_what_cannot_be_the_name_of_a_group_is_refused_on_every_way_in(
    still: Still, name: str, method: str, suffix: str
) -> None:
    before = still.stage.everything()
    body = {"PATCH": {"max_bytes": None}, "POST": {"reclaim_bytes": "1M"}}.get(method)
    # As it stands: httpx would resolve the dots that it recognises.
    answer = still.client.request(
        method, httpx.URL(still.live.url, raw_path=f"/v1/groups/{name}{suffix}".encode()), json=body
    )
    problem(answer, 422, "invalid-group-name")
    assert still.stage.everything() == before


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/x",
        "x/",
        "a//b",
        ".",
        "..",
        "web/..",
        "web/../db/x",
        "a\0b",
        "a\nb",
        "\x7f",
        "x" * 256,
        "\N{EURO SIGN}" * 100,
        "\ud800",
    ],
)
@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_what_cannot_be_the_name_of_a_group_cannot_be_made(
    still: Still, name: str, query: str
) -> None:
    before = still.stage.everything()
    content = json.dumps({"path": name})  # by hand, because httpx sends no lone surrogate
    answer = still.client.post(
        f"/v1/groups{query}", content=content, headers={"Content-Type": "application/json"}
    )
    problem(answer, 422, "invalid-group-name")
    assert still.stage.everything() == before


@pytest.mark.parametrize(
    "name",
    [
        "caf\xe9",
        "\N{SNOWMAN}",
        "a b",
        "a%b",
        "a?b",
        "a#b",
        "a:b",
        "id:5",
        "unit:x",
        "-rf",
        "~",
        "'\"",
        "\\",
        "...",
        "x" * 255,
        "\u200b",
        "<b>",
    ],
)
def test_a_strange_name_that_a_kernel_takes_works_all_the_way_round(
    still: Still, name: str
) -> None:
    made = still.client.post("/v1/groups", json={"path": name})
    assert (made.status_code, made.json()["path"]) == (201, name)
    for link in ("self", "limits", "stats", "shrinks"):
        assert still.client.get(made.json()["links"][link]).status_code == 200
    assert still.client.delete(made.headers["location"]).status_code == 204


@pytest.mark.parametrize("name", ["limits", "stats", "shrinks", "processes"])
def test_a_group_that_is_named_like_a_sub_resource_is_reached_by_its_links(
    still: Still, name: str
) -> None:
    made = still.client.post("/v1/groups", json={"path": f"batch/{name}"}).json()
    assert made["links"]["self"] == f"/v1/groups/id:{made['id']}"
    assert still.client.get(made["links"]["self"]).json()["path"] == f"batch/{name}"
    assert still.client.get(made["links"]["limits"]).json()["group"]["path"] == f"batch/{name}"
    assert still.client.delete(made["links"]["self"]).status_code == 204


def test_a_group_at_the_top_that_is_named_like_a_sub_resource_is_a_group(still: Still) -> None:
    still.client.post("/v1/groups", json={"path": "limits"}).raise_for_status()
    assert still.client.get("/v1/groups/limits/limits").json()["group"]["path"] == "limits"
    assert still.client.delete("/v1/groups/limits").status_code == 204


@pytest.mark.parametrize(
    ("path", "aliases"),
    [
        ("web", []),
        (f"docker/{CONTAINER}", [f"container:{CONTAINER}"]),
        (
            f"system.slice/docker-{CONTAINER}.scope",
            [f"container:{CONTAINER}", f"unit:docker-{CONTAINER}.scope"],
        ),
        (f"x/crio-{CONTAINER}.scope", [f"container:{CONTAINER}", f"unit:crio-{CONTAINER}.scope"]),
        (
            f"machine.slice/libpod-{CONTAINER}.scope",
            [f"container:{CONTAINER}", f"unit:libpod-{CONTAINER}.scope"],
        ),
        (
            "kubepods/burstable/pod3f0c7a52-91d4-4c1e-8a6b-5e2d90b7c413",
            ["pod:3f0c7a52-91d4-4c1e-8a6b-5e2d90b7c413"],
        ),
        (SHOP, ["pod:3f0c7a52-91d4-4c1e-8a6b-5e2d90b7c413", f"unit:{SHOP.rpartition('/')[2]}"]),
        ("system.slice/nginx.service", ["unit:nginx.service"]),
        (CONTAINER[:-1], []),
        (CONTAINER.upper(), []),
        (".service", []),
    ],
)
def test_a_group_is_known_by_what_its_name_says(path: str, aliases: list[str]) -> None:
    assert aliases_of(path) == aliases


@pytest.mark.parametrize(
    ("path", "href"),
    [
        ("web", "/v1/groups/web"),
        ("a/b", "/v1/groups/a/b"),
        ("a b", "/v1/groups/a%20b"),
        ("stats", "/v1/groups/stats"),
        ("a/stats", "/v1/groups/id:7"),
        ("id:5", "/v1/groups/id:7"),
        ("x:5", "/v1/groups/x%3A5"),
        ("pid:5", "/v1/groups/id:7"),
    ],
)
def test_the_address_of_a_group_leads_back_to_it(path: str, href: str) -> None:
    assert href_of(Group(path, 7)) == href


@pytest.mark.parametrize(
    ("subtrees", "inside", "outside"),
    [
        ((), ["web", "a/b/c"], []),
        (("batch",), ["batch", "batch/etl"], ["web", "batches", "x/batch"]),
        (("/batch/",), ["batch", "batch/etl"], ["web"]),
        (
            ("kubepods.slice/*",),
            ["kubepods.slice/a", "kubepods.slice/a/b"],
            ["kubepods.slice", "kubepods"],
        ),
        (
            ("*.slice/*.service",),
            ["system.slice/nginx.service"],
            ["system.slice", "a/b.service", "system.slice/a/b.service"],
        ),
        (("batch", "web"), ["batch/x", "web"], ["db"]),
        (("w?b",), ["web"], ["wb", "w/b"]),
        (("[wd]*",), ["web", "db"], ["cache"]),
        (("*",), ["web", "a/b"], []),
        (("/",), ["web", "a/b"], []),
    ],
)
def test_a_subtree_is_what_its_glob_matches_and_everything_below(
    subtrees: tuple[str, ...], inside: list[str], outside: list[str]
) -> None:
    settings = Settings(subtrees=subtrees)
    assert [may_change(settings, Group(path, 1)).path for path in inside] == inside
    for path in outside:
        with pytest.raises(GroupNotFound):
            may_change(settings, Group(path, 1))
