"""The daemon's life: starting → ready → draining → stopped, signals, start order, stop order, deadline.

Each thing that is started pushes how it ends on one stack; stopping is that stack unwound under one
deadline. The order: instance lock, control socket and loopback listener (bound: callers queue), control API,
app (the mount).
The API answers only after the app has started, so that the mount answers first; and it ends after
the app, so that `synd status` can watch a drain.

SIGTERM or SIGINT asks to stop, and unmounts; a second one insists and skips the waits. SIGHUP asks to
stop but leaves the mount to the holder (or the manager's descriptor store), and ends with a code that
makes those start the daemon again: an upgrade under a live mount.
Leaves to `syndd.app` what a daemon consists of.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from synd.clock import Deadline, format_time
from synd.config import Config, Folders
from synd.control import contract
from synd.errors import InvalidTransition, SyndError
from synd.log import fields
from syndd.control.loopback import Loopback, listening
from syndd.control.services import DaemonServices
from syndd.instance import control_socket, instance_lock, make_folders, report_startup
from syndd.notify import Notifier

if TYPE_CHECKING:
    from syndd.control.server import ControlServer

log = logging.getLogger(__name__)

DRAIN_S = 30.0
"""Budget of a stop by signal. Below the unit's TimeoutStopSec, so that the end is ours."""
UNWIND_S = 5.0
"""What closing takes at most after the drain is over or was cut short."""
SOCKET_CHECK_S = 1.0
"""A control socket whose name was removed, by a cleaner or with the user's last login, is missed so long."""
RESTART = 75
"""Exit code (EX_TEMPFAIL) that asks the holder or the service manager to start the daemon again."""


class State(StrEnum):
    """Where the daemon is in its life."""

    STARTING = "starting"
    """Folders, lock and socket are being made; the mount may answer already."""
    READY = "ready"
    """Mount and control API answer."""
    DRAINING = "draining"
    """Asked to stop: no new work, the mount goes, what is unsent is sent."""
    STOPPED = "stopped"
    """All is closed; the process is about to end."""


TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.STARTING: frozenset({State.READY, State.DRAINING}),
        State.READY: frozenset({State.DRAINING}),
        State.DRAINING: frozenset({State.STOPPED}),
        State.STOPPED: frozenset(),
    }
)


class App(Protocol):
    """What runs between start and stop; `syndd.app` builds it."""

    @property
    def services(self) -> DaemonServices: ...

    async def start(self) -> None:
        """Returns when the mount answers. When it raises, `stop` is still called."""
        ...

    async def stop(self, deadline: Deadline, *, keep_mount: bool) -> None:
        """Unmounts (unless `keep_mount`), drains within `deadline`, closes everything.

        Cancelled when somebody insists or the deadline is long over: then it must only close.
        """
        ...

    def healthy(self) -> bool:
        """Whether its threads live. The watchdog is fed only then."""
        ...


Fail = Callable[[SyndError], None]
"""How a part says, from any thread, that the daemon cannot go on."""

Build = Callable[[Config, Folders, Fail], App]


class Daemon:
    """One daemon from start to stop."""

    def __init__(self, config: Config, folders: Folders, build: Build, notifier: Notifier) -> None:
        self._config = config
        self._folders = folders
        self._build = build
        self._notifier = notifier
        self._state = State.STARTING
        self._started_ns = time.time_ns()
        self._started_s = time.monotonic()
        self._asked = asyncio.Event()
        self._insisted = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._budget_s = DRAIN_S
        self._keep_mount = False
        self._failure: SyndError | None = None
        self._loopback: Loopback | None = None

    @property
    def state(self) -> State:
        return self._state

    def process(self) -> contract.Process:
        """The process's own part of the status."""
        found: contract.Process = {
            "api": contract.API,
            "version": importlib.metadata.version("synd"),
            "pid": os.getpid(),
            "state": self._state.value,
            "started_at": format_time(self._started_ns),
            "uptime_s": round(time.monotonic() - self._started_s, 3),
        }
        if self._loopback is not None:
            found["browsers"] = self._loopback.told()
        return found

    def ask_stop(self, why: str, *, budget_s: float = DRAIN_S, keep_mount: bool = False) -> None:
        """Asks to stop; called on the loop. A second time, insists."""
        if self._asked.is_set():
            log.warning("stop.insisted", extra=fields(why=why))
            self._insisted.set()
            return
        log.info("stop.asked", extra=fields(why=why, keep_mount=keep_mount))
        self._budget_s = budget_s
        self._keep_mount = keep_mount
        self._asked.set()

    def fail(self, error: SyndError) -> None:
        """A part died: the daemon stops, leaving the mount to whoever starts it again. Any thread."""

        def on_loop() -> None:
            log.error("daemon.failed", extra=fields(error=error))
            self._failure = self._failure or error
            if not self._asked.is_set():
                self.ask_stop(str(error), budget_s=UNWIND_S, keep_mount=True)

        if self._loop is not None:
            self._loop.call_soon_threadsafe(on_loop)

    async def run(self) -> int:
        """Runs to the end and returns the exit code. Raises SyndError when it could not start."""
        self._loop = loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask_stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._ask_restart)
        try:
            await self._live()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
        if self._failure is not None:
            return self._failure.exit_code
        return RESTART if self._keep_mount else 0

    def _ask_restart(self) -> None:
        self.ask_stop("SIGHUP", keep_mount=True)

    async def _live(self) -> None:
        make_folders(self._folders)
        # Before anything is written: a second daemon must not disturb the first one's word.
        with instance_lock(self._folders):
            report_startup(self._folders, State.STARTING)
            await self._locked()
            report_startup(self._folders, State.STOPPED)
        self._advance(State.STOPPED)
        log.info("daemon.stopped", extra=fields(pid=os.getpid()))

    async def _locked(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                await self._start(stack)
            except Exception as error:
                known = (
                    error
                    if isinstance(error, SyndError)
                    else SyndError(f"the start failed: {error!r}")
                )
                report_startup(self._folders, "failed", known)
                self._notifier.failed(str(known), known.errno)
                raise
            await self._asked.wait()
            self._advance(State.DRAINING)
            self._notifier.stopping("sending what is unsent")

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Starts everything, pushing how it ends. Returns early when asked to stop meanwhile."""
        listener = stack.enter_context(control_socket(self._folders.socket))
        self._loopback = stack.enter_context(listening(self._config, self._folders))
        app = self._build(self._config, self._folders, self.fail)
        control = _Control(app, self, self._folders.socket, listener, self._loopback)
        stack.push_async_callback(control.stop)
        if self._notifier.watchdog_s is not None:
            feeding = asyncio.create_task(self._feed_watchdog(app), name="watchdog")
            stack.push_async_callback(_cancel, feeding)
        stack.push_async_callback(self._stop_app, app)
        if not await self._start_app(app):
            return
        await control.start()
        self._advance(State.READY)
        report_startup(self._folders, State.READY)
        self._notifier.ready("mounted")
        took_s = round(time.monotonic() - self._started_s, 3)
        log.info("daemon.ready", extra=fields(pid=os.getpid(), took_s=took_s))

    async def _start_app(self, app: App) -> bool:
        """False when a stop was asked for before the app had started."""
        starting = asyncio.create_task(app.start(), name="app-start")
        asked = asyncio.create_task(self._asked.wait(), name="stop-asked")
        await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
        await _cancel(asked)
        if not starting.done():
            await _cancel(starting)
            return False
        starting.result()
        return True

    async def _stop_app(self, app: App) -> None:
        deadline = Deadline.after(self._budget_s, "the stop")
        # The manager's own patience starts at STOPPING; ours is the shorter one, but may be set longer.
        self._notifier.more_time(self._budget_s + 2 * UNWIND_S)
        stopping = asyncio.create_task(
            app.stop(deadline, keep_mount=self._keep_mount), name="app-stop"
        )
        insisted = asyncio.create_task(self._insisted.wait(), name="stop-insisted")
        await asyncio.wait(
            {stopping, insisted},
            timeout=self._budget_s + UNWIND_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not stopping.done():
            why = "insisted" if insisted.done() else f"not over {UNWIND_S:g} s past its deadline"
            log.warning("stop.cut_short", extra=fields(why=why))
        await _cancel(insisted)
        stopping.cancel()
        await asyncio.wait({stopping}, timeout=UNWIND_S)
        if not stopping.done():
            log.error("stop.hung")
        elif not stopping.cancelled() and (error := stopping.exception()) is not None:
            log.error("stop.failed", exc_info=error)

    async def _feed_watchdog(self, app: App) -> None:
        """Says that we live as long as the loop turns and the app's threads do."""
        every_s = (self._notifier.watchdog_s or 2.0) / 2
        while True:
            if app.healthy():
                self._notifier.watchdog()
            else:
                log.error("watchdog.unhealthy")
            await asyncio.sleep(every_s)

    def _advance(self, to: State) -> None:
        if to not in TRANSITIONS[self._state]:
            raise InvalidTransition(f"the daemon cannot go from {self._state} to {to}")
        self._state = to


class _Control:
    """The control API, whose framework is imported only once the mount answers."""

    def __init__(
        self,
        app: App,
        daemon: Daemon,
        path: Path,
        listener: socket.socket,
        loopback: Loopback | None,
    ) -> None:
        self._app = app
        self._daemon = daemon
        self._path = path
        self._made_anew = contextlib.ExitStack()
        self._keeping: asyncio.Task[None] | None = None
        self._listener = listener
        self._loopback = loopback
        self._server: ControlServer | None = None

    async def start(self) -> None:
        # In a thread: the import takes about half a second, and the loop has requests to serve.
        module = await asyncio.to_thread(importlib.import_module, "syndd.control.server")
        server: ControlServer = module.ControlServer(
            self._app.services, self._daemon, self._listener, self._daemon.fail, self._loopback
        )
        await server.start()
        self._server = server
        self._keeping = asyncio.create_task(self._keep(server), name="control-socket")

    async def _keep(self, server: ControlServer) -> None:
        """Makes the socket anew when its name is gone: nobody could reach a daemon that lives."""
        told = False
        while True:
            await asyncio.sleep(SOCKET_CHECK_S)
            if os.path.lexists(self._path):  # noqa: ASYNC240 - in a folder of memory
                continue
            try:
                with contextlib.suppress(FileExistsError):
                    self._path.parent.mkdir(mode=0o700)
                listener = self._made_anew.enter_context(control_socket(self._path))
            except (OSError, SyndError) as error:
                if not told:
                    log.warning("socket.gone", extra=fields(path=self._path, why=error))
                told = True
                continue
            told = False
            await server.listen(listener)
            log.warning("socket.made_anew", extra=fields(path=self._path))

    async def stop(self) -> None:
        if self._keeping is not None:
            await _cancel(self._keeping)
        if self._server is not None:
            await self._server.stop(UNWIND_S)
        self._made_anew.close()


async def _cancel(task: asyncio.Task[object] | asyncio.Task[None]) -> None:
    """Cancels a task and waits until it is over."""
    task.cancel()
    await asyncio.wait({task})
