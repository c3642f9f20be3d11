"""What all policies share: which groups are meant, what JSON may say, and when it is active."""

import ast
import json
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from shrinkd.backends import Group
from shrinkd.policies import kinds
from shrinkd.policies.cron import names, next_moment
from shrinkd.policies.policy import Active, AnyPolicy, Selector, parse
from tests.support.checkout import ROOT

CONTAINER = "ab" * 32
NUMBERS = count(1)
TREE = [
    Group(path, next(NUMBERS))
    for path in (
        "",
        "kube",
        "kube/pod1",
        "kube/pod1/app",
        "kube/pod1/side",
        "kube/pod2",
        "kube/pod2/app",
        "system",
        "system/nginx.service",
        "system/nginx-2.service",
        f"system/docker-{CONTAINER}.scope",
        "user",
    )
]

LEAVES = [
    *("kube/pod1/app", "kube/pod1/side", "kube/pod2/app"),
    *("system/nginx.service", "system/nginx-2.service", f"system/docker-{CONTAINER}.scope", "user"),
]


@pytest.mark.parametrize(
    ("selector", "paths"),
    [
        ({"group": "kube/pod1"}, ["kube/pod1"]),
        ({"group": "/kube/pod1/"}, ["kube/pod1"]),
        ({"group": "*"}, ["kube", "system", "user"]),
        ({"group": "kube/*"}, ["kube/pod1", "kube/pod2"]),
        ({"group": "kube/*/app"}, ["kube/pod1/app", "kube/pod2/app"]),
        ({"group": "kube/pod[2-9]"}, ["kube/pod2"]),
        ({"group": "/"}, []),
        ({"group": "kube/pod3"}, []),
        ({"group": "kube", "scope": "children"}, ["kube/pod1", "kube/pod2"]),
        (
            {"group": "kube/*", "scope": "children"},
            ["kube/pod1/app", "kube/pod1/side", "kube/pod2/app"],
        ),
        (
            {"group": "kube", "scope": "leaves"},
            ["kube/pod1/app", "kube/pod1/side", "kube/pod2/app"],
        ),
        ({"group": "user", "scope": "leaves"}, ["user"]),
        ({"group": "user", "scope": "children"}, []),
        ({"parent": "kube"}, ["kube/pod1", "kube/pod2"]),
        ({"parent": "kube/"}, ["kube/pod1", "kube/pod2"]),
        ({"parent": "kube", "scope": "children"}, ["kube/pod1", "kube/pod2"]),
        (
            {"parent": "kube", "scope": "leaves"},
            ["kube/pod1/app", "kube/pod1/side", "kube/pod2/app"],
        ),
        ({"parent": "user", "scope": "leaves"}, []),
        ({"parent": "kube*"}, []),
        ({"parent": ""}, ["kube", "system", "user"]),
        ({"parent": "", "scope": "leaves"}, LEAVES),
        ({"alias": "unit:nginx*.service"}, ["system/nginx.service", "system/nginx-2.service"]),
        ({"alias": "unit:nginx.service"}, ["system/nginx.service"]),
        ({"alias": f"container:{CONTAINER}"}, [f"system/docker-{CONTAINER}.scope"]),
        ({"alias": "container:*"}, [f"system/docker-{CONTAINER}.scope"]),
        (
            {"alias": "*"},
            ["system/nginx.service", "system/nginx-2.service", f"system/docker-{CONTAINER}.scope"],
        ),
        ({"alias": "unit:nginx.service", "scope": "leaves"}, ["system/nginx.service"]),
    ],
)
def test_a_selector_means_these_groups(selector: dict[str, Any], paths: list[str]) -> None:
    assert [group.path for group in Selector(**selector).select(TREE)] == paths


@pytest.mark.parametrize("scope", ["self", "children", "leaves"])
@pytest.mark.parametrize("way", [{"group": "*"}, {"group": "/"}, {"parent": ""}, {"alias": "*"}])
def test_the_root_is_never_selected(way: dict[str, Any], scope: str) -> None:
    assert Selector.model_validate(way | {"scope": scope}).select(TREE[:1]) == []
    assert TREE[0] not in Selector.model_validate(way | {"scope": scope}).select(TREE)


def policy(kind: str = "watermark", **more: Any) -> dict[str, Any]:
    return {"name": "keep-headroom", "kind": kind, "selector": {"group": "kube/*"}} | more


def test_what_is_left_out_is_what_the_documents_say() -> None:
    made = parse(policy())
    assert (made.enabled, made.mode, made.priority, made.swap, made.active) == (
        True,
        "enforce",
        100,
        "allow",
        None,
    )
    assert (made.floor.bytes, made.floor.percent_of_limit) == (64 << 20, 0)
    assert made.spec == kinds()["watermark"].spec()


SPECS: dict[str, list[dict[str, Any]]] = {
    "limit": [
        {"limits": {"max_bytes": "1G", "high_bytes": None}},
        {"limits": {"soft_limit_bytes": 0}, "interval_seconds": 60},
    ],
    "watermark": [
        {},
        {"high": "92.5%", "low": "80%"},
        {"high": "1G", "low": "900M", "cooldown_seconds": 0},
    ],
    "schedule": [
        {
            "cron": "0 3 * * 1-5",
            "timezone": "Europe/Berlin",
            "shrink": {"target_bytes": "400M"},
            "jitter_seconds": 300,
        },
        {"cron": "*/5 * * * *", "limits": {"max_bytes": None}, "misfire": "run_once"},
        {"cron": "0 0 L * *", "switch": {"policy": "other.one", "enabled": False}},
    ],
}
WHOLE: dict[str, Any] = {
    "enabled": False,
    "mode": "observe",
    "priority": 1,
    "selector": {"alias": "pod:*", "scope": "leaves"},
    "floor": {"bytes": "1G", "percent_of_limit": 12.5},
    "swap": "file_only",
    "active": {"windows": ["* 22-23 * * *", "* 0-5 * * *"], "timezone": "Europe/Berlin"},
}


@pytest.mark.parametrize("exclude_unset", [False, True])
@pytest.mark.parametrize("more", [{}, WHOLE], ids=["short", "whole"])
@pytest.mark.parametrize(
    ("kind", "spec"), [(kind, spec) for kind, specs in SPECS.items() for spec in specs]
)
def test_a_policy_comes_back_from_its_json(
    kind: str, spec: dict[str, Any], more: dict[str, Any], *, exclude_unset: bool
) -> None:
    made = parse(policy(kind, spec=spec) | more)
    kept = made.model_dump(mode="json", exclude_unset=exclude_unset)
    again = parse(json.loads(json.dumps(kept)))
    assert again == made
    assert type(again) is type(made)
    assert again.model_dump(mode="json", exclude_unset=exclude_unset) == kept


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"name": "Keep"}, "should match pattern"),
        ({"name": "-keep"}, "should match pattern"),
        ({"name": "keep-"}, "should match pattern"),
        ({"name": "a/b"}, "should match pattern"),
        ({"name": ""}, "should match pattern"),
        ({"name": "a\n"}, "should match pattern"),
        ({"name": "a" * 64}, "should match pattern"),
        ({"kind": "wish"}, "does not match any of the expected tags"),
        ({"kind": "_cron"}, "does not match any of the expected tags"),
        ({"mood": "good"}, "not permitted"),
        ({"enabled": "yes"}, "valid boolean"),
        ({"enabled": 1}, "valid boolean"),
        ({"mode": "dry"}, "'enforce' or 'observe'"),
        ({"priority": -1}, "greater than or equal to 0"),
        ({"priority": 1.5}, "valid integer"),
        ({"swap": "none"}, "'allow', 'file_only' or 'anon_only'"),
        ({"floor": {"bytes": "64MB"}}, "write MiB"),
        ({"floor": {"percent_of_limit": 101}}, "less than or equal to 100"),
        ({"floor": {"percent": 1}}, "not permitted"),
        ({"selector": {}}, "exactly one of group, parent and alias"),
        ({"selector": {"group": "a", "alias": "b"}}, "exactly one of group, parent and alias"),
        ({"selector": {"group": ""}}, "at least 1 character"),
        ({"selector": {"group": "a", "scope": "all"}}, "'self', 'children' or 'leaves'"),
        ({"selector": {"path": "a"}}, "not permitted"),
        ({"active": {"windows": []}}, "at least 1 item"),
        (
            {"active": {"windows": ["* 25 * * *"]}},
            "'* 25 * * *' is no cron expression of five fields (Bad hour)",
        ),
        ({"active": {"windows": ["* * * *"]}}, "(it has 4)"),
        ({"active": {"windows": ["* * * * * *"]}}, "(it has 6)"),
        ({"active": {"windows": ["@daily"]}}, "(it has 1)"),
        ({"active": {"windows": ["* * 30 2 *"]}}, "(Bad day-of-month)"),
        ({"active": {"windows": ["*" + "/1" * 100_000 + " * * * *"]}}, "at most 200 characters"),
        (
            {"active": {"windows": ["* * * * *"], "timezone": "Mars/Olympus"}},
            "'Mars/Olympus' is no time zone of the IANA list",
        ),
        (
            {"active": {"windows": ["* * * * *"], "timezone": "../UTC"}},
            "no time zone of the IANA list",
        ),
        ({"spec": {"highest": "90%"}}, "not permitted"),
        ({"spec": None}, "valid dictionary or instance of Watermark"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(policy() | wrong)
    assert sentence in str(caught.value)
    assert caught.value.error_count() == 1


def test_a_spec_may_only_be_left_out_where_nothing_in_it_is_needed() -> None:
    with pytest.raises(ValidationError, match="Field required"):
        parse(policy("schedule"))


@pytest.mark.parametrize("name", ["a", "0", "a.b-c", "a" * 63])
def test_a_name_is_like_one_of_the_dns(name: str) -> None:
    assert parse(policy(name=name)).name == name


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_each_field_of_a_spec_is_described(mode: Any) -> None:
    shown = TypeAdapter(AnyPolicy).json_schema(mode=mode)["$defs"]
    bare = [
        f"{kind}.{name}"
        for kind, one in kinds().items()
        for name, field in shown[one.spec.__name__]["properties"].items()
        if not field.get("description")
    ]
    assert bare == []


def test_no_kind_is_named_outside_its_own_module() -> None:
    room = ROOT / "app" / "shrinkd" / "policies"
    modules = [*room.glob("*.py"), ROOT / "app/shrinkd/api/routes/policies.py"]
    named = {
        (module.name, node.value)
        for module in modules
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Constant) and node.value in kinds()
    }
    assert (named, len(modules) > 10) == (set(), True)


def test_every_kind_is_one_of_the_policies() -> None:
    assert (
        {"limit", "schedule", "watermark"}
        <= kinds().keys()
        == set(TypeAdapter(AnyPolicy).json_schema()["discriminator"]["mapping"])
    )


def test_the_order_of_the_kinds_is_that_of_the_documents() -> None:
    ranks = {name: kinds()[name].rank for name in ("watermark", "schedule", "limit")}
    assert ranks == {"watermark": 10, "schedule": 30, "limit": 30}


BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("windows", "wall", "active"),
    [
        (["* 22-23 * * *"], "2026-03-04T21:00", True),
        (["* 22-23 * * *"], "2026-03-04T20:59:59.999999", False),
        (["* 22-23 * * *"], "2026-03-04T22:59:59.999999", True),
        (["* 22-23 * * *"], "2026-03-04T23:00", False),
        (["* 22-23 * * *", "* 0 * * *"], "2026-03-04T23:00", True),
        (["* 22-23 * * *"], "2026-07-04T20:00", True),
        (["* * * * 1-5"], "2026-03-07T12:00", False),
        (["* * * * 1-5"], "2026-03-06T12:00", True),
        (["* * * * *"], "2026-03-29T01:00", True),  # 3:00, the minute after a gap
        (["0-59 3 * * *"], "2026-03-29T01:00", True),
        (["* 2 * * *"], "2026-03-29T01:00", False),
        (["30 2 * * *"], "2026-03-29T01:00", False),
        (
            ["0-59 2 * * *"],
            "2026-10-25T00:00",
            True,
        ),  # the hour that comes twice, at its two beginnings and in its second half
        (["0-59 2 * * *"], "2026-10-25T01:00", True),
        (["0-59 2 * * *"], "2026-10-25T01:59", True),
        (["0-59 2 * * *"], "2026-10-25T02:00", False),
    ],
)
def test_a_policy_is_active_in_every_minute_of_the_wall_that_a_window_names(
    windows: list[str], wall: str, *, active: bool
) -> None:
    moment = datetime.fromisoformat(wall).replace(tzinfo=UTC)
    assert Active(windows=windows, timezone=BERLIN).covers(moment) is active


def test_an_expression_may_name_the_last_day_and_the_third_friday() -> None:
    assert next_moment("0 0 L * *", "UTC", datetime(2028, 2, 1, tzinfo=UTC)) == datetime(
        2028, 2, 29, tzinfo=UTC
    )
    assert names("0 9 * * 5#3", "UTC", datetime(2026, 3, 20, 9, tzinfo=UTC))


@pytest.mark.parametrize(
    ("after", "moment"),
    [
        ("2026-03-04T02:59:59.999999", "2026-03-04T03:00"),
        ("2026-03-04T03:00", "2026-03-05T03:00"),
        ("2026-03-04T03:00:00.5", "2026-03-05T03:00"),
    ],
)
def test_the_next_moment_is_after_and_never_the_same(after: str, moment: str) -> None:
    begin, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (after, moment))
    assert next_moment("0 3 * * *", "UTC", begin) == end


@pytest.mark.parametrize(
    ("selector", "reach"),
    [
        ({"group": "web"}, "web"),
        ({"group": "/web/"}, "web"),
        ({"group": "web/a/*/b"}, "web/a"),
        ({"group": "web/a*"}, "web"),
        ({"group": "w?b/a"}, ""),
        ({"group": "[w]eb/a"}, ""),
        ({"group": "*"}, ""),
        ({"parent": "web/a"}, "web/a"),
        ({"parent": ""}, ""),
        ({"alias": "unit:web.service"}, ""),
    ],
)
def test_a_selector_reaches_no_further_than_what_comes_before_its_first_wildcard(
    selector: dict[str, str], reach: str
) -> None:
    assert Selector.model_validate(selector).reach == reach
    for scope in ("self", "children", "leaves"):
        found = Selector.model_validate(selector | {"scope": scope}).select(TREE)
        assert [
            group.path
            for group in found
            if not f"{group.path}/".startswith(f"{reach}/" if reach else "")
        ] == []
