"""The queue of notices: duplicates are one, the bound holds, nobody waits."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from syndd.mount import wire
from syndd.mount.invalidate import Invalidator
from syndd.mount.wire import Notify


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(5)
    yield ours, theirs
    ours.close()
    theirs.close()


def read(sock: socket.socket) -> tuple[int, bytes]:
    message = sock.recv(4096)
    length, code, unique = wire.OUT_HEADER.unpack_from(message)
    assert (length, unique) == (len(message), 0)
    return code, message[wire.OUT :]


def test_notices_are_spelled_as_the_kernel_reads_them(
    line: tuple[socket.socket, socket.socket],
) -> None:
    """Attributes alone spare the pages; names end with a NUL; deletions name the node."""
    notices = Invalidator(line[1].fileno())
    notices.node(5, data=False)
    notices.node(6, data=True)
    notices.entry(7, b"name")
    notices.entry(8, b"gone", gone=9)
    notices.start()

    told = [read(line[0]) for _ in range(4)]
    notices.stop()

    assert told == [
        (Notify.INVAL_INODE, struct.pack("=Qqq", 5, -1, 0)),
        (Notify.INVAL_INODE, struct.pack("=Qqq", 6, 0, 0)),
        (Notify.INVAL_ENTRY, struct.pack("=QII", 7, 4, 0) + b"name\0"),
        (Notify.DELETE, struct.pack("=QQII", 8, 9, 4, 0) + b"gone\0"),
    ]


def test_waiting_duplicates_are_one(line: tuple[socket.socket, socket.socket]) -> None:
    """The same notice many times is written once, and pages win over attributes alone."""
    notices = Invalidator(line[1].fileno())
    for _ in range(100):
        notices.node(5, data=False)
        notices.entry(1, b"a")
    notices.node(5, data=True)
    notices.start()
    assert notices.flush(5)
    notices.stop()

    assert notices.sent == 2
    assert read(line[0])[1] == struct.pack("=Qqq", 5, 0, 0)


def test_bound_drops_the_oldest_and_distrusts_all(
    line: tuple[socket.socket, socket.socket],
) -> None:
    """Past the bound nothing grows: what was dropped is made good by one notice about every name."""
    notices = Invalidator(line[1].fileno(), epochs=True, bound=10)
    for node in range(25):
        notices.node(node, data=True)
    waiting = notices.waiting()
    notices.start()
    assert notices.flush(5)
    notices.stop()

    assert (waiting, notices.dropped, notices.sent) == (10, 15, 11)
    assert read(line[0]) == (Notify.INC_EPOCH, b"")


def test_blocked_writer_does_not_block_callers() -> None:
    """While the kernel keeps a notice waiting, queueing another returns at once."""
    out, into = os.pipe()
    os.write(into, bytes(65536))
    notices = Invalidator(into)
    notices.start()
    notices.node(1, data=True)
    done = threading.Event()

    def call() -> None:
        for node in range(1000):
            notices.node(node, data=True)
        done.set()

    threading.Thread(target=call).start()

    assert done.wait(5)
    assert not notices.flush(0.05)
    while notices.waiting() or not notices.flush(0.01):
        os.read(out, 65536)
    notices.stop()
    os.close(out)
    os.close(into)


def test_dead_mount_ends_the_queue() -> None:
    """When the connection is gone, notices are dropped in silence."""
    out, into = os.pipe()
    os.close(out)
    os.close(into)
    notices = Invalidator(into)
    notices.start()
    notices.node(1, data=True)
    notices.stop()
    notices.node(2, data=True)

    assert (notices.sent, notices.failed, notices.waiting()) == (0, 0, 0)
