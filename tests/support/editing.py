"""A machine with a writable mount, at the filesystem's Python interface: the daemon's parts over one state
folder, ended and started anew at will, and a service that halts where a test likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synd.clock import NS
from synd.ids import EntityId, FileHandleId
from synd.mirror.overlay import DELAYS, Delays
from synd.mirror.push import Pusher, PushSettings
from synd.model import Entity, Kind
from synd.paths import from_entity_name
from synd.store.local import Local
from synd.testing import FakeRemote
from tests.support.parts import Parts
from tests.support.small_kernel import Kernel

ROUNDS = 500


class HaltingRemote(FakeRemote):
    """A service that halts changes for as long as a test likes, before they are made or before the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.halts: dict[tuple[str, bool], asyncio.Event] = {}
        """(call, whether it is carried out first) → set when it goes on."""
        self.halted = 0

    async def _through(self, call: str, work: Any) -> Any:
        for done in (False, True):
            event = self.halts.get((call, done))
            if event is not None:
                self.halted += 1
                try:
                    await event.wait()
                finally:
                    self.halted -= 1
            if not done:
                answer = await work()
        return answer

    async def upload(self, *args: Any, **more: Any) -> FileHandleId:
        found: FileHandleId = await self._through(
            "upload", lambda: FakeRemote.upload(self, *args, **more)
        )
        return found

    async def create(self, *args: Any, **more: Any) -> Entity:
        found: Entity = await self._through(
            "create", lambda: FakeRemote.create(self, *args, **more)
        )
        return found

    async def update(self, *args: Any, **more: Any) -> Entity:
        found: Entity = await self._through(
            "update", lambda: FakeRemote.update(self, *args, **more)
        )
        return found

    async def delete(self, *args: Any, **more: Any) -> None:
        await self._through("delete", lambda: FakeRemote.delete(self, *args, **more))


class Machine:
    """One machine's daemon over a service, its clock standing still between two steps."""

    def __init__(
        self,
        root: Path,
        remote: HaltingRemote,
        *,
        remembers: bool = True,
        lazy_from_bytes: int = 64 << 20,
        delays: Delays = DELAYS,
        **settings: Any,
    ) -> None:
        """`settings` are those of `PushSettings`."""
        self._root = root
        self.remote = remote
        self._remembers = remembers
        self._lazy_from_bytes = lazy_from_bytes
        self._delays = delays
        self._settings = PushSettings(
            **{
                "probe_base_s": 0.001, "probe_cap_s": 0.002, "retry_base_s": 0.5, "host": "here",
                "delete_hold_percent": 100, "uploads_at_once": 4, **settings,
            }
        )  # fmt: skip
        self.kernel = self._build(None)

    def _build(self, kernel: Kernel | None) -> Kernel:
        remote = self.remote
        parts = self.parts = Parts(
            self._root, remote, clock=remote.clock, connections=4, hold_s=20.0, delays=self._delays,
            lazy_from_bytes=self._lazy_from_bytes,
        )  # fmt: skip
        self.overlay, self.contents = parts.overlay, parts.contents
        self.locals = self.overlay.locals
        self.contents.prepare()
        if kernel is None:
            kernel = Kernel(parts.fs, parts.told, remembers=self._remembers)
            self.overlay.start_anew()
        else:
            kernel.resume(parts.fs, parts.told)
        self.contents.start()
        self.pusher: Pusher = parts.call(self._new_pusher)
        parts.run(parts.tree.in_writer(self.pusher._start))
        return kernel

    def _new_pusher(self) -> Pusher:
        parts = self.parts
        return Pusher(
            overlay=self.overlay, files=self.contents, staging=self.parts.staging,
            tree=parts.tree, remote=self.remote, settings=self._settings, clock=self.remote.clock,
            on_names=parts.fs.name_changed,
        )  # fmt: skip

    # Its lives.

    def close(self) -> None:
        self.go_on()
        self._end(killed=False)
        self.kernel.drop()

    def restart(self, *, killed: bool, unmounted: bool) -> None:
        """Another daemon on the same state. `killed`: what was being sent stays where it was;
        `unmounted`: programs with open files ended with the mount.
        """
        if not killed:
            self.go_on()
        self._end(killed=killed)
        self.remote.halts.clear()
        if unmounted:
            self.kernel.drop()
            self.kernel = self._build(None)
        else:
            self.kernel = self._build(self.kernel)

    def _end(self, *, killed: bool) -> None:
        if killed:
            self.parts.run(_cancel_all())
        self.parts.run(self.pusher.close())
        self.parts.close()

    # Sending.

    def halt(self, call: str, *, done: bool) -> None:
        self.remote.halts.setdefault((call, done), asyncio.Event())

    def go_on(self) -> None:
        """Ends all halts, and waits for what they kept."""
        events = list(self.remote.halts.values())
        self.remote.halts.clear()
        self.parts.run(_set_all(events))
        self.parts.run(self._step(begin=False))

    def step(self) -> None:
        """Begins with all whose turn it is, and waits until each has ended or halts."""
        self.parts.run(self._step())

    async def _step(self, *, begin: bool = True) -> None:
        if begin:
            await self.pusher.step()
        while len(self.pusher._tasks) > self.remote.halted:  # noqa: ASYNC110 - or it halts
            await asyncio.sleep(0.0005)

    def settle(self) -> None:
        """Sends until nothing is left that waits for its time; the clock goes on meanwhile."""
        self.parts.run(self._settle())

    async def _settle(self) -> None:
        clock, outbox, idle = self.remote.clock, self.pusher._outbox, 0
        for _ in range(ROUNDS):
            await self._step()
            while self.pusher.problem is not None:  # noqa: ASYNC110 - the fake answers at once
                await asyncio.sleep(0.001)
            while any(self._is_filling(r) for r in self.locals.unsent()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            now = self.overlay.now_ns()
            if self.locals.ready(now, 1):
                continue
            at = outbox.next_at(now)
            if at is None and outbox.any_waits() and idle < 2:
                # What waits for another is looked at now and then.
                idle += 1
                clock.advance(61)
                continue
            if at is None:
                return
            clock.advance((at - now) / NS + 0.001)
        raise AssertionError(f"it never settles: {self.locals.unsent(5)}")

    def _is_filling(self, row: Local) -> bool:
        return bool(row.lazy and row.edit > row.sent and row.state == "waiting" and not row.gone)

    def rest(self) -> None:
        """Nobody has used anything for a while: what was sent becomes cache objects."""
        for row in list(self.locals.all()):
            if row.staged:
                self.contents._settling.settle_now(row.id)

    def poll(self) -> None:
        """Asks the service about every folder that was ever looked into."""
        self.parts.poll()

    # Looking.

    def seen_bytes(self, path: str) -> bytes:
        """The bytes that a path stands for here, without reading them through the mount if possible."""
        seen = self.overlay.find_path(path.encode().split(b"/"))
        if (
            seen is not None
            and seen.local is not None
            and seen.local.staged
            and not seen.local.lazy
        ):
            return self.parts.staging.path(seen.local.staged).read_bytes()
        staged = seen is not None and seen.local is not None and seen.local.staged
        if seen is not None and seen.row is not None and not staged:
            found = self._version(seen.row.id, seen.row.version)
            if found:
                return found
        return self.kernel.content(path)

    def is_edited(self, path: str) -> bool:
        """Whether a path's bytes are in a staging file."""
        seen = self.overlay.find_path(path.encode().split(b"/"))
        return seen is not None and seen.local is not None and seen.local.staged > 0

    def entity_at(self, path: str) -> EntityId | None:
        """The entity that a path leads to here, as far as is known."""
        seen = self.overlay.find_path(path.encode().split(b"/"))
        return None if seen is None else seen.entity

    def base_bytes(self, entity: EntityId | None) -> bytes:
        """What our change of an entity is based on; empty when there is none."""
        local = None if entity is None else self.locals.of_entity(entity)
        return b"" if local is None else self._version(local.entity, local.base_version)

    def _version(self, entity: EntityId | None, number: int) -> bytes:
        revisions = [] if entity is None else self.remote._nodes[entity].revisions
        for revision in revisions:
            if revision.number == number and revision.handle is not None:
                return self.remote.content(revision.handle) or b""
        return b""

    def recovered(self) -> set[bytes]:
        """What the recovery area holds."""
        staging = self.parts.staging
        return {staging.recovered_path(name).read_bytes() for name in staging.recovered_names()}

    def server(self) -> dict[str, object]:
        """What the service has: path as the mount spells it → bytes, or None for folders."""
        return dict(self._below(None, ""))

    def _below(self, parent: EntityId | None, path: str) -> Iterator[tuple[str, object]]:
        for node in self.remote._below(parent):
            given = from_entity_name(node.name)
            name = node.name if given is None else given.decode()
            here = f"{path}/{name}" if path else name
            if node.kind in (Kind.PROJECT, Kind.FOLDER):
                yield here, None
                yield from self._below(node.id, here)
            else:
                handle = node.current.handle
                yield here, b"" if handle is None else self.remote.content(handle)

    def entity(self, path: str) -> EntityId:
        """The service's entity at a path as the mount spells it."""
        at: EntityId | None = None
        for part in path.split("/"):
            (at,) = [
                n.id for n in self.remote._below(at)
                if part in (n.name, (from_entity_name(n.name) or b"\xff").decode(errors="replace"))
            ]  # fmt: skip
        assert at is not None
        return at


async def _set_all(events: list[asyncio.Event]) -> None:
    for event in events:
        event.set()


async def _cancel_all() -> None:
    """Ends everything where it stands."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
