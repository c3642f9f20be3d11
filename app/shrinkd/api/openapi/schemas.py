"""The schemas of the document: what no model says of them, and the one of all problems."""

from copy import deepcopy
from typing import Any

Schema = dict[str, Any]
_PROBLEM: Schema = {
    "type": "object",
    "title": "Problem",
    "description": "Why it did not work (RFC 9457). Every number in `detail` is also a member of "
    "its own.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "description": "`/problems/` and a name, and a page of this daemon: branch on it.",
        },
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The request id."},
        "errno": {
            "type": "string",
            "description": "The kernel's answer, where one is behind it.",
            "examples": ["EBUSY"],
        },
        "errors": {
            "type": "array",
            "description": "What is wrong with a request, place by place.",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "Into the body, a JSON pointer as a fragment; elsewhere the "
                        "part and the name.",
                        "examples": ["#/max_bytes", "query/page_size"],
                    },
                    "detail": {"type": "string"},
                },
            },
        },
        "next": {
            "type": "object",
            "description": "The request that would make it work, where there is one.",
            "required": ["method", "href", "body"],
            "properties": {
                "method": {"type": "string"},
                "href": {"type": "string", "format": "uri-reference"},
                "body": {"type": "object", "additionalProperties": True},
            },
        },
        "shrink": {
            "type": "object",
            "description": "The shrink that is in the way.",
            "required": ["id", "href"],
            "properties": {
                "id": {"type": "string"},
                "href": {"type": "string", "format": "uri-reference"},
            },
        },
    },
    "additionalProperties": True,
}


def complete_schemas(schemas: dict[str, Schema]) -> None:
    """Complete what FastAPI made of the models, and add what they only hint at."""
    schemas["Problem"] = deepcopy(_PROBLEM)
    schemas["Failure"] = _failure()
    schemas["StatsBody"]["required"].remove("raw")  # there with ?raw=true alone
    schemas["StatsRow"] = schemas["StatsBody"] | {
        "required": ["group"],
        "description": "What was asked for of a reading.",
    }
    _name_what_is_keyed(schemas["WantedLimits"])
    _close_what_is_open(
        {name: schema["properties"] for name, schema in schemas.items() if "properties" in schema}
    )
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for name, schema in schemas.items():
        schema["title"] = (
            # generated clients name their classes by it, and two of one name would be one too many
            name
        )
        _complete_times(schema)
        _complete_bounds(schema)


def _failure() -> Schema:
    """A problem that no request met, and so without an instance."""
    failure = deepcopy(_PROBLEM) | {
        "description": "Why a shrink failed: a problem, in which `status` is what a request would "
        "be told."
    }
    failure["required"].remove("instance")
    del failure["properties"]["instance"]
    return failure


def _close_what_is_open(members: dict[str, Schema]) -> None:
    """Say what is in the objects that our models leave open, since the code has them as plain rows.

    They are sent as they are.
    """
    kinds = members["Plan"]["policies"]["items"]["discriminator"]["mapping"].values()
    specs = [{"$ref": members[_name(policy)]["spec"]["$ref"]} for policy in kinds]
    members["PolicyBody"]["spec"] |= {"anyOf": specs}
    members["ShrinkBody"]["error"]["anyOf"][0] = _reference("Failure")
    members["BatchAnswer"]["body"]["anyOf"][1] = _reference("Problem")
    members["StatsList"]["items"]["items"] = _reference("StatsRow")
    for opened in ("type", "additionalProperties"):
        del members["PolicyBody"]["spec"][opened]


def _name_what_is_keyed(schema: Schema) -> None:
    """Generated clients make members of properties alone, and not of keys that are among these
    names.
    """
    names, value = schema.pop("propertyNames")["enum"], schema.pop("additionalProperties")
    schema["properties"] = {name: deepcopy(value) for name in names}


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _complete_times(schema: Schema) -> None:
    """Every name that ends in _at is a time by RFC 3339."""
    for name, member in schema.get("properties", {}).items():
        for kind in (member, *member.get("anyOf", ())) if name.endswith("_at") else ():
            if kind.get("type") == "string":
                kind["format"] = "date-time"


def _complete_bounds(schema: Schema) -> None:
    """Pydantic leaves the bound of a size as `ge` in an answer, where it does not see that this is
    a number.
    """
    for member in schema.get("properties", {}).values():
        if "ge" in member:
            member["minimum"] = member.pop("ge")
