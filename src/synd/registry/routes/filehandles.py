"""File handles: read, batch with presigned URLs, copy, external ones (synapse-rest.md 3)."""

from __future__ import annotations

import json

from synd.registry import handles
from synd.registry.entities import parse_number
from synd.registry.handles import HandleRow
from synd.registry.web import (
    NO_CONTENT,
    Json,
    Reply,
    Request,
    Router,
    bad,
    created,
    forbidden,
    missing,
    ok,
    redirect,
    taken,
    text,
)

MAX_BATCH = 100
_EXTERNAL = ("ExternalFileHandle", "ExternalObjectStoreFileHandle", "ProxyFileHandle")
_EXTERNAL_PROPS = {
    "ExternalFileHandle": "externalURL",
    "ExternalObjectStoreFileHandle": "fileKey",
    "ProxyFileHandle": "filePath",
}


def _own(request: Request) -> HandleRow:
    """The handle in the path, if the caller made it. Raises RefusedError 404, 403."""
    handle = handles.get(request.registry.db, parse_number(request.args["id"], "file handle id"))
    if handle.created_by != request.caller.user:
        raise forbidden("Only the creator of a file handle can access it directly using its ID.")
    return handle


def _get(request: Request) -> Reply:
    return ok(handles.to_json(_own(request)))


def _to_url(request: Request, handle: HandleRow) -> Reply:
    url = handles.url(handle, request.registry.presigner)
    if url is None:
        raise bad("This file handle has no URL.")
    return redirect(url) if request.flag("redirect", True) else text(url)


def _url(request: Request) -> Reply:
    return _to_url(request, _own(request))


def _delete(request: Request) -> Reply:
    db = request.registry.db
    with db.write() as tx:
        found = handles.find(db, parse_number(request.args["id"], "file handle id"))
        if found is None:
            return NO_CONTENT
        handle = _own(request)
        if db.one("SELECT 1 FROM entity_version WHERE handle_id = ? LIMIT 1", (handle.id,)):
            raise taken(f"FileHandle {handle.id} is still used by an entity.")
        tx.execute("DELETE FROM file_handle WHERE id = ?", (handle.id,))
    return NO_CONTENT


def _drop_preview(request: Request) -> Reply:
    _own(request)
    return NO_CONTENT


def _batch(request: Request) -> Reply:
    """Handles and URLs through their associations, each succeeding or failing for itself. Hot."""
    body = request.json()
    db = request.registry.db
    with_handle = bool(body.get("includeFileHandles"))
    with_url = bool(body.get("includePreSignedURLs"))
    if not (with_handle or with_url or body.get("includePreviewPreSignedURLs")):
        raise bad("At least one of the include flags must be true.")
    wanted = body.get("requestedFiles")
    if not isinstance(wanted, list) or not all(isinstance(one, dict) for one in wanted):
        raise bad("requestedFiles must be a list of objects.")
    if len(wanted) > MAX_BATCH:
        raise bad(f"At most {MAX_BATCH} files may be asked for at once.")
    results: list[dict[str, Json]] = []
    for one in wanted:
        raw = str(one.get("fileHandleId"))
        result: dict[str, Json] = {"fileHandleId": raw}
        results.append(result)
        handle = handles.find(db, int(raw)) if raw.isdecimal() else None
        if handle is None:
            result["failureCode"] = "NOT_FOUND"
            continue
        if not handles.may_download(
            db,
            request.caller,
            handle,
            one.get("associateObjectId"),
            one.get("associateObjectType"),
        ):
            result["failureCode"] = "UNAUTHORIZED"
            continue
        if with_handle:
            result["fileHandle"] = handles.to_json(handle)
        if with_url:
            url = handles.url(handle, request.registry.presigner)
            if url is not None:
                result["preSignedURL"] = url
    return created({"requestedFiles": results})


def _by_association(request: Request) -> Reply:
    handle = handles.get(request.registry.db, parse_number(request.args["id"], "file handle id"))
    query = request.query
    if not handles.may_download(
        request.registry.db,
        request.caller,
        handle,
        query.get("fileAssociateId"),
        query.get("fileAssociateType"),
    ):
        raise forbidden(f"{request.caller.name} may not download file handle {handle.id}.")
    return _to_url(request, handle)


def _copy_one(
    request: Request, source: HandleRow, name: object, content_type: object
) -> dict[str, Json]:
    """The new handle: same bytes, own name, made by the caller."""
    db = request.registry.db
    new_name = source.name if not name else str(name)
    with db.write() as tx:
        copy = handles.mint(
            tx,
            request.caller.user,
            name=new_name,
            md5=source.md5,
            size=source.size,
            content_type=source.content_type if not content_type else str(content_type),
            handle_type=source.type,
            location=source.location,
            extra=_extra(source),
        )
    return handles.to_json(handles.get(db, copy))


def _extra(source: HandleRow) -> dict[str, Json] | None:
    return json.loads(source.extra) if source.extra else None


def _copy_batch(request: Request) -> Reply:
    wanted = request.json().get("copyRequests")
    if not isinstance(wanted, list) or len(wanted) > MAX_BATCH:
        raise bad(f"copyRequests must be a list of at most {MAX_BATCH}.")
    if not all(
        isinstance(one, dict) and isinstance(one.get("originalFile"), dict) for one in wanted
    ):
        raise bad("Each of copyRequests must name its originalFile.")
    originals = [str(one["originalFile"].get("fileHandleId")) for one in wanted]
    if len(set(originals)) < len(originals):
        raise bad("The same file handle is asked for more than once.")
    results: list[dict[str, Json]] = []
    for raw, one in zip(originals, wanted, strict=True):
        association = one["originalFile"]
        handle = handles.find(request.registry.db, int(raw)) if raw.isdecimal() else None
        result: dict[str, Json] = {"originalFileHandleId": raw}
        results.append(result)
        if handle is None:
            result["failureCode"] = "NOT_FOUND"
        elif not handles.may_download(
            request.registry.db,
            request.caller,
            handle,
            association.get("associateObjectId"),
            association.get("associateObjectType"),
        ):
            result["failureCode"] = "UNAUTHORIZED"
        else:
            result["newFileHandle"] = _copy_one(
                request, handle, one.get("newFileName"), one.get("newContentType")
            )
    return created({"copyResults": results})


def _copy_single(request: Request) -> Reply:
    body = request.json()
    return created(
        _copy_one(request, _own(request), body.get("newFileName"), body.get("newContentType"))
    )


def _external(request: Request) -> Reply:
    body = request.json()
    kind = str(body.get("concreteType", "")).rpartition(".")[2]
    if kind not in _EXTERNAL:
        raise bad(f"{body.get('concreteType')!r} is not an external file handle.")
    prop = _EXTERNAL_PROPS[kind]
    if not body.get(prop):
        raise bad(f"{kind}.{prop} is required.")
    size = body.get("contentSize")
    md5 = body.get("contentMd5")
    name = body.get("fileName") or str(body[prop]).rpartition("/")[2] or "NOT_SET"
    db = request.registry.db
    with db.write() as tx:
        handle = handles.mint(
            tx,
            request.caller.user,
            name=str(name),
            md5=None if md5 is None else str(md5).lower(),
            size=None if size is None else int(size),
            content_type=str(body.get("contentType") or "application/octet-stream"),
            handle_type=kind,
            location=body.get("storageLocationId"),
            extra={prop: str(body[prop])},
        )
    return created(handles.to_json(handles.get(db, handle)))


def _external_stored(_: Request) -> Reply:
    raise missing("This registry reaches no storage besides its own.")


def add(router: Router) -> None:
    base = "/file/v1"
    router.add("POST", base + "/fileHandle/batch", _batch, scope="download")
    router.add("GET", base + "/fileHandle/{id}", _get, scope="view")
    router.add("GET", base + "/fileHandle/{id}/url", _url, scope="download")
    router.add("DELETE", base + "/fileHandle/{id}", _delete, scope="modify")
    router.add("DELETE", base + "/fileHandle/{id}/filepreview", _drop_preview, scope="modify")
    router.add("POST", base + "/fileHandle/{id}/copy", _copy_single, scope="modify")
    router.add("POST", base + "/filehandles/copy", _copy_batch, scope="modify")
    router.add("GET", base + "/file/{id}", _by_association, scope="download")
    router.add("POST", base + "/externalFileHandle", _external, scope="modify")
    router.add("POST", base + "/externalFileHandle/s3", _external_stored, scope="modify")
    router.add("POST", base + "/externalFileHandle/googleCloud", _external_stored, scope="modify")
