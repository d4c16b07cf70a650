"""The composition root: builds every part and hands each its needs. No decisions live here.

Started in this order, ended in the reverse: store, cache, client, mirror, filesystem, mount, and the
loop's own tasks (polling, deadlines, jobs, eviction).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from synd.cache.disk import can_clone
from synd.cache.evict import Limits
from synd.cache.folder import Cache
from synd.cache.headroom import Headroom
from synd.cache.staging import Staging
from synd.cache.synapse_cache import SynapseCache, location
from synd.client import credentials
from synd.client.remote import background
from synd.client.service import SynapseClient
from synd.client.transfer import Downloader
from synd.clock import NS, Deadline
from synd.config import Config, Folders, name_filter
from synd.errors import Busy, Forbidden, NotLoggedIn, RemoteUnavailable, SyndError
from synd.ids import entity_id, syn
from synd.jobs import owner
from synd.jobs.queue import Queue
from synd.log import fields
from synd.mirror.adoption import Adoption
from synd.mirror.conflicts import Conflicts
from synd.mirror.contents import Contents
from synd.mirror.external import Probe
from synd.mirror.overlay import Delays, Overlay
from synd.mirror.plan import Mode
from synd.mirror.poll import Poller
from synd.mirror.push import Pusher, PushSettings
from synd.mirror.recovery import Recovery
from synd.mirror.siblings import Siblings
from synd.mirror.sizes import Sizes
from synd.mirror.streams import Streams
from synd.mirror.tree import Tree
from synd.mirror.undoing import Undoing
from synd.mirror.urls import Urls
from synd.mirror.waits import Waits
from synd.mirror.walk import Walk
from synd.model import FileVersion
from synd.paths import is_dropping
from synd.processors.base import Tools
from synd.processors.limits import MemoryGroup
from synd.store import meta
from synd.store.connect import Store
from synd.store.entities import Change
from syndd.answers import Answers
from syndd.artifacts import ReadyFiles
from syndd.belonging import remember, settle
from syndd.control.services import DaemonServices
from syndd.curating import Curator
from syndd.edits import Edits
from syndd.lifecycle import Fail
from syndd.mount.fdstore import FdStore, HolderStore, SystemdStore
from syndd.mount.fs import SynapseFs
from syndd.mount.info import InfoFiles
from syndd.mount.session import MountOptions, MountSession, take
from syndd.promises import Promises
from syndd.schedule import dask, known
from syndd.schedule.beside import Beside
from syndd.schedule.dask import DaskPool
from syndd.schedule.dispatch import Dispatcher, Times
from syndd.schedule.events import Events
from syndd.schedule.joblogs import JobLogs
from syndd.schedule.operations import Operations
from syndd.schedule.pins import Pins
from syndd.schedule.pool import SPARE_S, Pool
from syndd.schedule.preparing import KIND, Preparer
from syndd.schedule.revival import Revival, marks
from syndd.schedule.showing import JobShowing
from syndd.schedule.sources import Sources
from syndd.watch.telling import OverlaySink
from syndd.watch.tracker import Tracker

log = logging.getLogger(__name__)

TICK_S = 0.2
TEND_S = 30.0
OWING_S = 1.0
"""What many readers brought in at once is evicted so soon after they have closed it."""

GARBAGE_FROM = 20_000
"""New objects until the young are searched for cycles: thousands of requests under way are no garbage."""

LOGIN_S = 3.0
"""The service is asked so long, at the start, whether it knows us; offline is no reason not to mount."""


def build(config: Config, folders: Folders, fail: Fail) -> App:
    """The daemon's parts, not started yet. Raises NotLoggedIn, ConfigError, StoreError."""
    return App(config, folders, fail)


class App:
    """All parts of one daemon."""

    def __init__(self, config: Config, folders: Folders, fail: Fail) -> None:
        self._config = config
        self._folders = folders
        self._fail = fail
        self._tasks: list[asyncio.Task[None]] = []
        self._session: MountSession | None = None
        self._stopping = False
        self._mountpoint = Path(config.mount).absolute()
        # The login is looked for first: without one nothing is created or mounted.
        self._endpoints = credentials.endpoints(config)
        self._token = credentials.find_token(self._endpoints)
        self._projects = [entity_id(p) for p in config.projects]
        self._store = Store(folders.database)
        self._events = Events()
        self._pins = Pins(self._store)
        self._cache = Cache(
            folders.cache,
            Limits(
                max_bytes=config.cache_max_bytes,
                max_age_s=config.cache_max_age_s,
                keep_free_bytes=config.cache_keep_free_bytes,
            ),
            pinned=self._pins.holds,
            on_event=self._events.of_cache,
        )
        self._exporter = ThreadPoolExecutor(1, thread_name_prefix="export")

    @property
    def services(self) -> DaemonServices:
        return self._answers

    async def start(self) -> None:
        """Returns when the mount answers."""
        loop = asyncio.get_running_loop()
        config = self._config
        self._events.bind(loop)
        await asyncio.to_thread(self._cache.start)
        self._waits = Waits()
        downloader = Downloader(
            connect_timeout_s=config.connect_timeout_s,
            read_timeout_s=min(30.0, config.read_timeout_s),
            idle_per_host=config.transfer_connections,
        )
        self._client = SynapseClient(
            self._endpoints, self._token, config=config, downloader=downloader
        )
        self._downloader = downloader
        try:
            if await settle(self._store, self._client):
                log.info("store.emptied", extra=fields(why="another service"))
        except BaseException:
            await self._client.aclose()
            downloader.close()
            raise
        self._tree = Tree(
            self._store,
            self._client,
            loop,
            self._waits,
            projects=self._projects,
            wait_s=config.read_timeout_s,
            probe=Probe(downloader),
        )
        self._urls = Urls(self._client, loop, away_s=self._away_s)
        excluded = [Path(config.mount), self._folders.cache]
        self._official = SynapseCache(location(), exclude=excluded)
        self._shares_extents = await asyncio.to_thread(
            can_clone, self._folders.cache, self._official.root
        )
        self._streams = Streams(
            self._cache.objects,
            self._cache.partials,
            self._cache.hasher,
            downloader,
            self._urls,
            self._waits,
            connections=config.transfer_connections,
            connect_s=config.connect_timeout_s,
            window_bytes=config.window_max_bytes,
            wait_s=config.read_timeout_s,
            hold_s=config.verify_hold_s,
            on_complete=self._completed,
            on_mismatch=self._mismatch,
            on_corrupt=self._corrupt,
            adopt=Adoption(self._cache, self._official if config.adopt_synapse_cache else None),
        )
        siblings = Siblings(self._tree.entities, self._cache.objects, self._streams, self._urls)
        self._sizes = Sizes(self._tree, views=config.views, wait_s=config.size_wait_s)
        kept_here = name_filter(config.local_only)
        self._overlay = Overlay(
            self._store,
            self._tree.entities,
            delays=Delays(upload_s=config.upload_delay_s, delete_s=config.delete_delay_s),
            keeps_local=lambda name: is_dropping(name) or kept_here(name),
        )
        self._overlay.mountpoint = os.fsencode(self._mountpoint)
        self._headroom = Headroom(self._cache, self._folders.state)
        self._overlay.make_room = self._headroom.keep
        staging = Staging(
            self._folders.staged, self._folders.recovered, on_full=self._headroom.make
        )
        self._contents = Contents(
            self._overlay,
            staging,
            self._cache,
            self._streams,
            self._tree,
            upload_delay_s=config.upload_delay_s,
            lazy_from_bytes=config.lazy_from_bytes,
            passes=self._headroom.ample,
        )
        self._recovery = Recovery(
            self._overlay,
            staging,
            self._contents.lazily,
            max_bytes=config.recovery_max_bytes,
            max_age_s=config.recovery_max_age_s,
        )
        self._contents.on_recovered = self._recovery.taken
        self._fs = SynapseFs(
            self._tree,
            self._sizes,
            self._streams,
            self._urls,
            self._cache,
            siblings,
            Walk(self._tree),
            InfoFiles(self._tree),
            self._overlay,
            self._contents,
            portal=self._endpoints.portal,
        )
        self._tree.on_changes(self._tell_names)
        Undoing(self._overlay, staging, self._contents.lazily, on_name=self._fs.name_changed)
        self._pusher = Pusher(
            overlay=self._overlay,
            files=self._contents,
            staging=staging,
            tree=self._tree,
            remote=self._client,
            settings=PushSettings(
                conflicts=Mode(config.conflicts),
                every_save=config.versions == "every",
                uploads_at_once=config.uploads_at_once,
                upload_delay_s=config.upload_delay_s,
                quiet_s=config.quiet_s,
                delete_hold_count=config.delete_hold_count,
                delete_hold_percent=config.delete_hold_percent,
                delete_hold_window_s=config.delete_hold_window_s,
            ),
            curating=Curator(
                self._client,
                self._streams,
                work=self._folders.cache / "rows",
                always=config.record_set_export == "always",
                validation_s=config.validation_wait_s,
            ),
            on_event=self._of_push,
            on_names=self._fs.name_changed,
        )
        self._pusher.paused = not config.uploads or meta.uploads_paused(self._store)
        self._tracker = Tracker(
            self._store,
            OverlaySink(self._overlay, self._contents, self._tree, self._fs.name_changed),
            reserved=[
                ("the mount", self._mountpoint),
                ("the cache", self._folders.cache),
                ("the state folder", self._folders.state),
            ],
        )
        self._edits = Edits(
            store=self._store,
            tree=self._tree,
            streams=self._streams,
            overlay=self._overlay,
            contents=self._contents,
            staging=staging,
            pusher=self._pusher,
            conflicts=Conflicts(
                self._overlay,
                self._tree,
                self._client,
                on_conflict=lambda number: self._edits.conflict_found(number),  # noqa: PLW0108 - made below
                on_names=self._fs.name_changed,
            ),
            tracker=self._tracker,
            events=self._events,
            mount=self._mountpoint,
            recovery=self._folders.recovered,
            by_pattern=kept_here,
        )
        self._poller = Poller(
            self._tree,
            freshness_s=config.freshness_s,
            idle_s=config.idle_poll_s,
            per_minute=config.poll_per_minute,
        )
        queue = Queue(self._store, me=owner.here(), attempts=config.job_attempts)
        logs = JobLogs(self._folders.state / "jobs")
        self._pool = self._executor(logs)
        self._dispatcher = Dispatcher(
            queue,
            self._tree.in_writer,
            times=Times(config.lease),
            on_pruned=logs.remove,
        )
        self._operations = Operations(
            queue,
            self._tree,
            self._sizes,
            self._streams,
            self._cache,
            on_job=self._events.of_job,
            on_fetched=lambda file: self._enter(file, only_shared=False),
            dispatcher=self._dispatcher,
        )
        sources = Sources(self._streams, self._cache)
        preparer = Preparer(
            self._store,
            self._cache,
            sources,
            self._dispatcher,
            self._pool,
            self._tree.in_writer,
            known.settings(config),
            beside=Beside(self._tree, self._sizes, sources, self._cache),
        )
        self._ready = ReadyFiles(
            self._edits.places,
            self._sizes,
            self._streams,
            self._cache,
            preparer,
            Tools(config.tools),
        )
        self._revival = Revival(
            queue,
            self._dispatcher,
            self._store,
            marks=marks(config, f"{self._endpoints.name} {self._token}", self._folders.cache),
            free_bytes=lambda: self._cache.usage().free_bytes,
            make_room=self._cache.make_room,
            prepare=lambda entity: self._ready.prepare([syn(entity)]),
            refresh=self._tree.detail,
        )
        self._tree.on_changes(self._revival.changed)
        if not preparer.off:
            self._fs.ready.serve(
                Promises(preparer, self._dispatcher),
                queue,
                asyncio.get_running_loop(),
                gtf_as_gff3=config.gtf == "gff3",
            )
        self._edits.places.ready_source = self._fs.ready.source_of
        await asyncio.to_thread(self._pool.clear)
        if isinstance(self._pool, DaskPool):
            self._pool.start()
        await asyncio.to_thread(logs.keep_only, {job.id for job in queue.all()})
        self._answers = Answers(
            config=config,
            endpoints=self._endpoints,
            work=JobShowing(queue, self._dispatcher, logs, away=self._away),
            ready=self._ready,
            tree=self._tree,
            sizes=self._sizes,
            streams=self._streams,
            cache=self._cache,
            fs=self._fs,
            pins=self._pins,
            poller=self._poller,
            operations=self._operations,
            waits=self._waits,
            client=self._client,
            events=self._events,
            session=lambda: self._session,
            edits=self._edits,
        )
        inherited_by = self._descriptor_store()
        mountpoint = self._mountpoint
        inherited = (
            await asyncio.to_thread(take, inherited_by, mountpoint) if inherited_by else None
        )
        self._spawn(self._tick(), "deadlines")
        if inherited is None:
            await self._log_in()
        options = MountOptions(
            mountpoint=mountpoint,
            runtime=self._folders.runtime,
            transport=config.transport,
            allow_other=config.allow_other,
            read_only=config.read_only,
            passthrough=config.passthrough,
        )
        if inherited is None:
            await asyncio.to_thread(self._overlay.start_anew)
        await asyncio.to_thread(self._contents.prepare)
        self._session = await asyncio.to_thread(
            lambda: MountSession.start(self._fs, options, inherited=inherited, store=inherited_by)
        )
        self._fs.notices = self._session.notices
        # Open files are known again by now, so what looks unused is.
        found = await asyncio.to_thread(self._contents.start)
        if found:
            log.info("edits.found", extra=fields(count=found))
        threading.Thread(target=self._watch_mount, name="mount-watch", daemon=True).start()
        if inherited is not None:
            # Our predecessor may have died between recording a change and telling the kernel.
            self._session.notices.everything()
            self._spawn(self._log_in_later(), "login")
        self._spawn(self._poll(), "poll")
        self._spawn(self._operations.run(), "jobs")
        self._spawn(self._revival.run(), "revival")
        if not config.read_only:
            self._spawn(self._pusher.run(), "push")
            await asyncio.to_thread(self._tracker.start)
        self._spawn(self._recovery.run(), "recovery")
        self._spawn(self._tend(), "tend")
        self._spawn(self._tend_headroom(), "headroom")
        # What lives as long as the daemon is not searched for garbage again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_FROM)

    def _executor(self, logs: JobLogs) -> Pool | DaskPool:
        """What runs worker programs. Raises ConfigError."""
        work = self._folders.cache / "work"
        if self._config.engine != "dask":
            return Pool(work, logs, spare_s=SPARE_S, group=MemoryGroup.make)
        return dask.executor(self._config, work, logs, self._folders.state)

    def _away(self) -> dict[str, str]:
        """Kinds of jobs of which none can be begun, and why."""
        why = self._pool.away
        return {KIND: why} if why else {}

    def _away_s(self) -> float:
        """Seconds since the service went out of reach; infinite if it was never seen in this life."""
        status = self._client.status
        if not status.last_ok_at_ns:
            return float("inf")
        if not status.offline_since_ns:
            return 0.0
        # A clock that was set back meanwhile must not make it young again.
        return abs(time.time_ns() - status.offline_since_ns) / NS

    def _descriptor_store(self) -> FdStore | None:
        """Who keeps the mount's descriptor: the service manager, the holder, or nobody."""
        systemd = SystemdStore(self._folders.runtime)
        if systemd.usable:
            return systemd
        socket = self._folders.runtime / "hold.sock"
        return HolderStore(socket) if socket.exists() else None

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._stopping:
            return
        error = task.exception()
        log.error("task.died", exc_info=error, extra=fields(task=task.get_name()))
        self._fail(SyndError(f"the daemon's {task.get_name()} task ended: {error!r}"))

    async def _log_in(self) -> None:
        """Asks who we are. A refused login is an error; a service that does not answer is not."""
        try:
            profile = await self._client.whoami(deadline=Deadline.after(LOGIN_S, "logging in"))
        except (NotLoggedIn, Forbidden):
            raise
        except SyndError as error:
            log.warning("login.postponed", extra=fields(why=error.message))
            self._spawn(self._log_in_later(), "login")
            return
        self._answers.user = profile.name
        await remember(self._store, self._client)

    async def _log_in_later(self) -> None:
        with background():
            while True:
                try:
                    profile = await self._client.whoami()
                    self._answers.user = profile.name
                    self._answers.login_problem = None
                    await remember(self._store, self._client)
                except (NotLoggedIn, Forbidden) as error:
                    self._answers.login_problem = error
                except SyndError:
                    await asyncio.sleep(5.0)
                    continue
                # A task that ends counts as a dead one; this one has nothing more to do.
                await asyncio.Event().wait()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._waits.expire()
            self._streams.tick()
            self._sizes.tick()

    async def _poll(self) -> None:
        with background():
            await self._poller.run()

    async def _tend(self) -> None:
        while True:
            for _ in range(round(TEND_S / OWING_S)):
                await asyncio.sleep(OWING_S)
                if self._cache.owes:
                    break
            await asyncio.to_thread(self._cache.tend)

    async def _tend_headroom(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._contents.writing():
                await asyncio.to_thread(self._headroom.tend)

    def _watch_mount(self) -> None:
        """Ends the daemon when somebody else ended its mount."""
        session = self._session
        assert session is not None
        why = session.wait_closed()
        if self._stopping or session.stopping:
            return
        if why == "unmounted":
            log.warning("mount.gone", extra=fields(why="unmounted from outside"))
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._fail(RemoteUnavailable(f"the mount ended: {why}"))

    # What the parts tell each other.

    def _of_push(self, kind: str, what: Mapping[str, object]) -> None:
        number = what.get("number")
        if kind == "conflict":
            self._edits.conflict_found(int(str(number)))
        else:
            self._edits.changed(int(str(number)) if number else 0)
            row = self._overlay.locals.find(int(str(number))) if number else None
            if row is not None and row.entity is not None:
                self._fs.validated(row.entity)

    def _tell_names(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.gone or change.appeared:
                self._events.of_name(change.parent, change.file_name, change.id, gone=change.gone)

    def _completed(self, file: FileVersion) -> None:
        self._events.of_content(file.entity, "cached")
        self._enter(file, only_shared=True)

    def _mismatch(self, file: FileVersion) -> None:
        self._fs.content_changed(file)

    def _corrupt(self, file: FileVersion, why: str) -> None:
        self._fs.content_changed(file)
        self._events.of_problem(why, file.entity)

    def _enter(self, file: FileVersion, *, only_shared: bool) -> None:
        """Gives the official client what was downloaded, off every thread that anybody waits for.

        What was merely read is entered only where that costs no room on the disk.
        """
        if not self._config.adopt_synapse_cache or file.handle is None or file.md5 is None:
            return
        if only_shared and not self._shares_extents:
            return
        handle, digest, name = file.handle, file.md5, file.name
        path = self._cache.objects.path(file.key)

        def enter() -> None:
            try:
                self._official.enter(handle, name, path, digest, only_shared=only_shared)
            except SyndError as error:
                log.info("export.failed", extra=fields(why=error.message))

        with contextlib.suppress(RuntimeError):
            self._exporter.submit(enter)

    def healthy(self) -> bool:
        return self._session is not None and not self._session.state().closed

    async def stop(self, deadline: Deadline, *, keep_mount: bool) -> None:
        """Unmounts, then closes everything in reverse order."""
        self._stopping = True
        session = self._session
        # Beside the unmount: who reads or waits for a job is not kept by it.
        draining = asyncio.create_task(self._drain_jobs(deadline), name="drain-jobs")
        if session is not None and not keep_mount:
            self._fs.ready.give_up()
        try:
            if session is not None and keep_mount:
                await asyncio.to_thread(session.detach)
            elif session is not None:
                await asyncio.to_thread(
                    lambda: session.stop(lazy=True, timeout_s=min(5.0, deadline.left_s()))
                )
            await asyncio.wait({draining})
        finally:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
            await self._close()

    async def _drain_jobs(self, deadline: Deadline) -> None:
        if not hasattr(self, "_dispatcher"):
            return
        left = await self._dispatcher.drain(min(self._config.drain, deadline.left_s() / 2))
        if left:
            log.info("jobs.drained", extra=fields(ran=left))

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        pool = getattr(self, "_pool", None)
        if pool is not None:
            await pool.close()
        if hasattr(self, "_tracker"):
            await asyncio.to_thread(self._tracker.stop)
        if hasattr(self, "_tree"):
            self._waits.fail_all(Busy("the daemon is stopping"))
            await asyncio.to_thread(self._contents.close)
            self._streams.close()
            await self._urls.close()
            await self._tree.close()
            await self._client.aclose()
            self._downloader.close()
        self._exporter.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._cache.stop)
        self._store.close()
