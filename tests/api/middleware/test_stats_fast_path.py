"""Fast path of stats: every request is answered as the ordinary route would."""

import httpx
import pytest

from tests.api.conftest import Still

UNIT = "unit:nginx.service"


@pytest.mark.parametrize(
    "reference",
    [
        "web",
        "batch/etl",
        "batch%2Fetl",
        UNIT,
        "container:2c4dee605d22",
        "none",
        "a//b",
        "web%00",
        "..%2Fx",
        "id:1",
        "",
    ],
)
def test_the_short_way_and_the_long_way_answer_alike(client: httpx.Client, reference: str) -> None:
    short, long = (
        client.get(f"/v1/groups/{reference}/stats"),
        client.get(f"/v1/groups/{reference}/stats?raw=false"),
    )
    assert (short.status_code, short.headers["content-type"]) == (
        long.status_code,
        long.headers["content-type"],
    )
    assert short.headers.get("etag") == long.headers.get("etag")
    assert short.json() | {"instance": ""} == long.json() | {"instance": ""}


def test_the_short_way_has_a_request_id(client: httpx.Client) -> None:
    assert (
        client.get("/v1/groups/web/stats", headers={"Request-Id": "mine"}).headers["request-id"]
        == "mine"
    )


def test_a_method_other_than_get_does_not_take_the_short_way(client: httpx.Client) -> None:
    assert client.post("/v1/groups/web/stats").status_code == 405


def test_a_group_named_stats_is_not_the_stats_of_its_parent(still: Still) -> None:
    group = still.stage.simulator.make("batch/stats")
    assert still.client.get("/v1/groups/batch/stats").json()["group"]["path"] == "batch"
    assert still.client.get("/v1/groups/batch/stats/stats").json()["group"]["path"] == "batch/stats"
    still.stage.simulator.remove(group)
