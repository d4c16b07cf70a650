"""A daemon without a mount: services and an app that answer from memory, for tests of what is above."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from synd.clock import Deadline, format_time
from synd.config import Config, Folders
from synd.control import changes, contract, ready
from synd.errors import Busy, ConfigError, NotFound, RemoteUnavailable, SyndError
from synd.ids import ContentKey
from synd.processors.base import ArtifactKind
from synd.ranges import ByteRange
from syndd.lifecycle import Fail
from syndd.schedule.known import Content
from tests.support.fake_edits import FakeEdits, change

if TYPE_CHECKING:
    from syndd.mount.session import MountSession

NOW = format_time(1_700_000_000_000_000_000)


class FakeWork:
    """Meets `JobServices`: the jobs that `FakeServices` was asked for."""

    def __init__(self, services: FakeServices) -> None:
        self._services = services
        self.paused: set[str] = set()
        self.said: dict[str, str] = {}
        self.source: asyncio.Queue[contract.Event | None] = asyncio.Queue()
        """Events of `follow`; None ends it."""

    @property
    def known(self) -> dict[str, contract.Job]:
        return self._services.known

    def list(
        self, *, all: bool, kinds: Sequence[str] = (), limit: int | None = None
    ) -> Sequence[contract.Job]:
        for kind in kinds:
            if kind not in ("prefetch", "verify", "preprocess"):
                raise NotFound(f"there are no {kind!r} jobs")
        found = [
            j
            for j in self.known.values()
            if (all or j["state"] in ("pending", "running")) and (not kinds or j["kind"] in kinds)
        ]
        return found[:limit]

    def state(self) -> contract.QueueState:
        counts: dict[str, int] = {}
        for job in self.known.values():
            counts[job["state"]] = counts.get(job["state"], 0) + 1
        return {"paused": sorted(self.paused), "counts": counts}

    def get(self, id: str) -> contract.Job:
        if id not in self.known:
            raise NotFound(f"there is no job {id}")
        job = self.known[id]
        if job["state"] == "running":
            # Each look finds it done: a client that waits for it ends.
            self.known[id] = {**job, "state": "completed", "finished_at": NOW}
        return job

    async def cancel(self, id: str) -> contract.Job:
        self.known[id] = {**self.get(id), "state": "cancelled"}
        return self.known[id]

    async def cancel_all(self, kinds: Sequence[str]) -> Sequence[contract.Job]:
        active = [job["id"] for job in self.list(all=False, kinds=kinds)]
        return [await self.cancel(id) for id in active]

    async def retry(self, id: str) -> contract.Job:
        self.known[id] = {**self.get(id), "state": "running"}
        return self.known[id]

    async def pause(self, kinds: Sequence[str], *, paused: bool) -> contract.QueueState:
        named = set(kinds) or {"prefetch", "verify"}
        self.paused = self.paused | named if paused else self.paused - named
        return self.state()

    async def clean(self) -> contract.QueueState:
        for job in self.list(all=True):
            if job["state"] not in ("pending", "running"):
                del self.known[job["id"]]
        return self.state()

    def log(self, id: str, offset: int = 0) -> contract.JobLog:
        if id not in self.known:
            raise NotFound(f"there is no job {id}")
        text = self.said.get(id, "")[offset:]
        return {"id": id, "text": text, "offset": offset + len(text), "ended": True}

    async def follow_log(self, id: str) -> AsyncIterator[contract.Event]:
        part = self.log(id)
        yield {"kind": "log", "at": NOW, "data": {**part}}

    async def follow(self) -> AsyncIterator[contract.Event]:
        for job in self.list(all=False):
            yield {"kind": "job", "at": NOW, "data": {**job}}
        while (event := await self.source.get()) is not None:
            yield event


class FakeReady:
    """Meets `ReadyServices`: the bytes that a test puts under an id and a kind."""

    def __init__(self) -> None:
        self.contents: dict[tuple[str, str], bytes | contract.Job] = {}
        self.names: dict[tuple[str, str], str] = {}
        """Of what has another name than its id."""
        self.started: list[str] = []
        self.refusal: SyndError | None = None
        """What asking for work raises."""
        self.refused: list[ready.NotTaken] = []
        self.failed: list[ready.NotPrepared] = []
        self.jobs: list[contract.Job] = []
        """What asking for work answers beside what is ready."""

    async def find(
        self,
        target: str,
        kind: ArtifactKind,
        *,
        raw: bool = False,
        start: bool = True,
        suffix: str = "",
    ) -> Content | contract.Job:
        which = "raw" if raw else str(kind)
        found = self.contents.get((target, which))
        if found is None or (not isinstance(found, bytes) and not start):
            raise NotFound(f"there is no {kind} of {target}")
        if not isinstance(found, bytes):
            if self.refusal is not None:
                raise self.refusal
            self.started.append(target)
            return found
        return Content(
            ContentKey(f"h{target[3:]}"),
            len(found),
            f'"sha256:{target}-{which}"',
            "text/plain",
            self.names.get((target, which), target),
        )

    async def readiness(self, target: str, kind: ArtifactKind) -> ready.Readiness:
        if not isinstance(self.contents.get((target, str(kind))), bytes):
            return {"ready": False}
        return {"ready": True, "name": self.names.get((target, str(kind)), target)}

    def opened(self, content: Content) -> int | None:
        """What was made is a file; the service's own bytes are still to come."""
        for (target, which), held in self.contents.items():
            if content.etag == f'"sha256:{target}-{which}"' and isinstance(held, bytes):
                if which == "raw":
                    return None
                fd = os.memfd_create(target)
                os.truncate(fd, len(held))
                os.pwrite(fd, held, 0)
                return fd
        return None

    async def read(self, content: Content, span: ByteRange) -> AsyncGenerator[bytes, None]:
        for (target, which), held in self.contents.items():
            if content.etag == f'"sha256:{target}-{which}"' and isinstance(held, bytes):
                for at in range(span.start, span.end, 7):
                    yield held[at : min(at + 7, span.end)]
                return

    async def prepare(self, targets: Sequence[str]) -> ready.Prepared:
        if self.refusal is not None:
            raise self.refusal
        self.started += targets
        return {
            "jobs": self.jobs, "ready": list(targets), "as_they_are": [],
            "failed": self.failed, "refused": self.refused,
        }  # fmt: skip

    async def formats(self) -> ready.Formats:
        bam: ready.Format = {
            "format": "bam", "processor": "bam_index", "data": "sorted BAM", "indexes": [".bai"],
            "tools": ["samtools"], "missing": "",
        }  # fmt: skip
        return {"formats": [bam]}


class FakeServices:
    """Meets `DaemonServices`. Its attributes are what a test sets."""

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        self.path_differs: dict[str, object] = {}
        """What the status of a path has that is not as always."""
        self.edits = FakeEdits()
        self.work = FakeWork(self)
        self.ready = FakeReady()
        self.in_use = False
        self.unmounted = False
        self.known: dict[str, contract.Job] = {}
        self.source: asyncio.Queue[contract.Event] = asyncio.Queue()
        self.recent: list[contract.Event] = []
        self.problems: list[contract.Problem] = []
        self.asked: list[tuple[str, object]] = []
        self.unmounting: Callable[..., None] = lambda lazy: None

    @property
    def config(self) -> Config:
        return self._config

    @property
    def unsent(self) -> list[str]:
        """Paths of what is unsent; set, they are plain edits."""
        return [c["path"] for c in self.edits.unsent]

    @unsent.setter
    def unsent(self, paths: Sequence[str]) -> None:
        self.edits.unsent = [change(path) for path in paths]

    async def status(self) -> contract.AppStatus:
        mount: contract.Mount = {
            "path": self._config.mount,
            "transport": self._config.transport,
            "passthrough": False,
            "passthrough_reason": "this is a fake",
            "since_at": NOW,
        }
        return {
            "mounts": [mount],
            "service": {
                "endpoint": self._config.endpoint,
                "user": "someone",
                "online": True,
                "since_at": NOW,
                "reason": "",
                "requests": 3,
                "throttled": False,
                "throttled_until_at": None,
                "requests_per_minute": 600,
            },
            "freshness": {
                "setting_s": 30.0,
                "bound_s": 30.0,
                "oldest_s": None,
                "folder": "",
                "watched": 0,
            },
            "transfers": [],
            "waits": [],
            "cache": await self.cache_usage(),
            "jobs": {"running": len(self.known)},
            "pending": await self.pending(),
            "problems": self.problems,
            "safe_to_stop": not self.unsent,
        }

    async def status_of(self, path: str) -> contract.PathStatus:
        if not path.startswith(self._config.mount):
            raise NotFound(f"{path} is not in a mount", path=path)
        found: contract.PathStatus = {
            "path": path,
            "entity": "syn5",
            "kind": "file",
            "state": "modified" if path in self.unsent else "cached",
            "version": 2,
            "base_version": None,
            "size": 10,
            "cached_bytes": 10,
            "pinned": False,
            "md5": "d41d8cd98f00b204e9800998ecf8427e",
            "checked_at": NOW,
            "settled": path not in self.unsent,
        }
        found.update(self.path_differs)  # type: ignore[typeddict-item]  # tests know the fields
        if path in self.unsent:
            found["local"] = {
                "change": next(c for c in self.edits.unsent if c["path"] == path),
                "base_version": 2,
                "comment": "better",
                "label": "",
                "writers": 0,
                "conflict": "",
            }
        elif path == f"{self._config.mount}/P":
            found["below"] = self.edits.pending_now(path)
        return found

    async def why(self, path: str) -> contract.Why:
        return {
            "path": path,
            "state": "cached",
            "reason": "all its bytes are here",
            "mend": "",
            "facts": {"size": 10},
        }

    async def pending(self) -> changes.Pending:
        return self.edits.pending_now()

    async def wait(self, path: str | None, timeout_s: float) -> contract.WaitReply:
        self.asked.append(("wait", (path, timeout_s)))
        await asyncio.sleep(0)
        pending = self.edits.pending_now(path)
        stuck = [c for c in pending["changes"] if c["state"] in ("blocked", "held")]
        return {
            "settled": pending["verdict"] == "sent",
            "stuck": bool(stuck),
            "reason": f"{stuck[0]['path']}: {stuck[0]['reason']}" if stuck else "",
            "mend": stuck[0]["mend"] if stuck else "",
            "pending": pending,
            "waited_s": 0.0,
            "transfers": [],
        }

    async def drain(self, timeout_s: float) -> changes.Pending:
        self.asked.append(("drain", timeout_s))
        return self.edits.pending_now()

    async def unmount(self, *, lazy: bool) -> None:
        if self.in_use and not lazy:
            raise Busy("the mount is in use", hint="close the files, or use --lazy")
        await asyncio.to_thread(self.unmounting, lazy=lazy)
        self.unmounted = True

    async def info(self, target: str) -> contract.Info:
        if target == "syn404":
            raise NotFound("syn404 does not exist", entity="syn404")
        return {
            "entity": "syn5",
            "name": "reads.bam",
            "kind": "file",
            "path": f"{self._config.mount}/P/reads.bam",
            "parent": "syn4",
            "version": 2,
            "version_label": "2",
            "size": 10,
            "md5": "d41d8cd98f00b204e9800998ecf8427e",
            "content_type": "application/octet-stream",
            "etag": "e",
            "created_at": NOW,
            "created_by": "someone",
            "modified_at": NOW,
            "modified_by": "someone",
            "description": "",
            "annotations": {"tissue": ["liver", "brain"]},
            "link": None,
            "external_url": None,
            "access": {"can_download": True},
            "state": "cached",
            "web": "https://www.synapse.org/Synapse:syn5",
            "provenance": None,
        }

    async def ls(self, target: str, *, long: bool) -> contract.Listing:
        entry: contract.ListEntry = {
            "name": "reads.bam",
            "entity": "syn5",
            "kind": "file",
            "size": 10 if long else None,
            "version": 2,
            "modified_at": NOW,
            "state": "remote",
        }
        return {"target": target, "path": target, "entries": [entry], "total": 1, "checked_at": NOW}

    async def prefetch(self, targets: Sequence[str], *, pin: bool) -> contract.Job:
        self.asked.append(("prefetch", (list(targets), pin)))
        return self._made("prefetch", ", ".join(targets))

    async def cache_usage(self) -> contract.CacheUsage:
        return {
            "path": "/tmp/cache",
            "bytes": 10,
            "objects": 1,
            "partial_bytes": 0,
            "partial_objects": 0,
            "pinned_bytes": 0,
            "limit_bytes": 0,
            "disk_free_bytes": 1 << 40,
            "keep_free_bytes": 2 << 30,
        }

    async def cache_clear(self, targets: Sequence[str]) -> contract.CacheReply:
        self.asked.append(("clear", list(targets)))
        return {"objects": 1, "bytes": 10, "kept_objects": 0, "kept_reason": ""}

    async def cache_pin(self, targets: Sequence[str], *, pinned: bool) -> contract.CacheReply:
        self.asked.append(("pin", (list(targets), pinned)))
        return {"objects": 1, "bytes": 10, "kept_objects": 0, "kept_reason": ""}

    async def cache_verify(self, targets: Sequence[str]) -> contract.Job:
        job = self._made("verify", ", ".join(targets) or "the cache")
        job["result"] = {"checked": 1, "bad": 0, "repaired": 0}
        return job

    async def events(
        self, since_at: str | None = None, *, follow: bool = True
    ) -> AsyncIterator[contract.Event]:
        for event in self.recent:
            if since_at is not None and event["at"] >= since_at:
                yield event
        while follow:
            yield await self.source.get()

    def metrics(self) -> Mapping[str, float]:
        return {
            'requests_total{kind="entity"}': 2,
            "cache_bytes": 10,
            'requests_total{kind="children"}': 1,
        }

    def _made(self, kind: str, subject: str) -> contract.Job:
        job: contract.Job = {
            "id": f"{kind}-{len(self.known) + 1}",
            "kind": kind,
            "state": "running",
            "subject": subject,
            "created_at": NOW,
            "started_at": NOW,
            "finished_at": None,
            "progress": {"done": 1, "total": 2, "unit": "files", "note": ""},
            "problem": None,
            "result": None,
        }
        self.known[job["id"]] = job
        return job


class FakeApp:
    """Meets `lifecycle.App`. ``FAKE_…`` variables choose how it behaves in a process of its own."""

    def __init__(self, config: Config, folders: Folders, fail: Fail) -> None:
        self.services = FakeServices(config)
        self.fail = fail
        self.log: list[str] = []
        self._folders = folders
        self._trace = folders.state / "fake.log"
        self._session: MountSession | None = None
        if unsent := os.environ.get("FAKE_UNSENT"):
            self.services.unsent = [unsent]

    async def start(self) -> None:
        self._note("start")
        match os.environ.get("FAKE_START"):
            case "config":
                raise ConfigError("the mount point /x is a file", hint="name a folder")
            case "bug":
                raise ZeroDivisionError("by zero")
            case "slow":
                await asyncio.sleep(3600)
            case "offline":
                raise RemoteUnavailable("cannot reach the service")
        if seconds := os.environ.get("FAKE_DIES"):
            asyncio.get_running_loop().call_later(
                float(seconds), self.fail, SyndError("the mount thread died")
            )
        if os.environ.get("FAKE_MOUNT"):
            self._session = await asyncio.to_thread(self._mount)
            self.services.unmounting = self._unmount
        self._note("started")

    async def stop(self, deadline: Deadline, *, keep_mount: bool) -> None:
        self._note(f"stop keep_mount={keep_mount}")
        if os.environ.get("FAKE_STOP") == "slow":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self._note("stop cut short")
                raise
        if not keep_mount:
            await asyncio.to_thread(self._unmount, lazy=True)
        self._note("stopped")

    def healthy(self) -> bool:
        return True

    def _mount(self) -> MountSession:
        from syndd.mount.fdstore import HolderStore
        from syndd.mount.session import MountOptions, MountSession, take
        from tests.fuse.trees import MemoryTree

        config = self.services.config
        store = HolderStore(self._folders.runtime / "hold.sock")
        point = Path(config.mount)
        options = MountOptions(point, self._folders.runtime, passthrough=False)
        tree = MemoryTree({"hello.txt": "hello\n"})
        return MountSession.start(tree, options, inherited=take(store, point), store=store)

    def _unmount(self, *, lazy: bool) -> None:
        if self._session is not None:
            self._session.stop(lazy=lazy)
            self._session = None

    def _note(self, what: str) -> None:
        self.log.append(what)
        with open(self._trace, "a") as file:
            file.write(f"{time.monotonic():.3f} {what}\n")


def main() -> int:
    """``python -m tests.support.fake_app serve …``: syndd with this app in place of the real one."""
    install()
    from syndd.__main__ import main as syndd

    return syndd()


def install() -> None:
    """Puts the fake in the place of `syndd.app`, in this process."""
    import types

    module = types.ModuleType("syndd.app")
    module.build = FakeApp  # type: ignore[attr-defined]
    sys.modules["syndd.app"] = module


if __name__ == "__main__":
    sys.exit(main())
