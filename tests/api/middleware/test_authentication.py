"""Authentication and authorization.

Every address but the public ones needs a caller. A caller reads and changes the groups of its
scopes only, by whatever name.
"""

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from shrinkd.api import app as api
from shrinkd.api.http.dependencies import caller_of
from shrinkd.auth.tokens import make
from shrinkd.backends.protection import OwnGroup
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.settings import Settings
from tests.api.conftest import Still
from tests.support.bearer import Bearer
from tests.support.leaks import nothing_stays_open
from tests.support.live_server import Live
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import Stage

DOCUMENT: dict[str, Any] = api.build().openapi()
PROTECTED = [
    (method.upper(), path)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if operation.get("security") != []
]
PUBLIC = [
    path
    for path, methods in DOCUMENT["paths"].items()
    if methods.get("get", {}).get("security") == []
]
PUBLIC += ["/", "/docs", "/openapi.json", "/ui/init.js"]


class HomeStage(Stage):
    """Simulator that has the daemon in its group system.slice/nginx.service."""

    def make_backend(self, settings: Settings) -> Simulator:
        class Home(Simulator):
            def own_group(self) -> OwnGroup:
                return OwnGroup("system.slice/nginx.service")

        self.simulator = Home(settings, clock=lambda: self.seconds, sleep=lambda _seconds: None)
        return self.simulator


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Still]:
    """Start a server that requires tokens, and that is itself in a group of the demo."""
    folder = tmp_path_factory.mktemp("guarded")
    make(folder / "tokens", "first", ["read"], "1d")
    stage = HomeStage()
    settings = Settings(
        backend="simulator",
        database_url=f"sqlite:///{folder}/shrinkd.db",
        tokens=str(folder / "tokens"),
    )
    with nothing_stays_open(), Live(settings, stage.make_backend) as live:
        yield Still(live, stage)


@pytest.fixture
def admin(guarded: Still) -> Bearer:
    return Bearer(guarded.live, "admin")


@pytest.fixture
def web(guarded: Still) -> Bearer:
    return Bearer(guarded.live, "write@web")


def without_request_parts(answer: httpx.Response, *names: str) -> dict[str, Any]:
    """Return a problem without its request id, and without these names in its detail."""
    body: dict[str, Any] = answer.json() | {"instance": ""}
    for name in names:
        body["detail"] = body["detail"].replace(name, "…")
    return body


# -- 401 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_every_operation_that_tells_of_this_node_asks_who_calls(
    guarded: Still, method: str, path: str
) -> None:
    answer = guarded.client.request(method, path)
    problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="shrinkd"'


@pytest.mark.parametrize("path", PUBLIC)
def test_what_is_for_everybody_asks_nobody(guarded: Still, path: str) -> None:
    assert guarded.client.get(path).status_code in {200, 307, 404}


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/v1/nowhere",
        "/V1/groups",
        "//v1/groups",
        "/livez/../v1/groups",
        "/ui",
        "/problems-of-mine",
    ],
)
def test_an_address_that_is_not_named_as_open_is_closed(guarded: Still, path: str) -> None:
    problem(guarded.client.get(path), 401, "unauthenticated")


@pytest.mark.parametrize(
    "given", ["Basic dTpw", "Bearer", "shrinkd_x", "", "Digest x", "Bearer, Bearer"]
)
def test_another_scheme_is_no_token(guarded: Still, given: str) -> None:
    answer = guarded.client.get("/v1/groups", headers={"Authorization": given})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="shrinkd"')


def test_a_token_that_stands_twice_is_refused(guarded: Still, admin: Bearer) -> None:
    given = [("Authorization", f"Bearer {admin.secret}")] * 2
    problem(guarded.client.get("/v1/groups", headers=given), 401, "unauthenticated")


def test_the_scheme_may_be_written_in_any_case(guarded: Still, admin: Bearer) -> None:
    for scheme in ("bearer", "BEARER"):
        assert (
            guarded.client.get(
                "/v1/groups", headers={"Authorization": f"{scheme} {admin.secret}"}
            ).status_code
            == 200
        )


def test_a_token_that_does_not_hold_is_told_so_and_not_why(guarded: Still) -> None:
    answer = guarded.client.get("/v1/groups", headers={"Authorization": "Bearer shrinkd_unknown"})
    problem(answer, 401, "token-refused")
    assert answer.headers["www-authenticate"] == 'Bearer realm="shrinkd", error="invalid_token"'
    assert "errno" not in answer.json()


def test_a_refused_change_is_not_made(guarded: Still) -> None:
    before = guarded.stage.limits()
    problem(
        guarded.client.patch("/v1/groups/web/limits", json={"max_bytes": "1G"}),
        401,
        "unauthenticated",
    )
    assert guarded.stage.limits() == before


def test_no_token_is_in_an_answer_or_in_the_log(
    guarded: Still, web: Bearer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        said = [
            web.get("/v1/groups"),
            web.get("/v1/groups/db"),
            web.patch("/v1/groups/web/limits", {"nonsense": 1}),
            guarded.client.get("/v1/groups", headers={"Authorization": f"Basic {web.secret}"}),
            guarded.client.get("/v1/groups", headers={"Authorization": f"Bearer {web.secret}x"}),
        ]
    texts = [
        caplog.text,
        *(f"{answer.headers} {answer.text}" for answer in said),
        *(str(vars(record)) for record in caplog.records),
    ]
    assert [text for text in texts if web.secret in text] == []


def test_what_runs_before_the_caller_is_known_sees_nobody_who_may_do_anything() -> None:
    assert caller_of({}).grants == ()


# -- 403 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/v1/groups/web/limits", {"max_bytes": "1G"}),
        ("POST", "/v1/groups/web/shrinks", {"reclaim_bytes": "1M"}),
        ("POST", "/v1/groups/id:{id}/shrinks", {"reclaim_bytes": "1M"}),
        ("POST", "/v1/groups", {"path": "web/new"}),
        ("DELETE", "/v1/groups/web", None),
        (
            "PUT",
            "/v1/policies/mine",
            {
                "kind": "limit",
                "selector": {"group": "web"},
                "spec": {"limits": {"max_bytes": "1G"}},
            },
        ),
    ],
)
@pytest.mark.parametrize("scope", ["read", "read@web", "write@db"])
def test_what_may_be_read_and_not_changed_is_403_and_names_the_scope(
    guarded: Still, method: Any, path: str, body: Any, scope: str
) -> None:
    caller, before = Bearer(guarded.live, scope, "read"), guarded.stage.everything()
    address = path.replace("{id}", str(guarded.stage.everything()["web"][0]))
    answer = caller.request(method, address, json=body, params={"dry_run": "true"})
    assert problem(answer, 403, "forbidden")["scope"] == "write@web"
    assert f"token:{caller.name}" in answer.json()["detail"]
    assert guarded.stage.everything() == before


def test_write_at_a_subtree_changes_it_and_what_is_below(web: Bearer) -> None:
    assert (
        web.patch(
            "/v1/groups/web/limits", {"max_bytes": "1G"}, params={"dry_run": "true"}
        ).status_code
        == 200
    )
    made = web.post("/v1/groups", {"path": "web/new"})
    assert made.status_code == 201
    assert web.post(
        "/v1/groups/web/new/shrinks", {"reclaim_bytes": "1M"}, headers={"Prefer": "wait=5"}
    ).status_code in {200, 202}
    assert web.delete("/v1/groups/web/new").status_code == 204


@pytest.mark.parametrize(
    ("path", "status"),
    [("new", 403), ("db/new", 404), ("none/new", 404), ("web/none/new", 404), ("webmail", 403)],
)
def test_a_group_is_made_where_the_parent_may_be_written(
    guarded: Still, web: Bearer, path: str, status: int
) -> None:
    assert web.post("/v1/groups", {"path": path}).status_code == status
    assert path not in guarded.stage.everything()


def test_a_process_of_anywhere_is_moved_by_who_may_write_everywhere(
    guarded: Still, web: Bearer
) -> None:
    assert (
        problem(web.post("/v1/groups/web/processes", {"pid": 1}), 403, "forbidden")["scope"]
        == "write"
    )
    problem(
        Bearer(guarded.live, "write").post("/v1/groups/web/processes", {"pid": 2**30}),
        404,
        "process-not-found",
    )


def test_only_an_admin_moves_the_time_and_plans_faults(guarded: Still, admin: Bearer) -> None:
    caller = Bearer(guarded.live, "write")
    asked = [
        caller.post("/v1/simulator/clock", {"speed": 1}),
        caller.post("/v1/simulator/faults", {"verb": "stat", "error": "EBUSY"}),
        caller.delete("/v1/simulator/faults"),
        caller.put("/v1/simulator/groups/web/workload", {"memory": []}),
        caller.delete("/v1/simulator/groups/web/workload"),
    ]
    assert [problem(answer, 403, "forbidden")["scope"] for answer in asked] == ["admin"] * 5
    assert caller.get("/v1/simulator/faults").status_code == 200
    assert admin.delete("/v1/simulator/faults").status_code == 204


def test_faults_which_name_groups_are_for_who_reads_everything(web: Bearer) -> None:
    assert problem(web.get("/v1/simulator/faults"), 403, "forbidden")["scope"] == "read"
    assert web.get("/v1/simulator/clock").status_code == 200


@pytest.mark.parametrize(
    "path", ["system.slice", "system.slice/nginx.service", "unit:nginx.service"]
)
@pytest.mark.parametrize("suffix", ["limits", "shrinks"])
def test_the_group_of_the_daemon_and_those_around_it_are_changed_for_nobody(
    guarded: Still, admin: Bearer, path: str, suffix: str
) -> None:
    before = guarded.stage.everything()
    address = f"/v1/groups/{path}/{suffix}"
    answer = (
        admin.patch(address, {"max_bytes": "8G"})
        if suffix == "limits"
        else admin.post(address, {"reclaim_bytes": "1M"})
    )
    problem(answer, 403, "protected-group")
    assert guarded.stage.everything() == before
    assert admin.get(f"/v1/groups/{path}/limits").status_code == 200


# -- visibility --------------------------------------------------------------------------------


def test_lists_have_what_the_caller_may_read(guarded: Still) -> None:
    caller = Bearer(guarded.live, "read@batch", "write@web")
    assert [row["path"] for row in caller.get("/v1/groups").json()["items"]] == [
        "batch",
        "batch/etl",
        "web",
    ]
    assert [row["group"]["path"] for row in caller.get("/v1/stats").json()["items"]] == [
        "batch",
        "batch/etl",
        "web",
    ]
    assert [
        row["path"] for row in caller.get("/v1/groups", params={"parent": "batch"}).json()["items"]
    ] == ["batch/etl"]
    for params in ({"page_size": 1}, {"page_size": 1, "order_by": "-usage_bytes"}):
        first = caller.get("/v1/groups", params=params).json()
        second = caller.get(
            "/v1/groups", params=params | {"page_token": first["next_page_token"]}
        ).json()
        assert {row["path"] for page in (first, second) for row in page["items"]} <= {
            "batch",
            "batch/etl",
            "web",
        }


def test_a_subtree_ends_at_a_slash(guarded: Still) -> None:
    guarded.stage.simulator.make("webmail")
    try:
        caller = Bearer(guarded.live, "write@web")
        problem(caller.get("/v1/groups/webmail"), 404, "group-not-found")
        assert [row["path"] for row in caller.get("/v1/groups").json()["items"]] == ["web"]
    finally:
        guarded.stage.vanish("webmail")


@pytest.mark.parametrize(
    "path", ["/v1/stats?subtree=db", "/v1/groups?parent=db", "/v1/policies?group=db"]
)
def test_a_group_in_a_query_is_not_there_either(web: Bearer, path: str) -> None:
    there, nowhere = web.get(path), web.get(path.replace("=db", "=xx"))
    problem(there, 404, "group-not-found")
    assert without_request_parts(there, "db") == without_request_parts(nowhere, "xx")


def test_a_reader_of_anything_reads_the_node(web: Bearer) -> None:
    assert web.get("/v1/node").status_code == 200


def test_who_limits_from_outside_is_not_named_and_the_etag_still_holds(
    guarded: Still, admin: Bearer
) -> None:
    guarded.stage.simulator.make("batch/small")
    assert admin.patch("/v1/groups/batch/limits", {"max_bytes": "100G"}).status_code == 200
    here, caller = "/v1/groups/batch/small", Bearer(guarded.live, "write@batch/small")
    assert admin.get(f"{here}/limits").json()["limited_by"] == "batch"
    seen = caller.get(f"{here}/limits")
    assert (seen.json()["limited_by"], seen.json()["effective_max_bytes"]) == (None, 100 << 30)
    assert caller.get(here).json()["limits"]["limited_by"] is None
    same = caller.patch(
        f"{here}/limits", {"soft_limit_bytes": None}, headers={"If-Match": seen.headers["etag"]}
    )
    assert (same.status_code, same.json()["limited_by"]) == (200, None)
    guarded.stage.vanish("batch/small")


def test_shrinks_are_there_for_who_may_read_their_group(admin: Bearer, web: Bearer) -> None:
    theirs = admin.post("/v1/groups/db/shrinks", {"reclaim_bytes": "1M"}).json()["id"]
    ours = web.post(
        "/v1/groups/web/shrinks", {"reclaim_bytes": "1M"}, headers={"Prefer": "wait=30"}
    ).json()["id"]
    admin.get(f"/v1/shrinks/{theirs}", headers={"Prefer": "wait=30"})
    assert {row["id"] for row in web.get("/v1/shrinks").json()["items"]} >= {ours}
    assert {row["group"]["path"] for row in web.get("/v1/shrinks").json()["items"]} <= {
        "web",
        "web/new",
    }
    assert web.get("/v1/shrinks", params={"group": "db"}).json() == {
        "items": [],
        "next_page_token": None,
    }
    assert [
        row["id"] for row in admin.get("/v1/shrinks", params={"group": "db"}).json()["items"]
    ] == [theirs]
    assert web.get(f"/v1/shrinks/{ours}").status_code == 200
    nowhere = "0" * 32
    for method, suffix in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        hidden, absent = (
            web.request(method, f"/v1/shrinks/{shrink_id}{suffix}")  # type: ignore[arg-type]
            for shrink_id in (theirs, nowhere)
        )
        problem(hidden, 404, "shrink-not-found")
        assert without_request_parts(hidden, theirs) == without_request_parts(absent, nowhere)


def test_a_shrink_is_cancelled_by_who_may_write_to_its_group(guarded: Still, web: Bearer) -> None:
    ours = web.post(
        "/v1/groups/web/shrinks", {"reclaim_bytes": "1M"}, headers={"Prefer": "wait=30"}
    ).json()["id"]
    reader = Bearer(guarded.live, "read")
    assert (
        problem(reader.post(f"/v1/shrinks/{ours}/cancel"), 403, "forbidden")["scope"] == "write@web"
    )
    problem(web.post(f"/v1/shrinks/{ours}/cancel"), 409, "shrink-finished")


# -- policies and simulations ------------------------------------------------------------------


def policy(**selector: str) -> dict[str, Any]:
    return {"kind": "idle", "mode": "observe", "selector": selector}


@pytest.mark.parametrize(
    ("selector", "scope"),
    [
        ({"group": "web"}, None),
        ({"group": "web/*"}, None),
        ({"group": "/web/a*/b"}, None),
        ({"parent": "web"}, None),
        ({"group": "web", "scope": "leaves"}, None),
        ({"group": "webmail"}, "write@webmail"),
        ({"group": "web*"}, "admin"),
        ({"group": "we[b]"}, "admin"),
        ({"group": "*/web"}, "admin"),
        ({"parent": ""}, "admin"),
        ({"alias": "unit:nginx.service"}, "admin"),
        ({"group": "db/*"}, "write@db"),
    ],
)
def test_a_policy_takes_write_on_all_that_it_can_ever_reach(
    web: Bearer, selector: dict[str, str], scope: str | None
) -> None:
    answer = web.put("/v1/policies/reach", policy(**selector), params={"dry_run": "true"})
    if scope is None:
        assert answer.status_code == 201
    else:
        assert problem(answer, 403, "forbidden")["scope"] == scope


def test_a_policy_that_switches_others_is_for_an_admin(web: Bearer) -> None:
    spec = {"cron": "0 3 * * *", "switch": {"policy": "theirs", "enabled": False}}
    answer = web.put(
        "/v1/policies/switcher", {"kind": "schedule", "selector": {"group": "web"}, "spec": spec}
    )
    assert problem(answer, 403, "forbidden")["scope"] == "admin"


def test_a_policy_is_there_for_who_may_read_all_that_it_reaches(admin: Bearer, web: Bearer) -> None:
    for priority, (name, selector) in enumerate(
        {"ours": "web", "theirs": "db", "wide": "*"}.items()
    ):
        answer = admin.put(f"/v1/policies/{name}", policy(group=selector) | {"priority": priority})
        assert answer.status_code == 201, answer.text
    try:
        assert [row["name"] for row in web.get("/v1/policies").json()["items"]] == ["ours"]
        assert [row["name"] for row in web.get("/v1/groups/web/policies").json()["items"]] == [
            "ours"
        ]
        assert [
            web.get(f"/v1/policies/ours{suffix}").status_code for suffix in ("", "/decisions")
        ] == [200, 200]
        assert web.post("/v1/policies/ours/evaluate").status_code == 200
        for name in ("theirs", "wide"):
            hidden = [
                web.get(f"/v1/policies/{name}"),
                web.get(f"/v1/policies/{name}/decisions"),
                web.post(f"/v1/policies/{name}/evaluate"),
            ]
            hidden += [
                web.delete(f"/v1/policies/{name}"),
                web.put(f"/v1/policies/{name}", policy(group="web")),
            ]
            absent = without_request_parts(web.get("/v1/policies/none"), "none")
            assert [without_request_parts(answer, name) for answer in hidden] == [absent] * 5
        assert (
            web.put("/v1/policies/ours", policy(group="web") | {"priority": 7}).status_code == 200
        )
        assert web.delete("/v1/policies/ours").status_code == 204
    finally:
        for name in ("ours", "theirs", "wide"):
            admin.delete(f"/v1/policies/{name}")


def test_a_simulation_is_its_callers_and_seen_by_who_reads_everything(
    guarded: Still, admin: Bearer, web: Bearer
) -> None:
    plan = {"scenario": "heat", "policies": [], "duration_seconds": 86400}
    other = Bearer(guarded.live, "write@db")
    ours = web.post("/v1/simulations", plan).json()["id"]
    assert [row["id"] for row in web.get("/v1/simulations").json()["items"]] == [ours]
    assert other.get("/v1/simulations").json()["items"] == []
    assert admin.get(f"/v1/simulations/{ours}").status_code == 200
    for answer in (
        other.get(f"/v1/simulations/{ours}"),
        other.post(f"/v1/simulations/{ours}/cancel"),
    ):
        problem(answer, 404, "simulation-not-found")
    assert (
        problem(
            Bearer(guarded.live, "read").post(f"/v1/simulations/{ours}/cancel"), 403, "forbidden"
        )["scope"]
        == "write"
    )
    assert (
        problem(Bearer(guarded.live, "read").post("/v1/simulations", plan), 403, "forbidden")[
            "scope"
        ]
        == "write"
    )
    assert web.post(f"/v1/simulations/{ours}/cancel").json()["state"] == "cancelled"
