"""Schemas, record sets, curation tasks and grids: a curator's whole round, by the object model."""

import csv
import time
from pathlib import Path

from prelude import WORK, login, raises, unique, write
from synapseclient.models import (
    CurationTask,
    FileBasedMetadataTaskProperties,
    Folder,
    Grid,
    JSONSchema,
    Project,
    RecordBasedMetadataTaskProperties,
    RecordSet,
    SchemaOrganization,
)
from synapseclient.models.curation import (
    GridQuery,
    QueryRequest,
    RowIsValidFilter,
    SelectAll,
    SyncType,
)
from synapseclient.models.table_components import CsvTableDescriptor

syn = login()
project = Project(name=unique("Curation")).store()

# Schemas
name = "my.org" + project.id
organization = SchemaOrganization(name=name).store()
assert SchemaOrganization(name=name).get().id == organization.id
organization.update_acl(principal_id=273949, access_type=["READ"])
assert 273949 in [one["principalId"] for one in organization.get_acl()["resourceAccess"]]

body = {
    "type": "object",
    "properties": {
        "individualID": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "sex": {"enum": ["female", "male"]},
    },
    "required": ["individualID", "sex"],
}
schema = JSONSchema(name="people", organization_name=name)
schema.store(schema_body=dict(body), version="0.0.1", dry_run=True)
raises("ValueError", JSONSchema(name="people", organization_name=name).get)
schema.store(schema_body=dict(body), version="0.0.1")
assert JSONSchema(name="people", organization_name=name).get().id
assert [v.semantic_version for v in schema.get_versions()] == ["0.0.1"]
assert schema.get_body(version="0.0.1")["required"] == ["individualID", "sex"]
assert [one.name for one in organization.get_json_schemas()] == ["people"]

# Bindings
folder = Folder(name="data", parent_id=project.id).store()
folder.bind_schema(json_schema_uri=f"{name}-people-0.0.1")
bound = folder.get_schema().json_schema_version_info
assert (bound.organization_name, bound.schema_name) == (name, "people"), bound

# A record set
text = "individualID,age,sex\nI-1,34,female\nI-2,-1,male\nI-3,7,unknown\n"
path = write("people.csv", text)
records = RecordSet(
    name="people",
    parent_id=folder.id,
    path=path,
    upsert_keys=["individualID"],
    csv_descriptor=CsvTableDescriptor(),
).store()
assert records.version_number == 1
got = RecordSet(id=records.id, path=str(WORK / "down")).get()
assert got.upsert_keys == ["individualID"], got
assert Path(got.path).read_text() == text
assert records.get_schema().json_schema_version_info.schema_name == "people"

# Tasks
task = CurationTask(
    data_type="people",
    project_id=project.id,
    instructions="Fill in.",
    task_properties=RecordBasedMetadataTaskProperties(record_set_id=records.id),
).store()
again = CurationTask(
    data_type="people",
    project_id=project.id,
    instructions="Fill in all.",
    task_properties=RecordBasedMetadataTaskProperties(record_set_id=records.id),
).store()
assert (again.task_id, again.instructions) == (task.task_id, "Fill in all.")
other = CurationTask(
    data_type="files",
    project_id=project.id,
    instructions="Annotate.",
    task_properties=FileBasedMetadataTaskProperties(
        upload_folder_id=folder.id, file_view_id=folder.id
    ),
).store()
assert CurationTask(task_id=other.task_id).get().task_properties.upload_folder_id == folder.id
listed = [one.data_type for one in CurationTask.list(project_id=project.id)]
assert listed == ["people", "files"], listed
other.delete()
assert len(list(CurationTask.list(project_id=project.id))) == 1

# A grid
grid = Grid(record_set_id=records.id).create()
assert grid.grid_json_schema_id == f"{name}-people-0.0.1", grid
assert Grid(session_id=grid.session_id).get().source_entity_id == records.id
assert [one.session_id for one in Grid.list(source_id=records.id)] == [grid.session_id]
assert Grid(record_set_id=records.id).create(attach_to_previous_session=True).session_id == (
    grid.session_id
)

with grid.connect() as session:
    ask = QueryRequest(
        query=GridQuery(
            column_selection=[SelectAll()],
            filters=[RowIsValidFilter(value=False)],
            include_validation_messages=True,
        )
    )
    ends = time.monotonic() + 20
    while True:
        rows = session.validate_rows(query_request=ask).rows
        if len(rows) == 2 or time.monotonic() > ends:
            break
    assert [row.data["individualID"] for row in rows] == ["I-2", "I-3"], rows
    assert rows[0].validation_results.all_validation_messages == [
        "#/age: -1 is not greater or equal to 0"
    ]

more = write("more.csv", "individualID,age,sex\nI-3,7,male\nI-4,1,female\n")
grid.import_csv(path=more)

down = grid.download_csv(destination=str(WORK))
with open(down) as file:
    found = {row["individualID"]: row["sex"] for row in csv.DictReader(file)}
assert found == {"I-1": "female", "I-2": "male", "I-3": "male", "I-4": "female"}, found

grid.synchronize(sync_type=SyncType.PULL_PUSH)
assert RecordSet(id=records.id, download_file=False).get().version_number == 2

grid = grid.export_to_record_set()
assert grid.record_set_version_number == 3, grid
assert grid.validation_summary_statistics.total_number_of_children == 4
exported = RecordSet(id=records.id, download_file=False).get()
assert exported.validation_summary.total_number_of_children == 4
details = exported.get_detailed_validation_results(download_location=str(WORK))
assert list(details.columns) == [
    "row_index", "is_valid", "validation_error_message", "all_validation_messages",
], details  # fmt: skip

grid.delete()
assert list(Grid.list(source_id=records.id)) == []


# All away again
task.delete(delete_source=True)
folder.unbind_schema()
schema.delete()
organization.delete()
