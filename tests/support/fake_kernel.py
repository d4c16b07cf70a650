"""A socket that plays the kernel's end of a FUSE connection, and a filesystem that says what it is told."""

from __future__ import annotations

import socket
import threading
from typing import Any

from syndd.mount import wire
from syndd.mount.transport.kernel import KernelTransport, Negotiated
from syndd.mount.wire import Op
from tests.fuse.trees import Tree


class Scripted(Tree):
    """Answers what the test put there."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Any] = {}
        self.released: list[int] = []
        self.forgotten: list[tuple[int, int]] = []
        self.told: list[tuple[int, int]] = []
        self.changes: list[tuple[Any, ...]] = []
        self.views: list[memoryview] = []

    def _say(self, what: str) -> Any:
        answer = self.answers[what]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def lookup(self, parent: int, name: bytes) -> Any:
        return self._say("lookup")

    def getattr(self, node: int) -> Any:
        return self._say("getattr")

    def open(self, node: int, flags: int) -> Any:
        return self._say("open")

    def read(self, node: int, handle: int, offset: int, size: int) -> Any:
        return self._say("read")

    def readdir(self, node: int, cookie: int, *, plus: bool) -> Any:
        return self._say("readdir")

    def getxattr(self, node: int, name: bytes) -> Any:
        return self._say("getxattr")

    def release(self, node: int, handle: int) -> None:
        self.released.append(handle)

    def forget(self, node: int, lookups: int) -> None:
        self.forgotten.append((node, lookups))

    def opened(self, node: int, handle: int) -> None:
        self.told.append((node, handle))

    def asked(self, what: str, *arguments: Any) -> Any:
        self.changes.append((what, *arguments))
        return self._say(what) if what in self.answers else None

    def create(self, *given: Any) -> Any:
        return self.asked("create", *given)

    def mknod(self, *given: Any) -> Any:
        return self.asked("mknod", *given)

    def mkdir(self, *given: Any) -> Any:
        return self.asked("mkdir", *given)

    def symlink(self, *given: Any) -> Any:
        return self.asked("symlink", *given)

    def link(self, *given: Any) -> Any:
        return self.asked("link", *given)

    def unlink(self, *given: Any) -> Any:
        return self.asked("unlink", *given)

    def rmdir(self, *given: Any) -> Any:
        return self.asked("rmdir", *given)

    def rename(self, *given: Any) -> Any:
        return self.asked("rename", *given)

    def setattr(self, *given: Any) -> Any:
        return self.asked("setattr", *given)

    def write(self, node: int, handle: int, offset: int, data: memoryview) -> Any:
        self.views.append(data)
        return self.asked("write", node, handle, offset, bytes(data))

    def fallocate(self, *given: Any) -> Any:
        return self.asked("fallocate", *given)

    def flush(self, *given: Any) -> Any:
        return self.asked("flush", *given)

    def fsync(self, *given: Any) -> Any:
        return self.asked("fsync", *given)

    def fsyncdir(self, *given: Any) -> Any:
        return self.asked("fsyncdir", *given)

    def setxattr(self, *given: Any) -> Any:
        return self.asked("setxattr", *given)

    def removexattr(self, *given: Any) -> Any:
        return self.asked("removexattr", *given)


class FakeKernel:
    """The other end of the connection."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(5)
        self.fs = Scripted()
        self.agreed: list[Negotiated | None] = []
        self.transport = KernelTransport(
            theirs.fileno(), self.fs, uid=10, gid=20, passthrough=True, on_init=self.agreed.append
        )
        self._theirs = theirs
        self.thread = threading.Thread(target=self.transport.run)
        self.thread.start()
        self._unique = 0

    def send(
        self,
        op: int,
        body: bytes = b"",
        *,
        node: int = 1,
        unique: int | None = None,
        uid: int = 0,
        gid: int = 0,
    ) -> int:
        if unique is None:
            self._unique += 2
            unique = self._unique
        self.socket.send(
            wire.IN_HEADER.pack(wire.BODY + len(body), op, unique, node, uid, gid, 0, 0, 0) + body
        )
        return unique

    def reply(self) -> tuple[int, int, bytes]:
        """unique, errno (positive), body."""
        message = self.socket.recv(1 << 20)
        length, error, unique = wire.OUT_HEADER.unpack_from(message)
        assert length == len(message)
        return unique, -error, message[wire.OUT :]

    def ask(self, op: int, body: bytes = b"", **more: int) -> tuple[int, bytes]:
        unique = self.send(op, body, **more)
        answered, error, answer = self.reply()
        assert answered == unique
        return error, answer

    def settle(self) -> None:
        """Waits until everything sent so far has been dealt with, answered or not."""
        self.ask(Op.FSYNC, bytes(16))

    def close(self) -> None:
        self.socket.close()
        self.thread.join(5)
        self.transport.close()
        self._theirs.close()
