"""Statistics over HTTP: the same names on every kernel, null for what it does not report."""

import dataclasses

import httpx
import pytest

from shrinkd.backends import MemStat
from tests.api.conftest import Still
from tests.support.problem_checks import problem

SIZES = [field.name for field in dataclasses.fields(MemStat) if field.name.endswith("_bytes")]


@pytest.fixture
def stats(client: httpx.Client) -> dict[str, object]:
    body: dict[str, object] = client.get("/v1/groups/cache/stats").json()
    return body


def test_a_reading_has_every_name_of_the_contract(stats: dict[str, object]) -> None:
    others = {
        "group",
        "max_bytes",
        "effective_max_bytes",
        "headroom_bytes",
        "counters",
        "events",
        "pressure",
        "unavailable",
    }
    assert stats.keys() == {*SIZES, *others}


def test_headroom_is_what_is_left_below_the_least_limit(stats: dict[str, object]) -> None:
    assert stats["headroom_bytes"] == int(str(stats["effective_max_bytes"])) - int(
        str(stats["usage_bytes"])
    )


def test_without_a_limit_there_is_no_headroom_to_tell(client: httpx.Client) -> None:
    assert client.get("/v1/groups/web/stats").json()["headroom_bytes"] is None


def test_what_this_kernel_cannot_tell_is_null_and_named(stats: dict[str, object]) -> None:
    def flat(prefix: str, value: object) -> dict[str, object]:
        return (
            {f"{prefix}.{name}": item for name, item in value.items()}
            if isinstance(value, dict)
            else {}
        )

    told = (
        {name: stats[name] for name in SIZES}
        | flat("counters", stats["counters"])
        | flat("events", stats["events"])
    )
    assert stats["unavailable"] == [name for name in told if told[name] is None]
    assert "zswap_bytes" in str(stats["unavailable"])


def test_pressure_is_in_the_kernels_own_names(client: httpx.Client) -> None:
    pressure = client.get("/v1/groups/cache/stats").json()["pressure"]
    assert pressure.keys() == {"some", "full"}
    assert {frozenset(line) for line in pressure.values()} == {
        frozenset({"avg10", "avg60", "avg300", "total"})
    }


@pytest.mark.parametrize("query", ["raw=true", "raw=1"])
def test_raw_adds_what_was_read(client: httpx.Client, query: str) -> None:
    assert "inactive_file" in client.get(f"/v1/groups/cache/stats?{query}").json()["raw"]["pages"]


@pytest.mark.parametrize("query", ["raw=maybe", "fields=x", "raw="])
def test_a_query_that_stats_do_not_have_is_refused(client: httpx.Client, query: str) -> None:
    problem(client.get(f"/v1/groups/cache/stats?{query}"), 422, "invalid-request")


def test_all_groups_are_read_in_one_answer_by_path(still: Still) -> None:
    body = still.client.get("/v1/stats").json()
    assert [item["group"]["path"] for item in body["items"]] == sorted(
        group.path for group in still.stage.simulator.groups()[1:]
    )
    assert body["read_at"].endswith("Z")


def test_an_item_of_the_bulk_is_the_reading_of_its_group(client: httpx.Client) -> None:
    item = next(
        item for item in client.get("/v1/stats").json()["items"] if item["group"]["path"] == "cache"
    )
    assert item == client.get("/v1/groups/cache/stats").json()


def test_a_subtree_is_a_group_and_everything_below(client: httpx.Client) -> None:
    items = client.get("/v1/stats?subtree=batch&fields=usage_bytes").json()["items"]
    assert [(item["group"]["path"], set(item)) for item in items] == [
        (path, {"group", "usage_bytes"}) for path in ("batch", "batch/etl")
    ]


@pytest.mark.parametrize(
    ("query", "status", "slug"),
    [
        ("subtree=none", 404, "group-not-found"),
        ("subtree=a//b", 422, "invalid-group-name"),
        ("fields=nope", 422, "invalid-request"),
        ("fields=", 422, "invalid-request"),
        ("page_size=1", 422, "invalid-request"),
    ],
)
def test_a_bulk_of_what_there_is_not_is_refused(
    client: httpx.Client, query: str, status: int, slug: str
) -> None:
    problem(client.get(f"/v1/stats?{query}"), status, slug)


def test_groups_that_go_while_all_are_read_are_left_out(still: Still) -> None:
    seen = set()
    for verb in range(1, 40):
        still.stage.simulator.make("going")
        still.stage.at(verb, lambda: still.stage.vanish("going"))
        answer = still.client.get("/v1/stats?fields=usage_bytes")
        assert answer.status_code == 200
        seen.add("going" in {item["group"]["path"] for item in answer.json()["items"]})
        if not still.stage.did_happen():
            still.stage.simulator.remove(still.stage.simulator.groups("going")[0])
            break
    assert seen == {False, True}
