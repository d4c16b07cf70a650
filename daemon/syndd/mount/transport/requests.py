# handlers of one table have one signature
# ruff: noqa: ARG002  # handlers of one table have one signature
"""Requests on their way: each is answered exactly once, at once or by whoever completes its Future.

Knows no operation. Invariants:
- whoever takes a request out of `_pending` answers it, be it the callback or an interrupt;
- a reply that the kernel refuses is followed by EIO, since a request without an answer cannot be
  killed.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from synd.errors import NameTooLong, NotFound, SyndError
from synd.log import fields
from syndd.mount import wire
from syndd.mount.ops import Caller, NotThereYet, Opened
from syndd.mount.transport import replies
from syndd.mount.wire import Op

log = logging.getLogger(__name__)

T = TypeVar("T")
Handler: TypeAlias = Callable[[bytearray, int, int, int], None]
"""Takes the request's buffer, `unique`, node and opcode, and sees to the answer."""

_OF_ATTRIBUTES = frozenset((Op.GETXATTR, Op.SETXATTR, Op.REMOVEXATTR))

_CHANGING = frozenset(
    (
        Op.SETATTR,
        Op.SYMLINK,
        Op.MKNOD,
        Op.MKDIR,
        Op.UNLINK,
        Op.RMDIR,
        Op.RENAME,
        Op.RENAME2,
        Op.LINK,
        Op.WRITE,
        Op.CREATE,
        Op.SETXATTR,
        Op.REMOVEXATTR,
        Op.FALLOCATE,
        Op.FSYNC,
        Op.FSYNCDIR,
    )
)
"""EINTR would be a lie once they are carried out: an interrupt calls them off only if that can be done."""


class Waiting(NamedTuple):
    """A request that has no answer yet."""

    operation: str
    node: int
    since: float
    """Monotonic seconds."""


class _Pending(NamedTuple):
    opcode: int
    node: int
    since: float
    future: Future[Any]


class Requests:
    """The requests of one connection. Any thread may answer."""

    def __init__(self, fd: int, negative_ttl_s: Callable[[], float]) -> None:
        """`negative_ttl_s` says how long the kernel may remember that a name is not there."""
        self.fd = fd
        self._negative_ttl_s = negative_ttl_s
        self._pending: dict[int, _Pending] = {}

    def waiting(self) -> list[Waiting]:
        """Requests without an answer, oldest first."""
        found = [
            Waiting(Op(p.opcode).name.lower(), p.node, p.since)
            for p in list(self._pending.values())
        ]
        return sorted(found, key=lambda w: w.since)

    def close(self) -> None:
        """Gives up what is not answered. Only when the connection is over."""
        for pending in list(self._pending.values()):
            pending.future.cancel()
        self._pending.clear()

    # Answers.

    def send(self, unique: int, reply: bytes | bytearray | memoryview) -> bool:
        """Whether the kernel took it."""
        try:
            os.write(self.fd, reply)
        except OSError as error:
            return self.refused(unique, error)
        return True

    def send_data(self, unique: int, data: bytes | bytearray | memoryview) -> None:
        size = len(data)
        try:
            os.writev(self.fd, (wire.OUT_HEADER.pack(16 + size, 0, unique), data))
        except OSError as error:
            self.refused(unique, error)

    def refused(self, unique: int, error: OSError) -> bool:
        """What to do when the kernel did not take an answer; False."""
        # ENOENT: interrupted, nobody waits any more. ENODEV and ENOTCONN: unmounted or aborted.
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED):
            log.error("mount.reply_refused", extra=fields(error=error, request=unique))
            try:
                os.write(self.fd, wire.OUT_HEADER.pack(wire.OUT, -errno.EIO, unique))
            except OSError:
                pass
        return False

    def error(self, unique: int, code: int) -> None:
        self.send(unique, wire.OUT_HEADER.pack(wire.OUT, -code, unique))

    def done(self, unique: int, _: object = None) -> None:
        """An answer that says no more than that it went well."""
        self.send(unique, wire.OUT_HEADER.pack(wire.OUT, 0, unique))

    def fail(self, unique: int, error: BaseException, opcode: int, node: int) -> None:
        """Answers with the errno of `error`; what we did not foresee is EIO and a traceback."""
        if isinstance(error, SyndError):
            code = error.errno
            if isinstance(error, NotFound):
                if opcode == Op.LOOKUP and not isinstance(error, NotThereYet):
                    self._no_such_name(unique)
                    return
                if opcode in _OF_ATTRIBUTES:
                    code = errno.ENODATA
            self.error(unique, code)
        elif isinstance(error, CancelledError):
            self.error(unique, errno.EINTR)
        else:
            log.error("mount.failed", exc_info=error, extra=fields(operation=opcode, node=node))
            self.error(unique, errno.EIO)

    def _no_such_name(self, unique: int) -> None:
        ttl = self._negative_ttl_s()
        if ttl <= 0:
            self.error(unique, errno.ENOENT)
        else:
            self.send(unique, replies.no_entry(unique, ttl))

    # Answers that come later.

    def answer(
        self,
        answer: T | Future[T],
        unique: int,
        opcode: int,
        node: int,
        finish: Callable[[int, T], object],
    ) -> None:
        """Calls `finish` with `unique` and the answer, once that is here."""
        if isinstance(answer, Future):
            self.defer(answer, unique, opcode, node, finish)
        else:
            finish(unique, answer)

    def defer(
        self,
        future: Future[T],
        unique: int,
        opcode: int,
        node: int,
        finish: Callable[[int, T], object],
    ) -> None:
        self._pending[unique] = _Pending(opcode, node, time.monotonic(), future)
        future.add_done_callback(partial(self._settle, unique, opcode, node, finish))

    def _settle(
        self,
        unique: int,
        opcode: int,
        node: int,
        finish: Callable[[int, Any], object],
        future: Future[Any],
    ) -> None:
        if self._pending.pop(unique, None) is None:
            # Answered with EINTR before. An answer that came all the same must not leak.
            if not future.cancelled() and future.exception() is None:
                _discard(future.result())
            return
        try:
            finish(unique, future.result())
        except (Exception, CancelledError) as error:  # noqa: BLE001  # the edge of one request
            self.fail(unique, error, opcode, node)

    def interrupt(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        """INTERRUPT: who asked does not want to wait any more."""
        # The request was read by this same thread before its interrupt, so one that is not pending
        # has been answered: nothing to do.
        (target,) = wire.INTERRUPT_IN.unpack_from(request, wire.BODY)
        pending = self._pending.get(target)
        if pending is None or pending.opcode == Op.FLUSH:
            # Who calls close(2) never calls it again: the answer is waited for.
            return
        if pending.opcode in _CHANGING:
            # Its callback answers: EINTR when this calls it off, else in its time.
            pending.future.cancel()
        elif self._pending.pop(target, None) is not None:
            self.error(target, errno.EINTR)
            pending.future.cancel()

    def refuse(self, code: int, request: bytearray, unique: int, node: int, opcode: int) -> None:
        self.error(unique, code)

    def nothing_to_do(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        self.done(unique)


def name_at(request: bytearray, at: int) -> bytes:
    """The NUL-terminated name that begins there. Raises NameTooLong."""
    name = bytes(request[at : request.index(0, at)])
    if len(name) > wire.NAME_MAX:
        # The kernel lets names of up to 1024 bytes through to us.
        raise NameTooLong(f"a name of {len(name)} bytes")
    return name


def caller_of(request: bytearray, unique: int, umask: int = 0) -> Caller:
    """Who asks, and by which request."""
    uid, gid = wire.CALLER.unpack_from(request, wire.CALLER_AT)
    return Caller(uid, gid, umask, unique & ~wire.UNIQUE_RESEND, bool(unique & wire.UNIQUE_RESEND))


def _discard(value: object) -> None:
    """Closes what an answer that nobody wants any more holds."""
    if isinstance(value, tuple) and not isinstance(value, Opened):
        value = value[-1] if value else None
    if isinstance(value, Opened) and value.backing is not None:
        os.close(value.backing)
