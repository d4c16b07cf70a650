"""Record sets in the mount: CSV files whose saves become versions once the service says that all rows are valid."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synd.cli import process
from synd.mirror import curating
from tests.support.mounts import eventually
from tests.support.world import Remote, World, remote

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(150)]

SETTLED_S = 60
MODEL = "org.sagebionetworks.repo.model."
SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "sex": {"enum": ["female", "male"]},
    },
    "required": ["id", "sex"],
}
POINTS = sorted(set(re.findall(r"checkpoint\(\"([^\"]+)\"\)", Path(curating.__file__).read_text())))
CSV = "id,age,sex\nP1,34,female\nP2,7,male\nP3,50,female\n"
_numbers = itertools.count(1)


def job(server: Remote, base: str, body: dict[str, Any]) -> Any:
    """The answer of an asynchronous job that must end well."""
    token = server.rest("POST", f"{base}/async/start", body)["token"]

    def look() -> Any:
        answer = server.rest("GET", f"{base}/async/get/{token}")
        return None if answer.get("jobState") == "PROCESSING" else answer

    return eventually(look, what=f"{base} to end")


class Sets:
    """Record sets of one project on the service."""

    def __init__(self, server: Remote, project: str, name: str) -> None:
        self.server = server
        self.project = project
        self.name = name
        self.uri = ""

    def schema(self) -> str:
        if not self.uri:
            organization = f"org.e2e{next(_numbers)}x{self.project}"
            self.server.rest("POST", "/schema/organization", {"organizationName": organization})
            self.uri = f"{organization}-people-1.0.0"
            job(self.server, "/schema/type/create", {"schema": {**SCHEMA, "$id": self.uri}})
        return self.uri

    def make(
        self, name: str, text: str = CSV, *, key: tuple[str, ...] = ("id",), bound: bool = True
    ) -> str:
        """A record set; its id."""
        made = self.server._create(
            "RecordSet", name, self.project,
            dataFileHandleId=self.server.handle(text.encode(), f"{name}.csv"),
            upsertKey=list(key),
            csvDescriptor={"separator": ",", "isFirstLineHeader": True},
        )  # fmt: skip
        if bound:
            body = {"entityId": made, "schema$id": self.schema()}
            self.server.rest("PUT", f"/entity/{made}/schema/binding", body)
        return made

    def held(self, name: str) -> tuple[int, str]:
        """(version, text) that the service has."""
        found = self.server.tree(self.project)[name]
        assert found.md5 is not None
        return found.version, Path(self.server.blobs.path(found.md5)).read_text()

    def sessions(self, entity: str) -> list[Any]:
        found: list[Any] = self.server.rest("POST", "/grid/session/list", {"sourceId": entity})[
            "page"
        ]
        return found


@pytest.fixture(scope="module", params=["kernel", "libfuse"])
def either(request: pytest.FixtureRequest, ground: Path, shared_server: Remote) -> Iterator[World]:
    """A mount over the one transport or the other."""
    yield from _world(ground / f"sets-{request.param}", shared_server, request.param)


@pytest.fixture(scope="module")
def world(ground: Path, shared_server: Remote) -> Iterator[World]:
    yield from _world(ground / "sets", shared_server, "kernel")


_POOLS: dict[Path, list[Sets]] = {}
"""Mount → projects that it shows from its start, for one test each."""


def _world(root: Path, server: Remote, transport: str) -> Iterator[World]:
    pool = _POOLS[root] = [new_sets(server) for _ in range(60)]
    one = World(
        root, server, projects=[sets.project for sets in pool], transport=transport,
        upload_delay_s=0.1, delete_delay_s=0.3, freshness_s=1, request_concurrency=16,
        requests_per_minute=0,
    )  # fmt: skip
    try:
        one.up()
        yield one
    finally:
        one.close()


def new_sets(server: Remote) -> Sets:
    name = f"S{next(_numbers)}"
    return Sets(server, server.project(name), name)


def project_of(world: World) -> Sets:
    return _POOLS[world.root].pop()


def where(world: World, sets: Sets) -> str:
    """The project's folder in the mount, once it shows all that is there: what is appended to a name that is
    not known yet is a new file.
    """
    folder = world.at(sets.name)
    wanted = {name.removesuffix(".csv") for name in sets.server.tree(sets.project)}
    eventually(
        lambda: wanted <= {n.removesuffix(".csv") for n in world.text("ls", folder).splitlines()},
        timeout_s=SETTLED_S, what=f"{folder} to show {wanted}",
    )  # fmt: skip
    return folder


def sh(world: World, folder: str, script: str, *args: str) -> str:
    done = world.run("sh", "-ec", script, "sh", *args, cwd=folder + "/", timeout_s=60.0)
    assert done.status == 0, f"{script}: {done.out}{done.err}\n{world.log()[-3000:]}"
    return done.out


def settled(world: World, folder: str) -> None:
    """Waits until the service has all of a folder."""
    done = world.synd(
        "wait", folder, "--timeout", str(SETTLED_S), "--json", timeout_s=SETTLED_S + 30
    )
    assert done.status == 0, f"{done.out}{done.err}\n{world.log()[-3000:]}"


def stuck(world: World, folder: str) -> str:
    """Waits until something in a folder turns out to be stuck; why it is."""
    done = world.synd(
        "wait", folder, "--timeout", str(SETTLED_S), "--json", timeout_s=SETTLED_S + 30
    )
    told = json.loads(done.out)
    assert told["stuck"], f"{done.out}{done.err}\n{world.log()[-3000:]}"
    return str(told["reason"])


def said(world: World, path: str) -> str:
    return world.text(
        sys.executable, "-c",
        "import os, sys; print(os.getxattr(sys.argv[1], 'user.synapse.validation').decode())", path,
    ).strip()  # fmt: skip


def shown(world: World, folder: str, name: str, text: str) -> None:
    """Waits until the mount shows the service's own bytes: a save stays for a moment as it was."""
    eventually(lambda: sh(world, folder, f"cat {name}") == text, what=f"{name} to be {text!r}")


def report_in(world: World, folder: str) -> dict[str, Any]:
    """The report on people.csv; libfuse's kernel side believes for a second that there is none."""
    text = eventually(
        lambda: sh(world, folder, "cat @info/people.validation.json 2>/dev/null || true"),
        what="a report",
    )
    told: dict[str, Any] = json.loads(text)
    return told


def test_record_set_when_exported_and_edited_again_keeps_quotes_and_backslashes(world):
    """The service spells them in its own way; whoever edits such a file need not know that."""
    sets = project_of(world)
    sets.make("people", bound=False)
    folder = where(world, sets)
    first = 'id,age,sex\nP1,34,"says ""no"""\nP2,7,C:\\new\n'
    sh(world, folder, 'printf %s "$1" > people.csv', first)
    settled(world, folder)
    version, text = sets.held("people")
    assert (2, True) == (version, '\\"no\\"' in text)
    shown(world, folder, "people.csv", text)
    sh(world, folder, "echo P3,50,male >> people.csv")
    settled(world, folder)

    version, again = sets.held("people")
    assert (3, text + "P3,50,male\n") == (version, again)


class TestEveryTransport:
    def test_record_set_when_listed_is_a_csv_like_any_file(self, either):
        """Its name ends in .csv once, and it has size, versions and attributes."""
        sets = project_of(either)
        entity = sets.make("people")
        sets.make("more.csv", bound=False)
        folder = where(either, sets)

        assert "more.csv\npeople.csv\n" == sh(either, folder, "ls")
        assert f"{len(CSV)} -rw-r--r--\n" == sh(either, folder, "stat -c '%s %A' people.csv")
        assert CSV == sh(either, folder, "cat people.csv")
        assert CSV == sh(either, folder, "cat people.csv@1; ls @versions/people.csv >/dev/null")
        told = json.loads(either.synd("info", f"{folder}/people.csv", "--json").out)
        assert (entity, "recordset") == (told["entity"], told["kind"])

    @pytest.mark.req("S0-05", "S0-42")
    def test_record_set_when_saved_with_valid_rows_is_a_new_version(self, either):
        """Rows are changed, added and removed as the CSV says; no grid session stays."""
        sets = project_of(either)
        entity = sets.make("people")
        folder = where(either, sets)
        new = "id,age,sex\nP1,35,female\nP3,50,female\nP4,,male\n"
        sh(either, folder, 'printf %s "$1" > people.csv; cat people.csv', new)
        settled(either, folder)

        assert (2, new) == sets.held("people")
        assert new == sh(either, folder, "cat people.csv")
        assert CSV == sh(either, folder, "cat people.csv@1")
        assert "valid" == said(either, f"{folder}/people.csv")
        report = report_in(either, folder)
        assert (True, 2, 3, 0) == tuple(
            report[k] for k in ("exported", "version", "valid_rows", "invalid_rows")
        )
        assert [] == sets.sessions(entity)

    @pytest.mark.req("S0-05")
    def test_record_set_when_saved_with_invalid_rows_stays_here_until_mended(self, either):
        """Nothing is exported, the edit is read back, and the reason is told; the mended file becomes a version."""
        sets = project_of(either)
        entity = sets.make("people")
        folder = where(either, sets)
        wrong = "id,age,sex\nP1,-34,female\nP2,7,unknown\nP3,50,female\n"
        sh(either, folder, "! cat @info/people.validation.json 2>/dev/null")
        sh(either, folder, 'printf %s "$1" > people.csv', wrong)
        why = stuck(either, folder)

        assert "2 of 3 rows are not valid" in why
        assert (1, CSV) == sets.held("people")
        assert wrong == sh(either, folder, "cat people.csv")
        assert "invalid" == said(either, f"{folder}/people.csv")
        assert "people.csv.json\npeople.validation.json\n" == sh(either, folder, "ls @info")
        report = report_in(either, folder)
        assert ("invalid", False) == (report["state"], report["exported"])
        assert [({"id": "P1"}, ["age"]), ({"id": "P2"}, ["sex"])] == [
            (row["key"], [m["column"] for m in row["messages"]]) for row in report["rows"]
        ]
        told = either.why(f"{folder}/people.csv")
        assert ("blocked", "2 of 3 rows are not valid") == (told["state"], told["reason"])
        assert "people.validation.json" in told["mend"]
        assert [] == sets.sessions(entity)

        sh(either, folder, "sed -i 's/-34/35/; s/unknown/male/' people.csv")
        settled(either, folder)
        assert (2, "id,age,sex\nP1,35,female\nP2,7,male\nP3,50,female\n") == sets.held("people")
        assert "valid" == said(either, f"{folder}/people.csv")


class TestWriters:
    @pytest.mark.parametrize("way", ["cp", "rename over", "append", "remove and write", "pandas"])
    def test_record_set_when_saved_by_any_program_stays_one_entity(self, world, way):
        """However a program saves: it is the next version of the same record set."""
        sets = project_of(world)
        entity = sets.make("people")
        folder = where(world, sets)
        new = f"{CSV}P4,1,male\n"
        scripts = {
            "cp": 'printf %s "$1" > /tmp/$$.csv; cp /tmp/$$.csv people.csv; rm /tmp/$$.csv',
            "rename over": 'printf %s "$1" > .new; mv .new people.csv',
            "append": "echo P4,1,male >> people.csv",
            "remove and write": 'rm people.csv; printf %s "$1" > people.csv',
            "pandas": f"""{sys.executable} -c "import pandas
f = pandas.read_csv('people.csv')
f.loc[len(f)] = ['P4', 1, 'male']
f.to_csv('people.csv', index=False)" """,
        }
        if way == "pandas":
            pytest.importorskip("pandas")
        sh(world, folder, scripts[way], new)
        settled(world, folder)

        assert (2, new) == sets.held("people")
        found = world.remote.tree(sets.project)
        assert {"people": (entity, "recordset")} == {p: (h.id, h.kind) for p, h in found.items()}


class TestRows:
    def test_version_when_spelled_by_the_service_is_what_the_mount_shows(self, world):
        """The save retires: from then on the file is the version, byte for byte."""
        sets = project_of(world)
        sets.make("people")
        folder = where(world, sets)
        sh(world, folder, "printf 'sex,id,age\\r\\n\"female\",P1,034\\r\\n' > people.csv")
        settled(world, folder)

        assert (2, "id,age,sex\nP1,34,female\n") == sets.held("people")
        shown(world, folder, "people.csv", "id,age,sex\nP1,34,female\n")
        assert "P1,34,female\n" == sh(
            world, folder, "tail -n1 people.csv; stat -c %s people.csv >&2"
        )

    def test_rows_when_in_another_order_are_exported_in_it(self, world):
        """An import moves no row; the version has the order of the CSV all the same."""
        sets = project_of(world)
        sets.make("people")
        folder = where(world, sets)
        new = "id,age,sex\nP3,50,female\nP9,1,male\nP1,34,female\n"
        sh(world, folder, 'printf %s "$1" > people.csv', new)
        settled(world, folder)

        assert (2, new) == sets.held("people")

    def test_rows_without_an_upsert_key_are_those_of_the_csv(self, world):
        """What an import would only add to is emptied first."""
        sets = project_of(world)
        sets.make("people", key=())
        folder = where(world, sets)
        new = "id,age,sex\nP3,50,female\nP1,34,female\n"
        sh(world, folder, 'printf %s "$1" > people.csv', new)
        settled(world, folder)

        assert (2, new) == sets.held("people")

    def test_rows_when_all_are_removed_leave_the_header(self, world):
        """A CSV of a header alone is a record set without rows."""
        sets = project_of(world)
        sets.make("people")
        folder = where(world, sets)
        sh(world, folder, "echo id,age,sex > people.csv")
        settled(world, folder)

        assert (2, "id,age,sex\n") == sets.held("people")

    def test_rows_of_a_number_as_key_are_known_again(self, world):
        """A key is compared as the grid holds it: 07 is a name, 7 a number."""
        sets = project_of(world)
        sets.make("numbered", "age,id,sex\n7,a,male\n8,b,male\n", key=("age",))
        folder = where(world, sets)
        new = "age,id,sex\n7,c,male\n9,d,female\n"
        sh(world, folder, 'printf %s "$1" > numbered.csv', new)
        settled(world, folder)

        assert (2, new) == sets.held("numbered")

    def test_column_when_left_out_is_empty_in_the_version(self, world):
        """No value of a column that is not in the CSV outlives the save."""
        sets = project_of(world)
        sets.make("people")
        folder = where(world, sets)
        sh(world, folder, "printf 'id,sex\nP1,female\nP2,male\n' > people.csv")
        settled(world, folder)

        assert (2, "id,age,sex\nP1,,female\nP2,,male\n") == sets.held("people")

    def test_key_when_twice_in_the_csv_blocks_it_as_a_row_would_be_lost(self, world):
        """The service would make one row of two without a word."""
        sets = project_of(world)
        sets.make("people")
        folder = where(world, sets)
        sh(world, folder, "echo P2,8,female >> people.csv")

        assert "lines 3 and 5 have the same key: P2" in stuck(world, folder)
        assert (1, CSV) == sets.held("people")
        assert "refused" == said(world, f"{folder}/people.csv")
        world.synd("discard", f"{folder}/people.csv", "--yes")
        assert CSV == sh(world, folder, "cat people.csv")

    def test_csv_when_emptied_is_refused_and_the_old_verdict_is_not_its_own(self, world):
        """Nothing was said of no rows: what was said of others is told as that, also while rows wait."""
        sets = project_of(world)
        sets.make("people")
        folder = where(world, sets)
        sh(world, folder, "sed -i s/34/35/ people.csv")
        settled(world, folder)
        sh(world, folder, ": > people.csv")
        eventually(lambda: "refused" == said(world, f"{folder}/people.csv"), what="its refusal")

        report = eventually(
            lambda: (r := report_in(world, folder))["state"] == "refused" and r, what="the report"
        )
        assert ("refused", False, "valid") == (
            report["verdict"],
            report["exported"],
            report["before"]["verdict"],
        )
        assert "no empty files" in report["problem"]
        assert 2 == sets.held("people")[0]
        sh(world, folder, 'printf %s "$1" > people.csv', CSV)
        settled(world, folder)
        assert "valid" == report_in(world, folder)["verdict"]
        assert (3, CSV) == sets.held("people")

    def test_csv_when_broken_blocks_it_with_its_line(self, world):
        """A row with a cell too many is nobody's to guess; the file is called by its name."""
        sets = project_of(world)
        sets.make("people")
        folder = where(world, sets)
        sh(world, folder, "echo P4,8,female,x >> people.csv")
        why = stuck(world, folder)

        assert "people.csv, line 5: 4 cells where the header has 3" in why
        sh(world, folder, "sed -i 's/,x$//' people.csv")
        settled(world, folder)
        assert (2, f"{CSV}P4,8,female\n") == sets.held("people")


class TestSettings:
    def test_record_set_without_a_schema_is_exported(self, world):
        """There is nothing that a row could violate, and that is what is said."""
        sets = project_of(world)
        sets.make("free", bound=False)
        folder = where(world, sets)
        sh(world, folder, "echo P4,-9,whatever >> free.csv")
        settled(world, folder)

        assert (2, f"{CSV}P4,-9,whatever\n") == sets.held("free")
        assert "no-schema" == said(world, f"{folder}/free.csv")

    def test_export_when_always_makes_a_version_of_invalid_rows(self, make, server):
        """`record_set_export = "always"`: the report says what is wrong, the version is made."""
        sets = new_sets(server)
        world = make(
            server,
            projects=[sets.project],
            upload_delay_s=0.1,
            freshness_s=1,
            record_set_export="always",
        )
        sets.make("people")
        folder = where(world, sets)
        sh(world, folder, "echo P4,-9,male >> people.csv")
        settled(world, folder)

        assert (2, f"{CSV}P4,-9,male\n") == sets.held("people")
        assert "invalid" == said(world, f"{folder}/people.csv")


class TestCommands:
    def test_record_set_when_asked_for_by_the_cli_is_a_file_with_bytes(self, world):
        """`ls`, `prefetch` and `info` treat it as any file."""
        sets = project_of(world)
        entity = sets.make("people")
        folder = where(world, sets)
        assert world.synd("prefetch", f"{folder}/people.csv").status == 0

        assert "people.csv" in world.synd("ls", folder).out
        told = json.loads(world.synd("info", f"{folder}/people.csv", "--json").out)
        assert (entity, "recordset", len(CSV), "cached") == tuple(
            told[name] for name in ("entity", "kind", "size", "state")
        )

    def test_comment_of_a_version_is_refused(self, world):
        """The service takes none with an export: better said than lost."""
        sets = project_of(world)
        sets.make("people")
        folder = where(world, sets)
        done = world.synd("comment", f"{folder}/people.csv", "why")

        assert done.status != 0
        assert "its versions have no comments" in done.err


class TestNames:
    def test_record_set_when_renamed_moved_and_edited_is_the_same_entity(self, world):
        """`mv a.csv sub/b.csv` renames the entity to b; the bytes follow as a version."""
        sets = project_of(world)
        entity = sets.make("a")
        world.remote.folder(sets.project, "sub")
        folder = where(world, sets)
        sh(world, folder, "mv a.csv sub/b.csv; echo P4,1,male >> sub/b.csv")
        settled(world, folder)

        found = world.remote.tree(sets.project)["sub/b"]
        assert (entity, 2) == (found.id, found.version)
        assert (2, f"{CSV}P4,1,male\n") == sets.held("sub/b")

    def test_name_of_an_invalid_record_set_is_sent_although_its_rows_are_not(self, world):
        """A rename needs no yes of a schema."""
        sets = project_of(world)
        entity = sets.make("a")
        folder = where(world, sets)
        sh(world, folder, "echo P4,-1,male >> a.csv; mv a.csv b.csv")
        stuck(world, folder)

        found = world.remote.tree(sets.project)["b"]
        assert (entity, 1) == (found.id, found.version)
        assert f"{CSV}P4,-1,male\n" == sh(world, folder, "cat b.csv")

    def test_record_set_when_removed_goes_to_the_trash_can(self, world):
        """As any file."""
        sets = project_of(world)
        entity = sets.make("a")
        folder = where(world, sets)
        sh(world, folder, "rm a.csv; ls")
        settled(world, folder)

        assert {} == world.remote.tree(sets.project)
        world.remote.rest("PUT", f"/trashcan/restore/{entity}")
        assert (1, CSV) == sets.held("a")

    def test_name_when_a_file_has_it_already_gets_the_id(self, world):
        """A record set `a` beside a file `a.csv`: who came first keeps the plain name."""
        sets = project_of(world)
        world.remote.file(sets.project, "a.csv", b"I am a file\n")
        entity = sets.make("a")
        folder = where(world, sets)

        assert f"a %{entity}.csv\na.csv\n" == sh(world, folder, "LC_ALL=C ls")
        sh(world, folder, 'echo P4,1,male >> "$1"', f"a %{entity}.csv")
        settled(world, folder)
        assert (2, f"{CSV}P4,1,male\n") == sets.held("a")


class TestOthers:
    def test_edit_when_somebody_made_a_version_meanwhile_keeps_both(self, make, server):
        """Theirs keeps the record set; ours lies beside it as a file of its own."""
        sets = new_sets(server)
        world = make(
            server, projects=[sets.project], upload_delay_s=0.1, freshness_s=1, uploads="false"
        )
        entity = sets.make("people")
        folder = where(world, sets)
        sh(world, folder, "echo P4,1,male >> people.csv")
        theirs = f"{CSV}P9,9,male\n"
        server.new_version(entity, theirs.encode())
        assert world.synd("resume").status == 0
        settled(world, folder)

        assert (2, theirs) == sets.held("people")
        copies = [p for p in server.tree(sets.project) if "(conflict " in p]
        assert 1 == len(copies)
        assert f"{CSV}P4,1,male\n" == sets.held(copies[0])[1]
        assert theirs == sh(world, folder, "cat people.csv")

    def test_edit_when_others_made_the_same_rows_is_no_conflict(self, make, server):
        """Spelled in another way, they are the same rows."""
        sets = new_sets(server)
        world = make(
            server, projects=[sets.project], upload_delay_s=0.1, freshness_s=1, uploads="false"
        )
        entity = sets.make("people")
        folder = where(world, sets)
        sh(world, folder, "echo P4,1,male >> people.csv")
        theirs = CSV.replace("P1,34,", '"P1",34.0,') + "P4,1,male\n"
        server.new_version(entity, theirs.encode())
        assert world.synd("resume").status == 0
        settled(world, folder)

        assert {"people"} == set(server.tree(sets.project))
        assert (2, theirs) == sets.held("people")
        shown(world, folder, "people.csv", theirs)

    def test_edit_when_made_offline_is_exported_once_the_service_is_back(self, make, tmp_path):
        """It waits as any other, and is read back meanwhile."""
        with remote(tmp_path / "server") as server:
            sets = new_sets(server)
            world = make(server, projects=[sets.project], upload_delay_s=0.1, freshness_s=1)
            sets.make("people")
            folder = where(world, sets)
            sh(world, folder, "cat people.csv")
            server.down()
            sh(world, folder, "echo P4,1,male >> people.csv")
            assert f"{CSV}P4,1,male\n" == sh(world, folder, "cat people.csv")
            assert "pending" == said(world, f"{folder}/people.csv")
            server.up()
            settled(world, folder)

            assert (2, f"{CSV}P4,1,male\n") == sets.held("people")


class TestTrouble:
    def test_rows_when_not_validated_in_time_are_exported_once_they_are(self, make, tmp_path):
        """Nothing is exported unseen; it is told as pending, and tried again by itself."""
        with remote(tmp_path / "server") as server:
            sets = new_sets(server)
            sets.make("people")
            world = make(
                server,
                projects=[sets.project],
                upload_delay_s=0.1,
                freshness_s=1,
                validation_wait_s=0.5,
            )
            folder = where(world, sets)
            server.rest("POST", "/admin/grids", {"halted": True})
            sh(world, folder, "echo P4,1,male >> people.csv")
            told = eventually(
                lambda: (why := world.why(f"{folder}/people.csv"))["facts"].get("tries") and why,
                timeout_s=30,
                what="a first attempt",
            )
            assert "the service has not validated 4 of 4 rows" in told["reason"]
            assert "pending" == said(world, f"{folder}/people.csv")
            assert (1, CSV) == sets.held("people")

            server.rest("POST", "/admin/grids", {"halted": False})
            settled(world, folder)
            assert (2, f"{CSV}P4,1,male\n") == sets.held("people")

    def test_rows_when_the_schema_is_unbound_are_exported_when_asked(self, world):
        """`synd upload-now` tries what is blocked again."""
        sets = project_of(world)
        entity = sets.make("people")
        folder = where(world, sets)
        sh(world, folder, "echo P4,-1,male >> people.csv")
        stuck(world, folder)
        world.remote.rest("DELETE", f"/entity/{entity}/schema/binding")
        assert world.synd("upload-now", f"{folder}/people.csv").status == 0
        settled(world, folder)

        assert (2, f"{CSV}P4,-1,male\n") == sets.held("people")

    @pytest.mark.parametrize("action", ["status", "drop-before", "drop-after"])
    @pytest.mark.parametrize(
        "path",
        ["/grid/session/async/start", "/grid/session/async/get", "/presigned/url", "/replica",
         "/grid/import/csv/async/start", "/grid/import/csv/async/get", "/grid/socket",
         "/grid/export/recordset/async/start", "/grid/export/recordset/async/get",
         "/schema/type/validation/async/start"],
    )  # fmt: skip
    def test_request_when_it_goes_wrong_once_changes_nothing_in_the_end(self, world, path, action):
        """The rows of the CSV are the newest version, there is no copy beside, and nothing waits."""
        sets = project_of(world)
        entity = sets.make("people")
        folder = where(world, sets)
        world.remote.fault(path, action, times=1)
        try:
            sh(world, folder, "sed -i /P2/d people.csv; echo P4,1,male >> people.csv")
            settled(world, folder)
        finally:
            world.remote.heal()

        version, text = sets.held("people")
        assert "id,age,sex\nP1,34,female\nP3,50,female\nP4,1,male\n" == text
        assert {"people"} == set(world.remote.tree(sets.project))
        assert version in (2, 3)
        assert len(sets.sessions(entity)) <= (action == "drop-after")


class TestKills:
    @pytest.mark.parametrize("point", POINTS)
    def test_daemon_when_killed_at_any_step_makes_one_version_and_no_conflict(
        self, make, server, point
    ):
        """A version of ours whose answer was lost is known by its rows; no grid session stays."""
        sets = new_sets(server)
        world = make(server, projects=[sets.project], up=False, upload_delay_s=0.1, freshness_s=1)
        world.env["SYND_CRASH_AT"] = point
        # Before the mount looks at the project: what is appended to a name not known yet is a new file.
        entity = sets.make("people")
        world.up()
        folder = where(world, sets)
        first = world.daemon_pid()
        with world.without_successor():
            sh(world, folder, "echo P4,1,male >> people.csv")
            assert process.wait_gone(first, 20.0)
        world.die()
        del world.env["SYND_CRASH_AT"]
        world.up()
        settled(world, folder)

        assert {"people": 2} == {p: h.version for p, h in server.tree(sets.project).items()}
        assert (2, f"{CSV}P4,1,male\n") == sets.held("people")
        assert "valid" == said(world, f"{folder}/people.csv")
        assert [] == sets.sessions(entity)
        # Nor does a copy of the rows.
        assert [] == list(world.folders.cache.glob("rows/*"))
