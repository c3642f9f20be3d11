"""Complete the schemas of the OpenAPI document, and add the schema of problems."""

from copy import deepcopy
from typing import Any

Schema = dict[str, Any]
_PROBLEM: Schema = {
    "type": "object",
    "title": "Problem",
    "description": "The reason of an error (RFC 9457). Every number in `detail` is also a member "
    "of its own.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "description": "`/problems/` and a name to decide by; also a page of this daemon.",
        },
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The request id."},
        "errno": {
            "type": "string",
            "description": "The errno of the kernel, if the kernel refused.",
            "examples": ["EBUSY"],
        },
        "errors": {
            "type": "array",
            "description": "The invalid parts of a request.",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "In the body, a JSON pointer as a fragment; elsewhere the "
                        "part of the request and the name.",
                        "examples": ["#/max_bytes", "query/page_size"],
                    },
                    "detail": {"type": "string"},
                },
            },
        },
        "next": {
            "type": "object",
            "description": "The request that can succeed instead, if there is one.",
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
    """Complete the schemas that FastAPI generates from the models, in place."""
    schemas["Problem"] = deepcopy(_PROBLEM)
    schemas["Failure"] = _failure()
    schemas["StatsBody"]["required"].remove("raw")  # present only with ?raw=true
    schemas["StatsRow"] = schemas["StatsBody"] | {
        "required": ["group"],
        "description": "The requested fields of a reading.",
    }
    _enumerate_keys(schemas["WantedLimits"])
    _refer_to_rows(
        {name: schema["properties"] for name, schema in schemas.items() if "properties" in schema}
    )
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for name, schema in schemas.items():
        schema["title"] = name  # generated clients name their classes by it, so it has to be unique
        _complete_times(schema)
        _complete_bounds(schema)


def _failure() -> Schema:
    """Return the schema of a failed shrink's problem, which has no instance."""
    failure = deepcopy(_PROBLEM) | {
        "description": "The reason why a shrink failed: a problem whose `status` is the one that a "
        "request would be answered with."
    }
    failure["required"].remove("instance")
    del failure["properties"]["instance"]
    return failure


def _refer_to_rows(members: dict[str, Schema]) -> None:
    """Give schemas to the objects that our models declare as plain dicts.

    The code builds those as rows and sends them without a model.
    """
    kinds = members["Plan"]["policies"]["items"]["discriminator"]["mapping"].values()
    specs = [{"$ref": members[_name(policy)]["spec"]["$ref"]} for policy in kinds]
    members["PolicyBody"]["spec"] |= {"anyOf": specs}
    members["ShrinkBody"]["error"]["anyOf"][0] = _reference("Failure")
    members["BatchAnswer"]["body"]["anyOf"][1] = _reference("Problem")
    members["StatsList"]["items"]["items"] = _reference("StatsRow")
    for name in ("type", "additionalProperties"):
        del members["PolicyBody"]["spec"][name]


def _enumerate_keys(schema: Schema) -> None:
    """Turn a mapping with known keys into properties, because client generators need those."""
    names, value = schema.pop("propertyNames")["enum"], schema.pop("additionalProperties")
    schema["properties"] = {name: deepcopy(value) for name in names}


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _complete_times(schema: Schema) -> None:
    """Mark every member whose name ends in _at as a time (RFC 3339)."""
    for name, member in schema.get("properties", {}).items():
        for kind in (member, *member.get("anyOf", ())) if name.endswith("_at") else ():
            if kind.get("type") == "string":
                kind["format"] = "date-time"


def _complete_bounds(schema: Schema) -> None:
    """Rename `ge` to `minimum`: pydantic writes `ge` for sizes, whose schema it does not know."""
    for member in schema.get("properties", {}).values():
        if "ge" in member:
            member["minimum"] = member.pop("ge")
