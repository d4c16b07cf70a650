"""What the control API is told: status, the state of a path and why, listings, the cache, jobs.

Implements `syndd.control.services`. Leaves local changes to `syndd.edits`, and what a path stands for to
`syndd.places`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from synd.cache.folder import Cache
from synd.client import credentials
from synd.client.service import SynapseClient
from synd.clock import Deadline, format_time
from synd.config import Config
from synd.control import changes, contract
from synd.errors import Busy, Forbidden, NotFound, NotSupported, ReadOnly, SyndError, UsageError
from synd.ids import syn
from synd.mirror.poll import Poller
from synd.mirror.sizes import Sizes
from synd.mirror.streams import Streams
from synd.mirror.tree import Tree
from synd.mirror.waits import Waits
from synd.model import WITH_BYTES, FileVersion
from synd.store.entities import TOP, Row
from syndd.artifacts import ReadyFiles
from syndd.edits import Edits
from syndd.mount.fs import SynapseFs
from syndd.mount.session import MountSession
from syndd.places import Place, Places
from syndd.schedule.events import Events
from syndd.schedule.operations import Operations
from syndd.schedule.pins import Pins
from syndd.schedule.showing import JobShowing, as_contract
from syndd.states import States

NOTHING: changes.Pending = {
    "uploads": 0, "bytes": 0, "items": [], "changes": [], "verdict": "sent", "waiting": 0, "sending": 0,
    "blocked": 0, "held": 0, "kept_here": 0, "writing": 0, "tracked": 0, "tracked_holds": [],
    "conflicts": 0, "since_at": None, "offline_since_at": None, "paused": False,
}  # fmt: skip
"""Of a mount that takes no changes: nothing can be unsent."""


class Answers:
    """Answers of one daemon. On its loop."""

    def __init__(
        self,
        *,
        config: Config,
        endpoints: credentials.Endpoints,
        tree: Tree,
        sizes: Sizes,
        streams: Streams,
        cache: Cache,
        fs: SynapseFs,
        pins: Pins,
        poller: Poller,
        operations: Operations,
        work: JobShowing,
        ready: ReadyFiles,
        waits: Waits,
        client: SynapseClient,
        events: Events,
        session: Callable[[], MountSession | None],
        edits: Edits | None = None,
    ) -> None:
        """Without `edits` the mount takes no changes."""
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
        self.work = work
        self.ready = ready
        self._started_ns = time.time_ns()
        self._mount = Path(config.mount).absolute()
        self._edits = edits
        self._places = edits.places if edits is not None else Places(tree, self._mount, None)
        self._states = States(
            endpoints=endpoints, tree=tree, streams=streams, cache=cache, pins=pins, client=client,
            places=self._places, edits=edits, mount=self._mount, ready=fs.ready,
        )  # fmt: skip
        self.user = ""
        self.login_problem: SyndError | None = None

    @property
    def config(self) -> Config:
        return self._config

    @property
    def edits(self) -> Edits:
        if self._edits is None:
            raise ReadOnly("this mount takes no changes")
        return self._edits

    # Status.

    async def status(self) -> contract.AppStatus:
        """No request to the service, no disk walk."""
        session = self._session()
        mounts: list[contract.Mount] = []
        taken_away: list[contract.Problem] = []
        if session is not None and session.detached() and not session.stopping:
            mountpoint = os.fspath(session.options.mountpoint)
            taken_away.append(
                {
                    "type": Busy.__name__,
                    "title": f"{mountpoint} was unmounted while files are open there: they are served until closed",
                    "path": mountpoint,
                    "hint": "close them, or `synd down --lazy`; then `synd up`",
                }
            )
        elif session is not None:
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
        pending = await self.pending()
        return {
            "mounts": mounts,
            "service": self._service(),
            "freshness": self._freshness(),
            "transfers": self._transfers(),
            "waits": self._waiting(),
            "cache": await self.cache_usage(),
            "jobs": self.work.state()["counts"],
            "pending": pending,
            "problems": taken_away + self._problems(pending),
            "safe_to_stop": pending["verdict"] == "sent",
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
        found: list[contract.Transfer] = [
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
        return found + (self._edits.showing.transfers() if self._edits is not None else [])

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

    def _problems(self, pending: changes.Pending) -> list[contract.Problem]:
        found: list[contract.Problem] = []
        if self.login_problem is not None:
            found.append(self.login_problem.problem())  # type: ignore[arg-type]
        status = self._client.status
        if not status.online:
            found.append(
                {
                    "type": "Offline",
                    "title": "the service cannot be reached; what is cached stays readable, and edits are kept",
                    "since_at": format_time(status.offline_since_ns or self._started_ns),
                    "hint": "check the network; synd goes on by itself",
                }
            )
        found += [
            {
                "type": type(error).__name__,
                "title": f"the project {syn(project)} is not shown: {error.message}",
                "entity": syn(project),
                "hint": "`synd whoami` says who asks for it; name others by `synd up --project`",
            }
            for project, error in list(self._tree.missing.items())
        ]
        for entity, why in self._streams.corrupt_entities():
            found.append(
                {
                    "type": "IntegrityError",
                    "title": why,
                    "entity": syn(entity),
                    "path": self._shown(entity),
                }
            )
        return found + (self._edits.showing.problems(pending) if self._edits is not None else [])

    @staticmethod
    def _wall(monotonic: float) -> str:
        return format_time(time.time_ns() + int((monotonic - time.monotonic()) * 1e9))

    async def pending(self) -> changes.Pending:
        return NOTHING if self._edits is None else await self._edits.pending()

    async def wait(self, path: str | None, timeout_s: float) -> contract.WaitReply:
        if self._edits is not None:
            return await self._edits.wait(path, timeout_s)
        if path is not None:
            await self._places.find(path)
        return {
            "settled": True, "stuck": False, "reason": "", "mend": "", "pending": NOTHING,
            "waited_s": 0.0, "transfers": [],
        }  # fmt: skip

    async def drain(self, timeout_s: float) -> changes.Pending:
        return NOTHING if self._edits is None else await self._edits.drain(timeout_s)

    async def unmount(self, *, lazy: bool) -> None:
        session = self._session()
        if session is None or session.state().closed:
            return
        await asyncio.to_thread(lambda: session.stop(lazy=lazy, timeout_s=10.0))

    # Single things.

    async def status_of(self, path: str) -> contract.PathStatus:
        return await self._states.status(path)

    async def why(self, path: str) -> contract.Why:
        found = await self._states.why(path)
        place = await self._places.find(path)
        # What is read by region has its own reasons.
        if place.row is None or place.version is not None or "@ready" in Path(path).parts:
            return found
        row = place.row
        jobs = await asyncio.to_thread(lambda: self.ready.why(row, self.work.why(row)))
        return {**found, "jobs": jobs} if jobs else found

    def _shown(self, entity: int) -> str:
        return self._places.shown_entity(entity)

    async def info(self, target: str) -> contract.Info:
        place = await self._places.resolve(target)
        row, number = place.row, place.version
        if place.key == TOP:
            raise UsageError("the top of the mount is no entity", hint="name a project")
        if row is None:
            raise _not_sent(target)
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
            "state": self._states.sync(place),
            "web": self._endpoints.page(syn(found.id)),
            "provenance": dict(provenance) if provenance is not None else None,
        }

    async def ls(self, target: str, *, long: bool) -> contract.Listing:
        place = await self._places.resolve(target)
        if not place.is_folder:
            found = [place]
        else:
            found = await self._inside(place)
        rows = [p.row for p in found if p.row is not None]
        if long:
            sized = {
                r.id: await self._sizes.one(r) for r in rows
                if r.kind in WITH_BYTES and not r.detailed
            }  # fmt: skip
            found = [p._replace(row=sized.get(p.row.id, p.row)) if p.row else p for p in found]
        entries = sorted((self._entry(p) for p in found), key=lambda e: e["name"].encode())
        return {
            "target": target,
            "path": self._places.shown(place),
            "entries": entries,
            "total": len(entries),
            "checked_at": self._states.checked_at(place.entity)
            if place.entity is not None
            else None,
        }

    async def _inside(self, place: Place) -> list[Place]:
        """What a folder holds, local things laid over those of the service."""
        folder, rows = place.entity, list[Row]()
        if folder is not None:
            if not self._tree.folders.is_listed(folder):
                await asyncio.shield(
                    self._tree.flights.task(
                        ("list", folder), lambda: self._tree.list_folder(folder)
                    )
                )
            self._tree.visit(folder)
            rows = self._tree.entities.children(folder)
        if self._edits is None:
            return [Place(row) for row in rows]
        overlay = self._edits.showing.overlay
        found = [Place(row) for row in rows if not overlay.hides(row)]
        for local in overlay.locals.children(place.key):
            row = self._tree.entities.find(local.entity) if local.entity is not None else None
            found.append(Place(row, None, local))
        return found

    def _entry(self, place: Place) -> contract.ListEntry:
        row, local = place.row, place.local
        name = local.name if local is not None else row.file_name if row is not None else b""
        size = row.size if row is not None else None
        if local is not None and local.staged:
            size = local.size
        modified = local.mtime_ns if local is not None and local.mtime_ns else None
        return {
            "name": name.decode(errors="replace"),
            "entity": syn(place.entity) if place.entity is not None else "",
            "kind": row.kind if row is not None else local.kind if local is not None else "",
            "size": size,
            "version": (row.version or None) if row is not None else None,
            "modified_at": format_time(
                modified
                or (row.modified_ns if row is not None else 0)
                or (local.ctime_ns if local is not None else 0)
            ),
            "state": self._states.sync(place),
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
            place = await self._places.resolve(target)
            own = self._places.own_name(target)
            if own is not None and place.version is None:
                raise NotSupported(
                    f"{target} is made by synd: the cache keeps files and folders of the service",
                    hint=f"name the folder without {own}, or a file",
                    path=target,
                )
            if place.version is not None:
                raise NotSupported(
                    f"{target} is one version of a file: what is kept is that of its present one",
                    hint="name the file without a version",
                    path=target,
                )
            if place.row is not None:
                found.append(place.row)
                continue
            if place.key != TOP:
                raise _not_sent(target)
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
                if one.kind in WITH_BYTES:
                    objects += 1
                    size += one.size or 0
        return {"objects": objects, "bytes": size, "kept_objects": 0, "kept_reason": ""}

    async def cache_verify(self, targets: Sequence[str]) -> contract.Job:
        entities = [row.id for row in await self._entities(targets)]
        subject = ", ".join(targets) if targets else "the whole cache"
        job = self._operations.add("verify", subject, {"entities": list(entities)}, "bytes")
        return as_contract(job)

    def events(
        self, since_at: str | None = None, *, follow: bool = True
    ) -> AsyncIterator[contract.Event]:
        return self._events.subscribe(since_at, follow=follow)

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
        if self._edits is not None:
            found |= self._edits.showing.metrics()
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


def _not_sent(target: str) -> NotFound:
    return NotFound(
        f"{target} is not on the service yet", hint="`synd why` says what it waits for", path=target
    )
