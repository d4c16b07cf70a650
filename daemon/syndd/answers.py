"""What the control API is told: status, the state of a path and why, listings, the cache, jobs.

Implements `syndd.control.services`. Paths are resolved through the tree, never through the mount: the
daemon would wait for its own answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from synd.cache.folder import Cache
from synd.client import credentials
from synd.client.service import SynapseClient
from synd.clock import Deadline, format_time
from synd.config import Config
from synd.control import contract
from synd.errors import Forbidden, NotFound, SyndError, UsageError
from synd.ids import ContentKey, Version, entity_version, syn
from synd.jobs.model import ACTIVE, Job
from synd.jobs.queue import Queue
from synd.mirror.poll import Poller
from synd.mirror.sizes import Sizes
from synd.mirror.streams import Streams
from synd.mirror.tree import Tree
from synd.mirror.waits import Waits
from synd.model import FileVersion, Kind
from synd.paths import RESERVED, split_version
from synd.store.connect import Store
from synd.store.entities import TOP, Row
from syndd.mount.fs import SynapseFs
from syndd.mount.session import MountSession
from syndd.schedule.events import Events
from syndd.schedule.operations import Operations
from syndd.schedule.pins import Pins

_WITH_BYTES = (Kind.FILE, Kind.RECORD_SET)
NOTHING: contract.Pending = {"uploads": 0, "bytes": 0, "items": []}
"""This mount is read-only: nothing can be unsent."""


class Answers:
    """Answers of one daemon. On its loop."""

    def __init__(
        self,
        *,
        config: Config,
        endpoints: credentials.Endpoints,
        store: Store,
        tree: Tree,
        sizes: Sizes,
        streams: Streams,
        cache: Cache,
        fs: SynapseFs,
        pins: Pins,
        poller: Poller,
        operations: Operations,
        waits: Waits,
        client: SynapseClient,
        events: Events,
        session: Callable[[], MountSession | None],
    ) -> None:
        self._config = config
        self._endpoints = endpoints
        self._tree = tree
        self._sizes = sizes
        self._streams = streams
        self._cache = cache
        self._fs = fs
        self._pins = pins
        self._poller = poller
        self._operations = operations
        self._waits = waits
        self._client = client
        self._events = events
        self._session = session
        self._queue = Queue(store)
        self._started_ns = time.time_ns()
        self._mount = Path(config.mount).absolute()
        self.user = ""
        self.login_problem: SyndError | None = None

    @property
    def config(self) -> Config:
        return self._config

    # Status.

    async def status(self) -> contract.AppStatus:
        """No request to the service, no disk walk."""
        session = self._session()
        mounts: list[contract.Mount] = []
        if session is not None:
            state = session.state()
            mounts.append(
                {
                    "path": state.mountpoint,
                    "transport": state.transport,
                    "passthrough": state.passthrough,
                    "passthrough_reason": state.passthrough_off,
                    "since_at": format_time(self._started_ns),
                }
            )
        return {
            "mounts": mounts,
            "service": self._service(),
            "freshness": self._freshness(),
            "transfers": self._transfers(),
            "waits": self._waiting(),
            "cache": await self.cache_usage(),
            "jobs": self._queue.count(),
            "pending": await self.pending(),
            "problems": self._problems(),
            "safe_to_stop": True,
        }

    def _service(self) -> contract.Service:
        status = self._client.status
        since = status.offline_since_ns if not status.online else self._started_ns
        return {
            "endpoint": self._endpoints.name,
            "user": self.user,
            "online": status.online,
            "since_at": format_time(since or self._started_ns),
            "reason": "" if status.online else "the service cannot be reached",
            "requests": status.requests_total,
            "throttled": status.throttled_total > 0,
            "throttled_until_at": None,
            "requests_per_minute": status.limits.per_window,
        }

    def _freshness(self) -> contract.Freshness:
        found = self._poller.freshness()
        return {
            "setting_s": found.setting_s,
            "bound_s": round(found.bound_s, 1),
            "watched": found.watched,
            "oldest_s": round(found.oldest_s, 3) if found.watched else None,
            "folder": self._shown(found.oldest_folder) if found.watched else "",
        }

    def _transfers(self) -> list[contract.Transfer]:
        return [
            {
                "path": self._shown(one.file.entity),
                "entity": syn(one.file.entity),
                "direction": "down",
                "bytes": one.have_bytes,
                "total_bytes": one.size,
                "rate_bytes_s": round(one.bytes_per_s, 1),
                "since_at": self._wall(one.since),
            }
            for one in self._streams.progress()
        ]

    def _waiting(self) -> list[contract.Wait]:
        return [
            {
                "what": wait.what,
                "reason": wait.reason,
                "since_at": self._wall(wait.since),
                "deadline_at": self._wall(wait.until),
            }
            for wait in sorted(self._waits.all(), key=lambda w: w.since)[:100]
        ]

    def _problems(self) -> list[contract.Problem]:
        found: list[contract.Problem] = []
        if self.login_problem is not None:
            found.append(self.login_problem.problem())  # type: ignore[arg-type]
        status = self._client.status
        if not status.online:
            found.append(
                {
                    "type": "Offline",
                    "title": "the service cannot be reached; what is cached stays readable",
                    "since_at": format_time(status.offline_since_ns or self._started_ns),
                    "hint": "check the network; synd goes on by itself",
                }
            )
        for entity, why in self._streams.corrupt_entities():
            found.append(
                {
                    "type": "IntegrityError",
                    "title": why,
                    "entity": syn(entity),
                    "path": self._shown(entity),
                }
            )
        return found

    @staticmethod
    def _wall(monotonic: float) -> str:
        return format_time(time.time_ns() + int((monotonic - time.monotonic()) * 1e9))

    async def pending(self) -> contract.Pending:
        return NOTHING

    async def wait(self, path: str | None, timeout_s: float) -> contract.WaitReply:  # noqa: ARG002  # the protocol's: nothing waits on a read-only mount
        if path is not None:
            await self._resolve(path)
        return {"settled": True, "pending": NOTHING, "waited_s": 0.0}

    async def unmount(self, *, lazy: bool) -> None:
        session = self._session()
        if session is None or session.state().closed:
            return
        await asyncio.to_thread(lambda: session.stop(lazy=lazy, timeout_s=10.0))

    # Paths.

    async def _resolve(self, target: str) -> tuple[Row | None, Version | None]:
        """The entity (None: the top of the mount) and the version that a path or id names.

        Raises NotFound, UsageError.
        """
        if not target.startswith("/"):
            entity, number = entity_version(target)
            return await self._tree.place(entity), number
        try:
            inside = Path(target).relative_to(self._mount)
        except ValueError as error:
            raise NotFound(f"{target} is not in the mount at {self._mount}", path=target) from error
        row: Row | None = None
        parts = [p for p in inside.parts if p != "/"]
        for place, part in enumerate(parts):
            rest = parts[place + 1 :]
            if part == "@id" and row is None:
                if not rest:
                    return None, None
                return await self._below(*await self._resolve(rest[0]), rest[1:], target)
            if part == "@versions" and rest:
                found = await self._child(row, rest[0], target)
                return found, Version(int(rest[1])) if len(rest) > 1 and rest[1].isdigit() else None
            if part == "@info" and rest:
                return await self._child(row, rest[0].removesuffix(".json"), target), None
            if part in RESERVED:
                return row, None
            versioned = split_version(part)
            if versioned is not None:
                return await self._child(row, versioned[0], target), versioned[1]
            row = await self._child(row, part, target)
        return row, None

    async def _below(
        self, row: Row | None, number: Version | None, rest: Sequence[str], target: str
    ) -> tuple[Row | None, Version | None]:
        for part in rest:
            row = await self._child(row, part, target)
        return row, number

    async def _child(self, parent: Row | None, name: str, target: str) -> Row:
        folder = TOP if parent is None else parent.id
        if parent is not None and not Kind(parent.kind).is_container:
            raise NotFound(f"{parent.name!r} is not a folder", path=target)
        try:
            return await self._tree.find_child(folder, name.encode(errors="surrogateescape"))
        except NotFound as error:
            raise NotFound(f"there is no {target}", path=target) from error

    def _shown(self, entity: int) -> str:
        """An entity's path in the mount, or its id while that is not known."""
        if entity == TOP:
            return str(self._mount)
        parts = self._tree.entities.path_of(entity)
        if parts is None:
            return syn(entity)
        return str(self._mount.joinpath(*(p.decode(errors="replace") for p in parts)))

    def _state(self, row: Row) -> contract.Sync:
        if row.kind not in _WITH_BYTES or row.key is None or not row.size:
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

    def _cached_bytes(self, row: Row) -> int:
        if row.key is None or not row.size:
            return 0
        return row.size if self._cache.has(row.key, row.size) else self._partial_bytes(row.key)

    def _checked_at(self, folder: int) -> str | None:
        found = self._tree.folders.find(folder)
        return format_time(found.checked_ns) if found and found.checked_ns else None

    async def status_of(self, path: str) -> contract.PathStatus:
        row, number = await self._resolve(path)
        if row is None:
            return {
                "path": str(self._mount), "entity": "", "kind": "top", "state": "virtual",
                "version": None, "base_version": None, "size": None, "cached_bytes": 0,
                "pinned": False, "md5": None, "checked_at": self._checked_at(TOP), "settled": True,
            }  # fmt: skip
        return {
            "path": self._shown(row.id),
            "entity": syn(row.id),
            "kind": row.kind,
            "state": self._state(row),
            "version": number or row.version or None,
            "base_version": None,
            "size": row.size,
            "cached_bytes": self._cached_bytes(row),
            "pinned": self._pins.covers(row),
            "md5": row.md5,
            "checked_at": self._checked_at(row.id if Kind(row.kind).is_container else row.parent),
            "settled": True,
        }

    async def why(self, path: str) -> contract.Why:
        row, _ = await self._resolve(path)
        if row is None:
            return {
                "path": str(self._mount), "state": "virtual", "reason": "the top of the mount",
                "mend": "", "facts": {},
            }  # fmt: skip
        reason, mend = self._reason(row)
        return {
            "path": self._shown(row.id),
            "state": self._state(row),
            "reason": reason,
            "mend": mend,
            "facts": {
                "entity": syn(row.id),
                "kind": row.kind,
                "version": row.version or None,
                "size": row.size,
                "cached_bytes": self._cached_bytes(row),
                "md5": row.md5,
                "pinned": self._pins.covers(row),
                "modified_at": format_time(row.modified_ns),
                "name": row.name,
                "checked_at": self._checked_at(row.parent),
            },
        }

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
        if row.kind not in _WITH_BYTES:
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

    async def info(self, target: str) -> contract.Info:
        row, number = await self._resolve(target)
        if row is None:
            raise UsageError("the top of the mount is no entity", hint="name a project")
        found = await self._tree.remote.entity(
            row.id, number, annotations=True, permissions=True,
            deadline=Deadline.after(self._config.read_timeout_s, "asking for an entity"),
        )  # fmt: skip
        try:
            provenance = await self._tree.remote.generated_by(row.id, number)
        except (NotFound, Forbidden):
            provenance = None
        file: FileVersion | None = found.file
        return {
            "entity": syn(found.id),
            "name": found.name,
            "kind": str(found.kind),
            "path": self._shown(found.id),
            "parent": syn(found.parent) if found.parent else None,
            "version": found.version,
            "version_label": found.version_label,
            "size": file.size if file else None,
            "md5": file.md5 if file else None,
            "content_type": file.content_type if file else None,
            "etag": found.etag,
            "created_at": format_time(found.created_on_ns),
            "created_by": found.created_by,
            "modified_at": format_time(found.modified_on_ns),
            "modified_by": found.modified_by,
            "description": found.description,
            "annotations": {k: list(values) for k, (_, values) in found.annotations.items()},
            "link": syn(found.link.id) if found.link else None,
            "external_url": file.external_url if file else None,
            "access": {
                "view": found.access.can_view,
                "edit": found.access.can_edit,
                "download": found.access.can_download,
                "add_child": found.access.can_add_child,
                "unmet_terms": found.access.unmet_terms,
            },
            "state": self._state(row),
            "web": self._endpoints.page(syn(found.id)),
            "provenance": dict(provenance) if provenance is not None else None,
        }

    async def ls(self, target: str, *, long: bool) -> contract.Listing:
        row, _ = await self._resolve(target)
        folder = TOP if row is None else row.id
        if row is not None and not Kind(row.kind).is_container:
            rows = [row]
        else:
            if not self._tree.folders.is_listed(folder):
                await asyncio.shield(
                    self._tree.flights.task(
                        ("list", folder), lambda: self._tree.list_folder(folder)
                    )
                )
            self._tree.visit(folder)
            rows = self._tree.entities.children(folder)
        if long:
            rows = [
                await self._sizes.one(r) if r.kind in _WITH_BYTES and not r.detailed else r
                for r in rows
            ]
        entries: list[contract.ListEntry] = [
            {
                "name": r.file_name.decode(errors="replace"),
                "entity": syn(r.id),
                "kind": r.kind,
                "size": r.size,
                "version": r.version or None,
                "modified_at": format_time(r.modified_ns),
                "state": self._state(r),
            }
            for r in sorted(rows, key=lambda r: r.file_name)
        ]
        return {
            "target": target,
            "path": self._shown(folder),
            "entries": entries,
            "total": len(entries),
            "checked_at": self._checked_at(folder),
        }

    # Cache and jobs.

    async def prefetch(self, targets: Sequence[str], *, pin: bool) -> contract.Job:
        entities = [row.id for row in await self._entities(targets)]
        if pin:
            for entity in entities:
                await self._tree.in_writer(partial(self._pins.pin, entity))
        subject = ", ".join(targets) if targets else "everything"
        job = self._operations.add("prefetch", subject, {"entities": list(entities)}, "bytes")
        return as_contract(job)

    async def _entities(self, targets: Sequence[str]) -> list[Row]:
        """The entities named; all projects for the top."""
        found: list[Row] = []
        for target in targets:
            row, _ = await self._resolve(target)
            if row is not None:
                found.append(row)
                continue
            if not self._tree.folders.is_listed(TOP):
                await self._tree.list_folder(TOP)
            found.extend(self._tree.entities.children(TOP))
        return found

    async def cache_usage(self) -> contract.CacheUsage:
        usage = await asyncio.to_thread(self._cache.usage)
        return {
            "path": str(self._cache.root),
            "bytes": usage.used_bytes,
            "objects": usage.objects,
            "partial_bytes": usage.partial_bytes,
            "partial_objects": usage.partials,
            "pinned_bytes": await asyncio.to_thread(self._pinned_bytes),
            "limit_bytes": usage.max_bytes,
            "disk_free_bytes": usage.free_bytes,
            "keep_free_bytes": usage.keep_free_bytes,
        }

    def _pinned_bytes(self) -> int:
        return sum(self._cache.objects.size(key) or 0 for key in self._pins.all_keys())

    async def cache_clear(self, targets: Sequence[str]) -> contract.CacheReply:
        before = self._cache.objects.total_count
        if not targets:
            freed = await asyncio.to_thread(self._cache.clear)
            left = self._cache.objects.total_count
            return {
                "objects": before - left,
                "bytes": freed,
                "kept_objects": left,
                "kept_reason": "pinned or open" if left else "",
            }
        objects = freed = kept = 0
        for row in await self._entities(targets):
            for one in self._tree.entities.descendants(row.id):
                if one.key is None:
                    continue
                if self._pins.holds(one.key):
                    kept += 1
                    continue
                got = self._cache.objects.discard(one.key) + self._cache.partials.discard(one.key)
                objects += 1 if got else 0
                freed += got
        return {
            "objects": objects,
            "bytes": freed,
            "kept_objects": kept,
            "kept_reason": "pinned" if kept else "",
        }

    async def cache_pin(self, targets: Sequence[str], *, pinned: bool) -> contract.CacheReply:
        objects = size = 0
        for row in await self._entities(targets):
            await self._tree.in_writer(
                partial(self._pins.pin if pinned else self._pins.unpin, row.id)
            )
            for one in self._tree.entities.descendants(row.id):
                if one.kind in _WITH_BYTES:
                    objects += 1
                    size += one.size or 0
        return {"objects": objects, "bytes": size, "kept_objects": 0, "kept_reason": ""}

    async def cache_verify(self, targets: Sequence[str]) -> contract.Job:
        entities = [row.id for row in await self._entities(targets)]
        subject = ", ".join(targets) if targets else "the whole cache"
        job = self._operations.add("verify", subject, {"entities": list(entities)}, "bytes")
        return as_contract(job)

    async def jobs(self, *, all: bool) -> Sequence[contract.Job]:
        found = self._queue.all() if all else self._queue.all(tuple(ACTIVE))
        return [as_contract(job) for job in found]

    async def job(self, id: str) -> contract.Job:
        return as_contract(self._queue.get(id))

    async def cancel(self, id: str) -> contract.Job:
        return as_contract(self._operations.cancel(id))

    async def retry(self, id: str) -> contract.Job:
        return as_contract(self._operations.retry(id))

    def events(self) -> AsyncIterator[contract.Event]:
        return self._events.subscribe()

    def metrics(self) -> Mapping[str, float]:
        status = self._client.status
        downloads = self._client.downloader.counts()
        small = self._streams.getter
        found: dict[str, float] = {
            "online": float(status.online),
            "requests_total": status.requests_total,
            "throttled_total": status.throttled_total,
            "requests_failed_total": status.failed_total,
            "downloads_total": downloads.requests + small.requests,
            "downloaded_bytes_total": downloads.received_bytes + small.received_bytes,
            "contents_completed_total": self._streams.completed_total,
            "transfers": len(self._streams.progress()) + self._streams.small_under_way(),
            "waits": len(self._waits.all()),
            "waits_expired_total": self._waits.expired_total,
            "cache_bytes": self._cache.objects.total_bytes,
            "cache_objects": self._cache.objects.total_count,
            "entities": self._tree.entities.count(),
            "open_files": self._fs.open_files(),
        }
        session = self._session()
        if session is not None:
            state = session.state()
            found |= {
                "fuse_requests_total": sum(state.requests.values()),
                "fuse_waiting": len(state.waiting),
                "fuse_handles": state.handles,
                "fuse_notices_total": state.notices_sent,
            }
            for name, number in state.requests.items():
                found[f'fuse_requests_by_operation_total{{operation="{name}"}}'] = number
        for name, number in status.by_endpoint.items():
            found[f'requests_by_call_total{{call="{name}"}}'] = number
        return found


def as_contract(job: Job) -> contract.Job:
    """A job as the control API shows it."""

    def at(ns: int | None) -> str | None:
        return format_time(ns) if ns is not None else None

    return cast(
        "contract.Job",
        {
            "id": job.id,
            "kind": job.kind,
            "state": job.state.value,
            "subject": job.subject,
            "created_at": format_time(job.created_ns),
            "started_at": at(job.started_ns),
            "finished_at": at(job.finished_ns),
            "progress": {"done": job.done, "total": job.total, "unit": job.unit, "note": job.note},
            "problem": dict(job.problem) if job.problem is not None else None,
            "result": dict(job.result) if job.result is not None else None,
        },
    )
