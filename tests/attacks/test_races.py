"""Let many clients change one group, also over a bad network.

Their answers must be consistent, and no change may be made twice.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import httpx
import pytest

from shrinkd.backends import Backend
from shrinkd.settings import Settings
from tests.backends.hosts import MIB
from tests.support.cgroup_host import CgroupHost
from tests.support.live_server import Daemon, Live
from tests.support.lossy_proxy import LossyProxy
from tests.support.problem_checks import problem
from tests.support.races import together
from tests.support.scripted_simulator import Stage
from tests.support.serial_order import Operation, Unexplained, serial_order

pytestmark = pytest.mark.long

CLIENTS, STEPS = 50, 6
WORKERS, EACH = 5, 50
PAGE = 4096
BASE = 1 << 30
WAITS = {"Prefer": "wait=60"}


# -- the judge ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "history",
    [
        [],
        [Operation(1, 2, 10), Operation(3, 4, saw=10)],
        [Operation(1, 4, 10), Operation(2, 3, 20), Operation(5, 6, saw=10)],
        [Operation(1, 4, 10), Operation(2, 3, 20), Operation(5, 6, saw=20)],
        [
            Operation(1, 9, 10),
            Operation(2, 3, saw=10),
            Operation(4, 5, 20),
            Operation(6, 7, saw=20),
        ],
        [Operation(1, 2, 10, saw=0), Operation(1, 5, 20, saw=10), Operation(2, 6, saw=0)],
        [
            Operation(1, 9, 30),
            Operation(2, 3, 10, saw=0),
            Operation(4, 5, 20, saw=10),
            Operation(inf, inf, saw=30),
        ],
    ],
)
def test_what_has_an_order_is_explained(history: list[Operation]) -> None:
    assert set(serial_order(0, history)) == {
        0,
        *(done.wrote for done in history if done.wrote is not None),
    }


@pytest.mark.parametrize(
    "history",
    [
        [Operation(1, 2, 10), Operation(3, 4, saw=0)],
        [Operation(1, 2, 10), Operation(3, 4, saw=20)],
        [Operation(1, 2, saw=10), Operation(3, 4, 10)],
        [Operation(1, 2, 10), Operation(3, 4, 20), Operation(5, 6, saw=10)],
        [Operation(1, 2, 10, saw=0), Operation(1, 2, 20, saw=0)],
        [Operation(1, 2, 10), Operation(3, 4, 20, saw=0)],
        [
            Operation(1, 9, 10),
            Operation(1, 9, 20),
            Operation(2, 3, saw=10),
            Operation(4, 5, saw=20),
            Operation(6, 7, saw=10),
        ],
        [Operation(1, 2, 10, saw=0), Operation(3, 4, 20, saw=10), Operation(5, 6, saw=10)],
        [
            Operation(1, 2, 30),
            Operation(1, 2, 10, saw=0),
            Operation(3, 4, 20, saw=10),
            Operation(5, 6, saw=0),
        ],
        [Operation(3, 4, 10), Operation(1, 2, 20, saw=10)],
        [Operation(1, 2, 10, saw=20), Operation(1, 2, 20, saw=10)],
    ],
)
def test_what_has_none_is_not(history: list[Operation]) -> None:
    with pytest.raises(Unexplained):
        serial_order(0, history)


# -- fifty clients on one group ----------------------------------------------------------------


@dataclass
class Race:
    """Clients that change the maximum of the group `web`, and all their answers."""

    client: httpx.Client
    history: list[Operation] = field(default_factory=list)
    refused: list[tuple[float, float, str]] = field(default_factory=list)
    """When, and by the shrink of which id."""
    shrinks: dict[str, tuple[float, float]] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    """Of each ETag that was seen, the maximum."""
    fresh: Iterator[int] = field(
        default_factory=lambda: (BASE + number * PAGE for number in count(1))
    )

    def read(self) -> tuple[str, int]:
        began, answer = (
            time.monotonic(),
            self.client.get("/v1/groups/web/limits").raise_for_status(),
        )
        self.history.append(Operation(began, time.monotonic(), saw=answer.json()["max_bytes"]))
        return self.tagged(answer)

    def tagged(self, answer: httpx.Response) -> tuple[str, int]:
        etag, value = answer.headers["etag"], answer.json()["max_bytes"]
        assert self.values.setdefault(etag, value) == value
        return etag, value

    def patch(
        self, value: int, headers: dict[str, str] | None = None, saw: int | None = None
    ) -> str | None:
        """Change the maximum; return the address of a shrink that prevented it, if any."""
        began = time.monotonic()
        answer = self.client.patch(
            "/v1/groups/web/limits", json={"max_bytes": value}, headers=headers or {}
        )
        ended = time.monotonic()
        if answer.status_code == 412:
            etag = problem(answer, 412, "precondition-failed")["etag"]
            assert etag not in (headers or {}).values()
            self.history.append(Operation(began, ended, saw=self.values.get(etag)))
        elif answer.status_code == 409:
            self.refused.append(
                (began, ended, problem(answer, 409, "shrink-in-progress")["shrink"]["id"])
            )
            return answer.headers["location"]
        else:
            assert (answer.status_code, self.tagged(answer)[1]) == (200, value), answer.text
            self.history.append(Operation(began, ended, value, saw))
        return None

    def patch_what_was_read(self) -> None:
        etag, value = self.read()
        self.patch(next(self.fresh), {"If-Match": etag}, value)

    def patch_until_it_works(self) -> None:
        while in_the_way := self.patch(next(self.fresh)):
            self.client.get(in_the_way, headers=WAITS).raise_for_status()

    def patch_in_vain(self) -> None:
        answer = self.client.patch("/v1/groups/web/limits", json={"max_bytes": PAGE})
        assert answer.status_code == 409
        assert answer.json()["type"] in {
            "/problems/limit-below-usage",
            "/problems/shrink-in-progress",
        }

    def shrink(self) -> None:
        value, began = next(self.fresh), time.monotonic()
        answer = self.client.post(
            "/v1/groups/web/shrinks",
            json={"target_bytes": BASE, "set_max_bytes": value},
            headers=WAITS,
        )
        ended = time.monotonic()
        if answer.status_code == 409:
            self.refused.append(
                (began, ended, problem(answer, 409, "shrink-in-progress")["shrink"]["id"])
            )
            return
        assert (answer.status_code, answer.json()["state"]) == (200, "succeeded"), answer.text
        self.shrinks[answer.json()["id"]] = began, ended
        self.history.append(Operation(began, ended, value))

    def run(self, number: int) -> None:
        chance = random.Random(number)
        for _ in range(STEPS):
            chance.choices(
                (
                    self.patch_what_was_read,
                    self.patch_until_it_works,
                    self.shrink,
                    self.patch_in_vain,
                    self.read,
                ),
                (4, 3, 2, 1, 1),
            )[0]()


def raced(client: httpx.Client) -> list[int]:
    """Run all clients, and return the serial order that explains their answers.

    The last value is what the kernel reports.
    """
    race = Race(client)
    first = client.patch("/v1/groups/web/limits", json={"max_bytes": BASE}).raise_for_status()
    race.tagged(first)
    together(*[partial(race.run, number) for number in range(CLIENTS)])
    for began, ended, shrink_id in race.refused:
        shrink_began, shrink_ended = race.shrinks[shrink_id]
        assert began < shrink_ended
        assert shrink_began < ended
    final = client.get("/v1/groups/web/limits").json()["max_bytes"]
    order = serial_order(BASE, [*race.history, Operation(inf, inf, saw=final)])
    assert len(order) > CLIENTS
    assert order[-1] == final
    assert len(race.shrinks) > 1
    return order


def test_fifty_clients_on_one_group_are_explained_by_one_order(settings: Settings) -> None:
    stage = Stage()
    with Live(settings, stage.make_backend) as live:
        order = raced(live.client)
        assert stage.limits()["web"] == order[-1]


def test_fifty_clients_on_one_group_of_a_real_kernel_are_explained_by_one_order(
    kernel: CgroupHost[Backend], daemon: Callable[..., Daemon]
) -> None:
    home = kernel.group()
    web = kernel.backend.make(f"{home.path}/web")
    kernel.charge(web, anon=8 * MIB, cache=8 * MIB)
    started = daemon(
        backend=kernel.backend.name, cgroup_root=str(Path(kernel.backend.node().root, home.path))
    )
    assert raced(started.client)[-1] == int(kernel.limit(web))


# -- a network that loses one answer in three --------------------------------------------------


def insist(client: httpx.Client, path: str, body: Any, key: str) -> httpx.Response:
    """Repeat a POST until it has a final answer, as a client does that wants it done once."""
    while True:
        try:
            answer = client.post(path, json=body, headers={"Idempotency-Key": key, **WAITS})
        except httpx.TransportError:
            continue
        if answer.status_code != 409 or "retry-after" not in answer.headers:
            return answer


def insist_on_all(url: str, worker: int) -> list[httpx.Response]:
    answers = []
    with httpx.Client(
        base_url=url, timeout=60, limits=httpx.Limits(max_keepalive_connections=0)
    ) as client:
        for number in range(EACH):
            for path, body in (
                ("/v1/simulator/clock", {"advance_seconds": 1}),
                (f"/v1/groups/batch/{worker}/shrinks", {"reclaim_bytes": PAGE}),
                ("/v1/groups", {"path": f"batch/{worker}/{number}"}),
                (
                    "/v1/limits/batch",
                    {
                        "items": [
                            {
                                "group": f"batch/{worker}",
                                "patch": {"max_bytes": BASE + number * PAGE},
                            }
                        ]
                    },
                ),
            ):
                answers.append(insist(client, path, body, f"{worker}-{number}"))
    return answers


def test_a_thousand_posts_over_a_network_that_loses_one_in_three_take_effect_once_each(
    settings: Settings,
) -> None:
    stage = Stage()
    with (
        Live(settings, stage.make_backend) as live,
        LossyProxy(live.url, lost=1 / 3, seed=2008) as network,
    ):
        for worker in range(WORKERS):
            stage.group(f"batch/{worker}", cache=4 * MIB)
        answers = [
            answer
            for found in together(
                *[partial(insist_on_all, network.url, worker) for worker in range(WORKERS)]
            )
            for answer in found
        ]
        shrinks = {
            row["id"] for row in live.client.get("/v1/shrinks?page_size=1000").json()["items"]
        }
        assert live.client.get("/v1/simulator/clock").json()["now_seconds"] == WORKERS * EACH
    assert {
        answer.json()["id"] for answer in answers if answer.url.path.endswith("/shrinks")
    } == shrinks
    assert len(shrinks) == WORKERS * EACH
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[201] == statuses[207] == WORKERS * EACH
    assert statuses.total() == 1000
    assert len(set(network.fates)) == 4
    assert any("idempotency-replayed" in answer.headers for answer in answers)


# -- a daemon that dies in the middle ----------------------------------------------------------


def killed(started: Daemon, path: str, body: Any, until: Callable[[], bool]) -> None:
    """Send a POST with the key "it", and kill the daemon while it runs."""

    def send() -> None:
        with started.another_client() as client, suppress(httpx.TransportError):
            client.post(path, json=body, headers={"Idempotency-Key": "it", **WAITS})

    sender = threading.Thread(target=send)
    sender.start()
    while not until():
        pass
    started.kill()
    sender.join()


def test_a_shrink_whose_daemon_was_killed_is_found_again_by_its_retry(
    kernel: CgroupHost[Backend], daemon: Callable[..., Daemon]
) -> None:
    home = kernel.group()
    kernel.charge(kernel.backend.make(f"{home.path}/web"), cache=64 * MIB)
    settings = {
        "backend": kernel.backend.name,
        "cgroup_root": str(Path(kernel.backend.node().root, home.path)),
    }
    first, slowly = daemon(**settings), {"reclaim_bytes": "60M", "max_bytes_per_second": "1M"}
    path = "/v1/groups/web/shrinks"
    killed(first, path, slowly, lambda: bool(first.client.get(path).json()["items"]))
    second = daemon(**settings)
    found = second.client.post(path, json=slowly, headers={"Idempotency-Key": "it", **WAITS})
    assert (found.status_code, found.json()["state"]) == (200, "interrupted")
    assert [row["id"] for row in second.client.get(path).json()["items"]] == [found.json()["id"]]
    again = second.client.post(path, json=slowly, headers={"Idempotency-Key": "it"})
    assert (again.headers["idempotency-replayed"], again.json()["id"]) == (
        "true",
        found.json()["id"],
    )


def test_what_cannot_be_found_again_is_said_to_be_unknown(daemon: Callable[..., Daemon]) -> None:
    first = daemon()
    first.client.post(
        "/v1/simulator/faults", json={"verb": "make", "delay_seconds": 60}
    ).raise_for_status()
    killed(
        first,
        "/v1/groups",
        {"path": "it"},
        lambda: not first.client.get("/v1/simulator/faults").json()["planned"],
    )
    second = daemon()
    refused = second.client.post(
        "/v1/groups", json={"path": "it"}, headers={"Idempotency-Key": "it"}
    )
    problem(refused, 409, "idempotency-outcome-unknown")
    assert (
        second.client.post(
            "/v1/groups", json={"path": "it"}, headers={"Idempotency-Key": "it-2"}
        ).status_code
        == 201
    )
