"""Check that the OpenAPI document is valid, complete and equal to openapi/openapi.json."""

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from shrinkd.api import app as api
from shrinkd.policies import kinds
from tests.support.checkout import ROOT
from tests.support.example_recorder import KEPT as EXAMPLES
from tests.support.example_recorder import lacking
from tests.support.live_server import Live

KEPT = ROOT / "openapi" / "openapi.json"
DOCUMENT: dict[str, Any] = api.build().openapi()
BARE = {"", *(status.phrase for status in HTTPStatus), "Successful Response"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def answers(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the responses of an operation, shared ones included."""
    shared = {
        f"#/components/responses/{name}": response
        for name, response in DOCUMENT["components"]["responses"].items()
    }
    return {
        status: shared.get(response.get("$ref"), response)
        for status, response in operation["responses"].items()
    }


OPERATIONS = [operation for _, _, operation in operations()]


def named(operation: dict[str, Any]) -> str:
    return str(operation["operationId"])


def test_the_kept_document_is_the_one_of_the_application() -> None:
    assert json.loads(KEPT.read_text()) == DOCUMENT, (
        "run: .venv/bin/shrinkd openapi > openapi/openapi.json"
    )


def test_the_daemon_serves_the_same_document(server: Live) -> None:
    assert server.client.get("/openapi.json").json() == DOCUMENT


def test_asking_twice_gives_the_same_document() -> None:
    app = api.build()
    assert app.openapi() == app.openapi() == DOCUMENT


def test_the_document_is_valid_by_the_official_schema_of_its_version() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_no_two_operations_share_a_name() -> None:
    assert len({named(operation) for operation in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_an_operation_says_what_it_does(operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"].endswith(".")
    assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_an_operation_answers_what_went_wrong_as_a_problem(operation: dict[str, Any]) -> None:
    refusals = {
        status: response for status, response in answers(operation).items() if status[0] in "45"
    }
    assert {"4XX", "5XX"} <= refusals.keys()
    assert [
        status
        for status, response in refusals.items()
        if list(response["content"]) != ["application/problem+json"]
    ] == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_an_operation_names_what_its_caller_may_be_told_whatever_it_asks_for(
    operation: dict[str, Any],
) -> None:
    told = {
        example["value"]["type"]
        for response in answers(operation).values()
        for example in response.get("content", {})
        .get("application/problem+json", {})
        .get("examples", {})
        .values()
    }
    anywhere = {
        "request-timeout",
        "misdirected-request",
        "too-many-requests",
        "too-many-connections",
        "internal-error",
        "store-unavailable",
    }
    with_a_body = (
        {"malformed-body", "body-too-large", "unsupported-media-type"}
        if "requestBody" in operation
        else set()
    )
    assert {f"/problems/{slug}" for slug in anywhere | with_a_body} <= told


@pytest.mark.parametrize(
    "operation", [operation for method, _, operation in operations() if method != "get"], ids=named
)
def test_a_change_may_be_meant_for_another_state(operation: dict[str, Any]) -> None:
    told = answers(operation)["412"]["content"]["application/problem+json"]["examples"]
    assert list(told) == ["precondition-failed"]
    taken = {parameter["name"] for parameter in operation["parameters"]} & {
        "If-Match",
        "If-None-Match",
    }
    assert taken == (
        set() if "$ref" in operation["responses"]["412"] else {"If-Match", "If-None-Match"}
    )


def test_every_change_may_be_refused_to_a_page_from_elsewhere_and_no_read_is() -> None:
    slugs = {
        (method, "cross-site-request" in str(operation["responses"].get("403")))
        for method, _, operation in operations()
    }
    assert slugs == {
        ("get", False),
        ("patch", True),
        ("post", True),
        ("put", True),
        ("delete", True),
    }


def test_no_object_of_an_answer_is_left_open_but_where_the_events_differ() -> None:
    answered = {
        name: schema
        for name, schema in DOCUMENT["components"]["schemas"].items()
        if name not in {"Problem", "Failure"}
    }
    is_open = {
        f"{name}.{member}"
        for name, schema in answered.items()
        for member, value in schema.get("properties", {}).items()
        if any(
            part.get("additionalProperties") is True
            for part in (value, value.get("items", {}), *value.get("anyOf", ()))
        )
    }
    assert is_open - {"AttemptBody.body"} == {"EventBody.data"}


def test_the_spec_of_a_policy_is_that_of_one_kind_alone() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    specs = [
        schemas[part["$ref"].rpartition("/")[2]]
        for part in schemas["PolicyBody"]["properties"]["spec"]["anyOf"]
    ]
    assert len(specs) == len(kinds())
    for spec in specs:
        assert [
            other["title"] for other in specs if set(spec["required"]) <= other["properties"].keys()
        ] == [spec["title"]]


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_an_operation_describes_each_of_its_answers(operation: dict[str, Any]) -> None:
    assert [
        status for status, response in answers(operation).items() if response["description"] in BARE
    ] == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_an_answer_names_its_headers_whatever_else_stands_under_its_status(
    operation: dict[str, Any],
) -> None:
    assert [
        status
        for status, response in answers(operation).items()
        if "Request-Id" not in response["headers"]
    ] == []
    kinds = (
        operation["responses"]
        .get("409", {})
        .get("content", {})
        .get("application/problem+json", {})
        .get("examples", {})
    )
    expected = {"Location", "Retry-After"} if "shrink-in-progress" in kinds else set()
    assert expected <= operation["responses"].get("409", {}).get("headers", {}).keys()


def test_a_schema_has_words_of_json_schema_and_examples_that_it_accepts() -> None:
    wrong = []
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for member, value in schema.get("properties", {}).items():
            validator = OAS31Validator(value | {"components": DOCUMENT["components"]})
            shown = [
                *value.get("examples", ()),
                *([value["default"]] if "default" in value else ()),
            ]
            wrong += [
                (name, member, example) for example in shown if not validator.is_valid(example)
            ]
            wrong += [(name, member, word) for word in ("ge", "gt", "le", "lt") if word in value]
    assert wrong == []


def test_no_answer_is_a_validation_error_of_the_framework() -> None:
    assert "HTTPValidationError" not in json.dumps(DOCUMENT)


def test_an_example_of_a_problem_has_the_status_that_it_stands_under() -> None:
    wrong = [
        (named(operation), slug)
        for operation in OPERATIONS
        for status, response in answers(operation).items()
        for slug, example in response.get("content", {})
        .get("application/problem+json", {})
        .get("examples", {})
        .items()
        if (str(example["value"]["status"]), example["value"]["type"])
        != (status, f"/problems/{slug}")
    ]
    assert wrong == []


def test_an_example_of_a_body_is_understood(server: Live) -> None:
    refused = []
    for method, path, operation in operations():
        examples = (
            operation.get("requestBody", {})
            .get("content", {})
            .get("application/json", {})
            .get("examples", {})
        )
        assert examples or "requestBody" not in operation
        for name, example in examples.items():
            address = path.replace("{group}", "web").replace("{name}", "headroom")
            answer = server.client.request(
                method, address, params={"dry_run": True}, json=example["value"]
            )
            if answer.status_code >= 400 and answer.json()["type"] in {
                "/problems/invalid-request",
                "/problems/malformed-body",
            }:
                refused.append((operation["operationId"], name, answer.json()["detail"]))
    assert refused == []


def test_every_promise_of_json_has_an_answer_of_the_simulator_beside_it() -> None:
    without_own = [
        (name, status)
        for name, status in lacking(DOCUMENT, json.loads(EXAMPLES.read_text()))
        if not is_dry_run(name, status)
    ]
    assert without_own == [], "run: make examples"


def is_dry_run(operation_id: str, status: str) -> bool:
    """Return True for a dry run, whose answer is the same everywhere and needs no example."""
    schema = next(operation for operation in OPERATIONS if named(operation) == operation_id)[
        "responses"
    ][status]["content"]
    return bool(schema["application/json"]["schema"] == {"$ref": "#/components/schemas/DryRunBody"})


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_every_body_has_an_example_and_each_is_what_its_schema_says(
    operation: dict[str, Any],
) -> None:
    bodies = (
        [operation["requestBody"], *answers(operation).values()]
        if "requestBody" in operation
        else answers(operation).values()
    )
    for media_type, content in (
        pair for body in bodies for pair in body.get("content", {}).items()
    ):
        if media_type.endswith("json"):
            examples = [example["value"] for example in content.get("examples", {}).values()] or [
                content["example"]
            ]
            schema = OAS31Validator(content["schema"] | {"components": DOCUMENT["components"]})
            assert [
                error.message for example in examples for error in schema.iter_errors(example)
            ] == []
