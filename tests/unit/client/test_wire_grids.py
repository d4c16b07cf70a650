"""JSON of grids, schemas and curation tasks as values, and back."""

import pytest

from synd.client import wire_curation
from synd.client import wire_grids as wire
from synd.client.wire_grids import Column, CsvFormat
from synd.errors import ProtocolError
from synd.ids import EntityId, FileHandleId

GRID = "org.sagebionetworks.repo.model.grid."


class TestSessions:
    def test_session_always_is_read_with_what_it_has(self):
        """A field that is absent or null is nothing, not an error."""
        full = wire.grid_session(
            {
                "sessionId": "x",
                "sourceEntityId": "syn9",
                "gridJsonSchema$Id": "a-b-1.0.0",
                "startedBy": "1",
                "startedOn": "2026-01-02T03:04:05.000Z",
                "modifiedOn": "2026-01-02T03:04:06.000Z",
                "etag": "e",
                "ownerPrincipalId": "7",
                "newer": True,
            }
        )
        bare = wire.grid_session({"sessionId": "x", "sourceEntityId": None})

        assert (9, "a-b-1.0.0", "7") == (full.source, full.schema_id, full.owner)
        assert (None, None, "") == (bare.source, bare.schema_id, bare.owner)

    @pytest.mark.parametrize("answer", [{}, None, [], {"sessionId": "x", "sourceEntityId": "?"}])
    def test_session_when_it_is_none_is_a_protocol_error(self, answer):
        """Not a KeyError somewhere below."""
        with pytest.raises(ProtocolError):
            wire.grid_session(answer)

    @pytest.mark.parametrize(
        ("source", "sql", "owner", "more"),
        [
            (EntityId(9), None, None, {"recordSetId": "syn9"}),
            (
                None,
                "SELECT * FROM syn8",
                "7",
                {
                    "initialQuery": {
                        "concreteType": "org.sagebionetworks.repo.model.table.Query",
                        "sql": "SELECT * FROM syn8",
                    },
                    "ownerPrincipalId": "7",
                },
            ),
            (None, None, None, {}),
        ],
        ids=["record set", "query", "empty"],
    )
    def test_request_always_names_its_source(self, source, sql, owner, more):
        """Of a record set, of a query, or of nothing."""
        assert {"concreteType": f"{GRID}CreateGridRequest", **more} == wire.create_request(
            source, sql, owner
        )


class TestJobs:
    @pytest.mark.req("S0-09")
    def test_import_always_has_schema_and_spelling(self):
        """The service takes no import without columns."""
        body = wire.import_request(
            "x", FileHandleId(5), [Column("a", "STRING", 50), Column("b", "INTEGER")], CsvFormat()
        )

        assert (f"{GRID}GridCsvImportRequest", "x", "5") == (
            body["concreteType"],
            body["sessionId"],
            body["fileHandleId"],
        )
        assert [("a", "STRING", 50), ("b", "INTEGER", None)] == [
            (one["name"], one["columnType"], one.get("maximumSize")) for one in body["schema"]
        ]
        assert {
            "separator": ",",
            "quoteCharacter": '"',
            "escapeCharacter": "\\",
            "lineEnd": "\n",
            "isFirstLineHeader": True,
        } == body["csvDescriptor"]

    @pytest.mark.req("S0-21")
    def test_counts_when_not_told_are_none(self):
        """None is not zero."""
        told = wire.import_result({"totalCount": 3, "createdCount": 1, "updatedCount": 2})
        silent = wire.import_result({})

        assert (3, 1, 2) == (told.total, told.created, told.updated)
        assert (None, None, None) == (silent.total, silent.created, silent.updated)

    @pytest.mark.req("S0-10", "S0-11")
    def test_requests_always_are_of_their_kind(self):
        """Download, synchronize, export."""
        down = wire.download_request("x", CsvFormat(), row_id=True, etag=False, name=None)

        assert (f"{GRID}DownloadFromGridRequest", True, False) == (
            down["concreteType"],
            down["includeRowIdAndRowVersion"],
            down["includeEtag"],
        )
        assert "fileName" not in down
        assert "PULL" == wire.synchronize_request("x", pull_only=True)["syncType"]
        assert "PULL_PUSH" == wire.synchronize_request("x", pull_only=False)["syncType"]
        assert f"{GRID}GridRecordSetExportRequest" == wire.export_request("x")["concreteType"]

    def test_export_when_it_has_counts_tells_them(self):
        """And is a version all the same when it has none."""
        full = wire.export_result(
            {
                "recordSetId": "syn9",
                "recordSetVersionNumber": 3,
                "validationSummaryStatistics": {
                    "totalNumberOfChildren": 4,
                    "numberOfValidChildren": 1,
                    "numberOfInvalidChildren": 2,
                    "numberOfUnknownChildren": 1,
                },
                "validationFileHandleId": "77",
            }
        )
        bare = wire.export_result({"recordSetId": "syn9"})

        assert (9, 3, 4, 1, 2, 1, 77) == (
            full.record_set, full.version, full.total, full.valid, full.invalid, full.unknown,
            full.results,
        )  # fmt: skip
        assert (9, None, None, None) == (bare.record_set, bare.version, bare.total, bare.results)

    def test_rows_always_are_by_column_whichever_way_they_come(self):
        """As an object, or as a list in the order of the columns."""
        names, rows = wire.query_rows(
            {
                "queryResult": {
                    "selectColumns": [{"columnName": "a"}, {"columnName": "b"}],
                    "rows": [
                        {"rowId": "1.2", "data": {"a": 1}, "validationResults": {"isValid": True}},
                        {"rowId": "1.3", "data": [1, None], "validationResults": None},
                    ],
                }
            }
        )

        assert ["a", "b"] == names
        assert [{"a": 1}, {"a": 1, "b": None}] == [row.cells for row in rows]
        assert [{"isValid": True}, None] == [row.validation for row in rows]

    def test_rows_when_a_list_is_too_short_are_a_protocol_error(self):
        """Cells would slip into other columns."""
        with pytest.raises(ProtocolError):
            wire.query_rows(
                {
                    "queryResult": {
                        "selectColumns": [{"columnName": "a"}, {"columnName": "b"}],
                        "rows": [{"rowId": "1.2", "data": [1]}],
                    }
                }
            )

    @pytest.mark.parametrize("text", ["https://x/y?z", '"https://x/y?z"', " https://x/y?z\n"])
    def test_url_always_is_bare(self, text):
        """It comes as text, or as JSON text."""
        assert "https://x/y?z" == wire.own_url(text)

    @pytest.mark.parametrize("text", ["", "ftp://x", "null", 5])
    def test_url_when_it_is_none_is_a_protocol_error(self, text):
        """Nothing else is asked for."""
        with pytest.raises(ProtocolError):
            wire.own_url(text)


class TestRecordSetsAndTasks:
    def test_record_set_when_it_is_something_else_is_a_protocol_error(self):
        """A file has no upsert key."""
        with pytest.raises(ProtocolError):
            wire.record_set(
                {"id": "syn1", "concreteType": "org.sagebionetworks.repo.model.FileEntity"}
            )

    def test_format_when_not_told_is_the_services_default(self):
        """Field by field."""
        assert CsvFormat() == wire.csv_format(None) == wire.csv_format({})
        assert CsvFormat(separator="\t", header=False) == wire.csv_format(
            {"separator": "\t", "isFirstLineHeader": False}
        )

    @pytest.mark.parametrize(
        ("properties", "kind"),
        [
            ({"recordSetId": "syn2"}, "record"),
            ({"uploadFolderId": "syn3", "fileViewId": "syn4"}, "file"),
            ({"inputTaskId": "5"}, ""),
            (None, ""),
        ],
        ids=["record", "file", "newer", "none"],
    )
    def test_task_always_is_of_a_kind_or_of_none_we_know(self, properties, kind):
        """A task of a kind that is newer than this program can still be listed and deleted."""
        task = wire_curation.curation_task(
            {"taskId": "1", "projectId": "syn1", "taskProperties": properties}
        )

        assert (1, kind) == (task.id, task.kind)

    def test_properties_always_are_those_of_their_kind(self):
        """And hold what they were given."""
        record = wire_curation.task_properties(EntityId(2), None, None)
        files = wire_curation.task_properties(None, EntityId(3), None)

        assert record["concreteType"].endswith(".RecordBasedMetadataTaskProperties")
        assert files["concreteType"].endswith(".FileBasedMetadataTaskProperties")
        assert ("syn2", "syn3") == (record["recordSetId"], files["uploadFolderId"])
        assert "fileViewId" not in files
