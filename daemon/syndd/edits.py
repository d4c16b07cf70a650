"""What the control API may ask of local changes: waits, sending, undo, conflicts, tracked folders.

Decides nothing about sending itself. Methods that are `async` run on the daemon's loop; what walks many
rows does so in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from synd.clock import format_time
from synd.control import changes, contract
from synd.errors import NotFound, ReadOnly, RemoteUnavailable, UsageError
from synd.ids import EntityId, syn
from synd.mirror.annotations import annotation_from_text, check_annotation
from synd.mirror.overlay import Seen
from synd.mirror.streams import Streams
from synd.mirror.tree import Tree
from synd.model import FileVersion, Kind
from synd.store import meta
from synd.store.connect import Store
from synd.store.entities import TOP
from synd.store.local import Local, Sending
from syndd.difference import Differences
from syndd.needs import (
    Conflicting,
    ConflictRow,
    Overlaid,
    Pushing,
    Staged,
    TrackedFolder,
    TrackedStatus,
    Tracking,
    Written,
)
from syndd.places import Places
from syndd.schedule.events import Events
from syndd.showing import Showing, stuck_for, trouble_of
from syndd.undo import Undo

SHOWN = 20
"""Changes that a status lists; counts are of all."""

TRACKED_LOOK_S = 0.5
"""So often it is asked whether tracked folders still have something to tell."""

LOOK_SHARE = 5.0
"""Rests so many times as long as the last look took, before the next one."""


class Edits:
    """Local changes of one daemon."""

    def __init__(
        self,
        *,
        store: Store,
        tree: Tree,
        streams: Streams,
        overlay: Overlaid,
        contents: Written,
        staging: Staged,
        pusher: Pushing,
        conflicts: Conflicting,
        tracker: Tracking,
        events: Events,
        mount: Path,
        recovery: Path,
        by_pattern: Callable[[str], bool] = lambda _name: False,
    ) -> None:
        """`recovery`: the folder of recovered files. `by_pattern`: the setting local_only."""
        self._store = store
        self._tree = tree
        self._streams = streams
        self._overlay = overlay
        self._pusher = pusher
        self._conflicts = conflicts
        self._tracker = tracker
        self._events = events
        self.showing = Showing(
            store=store, overlay=overlay, pusher=pusher, conflicts=conflicts, tracker=tracker,
            contents=contents, mount=mount, by_pattern=by_pattern,
        )  # fmt: skip
        self.places = Places(tree, mount, self.showing)
        self._undo = Undo(
            store=store, overlay=overlay, showing=self.showing, events=events, recovery=recovery,
            restore_entity=self._untrash,
        )  # fmt: skip
        self._differences = Differences(
            self.showing, staged=staging.path, read_base=self._read_base
        )
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._waiters_lock = threading.Lock()

    async def pending(self, path: str | None = None, limit: int = SHOWN) -> changes.Pending:
        """What is unsent of everything, or of a path and what is below it. Raises NotFound."""
        parts = None if path is None else await self._inside(path)
        return await asyncio.to_thread(self.showing.pending, parts, limit)

    async def _inside(self, path: str) -> tuple[bytes, ...]:
        """The parts of the path that a thing has, however it was spelled; of a removed one: had."""
        return self.showing.inside(self.places.shown(await self.places.find(path)))

    # Told by those who change rows. Any thread.

    def changed(self, number: int = 0) -> None:
        """A row was queued, began or ended being sent, or changed its state; 0: many did."""
        row = self._overlay.locals.find(number) if number else None
        if row is not None:
            self._events.of_edit(self.showing.unsent_of(row), sent=row.state == Sending.CLEAN)
        self._wake()

    def conflict_found(self, number: int) -> None:
        """A conflict was recorded or resolved."""
        self._events.of_conflict(self._conflict(self._conflicts.get(number)))
        self._wake()

    def _wake(self) -> None:
        with self._waiters_lock:
            waiters = list(self._waiters)
        for loop, woken in waiters:
            with contextlib.suppress(RuntimeError):  # its loop ended meanwhile
                loop.call_soon_threadsafe(woken.set)

    @contextlib.contextmanager
    def _woken(self) -> Iterator[asyncio.Event]:
        mine = (asyncio.get_running_loop(), asyncio.Event())
        with self._waiters_lock:
            self._waiters.add(mine)
        try:
            yield mine[1]
        finally:
            with self._waiters_lock:
                self._waiters.discard(mine)

    # Waiting.

    async def wait(self, path: str | None, timeout_s: float) -> contract.WaitReply:
        """Returns once everything (or `path` and what is below) is sent, once something of it turns out
        to be stuck, or when the time is up. Woken by `changed`.
        """
        began = time.monotonic()
        parts = None if path is None else await self._inside(path)
        if parts is None and self._tracker.status():
            await asyncio.to_thread(self._tracker.wait_settled, timeout_s)
        with self._woken() as woken:
            while True:
                woken.clear()
                before = time.monotonic()
                left = await asyncio.to_thread(self.showing.left, parts)
                now = time.monotonic()
                left_s = timeout_s - (now - began)
                if left.over or left_s <= 0:
                    pending = await asyncio.to_thread(self.showing.pending, parts, SHOWN)
                    stuck = stuck_for(pending)
                    settled = pending["verdict"] == "sent"
                    if settled or stuck is not None or left_s <= 0:
                        break
                # Nothing wakes us when a tracked folder turns out to have nothing to send.
                wait_s = min(left_s, TRACKED_LOOK_S) if left.tracked else left_s
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), wait_s)
                # A look costs as many rows as are unsent, and under a burst each sent row wakes us.
                await asyncio.sleep(min(LOOK_SHARE * (now - before), max(0.0, left_s)))
        return {
            "settled": settled,
            "stuck": stuck is not None,
            "reason": "" if stuck is None else stuck[0],
            "mend": "" if stuck is None else stuck[1],
            "pending": pending,
            "waited_s": round(time.monotonic() - began, 3),
            "transfers": self.showing.transfers(),
        }

    async def drain(self, timeout_s: float) -> changes.Pending:
        """Sends what can be sent within the time; what is left stays on this disk."""
        end = time.monotonic() + timeout_s
        if self._tracker.status():
            await asyncio.to_thread(self._tracker.wait_settled, timeout_s)
        left = await asyncio.to_thread(self.showing.left, None)
        if left.counts.waiting or left.sending:
            await self._pusher.drain(max(0.0, end - time.monotonic()))
        return await self.pending()

    # Asked for by the user.

    async def upload_now(self, path: str | None) -> changes.Pending:
        """Skips the delays, and tries again what is blocked."""
        numbers: list[int] | None = None
        if path is not None:
            parts = await self._inside(path)
            named = await asyncio.to_thread(self.showing.rows, [self.showing.shown(parts)])
            numbers = [row.id for row in named]

        def go() -> None:
            self._pusher.retry_blocked(numbers)
            self._pusher.push_now(numbers)

        await asyncio.to_thread(go)
        self._wake()
        return await self.pending(path)

    async def pause(self) -> changes.Pending:
        """Until `resume`, over restarts too."""
        await asyncio.to_thread(meta.set_uploads_paused, self._store, paused=True)
        self._pusher.pause()
        self._wake()
        return await self.pending()

    async def resume(self) -> changes.Pending:
        await asyncio.to_thread(meta.set_uploads_paused, self._store, paused=False)
        self._pusher.resume()
        self._wake()
        return await self.pending()

    async def approve(self, targets: Sequence[str]) -> changes.Approved:
        """Lets held deletes go, those of tracked folders too; all of them without targets. Raises NotFound
        when none is held there.
        """
        folders = {str(t.root.folder): t for t in self._tracker.status() if t.held is not None}
        confirmed = [f for f in folders if not targets or f in targets]
        for folder in confirmed:
            await asyncio.to_thread(self._tracker.confirm, Path(folder))
        inside = [t for t in targets if t not in folders]
        if targets and not inside:
            return {"paths": confirmed}
        named = await asyncio.to_thread(self.showing.rows, inside)
        held = [r for r in named if r.state == Sending.HELD]
        if inside and not held:
            raise NotFound(
                f"no delete is held at {', '.join(inside)}", hint="`synd status` shows them"
            )
        await asyncio.to_thread(self._pusher.approve, [r.id for r in held])
        self._wake()
        view = self.showing.view()
        return {
            "paths": [*confirmed, *(self.showing.shown(self.showing.path(r, view)) for r in held)]
        }

    async def discard(self, targets: Sequence[str]) -> changes.Discarded:
        """Forgets local changes at and below the targets, as `Undo` does."""
        try:
            return await self._undo.discard(targets)
        finally:
            self._wake()

    def recovered(self) -> changes.RecoveredList:
        return self._undo.recovered()

    async def restore(self, target: str) -> changes.Restored:
        """Brings back what a local action took away."""
        found = await self._undo.restore(target)
        self._wake()
        return found

    async def difference(self, path: str) -> changes.Difference:
        """What differs at a path from what the service had."""
        place = await self.places.find(path)
        return await self._differences.of(self.places.shown(place), place)

    async def _seen(self, path: str) -> Seen:
        place = await self.places.find(path)
        if place.key == TOP or (place.local is not None and place.local.gone):
            raise NotFound(f"there is no {path} that could be changed", path=path)
        if place.version is not None:
            raise ReadOnly(
                f"{path} is a version: only a file's next one can be described", path=path
            )
        return Seen(place.local, place.row)

    async def comment(self, path: str, comment: str, label: str) -> changes.Unsent:
        """Sets comment and label of the next version. Raises NotFound, UsageError for what has no versions."""
        seen = await self._seen(path)
        if seen.is_folder:
            raise UsageError(f"{path} is a folder: only files have versions", path=path)
        if seen.row is not None and seen.row.kind == Kind.RECORD_SET:
            raise UsageError(f"{path} is a record set: its versions have no comments", path=path)

        def write() -> Local:
            with self._overlay.change() as tx:
                number = self._overlay.claim(tx, seen).id
            self._overlay.set_comment(number, comment, label)
            return self._overlay.locals.get(number)

        return self.showing.unsent_of(await asyncio.to_thread(write))

    async def annotate(
        self, path: str, values: Mapping[str, Sequence[str]], remove: Sequence[str]
    ) -> changes.Unsent:
        """Queues annotations. Their types stay as they are on the service; new ones are texts. Raises UsageError."""
        if not values and not remove:
            raise UsageError("no annotation was named")
        seen = await self._seen(path)
        known = self._overlay.entities.annotations(seen.row) if seen.row is not None else None

        found = {
            key: annotation_from_text("\n".join(wanted), (known or {}).get(key))
            for key, wanted in values.items()
        }
        for key, value in found.items():
            # All or none of them.
            check_annotation(key, value)

        def write() -> Local:
            for key, value in found.items():
                self._overlay.annotate(seen, key, value)
            for key in remove:
                self._overlay.annotate(seen, key, None)
            with self._overlay.change() as tx:
                return self._overlay.claim(tx, self._overlay.seen(seen.key) or seen)

        row = await asyncio.to_thread(write)
        self._wake()
        return self.showing.unsent_of(row)

    # Conflicts.

    def conflicts(self, *, all: bool) -> changes.Conflicts:
        return {"conflicts": [self._conflict(c) for c in self._conflicts.list(all=all)]}

    def conflict(self, id: str) -> changes.Conflict:
        return self._conflict(self._conflicts.get(_number(id, "conflict")))

    async def resolve(self, id: str, keep: changes.Keep) -> changes.Conflict:
        """Ends a conflict. A second time changes nothing. Raises NotFound; UsageError when it was settled
        otherwise.
        """
        number = _number(id, "conflict")
        await self._conflicts.resolve(number, keep)
        self._wake()
        return self.conflict(id)

    def _conflict(self, row: ConflictRow) -> changes.Conflict:
        copy = None
        if row.copy is not None and (local := self._overlay.locals.find(row.copy)) is not None:
            copy = self._overlay.path_of(local.key) if not local.gone else None
        kept: changes.Keep = "both"
        if row.kept == "local":
            kept = "local"
        elif row.kept == "remote":
            kept = "remote"
        return {
            "id": str(row.id),
            "at": format_time(row.at_ns),
            "path": str(self.showing.mount / row.path),
            "entity": "" if row.entity is None else syn(EntityId(row.entity)),
            "reason": row.reason,
            "kept": kept,
            "copy_path": "" if copy is None else self.showing.shown(copy),
            "base_version": row.base_version or None,
            "remote_version": row.remote_version or None,
            "resolved_at": format_time(row.resolved_ns) if row.resolved_ns else None,
        }

    # Folders outside the mount.

    async def track(self, folder: str, target: str) -> changes.Tracked:
        """Sends what changes in an ordinary folder to a folder of the service from now on.

        Raises UsageError for what cannot be tracked (in the mount, say) or be sent to, Exists, NotFound.
        """
        if not Path(folder).is_absolute():
            raise UsageError(f"{folder} is no absolute path", path=folder)
        row = (await self.places.resolve(target)).row
        if row is None or not Kind(row.kind).is_container:
            raise UsageError(f"{target} is no folder or project of the service")
        added = await asyncio.to_thread(self._tracker.add, Path(folder), row.id)
        return self._tracked(added)

    async def untrack(self, folder: str) -> changes.Tracked:
        """Nothing is deleted, here or there. Raises NotFound."""
        return self._tracked(await asyncio.to_thread(self._tracker.remove, Path(folder)))

    def tracked(self) -> changes.TrackedList:
        return {"tracked": [self._tracked(one.root, one) for one in self._tracker.status()]}

    def _tracked(
        self, folder: TrackedFolder, status: TrackedStatus | None = None
    ) -> changes.Tracked:
        if status is None:
            known = [t for t in self._tracker.status() if t.root.folder == folder.folder]
            status = known[0] if known else None
        where = self._overlay.path_of(self._overlay.key_of(folder.entity))
        held = status is not None and status.held is not None
        reason, mend = ("", "") if status is None else trouble_of(status)
        return {
            "folder": str(folder.folder),
            "entity": syn(folder.entity),
            "path": "" if where is None else self.showing.shown(where),
            "since_at": format_time(folder.since_ns),
            "state": "stopped" if status is None else "held" if held else str(status.state),
            "files": None if status is None else status.files,
            "unsent": 0 if status is None else status.unsent + status.waiting,
            "problems": 0 if status is None else status.problem_count,
            "skipped": []
            if status is None
            else [
                {"path": str(folder.folder / one.path), "reason": one.why, "mend": one.hint}
                for one in status.problems
            ],
            "scanned_at": format_time(status.scanned_ns) if status and status.scanned_ns else None,
            "reason": reason,
            "mend": mend,
        }

    # What the others are given.

    async def _untrash(self, entity: EntityId) -> None:
        """Brings an entity back from the trash can, and has its folder listed again."""
        await self._tree.remote.restore(entity)
        row = await self._tree.detail(entity)
        if row.parent > 0 and self._tree.folders.is_listed(row.parent):
            await self._tree.list_folder(row.parent)

    async def _read_base(self, file: FileVersion) -> bytes:
        """The bytes of a small version, fetched if they are not here."""
        fd = self._streams.objects.open(file.key, file.size)
        if fd is None:
            await asyncio.wrap_future(self._streams.whole(file))
            fd = self._streams.objects.open(file.key, file.size)
        if fd is None:
            raise RemoteUnavailable(f"version {file.version} of {syn(file.entity)} is not here")
        return await asyncio.to_thread(_whole, fd)


def _number(id: str, what: str) -> int:
    if not id.isdecimal():
        raise NotFound(f"there is no {what} {id}")
    return int(id)


def _whole(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()
