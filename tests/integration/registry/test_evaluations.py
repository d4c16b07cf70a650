"""Evaluations and submissions: who may do what, and what a submission holds on to."""

import itertools
from typing import Any

import httpx
import pytest

from tests.integration.registry.conftest import Api

EVALUATION = "/repo/v1/evaluation"
_numbers = itertools.count(1)


@pytest.fixture
def queue(api: Api, project: str) -> dict[str, Any]:
    """An evaluation of the registry's owner."""
    body = {"name": f"Queue {next(_numbers)}", "contentSource": project}
    made: dict[str, Any] = api.ok("POST", EVALUATION, body, 201)
    return made


def submit(api: Api, queue: dict[str, Any], file: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"evaluationId": queue["id"], "entityId": file["id"], "versionNumber": 1, **more}
    made: dict[str, Any] = api.ok("POST", f"{EVALUATION}/submission?etag={file['etag']}", body, 201)
    return made


def share(api: Api, queue: dict[str, Any], *names: str) -> None:
    """Gives every user those rights."""
    acl = api.ok("GET", f"{EVALUATION}/{queue['id']}/acl")
    acl["resourceAccess"].append({"principalId": 273948, "accessType": list(names)})
    api.ok("PUT", f"{EVALUATION}/acl", acl)


class TestEvaluations:
    def test_evaluation_needs_a_project_and_a_name(self, api, project):
        """Of its own: a folder, nothing, or a taken name are refused."""
        folder = api.folder(project, "f")["id"]
        api.refused(400, "POST", EVALUATION, {"name": "x", "contentSource": folder})
        api.refused(400, "POST", EVALUATION, {"name": "x"})
        api.refused(400, "POST", EVALUATION, {"contentSource": project})
        api.refused(404, "POST", EVALUATION, {"name": "x", "contentSource": "syn999999999"})
        body = {"name": f"Taken {next(_numbers)}", "contentSource": project}
        api.ok("POST", EVALUATION, body, 201)
        api.refused(409, "POST", EVALUATION, body)

    def test_update_needs_the_present_etag(self, api, queue):
        """412, and the new one is another."""
        changed = api.ok("PUT", f"{EVALUATION}/{queue['id']}", {**queue, "description": "d"})

        assert changed["description"] == "d"
        assert changed["etag"] != queue["etag"]
        api.refused(412, "PUT", f"{EVALUATION}/{queue['id']}", queue)

    def test_others_see_nothing_until_it_is_shared(self, api, queue, project):
        """Neither by id, nor by name, nor in a list."""
        other = api.user()
        other.refused(403, "GET", f"{EVALUATION}/{queue['id']}")
        assert queue["id"] not in [e["id"] for e in other.ok("GET", EVALUATION)["results"]]
        share(api, queue, "READ")

        assert other.ok("GET", f"{EVALUATION}/name/{queue['name']}")["id"] == queue["id"]
        assert queue["id"] in [
            e["id"] for e in other.ok("GET", f"{EVALUATION}?limit=100")["results"]
        ]
        told = other.ok("GET", f"{EVALUATION}/{queue['id']}/permissions")
        assert (told["canView"], told["canSubmit"], told["canEdit"]) == (True, False, False)
        other.refused(403, "DELETE", f"{EVALUATION}/{queue['id']}")
        other.refused(403, "GET", f"{EVALUATION}/{queue['id']}/submission/all")
        other.http.close()


class TestSubmissions:
    def test_submission_keeps_what_was_submitted(self, api, queue, project):
        """A later version changes neither the entity in it nor the bytes that it gives."""
        file = api.file(project, "a", b"first")
        made = submit(api, queue, file)
        newer = api.upload(b"second", "a")
        api.ok("PUT", f"/repo/v1/entity/{file['id']}", {**file, "dataFileHandleId": newer})
        found = api.ok("GET", f"{EVALUATION}/submission/{made['id']}")

        assert (found["versionNumber"], found["name"]) == (1, "a")
        assert f'"dataFileHandleId": "{file["dataFileHandleId"]}"' in found["entityBundleJSON"]
        path = f"{EVALUATION}/submission/{made['id']}/file/{file['dataFileHandleId']}"
        url = api.ok("GET", f"{path}?redirect=false")
        assert httpx.get(url, trust_env=False).content == b"first"
        api.refused(404, "GET", f"{EVALUATION}/submission/{made['id']}/file/{newer}")

    def test_submission_of_what_has_changed_meanwhile_is_412(self, api, queue, project):
        """The etag says what the submitter has looked at."""
        file = api.file(project, "a", b"x")
        body = {"evaluationId": queue["id"], "entityId": file["id"]}
        for etag in ("", "?etag=other"):
            api.refused(412, "POST", f"{EVALUATION}/submission{etag}", body)

    def test_submitter_sees_its_own_and_judges_see_all(self, api, queue, project):
        """Bytes too, by the association with the submission."""
        other, third = api.user(), api.user()
        share(api, queue, "READ", "SUBMIT")
        own = other.project()
        file = other.file(own, "secret", b"of theirs")
        made = submit(other, queue, file)
        asked = {
            "includePreSignedURLs": True,
            "requestedFiles": [
                {
                    "fileHandleId": file["dataFileHandleId"],
                    "associateObjectId": made["id"],
                    "associateObjectType": "SubmissionAttachment",
                }
            ],
        }
        for who, may in ((other, True), (api, True), (third, False)):
            [one] = who.ok("POST", "/file/v1/fileHandle/batch", asked, 201)["requestedFiles"]
            assert ("preSignedURL" in one) == may, one
        assert (
            other.ok("GET", f"{EVALUATION}/{queue['id']}/submission")["totalNumberOfResults"] == 1
        )
        third.refused(403, "GET", f"{EVALUATION}/submission/{made['id']}")
        other.refused(403, "DELETE", f"{EVALUATION}/submission/{made['id']}")
        status = other.ok("GET", f"{EVALUATION}/submission/{made['id']}/status")
        other.refused(403, "PUT", f"{EVALUATION}/submission/{made['id']}/status", status)
        for one in (other, third):
            one.http.close()

    def test_quota_is_kept(self, api, project):
        """So many submissions of one user, and no more."""
        body = {
            "name": f"Quota {next(_numbers)}",
            "contentSource": project,
            "quota": {"submissionLimit": 1},
        }
        queue = api.ok("POST", EVALUATION, body, 201)
        file = api.file(project, "a", b"x")
        submit(api, queue, file)

        again = {"evaluationId": queue["id"], "entityId": file["id"]}
        assert "quota" in api.refused(
            403, "POST", f"{EVALUATION}/submission?etag={file['etag']}", again
        )

    def test_status_that_is_none_or_stale_is_refused(self, api, queue, project):
        """A batch of statuses is written whole or not at all."""
        file = api.file(project, "a", b"x")
        one, two = (submit(api, queue, file) for _ in range(2))
        path = f"{EVALUATION}/submission/{one['id']}/status"
        status = api.ok("GET", path)
        api.refused(400, "PUT", path, {**status, "status": "EXCELLENT"})
        good = {**status, "status": "SCORED"}
        stale = {**api.ok("GET", f"{EVALUATION}/submission/{two['id']}/status"), "etag": "old"}
        batch = {"statuses": [good, stale], "isFirstBatch": True, "isLastBatch": True}
        api.refused(412, "PUT", f"{EVALUATION}/{queue['id']}/statusBatch", batch)

        assert api.ok("GET", path) == status
        assert api.ok("PUT", path, good)["statusVersion"] == 1

    def test_evaluation_takes_its_submissions_with_it(self, api, queue, project):
        """Nothing of them is left."""
        made = submit(api, queue, api.file(project, "a", b"x"))
        api.ok("DELETE", f"{EVALUATION}/{queue['id']}", status=204)

        api.refused(404, "GET", f"{EVALUATION}/submission/{made['id']}")


def test_restriction_tells_what_the_client_reads(api, project):
    """`is_restricted=True` locks the download and looks for the access team's case in the answer."""
    file = api.file(project, "a", b"x")
    told = api.ok("POST", f"/repo/v1/entity/{file['id']}/lockAccessRequirement", status=201)

    assert told["jiraKey"]
    [found] = api.batch([(file["dataFileHandleId"], file["id"])])
    assert found["failureCode"] == "UNAUTHORIZED"
