"""Every command of `synd grid` and `synd curate`, end to end against a registry in another process."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synd.cli import main
from tests.support.curating import EXAMPLE, METADATA, SCHEMA, Curator
from tests.support.mounts import eventually

SCHEMA_FILE = EXAMPLE / "schema.json"
KEY = ["specimenID"]
DATA = 65
NOT_FOUND = 66
AWAY = 69
EXISTS = 73
LATER = 75
CONFIG = 78
USAGE = 64


@dataclass(slots=True)
class Said:
    """What one command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object, which must be all there is."""
        assert self.err == ""
        assert self.out.count("\n") == 1
        found = json.loads(self.out)
        assert found["schema"] == 1
        return found


Run = Callable[..., Said]


@pytest.fixture
def synd(curator: Curator, tmp_path: Path, monkeypatch, capsys) -> Run:
    """Runs one command as the curator."""
    for name, value in curator.environ(tmp_path / "home").items():
        monkeypatch.setenv(name, value)

    def run(*argv: str) -> Said:
        code = main.run([str(one) for one in argv])
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return run


@pytest.fixture
def grid(curator: Curator, header: Path) -> str:
    """A session without rows, with the example's schema."""
    return curator.session(header, KEY, SCHEMA).id


@pytest.fixture
def filled(synd: Run, grid: str) -> str:
    """A session with the rows of the example: five valid, three not."""
    assert synd("grid", "import", grid, METADATA).code == 0
    return grid


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """The example's header and its valid rows."""
    lines = METADATA.read_text().splitlines()
    path = tmp_path / "good.csv"
    path.write_text("\n".join(lines[:6]) + "\n")
    return path


class TestRound:
    @pytest.mark.req("S0-01", "S0-12", "S0-42")
    def test_curation_when_done_by_commands_needs_no_web_page(
        self, synd: Run, curator: Curator, good: Path, tmp_path: Path
    ):
        """Schema, task, grid, import, validation, export, download, deletion: by what each command prints."""
        schema = {**SCHEMA, "$id": f"test.round{curator.number}-thing-1.0.0"}
        path = tmp_path / "schema.json"
        path.write_text(json.dumps(schema))
        project = f"syn{curator.project}"

        assert f"{schema['$id']} is registered\n" == synd("curate", "register", path).out
        made = synd(
            *("curate", "records", project, METADATA, "--key", "specimenID", "--json"),
            *("--data-type", "Things", "--schema", schema["$id"]),
        ).json
        source = made["record_set"]
        session = synd("grid", "create", "--record-set", source).out.strip()
        assert "5 rows imported: 0 new, 5 updated\n" == synd("grid", "import", session, good).out
        assert DATA == synd("grid", "validate", session).code
        assert DATA == synd("grid", "export", session).code
        exported = synd("grid", "export", session, "--anyway")
        assert f"{source} is now version 2: 5 valid, 3 invalid, 0 pending\n" == exported.out
        saved = synd("grid", "download", session, tmp_path).out.strip()
        assert 9 == len(Path(saved).read_text().splitlines())
        assert "synchronized\n" == synd("grid", "sync", session).out
        assert "deleted 1 grid session\n" == synd("grid", "delete", session, "--yes").out
        assert session not in synd("grid", "list").out
        assert 0 == synd("curate", "delete", str(made["task"]["task"]), "--yes").code
        assert "there are no curation tasks\n" == synd("curate", "list", project).out

    def test_command_when_run_as_a_process_says_the_same(
        self, curator: Curator, filled: str, tmp_path: Path
    ):
        """`synd` in a shell: results on one stream, exit code for a script."""
        done = subprocess.run(
            [sys.executable, "-m", "synd.cli.main", "grid", "validate", filled],
            env={**os.environ, **curator.environ(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert (DATA, "") == (done.returncode, done.stderr)
        assert done.stdout.splitlines()[0] == "row\trow id\tcolumn\tvalue\tmessage"
        assert done.stdout.splitlines()[-1] == "8 rows: 5 valid, 3 invalid, 0 pending"


class TestCreate:
    def test_session_when_reused_is_the_newest_of_its_source(self, synd: Run, curator, header):
        """Without one, a new one is made; --json says which it was."""
        source = f"syn{curator.record_set(header, KEY)}"

        first = synd("grid", "create", "--record-set", source, "--reuse", "--json").json
        again = synd("grid", "create", "--record-set", source, "--reuse", "--json").json
        new = synd("grid", "create", "--record-set", source, "--json").json

        assert (False, True, False) == (first["reused"], again["reused"], new["reused"])
        assert first["session"] == again["session"] != new["session"]
        assert (source, None) == (new["source"], new["json_schema"])

    def test_session_when_no_schema_is_bound_says_so(self, synd: Run, curator, header):
        """The id alone is the result; the remark stands beside it."""
        said = synd("grid", "create", "--record-set", f"syn{curator.record_set(header, KEY)}")

        assert 1 == len(said.out.split())
        assert "no JSON schema is bound" in said.err

    def test_session_of_a_view_is_made_by_its_id(self, synd: Run, curator):
        """--view takes all of a view's rows."""
        view = curator.do(lambda c: c.create_view(curator.project, "All", [curator.project]))

        made = synd("grid", "create", "--view", f"syn{view}", "--json").json

        assert f"syn{view}" == made["source"]

    @pytest.mark.parametrize(
        "argv",
        [
            ["--record-set", "syn1", "--view", "syn2"],
            ["--record-set", "one"],
            ["--reuse"],
            ["--timeout", "0"],
            ["--timeout", "soon"],
        ],
        ids=" ".join,
    )
    def test_session_when_asked_for_badly_is_bad_usage(self, synd: Run, argv):
        """64, what is wrong, and what to do."""
        said = synd("grid", "create", *argv)

        assert USAGE == said.code
        assert said.err.startswith("synd: ")
        assert 2 == len(said.err.splitlines())

    def test_session_of_what_is_not_there_is_not_found(self, synd: Run):
        """66 for an id that nobody has."""
        assert NOT_FOUND == synd("grid", "create", "--record-set", "syn999999").code


class TestList:
    def test_sessions_when_listed_are_ones_own(self, synd: Run, curator, grid):
        """A line for each, or those of one source."""
        found = synd("grid", "list", "--json").json["sessions"]
        [mine] = [one for one in found if one["session"] == grid]

        assert grid in synd("grid", "list").out
        assert [mine] == synd("grid", "list", "--source", mine["source"], "--json").json["sessions"]
        assert "there are no grid sessions\n" == synd("grid", "list", "--source", "syn1").out


class TestImport:
    def test_import_when_done_counts_rows(self, synd: Run, grid, good):
        """New ones and updated ones."""
        told = synd("grid", "import", grid, good, "--json").json

        assert (5, 5, 0) == (told["total"], told["created"], told["updated"])

    def test_import_of_a_file_handle_takes_what_was_uploaded(self, synd: Run, curator, grid, good):
        """By its number."""
        handle = curator.do(lambda c: c.upload_own(good))

        told = synd("grid", "import", grid, "--file-handle", str(handle), "--json").json

        assert 5 == told["created"]

    def test_import_with_columns_takes_those_types(self, synd: Run, curator, tmp_path):
        """NAME:TYPE, each in turn; a name may hold a colon."""
        path = tmp_path / "rows.csv"
        path.write_text("id\tat:h\na\t5\n")
        session = curator.session(path.with_name("rows.csv"), ["id\tat:h"]).id

        said = synd(
            *("grid", "import", session, path, "--separator", "\\t"),
            *("--column", "id:STRING", "--column", "at:h:INTEGER"),
        )

        # The record set's own column is not in this file: the service says so.
        assert USAGE == said.code
        assert "upsert key" in said.err

    @pytest.mark.parametrize(
        "argv",
        [
            [],
            ["FILE", "--file-handle", "5"],
            ["FILE", "--separator", ";;"],
            ["FILE", "--column", "age"],
            ["FILE", "--column", "age:"],
        ],
        ids=lambda argv: " ".join(argv) or "nothing",
    )
    def test_import_when_asked_for_badly_is_bad_usage(self, synd: Run, grid, good, argv):
        """64 with a mend, and nothing was sent."""
        said = synd("grid", "import", grid, *(good if one == "FILE" else one for one in argv))

        assert USAGE == said.code
        assert said.err.startswith("synd: ")

    @pytest.mark.parametrize("text", ["", "id\n", "\xff"], ids=["empty", "header", "no UTF-8"])
    def test_import_of_a_bad_file_names_it(self, synd: Run, grid, tmp_path, text):
        """64, with the path and what it should be."""
        path = tmp_path / "bad.csv"
        path.write_bytes(text.encode("latin-1"))

        said = synd("grid", "import", grid, path)

        assert USAGE == said.code
        assert str(path) in said.err

    def test_import_of_what_is_not_there_is_not_found(self, synd: Run, grid, good, tmp_path):
        """66 for a file, and for a session."""
        assert NOT_FOUND == synd("grid", "import", grid, tmp_path / "no.csv").code
        assert NOT_FOUND == synd("grid", "import", "nosession", good).code


class TestCheck:
    @pytest.fixture
    def poisoned(self, monkeypatch):
        """An endpoint at which nobody is, and no token."""
        monkeypatch.setenv("SYND_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.delenv("SYNAPSE_AUTH_TOKEN")

    def test_check_when_there_is_a_schema_file_needs_no_network(self, synd: Run, poisoned):
        """Three rows are wrong, found here, without a service or a login."""
        said = synd("grid", "check", METADATA, "--schema", SCHEMA_FILE)

        assert DATA == said.code
        assert "6\t7\tsex\tF\tF is not a valid enum value" in said.out
        assert "8 rows: 5 valid, 3 invalid" in said.out
        assert "the schema says nothing of the column 'comments'" in said.err

    def test_check_when_all_is_good_is_0(self, synd: Run, poisoned, good):
        """And says how many rows there are."""
        said = synd("grid", "check", good, "--schema", SCHEMA_FILE)

        assert (0, "5 rows: 5 valid, 0 invalid\n") == (said.code, said.out)

    def test_check_when_json_is_wanted_gives_rows_with_lines(self, synd: Run, poisoned):
        """For programs: row, line, messages by column."""
        told = synd("grid", "check", METADATA, "--schema", SCHEMA_FILE, "--json").json

        assert (8, 5, 3) == (told["total_rows"], told["valid_rows"], told["invalid_rows"])
        assert {"row": 6, "line": 7} == {k: told["rows"][0][k] for k in ("row", "line")}
        assert ["comments"] == told["columns_without_schema"]

    def test_check_by_an_id_asks_the_service_for_the_schema(self, synd: Run, curator):
        """A `$id` is no path, though it has dots."""
        uri = curator.schema()

        assert DATA == synd("grid", "check", METADATA, "--schema", uri).code
        assert NOT_FOUND == synd("grid", "check", METADATA, "--schema", "no.such-x-1.0.0").code

    def test_check_when_rows_are_many_shows_some_and_counts_all(self, synd: Run, poisoned):
        """--limit bounds what is shown and held."""
        said = synd("grid", "check", METADATA, "--schema", SCHEMA_FILE, "--limit", "1")

        assert 1 == said.out.count("\tsex\t") + said.out.count("\ttissue\t")
        assert "3 invalid" in said.out
        assert "2 more invalid rows not shown" in said.err

    @pytest.mark.parametrize("schema", ["no/such.json", "x.json", "{", "[]"])
    def test_check_with_no_schema_says_which(self, synd: Run, poisoned, tmp_path, schema):
        """66 when it is not there, 64 when it is none."""
        if schema in "{[]":
            path = tmp_path / "schema.json"
            path.write_text(schema)
            said = synd("grid", "check", METADATA, "--schema", path)
            assert USAGE == said.code
        else:
            said = synd("grid", "check", METADATA, "--schema", schema)
            assert NOT_FOUND == said.code
        assert "JSON" in said.err or "cannot be read" in said.err


class TestValidate:
    @pytest.mark.parametrize("via", ["auto", "rest", "socket"])
    def test_rows_when_invalid_are_65_with_their_messages(self, synd: Run, filled, via):
        """Place, id, column, value and the service's words."""
        said = synd("grid", "validate", filled, "--via", via)

        assert DATA == said.code
        lines = [line.split("\t") for line in said.out.splitlines()]
        assert ["row", "row id", "column", "value", "message"] == lines[0]
        assert ["6", "sex", "F", "F is not a valid enum value"] == [lines[1][0], *lines[1][2:]]
        assert 4 == len(lines[1:-1])

    def test_rows_when_all_are_valid_are_0(self, synd: Run, grid, good):
        """The only way to 0."""
        synd("grid", "import", grid, good)

        said = synd("grid", "validate", grid)

        assert (0, "5 rows: 5 valid, 0 invalid, 0 pending\n", "") == (said.code, said.out, said.err)

    def test_json_when_wanted_has_its_own_schema_number(self, synd: Run, filled):
        """`schema` is the output's form, `json_schema` the `$id` that rules the rows."""
        told = synd("grid", "validate", filled, "--json").json

        assert (8, 5, 3, 0) == tuple(
            told[f"{name}_rows"] for name in ("total", "valid", "invalid", "pending")
        )
        assert ("complete", "invalid", True) == (told["outcome"], told["verdict"], told["settled"])
        assert told["json_schema"].endswith("-specimen-1.0.0")
        assert [6, 7, 8] == [one["row"] for one in told["rows"]]
        assert "F is not a valid enum value" == told["rows"][0]["messages"][0]["text"]

    def test_csv_when_wanted_can_be_read_by_programs(self, synd: Run, filled):
        """The table alone on standard output, the summary beside it."""
        said = synd("grid", "validate", filled, "--format", "csv")

        rows = list(csv.DictReader(io.StringIO(said.out)))
        assert ["6", "7", "7", "8"] == [row["row"] for row in rows]
        assert "sex" == rows[0]["column"]
        assert "8 rows" in said.err

    def test_page_when_wanted_stands_alone(self, synd: Run, filled):
        """A page for a browser."""
        said = synd("grid", "validate", filled, "--format", "html")

        assert said.out.startswith("<!doctype html>")
        assert "F is not a valid enum value" in said.out

    @pytest.mark.parametrize("json_", [False, True], ids=["text", "json"])
    def test_rows_when_pending_are_75(self, synd: Run, curator, grid, good, json_):
        """Some have no result yet: neither 0 nor 65."""
        curator.halt(halted=True)
        synd("grid", "import", grid, good)

        argv = ["grid", "validate", grid, "--no-wait", *(["--json"] if json_ else [])]
        said = synd(*argv)

        assert LATER == said.code
        if json_:
            assert ("pending", 5) == (said.json["verdict"], said.json["pending_rows"])
        else:
            assert "5 rows without a result yet" in said.err

    @pytest.mark.parametrize("json_", [False, True], ids=["text", "json"])
    def test_session_without_a_schema_is_78(self, synd: Run, curator, header, json_):
        """Waiting would not help, and it is no mistake in the rows."""
        session = curator.session(header, KEY).id

        said = synd("grid", "validate", session, *(["--json"] if json_ else []))

        assert CONFIG == said.code
        if json_:
            assert "no-schema" == said.json["verdict"]
        else:
            assert "no JSON schema is bound" in said.err

    def test_time_when_over_is_75_and_nothing_is_made_up(self, synd: Run, curator, grid):
        """No counts where nothing was read."""
        curator.registry.fault(path="/grid/", action="delay", seconds=3, times=0)

        said = synd("grid", "validate", grid, "--timeout", "0.5", "--via", "rest", "--json")

        assert LATER == said.code
        assert ("failed", None) == (said.json["outcome"], said.json["total_rows"])

    @pytest.mark.parametrize(
        ("argv", "code"),
        [
            (["nosession"], NOT_FOUND),
            (["a b"], USAGE),
            (["x", "--via", "pigeon"], USAGE),
            (["x", "--format", "xml"], USAGE),
            (["x", "--read-timeout", "0"], USAGE),
            ([], USAGE),
        ],
    )
    def test_validate_when_asked_for_badly_says_so(self, synd: Run, argv, code):
        """In text and as JSON."""
        said = synd("grid", "validate", *argv)
        told = synd("grid", "validate", *argv, "--json").json

        assert code == said.code == told["error"]["exit_code"]
        assert said.err.startswith("synd: ")

    def test_network_when_away_is_69(self, synd: Run, monkeypatch):
        """Not to be reached is not the same as not there."""
        monkeypatch.setenv("SYND_ENDPOINT", "http://127.0.0.1:9")

        assert AWAY == synd("grid", "validate", "x", "--timeout", "5").code


class TestExport:
    @pytest.mark.req("S0-05")
    def test_export_when_rows_are_invalid_makes_no_version(self, synd: Run, curator, filled):
        """The rows that are wrong, and that nothing was done."""
        source = synd("grid", "list", "--json").json["sessions"]
        [mine] = [one["source"] for one in source if one["session"] == filled]

        said = synd("grid", "export", filled)
        told = synd("grid", "export", filled, "--json")

        assert DATA == said.code == told.code
        assert "nothing was exported; --anyway" in said.err
        assert (False, 3) == (told.json["exported"], told.json["invalid_rows"])
        assert 1 == curator.do(lambda c: c.record_set(int(mine[3:]))).version

    def test_export_when_rows_are_pending_makes_no_version(self, synd: Run, curator, grid, good):
        """Not validated is not valid."""
        curator.halt(halted=True)
        synd("grid", "import", grid, good)

        said = synd("grid", "export", grid, "--timeout", "1", "--json")

        assert LATER == said.code
        assert said.json["exported"] is False

    def test_export_when_all_is_valid_tells_version_and_counts(self, synd: Run, grid, good):
        """What the record set is now."""
        synd("grid", "import", grid, good)

        told = synd("grid", "export", grid, "--json").json

        assert (True, 2) == (told["exported"], told["version"])
        assert (5, 5, 0, 0) == tuple(
            told[f"{name}_rows"] for name in ("total", "valid", "invalid", "pending")
        )


class TestImportOptions:
    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["--column", "specimenID:NOPE"], "'NOPE' is no type"),
            (["--column", "specimenID"], "no column"),
            (["--separator", '"'], "no separator"),
            (["--separator", "\\"], "no separator"),
            (["--separator", "\n"], "no separator"),
        ],
    )
    def test_option_when_wrong_is_told_before_the_file_is_read(self, synd: Run, argv, said):
        """By what is wrong with it, not by the first cell that meets it."""
        told = synd("grid", "import", "any", "no.csv", *argv)

        assert (USAGE, True) == (told.code, said in told.err)


class TestDownload:
    def test_file_when_it_is_there_stays_unless_told(self, synd: Run, filled, tmp_path):
        """Somebody's work may be in it."""
        path = tmp_path / "mine.csv"
        path.write_text("mine")

        said = synd("grid", "download", filled, path)
        assert (EXISTS, "mine") == (said.code, path.read_text())
        assert "--force" in said.err

        assert 0 == synd("grid", "download", filled, path, "--force").code
        assert METADATA.read_text().splitlines()[0] == path.read_text().splitlines()[0]

    def test_file_when_tabs_are_wanted_has_tabs(self, synd: Run, filled, tmp_path):
        """As for an import."""
        told = synd("grid", "download", filled, tmp_path, "--separator", "tab", "--json").json

        assert 13 == Path(told["path"]).read_text().splitlines()[0].count("\t")

    def test_disk_when_it_is_full_names_the_file_and_leaves_nothing(
        self, synd: Run, filled, full_disk
    ):
        """73 as for whatever cannot be created; nothing lies where a part of it would."""
        path = full_disk / "rows.csv"

        said = synd("grid", "download", filled, path, "--json").json["error"]

        assert ("CacheFull", 73) == (said["type"], said["exit_code"])
        assert (str(path), True) == (said["path"], str(path) in said["title"])
        assert ["filler"] == [one.name for one in full_disk.iterdir()]

    @pytest.mark.parametrize(
        ("number", "code"),
        [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)],
        ids=["TERM", "HUP", "INT"],
    )
    def test_download_when_ended_by_a_signal_leaves_nothing(
        self, curator: Curator, filled, tmp_path, number, code
    ):
        """A time limit or a closed terminal ends it like Ctrl-C: at once, and with its folder as it was."""
        folder = tmp_path / "to"
        folder.mkdir()
        curator.registry.fault(method="GET", path="^/blob", action="delay", seconds=30, times=0)
        with subprocess.Popen(
            [sys.executable, "-m", "synd.cli.main", "grid", "download", filled, str(folder)],
            env={**os.environ, **curator.environ(tmp_path / "home")},
        ) as process:
            eventually(lambda: list(folder.iterdir()))
            process.send_signal(number)
            ended = process.wait(20)

        assert code == ended
        assert [] == list(folder.iterdir())

    def test_device_when_named_takes_the_bytes_and_stays(self, synd: Run, filled, tmp_path):
        """`/dev/stdout` and pipes are written to, never replaced; nothing else is said on standard output."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
            said = synd("grid", "download", filled, pipe)
            assert reader.stdout is not None
            got = reader.stdout.read()

        assert (0, "") == (said.code, said.out)
        assert METADATA.read_text().splitlines()[0] == got.splitlines()[0]
        assert pipe.is_fifo()

    def test_link_when_named_stays_and_its_target_is_written(self, synd: Run, filled, tmp_path):
        """As every program does."""
        (tmp_path / "real").mkdir()
        link = tmp_path / "link.csv"
        link.symlink_to(tmp_path / "real" / "rows.csv")

        assert 0 == synd("grid", "download", filled, link).code

        assert link.is_symlink()
        assert 9 == len((tmp_path / "real" / "rows.csv").read_text().splitlines())

    def test_folder_when_it_is_not_there_is_not_found(self, synd: Run, filled):
        """No folder is made up."""
        assert NOT_FOUND == synd("grid", "download", filled, "no/such/x.csv").code


@pytest.fixture
def typed(monkeypatch) -> Callable[[bytes], None]:
    """Gives a command its standard input."""

    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return give


class TestDash:
    """`-` is standard input, or standard output."""

    def test_check_when_the_file_is_a_dash_reads_standard_input(self, synd: Run, typed, good):
        """The same verdict as of the file."""
        typed(good.read_bytes())
        fine = synd("grid", "check", "-", "--schema", SCHEMA_FILE)
        typed(METADATA.read_bytes())
        wrong = synd("grid", "check", "-", "--schema", SCHEMA_FILE, "--json")

        assert (0, "5 rows: 5 valid, 0 invalid\n") == (fine.code, fine.out)
        assert (DATA, "-", 3) == (wrong.code, wrong.json["file"], wrong.json["invalid_rows"])

    def test_check_when_standard_input_is_bad_names_it(self, synd: Run, typed):
        """No file of ours is named."""
        typed(b"a,b\n1\n")

        said = synd("grid", "check", "-", "--schema", SCHEMA_FILE)

        assert USAGE == said.code
        assert "standard input" in said.err
        assert "/tmp" not in said.err

    def test_import_when_the_file_is_a_dash_takes_standard_input(
        self, synd: Run, grid, typed, good
    ):
        """Its rows are on the grid."""
        typed(good.read_bytes())

        assert "5 rows imported: 5 new, 0 updated\n" == synd("grid", "import", grid, "-").out

    def test_download_when_to_is_a_dash_is_the_csv_and_nothing_else(
        self, synd: Run, curator, filled, tmp_path
    ):
        """Also into a file, which is not replaced; no file called `-` is made."""
        with (tmp_path / "rows.csv").open("wb") as out:
            done = subprocess.run(
                [sys.executable, "-m", "synd.cli.main", "grid", "download", filled, "-"],
                env={**os.environ, **curator.environ(tmp_path / "home")},
                cwd=tmp_path,
                stdout=out,
                stderr=subprocess.PIPE,
                timeout=60,
            )
        assert (0, b"") == (done.returncode, done.stderr)
        assert 9 == len((tmp_path / "rows.csv").read_text().splitlines())
        assert not (tmp_path / "-").exists()

    def test_download_when_both_would_go_to_standard_output_is_refused(self, synd: Run, filled):
        """JSON and CSV do not mix."""
        said = synd("grid", "download", filled, "-", "--json")

        assert USAGE == said.code
        assert "--json" in said.out + said.err

    def test_record_set_when_its_csv_is_standard_input_needs_a_name(
        self, synd: Run, curator, typed, good
    ):
        """A file lends its name; standard input has none."""
        project = f"syn{curator.project}"
        argv = ("curate", "records", project, "-", "--key", "specimenID", "--data-type", "Dashes")
        typed(good.read_bytes())

        nameless = synd(*argv)
        made = synd(*argv, "--name", "People")

        assert USAGE == nameless.code
        assert "--name" in nameless.err
        assert (0, "") == (made.code, made.err)


@pytest.mark.parametrize(
    "argv",
    [
        ("grid", "list"),
        ("grid", "delete", "S", "--yes"),
        ("curate", "list", "PROJECT"),
        ("curate", "show", "1"),
        ("curate", "records", "PROJECT", METADATA, "--key", "specimenID", "--data-type", "Rows"),
        ("curate", "files", "PROJECT", "PROJECT", "--data-type", "Rows"),
        ("curate", "delete", "999999999", "--yes"),
        ("curate", "schemas", "my.org-thing"),
        ("curate", "bind", "PROJECT"),
        ("grid", "check", METADATA, "--schema", "my.org-thing-1.0.0"),
    ],
    ids=lambda argv: " ".join(argv[:2]),
)
def test_command_when_the_service_is_silent_ends_with_its_timeout(synd: Run, curator, argv):
    """One deadline for all that a command asks."""
    curator.registry.fault(path="/repo/v1/", action="delay", seconds=20, times=0)
    argv = tuple(f"syn{curator.project}" if one == "PROJECT" else one for one in argv)

    said = synd(*argv, "--timeout", "0.3")

    assert (LATER, "") == (said.code, said.out)
    assert "took longer than 0.3 s" in said.err or "did not answer in" in said.err


class TestSyncDeleteWatch:
    def test_sync_when_done_says_so(self, synd: Run, filled):
        """And as JSON, with no errors."""
        assert [] == synd("grid", "sync", filled, "--json").json["errors"]

    def test_delete_when_some_are_gone_deletes_the_others(self, synd: Run, curator, grid, header):
        """66 at the end, after all that could be done was done."""
        other = curator.session(header, KEY).id

        said = synd("grid", "delete", "gone", grid, other, "--yes")
        again = synd("grid", "delete", grid, "--yes", "--json")

        assert (NOT_FOUND, "deleted 2 grid sessions\n") == (said.code, said.out)
        assert "gone" in said.err
        assert NOT_FOUND == again.code

    def test_delete_when_nobody_can_be_asked_deletes_nothing(self, synd: Run, grid, monkeypatch):
        """A script says --yes."""
        monkeypatch.setattr("sys.stdin", io.StringIO())

        said = synd("grid", "delete", grid)

        assert USAGE == said.code
        assert grid in synd("grid", "list").out

    def test_watch_when_nothing_changes_tells_once_how_it_is(self, synd: Run, filled):
        """The first state, and an end without an error when the time is over."""
        synd("grid", "validate", filled)
        text = synd("grid", "watch", filled, "--timeout", "3")
        told = synd("grid", "watch", filled, "--timeout", "3", "--json").json

        assert (0, "8 rows: 5 valid, 3 invalid, 0 pending\n") == (text.code, text.out)
        assert (1, "invalid") == (told["schema"], told["verdict"])

    def test_watch_when_the_service_is_silent_is_no_success(self, synd: Run, curator, filled):
        """The end of the time is none only when there was something to tell."""
        curator.registry.fault(path="/grid/", action="delay", seconds=5, times=0)

        said = synd("grid", "watch", filled, "--timeout", "1")

        assert (LATER, "") == (said.code, said.out)
        assert f"grid session {filled} could not be read (timeout" in said.err


class TestCurate:
    def test_tasks_when_made_are_listed_and_shown(self, synd: Run, curator):
        """Of either kind."""
        project = f"syn{curator.project}"

        said = synd(
            *("curate", "records", project, METADATA, "--key", "specimenID"),
            *("--data-type", "Rows", "--instructions", "All of them."),
        )
        files = synd("curate", "files", project, project, "--data-type", "Images", "--json").json
        listed = synd("curate", "list", project, "--json").json["tasks"]
        number = str(files["task"]["task"])

        assert said.out.startswith("task ")
        assert ["Images", "Rows"] == sorted(one["data_type"] for one in listed)
        assert files["task"] == synd("curate", "show", number, "--json").json["task"]
        shown = synd("curate", "show", number).out
        assert f"files of {project}" in shown
        assert files["task"]["file_view"] in shown
        assert "Images" in synd("curate", "list", project).out

    def test_view_when_asked_for_is_deleted_with_its_task(self, synd: Run, curator):
        """And named in what is said."""
        project = f"syn{curator.project}"
        made = synd("curate", "files", project, project, "--data-type", "Images", "--json").json
        number, view = str(made["task"]["task"]), made["task"]["file_view"]

        said = synd("curate", "delete", number, "--delete-file-view", "--yes")

        assert f"deleted task {number} and its file view {view}\n" == said.out
        assert NOT_FOUND == synd("curate", "show", number).code

    def test_schemas_when_registered_are_bound_and_shown(self, synd: Run, curator, header):
        """`bind` without a schema shows what holds; --remove ends it."""
        uri = curator.schema()
        source = f"syn{curator.record_set(header, KEY)}"

        assert f"{source}: no schema is bound\n" == synd("curate", "bind", source).out
        assert uri == synd("curate", "bind", source, uri, "--json").json["json_schema"]
        assert f"{source}: {uri}\n" == synd("curate", "bind", source).out
        assert f"{source}: no schema is bound\n" == synd("curate", "bind", source, "--remove").out
        name = uri.rpartition("-")[0]
        assert [uri] == [o["id"] for o in synd("curate", "schemas", name, "--json").json["schemas"]]
        assert uri in synd("curate", "schemas", name).out

    def test_schema_when_registered_again_says_so(self, synd: Run, curator, tmp_path):
        """Twice is once; another under the same name is refused; a dry run makes nothing."""
        path = tmp_path / "schema.json"
        schema = {**SCHEMA, "$id": f"test.again{curator.number}-thing-1.0.0"}
        path.write_text(json.dumps(schema))

        first = synd("curate", "register", path, "--json").json
        second = synd("curate", "register", path)
        path.write_text(json.dumps({**schema, "title": "Other"}))
        third = synd("curate", "register", path)

        assert (schema["$id"], False) == (first["json_schema"], first["known"])
        assert f"{schema['$id']} was registered before\n" == second.out
        assert EXISTS == third.code
        assert "new version" in third.err

    @pytest.mark.parametrize(
        ("argv", "code"),
        [
            (["list", "project"], USAGE),
            (["list", "syn999999"], NOT_FOUND),
            (["show", "one"], USAGE),
            (["show", "999999"], NOT_FOUND),
            (["delete", "999999", "--yes"], NOT_FOUND),
            (["bind", "syn1", "a-b", "--remove"], USAGE),
            (["schemas", "nodash"], USAGE),
            (["schemas", "no.such-thing"], NOT_FOUND),
            (["register", "no/such.json"], NOT_FOUND),
            (["register", str(METADATA)], USAGE),
            (["records", "syn1", str(METADATA), "--data-type", "X"], USAGE),
            (["files", "syn1", "syn2"], USAGE),
        ],
        ids=lambda v: " ".join(v) if isinstance(v, list) else "",
    )
    def test_curate_when_asked_for_badly_says_so(self, synd: Run, argv, code):
        """In text and as JSON, with the same exit code."""
        said = synd("curate", *argv)
        told = synd("curate", *argv, "--json").json

        assert code == said.code == told["error"]["exit_code"]
        assert said.err.startswith("synd: ")
