"""The mount as the daemon sees it: make it or take it over, serve it, tell its state, end it.

`MountSession` owns the connection's descriptor and the threads that serve it. How the kernel is spoken
to is the transport's business, how a mount is made is `mounting`'s, what is in it is the filesystem's.

A session that takes a mount over skips INIT (the kernel agreed with its predecessor), loads the table of
open handles and asks for every unanswered request again.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from synd.clock import Deadline
from synd.errors import ConfigError, DeadlineExceeded, RemoteUnavailable, SyndError
from synd.log import fields
from syndd.mount import mounting
from syndd.mount.fdstore import FdStore, Kept
from syndd.mount.handles import HandleTable
from syndd.mount.invalidate import Invalidator
from syndd.mount.ops import Filesystem
from syndd.mount.transport.kernel import MAX_READ, KernelTransport, Negotiated
from syndd.mount.transport.requests import Waiting

log = logging.getLogger(__name__)

FD_NAME = "mount"
"""The descriptor's name in the store."""
HANDLES = "handles.tbl"
"""The table of open handles, in the runtime folder."""
_EPOCHS_SINCE = 44
_TICK_S = 0.05
_SWITCH_S = 0.0005

InheritedMount = Kept
"""The descriptor and the state that an earlier daemon left with a store."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How to mount."""

    mountpoint: Path
    runtime: Path
    """Folder for the handle table."""
    transport: str = "kernel"
    allow_other: bool = False
    read_only: bool = False
    """Let the kernel refuse every change by itself (EROFS)."""
    passthrough: bool = True
    backing_stacked: bool = False
    """The cache lies on overlayfs. Passthrough then needs the mount to count as stacked deeper, which
    keeps others from stacking on it."""
    source: str = "synd"
    """First column of `mount`."""
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    """Owner of everything in the mount."""
    read_ahead_kb: int = 1024
    start_timeout_s: float = 20.0


@dataclass(frozen=True, slots=True)
class MountState:
    """What `synd status` shows."""

    mountpoint: str
    transport: str
    connection: int
    passthrough: bool
    passthrough_off: str
    """Why passthrough is off; empty when it is on."""
    taken_over: bool
    handles: int
    waiting: list[Waiting]
    """Requests without an answer, oldest first."""
    requests: dict[str, int]
    """How many came so far, by operation."""
    notices_sent: int
    notices_waiting: int
    notices_failed: int
    closed: str
    """Why the mount ended: `unmounted` or `aborted`; empty while it lives."""


class SessionNotices(Protocol):
    """`ops.Notices`, and what the session needs of them."""

    sent: int
    failed: int

    def entry(self, parent: int, name: bytes, *, gone: int | None = None) -> None: ...

    def node(self, node: int, *, data: bool) -> None: ...

    def everything(self) -> None: ...

    def flush(self, timeout_s: float) -> bool: ...

    def waiting(self) -> int: ...

    def stop(self, timeout_s: float = 5.0) -> None: ...


class Transport(Protocol):
    """What serves a session's requests until `run` returns."""

    @property
    def passthrough_off(self) -> str: ...

    def run(self) -> str: ...

    def waiting(self) -> list[Waiting]: ...

    def open_handles(self) -> int: ...

    def request_counts(self) -> dict[str, int]: ...

    def close(self) -> None: ...


class MountSession:
    """A live mount. Made by `start`."""

    def __init__(
        self,
        options: MountOptions,
        transport: Transport,
        notices: SessionNotices,
        *,
        connection: int,
        fd: int | None,
        handles: HandleTable | None,
        store: FdStore | None,
        taken_over: bool,
    ) -> None:
        self.options = options
        self.notices = notices
        self.connection = connection
        self._transport = transport
        self._fd = fd
        self._handles = handles
        self._store = store
        self._taken_over = taken_over
        self._stopping = False
        self._closed = threading.Event()
        self._reason = ""

    @classmethod
    def start(
        cls,
        fs: Filesystem,
        options: MountOptions,
        *,
        inherited: InheritedMount | None = None,
        store: FdStore | None = None,
    ) -> MountSession:
        """A served mount that answers. Blocks up to `start_timeout_s`; never call it on a loop.

        `inherited` is a connection to go on with; `store` keeps the descriptor for the next daemon.
        Raises ConfigError, ToolMissing, Busy, NotEmpty, NotDirectory, DeadlineExceeded.
        """
        deadline = Deadline.after(options.start_timeout_s, "mounting")
        if options.transport == "libfuse":
            session = cls._mount_libfuse(fs, options, deadline)
        elif options.transport != "kernel":
            raise ConfigError(
                f"there is no transport {options.transport!r}", hint="kernel or libfuse"
            )
        elif inherited is not None:
            session = cls._resume(fs, options, inherited, store)
        else:
            session = cls._mount(fs, options, store, deadline)
        try:
            session._wait_ready(deadline)  # our own  # noqa: SLF001  # our own
        except BaseException:
            session.abort()
            session.stop(lazy=True, timeout_s=5.0)
            raise
        state = session.state()
        log.info(
            "mount.ready",
            extra=fields(
                mountpoint=state.mountpoint,
                connection=state.connection,
                taken_over=state.taken_over,
                passthrough=state.passthrough_off or "on",
            ),
        )
        return session

    @classmethod
    def _mount(
        cls, fs: Filesystem, options: MountOptions, store: FdStore | None, deadline: Deadline
    ) -> MountSession:
        mounting.check_mountpoint(options.mountpoint)
        fd = mounting.mount(
            options.mountpoint,
            source=options.source,
            allow_other=options.allow_other,
            read_only=options.read_only,
            max_read=MAX_READ,
        )
        try:
            connection = _connection(options.mountpoint)
            negotiated = threading.Event()
            transport = KernelTransport(
                fd,
                fs,
                uid=options.uid,
                gid=options.gid,
                passthrough=options.passthrough,
                stack_depth=2 if options.backing_stacked else 1,
                on_init=lambda _: negotiated.set(),
            )
            handles = HandleTable(
                options.runtime / HANDLES, connection, close_backing=transport.backings.close
            )
            transport.use(handles)
            notices = Invalidator(fd, doubt=transport.doubt)
            session = cls(
                options,
                transport,
                notices,
                connection=connection,
                fd=fd,
                handles=handles,
                store=store,
                taken_over=False,
            )
        except BaseException:
            os.close(fd)
            mounting.unmount(options.mountpoint, lazy=True)
            raise
        session._serve()
        if not negotiated.wait(deadline.left_s()):
            session.abort()
            session.stop(lazy=True, timeout_s=5.0)
            raise DeadlineExceeded(
                f"the kernel did not begin the mount at {options.mountpoint}",
                hint="`dmesg` may say why",
            )
        agreed = transport.negotiated
        if agreed is None:
            session.stop(lazy=True, timeout_s=5.0)
            raise ConfigError(
                "the kernel's FUSE is older than 7.31 (Linux 5.4)", hint="--transport libfuse"
            )
        notices.epochs = agreed.minor >= _EPOCHS_SINCE
        notices.start()
        mounting.raise_readahead(connection, options.read_ahead_kb)
        if agreed.resend:
            session._keep(agreed)
        return session

    @classmethod
    def _mount_libfuse(
        cls, fs: Filesystem, options: MountOptions, deadline: Deadline
    ) -> MountSession:
        # Only who uses it needs libfuse installed.
        from syndd.mount.transport.libfuse import LibfuseTransport

        mounting.check_mountpoint(options.mountpoint)
        mounting.check_device(allow_other=options.allow_other)
        transport = LibfuseTransport(
            fs,
            options.mountpoint,
            source=options.source,
            allow_other=options.allow_other,
            read_only=options.read_only,
            uid=options.uid,
            gid=options.gid,
        )
        session = cls(
            options,
            transport,
            transport.notices,
            connection=0,
            fd=None,
            handles=None,
            store=None,
            taken_over=False,
        )
        session._serve()
        while not transport.ready.wait(_TICK_S):
            if session._closed.is_set():
                raise ConfigError(
                    f"libfuse could not mount at {options.mountpoint}",
                    hint="its message is in the daemon's log",
                )
            deadline.check()
        session.connection = _connection(options.mountpoint)
        return session

    @classmethod
    def _resume(
        cls,
        fs: Filesystem,
        options: MountOptions,
        inherited: InheritedMount,
        store: FdStore | None,
    ) -> MountSession:
        fd, state = inherited
        agreed = Negotiated(state["minor"], state["flags"], state["max_write"])
        connection = int(state["connection"])
        there = mounting.find_mount(options.mountpoint)
        if there is None or there.connection != connection:
            os.close(fd)
            raise RemoteUnavailable(
                f"the inherited mount is no longer at {options.mountpoint}",
                hint="start without it: `synd down`, then `synd up`",
            )
        transport = KernelTransport(
            fd,
            fs,
            uid=options.uid,
            gid=options.gid,
            passthrough=options.passthrough,
            negotiated=agreed,
        )
        handles = HandleTable(
            options.runtime / HANDLES,
            connection,
            close_backing=transport.backings.close,
            inherited=True,
        )
        if not handles.loaded:
            # Files that are open now may fail to be opened again until they are closed: their mode in
            # the kernel is not known.
            log.warning("mount.handles_lost", extra=fields(table=handles.path))
        transport.use(handles)
        if probe := transport.backings.probe():
            handles.close_leaked(probe)
        notices = Invalidator(fd, epochs=agreed.minor >= _EPOCHS_SINCE, doubt=transport.doubt)
        session = cls(
            options,
            transport,
            notices,
            connection=connection,
            fd=fd,
            handles=handles,
            store=store,
            taken_over=True,
        )
        session._keep(agreed)
        transport.resend()
        session._serve()
        notices.start()
        return session

    def _keep(self, agreed: Negotiated) -> None:
        """Gives the descriptor to the store. Without a keeper the mount works, until the daemon dies."""
        if self._store is None or self._fd is None:
            return
        try:
            self._store.put(FD_NAME, self._fd, _state(self.options, self.connection, agreed))
        except SyndError as error:
            log.warning("mount.not_kept", extra=fields(error=error))

    def _serve(self) -> None:
        # Each system call of the reading thread lets go of the interpreter lock. With one other thread
        # busy in Python it got it back after the default 5 ms: 330 look-ups/s instead of 24 000.
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))
        threading.Thread(target=self._run, name="synd-mount", daemon=True).start()

    def _run(self) -> None:
        reason = "failed"
        try:
            reason = self._transport.run()
        except Exception:
            log.exception("mount.loop_failed")
        finally:
            self._finish(reason)

    def _finish(self, reason: str) -> None:
        """The connection is over: lets go of everything that belonged to it."""
        self.notices.stop()
        self._transport.close()
        if self._handles is not None:
            self._handles.close(remove=True)
        if self._store is not None:
            try:
                self._store.drop(FD_NAME)
            except SyndError as error:
                log.warning("mount.store_failed", extra=fields(error=error))
        if self._fd is not None:
            # Not closed: a Future that completes this moment may be about to write its answer, and
            # the number must not lead into another file then. /dev/null takes its place for ever.
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, self._fd, inheritable=False)
            os.close(null)
            self._fd = None
        self._reason = reason
        self._closed.set()
        level = logging.INFO if self._stopping else logging.WARNING
        log.log(level, "mount.closed", extra=fields(reason=reason))

    def _wait_ready(self, deadline: Deadline) -> None:
        """A statfs through the kernel, from a thread that serves nothing."""
        outcome: list[OSError | None] = []

        def ask() -> None:
            try:
                os.statvfs(self.options.mountpoint)
                outcome.append(None)
            except OSError as error:
                outcome.append(error)

        thread = threading.Thread(target=ask, name="synd-ready", daemon=True)
        thread.start()
        thread.join(deadline.left_s())
        if not outcome:
            raise DeadlineExceeded(f"the mount at {self.options.mountpoint} does not answer")
        if (error := outcome[0]) is not None:
            raise RemoteUnavailable(
                f"the mount at {self.options.mountpoint} failed at once: {error.strerror}"
            ) from error

    @property
    def stopping(self) -> bool:
        """Whether its end was asked for here."""
        return self._stopping

    def state(self) -> MountState:
        transport = self._transport
        return MountState(
            mountpoint=os.fspath(self.options.mountpoint),
            transport=self.options.transport,
            connection=self.connection,
            passthrough=not transport.passthrough_off,
            passthrough_off=transport.passthrough_off,
            taken_over=self._taken_over,
            handles=transport.open_handles(),
            waiting=transport.waiting(),
            requests=transport.request_counts(),
            notices_sent=self.notices.sent,
            notices_waiting=self.notices.waiting(),
            notices_failed=self.notices.failed,
            closed=self._reason,
        )

    def abort(self) -> bool:
        """Ends every request at once with an error, and the connection. False without fusectl."""
        self._stopping = True
        return mounting.abort(self.connection)

    def stop(self, *, lazy: bool = False, timeout_s: float = 10.0) -> None:
        """Unmounts. Raises Busy when files are open, unless `lazy`.

        Lazily, readers may finish for `timeout_s`; then what still waits is ended with an error.
        """
        if self._closed.is_set():
            # Aborted from outside: the dead mount point still stands in the way.
            mounting.unmount(self.options.mountpoint, lazy=True)
            return
        self._stopping = True
        try:
            mounting.unmount(self.options.mountpoint, lazy=lazy)
        except SyndError:
            self._stopping = False
            raise
        if not self._closed.wait(timeout_s):
            self.abort()
            if not self._closed.wait(5.0):
                log.error("mount.stop_timed_out", extra=fields(connection=self.connection))

    def detach(self, timeout_s: float = 5.0) -> None:
        """Before an end that leaves the mount to the next daemon: what it should forget is told still.

        Requests go on being served until the process ends; one that is cut off then is asked again.
        """
        self._stopping = True
        self.notices.flush(timeout_s)

    def detached(self) -> bool:
        """Whether the mount was taken away from what is open in it, which is served on (`umount -l`)."""
        there = mounting.find_mount(self.options.mountpoint)
        return there is None or there.connection != self.connection

    def wait_closed(self, timeout_s: float | None = None) -> str:
        """Waits for the end of the mount, by whomever; why it ended, empty when it has not."""
        self._closed.wait(timeout_s)
        return self._reason


def take(store: FdStore, mountpoint: Path) -> InheritedMount | None:
    """The mount that an earlier daemon left at `mountpoint`, if it still lives and can be gone on with.

    One that cannot is dropped from the store, so that a fresh mount may be made.
    """
    kept = store.take(FD_NAME)
    if kept is None:
        return None
    there = mounting.find_mount(mountpoint)
    alive = there is not None and there.connection == kept.state.get("connection")
    if alive and kept.state.get("mountpoint") == os.fspath(mountpoint):
        return kept
    os.close(kept.fd)
    store.drop(FD_NAME)
    return None


def _connection(mountpoint: Path) -> int:
    there = mounting.find_mount(mountpoint)
    if there is None:
        raise RemoteUnavailable(f"the mount at {mountpoint} vanished at once")
    return there.connection


def _state(options: MountOptions, connection: int, agreed: Negotiated) -> Mapping[str, Any]:
    return {
        "mountpoint": os.fspath(options.mountpoint),
        "connection": connection,
        "minor": agreed.minor,
        "flags": agreed.flags,
        "max_write": agreed.max_write,
        "uid": options.uid,
        "gid": options.gid,
        "read_only": options.read_only,
        "allow_other": options.allow_other,
    }


__all__ = [
    "FD_NAME",
    "InheritedMount",
    "MountOptions",
    "MountSession",
    "MountState",
    "take",
]
