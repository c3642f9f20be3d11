"""Audit log: every attempted change is listed, whatever its outcome."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from shrinkd.settings import Settings
from tests.support.live_server import Daemon, Live
from tests.support.locked_database import locked
from tests.support.scripted_simulator import Stage


def attempts(client: httpx.Client, wanted: int, **query: Any) -> list[dict[str, Any]]:
    """Wait until that many of the newest attempts have an outcome; return them."""
    while True:
        answer = client.get("/v1/audit", params=query)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        if sum(item["status"] is not None for item in items) >= wanted:
            return items


def test_a_change_is_there_with_who_what_where_and_how_it_ended(server: Live) -> None:
    answer = server.client.patch("/v1/groups/web/limits", json={"max_bytes": "1M"})
    (found,) = attempts(server.client, 1)
    assert (found["caller"], found["operation"], found["method"], found["path"]) == (
        "anyone",
        "patch_limits",
        "PATCH",
        "/v1/groups/web/limits",
    )
    assert (found["body"], found["status"], found["problem"]) == (
        {"max_bytes": "1M"},
        409,
        "limit-below-usage",
    )
    assert found["group"] == answer.json()["group"]
    assert found["request_id"] == answer.headers["request-id"]
    assert found["dry_run"] is False


def test_what_came_to_no_operation_or_was_a_trial_is_there_too(server: Live) -> None:
    server.client.post("/v1/nowhere", json={})
    server.client.patch("/v1/groups/web/limits", params={"dry_run": True}, json={"max_bytes": "1G"})
    server.client.delete("/v1/groups/no-such-group")
    found = {
        (item["method"], item["status"], item["problem"], item["dry_run"])
        for item in attempts(server.client, 3)
    }
    assert found == {
        ("POST", 404, "not-found", False),
        ("PATCH", 200, None, True),
        ("DELETE", 404, "group-not-found", False),
    }


def test_reading_is_no_attempt(server: Live) -> None:
    for path in ("/v1/groups", "/v1/groups/web/stats", "/livez"):
        server.client.get(path).raise_for_status()
        server.client.head(path).raise_for_status()
    server.client.delete("/v1/groups/no-such-group")
    assert len(attempts(server.client, 1)) == 1


def test_the_list_is_found_by_its_query_and_comes_in_pages(server: Live) -> None:
    for size in ("900M", "800M", "700M"):
        server.client.patch("/v1/groups/web/limits", json={"max_bytes": size}).raise_for_status()
    server.client.patch("/v1/groups/db/limits", json={"max_bytes": "1M"})
    attempts(server.client, 4)
    assert len(attempts(server.client, 3, group="web")) == 3
    assert len(attempts(server.client, 1, status_from=400)) == 1
    assert len(attempts(server.client, 4, operation="patch_limits", caller="anyone")) == 4
    first = server.client.get("/v1/audit", params={"page_size": 3}).json()
    rest = server.client.get(
        "/v1/audit", params={"page_size": 3, "page_token": first["next_page_token"]}
    ).json()
    assert len({item["id"] for item in first["items"] + rest["items"]}) == 4
    assert rest["next_page_token"] is None


def test_a_body_is_kept_as_far_as_it_is_short(server: Live) -> None:
    server.client.post("/v1/groups", json={"path": "a" * 5000})
    (found,) = attempts(server.client, 1)
    assert isinstance(found["body"], str)
    assert len(found["body"]) == 2049


def test_a_database_that_is_locked_stops_no_change_and_the_audit_has_it_later(
    tmp_path: Path,
) -> None:
    settings = Settings(
        backend="simulator", database_url=f"sqlite:///{tmp_path}/shrinkd.db?timeout=0.05"
    )
    with Live(settings, Stage().make_backend) as live:
        with locked(tmp_path / "shrinkd.db"):
            live.client.patch("/v1/groups/web/limits", json={"max_bytes": "8G"}).raise_for_status()
        (found,) = attempts(live.client, 1)
        assert (found["operation"], found["status"]) == ("patch_limits", 200)


@pytest.mark.parametrize(
    "query", ["caller=%00", "group=..", "status_from=1", "since=now", "page_token=x", "nobody=1"]
)
def test_a_query_that_makes_no_sense_finds_nothing_or_is_refused(
    client: httpx.Client, query: str
) -> None:
    answer = client.get(f"/v1/audit?{query}")
    assert answer.status_code == 422 or answer.json()["items"] == []


def test_an_attempt_that_the_daemon_died_in_has_no_outcome_for_ever(
    daemon: Callable[..., Daemon],
) -> None:
    it = daemon()
    it.client.post(
        "/v1/simulator/faults", json={"verb": "set_limits", "delay_seconds": 30}
    ).raise_for_status()
    with it.another_client() as hasty, pytest.raises(httpx.TimeoutException):
        hasty.patch("/v1/groups/web/limits", json={"max_bytes": "2G"}, timeout=0.5)
    it.kill()
    again = daemon()
    (found,) = again.client.get("/v1/audit", params={"operation": "patch_limits"}).json()["items"]
    assert (found["status"], found["finished_at"], found["body"]) == (
        None,
        None,
        {"max_bytes": "2G"},
    )
    assert found["caller"].startswith("uid:")
