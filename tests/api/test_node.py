"""The node over HTTP: the facts that a client decides by."""

import httpx

from tests.api.conftest import Still


def test_the_node_tells_what_it_is_and_can(still: Still) -> None:
    body, node = still.client.get("/v1/node").json(), still.stage.simulator.node()
    assert (body["backend"], body["cgroup_version"], body["boot_id"], body["root"]) == ("simulator", 1, node.boot_id, "/")
    assert body["capabilities"] == {
        "settable_limits": ["max_bytes", "swap_max_bytes", "soft_limit_bytes"],
        "swappiness": False,
        "pressure": True,
    }
    assert body["pressure"]["some"] == {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 0}
    assert (body["total_bytes"], body["page_size_bytes"], body["subtrees"]) == (16 * 2**30, 4096, [])


def test_a_limit_is_settable_or_unsupported_and_never_both(client: httpx.Client) -> None:
    settable = client.get("/v1/node").json()["capabilities"]["settable_limits"]
    limits = client.get("/v1/groups/web/limits").json()
    assert {*settable, *limits["unsupported"]} == {name for name in limits if name.endswith("_bytes") and name != "effective_max_bytes"}
    assert not {*settable} & {*limits["unsupported"]}
