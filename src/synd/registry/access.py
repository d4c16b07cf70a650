"""Who may do what: the walk from an entity up to its benefactor, and the bits of an access list.

One walk answers four questions (is it there, is it in the trash, whose ACL rules, are there unmet terms),
because every request asks at least two of them. Nothing is cached: moving, trashing or sharing a folder
changes one row, whatever lies below.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from synd.ids import syn
from synd.registry import kinds
from synd.registry.db import Database, new_etag, now_ns
from synd.registry.web import RefusedError, bad, forbidden, missing

BITS = {
    "READ": 1,
    "DOWNLOAD": 2,
    "UPDATE": 4,
    "CREATE": 8,
    "DELETE": 16,
    "MODERATE": 32,
    "CHANGE_SETTINGS": 64,
    "CHANGE_PERMISSIONS": 128,
    "UPLOAD": 256,
    "PARTICIPATE": 512,
    "SUBMIT": 1024,
    "READ_PRIVATE_SUBMISSION": 2048,
    "UPDATE_SUBMISSION": 4096,
    "DELETE_SUBMISSION": 8192,
    "TEAM_MEMBERSHIP_UPDATE": 16384,
    "SEND_MESSAGE": 32768,
    "REVIEW_SUBMISSIONS": 65536,
    "EXEMPTION_ELIGIBLE": 131072,
}
READ, DOWNLOAD, UPDATE, CREATE, DELETE, MODERATE, CHANGE_SETTINGS, CHANGE_PERMISSIONS = (
    1, 2, 4, 8, 16, 32, 64, 128,
)  # fmt: skip
OWNER = 255
"""The eight rights a project's creator gets."""

MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what the token in use allows."""

    user: int
    """Principal id; `kinds.PUBLIC` for nobody."""
    name: str
    scopes: frozenset[str]
    is_admin: bool = False

    @property
    def principals(self) -> tuple[int, int, int]:
        """All principals whose grants count."""
        if self.user == kinds.PUBLIC:
            return kinds.PUBLIC, kinds.PUBLIC, kinds.PUBLIC
        return self.user, kinds.AUTHENTICATED, kinds.PUBLIC


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entity hangs."""

    benefactor: int
    unmet: bool
    """Terms of use of it or an ancestor are not accepted."""
    ancestors: tuple[int, ...]
    """Itself first, the root last."""

    @property
    def project(self) -> int:
        return self.ancestors[-2] if len(self.ancestors) > 1 else self.ancestors[-1]


def place(db: Database, entity: int) -> Place:
    """Raises RefusedError 404 for what does not exist or lies in the trash."""
    execute = db.connection.execute
    at: int | None = entity
    chain: list[int] = []
    benefactor = 0
    unmet = False
    while at is not None:
        row = execute(
            "SELECT parent_id, has_acl, unmet_terms FROM entity WHERE id = ?", (at,)
        ).fetchone()
        if row is None or len(chain) > MAX_DEPTH + 2:
            raise missing(f"Entity {syn(entity)} does not exist.")
        chain.append(at)
        if row[1] and not benefactor:
            benefactor = at
        unmet = unmet or bool(row[2])
        if row[0] == kinds.TRASH:
            raise missing(f"Entity {syn(entity)} is in the trash can.")
        at = row[0]
    return Place(benefactor, unmet, tuple(chain))


def rights(db: Database, benefactor: int, caller: Caller) -> int:
    """The bits that a benefactor's ACL grants the caller."""
    bits = 0
    for (granted,) in db.connection.execute(
        "SELECT access FROM acl_grant WHERE entity_id = ? AND principal IN (?, ?, ?)",
        (benefactor, *caller.principals),
    ):
        bits |= granted
    if benefactor == kinds.ROOT and caller.user != kinds.PUBLIC:
        bits |= READ | CREATE
    return bits


_NAMES = {READ: "READ", DOWNLOAD: "DOWNLOAD", UPDATE: "UPDATE", CREATE: "CREATE", DELETE: "DELETE",
          CHANGE_PERMISSIONS: "CHANGE_PERMISSIONS", CHANGE_SETTINGS: "CHANGE_SETTINGS"}  # fmt: skip


def need(db: Database, entity: int, caller: Caller, access: int) -> Place:
    """The entity's place. Raises RefusedError 404 if it is not there, 403 without the right `access`."""
    found = place(db, entity)
    if not rights(db, found.benefactor, caller) & access:
        raise forbidden(
            f"{caller.name} lacks {_NAMES.get(access, access)} access to the requested entity"
            f" {syn(entity)}."
        )
    return found


def may(db: Database, entity: int, caller: Caller, access: int) -> bool:
    try:
        need(db, entity, caller, access)
    except RefusedError:
        return False
    return True


def set_acl(tx: sqlite3.Connection, entity: int, grants: dict[int, int]) -> None:
    """Gives an entity an ACL of its own, or replaces it."""
    tx.execute(
        "INSERT INTO acl VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET etag = excluded.etag",
        (entity, new_etag(), now_ns()),
    )
    tx.execute("DELETE FROM acl_grant WHERE entity_id = ?", (entity,))
    tx.executemany(
        "INSERT INTO acl_grant VALUES (?, ?, ?)",
        [(entity, principal, bits) for principal, bits in grants.items()],
    )
    tx.execute("UPDATE entity SET has_acl = 1 WHERE id = ?", (entity,))


def drop_acl(tx: sqlite3.Connection, entity: int) -> None:
    tx.execute("DELETE FROM acl WHERE entity_id = ?", (entity,))
    tx.execute("UPDATE entity SET has_acl = 0 WHERE id = ?", (entity,))


def to_bits(names: object) -> int:
    """The bits of a list of access type names. Raises RefusedError 400 for an unknown one."""
    if not isinstance(names, list):
        raise bad("accessType must be a list.")
    bits = 0
    for name in names:
        if name not in BITS:
            raise bad(f"{name!r} is not an access type.")
        bits |= BITS[name]
    return bits


def to_names(bits: int) -> list[str]:
    return [name for name, bit in BITS.items() if bits & bit]
