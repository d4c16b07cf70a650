"""What was read of a grid: counts, rows with their messages, and other forms of them."""

import csv
import io
import json
import sys
import tracemalloc

import pytest

from synd.errors import (
    CacheFull,
    DeadlineExceeded,
    Forbidden,
    IntegrityError,
    IsDirectory,
    NotFound,
    ProtocolError,
    RemoteUnavailable,
    Stale,
    ToolMissing,
)
from synd.grid.crdt import Replica
from synd.grid.crdt.author import Author
from synd.grid.crdt.document import GridDocument
from synd.grid.outcome import COMPLETE, Kind, Outcome, Phase, Reason
from synd.grid.values import GridSnapshot, Message, Status, Verdict, messages_of
from tests.support.grid_transcripts import FIXTURES, grid_file, grid_of

SCHEMA = "org-patient-1.0.0"
COLUMNS = ("id", "age", "tags")


def a_replica(rows, columns=COLUMNS):
    replica = Replica()
    author = Author(replica, 65_535)
    author.new_grid(list(columns))
    for row in rows:
        author.insert_row(list(row))
    return replica, author


def taken(replica, outcome=COMPLETE, schema=SCHEMA):
    return GridSnapshot(replica, outcome, session="7", schema=schema)


def three_rows():
    """One row valid, one invalid, one pending; (snapshot, ids)."""
    replica, author = a_replica([["a", 1, ["x"]], ["b", -2, None], ["c", None, []]])
    ids = [row.row_id for row in GridDocument(replica).rows()]
    author.set_validation(ids[0], {"isValid": True})
    author.set_validation(
        ids[1],
        {
            "isValid": False,
            "validationErrorMessage": "#: 2 schema violations found",
            "allValidationMessages": ["#/age: -2 is too small", "#: required key [tags] not found"],
        },
    )
    return taken(replica), [f"{sid}.{time}" for sid, time in ids]


class TestCounts:
    @pytest.mark.req("S0-58", "S0-35", "S0-34")
    def test_summary_when_one_row_of_each_status_then_counts_one_each(self):
        """Three rows, one valid, one invalid, one pending: in the counts and in the summary."""
        snapshot, _ = three_rows()

        counts = (
            snapshot.total_rows,
            snapshot.valid_rows,
            snapshot.invalid_rows,
            snapshot.pending_rows,
        )
        assert counts == (3, 1, 1, 1)
        assert snapshot.validation_summary == {
            "session": "7",
            "outcome": "complete",
            "reason": None,
            "schema": SCHEMA,
            "verdict": "invalid",
            "total_rows": 3,
            "valid_rows": 1,
            "invalid_rows": 1,
            "pending_rows": 1,
        }

    @pytest.mark.parametrize("case", ["30_grid_3_rows", "31_grid_no_rows", "32_grid_100_rows"])
    def test_snapshot_when_made_of_a_recorded_grid_then_is_as_recorded(self, case):
        """Columns, rows, cells, ids, results and counts are those of the recorded grid."""
        replica = Replica.from_snapshot((FIXTURES / case / "snapshot.bin").read_bytes())

        assert grid_of(taken(replica)) == grid_file(FIXTURES / case / "grid.json")

    def test_cell_when_changed_after_validation_then_its_row_is_pending(self):
        """A result older than a cell of its row says nothing of the row; its messages are not told."""
        replica, author = a_replica([["a", 1, None]])
        (row,) = GridDocument(replica).rows()
        author.set_validation(row.row_id, {"isValid": False, "allValidationMessages": ["#: no"]})
        author.set_cell(row.row_id, 1, 5)

        (found,) = taken(replica).rows()

        assert found.status is Status.PENDING
        assert found.messages == ()
        assert found.validation["isValid"] is False


class TestVerdict:
    @pytest.mark.req("S0-51", "S0-50")
    @pytest.mark.parametrize(
        ("outcome", "schema", "verdict"),
        [
            (COMPLETE, SCHEMA, Verdict.VALID),
            (COMPLETE, None, Verdict.NO_SCHEMA),
            (Outcome(Kind.PARTIAL, Reason.CLOSED), SCHEMA, Verdict.INCOMPLETE),
            (Outcome(Kind.PARTIAL, Reason.CLOSED), None, Verdict.INCOMPLETE),
        ],
    )
    def test_verdict_when_the_grid_is_empty_then_rests_on_the_outcome(
        self, outcome, schema, verdict
    ):
        """No rows are valid only when the service said complete and a schema is bound."""
        replica, _ = a_replica([])
        snapshot = taken(replica, outcome, schema)

        assert snapshot.verdict is verdict
        assert snapshot.is_valid is (verdict is Verdict.VALID)

    def test_verdict_when_rows_have_no_result_then_is_pending_or_no_schema(self):
        """Rows that will never have a result are not called pending."""
        replica, _ = a_replica([["a", 1, None]])

        assert taken(replica).verdict is Verdict.PENDING
        assert taken(replica, schema=None).verdict is Verdict.NO_SCHEMA

    @pytest.mark.req("S0-51", "S0-40")
    @pytest.mark.parametrize(
        ("outcome", "error"),
        [
            (Outcome(Kind.FAILED, Reason.TIMEOUT, Phase.SYNC), DeadlineExceeded),
            (Outcome(Kind.FAILED, Reason.HANDSHAKE, Phase.OPEN, "no", status=403), Forbidden),
            (Outcome(Kind.FAILED, Reason.HANDSHAKE, Phase.OPEN, "no"), RemoteUnavailable),
            (Outcome(Kind.FAILED, Reason.CLOSED, Phase.SYNC, code=1006), RemoteUnavailable),
            (Outcome(Kind.FAILED, Reason.SERVER, Phase.SYNC), RemoteUnavailable),
            (Outcome(Kind.FAILED, Reason.DECODE, Phase.FETCH), IntegrityError),
            (Outcome(Kind.FAILED, Reason.PROTOCOL, Phase.SYNC), ProtocolError),
            (Outcome(Kind.FAILED, Reason.LIMIT, Phase.SYNC), ProtocolError),
        ],
    )
    def test_snapshot_when_the_read_failed_then_holds_nothing_to_mistake(self, outcome, error):
        """A failed read has no rows, columns or counts, not even zero: asking raises the outcome's error."""
        snapshot = taken(None, outcome)

        for ask in (
            lambda: snapshot.total_rows,
            lambda: snapshot.pending_rows,
            lambda: snapshot.columns,
            lambda: list(snapshot.rows()),
            lambda: list(snapshot.csv_lines()),
            lambda: snapshot.document,
            snapshot.require_complete,
        ):
            with pytest.raises(error, match="session 7"):
                ask()
        assert not snapshot.is_valid
        assert not snapshot.decoded
        assert snapshot.validation_summary["total_rows"] is None

    def test_snapshot_when_complete_then_passes(self):
        """`require_complete` gives the snapshot itself, also when rows are invalid."""
        snapshot, _ = three_rows()

        assert snapshot.require_complete() is snapshot


class TestMessages:
    @pytest.mark.req("S0-37")
    def test_invalid_when_asked_then_gives_each_message_with_row_and_column(self):
        """Every message of every invalid row, with the row's id and the column it is about."""
        snapshot, ids = three_rows()

        assert list(snapshot.invalid()) == [
            (ids[1], Message("age", "-2 is too small")),
            (ids[1], Message(None, "required key [tags] not found")),
        ]

    @pytest.mark.parametrize(
        ("text", "column", "said"),
        [
            ("#/age: too small", "age", "too small"),
            ("#/tags/3: is not one", "tags", "is not one"),
            ("#: required key [id] not found", None, "required key [id] not found"),
            ("plain words", None, "plain words"),
            ("#/no colon", None, "#/no colon"),
            ("#/a: b/0: wrong: all", "a: b", "wrong: all"),
            ("#/a~1b: no", "a/b", "no"),
            ("#/a/b: no", "a/b", "no"),
            ("#/hidden~1one/2: no", "hidden/one", "no"),
            ("#/tag: not of tags", "tag", "not of tags"),
        ],
    )
    def test_message_when_it_has_a_pointer_then_is_of_its_column(self, text, column, said):
        """The pointer's first part is the column; odd names are known by the grid's own columns."""
        columns = ("age", "tags", "a: b", "a", "a/b")

        (found,) = messages_of({"allValidationMessages": [text, text]}, columns)

        assert found == Message(column, said)

    @pytest.mark.parametrize(
        ("result", "texts"),
        [
            (None, []),
            ({}, []),
            ({"validationErrorMessage": "#/age: x"}, ["x"]),
            ({"validationErrorMessage": "#: 2", "allValidationMessages": []}, ["2"]),
            ({"validationErrorMessage": "#: 2", "allValidationMessages": ["#: a", 7]}, ["a"]),
            ({"validationErrorMessage": 7, "allValidationMessages": 7}, []),
        ],
    )
    def test_messages_when_fields_are_missing_then_takes_what_is_there(self, result, texts):
        """Every field of a result is optional; the one line stands in for a list that is not there."""
        assert [one.text for one in messages_of(result, ("age",))] == texts


class TestForms:
    ROWS = [  # noqa: RUF012
        ["plain", 1, ["a", "b,c"]],
        ['say "x"', 2.5, {"k": [1]}],
        ["two\nlines", 2**60, None],
        ["", True, False],
        [" padded ", None, []],
        ["小鼠", -1, "a,b"],
    ]

    @pytest.mark.req("S0-51")
    def test_file_when_nothing_was_read_stays_as_it_was(self, tmp_path):
        """A failed read writes no empty file, and none over what is there."""
        path = tmp_path / "grid.csv"
        path.write_text("mine")
        failed = taken(None, Outcome(Kind.FAILED, Reason.TIMEOUT, Phase.SYNC))

        for write in (failed.write_csv, failed.write_json_lines):
            with pytest.raises(DeadlineExceeded):
                write(path)
            with pytest.raises(DeadlineExceeded):
                write(tmp_path / "new.csv")

        assert ["mine"] == [one.read_text() for one in tmp_path.iterdir()]

    def test_file_when_it_cannot_be_written_is_named(self, tmp_path):
        """By a class of ours: a full device, a folder that is not there, a folder in its place."""
        snapshot = taken(a_replica(self.ROWS)[0])

        for path, error in (
            ("/dev/full", CacheFull),
            (tmp_path / "no" / "x.csv", NotFound),
            (tmp_path, IsDirectory),
        ):
            with pytest.raises(error, match=str(path)):
                snapshot.write_csv(path)

    def test_csv_when_written_then_reads_back(self, tmp_path):
        """RFC 4180 with a header: any reader gives the texts back; lists are JSON text; empty is empty."""
        replica, _ = a_replica(self.ROWS)
        path = tmp_path / "grid.csv"

        assert taken(replica).write_csv(path) == len(self.ROWS)

        lines = list(csv.reader(io.StringIO(path.read_text())))
        assert lines[0] == list(COLUMNS)
        assert lines[1:] == [
            ["plain", "1", '["a", "b,c"]'],
            ['say "x"', "2.5", '{"k": [1]}'],
            ["two\nlines", str(2**60), ""],
            ["", "true", "false"],
            [" padded ", "", "[]"],
            ["小鼠", "-1", "a,b"],
        ]
        assert json.loads(lines[1][2]) == ["a", "b,c"]

    def test_csv_when_a_text_is_empty_then_is_told_from_no_value(self):
        """Nothing between the commas is no value; two quotes are the text without characters."""
        replica, _ = a_replica([["", None, "x"]])

        assert list(taken(replica).csv_lines(header=False)) == ['"",,x\n']

    def test_json_lines_when_written_then_hold_status_messages_and_cells(self, tmp_path):
        """One object a row."""
        snapshot, ids = three_rows()
        path = tmp_path / "grid.jsonl"

        assert snapshot.write_json_lines(path) == 3

        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["row_id"] for line in lines] == ids
        assert lines[1] == {
            "row_id": ids[1],
            "status": "invalid",
            "messages": [
                {"column": "age", "text": "-2 is too small"},
                {"column": None, "text": "required key [tags] not found"},
            ],
            "synapse_row": None,
            "cells": {"id": "b", "age": -2, "tags": None},
        }

    def test_files_when_a_cell_is_half_a_surrogate_pair_then_are_valid_utf8(self, tmp_path):
        """Text that UTF-8 cannot hold is escaped; JSON reads it back."""
        replica, _ = a_replica([["x\ud83d", 1, None]])
        path = tmp_path / "grid.jsonl"

        taken(replica).write_json_lines(path)

        assert json.loads(path.read_text("utf-8"))["cells"]["id"] == "x\ud83d"

    @pytest.mark.tools
    def test_dataframe_when_pandas_is_here_then_has_columns_and_results(self):
        """The columns in order, then status and messages; the index is the row id."""
        pytest.importorskip("pandas", reason="pandas is not here")
        snapshot, ids = three_rows()

        frame = snapshot.to_dataframe()

        assert list(frame.columns) == [*COLUMNS, "validation_status", "validation_messages"]
        assert list(frame.index) == ids
        assert list(frame["validation_status"]) == ["valid", "invalid", "pending"]
        assert frame["validation_messages"].iloc[1][0] == "age: -2 is too small"

    def test_dataframe_when_pandas_is_missing_then_says_so(self, monkeypatch):
        """pandas is loaded only for this, and its absence has a name."""
        monkeypatch.setitem(sys.modules, "pandas", None)
        snapshot, _ = three_rows()

        with pytest.raises(ToolMissing, match="pandas"):
            snapshot.to_dataframe()


class TestRows:
    def test_rows_when_filtered_then_are_those_of_the_status(self):
        """Rows of one status, by its name or value."""
        snapshot, ids = three_rows()

        assert [row.row_id for row in snapshot.rows("pending", Status.VALID)] == [ids[0], ids[2]]

    def test_rows_when_the_document_moved_on_then_refuse(self):
        """A snapshot never shows a later state under its own counts."""
        replica, author = a_replica([["a", 1, None]])
        snapshot = taken(replica)
        assert snapshot.total_rows == 1

        author.insert_row(["b", 2, None])

        with pytest.raises(Stale):
            list(snapshot.rows())
        assert snapshot.total_rows == 1

    def test_cells_when_a_name_occurs_twice_then_both_values_are_in_order(self):
        """Names are no identity: `cells` has the first of a name, `in_order` has all."""
        replica, _ = a_replica([[1, 2]], columns=["x", "x"])

        (row,) = taken(replica).rows()

        assert row.in_order == (1, 2)
        assert row.cells == {"x": 1}

    @pytest.mark.parametrize(
        ("value", "wanted"),
        [
            ([5, 2, "e"], (5, 2, "e")),
            ([5], (5, None, None)),
            ({"rowId": 5, "versionNumber": 2, "etag": "e"}, (5, 2, "e")),
            (None, None),
            ("x", None),
        ],
    )
    def test_synapse_row_when_list_or_object_then_is_the_same(self, value, wanted):
        """The service writes a list, the web client declares an object."""
        replica, _ = a_replica([["a", 1, None]])
        (row,) = GridDocument(replica).rows()
        sid, time = row.row_id
        newer = replica.next_time
        replica.apply_patches(
            [
                [
                    [[65_534, newer]],
                    [2],
                    [10, [sid, time], [["metadata", newer]]],
                    [0, value],
                    [10, newer, [["synapseRow", newer + 2]]],
                ]
            ]
        )

        (found,) = taken(replica).rows()

        assert found.synapse_row == wanted

    def test_rows_when_many_are_written_then_memory_holds_no_cells(self, tmp_path):
        """Beside the document, writing holds the list of rows, below 400 bytes each, and one row's cells."""

        def peak(rows):
            data = Replica.from_snapshot(
                a_replica([[f"{n}", n, "x" * 2000] for n in range(rows)])[0].to_snapshot()
            )
            snapshot = taken(data)
            list(snapshot.rows("valid"))
            tracemalloc.start()
            snapshot.write_csv(tmp_path / "grid.csv")
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return most

        peak(10)
        assert peak(1200) < peak(100) + 1100 * 400
