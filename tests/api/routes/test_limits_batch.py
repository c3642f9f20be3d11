"""Batches of limits.

Each item as PATCH would, in the order in which memory can move, answered in the order of the
request.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest

from shrinkd.api.routes.limits import LimitsBody
from shrinkd.api.routes.limits_batch import Batch, change_all
from shrinkd.auth.scopes import ANYONE, Caller, Grant, Level
from shrinkd.backends import Backend, Group, Limits
from shrinkd.errors import Forbidden, ShrinkdError
from tests.api.conftest import Still
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import MIB

GIB = 2**30


@pytest.fixture
def tree(still: Still) -> Iterator[Still]:
    """Groups in each other, with a limit each and next to no memory in them; gone afterwards."""
    paths = ["tree", "tree/a", "tree/a/deep", "tree/b"]
    for path in paths:
        still.stage.group(path, anon=MIB)
    send(still.client, *[(path, {"max_bytes": 4 * GIB}) for path in paths]).raise_for_status()
    yield still
    for path in reversed(paths):
        still.stage.vanish(path)


def item(group: str, patch: dict[str, Any], if_match: str | None = None) -> dict[str, Any]:
    return {"group": group, "patch": patch} | (
        {"if_match": if_match} if if_match is not None else {}
    )


def send(client: httpx.Client, *items: tuple[Any, ...], **params: Any) -> httpx.Response:
    return client.post(
        "/v1/limits/batch", json={"items": [item(*each) for each in items]}, params=params
    )


def told(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 207, answer.text
    return list(answer.json()["items"])


class Recording:
    """A backend that notes whose limits are written, in which order."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.order: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def set_limits(self, group: Group, changes: Any, **options: Any) -> Limits:
        self.order.append(group.path)
        return self._backend.set_limits(group, changes, **options)


def written(still: Still, *items: tuple[Any, ...]) -> list[str]:
    recording = Recording(still.stage.simulator)
    limits = replace(still.live.parts.limits, backend=cast("Backend", recording))
    parts = replace(still.live.parts, limits=limits)
    batch = Batch.model_validate({"items": [item(*each) for each in items]})
    outcomes = change_all(parts, ANYONE, batch.items, dry_run=False)
    assert [outcome for outcome in outcomes if not isinstance(outcome, LimitsBody)] == []
    return recording.order


def test_an_item_is_answered_as_patch_answers(tree: Still) -> None:
    (row,) = told(send(tree.client, ("tree/a", {"max_bytes": "1G"})))
    limits = tree.client.get("/v1/groups/tree/a/limits")
    assert row == {
        "group": "tree/a",
        "status": 200,
        "etag": limits.headers["etag"],
        "body": limits.json(),
    }
    assert limits.json()["max_bytes"] == GIB


def test_items_are_answered_in_the_order_of_the_request(tree: Still) -> None:
    names = ["tree/b", "nobody", "tree", "tree/a"]
    rows = told(send(tree.client, *[(name, {"max_bytes": GIB}) for name in names]))
    assert [(row["group"], row["status"]) for row in rows] == [
        ("tree/b", 200),
        ("nobody", 404),
        ("tree", 200),
        ("tree/a", 200),
    ]


def test_what_goes_down_goes_first_and_children_before_parents(tree: Still) -> None:
    down = {"max_bytes": GIB}
    order = written(
        tree,
        ("tree", down),
        ("tree/a", down),
        ("tree/b", {"max_bytes": None}),
        ("tree/a/deep", down),
    )
    assert order == ["tree/a/deep", "tree/a", "tree", "tree/b"]


def test_what_goes_up_goes_last_and_parents_before_children(tree: Still) -> None:
    up = {"max_bytes": 8 * GIB}
    order = written(
        tree,
        ("tree/a/deep", up),
        ("tree/b", {"max_bytes": GIB}),
        ("tree/a", up),
        ("tree", {"max_bytes": None}),
    )
    assert order == ["tree/b", "tree", "tree/a", "tree/a/deep"]


def test_an_item_goes_by_the_first_of_its_limits_that_moves(tree: Still) -> None:
    mixed = {
        "max_bytes": 4 * GIB,
        "soft_limit_bytes": GIB,
    }  # the maximum stays, and the soft limit comes down
    assert written(tree, ("tree", {"max_bytes": 8 * GIB}), ("tree/b", mixed)) == ["tree/b", "tree"]


def test_an_item_that_fails_stops_no_other_and_says_why(tree: Still) -> None:
    rows = told(
        send(
            tree.client,
            ("tree/a", {"max_bytes": 4096}),
            ("tree/b", {"max_bytes": GIB}),
            ("tree", {"min_bytes": MIB}),
        )
    )
    assert [row["status"] for row in rows] == [409, 200, 422]
    below, _, unsupported = (row["body"] for row in rows)
    assert (below["type"], below["status"], below["usage_bytes"]) == (
        "/problems/limit-below-usage",
        409,
        MIB * 2,
    )
    assert below["next"]["href"] == "/v1/groups/tree/a/shrinks"
    assert (unsupported["type"], unsupported["unsupported"]) == (
        "/problems/unsupported-limit",
        ["min_bytes"],
    )
    assert tree.stage.limits()["tree/a"] == 4 * GIB
    assert tree.stage.limits()["tree/b"] == GIB


def test_a_problem_of_an_item_has_the_id_of_the_request(client: httpx.Client) -> None:
    answer = send(client, ("nobody", {}))
    assert told(answer)[0]["body"]["instance"] == answer.headers["request-id"]


@pytest.mark.parametrize(
    ("named", "status"),
    [("{}", 200), ("*", 200), ('"x", {}', 200), ('"x"', 412), ("", 412), ("W/{}", 412)],
)
def test_an_item_has_a_condition_of_its_own(tree: Still, named: str, status: int) -> None:
    etag = tree.client.get("/v1/groups/tree/a/limits").headers["etag"]
    (row,) = told(send(tree.client, ("tree/a", {"max_bytes": GIB}, named.format(etag))))
    assert (row["status"], tree.stage.limits()["tree/a"]) == (
        status,
        GIB if status == 200 else 4 * GIB,
    )


def test_the_etag_of_an_item_is_good_for_the_next_change(tree: Still) -> None:
    (row,) = told(send(tree.client, ("tree/a", {"max_bytes": GIB})))
    assert (
        told(send(tree.client, ("tree/a", {"max_bytes": 2 * GIB}, row["etag"])))[0]["status"] == 200
    )
    assert (
        told(send(tree.client, ("tree/a", {"max_bytes": 3 * GIB}, row["etag"])))[0]["status"] == 412
    )


@pytest.mark.parametrize("alias", ["tree/a", "id:{}"])
def test_two_items_of_one_group_are_refused_before_anything_is_done(
    tree: Still, alias: str
) -> None:
    before, group = tree.stage.everything(), tree.stage.simulator.groups("tree/a")[0]
    answer = send(
        tree.client,
        ("tree/a", {"max_bytes": GIB}),
        ("tree/b", {"max_bytes": GIB}),
        (alias.format(group.id), {}),
    )
    assert [error["pointer"] for error in problem(answer, 422, "invalid-request")["errors"]] == [
        "#/items/2/group"
    ]
    assert tree.stage.everything() == before


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"items": []}, "#/items"),
        ({"items": [{"group": "web", "patch": {}}] * 257}, "#/items"),
        ({"items": [{"group": "web"}]}, "#/items/0/patch"),
        ({"items": [{"patch": {}}]}, "#/items/0/group"),
        ({"items": [{"group": "web", "patch": None}]}, "#/items/0/patch"),
        ({"items": [{"group": "web", "patch": {"max": 1}}]}, "#/items/0/patch/max"),
        ({"items": [{"group": "web", "patch": {"max_bytes": "1MB"}}]}, "#/items/0/patch/max_bytes"),
        ({"items": [{"group": "web", "patch": {}, "dry_run": True}]}, "#/items/0/dry_run"),
        ({"items": [{"group": "\ud800", "patch": {}}]}, "#/items/0/group"),
        ({}, "#/items"),
    ],
)
def test_a_batch_that_does_not_fit_says_where(
    client: httpx.Client, body: Any, pointer: str
) -> None:
    content = json.dumps(body)  # by hand, because httpx sends no lone surrogate
    answer = client.post(
        "/v1/limits/batch", content=content, headers={"Content-Type": "application/json"}
    )
    assert pointer in [
        error["pointer"] for error in problem(answer, 422, "invalid-request")["errors"]
    ]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("", "invalid-group-name"),
        ("..", "invalid-group-name"),
        ("a/../web", "invalid-group-name"),
        ("id:0", "group-not-found"),
    ],
)
def test_a_reference_is_refused_as_in_an_address(
    client: httpx.Client, name: str, slug: str
) -> None:
    assert told(send(client, (name, {})))[0]["body"]["type"] == f"/problems/{slug}"


def test_256_items_fit(tree: Still) -> None:
    rows = told(
        send(
            tree.client,
            *[(f"n{number}", {"max_bytes": None}) for number in range(255)],
            ("tree/a", {"max_bytes": None}),
        )
    )
    assert [row["status"] for row in rows] == [404] * 255 + [200]


def test_a_trial_answers_as_if_it_were_done_and_writes_nothing(tree: Still) -> None:
    before = tree.stage.everything()
    answer = send(
        tree.client,
        ("tree/a", {"max_bytes": GIB}),
        ("tree/b", {"max_bytes": 4096}),
        ("nobody", {}),
        dry_run=True,
    )
    rows = told(answer)
    assert [(row["status"], row["etag"]) for row in rows] == [(200, None), (409, None), (404, None)]
    assert (answer.json()["dry_run"], rows[0]["body"]["dry_run"], rows[0]["body"]["max_bytes"]) == (
        True,
        True,
        GIB,
    )
    assert tree.stage.everything() == before


def test_a_daemon_that_stops_begins_no_further_item(tree: Still) -> None:
    tree.live.parts.closing.set()
    try:
        (row,) = told(send(tree.client, ("tree/a", {"max_bytes": GIB})))
    finally:
        tree.live.parts.closing.clear()
    assert (row["status"], row["body"]["type"]) == (503, "/problems/not-ready")
    assert tree.stage.limits()["tree/a"] == 4 * GIB


def test_every_item_is_held_against_what_the_caller_may(tree: Still) -> None:
    caller = Caller("token:b", (Grant(Level.WRITE, "tree/b"), Grant(Level.READ)))
    items = [
        item(name, {"max_bytes": GIB})
        for name in (
            "tree/b",
            "tree/a",
            "tree",
            f"id:{tree.stage.simulator.groups('tree/a')[0].id}",
        )
    ]
    batch = Batch.model_validate({"items": items[:3]})
    mine, *others = change_all(tree.live.parts, caller, batch.items, dry_run=False)
    assert isinstance(mine, LimitsBody)
    assert [type(outcome) for outcome in others] == [Forbidden] * 2
    (smuggled,) = change_all(
        tree.live.parts, caller, Batch.model_validate({"items": items[3:]}).items, dry_run=False
    )
    assert isinstance(smuggled, ShrinkdError)
    assert (
        tree.stage.limits() | {"tree": 4 * GIB, "tree/a": 4 * GIB, "tree/b": GIB}
        == tree.stage.limits()
    )
