"""Sending local changes: whose turn it is, how many at once, and what happens when the service does not.

`plan` decides the next step of one row, `sending` takes it, `recording` writes down what came of it.
Here is the queue over them: a window of rows in memory, however many wait; failures that wait and are
tried again by themselves; being offline, where one probe asks instead of all rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from socket import gethostname
from sqlite3 import Connection
from typing import NamedTuple

from synd.cache.staging import Staging
from synd.client.remote import Remote, background
from synd.clock import NS, SYSTEM, Clock, Deadline
from synd.errors import (
    Forbidden,
    NameTooLong,
    NotLoggedIn,
    NotSupported,
    Offline,
    QuotaExceeded,
    RateLimited,
    RemoteUnavailable,
    SyndError,
    UsageError,
)
from synd.log import fields
from synd.mirror.conflicts import News, Sides
from synd.mirror.curating import Curating, Recorder
from synd.mirror.deleting import Deletes
from synd.mirror.following import catch_up
from synd.mirror.holds import Holds
from synd.mirror.outgoing import Bytes
from synd.mirror.overlay import Overlay
from synd.mirror.plan import Mode, attempted
from synd.mirror.reach import Reach
from synd.mirror.recording import Records
from synd.mirror.sending import Sender
from synd.mirror.steps import Done, Files, Later, Tools
from synd.mirror.tree import Tree
from synd.mirror.writes import Writes
from synd.model import Kind
from synd.store.local import Local
from synd.store.outbox import Outbox

log = logging.getLogger(__name__)

OnEvent = Callable[[str, Mapping[str, object]], None]

_REFUSED = (Forbidden, UsageError, NotSupported, NameTooLong)
"""What trying again does not mend: the row is blocked until it changes or somebody asks."""

_UNREACHABLE_AFTER = 3
"""So many failures to reach the service in a row count as being offline."""

_WAKE_PARKED_EVERY_S = 60.0
_LOOK_AT_WAITERS_EVERY_S = 1.0
_SLEEP_MAX_S = 30.0


@dataclass(frozen=True, slots=True)
class PushSettings:
    """How changes are sent; the names are those of the configuration."""

    conflicts: Mode = Mode.KEEP_BOTH
    every_save: bool = False
    """Each save is a version of its own; else the latest content only."""
    uploads_at_once: int = 32
    large_at_once: int = 4
    large_bytes: int = 8 << 20
    upload_delay_s: float = 2.0
    quiet_s: float = 30.0
    delete_hold_count: int = 100
    delete_hold_percent: int = 50
    delete_hold_window_s: float = 60.0
    retry_base_s: float = 1.0
    retry_cap_s: float = 300.0
    quota_wait_s: float = 600.0
    probe_base_s: float = 1.0
    probe_cap_s: float = 30.0
    login_wait_s: float = 60.0
    host: str = ""
    """Names this machine in conflict copies; empty: its host name."""


class Progress(NamedTuple):
    """One row on its way to the service."""

    number: int
    sent_bytes: int
    total_bytes: int
    since_ns: int


class Pusher:
    """Sends the rows that wait. On the daemon's loop, but for what says otherwise."""

    def __init__(
        self,
        *,
        overlay: Overlay,
        files: Files,
        staging: Staging,
        tree: Tree,
        remote: Remote,
        settings: PushSettings,
        curating: Curating | None = None,
        clock: Clock = SYSTEM,
        on_event: OnEvent = lambda _kind, _fields: None,
        on_names: Callable[[int, bytes], None] = lambda _folder, _name: None,
    ) -> None:
        """`curating` makes versions of record sets. `on_event` hears of kinds edit (number), conflict (number), sent, held, offline, online and
        paused; `on_names` of names that lead elsewhere now. Both on the loop; they must not block.
        """
        self._overlay = overlay
        self._locals = overlay.locals
        self._files = files
        self._tree = tree
        self._remote = remote
        self._settings = settings
        self._clock = clock
        self._on_event = on_event
        self._on_names = on_names
        self._outbox = Outbox(overlay.store)
        self._hashers = ThreadPoolExecutor(2, thread_name_prefix="hash")
        self._holds = Holds(
            overlay.entities, self._outbox, clock,
            count=settings.delete_hold_count, percent=settings.delete_hold_percent,
            window_s=settings.delete_hold_window_s,
        )  # fmt: skip
        sides = Sides(overlay, host=settings.host or gethostname())
        self._writes = Writes(overlay, tree, self._tell_news)
        self._records = Records(overlay, sides, self._outbox, settings.conflicts)
        tools = Tools(
            overlay,
            staging,
            tree,
            remote,
            self._records,
            sides,
            self._outbox,
            self._writes.record,
        )
        content = Bytes(
            tools, self._hashers,
            delay_s=settings.upload_delay_s, progress=self._note_progress,
        )  # fmt: skip
        self._sender = Sender(
            tools,
            files,
            content,
            Deletes(tools, self._note_deleted),
            Recorder(tools, content, curating, delay_s=settings.upload_delay_s),
            every_save=settings.every_save,
            quiet_s=settings.quiet_s,
        )  # fmt: skip
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awake = asyncio.Event()
        self._woken = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._entities_busy: dict[int, int | None] = {}
        self._large: set[int] = set()
        self._progress: dict[int, Progress] = {}
        self._progress_lock = threading.Lock()
        self._waiters: dict[int, set[int]] = {}
        """Row → rows that wait for it to get out of the way."""
        self._asked: set[int] = set()
        """Rows that are sent although sending is paused."""
        self._unreachable = 0
        self._unpark_at = 0.0
        self.paused = False
        """By the user: nothing new is sent."""
        self._reach = Reach(
            remote, clock,
            base_s=settings.probe_base_s, cap_s=settings.probe_cap_s,
            login_s=settings.login_wait_s, on_change=self._reached,
        )  # fmt: skip

    @property
    def problem(self) -> SyndError | None:
        """What keeps everything from being sent: no login, no service. None: nothing does."""
        return self._reach.problem

    @property
    def offline_since_ns(self) -> int:
        """UTC ns; 0: the service answers."""
        return self._reach.offline_since_ns

    def _reached(self, problem: SyndError | None) -> None:
        if problem is not None:
            log.info("push.halted", extra=fields(why=problem.message))
            self._tell("offline", {"why": problem.message})
            return
        self._unreachable = 0
        self._tell("online", {})
        self._awake.set()

    # Control. Any thread, but for `drain` and `close`.

    def wake(self) -> None:
        """There may be something to send."""
        loop = self._loop
        if loop is not None and not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._awake.set)

    def pause(self) -> None:
        """What is under way goes on; nothing new is begun."""
        self.paused = True
        self._on_event("paused", {"paused": True})

    def resume(self) -> None:
        """Ends a pause, also one for lack of a login."""
        self.paused = False
        self._asked.clear()
        self._reach.forget_login()
        self._on_event("paused", {"paused": False})
        self.wake()

    def push_now(self, numbers: Collection[int] | None = None) -> None:
        """Ends the delays of these rows, or of all; they are sent during a pause, too. Waits for the store."""
        with self._overlay.change() as tx:
            now = self._overlay.now_ns()
            if numbers is None:
                self._outbox.wake_all(tx, now)
            wanted = set(numbers or ())
            for number in numbers or ():
                self._outbox.hurry(tx, number, now)
                wanted |= self._folders_above(tx, number)
        if self.paused:
            self._asked |= wanted if numbers is not None else set(self._outbox.waiting())
        self.wake()

    def _folders_above(self, tx: Connection, number: int) -> set[int]:
        """Rows of the folders that must be made before a row is sent."""
        found: set[int] = set()
        row = self._locals.find(number, tx)
        while row is not None and (row := self._locals.of_key(row.parent, tx)) is not None:
            if row.id in found or row.entity is not None:
                break
            found.add(row.id)
            self._outbox.hurry(tx, row.id, self._overlay.now_ns())
        return found

    def approve(self, numbers: Collection[int] | None = None) -> int:
        """Lets held deletes go: these, or all; how many. Waits for the store."""
        with self._overlay.change() as tx:
            now = self._overlay.now_ns()
            if numbers is None:
                done = self._outbox.approve(tx, None, now)
            else:
                done = sum(self._outbox.approve(tx, number, now) for number in numbers)
        self.wake()
        return done

    def retry_blocked(self, numbers: Collection[int] | None = None) -> None:
        """Tries again what is blocked: these rows, or all. Waits for the store."""
        with self._overlay.change() as tx:
            now = self._overlay.now_ns()
            if numbers is None:
                self._outbox.unblock(tx, None, now)
            for number in numbers or ():
                self._outbox.unblock(tx, number, now)
        self.wake()

    def sending(self) -> list[Progress]:
        """What is under way."""
        with self._progress_lock:
            return list(self._progress.values())

    async def drain(self, timeout_s: float) -> bool:
        """Sends what can be sent within the time, without delays; whether nothing waits any more.

        During a pause nothing is begun: that is for `resume` to say.
        """
        deadline = Deadline.after(timeout_s, "sending local changes")
        if not self.paused:
            self.push_now()
        while self._outbox.any_waits() or self._tasks:
            if deadline.passed or self.paused or self.problem is not None:
                return False
            await self._quiet(min(0.05, deadline.left_s()))
        return True

    async def _quiet(self, seconds: float) -> None:
        """Waits for the next row that ends, or that long."""
        if self._tasks:
            await asyncio.wait(
                self._tasks.values(), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        await asyncio.sleep(seconds if not self._tasks else 0)

    # The loop.

    async def run(self) -> None:
        """Sends for ever; ends when cancelled. What was under way is done again next time."""
        self._loop = asyncio.get_running_loop()
        self._overlay.on_queued = self.wake
        await self._tree.in_writer(self._start)
        try:
            while True:
                self._woken = False
                self._awake.clear()
                try:
                    await self.step()
                except SyndError as error:
                    log.warning("push.failed", extra=fields(why=error.message))
                except Exception:
                    log.exception("push.broken")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._awake.wait(), self._sleep_s())
        finally:
            await self.close()

    def _start(self) -> None:
        with self._overlay.change() as tx:
            now = self._overlay.now_ns()
            # Who waited for another row, or for the service, would be woken by what only the former
            # process knew; what may still be changed goes on waiting.
            longest_ns = round(max(self._overlay.delays) * NS)
            self._outbox.wake_all(tx, now, over_ns=longest_ns)
            for link in self._outbox.links_at_rest(tx):
                self._overlay.queue(tx, link)
            for row in self._outbox.left_over(tx):
                if attempted(row) is not None:
                    # Killed while it was made, removed before or after: what was made goes too.
                    self._locals.update(tx, row.id, state="waiting", not_before_ns=now)
                else:
                    self._overlay.drop_if_over(tx, row)
        catch_up(self._overlay)

    async def close(self) -> None:
        """Ends what is under way."""
        self._overlay.on_queued = lambda: None
        await self._reach.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._writes.close()
        self._loop = None
        self._hashers.shutdown(wait=False, cancel_futures=True)

    def _sleep_s(self) -> float:
        if self.problem is not None or (self.paused and not self._asked):
            return _SLEEP_MAX_S
        now = self._overlay.now_ns()
        at = self._outbox.next_at(now)
        longest = _LOOK_AT_WAITERS_EVERY_S if self._waiters else _SLEEP_MAX_S
        return longest if at is None else min(longest, max(0.01, (at - now) / NS))

    async def step(self) -> int:
        """Begins with what can be begun; how many rows."""
        self._loop = asyncio.get_running_loop()
        if self.problem is not None or (self.paused and not self._asked):
            return 0
        begun = 0
        while (free := self._settings.uploads_at_once - len(self._tasks)) > 0:
            busy = dict(self._entities_busy)
            large = self._settings.large_at_once - len(self._large)
            rows = await self._tree.in_writer(partial(self._take, free, busy, large))
            for row in rows:
                self._begin(row)
            begun += len(rows)
            if not rows:
                break
        return begun

    def _take(self, free: int, busy: Mapping[int, int | None], large: int) -> list[Local]:
        """Rows whose turn it is, marked as being sent. In the writer's thread."""
        settings = self._settings
        with self._overlay.change() as tx:
            now, monotonic = self._overlay.now_ns(), self._clock.monotonic()
            if monotonic >= self._unpark_at:
                self._unpark_at = monotonic + _WAKE_PARKED_EVERY_S
                self._outbox.wake_parked(tx, now)
            self._wake_waiters(tx, now)
            without = set(busy) | self._outbox.heirs(tx, busy)
            rows = self._outbox.ready(
                tx, now, free, without=without,
                among=self._asked if self.paused else None,
                below_bytes=settings.large_bytes if large <= 0 else None,
            )  # fmt: skip
            if any(row.gone and row.entity is not None for row in rows) and (
                held := self._holds.check(tx)
            ):
                log.info("push.held", extra=fields(deletes=held))
                if self._loop is not None:
                    self._loop.call_soon_threadsafe(self._tell, "held", {"deletes": held})
                rows = [r for r in rows if (now_row := self._locals.find(r.id, tx)) is not None
                        and now_row.state == "waiting"]  # fmt: skip
            taken: list[Local] = []
            entities = {e for e in busy.values() if e is not None}
            for row in rows:
                if row.entity is not None and row.entity in entities:
                    continue
                if self._is_large(row):
                    if large <= 0:
                        continue
                    large -= 1
                self._overlay.sending.add(row.id)
                taken.append(row)
        return taken

    def _wake_waiters(self, tx: Connection, now_ns: int) -> None:
        """Who waits for a row that was removed before it was sent waits for nothing, but for what may replace it."""
        soon = now_ns + round(self._overlay.delays.delete_s * NS)
        for number in list(self._waiters):
            row = self._locals.find(number, tx)
            if row is None or (row.gone and row.entity is None):
                for waiter in self._waiters.pop(number, ()):
                    self._outbox.hurry(tx, waiter, soon)

    def _is_large(self, row: Local) -> bool:
        return row.unsent_bytes and not row.gone and row.size >= self._settings.large_bytes

    def _begin(self, row: Local) -> None:
        self._entities_busy[row.id] = row.entity
        if self._is_large(row):
            self._large.add(row.id)
        with self._progress_lock:
            # Of a record set there are no bytes to be counted.
            counted = row.unsent_bytes and not row.gone and not self._is_record_set(row)
            total = row.size if counted else 0
            self._progress[row.id] = Progress(row.id, 0, total, self._overlay.now_ns())
        task = asyncio.get_running_loop().create_task(self._send(row), name=f"send-{row.id}")
        self._tasks[row.id] = task

    def _is_record_set(self, row: Local) -> bool:
        return row.entity is not None and self._records.rules_of(row).kind is Kind.RECORD_SET

    async def _send(self, row: Local) -> None:
        done = Done("")
        try:
            with background():
                done = await self._sender.send(row.id)
            if done.action not in ("", "blocked"):
                self._unreachable = 0
        except Later as wait:
            await self._later(row, wait)
        except SyndError as error:
            await self._failed(row, error)
        except Exception:
            log.exception("push.broken", extra=fields(local=row.id))
            await self._failed(row, SyndError("sending it failed in a way that nobody foresaw"))
        finally:
            # A shield: a cancelled row must not look busy for ever to who shares the overlay.
            await asyncio.shield(self._end(row, done))

    async def _end(self, row: Local, done: Done) -> None:
        try:
            await self._writes.record(partial(self._release, number=row.id))
            if done.content:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._hashers, self._settle, row.id)
        except SyndError as error:
            log.warning("push.not_ended", extra=fields(local=row.id, why=error.message))
        finally:
            self._tasks.pop(row.id, None)
            if done.action:
                self._asked.discard(row.id)
            self._entities_busy.pop(row.id, None)
            self._large.discard(row.id)
            with self._progress_lock:
                self._progress.pop(row.id, None)
        if done.action:
            self._tell("sent" if done.action != "blocked" else "blocked", {
                "number": row.id, "action": done.action, "entity": done.entity,
            })  # fmt: skip
        self._tell("edit", {"number": row.id})
        self._awake.set()

    def _release(self, tx: Connection, *, number: int) -> None:
        self._overlay.sending.discard(number)
        row = self._locals.find(number, tx)
        if row is not None:
            self._overlay.drop_if_over(tx, row)
            row = self._locals.find(number, tx)
        if row is None or row.state == "clean":
            for loser in self._outbox.losers(number):
                # What it had sent before it was replaced is known by now.
                self._overlay.drop_if_over(tx, loser)
        if row is None or row.state != "waiting":
            for waiter in self._waiters.pop(number, ()):
                self._outbox.hurry(tx, waiter, self._overlay.now_ns())

    def _settle(self, number: int) -> None:
        try:
            self._files.settle(number)
        except SyndError as error:
            log.info("push.not_settled", extra=fields(local=number, why=error.message))

    # Failures.

    async def _later(self, row: Local, wait: Later) -> None:
        if wait.wait_for:
            self._waiters.setdefault(wait.wait_for, set()).add(row.id)
        await self._writes.record(partial(self._wait, number=row.id, wait=wait))

    def _wait(self, tx: Connection, *, number: int, wait: Later) -> None:
        delay_ns = round(wait.seconds * NS)
        if wait.wait_for and wait.wait_for not in self._overlay.sending:
            other = self._locals.find(wait.wait_for, tx)
            if other is None or other.state == "clean":
                # It has got out of the way just now.
                delay_ns = 0
        if wait.while_open and not self._files.writers(number):
            # Closed since it was looked at; who closes it later finds it waiting (`Contents.released`).
            delay_ns = 0
        self._records.later(tx, number, delay_ns)

    def _put_off(
        self, tx: Connection, *, number: int, delay_ns: int, error: SyndError | None = None
    ) -> None:
        self._records.later(tx, number, delay_ns, error)

    async def _failed(self, row: Local, error: SyndError) -> None:
        """A row that could not be sent: blocked, or tried again later."""
        log.info(
            "push.row_failed",
            extra=fields(local=row.id, error=type(error).__name__, why=error.message),
        )
        if isinstance(error, _REFUSED):
            await self._writes.record(partial(self._block, row=row, error=error))
            return
        settings = self._settings
        if isinstance(error, NotLoggedIn):
            self._reach.lost(error)
            delay = 0.0
        elif isinstance(error, RemoteUnavailable):
            self._unreachable += 1
            if isinstance(error, Offline) or self._unreachable >= _UNREACHABLE_AFTER:
                self._reach.lost(error)
            delay = 0.0 if isinstance(error, Offline) else self._backoff(row)
        elif isinstance(error, QuotaExceeded):
            delay = settings.quota_wait_s * random.uniform(0.75, 1.25)
        elif isinstance(error, RateLimited):
            delay = max(self._backoff(row), settings.retry_base_s * 5)
        else:
            delay = self._backoff(row)
        await self._writes.record(
            partial(self._put_off, number=row.id, delay_ns=round(delay * NS), error=error)
        )

    def _block(self, tx: Connection, *, row: Local, error: SyndError) -> None:
        now = self._locals.find(row.id, tx)
        if now is None or now.state != "waiting":
            return
        if not self._records.block(tx, row._replace(entity=now.entity), error.problem()):
            self._records.later(tx, row.id, 0)

    def _backoff(self, row: Local) -> float:
        settings = self._settings
        now = self._locals.find(row.id)
        tries = min(30, now.tries if now is not None else 0)
        wait = min(settings.retry_cap_s, settings.retry_base_s * 2.0**tries)
        return wait * random.uniform(0.5, 1.5)

    # Told by others.

    def _note_progress(self, number: int, done: int, total: int) -> None:
        """Any thread."""
        with self._progress_lock:
            known = self._progress.get(number)
            if known is not None:
                self._progress[number] = known._replace(sent_bytes=done, total_bytes=total)

    def _note_deleted(self, row: Local) -> None:
        if row.heir != row.id:
            self._holds.sent(row.base_parent)

    def _tell(self, kind: str, what: Mapping[str, object]) -> None:
        self._on_event(kind, what)

    def _tell_news(self, news: News) -> None:
        self._tree.tell(news.changes)
        for folder, name in news.names:
            self._on_names(folder, name)
        for number in news.conflicts:
            log.info("conflict", extra=fields(conflict=number))
            self._tell("conflict", {"number": number})
