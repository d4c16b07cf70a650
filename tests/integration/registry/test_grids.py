"""Grid sessions over REST: creation, import, download, synchronization, export, queries."""

import pytest

from synd.grid.crdt import UNDEFINED
from tests.integration.registry.conftest import Api
from tests.integration.registry.grids import (
    CSV,
    MODEL,
    cells,
    connected,
    download,
    grid_csv,
    import_csv,
    job,
    people,
    record_set,
    refused_job,
    replica,
    schema,
    session,
)

TYPES = {
    "individualID": "STRING",
    "age": "INTEGER",
    "sex": "STRING",
    "tissues": "STRING_LIST",
}


class TestSessions:
    def test_session_of_a_record_set_names_source_schema_and_owner(self, api: Api, project: str):
        """A session tells where its rows come from and what they are validated against."""
        record = record_set(api, project)
        uri = schema(api)
        api.ok(
            "PUT",
            f"/repo/v1/entity/{project}/schema/binding",
            {"entityId": project, "schema$id": uri},
        )

        made = session(api, recordSetId=record["id"])

        assert made["sourceEntityId"] == record["id"]
        assert made["gridJsonSchema$Id"] == uri
        assert made["ownerPrincipalId"] == made["startedBy"]
        assert api.ok("GET", f"/repo/v1/grid/session/{made['sessionId']}") == made

    def test_listed_by_source_and_gone_after_delete(self, api: Api, project: str):
        """A listing holds the caller's sessions on one source; a deleted one is nowhere."""
        record = record_set(api, project)
        one = session(api, recordSetId=record["id"])
        session(api)

        def listed() -> list[str]:
            page = api.ok("POST", "/repo/v1/grid/session/list", {"sourceId": record["id"]})["page"]
            return [row["sessionId"] for row in page]

        assert listed() == [one["sessionId"]]
        api.ok("DELETE", f"/repo/v1/grid/session/{one['sessionId']}")
        assert listed() == []
        api.refused(404, "GET", f"/repo/v1/grid/session/{one['sessionId']}")

    def test_stranger_is_refused(self, api: Api):
        """A session is its owner's: another user may neither see it nor connect."""
        made = session(api)
        other = api.user()

        other.refused(403, "GET", f"/repo/v1/grid/session/{made['sessionId']}")
        other.refused(403, "POST", f"/repo/v1/grid/session/{made['sessionId']}/replica", {})
        other.http.close()

    @pytest.mark.req("S0-23")
    def test_replica_ids_count_up_from_66536(self, api: Api):
        """Each replica gets the next id, and can be asked for."""
        made = session(api)
        grid = made["sessionId"]

        assert [replica(api, grid), replica(api, grid)] == [66536, 66537]
        told = api.ok("GET", f"/repo/v1/grid/session/{grid}/replica/66537")
        assert (told["replicaId"], told["createdBy"]) == (66537, made["startedBy"])
        assert api.ok("GET", f"/repo/v1/grid/session/{grid}")["lastReplicaIdClient"] == 66537

    @pytest.mark.req("S0-24")
    def test_socket_url_is_for_the_maker_of_the_replica(self, api: Api):
        """A URL names a replica that exists; the answer is a ws address with a signature."""
        grid = session(api)["sessionId"]
        path = f"/repo/v1/grid/session/{grid}/presigned/url"
        mine = replica(api, grid)

        made = api.ok("POST", path, {"gridSessionId": grid, "replicaId": mine}, 201)

        assert made["presignedUrl"].startswith("ws://")
        assert "X-Amz-Signature=" in made["presignedUrl"]
        api.refused(404, "POST", path, {"gridSessionId": grid, "replicaId": 70000})

    def test_both_sources_at_once_are_refused(self, api: Api, project: str):
        """A record set and a query exclude each other."""
        record = record_set(api, project)
        status, reason = refused_job(
            api, "/grid/session", {"recordSetId": record["id"], "initialQuery": {"sql": "x"}}
        )
        assert (status, "exclude" in reason) == (400, True)


class TestImport:
    @pytest.mark.req("S0-09", "S0-22", "S0-60")
    def test_known_keys_are_updated_and_others_are_created(self, api: Api):
        """Rows are matched by the record set's upsert key: none is there twice after a second import."""
        grid = people(api)["sessionId"]
        text = "individualID,age,sex,tissues\nI-2,5,male,\nI-9,1,female,\n"

        first = import_csv(api, grid, text, TYPES)
        again = import_csv(api, grid, text, TYPES)

        counts = ("totalCount", "createdCount", "updatedCount")
        assert [first[name] for name in counts] == [2, 1, 1]
        assert [again[name] for name in counts] == [2, 0, 2]
        with connected(api, grid) as socket:
            found = {row["individualID"]: row for row in cells(socket.sync())}
        assert list(found) == ["I-1", "I-2", "I-3", "I-9"]
        assert (found["I-2"]["age"], found["I-1"]["tissues"]) == (5, ["liver", "lung"])

    @pytest.mark.req("S0-09")
    def test_schema_is_required_and_types_are_checked(self, api: Api):
        """An import without column models, or with a cell that does not fit its type, changes nothing."""
        grid = people(api)["sessionId"]
        handle = api.upload(b"individualID,age\nI-1,old\n", "rows.csv")
        request = {"sessionId": grid, "fileHandleId": handle, "csvDescriptor": {}}
        before = grid_csv(api, grid)

        assert refused_job(api, "/grid/import/csv", request)[0] == 400
        models = [{"name": n, "columnType": TYPES[n]} for n in ("individualID", "age")]
        status, reason = refused_job(api, "/grid/import/csv", {**request, "schema": models})

        assert (status, "'age'" in reason) == (400, True)
        assert grid_csv(api, grid) == before

    def test_new_column_is_added_and_old_rows_lack_it(self, api: Api):
        """A CSV may bring a column; rows without a value in it stay empty there."""
        grid = people(api)["sessionId"]

        import_csv(api, grid, "individualID,note\nI-1,seen\n", {**TYPES, "note": "STRING"})

        with connected(api, grid) as socket:
            found = {row["individualID"]: row["note"] for row in cells(socket.sync())}
        assert found == {"I-1": "seen", "I-2": UNDEFINED, "I-3": UNDEFINED}

    def test_more_columns_than_a_grid_can_have_are_refused(self, api: Api):
        """A grid has at most 256 columns; what would bring more changes nothing."""
        made = people(api)
        names = ["individualID", *(f"c{n}" for n in range(253))]
        handle = api.upload((",".join(names) + "\n" + "," * 253 + "\n").encode(), "rows.csv")
        models = [{"name": name, "columnType": "STRING"} for name in names]
        body = {"sessionId": made["sessionId"], "fileHandleId": handle, "schema": models}

        status, reason = refused_job(api, "/grid/import/csv", body)

        assert (status, "256" in reason) == (400, True)
        assert len(grid_csv(api, made["sessionId"]).splitlines()) == 4

    @pytest.mark.parametrize(
        ("cell", "kind"),
        [("9223372036854775808", "INTEGER"), ("[" * 100_000, "STRING_LIST"), ("[" * 99, "JSON")],
        ids=["64 bits", "nested", "JSON"],
    )
    def test_cell_that_no_column_holds_is_refused(self, api: Api, cell: str, kind: str):
        """With the column's name and the beginning of the cell."""
        grid = people(api)["sessionId"]
        handle = api.upload(f'individualID,x\nI-9,"{cell}"\n'.encode(), "rows.csv")
        models = [
            {"name": "individualID", "columnType": "STRING"},
            {"name": "x", "columnType": kind},
        ]
        body = {"sessionId": grid, "fileHandleId": handle, "schema": models}

        status, reason = refused_job(api, "/grid/import/csv", body)

        assert (status, kind in reason, len(reason) < 400) == (400, True, True)

    def test_empty_grid_takes_no_import(self, api: Api):
        """Import is for grids of a record set."""
        grid = session(api)["sessionId"]
        handle = api.upload(b"a\n1\n", "rows.csv")
        body = {"sessionId": grid, "fileHandleId": handle, "schema": [{"name": "a"}]}
        assert refused_job(api, "/grid/import/csv", body)[0] == 400

    def test_preview_suggests_types(self, api: Api):
        """The columns of a CSV are guessed from its cells, with a sample of the rows."""
        text = 'id,n,x,ok,list\n007,1,1.5,true,"[""a""]"\n008,2,2,false,"[]"\n'
        handle = api.upload(text.encode(), "rows.csv")

        told = job(api, "/table/upload/csv/preview", {"uploadFileHandleId": handle})

        kinds = [column["columnType"] for column in told["suggestedColumns"]]
        assert kinds == ["STRING", "INTEGER", "DOUBLE", "BOOLEAN", "STRING_LIST"]
        assert told["rowsScanned"] == 2
        assert told["sampleRows"][0]["values"][:2] == ["007", "1"]


class TestDownload:
    @pytest.mark.req("S0-10", "S0-60")
    def test_rows_come_as_csv_in_the_order_of_the_grid(self, api: Api):
        """A download is a file of the caller's with a header and one line a row; lists are JSON."""
        grid = people(api)["sessionId"]

        lines = grid_csv(api, grid).splitlines()

        assert lines[0] == "individualID,age,sex,tissues"
        assert lines[1].startswith("I-1,34,female,") and "liver" in lines[1]
        assert lines[2:] == ["I-2,-1,male,", "I-3,7,unknown,"]

    @pytest.mark.req("S0-10")
    def test_header_can_be_left_out(self, api: Api):
        """`writeHeader` false leaves the rows alone."""
        grid = people(api)["sessionId"]
        assert len(grid_csv(api, grid, writeHeader=False).splitlines()) == 3


class TestRecordSetSynchronization:
    @pytest.mark.req("S0-11", "S0-60")
    def test_pull_brings_a_newer_version_and_push_makes_one(self, api: Api, project: str):
        """PULL takes the rows of a version made elsewhere; PULL_PUSH writes the grid as the next one."""
        record = record_set(api, project)
        grid = session(api, recordSetId=record["id"])["sessionId"]
        text = CSV.replace("I-3,7", "I-3,70")
        handle = api.upload(text.encode(), "people.csv")
        api.ok(
            "PUT",
            f"/repo/v1/entity/{record['id']}?newVersion=true",
            {**record, "dataFileHandleId": handle, "versionLabel": None},
        )
        base, request = "/grid/synchronize", {"gridSessionId": grid}

        assert job(api, base, {**request, "syncType": "PULL"})["errorMessages"] == []
        assert "I-3,70,unknown," in grid_csv(api, grid)
        assert api.ok("GET", f"/repo/v1/entity/{record['id']}")["versionNumber"] == 2

        assert job(api, base, {**request, "syncType": "PULL_PUSH"})["errorMessages"] == []
        pushed = api.ok("GET", f"/repo/v1/entity/{record['id']}")
        assert pushed["versionNumber"] == 3
        assert download(api, pushed["dataFileHandleId"]) == grid_csv(api, grid)

    @pytest.mark.req("S0-60")
    def test_export_writes_results_beside_the_rows(self, api: Api):
        """An export is a new version with counts and a CSV of each row's result."""
        made = people(api)
        grid = made["sessionId"]
        with connected(api, grid) as socket:
            socket.settled()

        told = job(api, "/grid/export/recordset", {"sessionId": grid})

        counts = told["validationSummaryStatistics"]
        assert [counts[f"numberOf{kind}Children"] for kind in ("Valid", "Invalid", "Unknown")] == [
            1, 2, 0,
        ]  # fmt: skip
        entity = api.ok("GET", f"/repo/v1/entity/{made['sourceEntityId']}")
        assert entity["versionNumber"] == told["recordSetVersionNumber"] == 2
        assert entity["validationSummary"] == counts
        (found,) = api.batch([(entity["validationFileHandleId"], entity["id"])])
        assert "preSignedURL" in found
        lines = download(api, entity["validationFileHandleId"]).splitlines()
        assert lines[0] == "row_index,is_valid,validation_error_message,all_validation_messages"
        assert lines[1] == "0,true,,"
        assert lines[2].startswith("1,false,#/age: -1 is not greater or equal to 0,")


class TestViewSynchronization:
    @pytest.fixture
    def view(self, api: Api, project: str) -> dict[str, str]:
        """A view of two annotated files, and their ids."""
        files = [api.file(project, name, name.encode())["id"] for name in ("a.txt", "b.txt")]
        for entity in files:
            told = api.ok("GET", f"/repo/v1/entity/{entity}/annotations2")
            told["annotations"] = {"tissue": {"type": "STRING", "value": ["lung"]}}
            api.ok("PUT", f"/repo/v1/entity/{entity}/annotations2", told)
        columns = [
            api.ok("POST", "/repo/v1/column", {"name": name, "columnType": kind}, 201)["id"]
            for name, kind in (("id", "ENTITYID"), ("name", "STRING"), ("tissue", "STRING"))
        ]
        made = api.ok(
            "POST",
            "/repo/v1/entity",
            {
                "concreteType": MODEL + "table.EntityView",
                "name": "files",
                "parentId": project,
                "scopeIds": [project],
                "viewTypeMask": 1,
                "columnIds": columns,
            },
            201,
        )
        return {"view": made["id"], "a": files[0], "b": files[1]}

    def set_tissue(self, api: Api, entity: str, value: str) -> None:
        told = api.ok("GET", f"/repo/v1/entity/{entity}/annotations2")
        told["annotations"]["tissue"]["value"] = [value]
        api.ok("PUT", f"/repo/v1/entity/{entity}/annotations2", told)

    def tissue(self, api: Api, entity: str) -> str:
        told = api.ok("GET", f"/repo/v1/entity/{entity}/annotations2")
        found: str = told["annotations"]["tissue"]["value"][0]
        return found

    def edit(self, api: Api, grid: str, name: str, value: str) -> None:
        """Another tissue for the file of that name, as a client's patch."""
        from synd.grid.crdt.author import Author

        with connected(api, grid) as socket:
            document = socket.sync()
            index = {column: i for i, column in document.columns}
            (row,) = [r for r in document.rows() if r.cells[index["name"]] == name]
            author = Author(socket.replica, socket.number)
            for patch in author.set_cell(row.row_id, index["tissue"], value):
                assert socket.answer("patch", patch)[0] == 5

    @pytest.mark.req("S0-11")
    def test_changed_cells_become_annotations(self, api: Api, view: dict[str, str]):
        """A push writes the cells that differ onto their entities, and brings what changed there."""
        grid = session(api, initialQuery={"sql": f"select * from {view['view']}"})["sessionId"]
        self.edit(api, grid, "a.txt", "liver")
        self.set_tissue(api, view["b"], "brain")

        told = job(api, "/grid/synchronize", {"gridSessionId": grid})

        assert told["errorMessages"] == []
        assert [self.tissue(api, view[name]) for name in "ab"] == ["liver", "brain"]
        assert [line.rpartition(",")[2] for line in grid_csv(api, grid).splitlines()[1:]] == [
            "liver",
            "brain",
        ]

    @pytest.mark.req("S0-11")
    def test_entity_changed_on_both_sides_is_reported_and_kept(
        self, api: Api, view: dict[str, str]
    ):
        """An edit of a row whose entity changed meanwhile is refused by name; both keep what they have."""
        grid = session(api, initialQuery={"sql": f"select * from {view['view']}"})["sessionId"]
        self.edit(api, grid, "b.txt", "liver")
        self.set_tissue(api, view["b"], "brain")

        (message,) = job(api, "/grid/synchronize", {"gridSessionId": grid})["errorMessages"]

        assert view["b"] in message
        assert self.tissue(api, view["b"]) == "brain"
        assert grid_csv(api, grid).splitlines()[2].endswith(",liver")

    @pytest.mark.req("S0-11")
    def test_pull_alone_is_refused(self, api: Api, view: dict[str, str]):
        """PULL is for record sets."""
        grid = session(api, initialQuery={"sql": f"select * from {view['view']}"})["sessionId"]
        body = {"gridSessionId": grid, "syncType": "PULL"}
        assert refused_job(api, "/grid/synchronize", body)[0] == 400


class TestQueries:
    def query(self, api: Api, grid: str, **query: object) -> dict[str, list[dict[str, object]]]:
        body = {"sessionId": grid, "queryRequest": {"query": query}}
        found: dict[str, list[dict[str, object]]] = job(api, "/grid/session/query", body)[
            "queryResult"
        ]
        return found

    def test_rows_are_filtered_by_result_and_id(self, api: Api):
        """A filter on validity keeps what is so; one on ids keeps the rows named; messages come if asked for."""
        grid = people(api)["sessionId"]
        with connected(api, grid) as socket:
            socket.settled()
        bad = {"concreteType": MODEL + "grid.query.RowIsValidFilter", "value": False}

        told = self.query(api, grid, filters=[bad], includeValidationMessages=True)

        assert [row["data"]["individualID"] for row in told["rows"]] == ["I-2", "I-3"]
        assert told["rows"][1]["validationResults"] == {
            "isValid": False,
            "validationErrorMessage": "#/sex: unknown is not a valid enum value",
            "allValidationMessages": ["#/sex: unknown is not a valid enum value"],
        }
        by_id = {"concreteType": "RowIdFilter", "rowIdsIn": [told["rows"][0]["rowId"]]}
        one = [{"concreteType": "SelectByName", "columnName": "age"}]
        told = self.query(api, grid, filters=[by_id], columnSelection=one)
        assert [row["data"] for row in told["rows"]] == [{"age": -1}]

    def test_count_page_and_comparison(self, api: Api):
        """CountStar counts what the filters keep; limit and offset cut a page."""
        grid = people(api)["sessionId"]
        grown = {
            "concreteType": "CellValueFilter",
            "columnName": "age",
            "operator": "GREATER_THAN",
            "value": [0],
        }
        count = [{"concreteType": "CountStar", "alias": "n"}]

        told = self.query(api, grid, columnSelection=count, filters=[grown])
        assert told["rows"] == [{"data": {"n": 2}}]
        told = self.query(api, grid, limit=1, offset=1)
        assert [row["data"]["individualID"] for row in told["rows"]] == ["I-2"]

    def test_unknown_filter_is_named(self, api: Api):
        """What the registry does not know is refused, not ignored."""
        grid = people(api)["sessionId"]
        body = {
            "sessionId": grid,
            "queryRequest": {"query": {"filters": [{"concreteType": "RowSelectionFilter"}]}},
        }
        status, reason = refused_job(api, "/grid/session/query", body)
        assert (status, "RowSelectionFilter" in reason) == (400, True)
