"""A CSV against a schema, with nothing sent."""

import csv
import json
import os
import subprocess
import tracemalloc

import pytest

from synd.errors import NotFound, UsageError
from synd.grid.check import check_csv, read_schema
from synd.validation import Checker
from tests.support.curating import METADATA, SCHEMA

PEOPLE = {
    "properties": {
        "id": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["id", "city"],
}


def written(tmp_path, text):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    return path


def test_rows_when_invalid_come_with_line_column_and_words():
    """The example: an enum, two bounds, a key that is demanded and empty."""
    report = check_csv(METADATA, SCHEMA)

    assert (8, 5, 3) == (report.total_rows, report.valid_rows, report.invalid_rows)
    assert [(6, 7), (7, 8), (8, 9)] == [(one.row, one.line) for one in report.invalid]
    assert [("sex", "F is not a valid enum value")] == [
        (m.column, m.text) for m in report.invalid[0].messages
    ]
    assert ("comments",) == report.unknown
    assert () == report.missing
    assert not report.is_valid


def test_columns_when_schema_and_file_differ_are_told(tmp_path):
    """Those the schema does not know, and those it demands."""
    report = check_csv(written(tmp_path, "id,x\na,1\n"), PEOPLE)

    assert (("x",), ("city",)) == (report.unknown, report.missing)
    assert "required key [city] not found" == report.invalid[0].messages[0].text


def test_columns_when_one_is_demanded_and_lacks_are_not_valid_though_there_are_no_rows(tmp_path):
    """A header alone is fine only if rows below it could be."""
    assert not check_csv(written(tmp_path, "id\n"), PEOPLE).is_valid
    assert check_csv(written(tmp_path, "id,city\n"), PEOPLE).is_valid


def test_file_when_it_is_a_pipe_is_read_all_the_same(tmp_path):
    """`synd grid check <(…)`: what comes through it comes once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", 'printf "id,city\\na,b\\n" > "$0"', str(pipe)]):
        report = check_csv(pipe, PEOPLE)

    assert (1, True) == (report.total_rows, report.is_valid)


def test_integers_when_beyond_64_bits_are_none(tmp_path):
    """No column of the service holds them."""
    path = written(tmp_path, "id,age,city\na,9223372036854775807,x\nb,9223372036854775808,x\n")

    assert [2] == [one.row for one in check_csv(path, PEOPLE).invalid]


def test_cell_when_it_is_nested_without_end_is_a_text(tmp_path):
    """What cannot be read as JSON in a column of lists is told as the text it is."""
    path = written(tmp_path, "id,tags,city\na," + "[" * 100_000 + ",x\n")

    [wrong] = check_csv(path, PEOPLE).invalid

    assert ["expected type: JSONArray, found: String"] == [m.text for m in wrong.messages]


def test_cells_always_are_read_by_the_types_of_the_schema(tmp_path):
    """A text that is no number is told as the text it is; an empty cell is no key."""
    path = written(
        tmp_path, 'id,age,tags,city\n7,x,"[""a""]",y\n7,,a,y\n7,5,"[1]",y\n7,1_0,,y\n7,5,,y\n'
    )

    report = check_csv(path, PEOPLE)

    assert [
        (1, "expected type: Integer, found: String"),
        (2, "expected type: JSONArray, found: String"),
        (3, "expected type: String, found: Integer"),
        (4, "expected type: Integer, found: String"),
    ] == [(one.row, one.messages[0].text) for one in report.invalid]


def test_report_when_rows_are_many_stays_small(tmp_path):
    """50,000 wrong rows: all are counted, those wanted are kept, memory does not grow with the file."""
    path = tmp_path / "many.csv"
    with path.open("w", newline="") as out:
        csv.writer(out).writerows(
            [("id", "age", "city"), *((f"p{n}", -n, "x" * 40) for n in range(1, 50_001))]
        )
    tracemalloc.start()
    try:
        report = check_csv(path, {"properties": {"age": {"type": "string"}}, "required": ["no"]},
                           most=10)  # fmt: skip
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (50_000, 50_000, 10) == (report.total_rows, report.invalid_rows, len(report.invalid))
    assert peak < 40 << 20


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (None, NotFound, "cannot be read"),
        ("{", UsageError, "is no JSON"),
        ("[]", UsageError, "it is no object"),
        ('{"a":' * 100_000, UsageError, "is no JSON"),
    ],
    ids=["absent", "no JSON", "no object", "too deep"],
)
def test_schema_when_it_cannot_be_used_says_why(tmp_path, text, error, said):
    """Named by its path."""
    path = tmp_path / "schema.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(error, match=said):
        read_schema(path)


def test_schema_when_it_begins_with_a_byte_order_mark_is_read(tmp_path):
    """As some editors save it."""
    path = tmp_path / "schema.json"
    path.write_bytes(b'\xef\xbb\xbf{"type":"object"}')

    assert {"type": "object"} == read_schema(path)


class TestChecker:
    @pytest.mark.parametrize(
        ("schema", "said"),
        [
            ({"type": "nothing"}, "no JSON schema: type"),
            ({"properties": {"a": {"pattern": "("}}}, "no JSON schema: properties/a/pattern"),
            ({"required": "a"}, "no JSON schema: required"),
        ],
        ids=["type", "pattern", "required"],
    )
    def test_schema_when_it_is_none_is_refused_at_once(self, schema, said):
        """Before any row is looked at, with the place in it."""
        with pytest.raises(UsageError, match=said):
            Checker(schema)

    def test_pattern_when_it_would_be_tried_for_ever_is_given_up(self):
        """A row is not called valid for it, and the next one is looked at."""
        checker = Checker({"properties": {"a": {"pattern": "^(a|aa)+$"}, "b": {"pattern": "^x"}}})
        found = checker.check({"a": "a" * 60 + "!", "b": "y"})

        assert [
            "#/a: whether it matches the pattern ^(a|aa)+$ is not known after 1 s",
            "#/b: string [y] does not match pattern ^x",
        ] == found["allValidationMessages"]
        assert {"isValid": True} == checker.check({"a": "aa", "b": "x"})

    @pytest.mark.parametrize(
        ("schema", "said"),
        [
            ({"properties": {"a": {"$ref": "https://example.org/x.json"}}}, "refers to"),
            ({"properties": {"a": {"$ref": "#/nowhere"}}}, "refers to"),
            ({"$ref": "#"}, "without end"),
        ],
        ids=["elsewhere", "nowhere", "itself"],
    )
    def test_schema_when_it_refers_to_what_is_not_there_is_refused(self, schema, said):
        """Nothing is ever fetched for it."""
        with pytest.raises(UsageError, match=said):
            Checker(schema).check({"a": 1})

    def test_value_when_it_was_good_before_is_told_from_its_equals(self):
        """1, 1.0 and true are equal in Python, and different things in JSON."""
        checker = Checker({"properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}})

        assert checker.check({"a": 1, "b": True})["isValid"]
        assert not checker.check({"a": True, "b": True})["isValid"]
        assert not checker.check({"a": 1, "b": 1})["isValid"]
        assert checker.check({"a": 1.0})["isValid"]

    def test_value_when_a_condition_rules_it_is_looked_at_each_time(self):
        """A value that is good by itself may be wrong beside another."""
        checker = Checker(
            {
                "properties": {"a": {}, "b": {}},
                "if": {"properties": {"a": {"const": "x"}}, "required": ["a"]},
                "then": {"properties": {"b": {"const": 1}}},
            }
        )

        assert checker.check({"a": "y", "b": 2})["isValid"]
        assert not checker.check({"a": "x", "b": 2})["isValid"]
        assert checker.check({"a": "y", "b": 2})["isValid"]

    def test_keys_beside_a_reference_are_ignored(self):
        """Draft 7 says so, and the service knows no other."""
        schema = {
            "definitions": {"t": {"type": "string"}},
            "properties": {"a": {"$ref": "#/definitions/t", "enum": ["x"]}},
        }

        assert Checker(schema).check({"a": "y"})["isValid"]

    def test_messages_always_are_plain_values(self):
        """They go into patches and JSON as they are."""
        found = Checker(PEOPLE).check({"id": 1, "age": -1})

        assert found == json.loads(json.dumps(found))
        assert "#: 3 schema violations found" == found["validationErrorMessage"]


@pytest.mark.parametrize(
    "cells",
    [r"[\"a\"],x", r'"[\"a\",\"b, c\"]","C:\\new"', '"[""a"", ""b""]",x'],
    ids=["no separator", "quoted", "the common spelling"],
)
def test_file_when_the_service_exported_it_is_read_as_that(tmp_path, cells):
    """A quote that stands behind a backslash is the service's way; a check says of it what the import does."""
    report = check_csv(written(tmp_path, f"id,tags,note\nP1,{cells}\n"), {**PEOPLE, "required": []})

    assert report.is_valid


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (r'P1,"C:\dir, x\",\\server\x', ["P1", "C:\\dir, x\\", r"\\server\x"]),
        (r'P1,"x,\",",y"', ["P1", "x,\\", ",y"]),
    ],
)
def test_file_when_its_backslashes_are_letters_keeps_them(tmp_path, line, row):
    """What RFC 4180 reads without an escaped quote is nobody's export."""
    schema = {"properties": {"note": {"enum": ["?"]}, "tags": {"enum": ["?"]}}}
    report = check_csv(written(tmp_path, f"id,tags,note\n{line}\n"), schema)

    assert row == list(report.invalid[0].cells.values())
