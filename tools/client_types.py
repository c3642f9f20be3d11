"""Generate the types of the Python client from openapi/openapi.json.

python -m tools.client_types  writes app/shrinkd/client/types.py
"""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
DOCUMENT = _ROOT / "openapi" / "openapi.json"
TYPES = _ROOT / "app" / "shrinkd" / "client" / "types.py"
_SIZE_PATTERN = "^(0|[1-9][0-9]{0,18})([KkMmGgTtPp]"
_RUFF = Path(sys.executable).with_name("ruff")
_COLUMNS = 100
_HEAD = '''"""The JSON bodies of requests and answers.

Generated from openapi/openapi.json by `make client-types`. Do not edit.
"""

from typing import Any, Literal, NotRequired, TypedDict

Size = int | str
"""Bytes, or a string in the kernel's notation such as "400M": always binary."""


class Tagged(TypedDict):
    """A resource that can be changed on the condition that it is unchanged since it was read."""

    etag: NotRequired[str]
    """The ETag header of the answer, for `if_match`. The answer to a dry run has none."""
'''
_BODIES = (
    "LimitsPatch",
    "NewShrink",
    "VersionBody",
    "NodeBody",
    "LimitsBody",
    "GroupBody",
    "StatsBody",
    "StatsList",
    "HistoryBody",
    "ShrinkBody",
    "DecisionBody",
    "Evaluation",
    "PolicyBody",
)
"""The schemas that the client sends or returns. Schemas that these refer to are generated too."""
_TAGGED = frozenset({"LimitsBody", "GroupBody", "PolicyBody"})
"""The schemas of resources whose answers have an ETag."""
_OPEN = frozenset({("PolicyBody", "spec")})
"""Members that stay plain dicts: a union of six TypedDicts could not be indexed without a cast."""


def source(document: Mapping[str, Any]) -> str:
    """Return the text of types.py for an OpenAPI document, formatted."""
    schemas = document["components"]["schemas"]
    parts = [_HEAD, *(_definition(name, schemas) for name in _ordered(schemas))]
    return subprocess.run(  # noqa: S603  # our own formatter, on text of ours
        [_RUFF, "format", "--quiet", "--stdin-filename", str(TYPES), "-"],
        input="\n\n".join(parts),
        capture_output=True,
        text=True,
        check=True,
        cwd=_ROOT,
    ).stdout


def _ordered(schemas: Mapping[str, Any]) -> list[str]:
    """List the schemas to generate, each after the schemas that it refers to."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in found and not _is_open(schemas[name]):
            for inner in _references(name, schemas[name]):
                visit(inner)
            found[name] = None

    for name in _BODIES:
        visit(name)
    return list(found)


def _references(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    for member, inner in schema.get("properties", {}).items():
        if (name, member) not in _OPEN:
            yield from _inner_references(inner)


def _inner_references(schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield _target(schema)
    for inner in (*schema.get("anyOf", ()), *filter(None, [schema.get("items")])):
        yield from _inner_references(inner)


def _target(reference: Mapping[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _is_open(schema: Mapping[str, Any]) -> bool:
    """Tell whether any member is allowed, so that a TypedDict would be wrong."""
    return schema.get("type") == "object" and bool(
        schema.get("additionalProperties") or not schema.get("properties")
    )


def _definition(name: str, schemas: Mapping[str, Any]) -> str:
    """Return the class, or the alias, of one schema."""
    schema = schemas[name]
    if "properties" not in schema:
        return f"{_public(name)} = {_type(schema, schemas)}\n"
    required = schema.get("required", [])
    base = "Tagged" if name in _TAGGED else "TypedDict"
    members = (
        _member(
            member,
            "dict[str, Any]" if (name, member) in _OPEN else _type(inner, schemas),
            inner.get("description"),
            is_required=member in required or not required,
        )
        for member, inner in schema["properties"].items()
    )
    text = _class_text(schema.get("description"))
    total = "" if required else ", total=False"
    return f"class {_public(name)}({base}{total}):\n{text}\n{''.join(members)}"


def _member(name: str, kind: str, description: str | None, *, is_required: bool) -> str:
    hint = kind if is_required else f"NotRequired[{kind}]"
    return f"    {name}: {hint}\n{_member_text(description)}"


def _class_text(description: str | None) -> str:
    """Return a description as the docstring of a class: a summary of one line, then paragraphs."""
    summary, *rest = (" ".join(part.split()) for part in (description or "").split("\n\n"))
    if len(summary) > _COLUMNS - 10:  # the indent and six quotes stand on its line
        sentence, _, remainder = summary.partition(". ")
        summary, rest = f"{sentence.rstrip('.')}.", [*filter(None, [remainder]), *rest]
    paragraphs = [summary, *("\n".join(textwrap.wrap(part, _COLUMNS - 4)) for part in rest)]
    return _quoted("\n\n".join(paragraphs) + ("\n" if rest else "")) if summary else ""


def _member_text(description: str | None) -> str:
    """Return a description as the docstring of a member."""
    text = "\n".join(textwrap.wrap(f'"""{description}"""', _COLUMNS - 4))
    return _quoted(text[3:-3]) if description else ""


def _quoted(text: str) -> str:
    marks = 'r"""' if "\\" in text else '"""'
    space = " " if text.endswith('"') else ""
    return textwrap.indent(f'{marks}{text}{space}"""\n', "    ")


def _type(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """Return the annotation of a schema."""
    kinds = list(dict.fromkeys(_alternatives(schema, schemas)))
    if "Size" in kinds:
        kinds = [kind for kind in kinds if kind not in {"int", "Literal['max']"}]
    return " | ".join(sorted(kinds, key="None".__eq__))


def _alternatives(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        name = _target(schema)
        yield "dict[str, Any]" if _is_open(schemas[name]) else _public(name)
    elif "anyOf" in schema:
        for each in schema["anyOf"]:
            yield from _alternatives(each, schemas)
    elif "const" in schema or "enum" in schema:
        words = schema.get("enum", [schema.get("const")])
        yield f"Literal[{', '.join(map(repr, words))}]"
    elif schema["type"] == "array":
        yield f"list[{_type(schema['items'], schemas)}]"
    elif schema["type"] == "object":
        values = schema.get("additionalProperties")
        yield f"dict[str, {_type(values, schemas) if isinstance(values, dict) else 'Any'}]"
    elif schema.get("pattern", "").startswith(_SIZE_PATTERN):
        yield "Size"
    else:
        yield _PLAIN[schema["type"]]


_PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


def _public(name: str) -> str:
    """Return the client's name of a schema: that of the API without "Body"."""
    return name.removesuffix("Body")


def main() -> None:
    """Write types.py."""
    TYPES.write_text(source(json.loads(DOCUMENT.read_text())))


if __name__ == "__main__":
    main()
