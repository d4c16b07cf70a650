"""The registry's own resource, which Synapse does not have: faults, request log, users, terms of use.

Only the registry's owner may use it (a token of the first user with the scope `modify`).

    POST   /admin/faults     {"method", "path", "action", "nth", "times", …} or {"faults": [such, …]} (faults.py)
    GET    /admin/faults     the rules with how often they were seen and hit; DELETE removes all
    GET    /admin/requests   counters and the newest requests (?limit=, ?reset=true); DELETE resets
    POST   /admin/users      {"userName", "scopes"} → {"ownerId", "userName", "token"}
    POST   /admin/terms      {"entityId", "unmet": true | false}
    POST   /admin/grids      {"halted": true | false, "pauseSeconds", "shape", "urlSeconds"}: of all grids, whether
                             rows are validated, the wait before each batch of them, how answers spell patches
                             (patches, patch, bare), the life of socket URLs; answers with the state, as GET does
    POST   /admin/grids/{id}/snapshot   makes a snapshot of that session now
"""

from __future__ import annotations

import sqlite3

from synd.errors import UsageError
from synd.registry import access
from synd.registry.db import add_token, add_user
from synd.registry.entities import parse_id
from synd.registry.grids import sessions
from synd.registry.routes.tokens import check_scopes
from synd.registry.web import NO_CONTENT, Reply, Request, Router, bad, created, ok, taken


def _add_faults(request: Request) -> Reply:
    body = request.json()
    rules = body.get("faults", [body])
    try:
        added = [request.registry.faults.add(rule) for rule in rules]
    except UsageError as error:
        raise bad(f"{error.message} {error.hint}") from error
    return created({"faults": [fault.describe() for fault in added]})


def _list_faults(request: Request) -> Reply:
    return ok({"faults": request.registry.faults.describe()})


def _clear_faults(request: Request) -> Reply:
    request.registry.faults.clear()
    return NO_CONTENT


def _requests(request: Request) -> Reply:
    report = request.registry.requests.report(request.integer("limit", 1000))
    if request.flag("reset", False):
        request.registry.requests.reset()
    return ok(report)


def _reset_requests(request: Request) -> Reply:
    request.registry.requests.reset()
    return NO_CONTENT


def _add_user(request: Request) -> Reply:
    body = request.json()
    name = body.get("userName")
    if not isinstance(name, str) or not name:
        raise bad("userName is required.")
    scopes = check_scopes(body.get("scopes", ["view", "download", "modify", "authorize"]))
    db = request.registry.db
    try:
        with db.write():
            user = add_user(db, name)
            _, token = add_token(db, user, "default", scopes)
    except sqlite3.IntegrityError as error:
        raise taken(f"There is a user named {name!r} already.") from error
    return created({"ownerId": str(user), "userName": name, "token": token})


def _terms(request: Request) -> Reply:
    body = request.json()
    entity = parse_id(body.get("entityId"))
    db = request.registry.db
    with db.write() as tx:
        access.place(db, entity)
        tx.execute(
            "UPDATE entity SET unmet_terms = ? WHERE id = ?",
            (int(bool(body.get("unmet", True))), entity),
        )
    return NO_CONTENT


def _control_grids(request: Request) -> Reply:
    body = request.json() if request.method == "POST" else {}
    return ok(request.registry.grids.control(body))


def _snapshot_grid(request: Request) -> Reply:
    registry = request.registry
    row = sessions.need(registry.db, request.args["id"], request.caller)
    with registry.grids.use(row.id) as live:
        live.make_snapshot()
    return NO_CONTENT


def add(router: Router) -> None:
    router.add("POST", "/admin/faults", _add_faults, scope="admin")
    router.add("GET", "/admin/faults", _list_faults, scope="admin")
    router.add("DELETE", "/admin/faults", _clear_faults, scope="admin")
    router.add("GET", "/admin/requests", _requests, scope="admin")
    router.add("DELETE", "/admin/requests", _reset_requests, scope="admin")
    router.add("POST", "/admin/users", _add_user, scope="admin")
    router.add("POST", "/admin/terms", _terms, scope="admin")
    router.add("GET", "/admin/grids", _control_grids, scope="admin")
    router.add("POST", "/admin/grids", _control_grids, scope="admin")
    router.add("POST", "/admin/grids/{id}/snapshot", _snapshot_grid, scope="admin", slow=True)
