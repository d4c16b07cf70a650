"""Profiles, groups and teams. People are real; groups are the two special ones; teams there are none."""

from __future__ import annotations

from synd.clock import format_time
from synd.registry import kinds
from synd.registry.db import Database
from synd.registry.web import Json, Reply, Request, Router, bad, missing, ok

_SPECIAL = {kinds.AUTHENTICATED: "AUTHENTICATED_USERS", kinds.PUBLIC: "PUBLIC"}


def _profile(db: Database, user: int, own: bool) -> dict[str, Json]:
    row = db.one("SELECT name, etag, created_ns FROM user WHERE id = ?", (user,))
    if row is None:
        raise missing(f"The user {user} does not exist.")
    profile: dict[str, Json] = {
        "ownerId": str(user),
        "etag": row[1],
        "userName": row[0],
        "firstName": "",
        "lastName": "",
        "createdOn": format_time(row[2]),
    }
    if own:
        profile |= {"emails": [f"{row[0]}@localhost.invalid"], "openIds": [], "preferences": []}
    return profile


def _own(request: Request) -> Reply:
    return ok(_profile(request.registry.db, request.caller.user, True))


def _by_id(request: Request) -> Reply:
    user = request.args["id"]
    if user == "":
        return _own(request)
    if not user.isdecimal():
        row = request.registry.db.one("SELECT id FROM user WHERE name = ?", (user,))
        if row is None:
            raise missing(f"The user {user} does not exist.")
        user = str(row[0])
    return ok(_profile(request.registry.db, int(user), int(user) == request.caller.user))


def _header(db: Database, principal: int) -> dict[str, Json] | None:
    if principal in _SPECIAL:
        return {
            "ownerId": str(principal),
            "userName": _SPECIAL[principal],
            "isIndividual": False,
        }
    row = db.one("SELECT name FROM user WHERE id = ?", (principal,))
    if row is None:
        return None
    return {
        "ownerId": str(principal),
        "userName": row[0],
        "firstName": "",
        "lastName": "",
        "isIndividual": True,
    }


def _headers(request: Request) -> Reply:
    prefix = request.query.get("prefix", "").lower()
    limit, offset = request.page()
    rows = request.registry.db.all(
        "SELECT id FROM user WHERE lower(substr(name, 1, ?)) = ? ORDER BY name LIMIT ? OFFSET ?",
        (len(prefix), prefix, limit, offset),
    )
    found = [_header(request.registry.db, row[0]) for row in rows]
    return ok({"children": found, "totalNumberOfResults": offset + len(found)})


def _headers_batch(request: Request) -> Reply:
    ids = [part for part in request.query.get("ids", "").split(",") if part]
    if not all(part.isdecimal() for part in ids):
        raise bad("ids must be a comma separated list of principal ids.")
    found = [_header(request.registry.db, int(part)) for part in ids]
    present = [header for header in found if header is not None]
    return ok({"children": present, "totalNumberOfResults": len(present)})


def _aliases(request: Request) -> Reply:
    names = request.json().get("list") or []
    if not isinstance(names, list):
        raise bad("list must be a list of names.")
    found = []
    for name in names:
        row = request.registry.db.one("SELECT id FROM user WHERE name = ?", (str(name),))
        if row is not None:
            found.append(_header(request.registry.db, row[0]))
    return ok({"list": found})


def _bundle(request: Request) -> Reply:
    user = request.args["id"]
    if not user.isdecimal():
        raise bad(f"{user!r} is not a principal id.")
    mask = request.integer("mask", 0xFFFFFFFF, most=0xFFFFFFFF)
    bundle: dict[str, Json] = {"userId": user}
    if mask & 0x1:
        bundle["userProfile"] = _profile(
            request.registry.db, int(user), int(user) == request.caller.user
        )
    flags = (
        (0x8, "isCertified"),
        (0x10, "isVerified"),
        (0x20, "isACTMember"),
        (0x40, "isARReviewer"),
    )
    bundle |= {name: name == "isCertified" for bit, name in flags if mask & bit}
    return ok(bundle)


def _certified(request: Request) -> Reply:
    return ok({"userId": request.args["id"], "passed": True, "certified": True})


def _no_results(_: Request) -> Reply:
    return ok({"results": [], "totalNumberOfResults": 0})


def _team_ids(_: Request) -> Reply:
    return ok({"teamIds": [], "nextPageToken": None})


def _team(request: Request) -> Reply:
    raise missing(f"The team {request.args['id']} does not exist.")


def add(router: Router) -> None:
    # "/userProfile/" reaches the same node: the router strips the last slash, and both spellings are used.
    router.add("GET", "/repo/v1/userProfile", _own, scope="")
    router.add("GET", "/repo/v1/userProfile/{id}", _by_id, scope="view")
    router.add("GET", "/repo/v1/userGroupHeaders", _headers, scope="view")
    router.add("GET", "/repo/v1/userGroupHeaders/batch", _headers_batch, scope="view")
    router.add("POST", "/repo/v1/userGroupHeaders/aliases", _aliases, scope="view")
    router.add("GET", "/repo/v1/user/{id}/bundle", _bundle, scope="view")
    router.add("GET", "/repo/v1/user/{id}/certifiedUserPassingRecord", _certified, scope="view")
    router.add("GET", "/repo/v1/user/{id}/team", _no_results, scope="view")
    router.add("GET", "/repo/v1/user/{id}/team/id", _team_ids, scope="view")
    router.add("GET", "/repo/v1/teams", _no_results, scope="view")
    router.add("GET", "/repo/v1/team/{id}", _team, scope="view")
    router.add("GET", "/repo/v1/teamMembers/{id}", _no_results, scope="view")
