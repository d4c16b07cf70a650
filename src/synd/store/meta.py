"""Which service and which user the rows belong to, and pins."""

from __future__ import annotations

from synd.ids import EntityId
from synd.store.connect import Store

_FROM_SERVICE = (
    "entity", "folder", "view_row", "view", "version", "version_listing", "pin", "record_set",
)  # fmt: skip


def get(store: Store, name: str) -> str | None:
    found = store.read.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return found[0] if found else None


def put(store: Store, name: str, value: str) -> None:
    with store.write() as tx:
        tx.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))


_OF_CHANGES = ("save", "answered", "conflict", "local")
"""What belongs to things of the service that were changed here, children first."""


def only_here(store: Store) -> int:
    """How many things no service has: unsent changes, what is never sent, tracked folders."""
    found = store.read.execute(
        "SELECT (SELECT count(*) FROM local WHERE state <> 'clean' OR edit > sent"
        " OR (gone = 0 AND (local_only = 1 OR entity IS NULL))) + (SELECT count(*) FROM tracked)"
    ).fetchone()
    return int(found[0])


def belong_to(store: Store, endpoint: str, *, same: bool = False) -> bool:
    """Makes the store hold rows of this service only; True when those of another were dropped.

    Ids mean nothing across services, so rows of one must never answer for another. With `same` it is
    the service of before at another address: what was changed here stays, else it goes too, and the
    caller has seen to it that nothing of it is `only_here`.
    """
    before = get(store, "endpoint")
    if before == endpoint:
        return False
    tables = _FROM_SERVICE if same or before is None else (*_FROM_SERVICE, *_OF_CHANGES)
    with store.write() as tx:
        for table in tables:
            tx.execute(f"DELETE FROM {table}")
        tx.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('endpoint', ?)", (endpoint,))
    return before is not None


def uploads_paused(store: Store) -> bool:
    """Whether the user said that nothing is to be sent."""
    return get(store, "uploads") == "paused"


def set_uploads_paused(store: Store, *, paused: bool) -> None:
    put(store, "uploads", "paused" if paused else "")


def pins(store: Store) -> list[EntityId]:
    return [row[0] for row in store.read.execute("SELECT entity FROM pin ORDER BY entity")]


def pin(store: Store, entity: EntityId, at_ns: int) -> None:
    with store.write() as tx:
        tx.execute("INSERT OR REPLACE INTO pin (entity, pinned_ns) VALUES (?, ?)", (entity, at_ns))


def unpin(store: Store, entity: EntityId) -> bool:
    with store.write() as tx:
        return tx.execute("DELETE FROM pin WHERE entity = ?", (entity,)).rowcount > 0
