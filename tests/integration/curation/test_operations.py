"""Import, download, synchronize, export and delete, against a registry in another process."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from synd.client.wire_grids import Column, CsvFormat
from synd.errors import (
    DeadlineExceeded,
    Forbidden,
    NotFound,
    RemoteUnavailable,
    SyndError,
    UsageError,
)
from synd.grid import operations
from synd.ids import FileHandleId
from tests.support.curating import METADATA, SCHEMA, Curator, within

KEY = ["specimenID"]
IDS = {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}}


def table(path: Path, **form: str) -> list[list[str]]:
    """The cells of a CSV as the standard library reads them (RFC 4180)."""
    with path.open(encoding="utf-8", newline="") as text:
        return list(csv.reader(text, **form))  # type: ignore[arg-type]


def simple(tmp_path: Path, text: str, name: str = "rows.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


class TestImport:
    @pytest.mark.req("S0-02", "S0-09", "S0-13", "S0-16", "S0-43", "S0-60")
    def test_path_when_imported_gives_its_rows_unchanged(self, curator: Curator, header, tmp_path):
        """The example's 8 rows of 14 columns come back cell by cell as they were sent."""
        grid = curator.session(header, KEY, SCHEMA).id

        done = curator.do(lambda c: operations.import_csv(c, grid, METADATA))
        path = curator.do(lambda c: operations.download_csv(c, grid, tmp_path / "got.csv"))

        assert (8, 8, 0) == (done.total, done.created, done.updated)
        want = table(METADATA)
        assert (9, 14) == (len(want), len(want[0]))
        # A column of decimals spells a whole number with its point.
        assert [[cell.removesuffix(".0") for cell in row] for row in table(path)] == want

    @pytest.mark.parametrize(
        "name", ["größe.csv", "a@b #1?.csv", "new\nline", " x", "bad\udcff.csv"]
    )
    def test_file_when_its_name_is_one_that_the_service_takes_nowhere_is_imported(
        self, curator: Curator, tmp_path, name
    ):
        """The rows go into a grid, whatever their file is called here."""
        grid = curator.session(simple(tmp_path, "id,n\n", "start.csv"), ["id"], IDS).id
        path = simple(tmp_path, "id,n\na,1\n", name)

        assert 1 == curator.do(lambda c: operations.import_csv(c, grid, path)).created

    def test_pipe_when_imported_gives_its_rows_and_is_named_in_errors(self, curator, tmp_path):
        """`synd grid import ID <(…)`: a CSV is read several times, a pipe gives it once."""
        grid = curator.session(simple(tmp_path, "id,n\n", "start.csv"), ["id"], IDS).id
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)

        with subprocess.Popen(["sh", "-c", 'printf "id,n\\na,1\\n" > "$0"', str(pipe)]):
            done = curator.do(lambda c: operations.import_csv(c, grid, pipe))
        with (
            subprocess.Popen(["sh", "-c", 'printf "id,n\\na,x\\n" > "$0"', str(pipe)]),
            pytest.raises(UsageError, match=f"{pipe}: line 2: 'x' in n"),
        ):
            curator.do(lambda c: operations.import_csv(c, grid, pipe))

        assert (1, 1) == (done.total, done.created)

    @pytest.mark.parametrize(
        ("frame", "said"),
        [
            (pd.DataFrame({"id": ["a"], "n": ["x"]}), "the data frame: line 2: 'x' in n"),
            (pd.DataFrame({"id": []}), "the data frame has a header and no rows"),
            (pd.DataFrame([["a", 1]], columns=["id", float("nan")]), "frame: column 2 has no name"),
            (
                pd.DataFrame([["a", 1]], columns=["id", None]),
                "the data frame: column 2 has no name",
            ),
            (pd.DataFrame({"id": ["\ud800"]}), "of the data frame holds .*half of a sign"),
        ],
        ids=["type", "no rows", "NaN", "None", "half a pair"],
    )
    def test_frame_when_it_cannot_be_used_is_named_as_one(self, curator, tmp_path, frame, said):
        """Not by the file that it is sent as."""
        grid = curator.session(simple(tmp_path, "id,n\n", "start.csv"), ["id"], IDS).id

        with pytest.raises(UsageError, match=said):
            curator.do(lambda c: operations.import_csv(c, grid, frame))

    @pytest.mark.req("S0-14")
    def test_frame_when_imported_gives_the_same_rows_as_its_file(
        self, curator: Curator, header, tmp_path
    ):
        """A data frame is its columns without its index; what is missing in it is an empty cell."""
        of_path = curator.session(header, KEY, SCHEMA).id
        of_frame = curator.session(header, KEY, SCHEMA).id
        frame = pd.read_csv(METADATA).set_index("individualID", drop=False)

        curator.do(lambda c: operations.import_csv(c, of_path, METADATA))
        done = curator.do(lambda c: operations.import_csv(c, of_frame, frame))

        assert 8 == done.created
        texts = []
        for n, grid in enumerate((of_path, of_frame)):
            to = tmp_path / f"{n}.csv"
            curator.do(lambda c, g=grid, p=to: operations.download_csv(c, g, p))
            texts.append(to.read_text())
        assert texts[0] == texts[1]

    @pytest.mark.req("S0-15")
    def test_file_handle_when_imported_needs_no_upload(self, curator: Curator, header):
        """What was uploaded before is taken by its number; its columns are typed by the bound schema."""
        grid = curator.session(header, KEY, SCHEMA).id
        handle = curator.do(lambda c: c.upload_own(METADATA))
        curator.registry.requests(reset=True)

        done = curator.do(lambda c: operations.import_csv(c, grid, FileHandleId(handle)))
        asked = [one["path"] for one in curator.registry.requests()["requests"]]

        assert (8, 8) == (done.total, done.created)
        assert not [path for path in asked if "multipart" in path]
        found = curator.do(lambda c: operations.get_validation(c, grid))
        assert (5, 3) == (found.valid_rows, found.invalid_rows)

    @pytest.mark.req("S0-21", "S0-22")
    def test_known_keys_when_imported_again_are_updated(self, curator: Curator, tmp_path):
        """A row whose key is on the grid becomes that row; counts tell new ones from known ones."""
        first = simple(tmp_path, "id,n\na,1\nb,2\n")
        grid = curator.session(first, ["id"], IDS).id
        again = simple(tmp_path, "id,n\nb,3\nc,4\n", "again.csv")

        done = curator.do(lambda c: operations.import_csv(c, grid, again))
        path = curator.do(lambda c: operations.download_csv(c, grid, tmp_path / "got.csv"))

        assert (2, 1, 1) == (done.total, done.created, done.updated)
        assert [["id", "n"], ["a", "1"], ["b", "3"], ["c", "4"]] == table(path)

    @pytest.mark.req("S0-17", "S0-18", "S0-19")
    def test_types_when_none_are_given_come_from_the_bound_schema(self, curator: Curator, tmp_path):
        """`007` stays a text by the schema; what it does not name is a STRING, though it looks like a number."""
        schema = {
            "type": "object",
            "properties": {"id": {"type": "string"}, "n": {"type": "integer"}},
        }
        start = simple(tmp_path, "id,n,free\n", "start.csv")
        grid = curator.session(start, ["id"], schema).id
        rows = simple(tmp_path, "id,n,free\n007,5,010\n")

        curator.do(lambda c: operations.import_csv(c, grid, rows))
        [row] = curator.do(lambda c: operations.get_snapshot(c, grid)).rows()

        assert {"id": "007", "n": 5, "free": "010"} == row.cells

    @pytest.mark.req("S0-20")
    def test_types_when_given_override_the_schema(self, curator: Curator, tmp_path):
        """An explicit list of columns is what counts."""
        start = simple(tmp_path, "id,n\n", "start.csv")
        grid = curator.session(start, ["id"], IDS).id
        rows = simple(tmp_path, "id,n\na,5\n")

        columns = [Column("id"), Column("n", "STRING", 50)]
        curator.do(lambda c: operations.import_csv(c, grid, rows, schema=columns))
        [row] = curator.do(lambda c: operations.get_snapshot(c, grid)).rows()

        assert {"id": "a", "n": "5"} == row.cells

    def test_columns_given_when_they_are_not_the_files_are_refused(
        self, curator: Curator, tmp_path
    ):
        """Nothing is sent for a list that names other columns."""
        rows = simple(tmp_path, "id,n\na,5\n")

        with pytest.raises(UsageError, match="names n, id"):
            curator.do(
                lambda c: operations.import_csv(
                    c, "never", rows, schema=[Column("n"), Column("id")]
                )
            )

    def test_file_without_header_when_columns_are_given_is_imported(
        self, curator: Curator, tmp_path
    ):
        """Its first line is a row."""
        start = simple(tmp_path, "id,n\n", "start.csv")
        grid = curator.session(start, ["id"], IDS).id
        rows = simple(tmp_path, "a\\b,5\nb,6\n")

        columns = [Column("id", "STRING", 50), Column("n", "INTEGER")]
        form = CsvFormat(header=False)
        done = curator.do(lambda c: operations.import_csv(c, grid, rows, schema=columns, form=form))

        assert 2 == done.created
        first = next(curator.do(lambda c: operations.get_snapshot(c, grid)).rows())
        assert {"id": "a\\b", "n": 5} == first.cells

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "is empty"),
            ("id,n\n", "no rows"),
            ("id,id\na,b\n", "two columns are named 'id'"),
            ("id,n\na\n", "line 2: 1 cells where the header has 2"),
            ('id,n\n"a,1\n', "line 2"),
        ],
        ids=["empty", "header alone", "doubled name", "short row", "open quote"],
    )
    def test_file_when_it_cannot_be_used_is_refused_before_anything_is_sent(
        self, curator: Curator, tmp_path, text, said
    ):
        """The line that is wrong is named, without a request."""
        rows = simple(tmp_path, text)
        curator.registry.requests(reset=True)

        with pytest.raises(UsageError, match=said):
            curator.do(lambda c: operations.import_csv(c, "never", rows))

        asked = [one["path"] for one in curator.registry.requests()["requests"]]
        assert not [path for path in asked if not path.startswith("/admin")]

    def test_cells_when_they_do_not_fit_are_named_before_the_upload(
        self, curator: Curator, tmp_path
    ):
        """The service takes no row of such a file, so the cells are told with their lines."""
        start = simple(tmp_path, "id,n\n", "start.csv")
        grid = curator.session(start, ["id"], IDS).id
        rows = simple(tmp_path, "id,n\na,one\nb,2\nc,1.5\n")

        with pytest.raises(UsageError) as error:
            curator.do(lambda c: operations.import_csv(c, grid, rows))

        assert "line 2: 'one' in n is no INTEGER; line 4: '1.5' in n is no INTEGER" in str(
            error.value
        )

    def test_source_when_it_is_none_of_the_three_is_refused(self, curator: Curator):
        """A list is no path, data frame or file handle."""
        with pytest.raises(UsageError, match="list is no path"):
            curator.do(lambda c: operations.import_csv(c, "never", [1, 2]))

    @pytest.mark.req("S0-45")
    def test_frame_when_imported_leaves_no_file_behind(
        self, curator: Curator, tmp_path, monkeypatch
    ):
        """The upload's copy lies in a private folder, which ends with the import, also when that fails."""
        start = simple(tmp_path, "id,n\n", "start.csv")
        grid = curator.session(start, ["id"], IDS).id
        place = tmp_path / "temporary"
        place.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(place))
        frame = pd.DataFrame({"id": ["a"], "n": [1]})

        curator.do(lambda c: operations.import_csv(c, grid, frame))
        with pytest.raises(UsageError):
            curator.do(lambda c: operations.import_csv(c, grid, pd.DataFrame({"id": []})))

        assert not list(place.iterdir())

    @pytest.mark.parametrize(
        "rule",
        [
            {"method": "PUT", "path": "^/part/", "action": "drop-before"},
            {"method": "PUT", "path": "^/part/", "action": "truncate"},
            {"method": "POST", "path": "/grid/import/csv/async/start", "action": "drop-after"},
            {"method": "GET", "path": "/grid/import/csv/async/get", "action": "status"},
        ],
        ids=["part lost", "answer cut", "start unanswered", "poll refused"],
    )
    def test_import_when_a_connection_breaks_ends_with_each_row_once(
        self, curator: Curator, tmp_path, rule
    ):
        """What was interrupted is taken up again, and nothing is doubled."""
        start = simple(tmp_path, "id,n\n", "start.csv")
        grid = curator.session(start, ["id"], IDS).id
        rows = simple(tmp_path, "id,n\na,1\nb,2\n")
        curator.registry.fault(**rule)

        done = curator.do(lambda c: operations.import_csv(c, grid, rows))

        assert 2 == done.total


class TestSpelling:
    CELLS = (
        'called "Pip"',
        "C:\\new\\table",
        "ends with \\",
        '\\"',
        "two\nlines",
        "grüße 🧬 日本",
        "a,b;c\td",
        "'single'",
        " edges ",
        "1,5",
    )

    @pytest.mark.parametrize("separator", [",", "\t", ";"], ids=["comma", "tab", "semicolon"])
    @pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "BOM"])
    def test_cells_when_they_go_round_come_back_as_they_were(
        self, curator: Curator, tmp_path, separator, line_end, mark
    ):
        """A file spelled as everybody does (RFC 4180) comes back so, whatever stands in its cells."""
        path = tmp_path / "rows.csv"
        with path.open("w", encoding="utf-8", newline="") as out:
            out.write(mark)
            writer = csv.writer(out, delimiter=separator, lineterminator=line_end)
            writer.writerow(["id", "text"])
            writer.writerows([f"{n}", cell] for n, cell in enumerate(self.CELLS))
        start = simple(tmp_path, "id,text\n", "start.csv")
        grid = curator.session(start, ["id"]).id
        form = CsvFormat(separator=separator)

        curator.do(lambda c: operations.import_csv(c, grid, path, form=form))
        rows = list(curator.do(lambda c: operations.get_snapshot(c, grid)).rows())
        got = curator.do(lambda c: operations.download_csv(c, grid, tmp_path, form=form))

        assert list(self.CELLS) == [row.cells["text"] for row in rows]
        want = [["id", "text"], *([f"{n}", cell] for n, cell in enumerate(self.CELLS))]
        assert want == table(got, delimiter=separator)

    def test_template_when_it_has_backslashes_keeps_them(self, curator: Curator, tmp_path):
        """The first content of a record set is spelled for the service, too."""
        template = simple(tmp_path, 'id,text\na,C:\\new\nb,"say ""x"""\n')
        grid = curator.session(template, ["id"]).id

        rows = list(curator.do(lambda c: operations.get_snapshot(c, grid)).rows())

        assert ["C:\\new", 'say "x"'] == [row.cells["text"] for row in rows]

    def test_file_when_the_service_exported_it_goes_back_as_it_was(
        self, curator: Curator, tmp_path
    ):
        """A record set's own CSV, copied and imported, or made the first content of another."""
        exported = simple(tmp_path, 'id,text\na,[\\"x\\"]\nb,"[\\"x\\",\\"y\\"]"\n')
        grid = curator.session(exported, ["id"]).id
        curator.do(lambda c: operations.import_csv(c, grid, exported))

        rows = list(curator.do(lambda c: operations.get_snapshot(c, grid)).rows())

        assert ['["x"]', '["x","y"]'] == [row.cells["text"] for row in rows]


class TestDownload:
    @pytest.mark.req("S0-03", "S0-10")
    def test_folder_when_named_gets_a_file_of_the_sessions_name(self, curator: Curator, tmp_path):
        """There is no folder but the one that was named."""
        start = simple(tmp_path, "id,n\na,1\n", "start.csv")
        grid = curator.session(start, ["id"], IDS).id
        folder = tmp_path / "to"
        folder.mkdir()

        path = curator.do(lambda c: operations.download_csv(c, grid, folder))

        assert folder / f"grid-{grid}.csv" == path
        assert [path] == list(folder.iterdir())
        assert 0o666 & ~os.umask(os.umask(0o022)) == path.stat().st_mode & 0o777

    def test_folder_when_it_is_not_there_is_told_before_any_request(self, curator: Curator):
        """A misspelled folder costs nothing."""
        with pytest.raises(NotFound, match="no folder"):
            curator.do(lambda c: operations.download_csv(c, "never", Path("no/such/x.csv")))

    def test_row_ids_when_wanted_are_columns(self, curator: Curator, tmp_path):
        """They lead the others."""
        start = simple(tmp_path, "id,n\na,1\n", "start.csv")
        grid = curator.session(start, ["id"], IDS).id

        path = curator.do(
            lambda c: operations.download_csv(c, grid, tmp_path, row_id=True, etag=True)
        )

        assert ["ROW_ID", "ROW_VERSION", "ROW_ETAG", "id", "n"] == table(path)[0]

    @pytest.mark.parametrize("action", ["corrupt", "status"])
    def test_file_when_the_download_fails_stays_as_it_was(self, curator: Curator, tmp_path, action):
        """Whole or not at all: what was there is not touched, and nothing lies beside it."""
        start = simple(tmp_path, "id,n\na,1\n", "start.csv")
        grid = curator.session(start, ["id"], IDS).id
        folder = tmp_path / "to"
        folder.mkdir()
        there = simple(folder, "mine", "mine.csv")
        curator.registry.fault(method="GET", path="^/blob", action=action, times=0, status=404)

        with pytest.raises(SyndError):
            curator.do(lambda c: operations.download_csv(c, grid, there, deadline=within(5)))

        assert "mine" == there.read_text()
        assert [there] == list(folder.iterdir())


class TestSynchronize:
    @pytest.mark.req("S0-04", "S0-11", "S0-12")
    def test_changes_when_synchronized_are_a_new_version_of_the_source(
        self, curator: Curator, tmp_path
    ):
        """What was imported is in the record set afterwards, and nothing went wrong."""
        start = simple(tmp_path, "id,n\na,1\n", "start.csv")
        source = curator.record_set(start, ["id"], IDS)
        grid = curator.do(lambda c: c.create_grid(record_set=source)).id
        before = curator.do(lambda c: c.record_set(source))
        rows = simple(tmp_path, "id,n\nb,2\n")

        curator.do(lambda c: operations.import_csv(c, grid, rows))
        wrong = curator.do(lambda c: operations.synchronize(c, grid))
        after = curator.do(lambda c: c.record_set(source))
        kept = after.handle
        assert kept is not None
        curator.do(lambda c: c.save_own(kept, tmp_path / "after.csv"))

        assert [] == wrong
        assert (before.version or 0) < (after.version or 0)
        assert [["id", "n"], ["a", "1"], ["b", "2"]] == table(tmp_path / "after.csv")


class TestExport:
    def test_grid_when_exported_is_a_version_with_counts(self, curator: Curator, header):
        """The record set's new version, and how its rows stood."""
        source = curator.record_set(header, KEY, SCHEMA)
        grid = curator.do(lambda c: c.create_grid(record_set=source)).id
        curator.do(lambda c: operations.import_csv(c, grid, METADATA))
        curator.do(lambda c: operations.get_validation(c, grid))

        made = curator.do(lambda c: operations.export(c, grid))
        now = curator.do(lambda c: c.record_set(source))

        assert (source, now.version) == (made.record_set, made.version)
        assert (8, 5, 3, 0) == (made.total, made.valid, made.invalid, made.unknown)
        assert made.results is not None

    @pytest.mark.parametrize(
        "rule",
        [
            {"method": "POST", "path": "/export/recordset/async/start", "action": "drop-after"},
            {"method": "GET", "path": "/export/recordset/async/get", "action": "drop-after"},
            {"method": "GET", "path": "/async/get", "action": "status", "times": 0},
        ],
        ids=["start", "result", "every result"],
    )
    def test_export_when_an_answer_is_lost_makes_one_version(
        self, curator: Curator, tmp_path, rule
    ):
        """It is not begun twice: the record set tells that it was done."""
        start = simple(tmp_path, "id,n\na,1\n", "start.csv")
        source = curator.record_set(start, ["id"], IDS)
        grid = curator.do(lambda c: c.create_grid(record_set=source)).id
        curator.registry.fault(**rule)

        made = curator.do(lambda c: operations.export(c, grid))

        assert (source, 2) == (made.record_set, made.version)
        assert 2 == curator.do(lambda c: c.record_set(source)).version

    def test_export_when_nobody_can_tell_says_so(self, curator: Curator, tmp_path):
        """The request was lost before it was seen: an error, and what to look at."""
        start = simple(tmp_path, "id,n\na,1\n", "start.csv")
        source = curator.record_set(start, ["id"], IDS)
        grid = curator.do(lambda c: c.create_grid(record_set=source)).id
        curator.registry.fault(
            method="POST", path="/export/recordset/async/start", action="drop-before"
        )

        with pytest.raises(RemoteUnavailable) as error:
            curator.do(lambda c: operations.export(c, grid))

        assert f"the versions of syn{source}" in error.value.hint
        assert 1 == curator.do(lambda c: c.record_set(source)).version


class TestSessions:
    def test_session_when_deleted_is_gone_for_everything(self, curator: Curator, tmp_path):
        """Each call says that it does not exist."""
        start = simple(tmp_path, "id,n\na,1\n", "start.csv")
        grid = curator.session(start, ["id"], IDS).id
        curator.do(lambda c: c.delete_grid(grid))

        for call in (
            lambda c: c.delete_grid(grid),
            lambda c: c.grid_session(grid),
            lambda c: operations.import_csv(c, grid, start),
            lambda c: operations.download_csv(c, grid, tmp_path),
            lambda c: operations.synchronize(c, grid),
            lambda c: operations.export(c, grid),
            lambda c: operations.get_validation(c, grid),
            lambda c: operations.get_snapshot(c, grid),
        ):
            with pytest.raises(NotFound):
                curator.do(call)

    def test_session_of_another_when_used_is_refused(self, curator: Curator, tmp_path):
        """Neither read nor changed nor deleted."""
        start = simple(tmp_path, "id,n\na,1\n", "start.csv")
        grid = curator.session(start, ["id"], IDS).id
        other = curator.other()

        for call in (
            lambda c: c.delete_grid(grid),
            lambda c: operations.import_csv(c, grid, start),
            lambda c: operations.download_csv(c, grid, tmp_path),
            lambda c: operations.get_validation(c, grid),
        ):
            with pytest.raises(Forbidden):
                other.do(call)
        assert grid not in [one.id for one in other.do(lambda c: c.grid_sessions())]

    def test_delete_when_its_answer_is_lost_is_no_error(self, curator: Curator, tmp_path):
        """The second try finds nothing left, as was wanted."""
        start = simple(tmp_path, "id,n\na,1\n", "start.csv")
        grid = curator.session(start, ["id"], IDS).id
        curator.registry.fault(method="DELETE", path="/grid/session/", action="drop-after")

        curator.do(lambda c: c.delete_grid(grid))

        with pytest.raises(NotFound):
            curator.do(lambda c: c.grid_session(grid))

    @pytest.mark.parametrize("session", ["", "a b", "../x", "a/b", "a?b"])
    def test_session_when_it_is_no_id_is_refused_here(self, curator: Curator, session):
        """What would lead to another address is never asked for."""
        with pytest.raises(UsageError, match="no grid session"):
            curator.do(lambda c: c.grid_session(session))


class TestDeadlines:
    @pytest.mark.req("S0-53")
    @pytest.mark.parametrize(
        "call",
        [
            lambda c, g, p: c.create_grid(record_set=g, deadline=within(0.5)),
            lambda c, g, p: operations.import_csv(c, "grid", p, deadline=within(0.5)),
            lambda c, g, p: operations.download_csv(c, "grid", p.parent, deadline=within(0.5)),
            lambda c, g, p: operations.synchronize(c, "grid", deadline=within(0.5)),
            lambda c, g, p: operations.export(c, "grid", deadline=within(0.5)),
            lambda c, g, p: c.grid_sessions(deadline=within(0.5)),
            lambda c, g, p: c.curation_tasks(g, deadline=within(0.5)),
            lambda c, g, p: c.bind_schema(g, "a-b", deadline=within(0.5)),
            lambda c, g, p: c.delete_grid("grid", deadline=within(0.5)),
        ],
        ids=["create", "import", "download", "sync", "export", "list", "tasks", "bind", "delete"],
    )
    def test_call_when_no_answer_comes_ends_with_the_callers_deadline(
        self, curator: Curator, tmp_path, call
    ):
        """Half a second is half a second in whatever step the service falls silent."""
        rows = simple(tmp_path, "id,n\na,1\n")
        curator.registry.fault(
            path="/repo/v1/(grid|curation|entity)", action="delay", seconds=3, times=0
        )

        with pytest.raises(DeadlineExceeded):
            curator.do(lambda c: call(c, curator.project, rows))
