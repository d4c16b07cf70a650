"""All parts of a daemon but the mount and the control socket, over a service in memory.

The loop runs on a thread of its own, as the daemon's does beside the mount's; a test stands where a
transport stands: it asks `fs` and waits for Futures, each under a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

from synd.cache.evict import UNLIMITED, Limits
from synd.cache.folder import Cache
from synd.cache.staging import Staging
from synd.cache.synapse_cache import SynapseCache
from synd.client.transfer import Downloader
from synd.clock import SYSTEM, Clock
from synd.errors import Busy, SyndError
from synd.ids import EntityId, Md5
from synd.jobs.queue import Queue
from synd.mirror.adoption import Adoption
from synd.mirror.contents import Contents
from synd.mirror.overlay import Delays, Overlay
from synd.mirror.poll import Poller
from synd.mirror.siblings import Siblings
from synd.mirror.sizes import Sizes
from synd.mirror.streams import Streams
from synd.mirror.tree import Probing, Tree
from synd.mirror.urls import Urls
from synd.mirror.waits import Waits
from synd.mirror.walk import Walk
from synd.model import FileVersion
from synd.processors.base import Caps, Tools
from synd.ranges import FileSlice
from synd.store.connect import Store
from synd.store.entities import Row
from synd.testing import FakeRemote
from syndd.artifacts import ReadyFiles
from syndd.mount.fs import SynapseFs
from syndd.mount.info import InfoFiles
from syndd.mount.ops import ROOT, Answer, Attr, DirEntry
from syndd.places import Places
from syndd.schedule.beside import Beside
from syndd.schedule.events import Events
from syndd.schedule.joblogs import JobLogs
from syndd.schedule.known import Settings
from syndd.schedule.operations import Operations
from syndd.schedule.pins import Pins
from syndd.schedule.pool import Pool
from syndd.schedule.preparing import Preparer
from syndd.schedule.showing import JobShowing
from syndd.schedule.sources import Sources

T = TypeVar("T")
Piece: TypeAlias = bytes | memoryview | FileSlice

PATIENCE_S = 40.0
"""Longest wait of a test for one answer."""

TICK_S = 0.02


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that never repeat within a file, the same for the same arguments."""
    return random.Random(f"{size}-{seed}").randbytes(size)


def md5_of(data: bytes) -> Md5:
    return Md5(hashlib.md5(data, usedforsecurity=False).hexdigest())


class Told:
    """Meets `ops.Notices`: what the kernel would have been told."""

    def __init__(self) -> None:
        self.names: list[tuple[int, bytes]] = []
        self.nodes: list[tuple[int, bool]] = []

    def entry(self, parent: int, name: bytes, *, gone: int | None = None) -> None:
        self.names.append((parent, name))

    def node(self, node: int, *, data: bool) -> None:
        self.nodes.append((node, data))

    def take(self) -> tuple[set[tuple[int, bytes]], set[tuple[int, bool]]]:
        """(names, nodes) since the last call."""
        names, nodes = set(self.names), set(self.nodes)
        self.names.clear()
        self.nodes.clear()
        return names, nodes


class LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="parts", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = PATIENCE_S) -> T:
        """The result of a coroutine on that loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Parts:
    """The parts, built as `syndd.app` builds them. `close` ends them; the folder may be used again."""

    def __init__(
        self,
        root: Path,
        remote: FakeRemote,
        *,
        projects: Sequence[EntityId] = (),
        views: str = "off",
        wait_s: float = PATIENCE_S,
        size_wait_s: float = PATIENCE_S,
        hold_s: float = 5.0,
        window_bytes: int = 64 << 20,
        connections: int = 8,
        limits: Limits = UNLIMITED,
        official: SynapseCache | None = None,
        probe: Probing | None = None,
        clock: Clock = SYSTEM,
        freshness_s: float = 30.0,
        per_minute: int = 6000,
        delays: Delays = Delays(0.0, 0.0),  # noqa: B008 - a value
        lazy_from_bytes: int = 64 << 20,
    ) -> None:
        self.remote = remote
        self.root = root
        self.told = Told()
        self.mismatched: list[FileVersion] = []
        self.corrupted: list[tuple[FileVersion, str]] = []
        self.completed: list[FileVersion] = []
        self.closed = False
        self._loop = LoopThread()
        self.store = Store(root / "state.db")
        self.pins = Pins(self.store)
        self.cache = Cache(root / "cache", limits, pinned=self.pins.holds)
        self.cache.start()
        self.waits = Waits()
        self.downloader = Downloader(connect_timeout_s=5.0, read_timeout_s=5.0)
        self.events = Events()
        self.run(self._build(
            projects=projects, views=views, wait_s=wait_s, size_wait_s=size_wait_s, hold_s=hold_s,
            window_bytes=window_bytes, connections=connections, official=official, probe=probe,
            clock=clock, freshness_s=freshness_s, per_minute=per_minute, delays=delays,
            lazy_from_bytes=lazy_from_bytes,
        ))  # fmt: skip

    async def _build(
        self,
        *,
        projects: Sequence[EntityId],
        views: str,
        wait_s: float,
        size_wait_s: float,
        hold_s: float,
        window_bytes: int,
        connections: int,
        official: SynapseCache | None,
        probe: Probing | None,
        clock: Clock,
        freshness_s: float,
        per_minute: int,
        delays: Delays,
        lazy_from_bytes: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.events.bind(loop)
        self.tree = Tree(
            self.store, self.remote, loop, self.waits,
            projects=projects, wait_s=wait_s, probe=probe, clock=clock,
        )  # fmt: skip
        # The service's clock and ours are one, so that a URL lives as long as it says.
        self.urls = Urls(self.remote, loop, self.remote.clock)
        self.streams = Streams(
            self.cache.objects, self.cache.partials, self.cache.hasher, self.downloader,
            self.urls, self.waits,
            connections=connections, connect_s=5.0, window_bytes=window_bytes, wait_s=wait_s,
            hold_s=hold_s,
            on_complete=self.completed.append,
            on_mismatch=self.mismatched.append,
            on_corrupt=lambda file, why: self.corrupted.append((file, why)),
            adopt=Adoption(self.cache, official),
        )  # fmt: skip
        self.sizes = Sizes(self.tree, views=views, wait_s=size_wait_s)
        self.siblings = Siblings(self.tree.entities, self.cache.objects, self.streams, self.urls)
        self.overlay = Overlay(self.store, self.tree.entities, delays=delays, clock=clock)
        self.staging = Staging(self.root / "staged", self.root / "recovered")
        self.contents = Contents(
            self.overlay, self.staging, self.cache, self.streams, self.tree,
            upload_delay_s=delays.upload_s, lazy_from_bytes=lazy_from_bytes,
        )  # fmt: skip
        self.fs = SynapseFs(
            self.tree, self.sizes, self.streams, self.urls, self.cache, self.siblings, Walk(self.tree),
            InfoFiles(self.tree), self.overlay, self.contents, portal="https://portal.invalid/",
        )  # fmt: skip
        self.fs.notices = self.told
        self.poller = Poller(
            self.tree, freshness_s=freshness_s, idle_s=300.0, per_minute=per_minute, clock=clock
        )
        self.queue = Queue(self.store)
        self.fetched: list[FileVersion] = []
        self.operations = Operations(
            self.queue, self.tree, self.sizes, self.streams, self.cache,
            on_job=self.events.of_job, on_fetched=self.fetched.append,
        )  # fmt: skip
        self.work = JobShowing(self.queue, self.operations.dispatcher, JobLogs(self.root / "jobs"))
        self.pool = Pool(self.root / "work", JobLogs(self.root / "jobs"))
        sources = Sources(self.streams, self.cache)
        self.preparer = Preparer(
            self.store, self.cache, sources, self.operations.dispatcher, self.pool,
            self.tree.in_writer, Settings(Caps()), clock=clock,
            beside=Beside(self.tree, self.sizes, sources, self.cache),
        )  # fmt: skip
        self.ready = ReadyFiles(
            Places(self.tree, self.root / "mnt", None), self.sizes, self.streams, self.cache, self.preparer,
            Tools.AUTO,
        )  # fmt: skip
        self._ticker = loop.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.waits.expire()
            self.streams.tick()
            self.sizes.tick()

    def close(self) -> None:
        self.closed = True
        self.run(self._close())
        self.downloader.close()
        self.cache.stop()
        self._loop.close()
        self.store.close()

    async def _close(self) -> None:
        self._ticker.cancel()
        self.waits.fail_all(Busy("the daemon is stopping"))
        # Off the loop: threads that end may wait for it.
        await asyncio.to_thread(self.contents.close)
        await asyncio.to_thread(self.streams.close)
        await self.urls.close()
        await self.tree.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Asking.

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop.loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine on the daemon's loop."""
        return self._loop.run(work)

    def call(self, work: Any) -> Any:
        """The result of a plain call on the daemon's loop."""

        async def on_loop() -> Any:
            return work()

        return self.run(on_loop())

    def poll(self, *folders: int) -> None:
        """What a poll of these folders does now, whether it is due or not; of all listed, if none is named."""
        for folder in folders or self._listed():
            row = self.tree.folders.find(folder)
            assert row is not None
            with contextlib.suppress(SyndError):
                self.run(self.poller.check(row))

    def _listed(self) -> list[int]:
        rows = self.store.read.execute("SELECT id FROM folder WHERE listed_ns > 0 ORDER BY id")
        return [row[0] for row in rows]

    # As a transport does.

    def node(self, path: str) -> Attr:
        """What `path` leads to, name by name."""
        attr: Attr | None = None
        node = ROOT
        for part in path.strip("/").split("/"):
            attr = got(self.fs.lookup(node, part.encode()))
            node = attr.node
        assert attr is not None
        return attr

    def row(self, path: str) -> Row:
        """The row of an entity's path; looked up first."""
        return self.tree.entities.get(self.node(path).ino)

    def entries(self, path: str = "", *, plus: bool = False) -> list[DirEntry]:
        node = self.node(path).node if path else ROOT
        got(self.fs.opendir(node))
        return list(got(self.fs.readdir(node, 0, plus=plus)))

    def names(self, path: str = "") -> list[str]:
        return sorted(entry.name.decode() for entry in self.entries(path))

    def read(self, path: str, *, handle: int = 1) -> bytes:
        """The whole content, opened and released."""
        attr = self.node(path)
        return self.read_node(attr.node, attr.size, handle=handle)

    def read_node(self, node: int, size: int, *, handle: int = 1) -> bytes:
        with self.opened(node, handle):
            return self.read_at(node, handle, 0, size)

    @contextlib.contextmanager
    def opened(self, node: int, handle: int = 1) -> Iterator[None]:
        opened = got(self.fs.open(node, 0))
        if opened.backing is not None:
            with open(opened.backing, "rb"):
                pass
        try:
            yield
        finally:
            self.fs.release(node, handle)

    def read_at(self, node: int, handle: int, offset: int, size: int) -> bytes:
        """That range, in reads of 128 KiB as the kernel asks them."""
        out = bytearray()
        while len(out) < size:
            answer = self.fs.read(node, handle, offset + len(out), min(131072, size - len(out)))
            found: Piece = answer.result(PATIENCE_S) if isinstance(answer, Future) else answer
            piece = bytes_of(found)
            if not piece:
                break
            out += piece
        return bytes(out)


def got(answer: Answer[T], timeout_s: float = PATIENCE_S) -> T:
    """The answer, waited for."""
    return answer.result(timeout_s) if isinstance(answer, Future) else answer


def bytes_of(piece: Piece) -> bytes:
    """What a transport would send."""
    if isinstance(piece, FileSlice):
        return os.pread(piece.fd, piece.size, piece.offset)
    return bytes(piece)
