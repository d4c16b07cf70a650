"""Multipart upload: start or resume, part URLs, add, complete (synapse-rest.md 4).

Parts lie in uploads/<id>/<number>.<md5>, put there by the byte server. `complete` joins them, checks the whole
md5 (the service does not; a registry that others trust should), and mints the handle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from synd.clock import format_time
from synd.errors import UsageError
from synd.ids import md5 as check_md5
from synd.registry import handles, kinds
from synd.registry.blobs import BlobStore
from synd.registry.db import Database, now_ns
from synd.registry.entities import check_name, parse_number
from synd.registry.web import (
    Json,
    RefusedError,
    Reply,
    Request,
    Router,
    bad,
    created,
    forbidden,
    missing,
)

MIN_PART = 5 << 20
MAX_PART = 5 << 30
MAX_PARTS = 10_000
MAX_FILE = 5 << 40
_MD5 = re.compile(r"[0-9a-f]{32}")


class Upload(NamedTuple):
    """A row of `multipart`."""

    id: int
    user: int
    request: str
    part_size: int
    parts: str
    state: str
    handle: int | None
    started_ns: int
    updated_ns: int


_SELECT = (
    "SELECT id, user_id, request, part_size, parts, state, handle_id, started_ns, updated_ns"
    " FROM multipart"
)


def _find(db: Database, user: int, digest: str) -> Upload | None:
    row = db.one(_SELECT + " WHERE user_id = ? AND request_hash = ?", (user, digest))
    return None if row is None else Upload._make(row)


def _get(request: Request) -> Upload:
    """The upload in the path. Raises RefusedError 404, 403."""
    number = parse_number(request.args["upload"], "upload id")
    row = request.registry.db.one(_SELECT + " WHERE id = ?", (number,))
    if row is None:
        raise missing(f"The upload {number} does not exist.")
    upload = Upload._make(row)
    if upload.user != request.caller.user:
        raise forbidden("Only the user who started an upload may go on with it.")
    return upload


def _status(upload: Upload) -> dict[str, Json]:
    return {
        "uploadId": str(upload.id),
        "startedBy": str(upload.user),
        "startedOn": format_time(upload.started_ns),
        "updatedOn": format_time(upload.updated_ns),
        "state": upload.state,
        "partsState": upload.parts,
        "resultFileHandleId": None if upload.handle is None else str(upload.handle),
    }


def _checked(body: dict[str, Json]) -> tuple[dict[str, Json], int]:
    """(the request as it is kept, number of parts). Raises RefusedError 400."""
    concrete = str(body.get("concreteType") or "")
    if concrete.endswith("MultipartUploadCopyRequest"):
        raise bad("This registry has one storage location: there is nowhere to copy to.")
    size, part_size = body.get("fileSizeBytes"), body.get("partSizeBytes")
    if not isinstance(size, int) or not isinstance(part_size, int):
        raise bad("fileSizeBytes and partSizeBytes are required.")
    if size < 1:
        raise bad("File size must be at least one byte.")
    if size > MAX_FILE:
        raise bad(f"fileSizeBytes must not exceed {MAX_FILE}.")
    if not MIN_PART <= part_size <= MAX_PART:
        raise bad(f"partSizeBytes must lie between {MIN_PART} and {MAX_PART}.")
    parts = max(1, -(-size // part_size))
    if parts > MAX_PARTS:
        raise bad(f"The file would have {parts} parts; at most {MAX_PARTS} are allowed.")
    try:
        digest = check_md5(str(body.get("contentMD5Hex")))
    except UsageError as error:
        raise bad(error.message) from error
    return {
        "concreteType": kinds.OSRM + "file.MultipartUploadRequest",
        "fileName": check_name(body.get("fileName")),
        "fileSizeBytes": size,
        "contentMD5Hex": digest,
        "contentType": str(body.get("contentType") or "application/octet-stream"),
        "partSizeBytes": part_size,
        "storageLocationId": body.get("storageLocationId") or kinds.DEFAULT_LOCATION,
        "generatePreview": bool(body.get("generatePreview", True)),
    }, parts


def _start(request: Request) -> Reply:
    db = request.registry.db
    kept, parts = _checked(request.json())
    text = json.dumps(kept, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    user = request.caller.user
    with db.write() as tx:
        found = _find(db, user, digest)
        gone = (
            found is not None
            and found.state == "COMPLETED"
            and not request.registry.blobs.has(kept["contentMD5Hex"])
        )
        if found is not None and (request.flag("forceRestart", False) or gone):
            tx.execute("UPDATE multipart SET request_hash = NULL WHERE id = ?", (found.id,))
            found = None
        if found is None:
            now = now_ns()
            tx.execute(
                "INSERT INTO multipart (user_id, request_hash, request, part_size, parts, state,"
                " started_ns, updated_ns) VALUES (?, ?, ?, ?, ?, 'UPLOADING', ?, ?)",
                (user, digest, text, kept["partSizeBytes"], "0" * parts, now, now),
            )
            row = tx.execute(_SELECT + " WHERE id = last_insert_rowid()").fetchone()
            found = Upload._make(row)
        if found.state == "UPLOADING":
            request.registry.blobs.upload_folder(found.id).mkdir(exist_ok=True)
    return created(_status(found))


def _part_number(upload: Upload, raw: object) -> int:
    number = parse_number(raw, "part number")
    if not 1 <= number <= len(upload.parts):
        raise bad(f"Part numbers of this upload go from 1 to {len(upload.parts)}, not {number}.")
    return number


def _urls(request: Request) -> Reply:
    upload = _get(request)
    numbers = request.json().get("partNumbers")
    if not isinstance(numbers, list) or not numbers:
        raise bad("partNumbers must hold at least one number.")
    now_s = now_ns() // 1_000_000_000
    presigner = request.registry.presigner
    urls = []
    for raw in numbers:
        number = _part_number(upload, raw)
        urls.append(
            {
                "partNumber": number,
                "uploadPresignedUrl": presigner.put_part(upload.id, number, now_s),
                "signedHeaders": {},
            }
        )
    return created({"partPresignedUrls": urls})


def _add(request: Request) -> Reply:
    upload = _get(request)
    number = _part_number(upload, request.args["number"])
    if upload.state == "COMPLETED":
        raise bad("The upload is complete: no part can be added.")
    digest = request.query.get("partMD5Hex", "").lower()
    failure = None
    if _MD5.fullmatch(digest) is None:
        failure = "partMD5Hex is not an md5."
    elif not request.registry.blobs.part(upload.id, number, digest).exists():
        failure = f"Part {number} in storage does not have the md5 {digest}."
    if failure is None:
        with request.registry.db.write() as tx:
            tx.execute(
                "UPDATE multipart SET updated_ns = ?3,"
                " parts = substr(parts, 1, ?2 - 1) || '1' || substr(parts, ?2 + 1) WHERE id = ?1",
                (upload.id, number, now_ns()),
            )
            tx.execute(
                "INSERT INTO multipart_part VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET md5 = excluded.md5",
                (upload.id, number, digest),
            )
    return created(
        {
            "uploadId": str(upload.id),
            "partNumber": number,
            "addPartState": "ADD_SUCCESS" if failure is None else "ADD_FAILED",
            "errorMessage": failure,
        }
    )


def _concatenate(parts: list[Path], target: Path) -> tuple[str, int]:
    """(md5, size) of the file that the parts make up. They are hashed and copied at the same time."""
    hasher = hashlib.md5(usedforsecurity=False)
    total = 0
    buffer = memoryview(bytearray(4 << 20))
    with open(target, "wb", buffering=0) as out, ThreadPoolExecutor(1) as copier:
        for part in parts:
            with open(part, "rb", buffering=0) as source:
                size = os.fstat(source.fileno()).st_size
                copied = copier.submit(_copy, source.fileno(), out, size)
                at = 0
                while n := os.preadv(source.fileno(), [buffer], at):
                    hasher.update(buffer[:n])
                    at += n
                copied.result()
            total += size
    return hasher.hexdigest(), total


def _copy(source: int, out: FileIO, size: int) -> None:
    """Appends a file to another; in the kernel, or by sharing extents, where the file system can."""
    at = 0
    try:
        while at < size:
            done = os.copy_file_range(source, out.fileno(), size - at, at)
            if not done:
                break
            at += done
    except OSError:
        while piece := os.pread(source, 1 << 20, at):
            at += out.write(piece)


def _join(blobs: BlobStore, upload: Upload, digests: list[str], wanted: str, size: int) -> None:
    """Makes the blob of an upload from its parts. Raises RefusedError 400 when it is not what was announced."""
    first = blobs.part(upload.id, 1, digests[0])
    aside = blobs.aside()
    if len(digests) == 1:
        total = first.stat().st_size
        actual = digests[0]
        os.link(first, aside)
    else:
        actual, total = _concatenate(
            [blobs.part(upload.id, number, digest) for number, digest in enumerate(digests, 1)],
            aside,
        )
    if actual != wanted or total != size:
        os.unlink(aside)
        raise bad(
            f"The uploaded bytes ({total}, md5 {actual}) are not those announced ({size}, md5 {wanted})."
        )
    blobs.adopt(aside, wanted)


def _complete(request: Request) -> Reply:
    db, blobs = request.registry.db, request.registry.blobs
    upload = _get(request)
    if upload.state == "COMPLETED":
        return created(_status(upload))
    lacking = upload.parts.count("0")
    if lacking:
        raise bad(f"The upload lacks {lacking} of {len(upload.parts)} parts.")
    digests = [
        row[0]
        for row in db.all(
            "SELECT md5 FROM multipart_part WHERE upload_id = ? ORDER BY number", (upload.id,)
        )
    ]
    kept = json.loads(upload.request)
    try:
        _join(blobs, upload, digests, kept["contentMD5Hex"], kept["fileSizeBytes"])
    except FileNotFoundError as error:
        # Two `complete` at once: the other one has joined and tidied up, or is about to say so.
        again = _get(request)
        if again.state == "COMPLETED":
            return created(_status(again))
        raise bad("A part of the upload is no longer in storage.") from error
    except RefusedError:
        # The parts cannot be mended: let the next start of the same file begin anew.
        with db.write() as tx:
            tx.execute("UPDATE multipart SET request_hash = NULL WHERE id = ?", (upload.id,))
        raise
    with db.write() as tx:
        again = _get(request)
        if again.state == "COMPLETED":
            return created(_status(again))
        handle = handles.mint(
            tx,
            request.caller.user,
            name=kept["fileName"],
            md5=kept["contentMD5Hex"],
            size=kept["fileSizeBytes"],
            content_type=kept["contentType"],
            location=kept["storageLocationId"],
        )
        tx.execute(
            "UPDATE multipart SET state = 'COMPLETED', handle_id = ?, updated_ns = ? WHERE id = ?",
            (handle, now_ns(), upload.id),
        )
        tx.execute("DELETE FROM multipart_part WHERE upload_id = ?", (upload.id,))
    with contextlib.suppress(OSError):
        blobs.drop_upload(upload.id)
    return created(_status(_get(request)))


def add(router: Router) -> None:
    base = "/file/v1/file/multipart"
    router.add("POST", base, _start, scope="modify")
    router.add("POST", base + "/{upload}/presigned/url/batch", _urls, scope="modify")
    router.add("PUT", base + "/{upload}/add/{number}", _add, scope="modify")
    router.add("PUT", base + "/{upload}/complete", _complete, scope="modify", slow=True)
