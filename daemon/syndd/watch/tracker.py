"""Tracked folders: what the daemon starts, stops and asks. One thread does all the work, by turns."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from synd.clock import SYSTEM, Clock, Deadline
from synd.digest import md5_of_file
from synd.errors import Busy, NotFound, SyndError
from synd.ids import EntityId
from synd.log import fields
from synd.store.connect import Store
from synd.store.tracked import Options, RelPath, Root, Tracked, seen_of
from syndd.watch import places
from syndd.watch.engine import Engine, State, Status
from syndd.watch.own import OwnChanges
from syndd.watch.sink import Sink
from syndd.watch.source import InotifySource, Intake, Kind, Post, Raw, Source

log = logging.getLogger(__name__)

IDLE_S = 5.0
"""Longest wait of the thread: it looks after what no event tells."""

STOP_S = 10.0


class Tracker:
    """All tracked folders. Every method may be called from any thread.

    Lock order: `_lock` guards the table of engines; nothing is waited for while it is held.
    """

    def __init__(
        self,
        store: Store,
        sink: Sink,
        *,
        reserved: Sequence[tuple[str, Path]] = (),
        clock: Clock = SYSTEM,
        source: Callable[[Post], Source] = InotifySource,
        intake: Intake | None = None,
    ) -> None:
        """`reserved`: folders that must not be tracked, with what they are ("the mount", …)."""
        self.own = OwnChanges(clock)
        """Where the daemon says what it is about to change in tracked folders."""
        self._books = Tracked(store)
        self._sink = sink
        self._reserved = tuple(reserved)
        self._clock = clock
        self._intake = intake or Intake()
        self._source = source(self._intake.post)
        self._lock = threading.Lock()
        self._engines: dict[int, Engine] = {}
        self._commands: list[Callable[[], None]] = []
        self._unfinished = 0
        """Commands that were given and not carried out yet."""
        self._handled = 0
        """Up to this number of `Intake.posted` all events are where they belong."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="synd-track", daemon=True)

    def start(self) -> None:
        """Begins with a scan of each tracked folder, on the tracker's thread."""
        for root in self._books.roots():
            self._engines[root.id] = self._engine(root)
        self._thread.start()

    def stop(self, timeout_s: float = STOP_S) -> bool:
        """Ends the thread and all watches; what was not told yet is found at the next start. False when the
        sink did not return in time.
        """
        self._stopping.set()
        self._intake.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._source.close()
        return not self._thread.is_alive()

    def add(
        self, folder: str | os.PathLike[str], entity: EntityId, options: Options | None = None
    ) -> Root:
        """Tracks a folder from now on; what is in it is told first.

        Raises NotFound, Forbidden, Exists, and UsageError when it overlaps what must not be told twice.
        """
        path = places.resolve(folder)
        places.check(path, self._books.roots(), self._reserved)
        root = self._books.add(
            path, entity, os.stat(path), self._clock.now_ns(), options or Options()
        )
        with self._lock:
            self._engines[root.id] = self._engine(root)
        self._intake.wake()
        log.info("track.added", extra=fields(root=path, entity=entity))
        return root

    def remove(self, folder: str | os.PathLike[str]) -> Root:
        """Tracks a folder no more; nothing is deleted, here or there. Raises NotFound."""
        root = self._root(folder)
        # Once this is answered no call of the sink is about this root.
        self._on_thread(lambda: self._remove(root))
        log.info("track.removed", extra=fields(root=root.folder))
        return root

    def roots(self) -> list[Root]:
        """All tracked folders, in the order in which they were added."""
        return self._books.roots()

    def status(self, folder: str | os.PathLike[str] | None = None) -> list[Status]:
        """What each is up to, or the one that holds `folder`. Raises NotFound."""
        wanted = None if folder is None else self._root(folder).id
        with self._lock:
            engines = list(self._engines.values())
        return [e.status() for e in engines if wanted in (None, e.root.id)]

    def confirm(self, folder: str | os.PathLike[str]) -> None:
        """Says yes to the deletions that a scan of this folder holds. Raises NotFound."""
        id = self._root(folder).id
        self._later(lambda: self._engines[id].rescan(confirmed=True))

    def rescan(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Compares a folder, or all, with the books now. Raises NotFound."""
        wanted = None if folder is None else self._root(folder).id

        def scan() -> None:
            for engine in self._engines.values():
                if wanted in (None, engine.root.id):
                    engine.rescan()

        self._later(scan)

    def wait_settled(self, timeout_s: float) -> bool:
        """Whether all that was done in tracked folders before the call is told before the time has passed; what
        is not watched is scanned for that. Folders that are missing have nothing to wait for.
        """
        for status in self.status():
            if status.state is State.SCANNING:
                self.rescan(status.root.folder)
        deadline = Deadline.after(timeout_s, "tracked folders", self._clock)
        pause = threading.Event()
        if not self._source.sync(timeout_s):
            return False
        while not self.settled():
            if deadline.passed or self._stopping.is_set():
                return False
            pause.wait(0.05)
        return True

    def settled(self) -> bool:
        """Whether nothing waits to be told."""
        with self._lock:
            if self._unfinished or self._handled != self._intake.posted:
                return False
        return all(status.settled or status.state is State.MISSING for status in self.status())

    def find(self, path: str | os.PathLike[str]) -> tuple[Root, RelPath] | None:
        """The tracked folder that `path` lies in, and where in it; None when it lies in none."""
        parent, name = os.path.split(os.path.abspath(path))
        absolute = Path(os.path.realpath(parent), name)
        for root in self._books.roots():
            if absolute.is_relative_to(root.folder):
                return root, absolute.relative_to(root.folder).parts
        return None

    def record(self, path: str | os.PathLike[str]) -> None:
        """What the daemon wrote at `path` is known to the service already: it is no change to be told. To be
        called inside `own.changing(path)`. Raises NotFound when it lies in no tracked folder or is not there.
        """
        found = self.find(path)
        if found is None or not found[1]:
            raise NotFound(f"{os.fspath(path)} lies in no tracked folder", path=os.fspath(path))
        root, relative = found
        try:
            noted_ns = self._clock.now_ns()
            stat = os.lstat(root.path(relative))
            folder = os.path.isdir(root.path(relative))
            seen = seen_of(stat, folder=folder, noted_ns=noted_ns)
            if not folder:
                seen = seen._replace(md5=md5_of_file(root.path(relative)))
        except OSError as error:
            raise NotFound(f"{os.fspath(path)}: {error.strerror}", path=os.fspath(path)) from error
        self._books.note(root.id, [(relative, seen)])

    # On the thread.

    def _run(self) -> None:
        due = self._clock.monotonic()
        while not self._stopping.is_set():
            own_s = self.own.next_s()
            wait_s = min(due - self._clock.monotonic(), IDLE_S if own_s is None else own_s)
            last, raws = self._intake.take(wait_s)
            with self._lock:
                commands, self._commands = self._commands, []
                engines = list(self._engines.values())
            for command in commands:
                command()
            self._dispatch(last, raws, engines)
            with self._lock:
                self._unfinished -= len(commands)
                self._handled = last
            idle = self._clock.monotonic() + IDLE_S
            due = min(idle, *(self._tick(e) for e in self._living(engines)), idle)
        for engine in self._living(list(self._engines.values())):
            with contextlib.suppress(SyndError, OSError):
                engine.close()

    def _dispatch(self, last: int, raws: list[Raw], engines: list[Engine]) -> None:
        if not self._source.alive():
            log.warning("watch.reader_died", extra=fields(roots=len(engines)))
            for engine in engines:
                engine.unwatched()
            return
        number = last - len(raws)
        for raw in raws:
            number += 1
            for engine in engines:
                if raw.kind is Kind.OVERFLOW:
                    engine.overflow()
                else:
                    engine.take(raw, number)
        for path in self.own.over():
            for engine in engines:
                if path.is_relative_to(engine.root.folder):
                    engine.look(path.relative_to(engine.root.folder).parts)

    def _tick(self, engine: Engine) -> float:
        try:
            return engine.tick()
        except Exception:
            # A full disk under the books, say: this root is tried again, the others go on.
            log.exception("track.failed", extra=fields(root=engine.root.folder))
            engine.overflow(IDLE_S)
            return self._clock.monotonic() + IDLE_S

    def _living(self, engines: list[Engine]) -> list[Engine]:
        with self._lock:
            return [e for e in engines if e.root.id in self._engines]

    def _remove(self, root: Root) -> None:
        with self._lock:
            engine = self._engines.pop(root.id, None)
        if engine is not None:
            engine.close()
        self._books.remove(root.id)

    # Small things.

    def _engine(self, root: Root) -> Engine:
        return Engine(
            root,
            self._books,
            self._sink,
            self._source,
            self.own,
            self._clock,
            self._stopping.is_set,
            lambda: self._intake.posted,
        )

    def _root(self, folder: str | os.PathLike[str]) -> Root:
        path = Path(os.path.realpath(folder))
        for root in self._books.roots():
            if root.folder in (path, Path(os.path.abspath(folder))):
                return root
        raise NotFound(
            f"{os.fspath(folder)} is not tracked",
            hint="`synd tracked` lists what is",
            path=os.fspath(folder),
        )

    def _later(self, command: Callable[[], None]) -> None:
        with self._lock:
            self._commands.append(command)
            self._unfinished += 1
        self._intake.wake()

    def _on_thread(self, command: Callable[[], None], timeout_s: float = STOP_S) -> None:
        """Has the tracker's thread do it, and waits. Raises Busy when it does not come to it."""
        if not self._thread.is_alive():
            command()
            return
        done: Future[None] = Future()

        def do() -> None:
            try:
                command()
            except BaseException as error:  # noqa: BLE001 (the caller gets it)
                done.set_exception(error)
            else:
                done.set_result(None)

        self._later(do)
        try:
            done.result(timeout_s)
        except TimeoutError as error:
            raise Busy(
                "the tracker is busy with a large file", hint="it is done as soon as that is taken"
            ) from error
