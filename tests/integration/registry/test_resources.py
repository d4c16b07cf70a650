"""What each resource answers, where the official client does not already say so."""

import httpx
import pytest

B4 = {
    "includeEntity": True,
    "includeAnnotations": True,
    "includeFileHandles": True,
    "includeRestrictionInformation": True,
}
HUGE = 1 << 70
T = "org.sagebionetworks.repo.model.table."


class TestUnknown:
    def test_unknown_route_is_404_and_names_it(self, api):
        """A reason that tells method and path."""
        assert "GET /repo/v1/agent/chat" in api.refused(404, "GET", "/repo/v1/agent/chat")

    def test_broken_body_is_400(self, api):
        """Neither a traceback nor a 500."""
        answer = api.http.post("/repo/v1/entity", content=b"{")

        assert answer.status_code == 400
        assert answer.json()["reason"]

    def test_handler_that_fails_is_400(self, api, project):
        """A request that our code did not foresee is refused, never a 5xx."""
        body = {"parentId": project, "entityName": "x"}
        assert api.http.post("/repo/v1/entity/header", json={"references": [5]}).status_code == 400
        assert api.http.post("/repo/v1/entity/child", json=body).status_code == 404

    @pytest.mark.parametrize(
        ("status", "method", "path", "body"),
        [
            (404, "GET", f"/repo/v1/userProfile/{HUGE}", None),
            (400, "GET", f"/repo/v1/activity/{HUGE}", None),
            (400, "GET", f"/file/v1/fileHandle/{HUGE}", None),
            (404, "GET", f"/repo/v1/grid/session/async/get/{HUGE}", None),
            (400, "PUT", f"/file/v1/file/multipart/{HUGE}/complete", None),
            (400, "POST", "/repo/v1/activity", {"used": [None]}),
            (400, "POST", "/repo/v1/entity/header", {"references": ["syn1"]}),
            (400, "POST", "/repo/v1/userGroupHeaders/aliases", {"list": 5}),
            (400, "POST", "/file/v1/filehandles/copy", {"copyRequests": [{}]}),
            (
                400, "POST", "/file/v1/fileHandle/batch",
                {"includeFileHandles": True, "requestedFiles": ["1"]},
            ),
        ],
    )  # fmt: skip
    def test_value_that_cannot_be_is_refused_in_words(self, api, status, method, path, body):
        """A number of no 64 bits, a text where an object belongs: the reason speaks of the request, not of our code."""
        reason = api.refused(status, method, path, body)

        assert "failed:" not in reason


class TestEntities:
    def test_bundle_of_a_file_has_what_the_client_needs(self, api, project):
        """Entity, annotations, handle and restriction in one answer, by version too."""
        file = api.file(project, "a.txt", b"hello")

        for path in (file["id"], f"{file['id']}/version/1"):
            bundle = api.ok("POST", f"/repo/v1/entity/{path}/bundle2", B4, 200)
            assert bundle["entity"]["dataFileHandleId"] == bundle["fileHandles"][0]["id"]
            assert bundle["fileHandles"][0]["contentSize"] == 5
            assert bundle["annotations"]["annotations"] == {}
            assert bundle["restrictionInformation"]["hasUnmetAccessRequirement"] is False

    def test_bundle_gives_every_part_on_request(self, api, project):
        """The remaining flags."""
        flags = dict.fromkeys(
            ("includePermissions", "includeEntityPath", "includeHasChildren",
             "includeAccessControlList", "includeBenefactorACL", "includeThreadCount"), True,
        )  # fmt: skip
        api.folder(project, "d")

        bundle = api.ok("POST", f"/repo/v1/entity/{project}/bundle2", flags)

        assert bundle["permissions"]["canEdit"] is True
        assert [h["id"] for h in bundle["path"]["path"]] == ["syn4489", project]
        assert bundle["hasChildren"] is True
        assert bundle["accessControlList"]["id"] == bundle["benefactorAcl"]["id"] == project

    def test_versions_tell_md5_and_size(self, api, project):
        """The one listing with digests, newest first, empty past the end."""
        file = api.file(project, "a.txt", b"one")
        handle = api.upload(b"three", "a.txt")
        api.ok("PUT", f"/repo/v1/entity/{file['id']}", file | {"dataFileHandleId": handle})

        listed = api.ok("GET", f"/repo/v1/entity/{file['id']}/version?limit=20&offset=0")
        past = api.ok("GET", f"/repo/v1/entity/{file['id']}/version?limit=20&offset=20")

        assert [(2, "5"), (1, "3")] == [
            (v["versionNumber"], v["contentSize"]) for v in listed["results"]
        ]
        assert past["results"] == []

    def test_entities_are_found_by_md5_and_alias(self, api, project):
        """With the matching version in the header."""
        file = api.file(project, "m.txt", b"by digest " + project.encode())
        digest = api.ok("GET", f"/file/v1/fileHandle/{file['dataFileHandleId']}")["contentMd5"]
        alias = project.replace("syn", "alias")
        whole = api.ok("GET", f"/repo/v1/entity/{project}")
        api.ok("PUT", f"/repo/v1/entity/{project}", whole | {"alias": alias})

        found = api.ok("GET", f"/repo/v1/entity/md5/{digest}")["results"]

        assert [(file["id"], 1)] == [(h["id"], h["versionNumber"]) for h in found]
        assert api.ok("GET", f"/repo/v1/entity/alias/{alias}")["id"] == project

    def test_file_redirects_to_its_bytes(self, api, project):
        """307 by default, the URL as text when asked."""
        file = api.file(project, "a.txt", b"hello")
        path = f"/repo/v1/entity/{file['id']}/file"

        assert api.http.get(path).status_code == 307
        url = api.http.get(path, params={"redirect": "false"}).text
        assert httpx.get(url, trust_env=False).content == b"hello"

    def test_swap_of_the_handle_makes_no_version(self, api, project):
        """Equal md5 only; the modification time moves, the version does not."""
        file = api.file(project, "a.txt", b"same bytes")
        path = f"/repo/v1/entity/{file['id']}/version/1/filehandle"
        twin = api.upload(b"same bytes", "twin.txt")
        other = api.upload(b"other bytes", "other.txt")
        body = {"oldFileHandleId": file["dataFileHandleId"], "newFileHandleId": other}

        api.refused(412, "PUT", path, body)
        api.ok("PUT", path, body | {"newFileHandleId": twin})

        now = api.ok("GET", f"/repo/v1/entity/{file['id']}")
        assert (now["dataFileHandleId"], now["versionNumber"]) == (twin, 1)
        assert now["modifiedOn"] > file["modifiedOn"]

    def test_headers_leave_out_what_is_not_there(self, api, project):
        """The batch forms never fail as a whole."""
        references = [{"targetId": project}, {"targetId": "syn1"}]

        found = api.ok("POST", "/repo/v1/entity/header", {"references": references})["results"]

        assert [project] == [h["id"] for h in found]

    def test_link_is_created_and_kept(self, api, project):
        """linksTo is what a link is."""
        target = api.folder(project, "d")
        body = {
            "concreteType": "org.sagebionetworks.repo.model.Link",
            "parentId": project,
            "name": "l",
            "linksTo": {"targetId": target["id"]},
        }
        made = api.ok("POST", "/repo/v1/entity", body, 201)

        assert made["linksTo"]["targetId"] == target["id"]
        assert "versionNumber" not in made


class TestBatch:
    def test_each_file_succeeds_or_fails_alone(self, api, project):
        """201 with NOT_FOUND and UNAUTHORIZED beside good ones."""
        file = api.file(project, "a", b"a")
        other = api.folder(project, "d")
        good, wrong, gone = api.batch(
            [
                (file["dataFileHandleId"], file["id"]),
                (file["dataFileHandleId"], other["id"]),
                ("1", file["id"]),
            ]
        )

        assert good["preSignedURL"]
        assert wrong["failureCode"] == "UNAUTHORIZED"
        assert gone["failureCode"] == "NOT_FOUND"

    def test_more_than_a_hundred_is_400(self, api):
        """And so is asking for nothing."""
        files = [{"fileHandleId": "1"}] * 101
        body = {"includeFileHandles": True, "requestedFiles": files}
        api.refused(400, "POST", "/file/v1/fileHandle/batch", body)
        api.refused(400, "POST", "/file/v1/fileHandle/batch", {"requestedFiles": []})

    def test_unmet_terms_withhold_the_bytes(self, api, project):
        """UNAUTHORIZED in the batch, true in the bundle, until the terms are gone."""
        file = api.file(project, "a", b"a")
        pair = (file["dataFileHandleId"], file["id"])
        api.ok("POST", "/admin/terms", {"entityId": project, "unmet": True})

        assert api.batch([pair])[0]["failureCode"] == "UNAUTHORIZED"
        bundle = api.ok("POST", f"/repo/v1/entity/{file['id']}/bundle2", B4)
        assert bundle["restrictionInformation"]["hasUnmetAccessRequirement"] is True
        api.ok("POST", "/admin/terms", {"entityId": project, "unmet": False})
        assert api.batch([pair])[0]["preSignedURL"]


class TestTables:
    @pytest.fixture
    def table(self, api, project):
        columns = api.ok(
            "POST",
            "/repo/v1/column/batch",
            {
                "list": [
                    {"name": "k", "columnType": "STRING"},
                    {"name": "n", "columnType": "INTEGER"},
                ]
            },
        )["list"]
        body = {
            "entity": {
                "concreteType": T + "TableEntity",
                "name": "t",
                "parentId": project,
                "columnIds": [c["id"] for c in columns],
            }
        }
        return api.ok("POST", "/repo/v1/entity/bundle2/create", body, 201)["entity"]

    def job(self, api, base, body, status=200):
        token = api.ok("POST", f"{base}/async/start", body, 201)["token"]
        while True:
            answer = api.http.get(f"{base}/async/get/{token}")
            if answer.status_code != 202:
                assert answer.status_code == status, answer.text
                return answer.json()
            assert answer.json()["jobState"] == "PROCESSING"

    def append(self, api, table, rows, status=200):
        change = {
            "concreteType": T + "AppendableRowSetRequest",
            "toAppend": {
                "concreteType": T + "PartialRowSet",
                "rows": [
                    {"rowId": row, "values": [{"key": k, "value": v} for k, v in values.items()]}
                    for row, values in rows
                ],
            },
        }
        base = f"/repo/v1/entity/{table['id']}/table/transaction"
        return self.job(api, base, {"changes": [change]}, status)

    def query(self, api, table, sql, mask=1):
        base = f"/repo/v1/entity/{table['id']}/table/query"
        return self.job(api, base, {"query": {"sql": sql}, "partMask": mask})

    def test_rows_are_appended_changed_and_asked_for(self, api, table):
        """Cells come back as text; a change of a row keeps its other cells."""
        k, n = table["columnIds"]
        self.append(api, table, [(None, {k: "a", n: 1}), (None, {k: "b", n: 2})])
        self.append(api, table, [(1, {n: 10})])

        found = self.query(api, table, f"select * from {table['id']} order by n desc", 3)

        rows = found["queryResult"]["queryResults"]["rows"]
        assert [(1, ["a", "10"]), (2, ["b", "2"])] == [(r["rowId"], r["values"]) for r in rows]
        assert found["queryCount"] == 2

    def test_wrong_row_undoes_the_whole_change(self, api, table):
        """All or nothing: a job that failed left nothing, and its failure is a 400 with a reason."""
        k, n = table["columnIds"]
        failed = self.append(api, table, [(None, {k: "a"}), (None, {n: "not a number"})], 400)

        found = self.query(api, table, f"select count(*) from {table['id']}")
        assert "not a number" in failed["reason"]
        assert found["queryResult"]["queryResults"]["rows"] == [{"values": ["0"]}]

    def test_bad_query_is_a_failed_job(self, api, table):
        """400 with the name that is unknown."""
        base = f"/repo/v1/entity/{table['id']}/table/query"
        body = {"query": {"sql": f"select nope from {table['id']}"}}

        assert "nope" in self.job(api, base, body, 400)["reason"]

    def test_generic_job_resource_takes_the_same_request(self, api, table):
        """POST /asynchronous/job, then its status with request and response."""
        body = {
            "concreteType": T + "QueryBundleRequest",
            "entityId": table["id"],
            "query": {"sql": f"select count(*) from {table['id']}"},
        }
        status = api.ok("POST", "/repo/v1/asynchronous/job", body, 201)
        while status["jobState"] == "PROCESSING":
            status = api.ok("GET", f"/repo/v1/asynchronous/job/{status['jobId']}")

        assert status["jobState"] == "COMPLETE"
        assert status["responseBody"]["queryCount"] == 1

    def test_csv_of_a_table_has_no_etags_of_rows(self, api, table, project):
        """The column belongs to views, whose rows are entities."""
        columns = api.ok("GET", "/repo/v1/column/tableview/defaults?viewTypeMask=1")["list"]
        view = {
            "concreteType": T + "EntityView", "name": "v", "parentId": project, "viewTypeMask": 1,
            "scopeIds": [project], "columnIds": [columns[0]["id"]],
        }  # fmt: skip
        view = api.ok("POST", "/repo/v1/entity", view, 201)
        for of, has in ((table, False), (view, True)):
            asked = {"sql": f"select * from {of['id']}", "includeEntityEtag": True}
            base = f"/repo/v1/entity/{of['id']}/table/download/csv"
            handle = self.job(api, base, asked)["resultsFileHandleId"]
            url = api.ok("GET", f"/file/v1/fileHandle/{handle}/url?redirect=false")
            head = httpx.get(url, trust_env=False).text.splitlines()[0]

            assert head.startswith("ROW_ID,ROW_VERSION,")
            assert ("ROW_ETAG" in head) == has

    def test_view_is_never_behind(self, api, project):
        """A view sees a file, its change and its deletion at once, and rows within its scope alone."""
        inside = api.folder(project, "in")
        columns = api.ok("GET", "/repo/v1/column/tableview/defaults?viewTypeMask=1")["list"]
        body = {
            "concreteType": T + "EntityView",
            "name": "v",
            "parentId": project,
            "scopeIds": [inside["id"][3:]],
            "viewTypeMask": 9,
            "columnIds": [c["id"] for c in columns],
        }
        view = api.ok("POST", "/repo/v1/entity", body, 201)
        sql = (
            f"select id, name, path, dataFileSizeBytes, projectId from {view['id']}"
            " where type = 'file' order by name"
        )

        def rows():
            found = self.query(api, view, sql)["queryResult"]["queryResults"]["rows"]
            return [r["values"] for r in found]

        assert rows() == []
        file = api.file(api.folder(inside["id"], "deep")["id"], "f", b"12345")
        api.file(project, "outside", b"x")
        name = api.ok("GET", f"/repo/v1/entity/{project}")["name"]
        assert rows() == [[file["id"], "f", f"{name}/in/deep/f", "5", project]]
        api.ok("DELETE", f"/repo/v1/entity/{file['id']}")
        assert rows() == []

    def test_pages_of_a_query_are_linked_by_tokens(self, api, table):
        """More rows than fit: the token brings the rest."""
        k, _ = table["columnIds"]
        self.append(api, table, [(None, {k: "x" * 50}) for _ in range(10_500)])

        result = self.query(api, table, f"select k from {table['id']}")["queryResult"]
        base = f"/repo/v1/entity/{table['id']}/table/query/nextPage"
        seen = len(result["queryResults"]["rows"])
        while result["nextPageToken"]:
            result = self.job(api, base, result["nextPageToken"])
            seen += len(result["queryResults"]["rows"])

        assert seen == 10_500


class TestRest:
    def test_message_is_accepted_and_dropped(self, api):
        """A sync of the official client ends with one."""
        api.ok("POST", "/repo/v1/message", {"subject": "s", "recipients": ["1"]}, 201)

    def test_upload_destination_is_the_default_storage(self, api, project):
        """Asked before every upload."""
        told = api.ok("GET", f"/file/v1/entity/{project}/uploadDestination")

        assert (told["storageLocationId"], told["uploadType"]) == (1, "S3")

    def test_usage_is_the_sum_of_the_current_files(self, api, project):
        """Over all folders of the project."""
        api.file(api.folder(project, "d")["id"], "a", b"12345")
        api.file(project, "b", b"123")

        (location,) = api.ok("GET", f"/repo/v1/project/{project}/storage/usage")["locations"]

        assert location["sumFileBytes"] == 8

    def test_projects_are_listed_by_activity(self, api, project):
        """The newest first."""
        assert api.ok("GET", "/repo/v1/projects")["results"][0]["id"] == project

    def test_annotations_need_the_etag_and_valid_keys(self, api, project):
        """412 for a stale one, 400 for a key with a space."""
        now = api.ok("GET", f"/repo/v1/entity/{project}/annotations2")
        path = f"/repo/v1/entity/{project}/annotations2"
        good = {"a.b": {"type": "LONG", "value": ["1"]}}

        api.refused(400, "PUT", path, now | {"annotations": {"a b": good["a.b"]}})
        api.refused(
            400, "PUT", path, now | {"annotations": {"a": {"type": "LONG", "value": ["x"]}}}
        )
        assert api.ok("PUT", path, now | {"annotations": good})["annotations"] == good
        api.refused(412, "PUT", path, now)
