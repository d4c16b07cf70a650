"""Personal access tokens of the caller."""

from __future__ import annotations

import sqlite3

from synd.clock import format_time
from synd.registry.db import Row, add_token
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
    taken,
)

SCOPES = ("view", "download", "modify", "authorize", "openid", "email", "profile",
          "ga4gh_passport_v1", "offline_access")  # fmt: skip


def check_scopes(raw: object) -> str:
    """The words of a scope list, joined. Raises RefusedError 400."""
    if not isinstance(raw, list) or not raw or not all(scope in SCOPES for scope in raw):
        raise bad(f"scope must be a list of {', '.join(SCOPES)}.")
    return ",".join(raw)


def _create(request: Request) -> Reply:
    body = request.json()
    scopes = check_scopes(body.get("scope", ["view", "download", "modify"]))
    if extra := set(scopes.split(",")) - request.caller.scopes - {"openid", "email", "profile"}:
        raise forbidden(f"The token in use may not grant {', '.join(sorted(extra))}.")
    name = str(body.get("name") or "token")
    try:
        _, token = add_token(request.registry.db, request.caller.user, name, scopes)
    except sqlite3.IntegrityError as error:
        raise taken(f"There is a token named {name!r} already.") from error
    return created({"token": token})


def _record(row: Row) -> dict[str, Json]:
    return {
        "id": str(row[0]),
        "name": row[1],
        "scopes": row[2].split(","),
        "createdOn": format_time(row[3]),
        "lastUsed": format_time(row[3]),
        "state": "ACTIVE",
    }


def _list(request: Request) -> Reply:
    rows = request.registry.db.all(
        "SELECT id, name, scopes, created_ns FROM token WHERE user_id = ? ORDER BY id",
        (request.caller.user,),
    )
    return ok({"results": [_record(row) for row in rows], "nextPageToken": None})


def _number(request: Request) -> int:
    if not request.args["id"].isdecimal():
        raise bad("A token id is a number.")
    return int(request.args["id"])


def _get(request: Request) -> Reply:
    row = request.registry.db.one(
        "SELECT id, name, scopes, created_ns FROM token WHERE user_id = ? AND id = ?",
        (request.caller.user, _number(request)),
    )
    if row is None:
        raise missing(f"There is no token {request.args['id']}.")
    return ok(_record(row))


def _delete(request: Request) -> Reply:
    with request.registry.db.write() as tx:
        tx.execute(
            "DELETE FROM token WHERE user_id = ? AND id = ?",
            (request.caller.user, _number(request)),
        )
    request.registry.tokens.forget()
    return NO_CONTENT


def add(router: Router) -> None:
    router.add("POST", "/auth/v1/personalAccessToken", _create, scope="authorize")
    router.add("GET", "/auth/v1/personalAccessToken", _list, scope="authorize")
    router.add("GET", "/auth/v1/personalAccessToken/{id}", _get, scope="authorize")
    router.add("DELETE", "/auth/v1/personalAccessToken/{id}", _delete, scope="authorize")
