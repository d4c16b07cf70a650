"""The trash can: see, restore, purge (synapse-rest.md 2.11)."""

from __future__ import annotations

from synd.clock import format_time
from synd.ids import syn
from synd.registry import entities, kinds
from synd.registry.access import Caller
from synd.registry.db import Database
from synd.registry.entities import parse_id
from synd.registry.web import EMPTY, Reply, Request, Router, forbidden, ok


def _trash(request: Request) -> Reply:
    entities.delete(request.registry.db, request.caller, parse_id(request.args["id"]))
    return EMPTY


def _restore(request: Request) -> Reply:
    raw = request.args.get("parent")
    entities.restore(
        request.registry.db,
        request.caller,
        parse_id(request.args["id"]),
        None if raw is None else parse_id(raw),
    )
    return EMPTY


def _view(request: Request) -> Reply:
    limit, offset = request.page()
    rows = request.registry.db.all(
        "SELECT id, trashed_name, kind, trashed_by, trashed_ns, trashed_parent FROM entity"
        " WHERE parent_id = ? AND trashed_by = ? ORDER BY trashed_ns DESC, id LIMIT ? OFFSET ?",
        (kinds.TRASH, request.caller.user, limit, offset),
    )
    results = [
        {
            "entityId": syn(row[0]),
            "entityName": row[1],
            "entityType": row[2],
            "deletedByPrincipalId": str(row[3]),
            "deletedOn": format_time(row[4]),
            "originalParentId": syn(row[5]),
        }
        for row in rows
    ]
    return ok({"results": results, "totalNumberOfResults": offset + len(results)})


def purge(db: Database, caller: Caller, entity: int) -> int:
    """Removes an entity in the trash and all below it for good. The number of entities removed."""
    with db.write() as tx:
        row = tx.execute(
            "SELECT trashed_by FROM entity WHERE id = ? AND parent_id = ?", (entity, kinds.TRASH)
        ).fetchone()
        if row is None:
            return 0
        if row[0] != caller.user:
            raise forbidden("Only the user who deleted an entity may purge it.")
        tx.execute("CREATE TEMP TABLE IF NOT EXISTS doomed (id INTEGER PRIMARY KEY)")
        tx.execute("DELETE FROM doomed")
        tx.execute(
            "WITH RECURSIVE below (id) AS (SELECT ? UNION ALL"
            " SELECT e.id FROM entity AS e JOIN below ON e.parent_id = below.id)"
            " INSERT INTO doomed SELECT id FROM below",
            (entity,),
        )
        for statement in (
            "DELETE FROM entity_version WHERE entity_id IN (SELECT id FROM doomed)",
            "DELETE FROM acl WHERE entity_id IN (SELECT id FROM doomed)",
            "DELETE FROM table_row WHERE table_id IN (SELECT id FROM doomed)",
            "DELETE FROM table_snapshot WHERE table_id IN (SELECT id FROM doomed)",
            "DELETE FROM table_state WHERE table_id IN (SELECT id FROM doomed)",
            "DELETE FROM favorite WHERE entity_id IN (SELECT id FROM doomed)",
            "DELETE FROM wiki_page WHERE owner_id IN (SELECT id FROM doomed)",
        ):
            tx.execute(statement)
        return tx.execute("DELETE FROM entity WHERE id IN (SELECT id FROM doomed)").rowcount


def _purge(request: Request) -> Reply:
    purge(request.registry.db, request.caller, parse_id(request.args["id"]))
    return EMPTY


def add(router: Router) -> None:
    base = "/repo/v1/trashcan"
    router.add("PUT", base + "/trash/{id}", _trash, scope="modify", slow=True)
    router.add("PUT", base + "/restore/{id}", _restore, scope="modify")
    router.add("PUT", base + "/restore/{id}/{parent}", _restore, scope="modify")
    router.add("GET", base + "/view", _view, scope="view")
    router.add("PUT", base + "/purge/{id}", _purge, scope="modify", slow=True)
