"""One upload in a process of its own; prints the seconds that it took: ``python -m benchmarks.putting``.

`plain` is what a program can do that knows the service and nothing else: the md5 that has to be announced,
then all parts at once, hashed and sent from the page cache. `client` is synd's own client without a daemon.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from synd.client.credentials import Endpoints, Token
from synd.client.remote import Outgoing
from synd.client.service import SynapseClient
from synd.client.storage import PARTS_AT_ONCE
from synd.client.upload import part_size
from synd.config import Config
from synd.digest import md5_of_file
from synd.ids import entity_id

PIECE = 1 << 20


class Plain:
    """A multipart upload by the standard library, a connection for each thread."""

    def __init__(self, url: str, token: str, path: Path) -> None:
        self._netloc = urlsplit(url).netloc
        self._token = token
        self._path = path
        self._size = path.stat().st_size
        self._part = part_size(self._size)
        self._fd = os.open(path, os.O_RDONLY)
        self._own = threading.local()

    def run(self) -> None:
        with ThreadPoolExecutor(PARTS_AT_ONCE) as threads:
            upload = self._json("POST", "/file/v1/file/multipart", {
                "concreteType": "org.sagebionetworks.repo.model.file.MultipartUploadRequest",
                "fileName": self._path.name,
                "fileSizeBytes": self._size,
                "contentMD5Hex": self._md5(0, self._size),
                "contentType": "application/octet-stream",
                "partSizeBytes": self._part,
                "generatePreview": False,
            })["uploadId"]  # fmt: skip
            count = -(-self._size // self._part)
            urls = self._json(
                "POST",
                f"/file/v1/file/multipart/{upload}/presigned/url/batch",
                {"uploadId": upload, "partNumbers": list(range(1, count + 1))},
            )["partPresignedUrls"]
            list(threads.map(lambda one: self._send(upload, one), urls))
            done = self._json("PUT", f"/file/v1/file/multipart/{upload}/complete")
        if not done["resultFileHandleId"]:
            raise RuntimeError(f"not complete: {done}")

    def _md5(self, start: int, size: int) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        buffer = memoryview(bytearray(PIECE))
        at, end = start, start + size
        while at < end:
            n = os.preadv(self._fd, [buffer[: min(PIECE, end - at)]], at)
            digest.update(buffer[:n])
            at += n
        return digest.hexdigest()

    def _send(self, upload: str, one: dict[str, Any]) -> None:
        start = (one["partNumber"] - 1) * self._part
        size = min(self._part, self._size - start)
        digest = self._md5(start, size)
        parts = urlsplit(one["uploadPresignedUrl"])
        connection = self._connection(parts.netloc)
        connection.putrequest("PUT", f"{parts.path}?{parts.query}")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        at, end = start, start + size
        while at < end:
            at += os.sendfile(connection.sock.fileno(), self._fd, at, end - at)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"storage answered {answer.status}")
        path = f"/file/v1/file/multipart/{upload}/add/{one['partNumber']}?partMD5Hex={digest}"
        state = self._json("PUT", path)["addPartState"]
        if state != "ADD_SUCCESS":
            raise RuntimeError(f"a part was refused: {state}")

    def _connection(self, netloc: str) -> http.client.HTTPConnection:
        kept = self._own.__dict__.setdefault("connections", {})
        if netloc not in kept:
            # No time-out: with one, sendfile would meet a socket that does not block.
            kept[netloc] = http.client.HTTPConnection(netloc)
        connection: http.client.HTTPConnection = kept[netloc]
        return connection

    def _json(self, method: str, path: str, body: object = None) -> Any:
        connection = self._connection(self._netloc)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
        return json.loads(text)


def plain(url: str, token: str, path: Path) -> float:
    """Seconds of a plain upload, from the first hashed byte to the file handle."""
    began = time.perf_counter()
    Plain(url, token, path).run()
    return time.perf_counter() - began


async def client(url: str, token: str, path: Path, size: int, parent: str) -> float:
    """Seconds of `SynapseClient.upload`, hashing before it included."""
    service = Endpoints(f"{url}/repo/v1", f"{url}/auth/v1", f"{url}/file/v1", f"{url}/")
    config = Config(requests_per_minute=0, request_concurrency=16)
    remote = SynapseClient(service, Token(token, "benchmark"), config=config)
    try:
        await remote.whoami()
        began = time.perf_counter()
        digest = await asyncio.to_thread(md5_of_file, path)
        content = Outgoing(path, size, digest, path.name)
        await remote.upload(content, entity_id(parent))
        return time.perf_counter() - began
    finally:
        await remote.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=["plain", "client"])
    parser.add_argument("url")
    parser.add_argument("parent", help="id of a folder to upload for")
    parser.add_argument("file", type=Path)
    asked = parser.parse_args()
    size = asked.file.stat().st_size
    token = os.environ["SYNAPSE_AUTH_TOKEN"]
    if asked.how == "plain":
        took_s = plain(asked.url, token, asked.file)
    else:
        took_s = asyncio.run(client(asked.url, token, asked.file, size, asked.parent))
    print(json.dumps({"took_s": took_s}))


if __name__ == "__main__":
    main()
