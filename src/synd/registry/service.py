"""One running registry: its parts, handed to every request. No globals, so a test may run several."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from synd.errors import StoreError
from synd.registry import kinds
from synd.registry.access import Caller
from synd.registry.blobs import BlobStore, Presigner
from synd.registry.db import Database, token_hash
from synd.registry.faults import FaultBook, RequestLog, Throttle
from synd.registry.web import RefusedError

if TYPE_CHECKING:
    from synd.registry.grids.sessions import Grids
    from synd.registry.jobs import Jobs

log = logging.getLogger("synd.registry")

ANONYMOUS = Caller(kinds.PUBLIC, "anonymous", frozenset({"view"}))


@dataclass(frozen=True, slots=True)
class Settings:
    """How a registry is served. Data and time units are in the names."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 0
    latency_ms: float = 0.0
    """Added to each request, REST and bytes."""
    mbit: float = 0.0
    """Megabits per second of one byte connection; 0 is no bound."""
    throttle: bool = False
    url_ttl_s: int = 900
    """Life of a presigned download URL; the service's own is 30 s."""
    grid_url_ttl_s: int = 900
    """Life of a grid's WebSocket URL: it must be used before that; as the service's own."""
    grid_halted: bool = False
    """Grids start without validation (`POST /admin/grids` resumes it), so that tests meet pending rows."""


class Tokens:
    """Token → caller, remembered: a look-up per request would cost as much as a small answer."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: dict[str, Caller] = {}

    def caller(self, token: str) -> Caller:
        """Raises RefusedError 401."""
        found = self._known.get(token)
        if found is None:
            row = self._db.one(
                "SELECT u.id, u.name, t.scopes, u.is_admin FROM token AS t JOIN user AS u"
                " ON u.id = t.user_id WHERE t.sha256 = ?",
                (token_hash(token),),
            )
            if row is None:
                raise RefusedError(401, "The access token is missing, unknown or expired.")
            found = Caller(row[0], row[1], frozenset(row[2].split(",")), bool(row[3]))
            self._known[token] = found
        return found

    def forget(self) -> None:
        self._known.clear()


@dataclass(slots=True)
class Registry:
    """The parts of a registry. `open_registry` makes one, `close` ends it."""

    settings: Settings
    db: Database
    blobs: BlobStore
    faults: FaultBook = field(default_factory=FaultBook)
    requests: RequestLog = field(default_factory=RequestLog)
    throttle: Throttle | None = None
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(8, thread_name_prefix="registry-slow")
    )
    tokens: Tokens = field(init=False)
    jobs: Jobs = field(init=False)
    presigner: Presigner = field(init=False)
    """Its base is set by whoever runs the byte server."""
    grids: Grids = field(init=False)
    page_hints: dict[tuple[object, ...], tuple[object, int]] = field(default_factory=dict)
    """Where the next page of a listing starts (`routes/children.py`)."""

    def __post_init__(self) -> None:
        from synd.registry.grids.sessions import Grids
        from synd.registry.jobs import Jobs

        self.tokens = Tokens(self.db)
        self.jobs = Jobs(self.db, self.pool)
        secret = self.db.meta("url_secret")
        if secret is None:
            raise StoreError(f"{self.db.path} holds no URL secret")
        self.presigner = Presigner(secret, "", self.settings.url_ttl_s)
        self.grids = Grids(self)

    def close(self) -> None:
        self.grids.close()
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.db.close()


def open_registry(settings: Settings) -> Registry:
    """The registry of a data folder, made if need be. Raises StoreError."""
    data = settings.data
    try:
        data.mkdir(parents=True, exist_ok=True)
        blobs = BlobStore(data)
    except OSError as error:
        raise StoreError(f"cannot use {data}: {error.strerror}", path=str(data)) from error
    _sweep(blobs)
    registry = Registry(settings, Database(data / "registry.db"), blobs)
    if settings.throttle:
        registry.throttle = Throttle()
    return registry


def _sweep(blobs: BlobStore) -> None:
    """Removes what a killed process left in tmp/. A day's grace: a `seed` may be at work just now."""
    old = time.time() - 86_400
    for path in blobs.tmp.iterdir():
        try:
            if path.stat().st_mtime < old:
                path.unlink()
        except OSError:
            log.info("registry.sweep_skipped", exc_info=True)
