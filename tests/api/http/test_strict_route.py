"""Strict parsing: an invalid body or query is refused by name, and nothing was changed."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from shrinkd.api.http import problems
from tests.api.conftest import Still
from tests.support.problem_checks import problem

HUGE = 2**40
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def _nothing_changes(still: Still) -> Iterator[None]:
    before = still.stage.everything()
    yield
    assert still.stage.everything() == before


def send(
    client: httpx.Client,
    body: bytes | str,
    headers: dict[str, str] | None = None,
    method: str = "PATCH",
) -> httpx.Response:
    content = body.encode() if isinstance(body, str) else body
    return client.request(
        method,
        "/v1/groups/db/limits?dry_run=true",
        content=content,
        headers=JSON if headers is None else headers,
    )


@pytest.mark.parametrize(
    ("size", "pages"),
    [
        (HUGE, HUGE),
        ("1T", HUGE),
        ("1024g", HUGE),
        ("1048576M", HUGE),
        ("1073741824K", HUGE),
        ("1Ti", HUGE),
        ("1tib", HUGE),
        ("1TiB", HUGE),
        ("1P", 2**50),
        ("1099511627776", HUGE),
        (HUGE + 1, HUGE),
        (HUGE + 4095, HUGE),
        (HUGE + 4096, HUGE + 4096),
        ("4503599627370496K", 2**62),
        (None, None),
        ("max", None),
    ],
)
def test_a_size_is_taken_in_the_kernels_notation_and_rounded_down_to_a_page(
    client: httpx.Client, size: object, pages: int | None
) -> None:
    answer = send(client, json.dumps({"max_bytes": size}))
    assert (answer.status_code, answer.json()["max_bytes"]) == (200, pages)


@pytest.mark.parametrize(
    "size",
    [
        *("true", "false", "1.0", "1e3", "0.5", "-1", "-0.0", "[]", "{}", "[1]"),
        *(
            '""',
            '" "',
            '"1 M"',
            '" 1M"',
            '"1M "',
            '"1M\\n"',
            '"+1M"',
            '"-1M"',
            '"-1"',
            '"1.5G"',
            '"1,000"',
            '"1_000"',
        ),
        *(
            '"010M"',
            '"00"',
            '"0x10M"',
            '"0b1"',
            '"1MB"',
            '"1kb"',
            '"1E"',
            '"1EiB"',
            '"1B"',
            '"1Mb"',
            '"1MM"',
            '"M"',
            '"K"',
            '"abc"',
        ),
        *(
            '"Max"',
            '"MAX"',
            '"null"',
            '"none"',
            '"unlimited"',
            '"infinity"',
            '"\N{ARABIC-INDIC DIGIT FOUR}M"',
            '"\N{FULLWIDTH DIGIT ONE}M"',
        ),
        *(
            "9223372036854775808",
            '"9223372036854775808"',
            '"8192P"',
            '"16384P"',
            "18446744073709551616",
            '"99999999999999999999999"',
        ),
        *("9" * 5000, "-" + "9" * 5000, f'"{"9" * 5000}"', "1" + "0" * 4299),
    ],
)
def test_a_size_in_any_other_notation_is_refused(client: httpx.Client, size: str) -> None:
    body = problem(send(client, f'{{"max_bytes": {size}}}'), 422, "invalid-request")
    assert [error["pointer"] for error in body["errors"]] == ["#/max_bytes"]


def test_what_the_kernel_calls_unlimited_never_comes_out_as_a_number(client: httpx.Client) -> None:
    assert send(client, json.dumps({"max_bytes": 2**63 - 1})).json()["max_bytes"] is None


def test_a_decimal_unit_is_asked_back(client: httpx.Client) -> None:
    assert (
        "1000 or of 1024"
        in problem(send(client, '{"max_bytes": "64MB"}'), 422, "invalid-request")["detail"]
    )


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ('{"max": 1}', ["#/max"]),
        (
            '{"max_bytes": true, "low_bytes": 1.5, "nope": 0}',
            ["#/max_bytes", "#/low_bytes", "#/nope"],
        ),
        ('{"max_bytes": "1T", "max_bytes": "2T"}', ["#/max_bytes"]),
        ('{"a": 1, "b": 1, "a": 2, "b": 2}', ["#/a", "#/b"]),
        ('{"x": {"y": [{"z": 1, "z": 1}]}}', ["#/z"]),
        ('{"a/b~c": 1}', ["#/a~1b~0c"]),
        ('{"": 1}', ["#/"]),
        ('{"\\ud800": 1}', ["#"]),
        ("[]", ["#"]),
        ("null", ["#"]),
        ('"max_bytes"', ["#"]),
        ("1", ["#"]),
    ],
)
def test_a_body_that_does_not_fit_says_where(
    client: httpx.Client, body: str, pointers: list[str]
) -> None:
    errors = problem(send(client, body), 422, "invalid-request")["errors"]
    assert [error["pointer"] for error in errors] == pointers
    assert all(error["detail"] for error in errors)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{}x",
        b"{}{}",
        b"{'max_bytes': 1}",
        b'{"max_bytes": 1,}',
        b'{"max_bytes": NaN}',
        b'{"max_bytes": Infinity}',
        b'{"max_bytes": -Infinity}',
        b'{"max_bytes": 0x10}',
        b'{"max_bytes": 010}',
        b'{"max_bytes": +1}',
        b'{"max_bytes": "\n"}',
        b'{"max_bytes": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"\x00",
        "{}".encode("utf-16"),
        "{}".encode("utf-16-le"),
        "{}".encode("utf-32"),
        b"[" * 60_000,
        b'{"a":' * 12_000,
    ],
)
def test_a_body_that_is_not_json_in_utf8_is_malformed(client: httpx.Client, body: bytes) -> None:
    problem(send(client, body), 400, "malformed-body")


@pytest.mark.parametrize("depth", [10, 500, 900, 1200, 5000, 30_000])
def test_nesting_is_refused_at_any_depth_and_never_a_fault(
    client: httpx.Client, depth: int
) -> None:
    assert send(client, '{"a":' + "[" * depth + "]" * depth + "}").status_code in {400, 422}


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "application/merge-patch+json",
    ],
)
def test_json_is_taken_under_each_of_its_names(client: httpx.Client, media_type: str) -> None:
    assert send(client, "{}", {"Content-Type": media_type}).status_code == 200


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/xml",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "json",
        ",",
        "",
    ],
)
def test_any_other_media_type_is_refused(client: httpx.Client, media_type: str) -> None:
    problem(send(client, "{}", {"Content-Type": media_type}), 415, "unsupported-media-type")


def test_a_body_without_a_media_type_is_refused(client: httpx.Client) -> None:
    problem(send(client, "{}", {}), 415, "unsupported-media-type")


@pytest.mark.parametrize("size", [65_537, 200_000])
def test_a_body_over_64_kib_is_too_large(client: httpx.Client, size: int) -> None:
    assert problem(send(client, b" " * size), 413, "body-too-large")["limit_bytes"] == 65_536


def test_a_body_of_64_kib_is_not_too_large(client: httpx.Client) -> None:
    assert send(client, b"{}".ljust(65_536)).status_code == 200


def test_a_body_over_64_kib_in_chunks_is_too_large_as_well(client: httpx.Client) -> None:
    answer = client.patch(
        "/v1/groups/db/limits", content=(b" " * 10_000 for _ in range(10)), headers=JSON
    )
    problem(answer, 413, "body-too-large")


@pytest.mark.parametrize("path", ["/json", "/nowhere"])
def test_fastapis_max_body_size_answers_a_long_announced_body_in_plain_text(path: str) -> None:
    """While this holds, StrictRoute bounds bodies: every error has to be a problem."""
    app = FastAPI(max_body_size=64 << 10)
    problems.install(app)

    @app.post("/json")
    def post_json(body: dict[str, int]) -> dict[str, int]:
        return body

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://daemon") as client:
            return await client.post(path, content=b" " * (65 << 10), headers=JSON)

    answer = asyncio.run(send())
    assert (answer.status_code, answer.text) == (413, "Content Too Large")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    "query", ["dryrun=true", "dry-run=true", "dry_run=true&x=", "=1", "DRY_RUN=true"]
)
def test_a_query_name_that_is_not_known_is_refused_before_anything_is_done(
    client: httpx.Client, query: str
) -> None:
    answer = client.patch(f"/v1/groups/db/limits?{query}", json={"max_bytes": None})
    assert problem(answer, 422, "invalid-request")["errors"][0]["pointer"].startswith("query/")


@pytest.mark.parametrize("query", ["dry_run=", "dry_run=maybe", "dry_run=2", "dry_run=null"])
def test_a_dry_run_that_is_neither_true_nor_false_is_refused(
    client: httpx.Client, query: str
) -> None:
    problem(
        client.patch(f"/v1/groups/db/limits?{query}", json={"max_bytes": None}),
        422,
        "invalid-request",
    )


@pytest.mark.parametrize("query", ["dry_run=false&dry_run=true", "dry_run=true&dry_run=false"])
def test_a_dry_run_that_is_said_both_ways_is_refused(client: httpx.Client, query: str) -> None:
    problem(
        client.patch(f"/v1/groups/db/limits?{query}", json={"max_bytes": None}),
        422,
        "invalid-request",
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/groups", '{"path": 1}'),
        ("/v1/groups", '{"path": "x", "limits": null}'),
        ("/v1/groups", '{"path": "x", "limits": {"max": 1}}'),
        ("/v1/groups", "{}"),
        ("/v1/groups/db/processes", '{"pid": true}'),
        ("/v1/groups/db/processes", '{"pid": 0}'),
        ("/v1/groups/db/processes", '{"pid": -1}'),
        ("/v1/groups/db/processes", '{"pid": "1000"}'),
        ("/v1/groups/db/processes", '{"pid": 2147483648}'),
        ("/v1/groups/db/processes", '{"pid": 1000.0}'),
    ],
)
def test_every_body_is_closed_and_of_strict_types(
    client: httpx.Client, path: str, body: str
) -> None:
    problem(client.post(path, content=body, headers=JSON), 422, "invalid-request")
