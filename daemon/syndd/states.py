"""Where the bytes of a thing are, why it is as it is, and the mend: `synd status PATH` and `synd why`.

What was changed here comes from `syndd.showing`; this adds what the service and the cache have.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from synd.cache.folder import Cache
from synd.client import credentials
from synd.client.service import SynapseClient
from synd.clock import format_time
from synd.control import contract
from synd.errors import NotFound, StageFailed
from synd.ids import ContentKey, syn
from synd.mirror.streams import Streams
from synd.mirror.tree import Tree
from synd.model import WITH_BYTES, Kind
from synd.store.entities import TOP, Row
from synd.store.local import Sending
from syndd.edits import Edits
from syndd.mount.ready import ReadyTree
from syndd.places import Place, Places
from syndd.schedule.pins import Pins
from syndd.showing import kept_or_unsent

_READY: dict[str, contract.Sync] = {
    "ready": "cached",
    "preparing": "fetching",
    "waiting": "fetching",
    "changed-here": "modified",
}

_OWN = {
    "@id": "any entity by its id",
    "@versions": "the versions of the files beside it",
    "@ready": "the files beside it, prepared; opening one begins the work",
    "@info": "what the service knows of the things beside it",
    "@wiki": "the pages of the folder's wiki",
}


def _is_ready(path: str, mount: Path) -> bool:
    """Whether a path leads to what lies in an ``@ready``."""
    return path.startswith("/") and Path(path).parent.name == "@ready" and Path(path) != mount


class States:
    """The state of single things. On the daemon's loop."""

    def __init__(
        self,
        *,
        endpoints: credentials.Endpoints,
        tree: Tree,
        streams: Streams,
        cache: Cache,
        pins: Pins,
        client: SynapseClient,
        places: Places,
        edits: Edits | None,
        mount: Path,
        ready: ReadyTree,
    ) -> None:
        self._endpoints = endpoints
        self._tree = tree
        self._streams = streams
        self._cache = cache
        self._pins = pins
        self._client = client
        self._places = places
        self._edits = edits
        self._mount = mount
        self._ready = ready

    def sync(self, place: Place) -> contract.Sync:
        """Where a thing's bytes are, and what becomes of its changes."""
        local = place.local
        if local is not None and self._edits is not None:
            state = self._edits.showing.state(local)
            if state is not None:
                return state
            if local.staged:
                return "cached"
        if place.row is None:
            return "virtual"
        found = self.state(place.row)
        # A pin is of what a file has now.
        return "cached" if found == "pinned" and not self._is_pinned(place) else found

    def _is_pinned(self, place: Place) -> bool:
        row = place.row
        if row is None or not self._pins.covers(row):
            return False
        return place.version is None or (row.key is not None and self._pins.holds(row.key))

    def state(self, row: Row) -> contract.Sync:
        if row.kind not in WITH_BYTES or row.key is None or not row.size:
            return "cached" if row.size == 0 else "remote"
        if self._cache.has(row.key, row.size) or self._streams.in_memory(row.key):
            return "pinned" if self._pins.covers(row) else "cached"
        if self._streams.under_way(row.key):
            return "fetching"
        return "partial" if self._partial_bytes(row.key) else "remote"

    def _partial_bytes(self, key: ContentKey) -> int:
        try:
            return (self._cache.root / "partial" / key).stat().st_blocks * 512
        except OSError:
            return 0

    def cached_bytes(self, row: Row) -> int:
        if row.key is None or not row.size:
            return 0
        return row.size if self._cache.has(row.key, row.size) else self._partial_bytes(row.key)

    def checked_at(self, folder: int) -> str | None:
        found = self._tree.folders.find(folder)
        return format_time(found.checked_ns) if found and found.checked_ns else None

    async def status(self, path: str) -> contract.PathStatus:
        place = await self._places.find(path)
        row, local = place.row, place.local
        if place.key == TOP:
            found: contract.PathStatus = {
                "path": str(self._mount), "entity": "", "kind": "top", "state": "virtual",
                "version": None, "base_version": None, "size": None, "cached_bytes": 0,
                "pinned": False, "md5": None, "checked_at": self.checked_at(TOP), "settled": True,
            }  # fmt: skip
        else:
            found = {
                "path": self._places.shown(place),
                "entity": syn(place.entity) if place.entity is not None else "",
                "kind": row.kind if row is not None else local.kind if local is not None else "",
                "state": self.sync(place),
                "version": place.version or (row.version if row is not None else None) or None,
                "base_version": local.base_version or None if local is not None else None,
                "size": row.size if row is not None else None,
                "cached_bytes": self.cached_bytes(row) if row is not None else 0,
                "pinned": self._is_pinned(place),
                "md5": row.md5 if row is not None else None,
                "checked_at": self._place_checked_at(place),
                "settled": True,
            }
        if self._edits is None:
            return found
        if local is not None and local.staged:
            found["size"] = found["cached_bytes"] = local.size
            found["md5"] = local.md5 if local.hashed == local.edit else None
        if local is not None and kept_or_unsent(local):
            found["local"] = self._edits.showing.local_state(local)
            found["settled"] = local.state == Sending.CLEAN
        if place.is_folder:
            found["below"] = await self._edits.pending(found["path"])
            found["settled"] = found["settled"] and found["below"]["verdict"] == "sent"
        return found

    def _place_checked_at(self, place: Place) -> str | None:
        row = place.row
        if row is None:
            return None
        return self.checked_at(row.id if Kind(row.kind).is_container else row.parent)

    def _why_own(self, path: str) -> contract.Why | None:
        """Of a folder that synd makes. Raises NotFound for `@id` elsewhere than at the top."""
        inside = Path(path)
        if not inside.is_absolute() or inside.name not in _OWN or inside == self._mount:
            return None
        if inside.name == "@id" and inside.parent != self._mount:
            raise NotFound(
                f"there is no {path}", hint=f"it is at the top: {self._mount}/@id", path=path
            )
        return {
            "path": path, "state": "virtual", "reason": f"made by synd: {_OWN[inside.name]}",
            "mend": "", "facts": {},
        }  # fmt: skip

    async def why(self, path: str) -> contract.Why:
        place = await self._places.find(path)
        row, local = place.row, place.local
        own = self._why_own(path)
        if own is not None:
            return own
        if place.key == TOP:
            return {
                "path": str(self._mount), "state": "virtual", "reason": "the top of the mount",
                "mend": "", "facts": {},
            }  # fmt: skip
        if _is_ready(path, self._mount):
            return await self._why_ready(path, place)
        facts: dict[str, str | int | float | bool | None] = {}
        reason, mend = self._reason(row) if row is not None else ("made here", "")
        if row is not None:
            facts = {
                "entity": syn(row.id),
                "kind": row.kind,
                "version": row.version or None,
                "size": row.size,
                "cached_bytes": self.cached_bytes(row),
                "md5": row.md5,
                "pinned": self._is_pinned(place),
                "modified_at": format_time(row.modified_ns),
                "name": row.name,
                "checked_at": self.checked_at(row.parent),
            }
        if local is not None and local.staged:
            facts |= {"size": local.size, "cached_bytes": local.size}
            facts["md5"] = local.md5 if local.hashed == local.edit else None
            reason, mend = "all its bytes are here, as they were written, and sent", ""
        if self._edits is not None and local is not None and kept_or_unsent(local):
            state = self._edits.showing.local_state(local)
            change = state["change"]
            reason, mend = change["reason"], change["mend"]
            facts |= {
                "kind": facts.get("kind") or local.kind,
                "change": change["id"],
                "to_do": ", ".join(change["intents"]) or None,
                "send": change["state"],
                "since_at": change["since_at"],
                "next_at": change["next_at"],
                "unsent_bytes": change["bytes"],
                "sent_bytes": change["sent_bytes"],
                "tries": change["tries"],
                "base_version": state["base_version"],
                "writers": state["writers"],
                "conflict": state["conflict"] or None,
                "comment": state["comment"] or None,
                "label": state["label"] or None,
            }
        return {
            "path": self._places.shown(place), "state": self.sync(place), "reason": reason,
            "mend": mend, "facts": facts,
        }  # fmt: skip

    async def _why_ready(self, path: str, place: Place) -> contract.Why:
        """The same of what is made of a file."""
        told = await asyncio.to_thread(self._ready.state.told, place.key)
        job, row = told.job, place.row
        failed = told.error if isinstance(told.error, StageFailed) else None
        return {
            "path": path, "state": _READY.get(told.state, "remote"), "reason": told.reason,
            "mend": told.mend,
            "facts": {
                "entity": syn(row.id) if row is not None else "",
                "version": row.version if row is not None else None,
                "made_of": self._places.shown(place),
                "prepared": told.state,
                "job": job.id if job is not None else None,
                "job_state": job.state.value if job is not None else None,
                "stage": (job.stage or None) if job is not None else None,
                "failure": failed.failure if failed is not None else None,
                "bad_line": failed.bad_line if failed is not None else None,
            },
        }  # fmt: skip

    def _reason(self, row: Row) -> tuple[str, str]:
        """Why something is as it is, and what the user can do."""
        page = self._endpoints.page(syn(row.id))
        if Kind(row.kind).is_container:
            found = self._tree.folders.find(row.id)
            if found is None or not found.listed_ns:
                return "its listing has not been asked for yet", "look into it once"
            return f"listed, {self._tree.entities.count_children(row.id)} entries", ""
        if row.unmet_terms:
            return "its terms of use have not been accepted", f"accept them at {page}"
        if row.kind == Kind.LINK:
            return "a link to another entity", ""
        if row.kind not in WITH_BYTES:
            return f"a {row.kind}: it has no bytes of its own", f"see {page}"
        if not row.detailed:
            return (
                "its size is still being asked for",
                "wait a moment; `synd status` shows the queue",
            )
        if row.url is not None and row.size is None:
            return "an external link whose server tells no size", f"open {row.url}"
        if row.key is None:
            return "you may see it but not download it", f"ask for access at {page}"
        corrupt = self._streams.corrupt(row.key)
        if corrupt:
            return corrupt, "tell its owner; `synd cache verify` makes synd try again"
        if not row.size:
            return "it is empty", ""
        if self._cache.has(row.key, row.size):
            return "all its bytes are here, verified by md5", ""
        if self._streams.under_way(row.key):
            return "its bytes are on their way", ""
        if not self._client.status.online:
            return "its bytes are not here, and the service cannot be reached", "reconnect"
        return "its bytes are fetched when it is read", "`synd prefetch` brings them now"
