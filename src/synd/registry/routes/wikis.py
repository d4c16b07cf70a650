"""Wiki pages of entities (synapse-rest.md 7.2): v2 with Markdown as gzipped file handles, v1 with inline text."""

from __future__ import annotations

import gzip
import json
import sqlite3
from typing import NamedTuple

from synd.clock import format_time
from synd.ids import syn
from synd.registry import access, handles
from synd.registry.db import new_etag, now_ns
from synd.registry.entities import parse_id, parse_number
from synd.registry.web import (
    NO_CONTENT,
    Json,
    RefusedError,
    Reply,
    Request,
    Router,
    bad,
    created,
    missing,
    ok,
    redirect,
    stale,
    taken,
    text,
)

_MAX_PAGE = 50
_OWNERS = ("entity", "evaluation", "access_requirement")


class Page(NamedTuple):
    """A wiki page in one version."""

    id: int
    parent: int | None
    etag: str
    version: int
    created_ns: int
    created_by: int
    title: str | None
    markdown: int | None
    attachments: str
    modified_ns: int
    modified_by: int


_PAGE = (
    "SELECT p.id, p.parent_id, p.etag, v.number, p.created_ns, p.created_by, v.title, v.markdown_id,"
    " v.attachments, v.modified_ns, v.modified_by FROM wiki_page AS p JOIN wiki_version AS v"
    " ON v.page_id = p.id"
)


def _owner(request: Request, right: int) -> tuple[str, int]:
    """(type, id) of the owner in the path, which the caller may use so. Raises RefusedError 403, 404."""
    kind = request.path.strip("/").split("/")[2]
    if kind == "entity":
        owner = parse_id(request.args["id"])
        access.need(request.registry.db, owner, request.caller, right)
        return kind, owner
    return kind, parse_number(request.args["id"], "owner id")


def _page(request: Request, right: int) -> Page:
    """The page in the path, or the root page; in ?wikiVersion= if given. Raises RefusedError."""
    kind, owner = _owner(request, right)
    db = request.registry.db
    wiki = request.args.get("wiki")
    version = request.args.get("version") or request.query.get("wikiVersion")
    if wiki is None:
        root = db.one(
            "SELECT id FROM wiki_page WHERE owner_type = ? AND owner_id = ? AND parent_id IS NULL",
            (kind, owner),
        )
        if root is None:
            raise missing(f"{request.args['id']} has no wiki.")
        wiki = str(root[0])
    number = parse_number(wiki, "wiki page id")
    row = db.one(
        _PAGE + " WHERE p.id = ? AND p.owner_type = ? AND p.owner_id = ?"
        " AND v.number = coalesce(?, p.version)",
        (number, kind, owner, None if version is None else parse_number(version, "wiki version")),
    )
    if row is None:
        raise missing(f"There is no wiki page {wiki} of {request.args['id']}.")
    return Page._make(row)


def _json(page: Page) -> dict[str, Json]:
    body: dict[str, Json] = {
        "id": str(page.id),
        "etag": page.etag,
        "createdOn": format_time(page.created_ns),
        "createdBy": str(page.created_by),
        "modifiedOn": format_time(page.modified_ns),
        "modifiedBy": str(page.modified_by),
        "title": page.title,
        "attachmentFileHandleIds": json.loads(page.attachments),
    }
    if page.parent is not None:
        body["parentWikiId"] = str(page.parent)
    if page.markdown is not None:
        body["markdownFileHandleId"] = str(page.markdown)
    return body


def _json_v1(request: Request, page: Page) -> dict[str, Json]:
    body = _json(page)
    body.pop("markdownFileHandleId", None)
    body["markdown"] = _markdown_text(request, page)
    return body


def _markdown_text(request: Request, page: Page) -> str:
    if page.markdown is None:
        return ""
    handle = handles.get(request.registry.db, page.markdown)
    with open(request.registry.blobs.path(handle.md5 or ""), "rb") as file:
        raw = file.read()
    return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()


def _reply(request: Request, page: Page) -> dict[str, Json]:
    return _json_v1(request, page) if _is_v1(request) else _json(page)


def _is_v1(request: Request) -> bool:
    return request.path.strip("/").split("/")[4] == "wiki"


def _content(
    request: Request, tx: sqlite3.Connection, body: dict[str, Json]
) -> tuple[int | None, str]:
    """(Markdown handle, attachments) that a body brings. Raises RefusedError."""
    markdown = body.get("markdownFileHandleId")
    if _is_v1(request):
        raw = gzip.compress(str(body.get("markdown") or "").encode(), mtime=0)
        handle = handles.mint(
            tx,
            request.caller.user,
            name="markdown.txt",
            md5=request.registry.blobs.put(raw),
            size=len(raw),
            content_type="application/x-gzip",
        )
    else:
        if markdown is None:
            raise bad("markdownFileHandleId is required.")
        handle = parse_number(markdown, "file handle id")
        handles.get(request.registry.db, handle)
    attachments = [str(one) for one in body.get("attachmentFileHandleIds") or []]
    for one in attachments:
        handles.get(request.registry.db, parse_number(one, "file handle id"))
    return handle, json.dumps(attachments)


def _get(request: Request) -> Reply:
    return ok(_reply(request, _page(request, access.READ)))


def _create(request: Request) -> Reply:
    body = request.json()
    db = request.registry.db
    with db.write() as tx:
        kind, owner = _owner(request, access.CREATE)
        parent = body.get("parentWikiId")
        parent_id = None if parent is None else parse_number(parent, "wiki page id")
        if parent_id is not None and not db.one(
            "SELECT 1 FROM wiki_page WHERE id = ? AND owner_type = ? AND owner_id = ?",
            (parent_id, kind, owner),
        ):
            raise missing(f"There is no wiki page {parent_id}.")
        handle, attachments = _content(request, tx, body)
        now = now_ns()
        try:
            cursor = tx.execute(
                "INSERT INTO wiki_page (owner_type, owner_id, parent_id, etag, version, created_ns,"
                " created_by) VALUES (?, ?, ?, ?, 0, ?, ?)",
                (kind, owner, parent_id, new_etag(), now, request.caller.user),
            )
        except sqlite3.IntegrityError as error:
            raise taken("The owner has a root wiki page already: name a parentWikiId.") from error
        wiki = int(cursor.lastrowid or 0)
        tx.execute(
            "INSERT INTO wiki_version VALUES (?, 0, ?, ?, ?, ?, ?)",
            (wiki, body.get("title"), handle, attachments, now, request.caller.user),
        )
    request.args["wiki"] = str(wiki)
    return created(_reply(request, _page(request, access.READ)))


def _add_version(
    request: Request,
    tx: sqlite3.Connection,
    page: Page,
    content: tuple[str | None, int | None, str],
) -> None:
    number = tx.execute(
        "SELECT max(number) + 1 FROM wiki_version WHERE page_id = ?", (page.id,)
    ).fetchone()[0]
    tx.execute(
        "INSERT INTO wiki_version VALUES (?, ?, ?, ?, ?, ?, ?)",
        (page.id, number, *content, now_ns(), request.caller.user),
    )
    tx.execute(
        "UPDATE wiki_page SET version = ?, etag = ? WHERE id = ?", (number, new_etag(), page.id)
    )


def _put(request: Request) -> Reply:
    body = request.json()
    with request.registry.db.write() as tx:
        page = _page(request, access.UPDATE)
        if body.get("etag") != page.etag:
            raise stale(f"The wiki page {page.id}")
        _add_version(request, tx, page, (body.get("title"), *_content(request, tx, body)))
    return ok(_reply(request, _page(request, access.READ)))


def _restore(request: Request) -> Reply:
    """Makes an old version the newest again."""
    with request.registry.db.write() as tx:
        page = _page(request, access.UPDATE)
        _add_version(request, tx, page, (page.title, page.markdown, page.attachments))
    del request.args["version"]
    return ok(_json(_page(request, access.READ)))


def _delete(request: Request) -> Reply:
    """Removes a page and all below it."""
    with request.registry.db.write() as tx:
        try:
            page = _page(request, access.DELETE)
        except RefusedError as error:
            if error.status == 404:
                return NO_CONTENT
            raise
        tx.execute(
            "WITH RECURSIVE below (id) AS (SELECT ? UNION ALL"
            " SELECT p.id FROM wiki_page AS p JOIN below ON p.parent_id = below.id)"
            " DELETE FROM wiki_page WHERE id IN (SELECT id FROM below)",
            (page.id,),
        )
    return NO_CONTENT


def _key(request: Request) -> Reply:
    kind, _ = _owner(request, access.READ)
    return ok(
        {
            "wikiPageId": str(_page(request, access.READ).id),
            "ownerObjectId": request.args["id"],
            "ownerObjectType": kind.upper(),
        }
    )


def _tree(request: Request) -> Reply:
    kind, owner = _owner(request, access.READ)
    limit, offset = request.page()
    if limit > _MAX_PAGE:
        raise bad(f"limit must be at most {_MAX_PAGE}.")
    db = request.registry.db
    if not db.one(
        "SELECT 1 FROM wiki_page WHERE owner_type = ? AND owner_id = ? LIMIT 1", (kind, owner)
    ):
        raise missing(f"{request.args['id']} has no wiki.")
    rows = db.all(
        "SELECT p.id, v.title, p.parent_id FROM wiki_page AS p JOIN wiki_version AS v"
        " ON v.page_id = p.id AND v.number = p.version WHERE p.owner_type = ? AND p.owner_id = ?"
        " ORDER BY p.parent_id IS NOT NULL, p.id LIMIT ? OFFSET ?",
        (kind, owner, limit, offset),
    )
    results = [
        {"id": str(row[0]), "title": row[1]} | ({} if row[2] is None else {"parentId": str(row[2])})
        for row in rows
    ]
    return ok({"results": results, "totalNumberOfResults": offset + len(results)})


def _history(request: Request) -> Reply:
    page = _page(request, access.READ)
    limit, offset = request.page()
    rows = request.registry.db.all(
        "SELECT number, modified_ns, modified_by FROM wiki_version WHERE page_id = ?"
        " ORDER BY number DESC LIMIT ? OFFSET ?",
        (page.id, limit, offset),
    )
    results = [
        {"version": str(row[0]), "modifiedOn": format_time(row[1]), "modifiedBy": str(row[2])}
        for row in rows
    ]
    return ok({"results": results, "totalNumberOfResults": offset + len(results)})


def _to_url(request: Request, handle: int | None) -> Reply:
    row = None if handle is None else handles.find(request.registry.db, handle)
    url = None if row is None else handles.url(row, request.registry.presigner)
    if url is None:
        raise missing("There is no such file on this wiki page.")
    return redirect(url) if request.flag("redirect", True) else text(url)


def _markdown(request: Request) -> Reply:
    return _to_url(request, _page(request, access.READ).markdown)


def _attached(request: Request) -> list[handles.HandleRow]:
    page = _page(request, access.READ)
    found = [handles.find(request.registry.db, int(one)) for one in json.loads(page.attachments)]
    return [row for row in found if row is not None]


def _attachment(request: Request) -> Reply:
    name = request.query.get("fileName")
    return _to_url(request, next((row.id for row in _attached(request) if row.name == name), None))


def _attachment_handles(request: Request) -> Reply:
    return ok({"list": [handles.to_json(row) for row in _attached(request)]})


def _order(request: Request) -> Reply:
    kind, owner = _owner(request, access.READ)
    row = request.registry.db.one(
        "SELECT etag, ids FROM wiki_order WHERE owner_type = ? AND owner_id = ?", (kind, owner)
    )
    return ok(
        {
            "ownerId": syn(owner),
            "ownerObjectType": "ENTITY",
            "idList": json.loads(row[1]) if row else None,
            "etag": row[0] if row else "00000000-0000-0000-0000-000000000000",
        }
    )


def _set_order(request: Request) -> Reply:
    kind, owner = _owner(request, access.UPDATE)
    body = request.json()
    with request.registry.db.write() as tx:
        tx.execute(
            "INSERT INTO wiki_order VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET etag = excluded.etag, ids = excluded.ids",
            (kind, owner, new_etag(), json.dumps(body.get("idList") or [])),
        )
    return _order(request)


def add(router: Router) -> None:
    for owner in _OWNERS:
        base = f"/repo/v1/{owner}/{{id}}"
        router.add("GET", base + "/wikikey", _key, scope="view")
        router.add("GET", base + "/wikiheadertree", _tree, scope="view")
        router.add("GET", base + "/wikiheadertree2", _tree, scope="view")
        for spelled in ("wiki", "wiki2"):
            router.add("GET", f"{base}/{spelled}", _get, scope="view")
            router.add("POST", f"{base}/{spelled}", _create, scope="modify")
            router.add("GET", f"{base}/{spelled}/{{wiki}}", _get, scope="view")
            router.add("PUT", f"{base}/{spelled}/{{wiki}}", _put, scope="modify")
            router.add("DELETE", f"{base}/{spelled}/{{wiki}}", _delete, scope="modify")
            part = f"{base}/{spelled}/{{wiki}}"
            router.add("GET", part + "/wikihistory", _history, scope="view")
            router.add("GET", part + "/attachment", _attachment, scope="view")
            router.add("GET", part + "/attachmenthandles", _attachment_handles, scope="view")
        router.add("GET", base + "/wiki2/{wiki}/markdown", _markdown, scope="view")
        router.add("PUT", base + "/wiki2/{wiki}/{version}", _restore, scope="modify")
        router.add("GET", base + "/wiki2orderhint", _order, scope="view")
        router.add("PUT", base + "/wiki2orderhint", _set_order, scope="modify")
