"""History over HTTP: samples in the requested steps and fields, within bounds."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from shrinkd.backends import Group
from shrinkd.groups.usage_history import FIELDS
from tests.api.conftest import Still
from tests.support.live_server import Live
from tests.support.policy_samples import stat
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import MIB

HERE = "/v1/groups/lately/stats/history"


@pytest.fixture
def lately(still: Still) -> Iterator[Group]:
    group = still.stage.group("lately", anon=3 * MIB, cache=5 * MIB)
    yield group
    still.stage.vanish("lately")


def read_history(client: httpx.Client, query: str = "") -> dict[str, Any]:
    answer = client.get(f"{HERE}?{query}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.usefixtures("lately")
def test_what_is_asked_for_up_to_now_ends_with_what_is_used_now(client: httpx.Client) -> None:
    before = datetime.now(UTC).timestamp()
    body = read_history(client)
    assert set(body["series"]) == set(FIELDS)
    assert (
        body["series"]["usage_bytes"][-1]
        == client.get("/v1/groups/lately/stats").json()["usage_bytes"]
    )
    assert body["series"]["anon_bytes"][-1] == 3 * MIB
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d0Z", time) for time in body["times"])
    assert seconds(body["times"][-1]) > before - 10


def test_there_are_as_many_values_of_each_field_as_times(still: Still, lately: Group) -> None:
    still.live.parts.history.note_all({lately.id: stat(MIB)})
    body = read_history(still.client)
    assert {len(values) for values in body["series"].values()} == {len(body["times"])}
    assert body["group"] == {"id": str(lately.id), "path": "lately"}


@pytest.mark.usefixtures("lately")
def test_only_the_fields_that_are_asked_for_are_told(client: httpx.Client) -> None:
    assert list(read_history(client, "fields=file_bytes,usage_bytes")["series"]) == [
        "usage_bytes",
        "file_bytes",
    ]


@pytest.mark.usefixtures("lately")
def test_a_step_begins_at_a_multiple_of_itself(client: httpx.Client) -> None:
    body = read_history(client, "step_seconds=3600")
    assert (body["step_seconds"], [seconds(time) % 3600 for time in body["times"]]) == (
        3600,
        [0.0] * len(body["times"]),
    )


@pytest.mark.usefixtures("lately")
def test_of_a_time_in_which_nothing_was_sampled_nothing_is_told_and_nothing_is_read_for_it(
    still: Still,
) -> None:
    before = still.stage.simulator.faults.uses()["stat"]
    body = read_history(
        still.client, "from=2020-01-01T00:00:00Z&to=2020-01-01T01:00:00Z&fields=usage_bytes"
    )
    assert (body["times"], body["series"]) == ([], {"usage_bytes": []})
    assert still.stage.simulator.faults.uses()["stat"] == before


def test_a_group_that_comes_again_has_a_history_of_its_own(still: Still, lately: Group) -> None:
    still.live.parts.history.note(lately.id, MIB)
    still.stage.vanish("lately")
    still.stage.group("lately", anon=9 * MIB)
    assert read_history(still.client)["series"]["anon_bytes"] == [9 * MIB]


@pytest.mark.usefixtures("lately")
def test_more_than_one_answer_holds_is_refused_with_its_numbers(client: httpx.Client) -> None:
    span = "from=2026-01-01T00:00:00Z&to=2026-01-02T03:46:40Z"
    assert read_history(client, f"{span}&fields=usage_bytes")["times"] == []
    refused = problem(
        client.get(f"{HERE}?{span}&fields=usage_bytes,anon_bytes"), 422, "range-too-large"
    )
    assert {name: refused[name] for name in ("steps", "fields", "most_values", "errno")} == {
        "steps": 10_000,
        "fields": 2,
        "most_values": 10_000,
        "errno": "ERANGE",
    }
    problem(client.get(f"{HERE}?from=0001-01-01T00:00:00Z"), 422, "range-too-large")
    problem(
        client.get(f"{HERE}?to=9999-12-31T23:59:59Z&from=2026-01-01T00:00:00Z"),
        422,
        "range-too-large",
    )


@pytest.mark.usefixtures("lately")
@pytest.mark.parametrize(
    "query",
    [
        "from=2026-01-01T00:00:01Z&to=2026-01-01T00:00:00Z",
        "from=2100-01-01T00:00:00Z",
        "from=yesterday",
        "from=0.5",
        "from=2026-01-01T00:00:00",
        "to=",
        "step_seconds=9",
        "step_seconds=3601",
        "step_seconds=1e1",
        "fields=",
        "fields=nope",
        "begins=2026-01-01T00:00:00Z",
        "from=2026-01-01T00:00:00Z&from=2026-01-01T00:00:00Z",
    ],
)
def test_a_query_that_means_nothing_is_refused(client: httpx.Client, query: str) -> None:
    problem(client.get(f"{HERE}?{query}"), 422, "invalid-request")


def test_a_group_that_is_not_there_has_no_history(client: httpx.Client) -> None:
    problem(client.get("/v1/groups/nobody/stats/history"), 404, "group-not-found")


def test_the_history_of_a_group_is_nothing_to_change_and_no_group_of_that_name(
    still: Still,
) -> None:
    group = still.stage.simulator.make("lately")
    inner = [still.stage.simulator.make(f"lately/{path}") for path in ("stats", "stats/history")]
    problem(still.client.delete(HERE), 405, "method-not-allowed")
    assert still.client.get(HERE).json()["group"]["id"] == str(group.id)
    own = still.client.get(f"/v1/groups/id:{inner[1].id}").json()
    assert own["links"]["self"] == f"/v1/groups/id:{inner[1].id}"
    assert (
        still.client.get(f"/v1/groups/id:{inner[1].id}/stats/history").json()["group"]["path"]
        == "lately/stats/history"
    )
    for made in (*reversed(inner), group):
        still.stage.simulator.remove(made)


@pytest.mark.usefixtures("lately")
def test_an_answer_that_is_known_already_is_not_sent_again(client: httpx.Client) -> None:
    query = "from=2020-01-01T00:00:00Z&to=2020-01-01T01:00:00Z"
    first = client.get(f"{HERE}?{query}")
    assert (
        client.get(f"{HERE}?{query}", headers={"If-None-Match": first.headers["ETag"]}).status_code
        == 304
    )


def test_what_a_policy_has_read_is_known_without_anybody_asking(server: Live) -> None:
    group = next(group for group in server.parts.backend.groups() if group.path == "web")
    looks = {
        "kind": "limit",
        "mode": "observe",
        "selector": {"group": "web"},
        "spec": {"limits": {"max_bytes": "1T"}},
    }
    server.client.put("/v1/policies/looks", json=looks).raise_for_status()
    while not server.client.get("/v1/policies/looks/decisions").json()["items"]:
        pass
    _, series = server.parts.history.read(group.id, FIELDS, (0, 1e10))
    assert any(value is not None for value in series["anon_bytes"])
