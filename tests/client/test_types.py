"""The client's types are those of openapi/openapi.json, which the generator reads."""

import json
from typing import Any

import pytest

from shrinkd.client import types
from tools import client_types

DOCUMENT: dict[str, Any] = json.loads(client_types.DOCUMENT.read_text())


def test_the_types_are_up_to_date() -> None:
    assert client_types.TYPES.read_text() == client_types.source(DOCUMENT), (
        "openapi/openapi.json changed: run `make client-types`"
    )


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ({"type": "integer"}, "    new: int"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "    new: str | None"),
        (
            {"type": "array", "items": {"$ref": "#/components/schemas/State"}},
            "    new: list[State]",
        ),
        ({"enum": ["a", "b"], "type": "string"}, '    new: Literal["a", "b"]'),
        ({"$ref": "#/components/schemas/Failure"}, "    new: dict[str, Any]"),
        (
            {"type": "object", "additionalProperties": {"type": "number"}},
            "    new: dict[str, float]",
        ),
    ],
    ids=str,
)
def test_a_member_that_the_document_gains_is_a_member_of_its_type(
    schema: dict[str, Any], line: str
) -> None:
    changed = json.loads(json.dumps(DOCUMENT))
    body = changed["components"]["schemas"]["VersionBody"]
    body["properties"]["new"] = schema
    assert "    new: " not in client_types.TYPES.read_text()
    required = {**body, "required": [*body["required"], "new"]}
    changed["components"]["schemas"]["VersionBody"] = required
    assert line in client_types.source(changed).splitlines()


def test_a_member_that_may_be_absent_is_not_required() -> None:
    assert types.Stats.__optional_keys__ == {"raw"}


def test_a_size_that_is_sent_is_an_integer_or_a_string_and_one_that_is_read_an_integer() -> None:
    assert types.NewShrink.__annotations__["target_bytes"] == types.Size | None
    assert types.Limits.__annotations__["max_bytes"] == int | None


def test_descriptions_become_docstrings_whatever_marks_they_have() -> None:
    changed = json.loads(json.dumps(DOCUMENT))
    changed["components"]["schemas"]["VersionBody"]["description"] = 'Ends in a "quote"'
    changed["components"]["schemas"]["VersionBody"]["properties"]["python"]["description"] = "a\\b"
    text = client_types.source(changed)
    compile(text, "types.py", "exec")
    assert 'Ends in a "quote"' in text
    assert 'r"""a\\b"""' in text
