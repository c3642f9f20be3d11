"""Policies over HTTP: preconditions, status, evaluation, lists and refusals."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from shrinkd.policies import Verdict, kinds
from shrinkd.settings import Settings
from shrinkd.storage import Store
from tests.api.conftest import Still
from tests.api.http.test_etags import OTHER
from tests.api.http.test_paging import pages
from tests.storage.test_store import decision
from tests.storage.test_store import policy as stored_policy
from tests.support.live_server import Live
from tests.support.locked_database import locked
from tests.support.polling import until
from tests.support.problem_checks import problem
from tests.support.races import together
from tests.support.scripted_simulator import Stage
from tests.support.shrink_requests import MIB

HERE = "/v1/policies"
POLICY = {
    "name": "keep",
    "kind": "limit",
    "enabled": False,
    "selector": {"group": "web"},
    "spec": {"limits": {"max_bytes": "8G"}},
}
DRAFT = {key: value for key, value in POLICY.items() if key != "name"}
READ_ONLY = {"generation", "created_at", "updated_at", "status", "links", "dry_run"}


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def live(settings: Settings, stage: Stage) -> Iterator[Live]:
    """Start a server on the groups of the demo, with the clock stopped.

    Each policy is evaluated once, and again on events.
    """
    with Live(
        settings.model_copy(update={"database_url": f"{settings.database_url}?timeout=0.05"}),
        stage.make_backend,
    ) as live:
        yield live


@pytest.fixture
def client(live: Live) -> httpx.Client:
    return live.client


def write(client: httpx.Client, name: str = "keep", **changes: Any) -> httpx.Response:
    answer = client.post(HERE, json=POLICY | {"name": name} | changes)
    assert answer.status_code == 201, answer.text
    return answer


def list_names(client: httpx.Client, path: str = HERE, **params: Any) -> list[str]:
    return [item["name"] for page in pages(client, path, **params) for item in page]


# Writing and reading


def test_a_policy_is_made_and_reads_as_it_was_answered(client: httpx.Client) -> None:
    made = write(client)
    assert made.headers["location"] == f"{HERE}/keep"
    read = client.get(f"{HERE}/keep")
    assert (read.json(), read.headers["etag"]) == (made.json(), made.headers["etag"])
    body = read.json()
    assert {
        name: body[name]
        for name in (
            "name",
            "kind",
            "enabled",
            "mode",
            "priority",
            "swap",
            "active",
            "generation",
            "dry_run",
        )
    } == {
        "name": "keep",
        "kind": "limit",
        "enabled": False,
        "mode": "enforce",
        "priority": 100,
        "swap": "allow",
        "active": None,
        "generation": 1,
        "dry_run": False,
    }
    assert body["selector"] == {"group": "web", "parent": None, "alias": None, "scope": "self"}
    assert body["floor"] == {"bytes": 64 * MIB, "percent_of_limit": 0}
    assert body["spec"] == {"limits": {"max_bytes": 8 << 30}, "interval_seconds": 10}
    assert body["status"] == {
        "observed_generation": 0,
        "matched_groups": 0,
        "last_decision": None,
        "conditions": [],
    }
    assert body["created_at"] == body["updated_at"]
    assert body["created_at"].endswith("Z")


def test_a_name_that_is_taken_is_a_conflict_and_changes_nothing(client: httpx.Client) -> None:
    made = write(client)
    body = problem(client.post(HERE, json=POLICY | {"priority": 7}), 409, "policy-exists")
    assert (body["errno"], body["generation"]) == ("EEXIST", 1)
    assert client.get(f"{HERE}/keep").json() == made.json()


def test_a_put_makes_what_is_not_there_and_replaces_what_is_as_a_whole(
    client: httpx.Client,
) -> None:
    made = client.put(f"{HERE}/keep", json=DRAFT | {"priority": 7})
    assert (made.status_code, made.headers["location"], made.json()["priority"]) == (
        201,
        f"{HERE}/keep",
        7,
    )
    replaced = client.put(f"{HERE}/keep", json=POLICY)
    assert (replaced.status_code, replaced.json()["priority"], replaced.json()["generation"]) == (
        200,
        100,
        2,
    )
    assert "location" not in replaced.headers
    assert (
        replaced.json()["created_at"] == made.json()["created_at"] < replaced.json()["updated_at"]
    )
    assert (
        client.get(f"{HERE}/keep").headers["etag"]
        == replaced.headers["etag"]
        != made.headers["etag"]
    )


def test_a_put_of_the_same_changes_neither_generation_nor_etag(client: httpx.Client) -> None:
    made = write(client)
    again = client.put(f"{HERE}/keep", json=DRAFT | {"swap": "allow"})
    assert (again.status_code, again.json(), again.headers["etag"]) == (
        200,
        made.json(),
        made.headers["etag"],
    )


def test_a_name_in_the_body_is_the_one_of_the_address(client: httpx.Client) -> None:
    body = problem(client.put(f"{HERE}/other", json=POLICY), 422, "invalid-request")
    assert body["errors"] == [
        {"pointer": "#/name", "detail": "the name is 'keep' here and 'other' in the address"}
    ]
    assert list_names(client) == []


@pytest.mark.parametrize(
    "name", ["UPPER", "-a", "a-", "a_b", "a" * 64, "caf\xe9", "a%0A", "%00", "a b"]
)
def test_what_cannot_be_a_name_is_made_by_nobody(still: Still, name: str) -> None:
    body = problem(still.client.put(f"{HERE}/{name}", json=DRAFT), 422, "invalid-request")
    assert [row["pointer"] for row in body["errors"]] == ["path/name"]
    problem(still.client.get(f"{HERE}/{name}"), 404, "policy-not-found")


def test_every_kind_has_an_example_and_what_is_read_of_it_can_be_put_again(
    client: httpx.Client,
) -> None:
    for kind, one in kinds().items():
        assert one.example, kind
        example = {**one.example.policy, "kind": kind, "enabled": False}
        made = client.post(HERE, json=example)
        assert made.status_code == 201, made.text
        body = {name: value for name, value in made.json().items() if name not in READ_ONLY}
        again = client.put(
            made.headers["location"], json=body, headers={"If-Match": made.headers["etag"]}
        )
        assert (again.status_code, again.json()) == (200, made.json())


def test_a_policy_is_still_there_after_a_restart(settings: Settings) -> None:
    with Live(settings, Stage().make_backend) as live:
        made = write(live.client)
    with Live(settings, Stage().make_backend) as live:
        again = live.client.get(f"{HERE}/keep")
    assert (again.json(), again.headers["etag"]) == (made.json(), made.headers["etag"])


def test_a_policy_that_is_deleted_is_not_found_any_more(client: httpx.Client) -> None:
    write(client)
    assert client.delete(f"{HERE}/keep").status_code == 204
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/decisions"), ("POST", "/evaluate")]:
        assert (
            "keep"
            in problem(client.request(method, f"{HERE}/keep{path}"), 404, "policy-not-found")[
                "detail"
            ]
        )
    assert list_names(client) == []


def test_a_database_that_takes_nothing_makes_no_policy(live: Live, tmp_path: Path) -> None:
    made = write(live.client)
    with locked(tmp_path / "shrinkd.db"):
        problem(
            live.client.put(f"{HERE}/keep", json=DRAFT | {"priority": 7}), 503, "store-unavailable"
        )
        problem(
            live.client.post(HERE, json=POLICY | {"name": "other", "priority": 7}),
            503,
            "store-unavailable",
        )
        problem(live.client.delete(f"{HERE}/keep"), 503, "store-unavailable")
    assert live.client.get(f"{HERE}/keep").json() == made.json()
    assert list_names(live.client) == ["keep"]


# Conditions


@pytest.mark.parametrize(
    "condition",
    [
        {"If-Match": "{}"},
        {"If-Match": f"{OTHER}, {{}}"},
        {"If-Match": "*"},
        {"If-None-Match": OTHER},
        {},
    ],
)
def test_a_change_whose_condition_holds_is_made(
    client: httpx.Client, condition: dict[str, str]
) -> None:
    etag = write(client).headers["etag"]
    replaced = client.put(
        f"{HERE}/keep",
        json=DRAFT | {"priority": 7},
        headers={k: v.format(etag) for k, v in condition.items()},
    )
    assert replaced.status_code == 200
    headers = {name: value.format(replaced.headers["etag"]) for name, value in condition.items()}
    assert client.delete(f"{HERE}/keep", headers=headers).status_code == 204


@pytest.mark.parametrize(
    "condition",
    [
        {"If-Match": OTHER},
        {"If-Match": "W/{}"},
        {"If-Match": ""},
        {"If-None-Match": "*"},
        {"If-None-Match": "{}"},
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_change_whose_condition_fails_is_412_and_not_made(
    client: httpx.Client, condition: dict[str, str], *, dry_run: bool
) -> None:
    made = write(client)
    headers = {name: value.format(made.headers["etag"]) for name, value in condition.items()}
    for method, body in [("PUT", DRAFT | {"priority": 7}), ("PUT", DRAFT), ("DELETE", None)]:
        answer = client.request(
            method, f"{HERE}/keep", json=body, headers=headers, params={"dry_run": dry_run}
        )
        assert problem(answer, 412, "precondition-failed")["etag"] == made.headers["etag"]
    assert client.get(f"{HERE}/keep").json() == made.json()


def test_where_nothing_is_there_only_that_can_be_a_condition(client: httpx.Client) -> None:
    for named in ("*", OTHER):
        problem(
            client.put(f"{HERE}/keep", json=DRAFT, headers={"If-Match": named}),
            412,
            "precondition-failed",
        )
    assert client.put(f"{HERE}/keep", json=DRAFT, headers={"If-None-Match": "*"}).status_code == 201
    problem(
        client.put(f"{HERE}/keep", json=DRAFT, headers={"If-None-Match": "*"}),
        412,
        "precondition-failed",
    )


def test_what_the_client_has_is_not_sent_again(client: httpx.Client) -> None:
    etag = write(client).headers["etag"]
    known = client.get(f"{HERE}/keep", headers={"If-None-Match": etag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", etag)
    problem(client.get(f"{HERE}/keep", headers={"If-Match": OTHER}), 412, "precondition-failed")


def test_a_policy_that_was_made_anew_has_another_etag(client: httpx.Client) -> None:
    etag = write(client).headers["etag"]
    client.delete(f"{HERE}/keep")
    assert write(client).headers["etag"] != etag


def test_of_two_who_read_the_same_and_change_it_at_once_one_does(client: httpx.Client) -> None:
    etag = write(client).headers["etag"]
    for number in range(20):
        changes = [DRAFT | {"priority": 2 * number + side} for side in (0, 1)]
        racers = [
            partial(client.put, f"{HERE}/keep", json=change, headers={"If-Match": etag})
            for change in changes
        ]
        answers = sorted(together(*racers), key=lambda answer: int(answer.status_code))
        assert [answer.status_code for answer in answers] == [200, 412]
        etag = answers[0].headers["etag"]


def test_a_trial_answers_as_if_it_were_done_and_does_nothing(client: httpx.Client) -> None:
    tried = client.post(HERE, params={"dry_run": True}, json=POLICY)
    assert (tried.status_code, tried.json()["dry_run"], tried.json()["generation"]) == (
        201,
        True,
        1,
    )
    assert not {"location", "etag"} & tried.headers.keys()
    assert client.put(f"{HERE}/keep", params={"dry_run": True}, json=DRAFT).status_code == 201
    assert list_names(client) == []
    made = write(client)
    replaced = client.put(f"{HERE}/keep", params={"dry_run": True}, json=DRAFT | {"priority": 7})
    assert (replaced.status_code, replaced.json()["priority"], replaced.json()["generation"]) == (
        200,
        7,
        2,
    )
    assert client.delete(f"{HERE}/keep", params={"dry_run": True}).json() == {"dry_run": True}
    problem(client.post(HERE, params={"dry_run": True}, json=POLICY), 409, "policy-exists")
    problem(
        client.post(HERE, params={"dry_run": True}, json=POLICY | {"name": "other"}),
        409,
        "policy-conflict",
    )
    assert client.get(f"{HERE}/keep").json() == made.json()


# Refusals


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"kind": "wish"}, "#/kind"),
        ({"kind": None}, "#/kind"),
        ({"kind": 1}, "#/kind"),
        ({"name": "UPPER"}, "#/name"),
        ({"name": None}, "#/name"),
        ({"selector": {}}, "#/selector"),
        ({"selector": {"group": "a", "parent": "b"}}, "#/selector"),
        ({"selector": {"path": "a"}}, "#/selector/path"),
        ({"selector": None}, "#/selector"),
        ({"priority": "7"}, "#/priority"),
        ({"priority": True}, "#/priority"),
        ({"priority": -1}, "#/priority"),
        ({"enabled": 1}, "#/enabled"),
        ({"mode": "try"}, "#/mode"),
        ({"floor": {"bytes": "64MB"}}, "#/floor/bytes"),
        ({"active": {"windows": ["now and then"]}}, "#/active/windows/0"),
        ({"active": {"windows": []}}, "#/active/windows"),
        ({"spec": {}}, "#/spec/limits"),
        ({"spec": {"limits": {}}}, "#/spec/limits"),
        ({"spec": {"limits": {"max_bytes": "1GB"}}}, "#/spec/limits/max_bytes"),
        ({"spec": {"limits": {"limit": 1}}}, "#/spec/limits/limit"),
        ({"generation": 1}, "#/generation"),
        ({"limit": 1}, "#/limit"),
    ],
)
def test_what_is_wrong_with_a_policy_is_pointed_at(
    still: Still, changes: dict[str, Any], pointer: str
) -> None:
    body = problem(still.client.post(HERE, json=POLICY | changes), 422, "invalid-request")
    assert pointer in [row["pointer"] for row in body["errors"]]
    if changes.get("name", "") is None:
        return
    body = problem(still.client.put(f"{HERE}/keep", json=POLICY | changes), 422, "invalid-request")
    assert pointer in [row["pointer"] for row in body["errors"]]


@pytest.mark.parametrize("missing", ["kind", "name", "selector", "spec"])
def test_what_is_missing_is_pointed_at(still: Still, missing: str) -> None:
    body = problem(
        still.client.post(
            HERE, json={key: value for key, value in POLICY.items() if key != missing}
        ),
        422,
        "invalid-request",
    )
    assert [row["pointer"] for row in body["errors"]] == [f"#/{missing}"]


@pytest.mark.parametrize("value", ["null", "1", '"text"', "[]", '[{"kind": "limit"}]'])
def test_a_body_that_is_no_policy_at_all_is_refused(still: Still, value: str) -> None:
    problem(
        still.client.post(HERE, content=value, headers={"Content-Type": "application/json"}),
        422,
        "invalid-request",
    )


def test_two_of_a_kind_and_a_priority_share_no_group(client: httpx.Client, stage: Stage) -> None:
    write(client)
    body = problem(
        client.post(HERE, json=POLICY | {"name": "other", "selector": {"group": "w*"}}),
        409,
        "policy-conflict",
    )
    web = stage.simulator.groups("web")[0]
    assert (body["policies"], body["groups"], body["shared"]) == (
        ["other", "keep"],
        [{"id": str(web.id), "path": "web"}],
        1,
    )
    assert (body["errno"], body["kind"], body["priority"]) == ("EEXIST", "limit", 100)
    write(client, "other", priority=99)


def test_a_percentage_of_a_limit_that_is_not_there_is_refused_with_the_group(
    client: httpx.Client,
) -> None:
    share = {"name": "room", "kind": "watermark", "enabled": False, "selector": {"group": "*"}}
    body = problem(client.post(HERE, json=share), 422, "invalid-request")
    (row,) = body["errors"]
    assert row["pointer"] == "#/spec"
    assert "'web', there is no limit to take a percentage of" in row["detail"]
    assert client.post(HERE, json=share | {"selector": {"group": "db"}}).status_code == 201


def test_a_schedule_switches_only_a_policy_that_is_there(client: httpx.Client) -> None:
    switch = {"cron": "0 3 * * *", "switch": {"policy": "keep", "enabled": True}}
    schedule = {
        "name": "at-night",
        "kind": "schedule",
        "enabled": False,
        "selector": {"group": "web"},
        "spec": switch,
    }
    body = problem(client.post(HERE, json=schedule), 422, "invalid-request")
    assert body["errors"] == [
        {"pointer": "#/spec", "detail": "there is no policy 'keep' to be switched"}
    ]
    write(client)
    assert client.post(HERE, json=schedule).status_code == 201


# Lists


def test_policies_are_listed_by_name_in_pages_while_they_come_and_go(client: httpx.Client) -> None:
    for number, name in enumerate("dacbe"):
        write(client, name, priority=number)
    assert list_names(client) == ["a", "b", "c", "d", "e"]

    def go() -> None:
        for name in ("b", "d"):
            client.delete(f"{HERE}/{name}")

    assert [[item["name"] for item in page] for page in pages(client, HERE, go, page_size=2)] == [
        ["a", "b"],
        ["c", "e"],
    ]
    answer = client.get(HERE, params={"page_size": 1, "kind": "limit"})
    assert client.get(answer.links["next"]["url"]).json()["items"][0]["name"] == "c"


def test_policies_are_listed_by_kind_and_by_the_group_that_they_select(
    client: httpx.Client,
) -> None:
    write(client, "of-web")
    write(client, "of-all", selector={"parent": "", "scope": "leaves"}, priority=7)
    client.post(
        HERE,
        json={"name": "room", "kind": "watermark", "enabled": False, "selector": {"group": "db"}},
    ).raise_for_status()
    assert list_names(client, kind="limit") == ["of-all", "of-web"]
    assert list_names(client, kind="watermark") == ["room"]
    assert list_names(client, kind="schedule") == []
    assert (
        list_names(client, group="web")
        == list_names(client, "/v1/groups/web/policies")
        == ["of-all", "of-web"]
    )
    assert list_names(client, "/v1/groups/db/policies") == ["of-all", "room"]
    assert list_names(client, "/v1/groups/db/policies", kind="limit") == ["of-all"]
    assert list_names(client, "/v1/groups/batch/policies") == []
    problem(client.get("/v1/groups/nobody/policies"), 404, "group-not-found")
    problem(client.get(HERE, params={"group": "nobody"}), 404, "group-not-found")


@pytest.mark.parametrize(
    "params",
    [{"kind": "wish"}, {"kind": ""}, {"page_size": 0}, {"page_token": "nonsense"}, {"name": "a"}],
)
def test_a_list_that_cannot_be_is_refused(still: Still, params: dict[str, Any]) -> None:
    problem(still.client.get(HERE, params=params), 422, "invalid-request")


def test_a_policy_of_another_version_is_shown_and_stands_in_nobodys_way_but_its_own(
    settings: Settings,
) -> None:
    with closing(Store(settings.database_url)) as store:
        store.open()
        store.policies.put(
            stored_policy(
                "alien", 7, kind="of-tomorrow", body={"kind": "of-tomorrow", "name": "alien"}
            ),
            None,
        )
    with Live(settings, Stage().make_backend) as live:
        write(live.client)
        page = live.client.get(HERE).json()
        assert [item["name"] for item in page["items"]] == ["keep"]
        (alien,) = page["unreadable"]
        assert (alien["name"], alien["kind"], alien["generation"]) == ("alien", "of-tomorrow", 7)
        assert "of-tomorrow" in alien["detail"]
        for method, path in [
            ("GET", ""),
            ("PUT", ""),
            ("POST", "/evaluate"),
            ("GET", "/decisions"),
        ]:
            answer = live.client.request(
                method, f"{HERE}/alien{path}", json=DRAFT if method == "PUT" else None
            )
            assert problem(answer, 409, "policy-unreadable")["generation"] == 7
        problem(
            live.client.post(HERE, json=POLICY | {"name": "alien", "priority": 7}),
            409,
            "policy-unreadable",
        )
        problem(
            live.client.delete(f"{HERE}/alien", headers={"If-Match": "*"}),
            412,
            "precondition-failed",
        )
        assert live.client.delete(f"{HERE}/alien").status_code == 204
        assert live.client.get(HERE).json()["unreadable"] == []


# Status


def test_a_policy_says_what_it_would_do_and_does_nothing(
    client: httpx.Client, stage: Stage
) -> None:
    write(client, selector={"parent": ""}, spec={"limits": {"max_bytes": "1536M"}})
    before = stage.everything()
    items = client.post(f"{HERE}/keep/evaluate").raise_for_status().json()["items"]
    assert {item["group"]["path"]: (item["verdict"], item["reason"]) for item in items} == {
        path: ("hold", "limits_kept") if path == "db" else ("would_act", "limits_drifted")
        for path in before
        if "/" not in path
    }
    web = next(item for item in items if item["group"]["path"] == "web")
    assert (web["id"], web["policy"], web["generation"], web["mode"], web["times"]) == (
        None,
        "keep",
        1,
        "enforce",
        1,
    )
    assert web["group"]["id"] == str(before["web"][0])
    assert web["signals"] | {"max_bytes": None, "wanted_max_bytes": 1536 * MIB} == web["signals"]
    assert stage.everything() == before
    assert client.get(f"{HERE}/keep/decisions").json()["items"] == []


def test_what_a_policy_does_is_in_its_status_and_in_the_decisions_and_moves_no_etag(
    client: httpx.Client, stage: Stage
) -> None:
    made = write(client, enabled=True)
    until(lambda: stage.limits()["web"] == 8 << 30)
    last = until(lambda: client.get(f"{HERE}/keep").json()["status"]["last_decision"])
    assert (last["policy"], last["group"]["path"]) == ("keep", "web")
    read = client.get(f"{HERE}/keep")
    assert (
        read.json()["status"]["observed_generation"],
        read.json()["status"]["matched_groups"],
    ) == (1, 1)
    assert read.headers["etag"] == made.headers["etag"]
    assert (
        client.get(f"{HERE}/keep", headers={"If-None-Match": made.headers["etag"]}).status_code
        == 304
    )
    act = until(
        lambda: client.get("/v1/groups/web/decisions", params={"verdict": "act"}).json()["items"]
    )[0]
    assert (act["policy"], act["generation"], act["reason"], act["mode"]) == (
        "keep",
        1,
        "limits_drifted",
        "enforce",
    )


# Decisions


def record_decisions(live: Live, *changes: dict[str, Any]) -> None:
    live.parts.retention.close()  # their times are of long ago
    live.parts.store.decisions.record(
        [decision(number, **change) for number, change in enumerate(changes)]
    )


def times(client: httpx.Client, path: str, **params: Any) -> list[int]:
    return [item["times"] for page in pages(client, path, **params) for item in page]


def test_decisions_are_listed_the_newest_first_for_a_policy_and_for_a_group(live: Live) -> None:
    write(live.client)
    ours = {"policy": "keep", "group_path": "web"}
    record_decisions(
        live,
        {**ours, "times": 1},
        {"policy": "gone", "group_path": "web", "times": 2},
        {**ours, "group_path": "db", "times": 3},
    )
    assert times(live.client, f"{HERE}/keep/decisions") == [3, 1]
    assert times(live.client, "/v1/groups/web/decisions") == [2, 1]
    assert times(live.client, "/v1/groups/cache/decisions") == []
    problem(live.client.get(f"{HERE}/gone/decisions"), 404, "policy-not-found")
    problem(live.client.get("/v1/groups/nobody/decisions"), 404, "group-not-found")


def test_a_decision_tells_all_that_was_kept_of_it(live: Live) -> None:
    act = {
        "asked_bytes": 4 * MIB,
        "granted_bytes": 2 * MIB,
        "freed_bytes": MIB,
        "shrink_id": "0" * 32,
        "errno": "EBUSY",
        "verdict": Verdict.ACT,
    }
    record_decisions(live, {"group_path": "web", "group_id": 7, **act})
    (item,) = live.client.get("/v1/groups/web/decisions").json()["items"]
    assert item == {
        "id": item["id"],
        "decided_at": "2026-11-18T11:06:40.000000Z",
        "policy": "a",
        "generation": 2**40,
        "group": {"id": "7", "path": "web"},
        "mode": "enforce",
        "verdict": "act",
        "reason": "limits_kept",
        "signals": {"usage_bytes": 2**62, "some_percent": 0.1, "who": None},
        "look_seconds": 0.1,
        "asked_bytes": 4 * MIB,
        "granted_bytes": 2 * MIB,
        "freed_bytes": MIB,
        "shrink_id": "0" * 32,
        "errno": "EBUSY",
        "times": 1,
    }
    assert int(item["id"]) > 0


def test_pages_of_decisions_have_each_once_while_new_ones_come(live: Live) -> None:
    record_decisions(live, *({"group_path": "web", "times": number} for number in range(7)))
    more = partial(record_decisions, live, {"group_path": "web", "times": 99})
    seen = [
        item["times"]
        for page in pages(live.client, "/v1/groups/web/decisions", more, page_size=2)
        for item in page
    ]
    assert seen == [6, 5, 4, 3, 2, 1, 0]


def test_decisions_are_filtered_by_verdict_and_from_a_time_on(live: Live) -> None:
    verdicts = [Verdict.HOLD, Verdict.ACT, Verdict.HOLD, Verdict.GONE]
    record_decisions(
        live,
        *(
            {"group_path": "web", "times": number, "verdict": verdict}
            for number, verdict in enumerate(verdicts)
        ),
    )
    here = "/v1/groups/web/decisions"
    assert times(live.client, here, verdict=["act", "gone"]) == [3, 1]
    assert times(live.client, here, since="2026-11-18T11:06:40.000002Z") == [3, 2]
    assert times(live.client, here, since="2026-11-18T12:06:40.000002+01:00", verdict="hold") == [2]
    for params in (
        {"verdict": "maybe"},
        {"since": "5"},
        {"page_token": "nonsense"},
        {"policy": "a"},
    ):
        problem(live.client.get(here, params=params), 422, "invalid-request")
