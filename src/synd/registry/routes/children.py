"""Listing a container: 50 headers a page, sorted, counted, filtered (synapse-rest.md 2.7). The hottest path.

A token is an offset, as the service's is, but page 20 000 of a million children must not cost a million steps:
for each page handed out, the place where the next one starts is remembered, and the next page seeks there.
A token without a remembered place (a restart, a foreign token) is counted through.
"""

from __future__ import annotations

import json
import re
from itertools import product

from synd.clock import format_time
from synd.ids import syn
from synd.registry import access, kinds
from synd.registry.db import Row
from synd.registry.entities import parse_id
from synd.registry.web import Json, Reply, Request, Router, bad, ok

PAGE = 50
_HINTS = 20_000
"""Remembered places; the oldest are forgotten first."""
_FEW = 5_000
"""Up to so many matching children are fetched by kind and sorted; more are found by scanning in order."""
_TOKEN = re.compile(r"(\d{1,4})a(\d{1,12})")

_HEADER = (
    "SELECT e.id, e.name, e.kind, e.current_version, v.label, e.created_ns, e.modified_ns,"
    " e.created_by, e.modified_by, e.has_acl FROM entity AS e"
)
_LABEL = (
    " JOIN entity_version AS v ON v.entity_id = e.id AND v.number = e.current_version"
    " WHERE e.parent_id = ?"
)
_OF_KINDS = " AND e.kind IN (SELECT value FROM json_each(?))"
_READABLE = (
    " AND (e.has_acl = 0 OR EXISTS (SELECT 1 FROM acl_grant AS g WHERE g.entity_id = e.id"
    " AND g.principal IN (?, ?, ?) AND g.access & 1))"
)
_COUNT = (
    "SELECT count(*), coalesce(sum(e.size), 0) FROM entity AS e WHERE e.parent_id = ?"  # noqa: S608
    + _OF_KINDS
    + _READABLE
)
_SORTS = {
    "NAME": ("name", "entity_by_name"),
    "CREATED_ON": ("created_ns", "entity_by_created"),
    "MODIFIED_ON": ("modified_ns", "entity_by_modified"),
}


Shape = tuple[str, bool, bool, bool, bool]
"""Of a listing: sort, descending, filtered by kind, filtered by right to read, few."""


def _texts() -> tuple[dict[Shape, str], dict[Shape, str], dict[Shape, str]]:
    """For each shape, made once: the first page, a page after a known row, the row before an offset."""
    first, after, before = {}, {}, {}
    flags = (False, True)
    for sort, descending, of_kinds, readable, few in product(_SORTS, flags, flags, flags, flags):
        column, index = _SORTS[sort]
        way, sign = ("DESC", "<") if descending else ("ASC", ">")
        by = f" INDEXED BY {'entity_by_kind' if few else index}"
        filters = (_OF_KINDS if of_kinds else "") + (_READABLE if readable else "")
        order = f" ORDER BY e.{column} {way}, e.id {way} LIMIT ?"
        shape = (sort, descending, of_kinds, readable, few)
        first[shape] = _HEADER + by + _LABEL + filters + order
        after[shape] = (
            _HEADER + by + _LABEL + f" AND (e.{column}, e.id) {sign} (?, ?)" + filters + order
        )
        # Without filters this one counts along the index alone, without looking at a single row.
        before[shape] = (
            f"SELECT e.{column}, e.id FROM entity AS e{by} WHERE e.parent_id = ?"  # noqa: S608
            + filters
            + order.replace("LIMIT ?", "LIMIT 1 OFFSET ?")
        )
    return first, after, before


_FIRST, _AFTER, _BEFORE = _texts()


def _offset(token: object) -> int:
    """Raises RefusedError 400."""
    if token is None:
        return 0
    match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
    if match is None or int(match[1]) > PAGE:
        raise bad(f"{token!r} is not a page token of this service.")
    return int(match[2])


def _header(row: Row, benefactor: int) -> dict[str, Json]:
    entity, name, kind, number, label, created_ns, modified_ns, created_by, modified_by, own = row
    return {
        "id": syn(entity),
        "name": name,
        "type": kinds.BY_NAME[kind].concrete,
        "versionNumber": number,
        "versionLabel": label,
        "isLatestVersion": True,
        "benefactorId": entity if own else benefactor,
        "createdOn": format_time(created_ns),
        "modifiedOn": format_time(modified_ns),
        "createdBy": str(created_by),
        "modifiedBy": str(modified_by),
    }


def _children(request: Request) -> Reply:
    body = request.json()
    db = request.registry.db
    wanted = body.get("includeTypes")
    raw_parent = body.get("parentId")
    if raw_parent is None:
        parent, wanted = kinds.ROOT, ["project"]
    else:
        parent = parse_id(raw_parent)
    if not isinstance(wanted, list) or not wanted:
        raise bad("includeTypes must hold at least one entity type.")
    sort = body.get("sortBy") or "NAME"
    if not isinstance(sort, str) or sort not in _SORTS:
        raise bad(f"sortBy must be one of {', '.join(_SORTS)}.")
    descending = (body.get("sortDirection") or "ASC") == "DESC"
    offset = _offset(body.get("nextPageToken"))
    where = access.need(db, parent, request.caller, access.READ)

    counts = db.all(
        "SELECT kind, n, bytes FROM child_count WHERE parent_id = ? AND n > 0", (parent,)
    )
    shown = [(n, size) for kind, n, size in counts if kind in wanted]
    total = sum(n for n, _ in shown)
    sum_bytes = sum(size for _, size in shown)
    of_kinds = len(shown) < len(counts)
    kinds_json = json.dumps(sorted(set(map(str, wanted))))
    principals = request.caller.principals
    readable = (
        db.one("SELECT 1 FROM entity WHERE parent_id = ? AND has_acl = 1 LIMIT 1", (parent,))
        is not None
    )
    if readable and (body.get("includeTotalChildCount") or body.get("includeSumFileSizes")):
        total, sum_bytes = db.all(_COUNT, (parent, kinds_json, *principals))[0]

    shape = (sort, descending, of_kinds, readable, of_kinds and total <= _FEW)
    place = (parent, sort, descending, kinds_json, principals[0], offset)
    hints = request.registry.page_hints
    filters: tuple[object, ...] = ((kinds_json,) if of_kinds else ()) + (
        principals if readable else ()
    )
    rows: list[Row] = []
    if total and not offset:
        rows = db.all(_FIRST[shape], (parent, *filters, PAGE + 1))
    elif total:
        start: Row | None = hints.get(place) or db.one(
            _BEFORE[shape], (parent, *filters, offset - 1)
        )
        if start is not None:
            rows = db.all(_AFTER[shape], (parent, *start, *filters, PAGE + 1))
    token = None
    if len(rows) > PAGE:
        token = f"{PAGE}a{offset + PAGE}"
        last = rows[PAGE - 1]
        key = {"NAME": last[1], "CREATED_ON": last[5], "MODIFIED_ON": last[6]}[sort]
        if len(hints) >= _HINTS:
            hints.pop(next(iter(hints)))
        hints[(*place[:-1], offset + PAGE)] = (key, last[0])
    answer: dict[str, Json] = {
        "page": [_header(row, where.benefactor) for row in rows[:PAGE]],
        "nextPageToken": token,
    }
    if body.get("includeTotalChildCount"):
        answer["totalChildCount"] = total
    if body.get("includeSumFileSizes"):
        answer["sumFileSizesBytes"] = sum_bytes
    return ok(answer)


def add(router: Router) -> None:
    router.add("POST", "/repo/v1/entity/children", _children, scope="view")
