"""The kernel transport against a socket that plays the kernel: what goes in, what comes out."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from synd.errors import Forbidden, NotFound, Offline, Stale
from syndd.mount import wire
from syndd.mount.ops import Attr, DirEntry, Opened
from syndd.mount.transport.kernel import Negotiated
from syndd.mount.wire import Init, Op
from tests.fuse.trees import attr
from tests.support.fake_kernel import FakeKernel


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    kernel = FakeKernel()
    yield kernel
    kernel.close()


def test_init_takes_what_both_know(kernel: FakeKernel) -> None:
    """Only flags that the kernel offered are accepted, locks never are, and sizes are ours."""
    offered = Init.ASYNC_READ | Init.POSIX_LOCKS | Init.INIT_EXT | Init.HAS_RESEND | Init.MAX_PAGES
    body = wire.INIT_IN.pack(7, 45, 131072, offered & 0xFFFFFFFF, offered >> 32) + bytes(44)

    error, answer = kernel.ask(Op.INIT, body)
    kernel.settle()

    values = wire.INIT_REPLY.unpack(bytes(wire.OUT) + answer)[3:]
    assert error == 0
    assert values[0] == 7
    assert values[3] == Init.ASYNC_READ | Init.INIT_EXT | Init.MAX_PAGES
    assert values[6] == 1 << 20
    assert values[8] == 256
    assert values[10] == Init.HAS_RESEND >> 32
    assert kernel.agreed == [Negotiated(45, offered & ~Init.POSIX_LOCKS, 1 << 20)]


@pytest.mark.announces("mount.kernel_too_old")
def test_old_kernel_is_refused(kernel: FakeKernel) -> None:
    """A protocol without what we need is EPROTO, and the session hears of it."""
    error, _ = kernel.ask(Op.INIT, wire.INIT_IN_OLD.pack(7, 12, 0, 0))
    kernel.settle()

    assert (error, kernel.agreed) == (errno.EPROTO, [None])


def test_lookup_reply_is_an_entry(kernel: FakeKernel) -> None:
    """Node, inode number, time-outs, owner, blocks and times stand where the kernel looks."""
    kernel.fs.answers["lookup"] = Attr(
        9, 90, stat.S_IFREG | 0o644, 513, 1_500_000_001, -1, 3, 2.5, 0.25
    )

    error, answer = kernel.ask(Op.LOOKUP, b"name\0")

    head = wire.ENTRY_REPLY.unpack(bytes(wire.OUT) + answer)[3:]
    assert error == 0
    assert head[:6] == (9, 0, 0, 2, 250_000_000, 500_000_000)
    assert head[6:15] == (90, 513, 2, 1, 1, -1, 500_000_001, 500_000_001, 999_999_999)
    assert head[15:] == (stat.S_IFREG | 0o644, 3, 10, 20, 0, 4096, 0)


@pytest.mark.parametrize("later", [False, True])
def test_missing_name_is_a_negative_entry(kernel: FakeKernel, later: bool) -> None:
    """Node 0 with a time-out, whether NotFound comes at once or in a Future; without one, ENOENT."""
    missing: Any = NotFound("no")
    if later:
        missing = Future()
        missing.set_exception(NotFound("no"))
    kernel.fs.answers["lookup"] = missing

    error, answer = kernel.ask(Op.LOOKUP, b"name\0")
    kernel.fs.negative_ttl_s = 0
    without, _ = kernel.ask(Op.LOOKUP, b"name\0")

    entry = wire.ENTRY_REPLY.unpack(bytes(wire.OUT) + answer)[3:]
    assert (error, entry[0], entry[2]) == (0, 0, 60)
    assert without == errno.ENOENT


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (Forbidden("no"), errno.EACCES),
        (Offline("no"), errno.EHOSTUNREACH),
        (Stale("no"), errno.ESTALE),
        (NotFound("no"), errno.ENOENT),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_errors_have_their_errno(
    kernel: FakeKernel, error: Exception, number: int, later: bool
) -> None:
    """The error table decides, at once and later alike."""
    answer: Any = error
    if later:
        answer = Future()
        answer.set_exception(error)
    kernel.fs.answers["getattr"] = answer

    assert kernel.ask(Op.GETATTR, bytes(16))[0] == number


@pytest.mark.announces("mount.failed")
def test_bug_is_eio_and_the_loop_lives(kernel: FakeKernel) -> None:
    """An exception that nobody foresaw fails one request."""
    kernel.fs.answers["getattr"] = ZeroDivisionError("bug")
    first = kernel.ask(Op.GETATTR, bytes(16))[0]
    kernel.fs.answers["getattr"] = attr(1, mode=stat.S_IFDIR)

    assert (first, kernel.ask(Op.GETATTR, bytes(16))[0]) == (errno.EIO, 0)


def test_missing_xattr_is_enodata(kernel: FakeKernel) -> None:
    """NotFound means another errno here."""
    kernel.fs.answers["getxattr"] = NotFound("no")

    assert kernel.ask(Op.GETXATTR, bytes(8) + b"user.x\0")[0] == errno.ENODATA


def test_future_is_answered_by_who_completes_it(kernel: FakeKernel) -> None:
    """While one request waits, others are served; the answer comes from the completing thread."""
    waiting: Future[bytes] = Future()
    kernel.fs.answers["read"] = waiting
    kernel.fs.answers["getattr"] = attr(1, mode=stat.S_IFDIR)
    unique = kernel.send(Op.READ, wire.READ_IN.pack(1, 0, 10) + bytes(20), node=5)
    served = kernel.ask(Op.GETATTR, bytes(16))[0]
    listed = kernel.transport.waiting()
    waiting.set_result(b"0123456789")

    assert served == 0
    assert [(w.operation, w.node) for w in listed] == [("read", 5)]
    assert kernel.reply() == (unique, 0, b"0123456789")
    assert kernel.transport.waiting() == []


def test_interrupt_answers_once_and_cancels(kernel: FakeKernel) -> None:
    """EINTR, the Future cancelled, and nothing more when its result comes all the same."""
    waiting: Future[bytes] = Future()
    waiting.set_running_or_notify_cancel()
    kernel.fs.answers["read"] = waiting
    kernel.fs.answers["getattr"] = attr(1, mode=stat.S_IFDIR)
    unique = kernel.send(Op.READ, wire.READ_IN.pack(1, 0, 10) + bytes(20))
    kernel.send(Op.INTERRUPT, wire.INTERRUPT_IN.pack(unique), unique=unique | 1)
    interrupted = kernel.reply()
    waiting.set_result(b"too late")
    following = kernel.send(Op.GETATTR, bytes(16))

    assert interrupted == (unique, errno.EINTR, b"")
    assert kernel.reply()[0] == following


def test_interrupt_cancels_the_future(kernel: FakeKernel) -> None:
    """A Future that has not begun is cancelled, so that the filesystem can give up its fetch."""
    waiting: Future[bytes] = Future()
    kernel.fs.answers["read"] = waiting
    unique = kernel.send(Op.READ, wire.READ_IN.pack(1, 0, 10) + bytes(20))
    kernel.send(Op.INTERRUPT, wire.INTERRUPT_IN.pack(unique), unique=unique | 1)
    kernel.reply()
    kernel.settle()

    assert waiting.cancelled()


def test_late_open_that_nobody_wants_is_closed(kernel: FakeKernel) -> None:
    """The descriptor of an open that was interrupted does not leak."""
    waiting: Future[Opened] = Future()
    waiting.set_running_or_notify_cancel()
    kernel.fs.answers["open"] = waiting
    unique = kernel.send(Op.OPEN, bytes(8))
    kernel.send(Op.INTERRUPT, wire.INTERRUPT_IN.pack(unique), unique=unique | 1)
    kernel.reply()
    kernel.settle()
    fd = os.open(os.devnull, os.O_RDONLY)
    waiting.set_result(Opened(backing=fd))

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_resent_unique_is_echoed(kernel: FakeKernel) -> None:
    """Bit 63 comes back as it came."""
    kernel.fs.answers["getattr"] = attr(1, mode=stat.S_IFDIR)

    kernel.send(Op.GETATTR, bytes(16), unique=wire.UNIQUE_RESEND | 40)

    assert kernel.reply()[0] == wire.UNIQUE_RESEND | 40


def test_handles_are_numbered_and_released_once(kernel: FakeKernel) -> None:
    """Numbers differ; a release that comes twice reaches the filesystem once."""
    kernel.fs.answers["open"] = Opened()
    first = wire.OPEN_REPLY.unpack(bytes(wire.OUT) + kernel.ask(Op.OPEN, bytes(8))[1])[3:]
    second = wire.OPEN_REPLY.unpack(bytes(wire.OUT) + kernel.ask(Op.OPEN, bytes(8))[1])[3:]
    released = [
        kernel.ask(Op.RELEASE, wire.RELEASE_IN.pack(first[0]) + bytes(16))[0] for _ in range(2)
    ]

    assert first[0] != second[0]
    assert first[1] == wire.FOPEN_KEEP_CACHE | wire.FOPEN_NOFLUSH
    assert (released, kernel.fs.released) == ([0, 0], [first[0]])


@pytest.mark.parametrize("plus", [False, True])
def test_listing_is_cut_at_the_buffer_and_goes_on(kernel: FakeKernel, plus: bool) -> None:
    """Entries that do not fit come with the next request; each once, in order, none cut in two."""
    names = [b"n" * (1 + number % 255) + b"%d" % number for number in range(200)]
    names = [name[:255] for name in names]
    kernel.fs.answers["getattr"] = attr(1, mode=stat.S_IFDIR)
    kernel.fs.answers["readdir"] = iter(
        DirEntry(name, number + 1, number + 9, stat.S_IFREG, attr(number + 9, mode=stat.S_IFREG))
        for number, name in enumerate(names)
    )
    op = Op.READDIRPLUS if plus else Op.READDIR
    found, offset = [], 0
    while True:
        error, body = kernel.ask(op, wire.READ_IN.pack(3, offset, 1000) + bytes(20))
        assert error == 0
        assert len(body) <= 1000
        if not body:
            break
        at = 0
        while at < len(body):
            at += wire.DIRENTPLUS_HEAD - wire.DIRENT_HEAD if plus else 0
            _, offset, length, _ = wire.DIRENT[0].unpack_from(body, at)[:4]
            found.append(body[at + wire.DIRENT_HEAD : at + wire.DIRENT_HEAD + length])
            at += wire.DIRENT_HEAD + wire.padded(length)

    assert found == [b".", b"..", *names]


def opened(kernel: FakeKernel, node: int = 7) -> tuple[int, bool]:
    """The handle of a folder that is opened, and whether the kernel may go on with what it has of it."""
    error, body = kernel.ask(Op.OPENDIR, bytes(8), node=node)
    handle, flags = wire.OPEN_REPLY.unpack(bytes(wire.OUT) + body)[3:5]
    assert (error, flags & wire.FOPEN_CACHE_DIR) == (0, wire.FOPEN_CACHE_DIR)
    return handle, bool(flags & wire.FOPEN_KEEP_CACHE)


def test_listing_when_its_folder_changed_then_is_kept_from_the_next_opening_on(
    kernel: FakeKernel,
) -> None:
    """The first opening since a change (of it, or of anything) drops what was kept; another folder's does not."""
    first = [opened(kernel)[1] for _ in range(3)]
    kernel.transport.doubt(8)
    other = opened(kernel)[1]
    kernel.transport.doubt(7)
    changed = [opened(kernel)[1] for _ in range(2)]
    kernel.transport.doubt(None)
    doubted = [opened(kernel)[1] for _ in range(2)]

    assert (first, other) == ([False, True, True], True)
    assert changed == doubted == [False, True]


def test_listing_when_a_reader_from_before_the_change_ends_then_is_dropped(
    kernel: FakeKernel,
) -> None:
    """It may have put what it was told into what the kernel keeps, after that was dropped."""
    early, _ = opened(kernel)
    kernel.transport.doubt(7)
    late, _ = opened(kernel)
    during = opened(kernel)[1]
    for handle in (late, early):
        kernel.ask(Op.RELEASEDIR, wire.RELEASE_IN.pack(handle) + bytes(16), node=7)
    after = [opened(kernel)[1] for _ in range(2)]

    assert during
    assert after == [False, True]


def test_listing_when_the_kernel_forgets_its_folder_then_nothing_is_known_of_it(
    kernel: FakeKernel,
) -> None:
    """What is noted about folders does not grow beyond those that the kernel knows."""
    opened(kernel)
    kernel.send(Op.FORGET, wire.FORGET_IN.pack(1), node=7)

    assert not opened(kernel)[1]


def test_forgets_are_passed_on(kernel: FakeKernel) -> None:
    """One or many, with their counts, and without an answer."""
    kernel.send(Op.FORGET, wire.FORGET_IN.pack(3), node=5)
    many = b"".join(wire.FORGET_ONE.pack(n, n + 1) for n in (6, 7))
    kernel.send(Op.BATCH_FORGET, wire.BATCH_FORGET_IN.pack(2, 0) + many)
    kernel.settle()

    assert kernel.fs.forgotten == [(5, 3), (6, 7), (7, 8)]


@pytest.mark.parametrize(
    ("op", "number"),
    [
        (Op.STATX, errno.ENOSYS),
        (Op.LSEEK, errno.ENOSYS),
        (Op.POLL, errno.ENOSYS),
        (Op.IOCTL, errno.ENOTTY),
        (Op.FLUSH, 0),
        (Op.FSYNC, 0),
        (Op.COPY_FILE_RANGE, errno.ENOSYS),
        (Op.SETLKW, errno.ENOSYS),
        (Op.TMPFILE, errno.ENOSYS),
        (63, errno.ENOSYS),
    ],
)
def test_other_operations_have_their_answers(kernel: FakeKernel, op: int, number: int) -> None:
    """What is not ours to do is refused in the way that makes the kernel stop asking."""
    assert kernel.ask(op, bytes(64))[0] == number


@pytest.mark.announces("mount.failed")
def test_unknown_opcode_is_refused(kernel: FakeKernel) -> None:
    """An opcode of a later protocol fails by itself."""
    assert kernel.ask(4096, bytes(64))[0] == errno.EIO


def test_long_name_is_refused(kernel: FakeKernel) -> None:
    """256 bytes are too long a name, though the kernel would let them pass."""
    assert kernel.ask(Op.LOOKUP, b"n" * 256 + b"\0")[0] == errno.ENAMETOOLONG
