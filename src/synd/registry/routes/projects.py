"""The caller's projects, and favourites."""

from __future__ import annotations

import re

from synd.clock import format_time
from synd.ids import syn
from synd.registry import access, entities, kinds
from synd.registry.db import now_ns
from synd.registry.entities import get, parse_id
from synd.registry.web import NO_CONTENT, Reply, Request, Router, bad, created, ok

PAGE = 50
_TOKEN = re.compile(r"\d{1,4}a(\d{1,12})")
_LIST = (
    "SELECT e.id, e.name, e.modified_ns, e.modified_by FROM entity AS e WHERE e.parent_id = ?"
    " AND e.kind = 'project' AND (? = 'ALL' OR e.created_by = ?) AND EXISTS (SELECT 1 FROM acl_grant"
    " AS g WHERE g.entity_id = e.id AND g.principal IN (?, ?, ?) AND g.access & 1) ORDER BY "
)
_ORDERS = {
    ("PROJECT_NAME", "ASC"): _LIST + "e.name LIMIT ? OFFSET ?",
    ("PROJECT_NAME", "DESC"): _LIST + "e.name DESC LIMIT ? OFFSET ?",
    ("LAST_ACTIVITY", "ASC"): _LIST + "e.modified_ns, e.id LIMIT ? OFFSET ?",
    ("LAST_ACTIVITY", "DESC"): _LIST + "e.modified_ns DESC, e.id DESC LIMIT ? OFFSET ?",
}


def _projects(request: Request) -> Reply:
    query = request.query
    order = (query.get("sort") or "LAST_ACTIVITY", query.get("sortDirection") or "DESC")
    if order not in _ORDERS:
        raise bad("sort must be LAST_ACTIVITY or PROJECT_NAME, sortDirection ASC or DESC.")
    token = query.get("nextPageToken")
    offset = 0
    if token:
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise bad(f"{token!r} is not a page token of this service.")
        offset = int(match[1])
    wanted = query.get("filter") or "ALL"
    rows = request.registry.db.all(
        _ORDERS[order],
        (
            kinds.ROOT,
            "ALL" if wanted in ("ALL", "PARTICIPATED", "TEAM") else wanted,
            request.caller.user,
            *request.caller.principals,
            PAGE + 1,
            offset,
        ),
    )
    results = [
        {
            "id": syn(row[0]),
            "name": row[1],
            "lastActivity": format_time(row[2]),
            "modifiedOn": format_time(row[2]),
            "modifiedBy": row[3],
        }
        for row in rows[:PAGE]
    ]
    more = f"{PAGE}a{offset + PAGE}" if len(rows) > PAGE else None
    return ok({"results": results, "nextPageToken": more})


def _favorites(request: Request) -> Reply:
    limit, offset = request.page()
    rows = request.registry.db.all(
        "SELECT f.entity_id FROM favorite AS f JOIN entity AS e ON e.id = f.entity_id"
        " WHERE f.user_id = ? AND e.trashed_ns IS NULL ORDER BY f.created_ns LIMIT ? OFFSET ?",
        (request.caller.user, limit, offset),
    )
    results = [
        entities.header_of(request.registry.db, row[0])
        for row in rows
        if access.may(request.registry.db, row[0], request.caller, access.READ)
    ]
    return ok({"results": results, "totalNumberOfResults": offset + len(results)})


def _add_favorite(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    access.need(db, entity, request.caller, access.READ)
    get(db, entity)
    with db.write() as tx:
        tx.execute(
            "INSERT OR IGNORE INTO favorite VALUES (?, ?, ?)",
            (request.caller.user, entity, now_ns()),
        )
    return created(entities.header_of(db, entity))


def _drop_favorite(request: Request) -> Reply:
    with request.registry.db.write() as tx:
        tx.execute(
            "DELETE FROM favorite WHERE user_id = ? AND entity_id = ?",
            (request.caller.user, parse_id(request.args["id"])),
        )
    return NO_CONTENT


def add(router: Router) -> None:
    router.add("GET", "/repo/v1/projects", _projects, scope="view")
    router.add("GET", "/repo/v1/favorite", _favorites, scope="view")
    router.add("POST", "/repo/v1/favorite/{id}", _add_favorite, scope="modify")
    router.add("DELETE", "/repo/v1/favorite/{id}", _drop_favorite, scope="modify")
