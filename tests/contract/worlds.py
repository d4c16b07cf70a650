"""A service to talk to, and somebody else who changes it: in memory, or a real registry over HTTP.

The contract tests know only `World`, so that the fake proves to be no kinder than the real thing.
"""

from __future__ import annotations

import hashlib
import http.client
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from synd.client.remote import Remote
from synd.client.service import SynapseClient
from synd.ids import EntityId, FileHandleId, entity_id, syn
from synd.testing import FakeRemote

Work = Callable[["World"], Awaitable[None]]
Runner = Callable[[Work], None]

MODEL = "org.sagebionetworks.repo.model."


class World(ABC):
    """Builders of a service's content. All are coroutines, as the real ones send requests."""

    remote: Remote

    @abstractmethod
    async def project(self, name: str) -> EntityId: ...

    @abstractmethod
    async def folder(self, parent: EntityId, name: str) -> EntityId: ...

    @abstractmethod
    async def file(self, parent: EntityId, name: str, content: bytes) -> EntityId: ...

    @abstractmethod
    async def external(self, parent: EntityId, name: str, url: str) -> EntityId: ...

    @abstractmethod
    async def link(
        self, parent: EntityId, name: str, target: EntityId, version: int | None
    ) -> EntityId: ...

    @abstractmethod
    async def new_version(self, entity: EntityId, content: bytes) -> None: ...

    @abstractmethod
    async def rename(self, entity: EntityId, name: str) -> None: ...

    @abstractmethod
    async def annotate(self, entity: EntityId, key: str, value: str) -> None: ...

    @abstractmethod
    async def delete(self, entity: EntityId) -> None: ...

    @abstractmethod
    async def content(self, handle: FileHandleId, url: str | None) -> bytes:
        """The bytes behind a file handle, which `url` leads to where there is a storage."""

    @abstractmethod
    async def activity(self, entity: EntityId, name: str) -> None: ...


class FakeWorld(World):
    """`FakeRemote` and its builders."""

    def __init__(self) -> None:
        self.fake = FakeRemote()
        self.remote = self.fake

    async def project(self, name: str) -> EntityId:
        return self.fake.project(name)

    async def folder(self, parent: EntityId, name: str) -> EntityId:
        return self.fake.folder(parent, name)

    async def file(self, parent: EntityId, name: str, content: bytes) -> EntityId:
        return self.fake.file(parent, name, content)

    async def external(self, parent: EntityId, name: str, url: str) -> EntityId:
        return self.fake.file(parent, name, None, external_url=url)

    async def link(
        self, parent: EntityId, name: str, target: EntityId, version: int | None
    ) -> EntityId:
        return self.fake.link(parent, name, target, version)

    async def new_version(self, entity: EntityId, content: bytes) -> None:
        self.fake.new_version(entity, content)

    async def rename(self, entity: EntityId, name: str) -> None:
        self.fake.rename(entity, name)

    async def annotate(self, entity: EntityId, key: str, value: str) -> None:
        self.fake.annotate(entity, **{key: value})

    async def delete(self, entity: EntityId) -> None:
        self.fake.trash(entity)

    async def content(self, handle: FileHandleId, url: str | None) -> bytes:
        return self.fake.content(handle) or b""

    async def activity(self, entity: EntityId, name: str) -> None:
        self.fake.set_activity(entity, {"name": name})


class ServiceWorld(World):
    """The real client, which also plays the other person, through its raw access."""

    def __init__(self, client: SynapseClient) -> None:
        self.client = client
        self.remote = client

    async def _create(self, kind: str, parent: EntityId | None, name: str, **more: Any) -> EntityId:
        body: dict[str, Any] = {"concreteType": f"{MODEL}{kind}", "name": name, **more}
        if parent is not None:
            body["parentId"] = syn(parent)
        return entity_id((await self.client.rest("POST", "/entity", body))["id"])

    async def _change(self, entity: EntityId, **changes: Any) -> None:
        body = await self.client.rest("GET", f"/entity/{syn(entity)}")
        await self.client.rest("PUT", f"/entity/{syn(entity)}", {**body, **changes})

    async def project(self, name: str) -> EntityId:
        return await self._create("Project", None, name)

    async def folder(self, parent: EntityId, name: str) -> EntityId:
        return await self._create("Folder", parent, name)

    async def file(self, parent: EntityId, name: str, content: bytes) -> EntityId:
        handle = await self._upload(name, content)
        return await self._create("FileEntity", parent, name, dataFileHandleId=str(handle))

    async def external(self, parent: EntityId, name: str, url: str) -> EntityId:
        body = {
            "concreteType": f"{MODEL}file.ExternalFileHandle",
            "fileName": name,
            "externalURL": url,
        }
        handle = await self.client.rest("POST", "/file/v1/externalFileHandle", body)
        return await self._create("FileEntity", parent, name, dataFileHandleId=handle["id"])

    async def link(
        self, parent: EntityId, name: str, target: EntityId, version: int | None
    ) -> EntityId:
        to = {"targetId": syn(target), "targetVersionNumber": version}
        return await self._create(
            "Link", parent, name, linksTo=to, linksToClassName=f"{MODEL}FileEntity"
        )

    async def new_version(self, entity: EntityId, content: bytes) -> None:
        handle = await self._upload("again", content)
        await self._change(entity, dataFileHandleId=str(handle), versionLabel=None)

    async def rename(self, entity: EntityId, name: str) -> None:
        await self._change(entity, name=name)

    async def annotate(self, entity: EntityId, key: str, value: str) -> None:
        path = f"/entity/{syn(entity)}/annotations2"
        body = await self.client.rest("GET", path)
        body["annotations"] = {
            **(body.get("annotations") or {}),
            key: {"type": "STRING", "value": [value]},
        }
        await self.client.rest("PUT", path, body)

    async def delete(self, entity: EntityId) -> None:
        await self.client.rest("DELETE", f"/entity/{syn(entity)}")

    async def content(self, handle: FileHandleId, url: str | None) -> bytes:
        return _get(url or "")

    async def activity(self, entity: EntityId, name: str) -> None:
        made = await self.client.rest("POST", "/activity", {"name": name, "used": []})
        await self.client.rest(
            "PUT", f"/entity/{syn(entity)}/generatedBy", query={"generatedBy": made["id"]}
        )

    async def _upload(self, name: str, content: bytes) -> FileHandleId:
        """The service's multipart upload in one part (synapse-rest.md 4.1)."""
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        begun = await self.client.rest(
            "POST",
            "/file/v1/file/multipart?forceRestart=false",
            {
                "concreteType": f"{MODEL}file.MultipartUploadRequest",
                "fileName": name,
                "contentType": "application/octet-stream",
                "contentMD5Hex": digest,
                "fileSizeBytes": len(content),
                "partSizeBytes": 8 << 20,
                "storageLocationId": 1,
                "generatePreview": False,
            },
        )
        if begun.get("resultFileHandleId"):
            return FileHandleId(int(begun["resultFileHandleId"]))
        path = f"/file/v1/file/multipart/{begun['uploadId']}"
        urls = await self.client.rest(
            "POST",
            f"{path}/presigned/url/batch",
            {"uploadId": begun["uploadId"], "partNumbers": [1], "contentType": None},
        )
        _put(urls["partPresignedUrls"][0]["uploadPresignedUrl"], content)
        await self.client.rest("PUT", f"{path}/add/1?partMD5Hex={digest}")
        done = await self.client.rest("PUT", f"{path}/complete")
        return FileHandleId(int(done["resultFileHandleId"]))


def _put(url: str, content: bytes) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request("PUT", f"{parts.path}?{parts.query}", content)
        assert connection.getresponse().status == 200
    finally:
        connection.close()


def _get(url: str) -> bytes:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()
    finally:
        connection.close()


def unique(word: str = "P") -> str:
    """A project name that no other test uses: they are unique in the whole service."""
    return f"{word} {os.urandom(6).hex()}"


def names(rows: Sequence[Any]) -> list[str]:
    return [row.name for row in rows]
