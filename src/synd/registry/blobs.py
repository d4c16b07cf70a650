"""Bytes on disk, named by md5, and the presigned URLs that lead to them.

A URL carries all that the byte server must know (path, name, type, expiry) under an HMAC, as object
storage does: the byte server needs no database. `X-Amz-Date` and `X-Amz-Expires` are there because the
official client reads them (synapse-rest.md 3.6).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote

from synd.ids import Md5

EMPTY_MD5 = Md5("d41d8cd98f00b204e9800998ecf8427e")
SOCKET_PATH = "/grid/socket"
"""Where grids are spoken to by WebSocket."""
PART_URL_S = 900
"""Life of a part's upload URL (synapse-rest.md 4.3)."""

_FICLONE = 0x40049409
_STAMP = "%Y%m%dT%H%M%SZ"
_BLOB_PATH = re.compile(r"/blob/([0-9a-f]{32})")
_PART_PATH = re.compile(r"/part/([0-9]{1,18})/([0-9]{1,5})")


class BlobStore:
    """The files of one data folder: blobs/ab/<md5>, uploads/<id>/<part>.<md5>, tmp/."""

    def __init__(self, data: Path) -> None:
        self.blobs = data / "blobs"
        self.uploads = data / "uploads"
        self.tmp = data / "tmp"
        for folder in (self.blobs, self.uploads, self.tmp):
            folder.mkdir(parents=True, exist_ok=True)
        for n in range(256):
            (self.blobs / f"{n:02x}").mkdir(exist_ok=True)
        self._root = os.fspath(self.blobs)
        self._can_reflink = True

    def path(self, md5: str) -> str:
        return f"{self._root}/{md5[:2]}/{md5}"

    def has(self, md5: str) -> bool:
        return os.path.exists(self.path(md5))

    def size(self, md5: str) -> int:
        """Bytes. Raises FileNotFoundError."""
        return os.stat(self.path(md5)).st_size

    def aside(self) -> Path:
        """A fresh name for bytes that are still being written."""
        return self.tmp / secrets.token_hex(12)

    def adopt(self, aside: Path, md5: str) -> None:
        """Makes a finished file the blob of that md5. The caller has computed the md5."""
        os.replace(aside, self.path(md5))

    def put(self, data: bytes) -> Md5:
        """Stores small content at once."""
        md5 = Md5(hashlib.md5(data, usedforsecurity=False).hexdigest())
        if not self.has(md5):
            aside = self.aside()
            aside.write_bytes(data)
            self.adopt(aside, md5)
        return md5

    def link(self, source: str, md5: str) -> str:
        """Makes the content of `source` the blob of that md5 without copying where the file system can:
        "reflink" (shared extents, safe against later edits), "hardlink" (the source must not be edited in
        place afterwards), else "copy". "known" when the blob was there.
        """
        target = self.path(md5)
        if os.path.exists(target):
            return "known"
        if self._can_reflink:
            aside = self.aside()
            if self._reflink(source, aside):
                os.replace(aside, target)
                return "reflink"
        try:
            os.link(source, target)
            return "hardlink"
        except FileExistsError:
            return "known"
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
        aside = self.aside()
        shutil.copyfile(source, aside)
        os.replace(aside, target)
        return "copy"

    def _reflink(self, source: str, aside: Path) -> bool:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            out = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                fcntl.ioctl(out, _FICLONE, fd)
                return True
            except OSError as error:
                os.unlink(aside)
                if error.errno != errno.EXDEV:
                    self._can_reflink = False
                return False
            finally:
                os.close(out)
        finally:
            os.close(fd)

    def upload_folder(self, upload: int) -> Path:
        return self.uploads / str(upload)

    def part(self, upload: int, number: int, md5: str) -> Path:
        return self.uploads / str(upload) / f"{number}.{md5}"

    def drop_upload(self, upload: int) -> None:
        shutil.rmtree(self.upload_folder(upload), ignore_errors=True)


@dataclass(frozen=True, slots=True)
class BlobUrl:
    """A presigned GET, decoded."""

    md5: str
    disposition: str
    content_type: str


@dataclass(frozen=True, slots=True)
class PartUrl:
    """A presigned PUT of one part, decoded."""

    upload: int
    number: int


@lru_cache(maxsize=4096)
def _epoch(stamp: str) -> float:
    return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC).timestamp()


class BadUrlError(Exception):
    """The URL is not ours (404), or its signature is wrong or expired (403)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Presigner:
    """Makes and checks URLs. `base` is the byte server's ``http://host:port``."""

    def __init__(self, secret: str, base: str, ttl_s: int) -> None:
        self._key = bytes.fromhex(secret)
        self.base = base
        self.ttl_s = ttl_s
        self._stamp_s = 0
        self._stamp = ""

    def _sign(self, method: str, target: str) -> str:
        return hmac.digest(self._key, f"{method} {target}".encode(), "sha256").hex()

    def _dated(self, target: str, ttl_s: int, now_s: int) -> str:
        if now_s != self._stamp_s:
            self._stamp = datetime.fromtimestamp(now_s, UTC).strftime(_STAMP)
            self._stamp_s = now_s
        return f"{target}X-Amz-Date={self._stamp}&X-Amz-Expires={ttl_s}"

    def get(self, md5: str, name: str, content_type: str, now_s: int) -> str:
        """A URL that downloads a blob under `name` until `ttl_s` seconds after `now_s`."""
        disposition = quote(f'attachment; filename="{name}"', safe="")
        target = self._dated(
            f"/blob/{md5}?response-content-disposition={disposition}"
            f"&response-content-type={quote(content_type, safe='')}&",
            self.ttl_s,
            now_s,
        )
        return f"{self.base}{target}&X-Amz-Signature={self._sign('GET', target)}"

    def put_part(self, upload: int, number: int, now_s: int) -> str:
        target = self._dated(f"/part/{upload}/{number}?", PART_URL_S, now_s)
        return f"{self.base}{target}&X-Amz-Signature={self._sign('PUT', target)}"

    def socket(self, base: str, query: str, now_s: int, ttl_s: int) -> str:
        """The URL of a grid's socket, for `query` alone. `base` is scheme, host and port."""
        target = self._dated(f"{SOCKET_PATH}?{query}&", ttl_s, now_s)
        return f"{base}{target}&X-Amz-Signature={self._sign('SOCKET', target)}"

    def check_socket(self, target: str, now_s: float) -> dict[str, str]:
        """The query of a socket's URL. Raises BadUrlError 403."""
        signed, mark, signature = target.rpartition("&X-Amz-Signature=")
        if not mark or not hmac.compare_digest(self._sign("SOCKET", signed), signature):
            raise BadUrlError(
                403, "SignatureDoesNotMatch", "The signature does not match the request."
            )
        values = dict(pair.partition("=")[::2] for pair in signed.partition("?")[2].split("&"))
        if now_s >= _epoch(values["X-Amz-Date"]) + int(values["X-Amz-Expires"]):
            raise BadUrlError(403, "AccessDenied", "Signature expired")
        return values

    def check(self, method: str, target: str, now_s: float) -> BlobUrl | PartUrl:
        """What the URL allows. `target` is path and query as they came. Raises BadUrlError."""
        signed, mark, signature = target.rpartition("&X-Amz-Signature=")
        path, _, query = signed.partition("?")
        verb = "GET" if method == "HEAD" else method
        if not mark or not hmac.compare_digest(self._sign(verb, signed), signature):
            if not target.startswith(("/blob/", "/part/")):
                raise BadUrlError(404, "NoSuchKey", "The specified key does not exist.")
            raise BadUrlError(
                403, "SignatureDoesNotMatch", "The signature does not match the request."
            )
        values = dict(pair.partition("=")[::2] for pair in query.split("&"))
        if now_s >= _epoch(values["X-Amz-Date"]) + int(values["X-Amz-Expires"]):
            raise BadUrlError(403, "AccessDenied", "Request has expired")
        if match := _BLOB_PATH.fullmatch(path):
            return BlobUrl(
                match[1],
                unquote(values.get("response-content-disposition", "")),
                unquote(values.get("response-content-type", "")),
            )
        if match := _PART_PATH.fullmatch(path):
            return PartUrl(int(match[1]), int(match[2]))
        raise BadUrlError(404, "NoSuchKey", "The specified key does not exist.")
