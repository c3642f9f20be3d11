"""Lists in pages.

Every item once, whatever comes and goes between two pages, and no token that we did not write.
"""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkd.api.http.paging import Keyset, read_token, write_token
from shrinkd.backends import Group
from shrinkd.errors import InvalidRequest
from tests.api.conftest import Still
from tests.support.problem_checks import problem
from tests.support.shrink_requests import shrunk


def pages(
    client: httpx.Client, path: str, between: Callable[[], object] = lambda: None, **params: Any
) -> Iterator[list[dict[str, Any]]]:
    """The pages of a list, by next_page_token; something may happen between two of them."""
    token: str | None = ""
    while token is not None:
        body = (
            client.get(path, params=params | ({"page_token": token} if token else {}))
            .raise_for_status()
            .json()
        )
        token = body["next_page_token"]
        yield body["items"]
        between()


def paths(client: httpx.Client, **params: Any) -> list[str]:
    return [item["path"] for page in pages(client, "/v1/groups", **params) for item in page]


@pytest.mark.parametrize(
    "order",
    ["path", "-path", "usage_bytes", "-usage_bytes", "max_bytes", "-max_bytes", "zswap_bytes"],
)
@pytest.mark.parametrize("size", [1, 3, 50])
def test_pages_of_any_size_have_every_group_once_and_in_order(
    still: Still, order: str, size: int
) -> None:
    assert paths(still.client, order_by=order, page_size=size) == paths(
        still.client, order_by=order
    )
    assert sorted(paths(still.client, order_by=order, page_size=size)) == sorted(
        group.path for group in still.stage.simulator.groups()[1:]
    )


def test_a_page_is_no_larger_than_asked_for(client: httpx.Client) -> None:
    assert [len(page) for page in pages(client, "/v1/groups", page_size=4)][:-1] == [4, 4, 4]


@pytest.mark.parametrize("size", [1001, 10**30])
def test_a_page_size_beyond_the_largest_is_taken_as_the_largest(
    client: httpx.Client, size: int
) -> None:
    assert client.get("/v1/groups", params={"page_size": size}).json()["next_page_token"] is None


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "ten", "", "1e2", "true"])
def test_a_page_size_that_is_no_number_of_items_is_refused(client: httpx.Client, size: str) -> None:
    problem(client.get("/v1/groups", params={"page_size": size}), 422, "invalid-request")


def test_pages_stay_right_while_groups_come_and_go(still: Still) -> None:
    names = [f"come-{number:02}" for number in range(30)]
    for name in names[::2]:
        still.stage.simulator.make(name)
    coming, going = iter(names[1::2]), iter(names[::2])

    def come_and_go() -> None:
        for new, old in (
            (new, old) for new, old in [(next(coming, None), next(going, None))] if new and old
        ):
            still.stage.simulator.make(new)
            still.stage.simulator.remove(still.stage.simulator.groups(old)[0])

    stayed = [
        group.path
        for group in still.stage.simulator.groups()[1:]
        if not group.path.startswith("come-")
    ]
    seen = [
        item["path"]
        for page in pages(still.client, "/v1/groups", come_and_go, page_size=2)
        for item in page
    ]
    assert seen == sorted(set(seen))
    assert set(stayed) <= set(seen)
    for name in names:
        if name in still.stage.everything():
            still.stage.simulator.remove(still.stage.simulator.groups(name)[0])


def test_a_page_that_begins_at_a_group_that_has_gone_begins_behind_it(still: Still) -> None:
    gone = still.stage.simulator.make("aaa")
    first = still.client.get("/v1/groups", params={"page_size": 1}).json()
    assert first["items"][0]["path"] == "aaa"
    still.stage.simulator.remove(gone)
    following = still.client.get(
        "/v1/groups", params={"page_size": 1, "page_token": first["next_page_token"]}
    ).json()
    assert following["items"][0]["path"] == paths(still.client)[0]


def test_the_link_header_leads_to_the_next_page_with_everything_that_was_asked_for(
    client: httpx.Client,
) -> None:
    answer = client.get(
        "/v1/groups", params={"page_size": 2, "order_by": "-usage_bytes", "fields": "path"}
    )
    following = client.get(answer.links["next"]["url"])
    assert (
        following.json()["items"]
        == client.get("/v1/groups?order_by=-usage_bytes&fields=path").json()["items"][2:4]
    )
    assert answer.links["next"]["url"].startswith("/v1/groups?")


@pytest.mark.parametrize(
    "name",
    ["\u65e5\u672c", "gpj\u202etxt", 'a>; rel="first"', "a%0d%0aX: y", "q?x#y", "a;b,c", "\x9b"],
    ids=ascii,
)
def test_the_link_of_a_list_of_a_group_leads_on_whatever_the_group_is_called(
    client: httpx.Client, name: str
) -> None:
    group = client.post("/v1/groups", json={"path": name}).raise_for_status().json()
    shrinks = [shrunk(client, quote(name), reclaim_bytes="1M")["id"] for _ in range(2)]
    first = client.get(f"/v1/groups/{quote(name)}/shrinks?page_size=1").raise_for_status()
    assert list(first.links) == ["next"]
    second = client.get(first.links["next"]["url"]).raise_for_status()
    assert [answer.json()["items"][0]["id"] for answer in (second, first)] == shrinks
    client.delete(f"/v1/groups/id:{group['id']}").raise_for_status()


def test_the_last_page_has_no_link(client: httpx.Client) -> None:
    answer = client.get("/v1/groups")
    assert answer.json()["next_page_token"] is None
    assert "link" not in answer.headers


def token(*key: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


HOSTILE = [
    "",
    "!!!!",
    "a",
    "A" * 10_000,
    "%00",
    "\N{SNOWMAN}",
    base64.urlsafe_b64encode(b"\xff\xfe\x00").decode(),
    base64.urlsafe_b64encode(b"[" * 12_000).decode(),
    base64.urlsafe_b64encode(b'["ORDER", ' + b"9" * 5000 + b', "x"]').decode(),
    *(
        token(*key)
        for key in [
            (),
            (0,),
            (0, "x"),
            ("ORDER",),
            ("ORDER", 0),
            ("ORDER", 0, "x", 1),
            ("other", 0, "x"),
            (None, 0, "x"),
        ]
    ),
    *(
        token("ORDER", *key)
        for key in [
            ("0", "x"),
            (0, 1),
            (None, "x"),
            (True, "x"),
            (0.5, "x"),
            (0, None),
            ([], "x"),
            ({}, "x"),
            (0, ["x"]),
        ]
    ),
    *(token("ORDER", number, "x") for number in (2**63, -(2**63), 2**64, 10**100)),
    token("ORDER", 0, "\0"),
    token("ORDER", 0, "\ud800"),
]


@pytest.mark.parametrize(
    ("path", "order"),
    [
        ("/v1/groups", "path"),
        ("/v1/shrinks", "-created_at"),
        ("/v1/groups/web/shrinks", "-created_at"),
    ],
)
@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_a_token_that_this_list_did_not_write_is_refused(
    client: httpx.Client, path: str, order: str, hostile: str
) -> None:
    named = (
        base64.urlsafe_b64decode(hostile + "=" * (-len(hostile) % 4))
        if hostile.isascii() and hostile not in {"!!!!", "a", "%00"}
        else b""
    )
    page_token = (
        base64.urlsafe_b64encode(named.replace(b"ORDER", order.encode())).decode()
        if b"ORDER" in named
        else hostile
    )
    problem(client.get(path, params={"page_token": page_token}), 422, "invalid-request")


@pytest.mark.parametrize(
    "key", [(-1, ""), (0, ""), (2**63 - 1, "\U0010ffff" * 50), (-(2**63) + 1, "x")]
)
@pytest.mark.parametrize(
    ("path", "order"), [("/v1/groups", "path"), ("/v1/shrinks", "-created_at")]
)
def test_a_token_of_the_right_shape_is_a_place_in_the_list_wherever_it_is(
    client: httpx.Client, path: str, order: str, key: tuple[int, str]
) -> None:
    assert client.get(path, params={"page_token": token(order, *key)}).status_code == 200


def test_a_token_of_one_order_is_refused_in_another(client: httpx.Client) -> None:
    page_token = client.get("/v1/groups?page_size=1&order_by=usage_bytes").json()["next_page_token"]
    problem(
        client.get("/v1/groups", params={"page_token": page_token, "order_by": "-usage_bytes"}),
        422,
        "invalid-request",
    )


def test_pages_of_shrinks_have_every_shrink_once_the_newest_first_while_new_ones_come(
    still: Still,
) -> None:
    before = [shrunk(still.client, target_bytes="8G")["id"] for _ in range(7)][::-1]
    listed = pages(
        still.client,
        "/v1/shrinks",
        lambda: shrunk(still.client, target_bytes="8G"),
        page_size=2,
        group="web",
    )
    assert [item["id"] for page in listed for item in page][: len(before)] == before


def test_a_token_reads_as_it_was_written() -> None:
    assert read_token(write_token("path", 7, "caf\xe9"), "path", (int, str)) == (7, "caf\xe9")


def test_no_token_is_the_first_page() -> None:
    assert read_token(None, "path", (int, str)) is None


def test_a_token_with_padding_is_still_the_same() -> None:
    written = write_token("path", 1, "x")
    assert read_token(written + "=" * (-len(written) % 4), "path", (int, str)) == (1, "x")


def test_a_token_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="page_token"):
        read_token("nonsense", "path", (int, str))


@given(
    order=st.sampled_from(["path", "-path", "usage_bytes", "-max_bytes"]),
    size=st.integers(1, 7),
    moves=st.lists(st.lists(st.integers(0, 25), max_size=8), min_size=1, max_size=12),
)
def test_what_was_there_throughout_is_seen_once_whatever_came_and_went_between_any_two_pages(
    still: Still, order: str, size: int, moves: list[list[int]]
) -> None:
    simulator, there = (
        still.stage.simulator,
        {group.path for group in still.stage.simulator.groups()[1:]},
    )
    passing, plan = dict[int, Group](), iter(moves)

    def come_or_go() -> None:
        for number in next(plan, []):  # a letter sorts before, between and behind those that stay
            group = passing.pop(number, None)
            if group:
                simulator.remove(group)
            else:
                passing[number] = simulator.make(f"{chr(ord('a') + number)}-passing")

    try:
        seen = [
            item["path"]
            for page in pages(
                still.client, "/v1/groups", come_or_go, order_by=order, page_size=size
            )
            for item in page
        ]
    finally:
        for group in passing.values():
            simulator.remove(group)
    assert Counter(path for path in seen if path in there) == Counter(there)


@dataclass
class Query:
    """The query of a list that comes in pages."""

    page_size: int
    page_token: str | None = None


@given(st.sets(st.integers(0, 99)), st.integers(1, 7))
def test_the_pages_of_a_keyset_are_the_whole_list(numbers: set[int], size: int) -> None:
    keyset = Keyset[int]("-number", (int,), lambda number: (number,))
    query = Query(size)
    found: list[int] = []
    while True:
        page, query.page_token = keyset.page(
            query,
            lambda limit, before: [
                number
                for number in sorted(numbers, reverse=True)
                if before is None or (number,) < before
            ][:limit],
        )
        found += page
        if query.page_token is None:
            break
        assert len(page) == size
    assert found == sorted(numbers, reverse=True)
