"""The numbers for Prometheus: they are there, they parse, and no client makes more of them."""

from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from shrinkd.metrics import MAX_SUBTREES, RequestMetrics
from tests.support.live_server import Live
from tests.test_terminal import unseen_in


def scraped(client: httpx.Client) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples by their names, and by the values of their labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in read_text(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_requests_are_counted_by_operation_and_status_also_those_of_the_short_way(
    server: Live,
) -> None:
    for _ in range(3):
        server.client.get("/v1/groups/web/stats")
    server.client.get("/v1/groups/no-such-group/stats")
    server.client.get("/nowhere")
    counts = scraped(server.client)["shrinkd_request_seconds_count"]
    assert counts["get_stats", "200"] == 3
    assert counts["get_stats", "404"] == 1
    assert counts["none", "404"] == 1


def test_a_path_that_a_client_chose_is_no_label(server: Live) -> None:
    server.client.get("/v1/groups/web/stats")
    before = len(scraped(server.client)["shrinkd_request_seconds_count"])
    for number in range(300):
        server.client.get(f"/v1/groups/never-{number}/stats")
        server.client.get(f"/nowhere/{number}")
    assert len(scraped(server.client)["shrinkd_request_seconds_count"]) <= before + 3


def test_shrinks_and_what_they_reclaimed_are_counted(server: Live) -> None:
    done = server.client.post(
        "/v1/groups/web/shrinks", json={"reclaim_bytes": "10M"}, headers={"Prefer": "wait=30"}
    ).json()
    found = scraped(server.client)
    assert found["shrinkd_shrinks_ended_total"]["caller", "succeeded"] == 1
    assert found["shrinkd_reclaimed_bytes_total"][()] == done["progress"]["reclaimed_bytes"]


def test_the_top_groups_tell_their_usage_and_limits(server: Live) -> None:
    usage = server.client.get("/v1/stats", params={"fields": "usage_bytes"}).json()["items"]
    found = scraped(server.client)["shrinkd_subtree_usage_bytes"]
    assert set(found) == {
        (item["group"]["path"],) for item in usage if "/" not in item["group"]["path"]
    }
    assert all(value >= 0 for value in found.values())


def test_of_many_groups_the_smallest_are_one(server: Live) -> None:
    for number in range(MAX_SUBTREES + 10):
        server.client.post("/v1/groups", json={"path": f"many-{number}"}).raise_for_status()
    found = scraped(server.client)["shrinkd_subtree_usage_bytes"]
    assert len(found) == MAX_SUBTREES + 1
    assert ("(others)",) in found


@pytest.mark.parametrize(
    ("accept", "read"),
    [
        ("application/openmetrics-text; version=1.0.0", read_openmetrics),
        ("text/plain", read_text),
        ("*/*", read_text),
    ],
)
def test_it_comes_in_the_format_that_is_asked_for(server: Live, accept: str, read: Any) -> None:
    answer = server.client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(
        accept.partition(";")[0] if "*" not in accept else "text/plain"
    )
    assert {"shrinkd_request_seconds", "python_info"} <= {
        family.name for family in read(answer.text)
    }


def test_a_latency_is_in_the_first_bucket_that_holds_it() -> None:
    requests = RequestMetrics()
    for seconds in (0.0005, 0.001, 0.002, 100.0):
        requests.note("get_stats", 200, seconds)
    assert requests.seconds["get_stats", 200] == [2, 1, 0, 0, 0, 0, 0, 1]
    assert requests.totals["get_stats", 200] == 100_003_500_000


def test_a_label_has_nothing_in_it_that_a_terminal_obeys_and_no_two_groups_share_one(
    server: Live,
) -> None:
    names = ["a\x9b2Jb", "a\\x9b2Jb", "gpj\u202etxt", "(others)", "caf\xe9", 'quo"te']
    ids = {
        name: server.client.post("/v1/groups", json={"path": name}).raise_for_status().json()["id"]
        for name in names
    }
    forged = f"id:{ids[names[2]]}"
    ids[forged] = (
        server.client.post("/v1/groups", json={"path": forged}).raise_for_status().json()["id"]
    )
    text = server.client.get("/metrics").text
    assert unseen_in(text) == {"\n"}
    samples = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(set(samples)) == len(samples)
    by_id = {f"id:{ids[name]}" for name in (names[0], names[2], names[3], forged)}
    found = {label for (label,) in scraped(server.client)["shrinkd_subtree_usage_bytes"]}
    assert by_id | {names[1], "caf\xe9", 'quo"te'} <= found
