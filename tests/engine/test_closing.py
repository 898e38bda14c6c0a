"""A plain object of a schema gets no keys that it does not list; where a schema says otherwise, it stays as it is."""

import json

import pytest

from sightline.engine.closing import closed

INTEGER = {"type": "integer"}
A = {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]}
B = {"type": "object", "properties": {"b": INTEGER}}
SHUT = {"additionalProperties": False}


def shut(schema):
    return json.loads(closed(json.dumps(schema)))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (A, A | SHUT),
        ({"properties": {}}, {"properties": {}} | SHUT),
        (A | {"title": "Receipt", "x-note": 1}, A | {"title": "Receipt", "x-note": 1} | SHUT),
        ({"type": "array", "items": A}, {"type": "array", "items": A | SHUT}),
        ({"type": "array", "prefixItems": [A, B]}, {"type": "array", "prefixItems": [A | SHUT, B | SHUT]}),
        ({"anyOf": [A, {"type": "null"}]}, {"anyOf": [A | SHUT, {"type": "null"}]}),
        ({"$ref": "#/$defs/a", "$defs": {"a": A}}, {"$ref": "#/$defs/a", "$defs": {"a": A | SHUT}}),
        ({"type": "object", "additionalProperties": A}, {"type": "object", "additionalProperties": A | SHUT}),
        ({"properties": {"allOf": A}}, {"properties": {"allOf": A | SHUT}} | SHUT),  # a key by this name is no word
    ],
)
def test_a_plain_object_is_closed_wherever_it_stands(schema, expected):
    assert shut(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        A | {"additionalProperties": True},
        A | {"additionalProperties": INTEGER},
        A | {"patternProperties": {"^x_": INTEGER}},
        A | {"required": ["a", "elsewhere"]},
        A | {"maxProperties": 2},
        A | {"const": {"a": 1, "b": 2}},
        A | {"anyOf": [B, {"properties": {"c": INTEGER}}]},
        {"allOf": [A, B]},
        {"allOf": [{"$ref": "#/$defs/a"}, B], "$defs": {"a": A}},
        {"$ref": "#/$defs/a", "properties": {"b": INTEGER}, "$defs": {"a": A}},
        {"$ref": "#/$defs/a", "anyOf": [B], "$defs": {"a": A}},
        {"properties": {"a": A}, "patternProperties": {"^a": B}},
        {"enum": [{"properties": {"a": 1}}]},
        {"properties": 5},
        5,
    ],
)
def test_a_schema_that_says_more_of_its_keys_stays_as_it_is(schema):
    assert shut(schema) == schema


def test_one_open_object_does_not_open_the_others():
    assert shut({"properties": {"a": A, "b": B | {"additionalProperties": True}}}) == {
        "properties": {"a": A | SHUT, "b": B | {"additionalProperties": True}},
        "additionalProperties": False,
    }


@pytest.mark.parametrize("text", ["{", "", '{"properties": {"a": {"maximum": %s}}}' % ("7" * 5000)])
def test_what_cannot_be_read_is_left_for_others_to_refuse(text):
    assert closed(text) == text


def test_the_order_of_keys_and_the_values_of_numbers_stay():
    schema = '{"properties": {"z": {"minimum": 0.1, "maximum": 18446744073709551615}, "a": {"multipleOf": 1e-7}}}'
    told = json.loads(closed(schema))["properties"]
    assert list(told) == ["z", "a"]
    assert told == json.loads(schema)["properties"]
