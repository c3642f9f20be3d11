"""The OpenAPI document is valid, says all that a client needs, and is the one in openapi/openapi.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from app import api
from tests.live import Live
from tests.recording import KEPT as EXAMPLES
from tests.recording import lacking

KEPT = Path(__file__).parent.parent / "openapi" / "openapi.json"
DOCUMENT: dict[str, Any] = api.build().openapi()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


OPERATIONS = [operation for _, _, operation in operations()]


def named(operation: dict[str, Any]) -> str:
    return str(operation["operationId"])


def test_the_kept_document_is_the_one_of_the_application() -> None:
    assert json.loads(KEPT.read_text()) == DOCUMENT, "run: .venv/bin/shrinkd openapi > openapi/openapi.json"


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
    refusals = {status: response for status, response in operation["responses"].items() if status[0] in "45"}
    assert {"4XX", "5XX"} <= refusals.keys()
    assert [status for status, response in refusals.items() if list(response["content"]) != ["application/problem+json"]] == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_an_operation_describes_each_of_its_answers(operation: dict[str, Any]) -> None:
    assert [status for status, response in operation["responses"].items() if response["description"] in {"", "Successful Response"}] == []


def test_no_answer_is_a_validation_error_of_the_framework() -> None:
    assert "HTTPValidationError" not in json.dumps(DOCUMENT)


def test_an_example_of_a_problem_has_the_status_that_it_stands_under() -> None:
    wrong = [
        (named(operation), slug)
        for operation in OPERATIONS
        for status, response in operation["responses"].items()
        for slug, example in response.get("content", {}).get("application/problem+json", {}).get("examples", {}).items()
        if (str(example["value"]["status"]), example["value"]["type"]) != (status, f"/problems/{slug}")
    ]
    assert wrong == []


def test_an_example_of_a_body_is_understood(server: Live) -> None:
    refused = []
    for method, path, operation in operations():
        examples = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
        assert examples or "requestBody" not in operation
        for name, example in examples.items():
            address = path.replace("{group}", "web").replace("{name}", "headroom")
            answer = server.client.request(method, address, params={"dry_run": True}, json=example["value"])
            if answer.status_code >= 400 and answer.json()["type"] in {"/problems/invalid-request", "/problems/malformed-body"}:
                refused.append((operation["operationId"], name, answer.json()["detail"]))
    assert refused == []


def test_every_promise_of_json_has_an_answer_of_the_simulator_beside_it() -> None:
    without_own = [(name, status) for name, status in lacking(DOCUMENT, json.loads(EXAMPLES.read_text())) if not is_dry_run(name, status)]
    assert without_own == [], "run: make examples"


def is_dry_run(operation_id: str, status: str) -> bool:
    """It has one and the same answer everywhere, and no need to be asked for it."""
    schema = next(operation for operation in OPERATIONS if named(operation) == operation_id)["responses"][status]["content"]
    return bool(schema["application/json"]["schema"] == {"$ref": "#/components/schemas/DryRunBody"})


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_every_body_has_an_example_and_each_is_what_its_schema_says(operation: dict[str, Any]) -> None:
    bodies = [operation["requestBody"], *operation["responses"].values()] if "requestBody" in operation else operation["responses"].values()
    for media_type, content in (pair for body in bodies for pair in body.get("content", {}).items()):
        if media_type.endswith("json"):
            examples = [example["value"] for example in content.get("examples", {}).values()] or [content["example"]]
            schema = OAS31Validator(content["schema"] | {"components": DOCUMENT["components"]})
            assert [error.message for example in examples for error in schema.iter_errors(example)] == []
