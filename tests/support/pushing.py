"""Local changes, a service in memory, and the parts between them, with a clock that stands still.

The world is driven by hand: `settle` sends until nothing is left whose turn comes by itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from synd.cache.staging import Staging
from synd.client.remote import Remote
from synd.clock import NS
from synd.digest import md5_of_file
from synd.ids import EntityId
from synd.mirror.conflicts import Conflicts
from synd.mirror.curating import Curating
from synd.mirror.overlay import Delays, Overlay, Seen
from synd.mirror.push import Pusher, PushSettings
from synd.mirror.tree import Tree
from synd.mirror.waits import Waits
from synd.model import Kind
from synd.store.connect import Store
from synd.store.local import Local
from synd.testing import FakeClock, FakeRemote

T = TypeVar("T")
PATIENCE_S = 30.0
ROUNDS = 2000


class FakeFiles:
    """Staging files without a mount: what `synd.mirror.contents` is to the pusher."""

    def __init__(self, overlay: Overlay, staging: Staging) -> None:
        self._overlay = overlay
        self._staging = staging
        self.open_for_writing: set[int] = set()
        self.quiet = 0.0
        overlay.overwritten = self._recover
        overlay.unused = staging.remove
        overlay.opened = lambda staged: staged in self.open_staged
        self.open_staged: set[int] = set()

    def _recover(self, tx: Any, local: Local, reason: str) -> None:
        if not local.staged or local.size == 0:
            return
        file = self._staging.recover(local.staged, local.name.decode())
        self._overlay.locals.update(tx, local.id, staged=0)
        tx.execute(
            "INSERT INTO recovered (at_ns, path, reason, entity, file, size) VALUES (?, ?, ?, ?, ?, ?)",
            (1, self._overlay.path_text(local.key), reason, local.entity, file, local.size),
        )

    def writers(self, number: int) -> int:
        return int(number in self.open_for_writing)

    def quiet_s(self, number: int) -> float:
        return self.quiet

    def settle(self, number: int) -> bool:
        """The bytes are the service's from now on; here they are just let go."""
        local = self._overlay.locals.find(number)
        if local is None or not local.staged or local.gone or local.edit != local.sent:
            return False
        if local.entity is None or number in self.open_for_writing:
            return False
        with self._overlay.change() as tx:
            self._overlay.locals.update(tx, number, staged=0, stamp="")
        self._staging.remove(local.staged)
        return True


class World:
    """One machine's local changes over a service that others change too."""

    def __init__(
        self,
        root: Path,
        remote: FakeRemote,
        *,
        through: Remote | None = None,
        curating: Curating | None = None,
        **settings: Any,
    ) -> None:
        """`through`: the service as the pusher sees it, when that is not `remote` itself. `curating` makes
        versions of record sets.
        """
        self.curating = curating
        self.root = root
        self.remote = remote
        self.clock: FakeClock = remote.clock
        self.loop = asyncio.new_event_loop()
        self.store = Store(root / "state.db")
        self.staging = Staging(root / "staged", root / "recovered")
        self.events: list[tuple[str, Mapping[str, object]]] = []
        self.names: list[tuple[int, bytes]] = []
        self.settings = PushSettings(
            **{"probe_base_s": 0.001, "probe_cap_s": 0.002, "host": "here", **settings}
        )
        self.through: Any = through or remote
        self.tree = Tree(self.store, self.through, self.loop, Waits(), clock=self.clock)
        self.entities = self.tree.entities
        self.overlay = Overlay(self.store, self.entities, delays=Delays(2.0, 5.0), clock=self.clock)
        self.locals = self.overlay.locals
        self.files = FakeFiles(self.overlay, self.staging)
        self.pusher = self.new_pusher()
        self.pusher._start()
        self.conflicts = Conflicts(self.overlay, self.tree, self.through)

    def new_pusher(self) -> Pusher:
        return Pusher(
            overlay=self.overlay, files=self.files, staging=self.staging, tree=self.tree,
            remote=self.through, settings=self.settings, clock=self.clock, curating=self.curating,
            on_event=lambda kind, what: self.events.append((kind, what)),
            on_names=lambda folder, name: self.names.append((folder, name)),
        )  # fmt: skip

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, PATIENCE_S))

    def close(self) -> None:
        self.run(self.pusher.close())
        self.run(self.tree.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.store.close()

    def abandon(self) -> None:
        """Leaves all as a kill would; what the disk has is what is left."""
        # Those that end may begin another, to tidy up.
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=0.1))
        self.loop.run_until_complete(asyncio.to_thread(self.tree._writer.shutdown))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.pusher._hashers.shutdown()
        self.loop.close()
        self.store.close()

    # What the user sees and does.

    def list_all(self) -> None:
        """Lists every folder, as a user's look at them does."""

        async def work() -> None:
            waiting = [EntityId(0)]
            while waiting:
                folder = waiting.pop()
                await self.tree.list_folder(folder)
                for row in self.entities.children(folder):
                    if Kind(row.kind).is_container:
                        waiting.append(row.id)
                    elif not row.current:
                        await self.tree.detail(row.id)

        self.run(work())

    def seen(self, path: str) -> Seen:
        found = self.overlay.find_path(path.encode().split(b"/"))
        assert found is not None, path
        return found

    def _split(self, path: str) -> tuple[int, bytes]:
        folder, _, name = path.rpartition("/")
        return self.seen(folder).key, name.encode()

    def write(self, path: str, content: bytes) -> Local:
        """Makes a file, or saves another content into it."""
        found = self.overlay.find_path(path.encode().split(b"/"))
        if found is None:
            parent, name = self._split(path)
            local, _ = self.overlay.create_file(parent, name, mode=0o644, uid=0, gid=0)
        elif found.local is not None and found.local.staged:
            local = found.local
        else:
            with self.overlay.change() as tx:
                local = self.overlay.claim(tx, found)
                self.locals.update(tx, local.id, staged=self.locals.next_number(tx))
                if found.row is not None:
                    self.locals.update(
                        tx, local.id, base_version=found.row.version, base_etag=found.row.etag,
                        base_handle=found.row.handle, base_md5=found.row.md5,
                    )  # fmt: skip
                local = self.locals.get(local.id, tx)
        self.put(local.staged, content)
        self.saved(local)
        return self.locals.get(local.id)

    def put(self, staged: int, content: bytes) -> None:
        """Makes a staging file, or gives it other bytes."""
        fd = (
            self.staging.create(staged)
            if not self.staging.exists(staged)
            else self.staging.open(staged)
        )
        with os.fdopen(fd, "wb") as file:
            file.truncate(0)
            file.write(content)

    def saved(self, local: Local) -> None:
        """The staging file of a row was changed and closed."""
        path = self.staging.path(local.staged)
        at = self.staging.stamp(local.staged).mtime_ns + 1 + local.edit
        os.utime(path, ns=(at, at))
        stamp = self.staging.stamp(local.staged)
        with self.overlay.change() as tx:
            self.locals.update(
                tx, local.id, size=stamp.size, stamp=stamp.text(), edit=local.edit + 1
            )
            self.overlay.queue(tx, self.locals.get(local.id, tx), delay_s=2.0)

    def mkdir(self, path: str) -> Local:
        parent, name = self._split(path)
        return self.overlay.make_folder(parent, name, mode=0o755, uid=0, gid=0)

    def symlink(self, path: str, target: str) -> Local:
        parent, name = self._split(path)
        inside = self.overlay.leads_to(parent, target.encode()) is not None
        return self.overlay.make_symlink(
            parent, name, target.encode(), uid=0, gid=0, leads_inside=inside
        )

    def remove(self, path: str) -> None:
        self.overlay.remove(self.seen(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        parent, name = self._split(new)
        self.overlay.rename(self.seen(old), parent, name, flags=flags)

    def view(self) -> dict[str, object]:
        """Path → bytes (files whose bytes are here), or None (folders), as the mount would show it."""
        result: dict[str, object] = {}

        def walk(key: int, path: str) -> None:
            entity = self.overlay.entity_of(key)
            names: dict[bytes, Seen] = {}
            if entity is not None:
                for row in self.entities.children(entity):
                    if not self.overlay.hides(row):
                        names[row.file_name] = Seen(None, row)
            for local in self.locals.children(key):
                names[local.name] = Seen(local, None)
            for name, seen in names.items():
                here = f"{path}/{name.decode()}" if path else name.decode()
                known = seen.row or (
                    self.entities.find(seen.local.entity)
                    if seen.local is not None and seen.local.entity is not None
                    else None
                )
                full = Seen(seen.local, known)
                if full.is_folder:
                    result[here] = None
                    walk(full.key, here)
                elif full.local is not None and full.local.staged:
                    result[here] = self.staging.path(full.local.staged).read_bytes()
                elif known is not None and known.handle is not None:
                    result[here] = self.remote.content(known.handle)
                else:
                    result[here] = b""

        walk(0, "")
        return result

    # Sending.

    def step(self) -> None:
        """Begins with all whose turn it is, and waits until they have ended."""
        self.run(self._step())

    async def _step(self) -> None:
        await self.pusher.step()
        while self.pusher._tasks:
            await asyncio.wait(self.pusher._tasks.values())
            await asyncio.sleep(0)

    def settle(self, rounds: int | None = None) -> None:
        """Sends until nothing is left that waits for its time; the clock goes on meanwhile. With
        `rounds` no longer than that, as something may wait for what is blocked.
        """
        self.run(self._settle(rounds))

    async def _settle(self, rounds: int | None) -> None:
        idle = 0
        for _ in range(rounds or ROUNDS):
            await self._step()
            while self.pusher.problem is not None:  # noqa: ASYNC110 - the fake answers at once
                await asyncio.sleep(0.001)
            now = self.overlay.now_ns()
            if self.locals.ready(now, 1):
                continue
            at = self.pusher._outbox.next_at(now)
            if at is None and self.pusher._outbox.any_waits() and idle < 2:
                # What waits for another is looked at now and then.
                idle += 1
                self.clock.advance(61)
                continue
            if at is None:
                return
            self.clock.advance((at - now) / NS + 0.001)
        if rounds is None:
            raise AssertionError(f"it never settles: {self.locals.unsent(5)}")

    def server(self) -> dict[str, object]:
        """Path → bytes, or None for folders: what the service has."""
        result: dict[str, object] = {}

        def walk(parent: EntityId | None, path: str) -> None:
            for node in self.remote._below(parent):
                here = f"{path}/{node.name}" if path else node.name
                assert here not in result, here
                if node.kind in (Kind.PROJECT, Kind.FOLDER):
                    result[here] = None
                    walk(node.id, here)
                elif node.current.handle is not None:
                    result[here] = self.remote.content(node.current.handle)
                else:
                    result[here] = node.link

        walk(None, "")
        return result

    def id_of(self, path: str) -> EntityId:
        """The service's entity at a path."""
        at: EntityId | None = None
        for part in path.split("/"):
            node = self.remote._child(at, part)
            assert node is not None, path
            at = node.id
        assert at is not None
        return at

    def states(self) -> dict[str, str]:
        """Path → state of what is not clean."""
        return {self.overlay.path_text(r.key): r.state for r in self.locals.unsent()}


def md5(path: Path) -> str:
    return md5_of_file(path)
