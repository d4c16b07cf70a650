"""Columns by header and JSON schema."""

import pytest

from synd.client.wire_grids import Column
from synd.grid.schema import column_type, columns, properties


@pytest.mark.req("S0-18", "S0-19")
@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"type": "string"}, "STRING"),
        ({"type": "integer"}, "INTEGER"),
        ({"type": "number"}, "DOUBLE"),
        ({"type": "boolean"}, "BOOLEAN"),
        ({"type": "array", "items": {"type": "string"}}, "STRING_LIST"),
        ({"type": "array", "items": {"type": "integer"}}, "INTEGER_LIST"),
        ({"type": "array", "items": {"type": "boolean"}}, "BOOLEAN_LIST"),
        ({"type": "array", "items": {"type": "number"}}, "STRING_LIST"),
        ({"type": "array"}, "STRING_LIST"),
        ({"type": ["integer", "null"]}, "INTEGER"),
        ({"type": ["integer", "number"]}, "DOUBLE"),
        ({"type": ["integer", "string"]}, "STRING"),
        ({"type": "object"}, "STRING"),
        ({"type": "null"}, "STRING"),
        ({"enum": ["a", "b"]}, "STRING"),
        ({"enum": [1, 2, None]}, "INTEGER"),
        ({"enum": [True]}, "BOOLEAN"),
        ({"const": 1.5}, "DOUBLE"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "INTEGER"),
        ({"oneOf": [{"type": "integer"}, {"const": "none"}]}, "STRING"),
        ({}, "STRING"),
        (None, "STRING"),
    ],
)
def test_type_always_follows_from_what_is_said_of_the_key(told, kind):
    """STRING for what is mixed, unknown or silent."""
    assert kind == column_type(told)


def test_properties_when_parts_speak_of_them_are_all_known():
    """In conditions, alternatives and what they refer to; the first to say a type is heard."""
    schema = {
        "definitions": {"age": {"type": "integer"}, "more": {"properties": {"d": {"enum": [1]}}}},
        "properties": {"a": {"$ref": "#/definitions/age"}, "b": {}},
        "allOf": [{"$ref": "#/definitions/more"}, {"properties": {"b": {"type": "boolean"}}}],
        "if": {"properties": {"a": {"type": "string"}}},
        "then": {"properties": {"c": {"type": "number"}}},
    }

    found = {name: column_type(told) for name, told in properties(schema).items()}

    assert {"a": "INTEGER", "b": "BOOLEAN", "c": "DOUBLE", "d": "INTEGER"} == found


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"allOf": [{"$ref": "#"}]},
        {"properties": {"a": {"$ref": "#/nowhere"}}},
        {"properties": {"a": {"$ref": "other.json"}}},
        {"properties": 5, "allOf": 7},
    ],
    ids=["itself", "key itself", "round", "nowhere", "elsewhere", "nonsense"],
)
def test_properties_when_a_schema_leads_nowhere_come_to_an_end(schema):
    """Nothing is known of the key then, and it is a STRING."""
    assert "STRING" == columns(["a"], schema)[0].type


@pytest.mark.req("S0-17", "S0-19")
def test_columns_always_are_the_names_in_their_order():
    """With the size of the longest cell, at least 50; LARGETEXT above 1,000."""
    schema = {"properties": {"n": {"type": "integer"}, "s": {"type": "string", "maxLength": 80}}}

    found = columns(["x", "n", "s", "long", "l"], schema, {"x": 60, "n": 3, "s": 5, "long": 1001})

    assert [
        Column("x", "STRING", 60),
        Column("n", "INTEGER"),
        Column("s", "STRING", 80),
        Column("long", "LARGETEXT"),
        Column("l", "STRING", 50),
    ] == found
