"""Closes the plain objects of a JSON schema, so that a small model adds no keys. Knows JSON schemas; no grammar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

# Where schemas stand in a schema.
NAMED: Final = ("properties", "patternProperties", "$defs", "definitions")
LISTED: Final = ("anyOf", "oneOf", "prefixItems")
SINGLE: Final = ("items", "additionalItems", "additionalProperties")

ELSEWHERE: Final = frozenset(("$ref", "anyOf", "oneOf"))
HERE: Final = frozenset(
    ("properties", "patternProperties", "additionalProperties", "required", "items", "prefixItems", "const", "enum")
)
# An object with one of these says more of its keys than their names.
SAYS_MORE: Final = ELSEWHERE | {
    "additionalProperties",
    "patternProperties",
    "minProperties",
    "maxProperties",
    "const",
    "enum",
}


def closed(schema: str) -> str:
    """`schema` (JSON text of bounded depth) with `"additionalProperties": false` in every plain object.

    Plain is an object that lists `properties`, all that it requires among them, and says nothing else of its keys.
    A value for which two schemas hold (`allOf`, words beside `$ref`, `anyOf` or `oneOf`, a pattern beside names) may
    need the keys of both; where there is one, all objects stay as they are. So does a text that is no JSON.
    """
    try:
        root = json.loads(schema)
    except ValueError:
        return schema
    found = list(_schemas(root))
    plain = [each for each in found if _is_plain(each)]
    if not plain or any(_merges(each) for each in found):
        return schema
    for each in plain:
        each["additionalProperties"] = False
    return json.dumps(root)


def _schemas(schema: object) -> Iterator[dict[str, Any]]:
    """A schema and all schemas inside it."""
    if not isinstance(schema, dict):
        return
    yield schema
    for word in NAMED:
        if isinstance(schema.get(word), dict):
            for inner in schema[word].values():
                yield from _schemas(inner)
    for word in LISTED:
        if isinstance(schema.get(word), list):
            for inner in schema[word]:
                yield from _schemas(inner)
    for word in SINGLE:
        yield from _schemas(schema.get(word))


def _is_plain(schema: dict[str, Any]) -> bool:
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list) or schema.keys() & SAYS_MORE:
        return False
    return all(isinstance(name, str) and name in properties for name in required)


def _merges(schema: dict[str, Any]) -> bool:
    """Whether two schemas hold for one value here."""
    elsewhere, here = schema.keys() & ELSEWHERE, schema.keys() & HERE
    return "allOf" in schema or len(elsewhere) + bool(here) > 1 or {"properties", "patternProperties"} <= schema.keys()
