"""Attack the boundaries of narrow tokens."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from shrinkd.auth.tokens import make
from shrinkd.settings import Settings
from tests.api.conftest import Still
from tests.support.bearer import Bearer
from tests.support.leaks import nothing_stays_open
from tests.support.live_server import Live
from tests.support.problem_checks import problem
from tests.support.scripted_simulator import Method, Stage

# -- a token in the wrong subtree --------------------------------------------------------------

NGINX = "system.slice/nginx.service"
BURSTABLE = (
    "kubepods.slice/kubepods-burstable.slice/"
    "kubepods-burstable-podb81e64fd_2c07_4f93_9d15_7a60c3e8f2b4.slice"
)
CONTAINER = "e7a05c3d9f1b48620d7c2e94b6f3a81517c09e4d2b6f8a35c1e07d94a2b6c3f0"
POD = "b81e64fd-2c07-4f93-9d15-7a60c3e8f2b4"
REFERENCES = {
    "path": (NGINX, "system.slice/apache.service"),
    "path with %2F": (quote(NGINX, safe=""), quote("system.slice/apache.service", safe="")),
    "path with %2f and letters by number": (
        "system.slice%2f%6Eginx.service",
        "system.slice%2f%6Epache.service",
    ),
    "ancestor": ("system.slice", "systom.slice"),
    "neighbour of the same begin": ("db", "dx"),
    "id:": ("id:{id}", "id:4"),
    "id%3A": ("id%3A{id}", "id%3A4"),
    "unit:": ("unit:nginx.service", "unit:apache.service"),
    "container:": (f"container:{CONTAINER}", f"container:{CONTAINER[::-1]}"),
    "prefix of a container": (f"container:{CONTAINER[:12]}", "container:000000000000"),
    "pod:": (f"pod:{POD}", f"pod:{POD[::-1]}"),
    "ambiguous pod": ("unit:twin.service", "unit:tween.service"),
}
"""By each form, a group that is there and outside, and one that is not there."""
ADDRESSES: list[tuple[Method, str, Any]] = [
    ("GET", "", None),
    ("GET", "/limits", None),
    ("GET", "/stats", None),
    ("GET", "/stats?raw=true", None),
    ("GET", "/stats/history", None),
    ("GET", "/shrinks", None),
    ("GET", "/decisions", None),
    ("GET", "/policies", None),
    ("HEAD", "/stats", None),
    ("PATCH", "/limits", {"max_bytes": 1}),
    ("PATCH", "/limits?dry_run=true", {"max_bytes": "1T"}),
    ("POST", "/shrinks", {"target_bytes": 0}),
    ("DELETE", "", None),
]


@pytest.fixture(scope="module")
def fenced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Still]:
    """A server that requires tokens, with two units of one name outside of web and one inside."""
    folder = tmp_path_factory.mktemp("fenced")
    make(folder / "tokens", "first", ["read"], "1d")
    stage = Stage()
    settings = Settings(
        backend="simulator",
        database_url=f"sqlite:///{folder}/shrinkd.db",
        tokens=str(folder / "tokens"),
    )
    with nothing_stays_open(), Live(settings, stage.make_backend) as live:
        for parent in ("system.slice", "batch"):
            stage.simulator.make(f"{parent}/twin.service")
        yield Still(live, stage)


@pytest.fixture
def stranger(fenced: Still) -> Bearer:
    return Bearer(fenced.live, "write@web", "read@web")


def told(answer: httpx.Response, reference: str) -> tuple[int, dict[str, str], str]:
    """Return the parts of an answer that could leak something.

    Left out are the reference that was sent and what is unique to every request.
    """
    own = {"request-id", "date", "content-length"}
    headers = {name: value for name, value in answer.headers.items() if name not in own}
    sent = re.escape(httpx.URL(f"http://x/{reference}").path[1:])
    return answer.status_code, headers, re.sub(rf'{sent}|"instance": "[^"]*"', "…", answer.text)


@pytest.mark.parametrize(("there", "nowhere"), REFERENCES.values(), ids=REFERENCES)
@pytest.mark.parametrize("request_", ADDRESSES, ids=lambda request: f"{request[0]} {request[1]}")
def test_a_group_outside_the_subtree_of_a_token_answers_as_one_that_is_not_there_by_every_name(
    fenced: Still, stranger: Bearer, there: str, nowhere: str, request_: tuple[Method, str, Any]
) -> None:
    method, suffix, body = request_
    before = fenced.stage.everything()
    there = there.replace("{id}", str(before[NGINX][0]))
    real = stranger.request(method, f"/v1/groups/{there}{suffix}", json=body)
    none = stranger.request(method, f"/v1/groups/{nowhere}{suffix}", json=body)
    assert real.status_code == 404
    assert told(real, there) == told(none, nowhere)
    assert fenced.stage.everything() == before


def test_of_two_groups_of_one_name_the_token_names_the_one_that_it_may_read(fenced: Still) -> None:
    both, one = Bearer(fenced.live, "read"), Bearer(fenced.live, "read@batch")
    assert (
        len(
            problem(both.get("/v1/groups/unit:twin.service"), 409, "ambiguous-reference")[
                "candidates"
            ]
        )
        == 2
    )
    assert one.get("/v1/groups/unit:twin.service").json()["path"] == "batch/twin.service"


@pytest.mark.parametrize(
    "path", ["web/../db", "web/%2e%2e/db", "web//db", "web/./db", "web%00/db", "/db", "web/..%2Fdb"]
)
def test_no_spelling_of_a_path_leads_out_of_the_subtree_of_a_token(
    stranger: Bearer, path: str
) -> None:
    assert stranger.get(f"/v1/groups/{path}/stats").status_code in {404, 422}


def test_no_answer_to_a_token_names_a_group_outside_of_its_subtree(
    fenced: Still, stranger: Bearer
) -> None:
    others = [path for path in fenced.stage.everything() if path.partition("/")[0] != "web"]
    for path in (
        "groups",
        "stats",
        "shrinks",
        "policies",
        "simulations",
        "node",
        "groups/web",
        "groups/web/policies",
        "groups/web/stats",
    ):
        answer = stranger.get(f"/v1/{path}")
        assert answer.status_code == 200
        assert [other for other in others if f'"{other}"' in answer.text] == []


def test_a_token_in_the_address_opens_nothing_and_is_not_repeated(stranger: Bearer) -> None:
    for query in (f"access_token={stranger.secret}", f"token={stranger.secret}"):
        answer = stranger.live.client.get(f"/v1/groups?{query}")
        problem(answer, 401, "unauthenticated")
        assert stranger.secret not in answer.text


def test_a_batch_carries_nothing_past_the_subtree_of_its_token(
    fenced: Still, stranger: Bearer
) -> None:
    before = fenced.stage.everything()
    items = [
        {"group": path, "patch": {"max_bytes": "8G"}}
        for path in ("db", "web/../db", "batch/twin.service")
    ]
    answer = stranger.live.client.post(
        "/v1/limits/batch",
        json={"items": items},
        headers={"Authorization": f"Bearer {stranger.secret}"},
    )
    assert [item["status"] for item in answer.json()["items"]] == [404, 422, 404]
    assert fenced.stage.everything() == before
