"""Curation tasks and their status."""

from typing import Any

import pytest

from tests.integration.registry.conftest import Api
from tests.integration.registry.grids import MODEL, record_set

BASE = "/repo/v1/curation/task"
META = MODEL + "curation.metadata."


def task(api: Api, project: str, data_type: str = "people") -> dict[str, Any]:
    """The body of a new task on a new record set."""
    return {
        "dataType": data_type,
        "projectId": project,
        "instructions": "Fill in.",
        "taskProperties": {
            "concreteType": META + "RecordBasedMetadataTaskProperties",
            "recordSetId": record_set(api, project)["id"],
        },
    }


class TestTasks:
    @pytest.mark.req("S0-60")
    def test_task_is_made_changed_listed_and_deleted(self, api: Api, project: str):
        """A task has a number and an etag; a change needs the etag; a deleted one is gone."""
        made = api.ok("POST", BASE, task(api, project), 201)
        path = f"{BASE}/{made['taskId']}"
        assert api.ok("GET", path) == made

        changed = api.ok("PUT", path, {**made, "instructions": "Fill in all."})
        assert changed["instructions"] == "Fill in all."
        api.refused(412, "PUT", path, {**made, "instructions": "Too late."})
        page = api.ok("POST", BASE + "/list", {"projectId": project})["page"]
        assert page == [changed]

        api.ok("DELETE", path, status=204)
        api.refused(404, "GET", path)
        assert api.ok("POST", BASE + "/list", {"projectId": project})["page"] == []

    def test_data_type_is_unique_in_a_project(self, api: Api, project: str):
        """A second task of one data type is refused; in another project it is not."""
        api.ok("POST", BASE, task(api, project), 201)
        api.refused(409, "POST", BASE, task(api, project))
        api.ok("POST", BASE, task(api, api.project()), 201)

    def test_both_kinds_of_properties_and_what_they_need(self, api: Api, project: str):
        """A file-based task names folder and view; what lacks its parts is refused by name."""
        properties = {
            "concreteType": META + "FileBasedMetadataTaskProperties",
            "uploadFolderId": api.folder(project, "data")["id"],
        }
        body = {"dataType": "files", "projectId": project, "taskProperties": properties}
        assert "fileViewId" in api.refused(400, "POST", BASE, body)
        properties["fileViewId"] = properties["uploadFolderId"]
        assert api.ok("POST", BASE, body, 201)["taskProperties"] == properties

    def test_stranger_sees_nothing(self, api: Api, project: str):
        """Tasks are read with the right to read their project."""
        made = api.ok("POST", BASE, task(api, project), 201)
        other = api.user()
        other.refused(403, "GET", f"{BASE}/{made['taskId']}")
        other.refused(403, "POST", BASE + "/list", {"projectId": project})
        other.http.close()


class TestStatus:
    def test_status_starts_and_is_changed_by_its_own_etag(self, api: Api, project: str):
        """A task is not started; its status has an etag of its own, and filters the listing."""
        made = api.ok("POST", BASE, task(api, project), 201)
        path = f"{BASE}/{made['taskId']}/status"
        status = api.ok("GET", path)
        assert status["state"] == "NOT_STARTED"
        details = {
            "concreteType": MODEL + "curation.execution.GridExecutionDetails",
            "activeSessionId": "abc",
        }

        now = {**status, "state": "IN_PROGRESS", "executionDetails": details}
        changed = api.ok("PUT", path, now)

        assert changed["executionDetails"] == details
        api.refused(412, "PUT", path, now)
        api.refused(400, "PUT", path, {**changed, "state": "DONE"})
        assert api.ok("GET", f"{BASE}/{made['taskId']}")["etag"] == made["etag"]
        for state, count in (("IN_PROGRESS", 1), ("COMPLETED", 0)):
            body = {"projectId": project, "stateFilter": [state]}
            assert len(api.ok("POST", BASE + "/list", body)["page"]) == count
