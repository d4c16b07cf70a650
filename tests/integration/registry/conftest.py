"""One registry process for all tests of this folder; each test has a project of its own."""

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.registry import Registry, running

_numbers = itertools.count(1)
FOLDER = "org.sagebionetworks.repo.model.Folder"
FILE = "org.sagebionetworks.repo.model.FileEntity"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def api(shared: Registry) -> Iterator["Api"]:
    """The shared registry, without faults, as its owner sees it."""
    api = Api(shared)
    yield api
    api.http.delete("/admin/faults")
    api.http.close()


@pytest.fixture
def project(api: "Api") -> str:
    return api.project()


class Api:
    """Requests, and the few steps that most tests begin with."""

    def __init__(self, registry: Registry, token: str | None = None) -> None:
        self.registry = registry
        self.http = httpx.Client(
            base_url=registry.url,
            headers={"Authorization": f"Bearer {token or registry.token}"},
            trust_env=False,
            timeout=30,
        )

    def ok(self, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        """The JSON of an answer that must be good."""
        answer = self.http.request(method, path, json=body)
        assert answer.is_success if status is None else answer.status_code == status, answer.text
        is_json = "json" in answer.headers.get("content-type", "")
        return answer.json() if is_json else answer.text

    def refused(self, status: int, method: str, path: str, body: Any = None) -> str:
        """The reason of an answer that must be that refusal."""
        answer = self.http.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        reason: str = answer.json()["reason"]
        assert reason
        return reason

    def project(self) -> str:
        name = f"Project {next(_numbers)}"
        concrete = "org.sagebionetworks.repo.model.Project"
        made = self.ok("POST", "/repo/v1/entity", {"concreteType": concrete, "name": name}, 201)
        return str(made["id"])

    def folder(self, parent: str, name: str) -> dict[str, Any]:
        body = {"concreteType": FOLDER, "name": name, "parentId": parent}
        made: dict[str, Any] = self.ok("POST", "/repo/v1/entity", body, 201)
        return made

    def upload(self, data: bytes, name: str, part_size: int = 5 << 20) -> str:
        """The id of a new file handle."""
        status = self.ok("POST", "/file/v1/file/multipart", multipart(data, name, part_size), 201)
        upload = status["uploadId"]
        if status["state"] == "COMPLETED":
            return str(status["resultFileHandleId"])
        numbers = [n + 1 for n, s in enumerate(status["partsState"]) if s == "0"]
        for number, url in self.part_urls(upload, numbers).items():
            part = data[(number - 1) * part_size : number * part_size]
            assert httpx.put(url, content=part, trust_env=False).status_code == 200
            md5 = hashlib.md5(part).hexdigest()
            added = self.ok(
                "PUT", f"/file/v1/file/multipart/{upload}/add/{number}?partMD5Hex={md5}"
            )
            assert added["addPartState"] == "ADD_SUCCESS"
        done = self.ok("PUT", f"/file/v1/file/multipart/{upload}/complete", status=201)
        return str(done["resultFileHandleId"])

    def part_urls(self, upload: str, numbers: list[int]) -> dict[int, str]:
        answer = self.ok(
            "POST",
            f"/file/v1/file/multipart/{upload}/presigned/url/batch",
            {"uploadId": upload, "partNumbers": numbers},
            201,
        )
        return {u["partNumber"]: u["uploadPresignedUrl"] for u in answer["partPresignedUrls"]}

    def file(self, parent: str, name: str, data: bytes) -> dict[str, Any]:
        handle = self.upload(data, name)
        body = {"concreteType": FILE, "name": name, "parentId": parent, "dataFileHandleId": handle}
        made: dict[str, Any] = self.ok("POST", "/repo/v1/entity", body, 201)
        return made

    def url(self, file: dict[str, Any]) -> str:
        """The presigned URL of a file's current bytes."""
        (result,) = self.batch([(file["dataFileHandleId"], file["id"])])
        return str(result["preSignedURL"])

    def batch(self, files: list[tuple[str, str]]) -> list[dict[str, Any]]:
        wanted = [
            {"fileHandleId": h, "associateObjectId": e, "associateObjectType": "FileEntity"}
            for h, e in files
        ]
        body = {"includeFileHandles": True, "includePreSignedURLs": True, "requestedFiles": wanted}
        found: list[dict[str, Any]] = self.ok("POST", "/file/v1/fileHandle/batch", body, 201)[
            "requestedFiles"
        ]
        return found

    def user(self, **body: Any) -> "Api":
        """A new user's view of the registry."""
        made = self.ok("POST", "/admin/users", {"userName": f"user{next(_numbers)}", **body}, 201)
        return Api(self.registry, made["token"])


def multipart(data: bytes, name: str, part_size: int = 5 << 20) -> dict[str, Any]:
    return {
        "concreteType": "org.sagebionetworks.repo.model.file.MultipartUploadRequest",
        "fileName": name,
        "fileSizeBytes": len(data),
        "contentMD5Hex": hashlib.md5(data).hexdigest(),
        "contentType": "application/octet-stream",
        "partSizeBytes": part_size,
        "generatePreview": True,
    }
