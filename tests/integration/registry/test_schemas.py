"""JSON schemas, their bindings, and what holding entities against them gives."""

import sqlite3
from pathlib import Path

from tests.integration.registry.conftest import Api
from tests.integration.registry.grids import (
    PEOPLE,
    bind,
    job,
    organization,
    record_set,
    refused_job,
    register,
    schema,
)
from tests.support.registry import running

BASE = "/repo/v1/schema"


class TestOrganizations:
    def test_name_is_taken_once_and_checked(self, api: Api):
        """A name belongs to one organization, whatever its case; malformed ones are refused."""
        name = organization(api)
        body = {"organizationName": name.upper()}
        api.refused(409, "POST", f"{BASE}/organization", body)
        for bad in ("short", "9starts.with.digit", "has-hyphen"):
            api.refused(400, "POST", f"{BASE}/organization", {"organizationName": bad})
        assert api.ok("GET", f"{BASE}/organization?name={name}")["name"] == name

    def test_only_an_empty_one_is_deleted_and_by_its_owner(self, api: Api):
        """Schemas go first; strangers may neither register nor delete."""
        name = organization(api)
        number = api.ok("GET", f"{BASE}/organization?name={name}")["id"]
        register(api, PEOPLE, f"{name}-people")
        other = api.user()

        other.refused(403, "DELETE", f"{BASE}/organization/{number}")
        request = {"schema": {**PEOPLE, "$id": f"{name}-theirs"}}
        assert refused_job(other, "/schema/type/create", request)[0] == 403
        other.http.close()
        api.refused(400, "DELETE", f"{BASE}/organization/{number}")
        api.ok("DELETE", f"{BASE}/type/registered/{name}-people", status=204)
        api.ok("DELETE", f"{BASE}/organization/{number}", status=204)
        api.refused(404, "GET", f"{BASE}/organization?name={name}")


class TestRegistration:
    def test_address_before_the_id_is_taken_off(self, api: Api):
        """The official client sends the id as a URL; it is registered by its name."""
        name = organization(api)
        uri = f"{name}-people-1.2.3"

        made = register(api, PEOPLE, f"https://x.invalid/repo/v1/schema/type/registered/{uri}")

        info = made["newVersionInfo"]
        assert (info["$id"], info["semanticVersion"]) == (uri, "1.2.3")
        assert api.ok("GET", f"{BASE}/type/registered/{uri}")["$id"] == uri

    def test_version_is_registered_once_and_bare_name_is_the_newest(self, api: Api):
        """A number is final; a name without one means the newest registration."""
        name = organization(api)
        register(api, PEOPLE, f"{name}-people-1.0.0")
        again = {"schema": {**PEOPLE, "$id": f"{name}-people-1.0.0"}}
        assert refused_job(api, "/schema/type/create", again)[0] == 409
        register(api, {"title": "newer"}, f"{name}-people-1.1.0")

        assert api.ok("GET", f"{BASE}/type/registered/{name}-people")["title"] == "newer"
        body = {"organizationName": name, "schemaName": "people"}
        listed = api.ok("POST", f"{BASE}/version/list", body)["page"]
        assert [one["semanticVersion"] for one in listed] == ["1.0.0", "1.1.0"]
        listed = api.ok("POST", f"{BASE}/list", {"organizationName": name})["page"]
        assert [one["schemaName"] for one in listed] == ["people"]

    def test_dry_run_leaves_nothing(self, api: Api):
        """A dry run answers as a registration would, and registers nothing."""
        uri = f"{organization(api)}-people-1.0.0"
        assert register(api, PEOPLE, uri, dryRun=True)["newVersionInfo"]["$id"] == uri
        api.refused(404, "GET", f"{BASE}/type/registered/{uri}")

    def test_what_is_no_schema_is_refused(self, api: Api):
        """A schema must be one, and its $id well formed."""
        name = organization(api)
        for body in ({"$id": f"{name}-a", "type": "text"}, {"$id": name}, {"type": "object"}):
            assert refused_job(api, "/schema/type/create", {"schema": body})[0] == 400

    def test_references_become_definitions(self, api: Api):
        """The validation schema holds what the schema refers to, and what that refers to, and cycles."""
        name = organization(api)
        register(api, {"type": "object"}, f"{name}-node")
        node = {
            "properties": {"next": {"$ref": f"{name}-node"}, "own": {"$ref": "#/definitions/x"}},
            "definitions": {"x": {"type": "integer"}},
        }
        register(api, node, f"{name}-node-1.0.0")
        uri = f"{name}-list"
        register(api, {"properties": {"head": {"$ref": f"{name}-node-1.0.0"}}}, uri)

        whole = job(api, "/schema/type/validation", {"$id": uri})["validationSchema"]

        place = f"#/definitions/{name}-node-1.0.0"
        assert whole["properties"]["head"]["$ref"] == place
        inner = whole["definitions"][f"{name}-node-1.0.0"]
        assert inner["properties"]["own"]["$ref"] == f"{place}/definitions/x"
        assert inner["properties"]["next"]["$ref"] == f"#/definitions/{name}-node"
        missing = {"schema": {"$id": f"{name}-bad", "$ref": f"{name}-nowhere"}}
        assert refused_job(api, "/schema/type/create", missing)[0] == 404


class TestBindings:
    def test_nearest_ancestor_rules(self, api: Api, project: str):
        """A binding holds for what is below, until one that is nearer; without any there is 404."""
        folder = api.folder(project, "data")["id"]
        path = f"/repo/v1/entity/{folder}/schema/binding"
        api.refused(404, "GET", path)
        outer, inner = schema(api), schema(api)

        bind(api, project, outer)
        told = api.ok("GET", path)
        assert told["jsonSchemaVersionInfo"]["$id"] == outer
        assert told["objectId"] == int(project.removeprefix("syn"))
        bind(api, folder, inner)
        assert api.ok("GET", path)["jsonSchemaVersionInfo"]["$id"] == inner
        api.ok("DELETE", path, status=204)
        assert api.ok("GET", path)["jsonSchemaVersionInfo"]["$id"] == outer

    def test_bound_schema_is_not_deleted(self, api: Api, project: str):
        """A schema that something is held against stays."""
        uri = schema(api)
        bind(api, project, uri)
        api.refused(400, "DELETE", f"{BASE}/type/registered/{uri}")

    def test_entity_is_held_against_its_schema(self, api: Api, project: str):
        """An entity's annotations are validated, and a container counts its children."""
        file = api.file(project, "a.txt", b"a")
        path = f"/repo/v1/entity/{file['id']}"
        api.refused(404, "GET", f"{path}/schema/validation")
        bind(api, project, schema(api))

        told = api.ok("GET", f"{path}/schema/validation")
        assert told["isValid"] is False
        assert "#: required key [sex] not found" in told["allValidationMessages"]
        notes = api.ok("GET", f"{path}/annotations2")
        notes["annotations"] = {
            name: {"type": "STRING", "value": [value]}
            for name, value in (("sex", "male"), ("individualID", "I-1"))
        }
        api.ok("PUT", f"{path}/annotations2", notes)

        assert api.ok("GET", f"{path}/schema/validation")["isValid"] is True
        counts = api.ok("GET", f"/repo/v1/entity/{project}/schema/validation/statistics")
        assert (counts["totalNumberOfChildren"], counts["numberOfValidChildren"]) == (1, 1)


class TestRecordSets:
    def test_record_set_is_a_file_with_a_key(self, api: Api, project: str):
        """A record set downloads as a file does, is listed by its kind, and tells its key in a bundle."""
        record = record_set(api, project)
        flags = {"includeEntity": True, "includeFileHandles": True, "includeFileName": True}

        bundle = api.ok("POST", f"/repo/v1/entity/{record['id']}/bundle2", flags)

        assert bundle["entityType"] == "recordset"
        assert bundle["entity"]["upsertKey"] == ["individualID"]
        assert bundle["fileName"] == "people.csv"
        (found,) = api.batch([(record["dataFileHandleId"], record["id"])])
        assert "preSignedURL" in found
        body = {"parentId": project, "includeTypes": ["recordset"]}
        (listed,) = api.ok("POST", "/repo/v1/entity/children", body)["page"]
        assert listed["type"].endswith(".RecordSet")
        body["includeTypes"] = ["file"]
        assert api.ok("POST", "/repo/v1/entity/children", body)["page"] == []


class TestOlderDatabase:
    def test_database_of_schema_1_is_carried_on(self, tmp_path: Path):
        """A folder made before there were schemas and grids gets their tables, and keeps what it has."""
        with running(tmp_path / "data") as registry:
            api = Api(registry)
            project = api.project()
            api.http.close()
        with sqlite3.connect(tmp_path / "data" / "registry.db") as db:
            names = [
                name
                for (name,) in db.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table' AND (name LIKE 'grid_%'"
                    " OR name LIKE '%schema%' OR name IN ('curation_task', 'evaluation', 'submission'))"
                    " AND name NOT LIKE 'sqlite_%' ORDER BY name DESC"
                )
            ]
            for name in names:
                db.execute(f"DROP TABLE {name}")
            db.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
        db.close()
        assert len(names) == 11

        with running(tmp_path / "data") as registry:
            api = Api(registry)
            assert api.ok("GET", f"/repo/v1/entity/{project}")["id"] == project
            assert api.ok("POST", "/repo/v1/grid/session/list", {})["page"] == []
            assert api.ok("GET", "/repo/v1/evaluation")["results"] == []
            api.http.close()
