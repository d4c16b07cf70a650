"""Changes as the kernel asks for them: each field reaches the filesystem, each answer the kernel."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from synd.errors import Exists, NotFound, NotPermitted, ReadOnly, Stale
from syndd.mount import wire
from syndd.mount.handles import HandleTable
from syndd.mount.ops import Attr, Caller, DirEntry, Opened, SetAttr
from syndd.mount.transport.kernel import Negotiated
from syndd.mount.wire import Init, Op
from tests.fuse.trees import attr
from tests.support.fake_kernel import FakeKernel

WHO = {"uid": 7, "gid": 8}
FILE = attr(9, mode=stat.S_IFREG | 0o644)
FULL = Attr(
    9, 90, stat.S_IFREG | 0o640, 5000, 1_000_000_007, 2_000_000_009, 3, 1.0, 2.0,
    3_000_000_011, 71, 72, 0x0105, 16,
)  # fmt: skip


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    kernel = FakeKernel()
    yield kernel
    kernel.close()


def entry(answer: bytes) -> tuple[Any, ...]:
    return wire.ENTRY_REPLY.unpack(bytes(wire.OUT) + answer)[3:]


def setattr_in(valid: int, **given: int) -> bytes:
    names = [
        "fh", "size", "lock_owner", "atime", "mtime", "ctime", "atime_ns", "mtime_ns", "ctime_ns",
        "mode", "unused", "uid", "gid", "unused2",
    ]  # fmt: skip
    return wire.SETATTR_IN.pack(valid, 0, *(given.get(name, 0) for name in names))


@pytest.mark.parametrize(
    ("op", "body", "asked"),
    [
        (Op.MKDIR, wire.MKDIR_IN.pack(0o40755, 0o22) + b"d\0", ("mkdir", 5, b"d", 0o755)),
        (
            Op.MKNOD,
            wire.MKNOD_IN.pack(stat.S_IFIFO | 0o600, 3, 0o22, 0) + b"p\0",
            ("mknod", 5, b"p", stat.S_IFIFO | 0o600, 3),
        ),
        (Op.SYMLINK, b"name\0target/there\0", ("symlink", 5, b"name", b"target/there")),
        (Op.LINK, wire.LINK_IN.pack(77) + b"new\0", ("link", 77, 5, b"new")),
    ],
)
def test_new_name_is_asked_for_and_answered_as_an_entry(
    kernel: FakeKernel, op: Op, body: bytes, asked: tuple[Any, ...]
) -> None:
    """Parent, name, mode and caller arrive; node, owner, times and device go back."""
    kernel.fs.answers[asked[0]] = FULL

    unique = kernel.send(op, body, node=5, **WHO)
    _, error, answer = kernel.reply()

    umask = 0o22 if op in (Op.MKDIR, Op.MKNOD) else 0
    assert error == 0
    assert kernel.fs.changes == [(*asked, Caller(7, 8, umask, unique, False))]
    assert entry(answer)[6:] == (
        90, 5000, 16, 3, 1, 2, 11, 7, 9, stat.S_IFREG | 0o640, 3, 71, 72, 0x0105, 4096, 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("op", "body", "asked"),
    [
        (Op.UNLINK, b"name\0", ("unlink", 5, b"name")),
        (Op.RMDIR, b"name\0", ("rmdir", 5, b"name")),
        (Op.RENAME, wire.RENAME_IN.pack(6) + b"old\0new\0", ("rename", 5, b"old", 6, b"new", 0)),
        (
            Op.RENAME2,
            wire.RENAME2_IN.pack(6, 2, 0) + b"old\0new\0",
            ("rename", 5, b"old", 6, b"new", 2),
        ),
        (
            Op.SETXATTR,
            wire.SETXATTR_IN.pack(3, 1) + b"user.a\0v\0w",
            ("setxattr", 5, b"user.a", b"v\0w", 1),
        ),
        (Op.REMOVEXATTR, b"user.a\0", ("removexattr", 5, b"user.a")),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_change_is_asked_for_and_answered_empty(
    kernel: FakeKernel, op: Op, body: bytes, asked: tuple[Any, ...], later: bool
) -> None:
    """Names, flags and values arrive whole, from a request that was sent before too."""
    if later:
        done: Future[None] = Future()
        done.set_result(None)
        kernel.fs.answers[asked[0]] = done

    error, answer = kernel.ask(op, body, node=5, unique=wire.UNIQUE_RESEND | 44, **WHO)

    assert (error, answer) == (0, b"")
    assert kernel.fs.changes == [(*asked, Caller(7, 8, 0, 44, True))]


@pytest.mark.parametrize(
    ("op", "body", "number"),
    [
        (Op.LINK, wire.LINK_IN.pack(7) + b"n\0", errno.EPERM),
        (Op.SETXATTR, wire.SETXATTR_IN.pack(0, 0) + b"user.a\0", errno.ENODATA),
        (Op.REMOVEXATTR, b"user.a\0", errno.ENODATA),
        (Op.SETXATTR, wire.SETXATTR_IN.pack(0, 0) + b"trusted.a\0", errno.EOPNOTSUPP),
        (Op.REMOVEXATTR, b"system.posix_acl_access\0", errno.EOPNOTSUPP),
        (Op.MKDIR, wire.MKDIR_IN.pack(0, 0) + b"n\0", errno.EEXIST),
        (Op.UNLINK, b"n\0", errno.EROFS),
        (Op.SETATTR, setattr_in(wire.FATTR_SIZE), errno.ESTALE),
    ],
)
def test_refusals_have_their_errno(kernel: FakeKernel, op: Op, body: bytes, number: int) -> None:
    """The error table decides; a missing attribute is ENODATA, a foreign one EOPNOTSUPP."""
    kernel.fs.answers |= {
        "link": NotPermitted("no"),
        "setxattr": NotFound("no"),
        "removexattr": NotFound("no"),
        "mkdir": Exists("no"),
        "unlink": ReadOnly("no"),
        "setattr": Stale("no"),
    }

    assert kernel.ask(op, body)[0] == number


LONG = b"n" * 256 + b"\0"


@pytest.mark.parametrize(
    ("op", "body"),
    [
        (Op.MKDIR, bytes(8) + LONG),
        (Op.MKNOD, bytes(16) + LONG),
        (Op.CREATE, bytes(16) + LONG),
        (Op.SYMLINK, LONG + b"x\0"),
        (Op.LINK, bytes(8) + LONG),
        (Op.UNLINK, LONG),
        (Op.RMDIR, LONG),
        (Op.RENAME, bytes(8) + LONG + b"x\0"),
        (Op.RENAME, bytes(8) + b"x\0" + LONG),
        (Op.RENAME2, bytes(16) + b"x\0" + LONG),
    ],
)
def test_long_names_are_refused_unasked(kernel: FakeKernel, op: Op, body: bytes) -> None:
    """256 bytes are too long, as the first name and as the second."""
    assert kernel.ask(op, body)[0] == errno.ENAMETOOLONG
    assert kernel.fs.changes == []


def test_long_attribute_value_has_the_longer_head(kernel: FakeKernel) -> None:
    """Where SETXATTR_EXT was agreed, the name stands behind 16 bytes."""
    kernel.transport.negotiated = Negotiated(45, Init.SETXATTR_EXT, 1 << 20)

    kernel.ask(Op.SETXATTR, wire.SETXATTR_IN.pack(2, 0) + bytes(8) + b"user.a\0vv", node=5)

    assert kernel.fs.changes[0][:4] == ("setxattr", 5, b"user.a", b"vv")


def test_setattr_passes_on_what_is_valid(kernel: FakeKernel) -> None:
    """Each value only with its bit; times are signed and to the nanosecond; ctime is nobody's to set."""
    kernel.fs.answers["setattr"] = FULL
    every = {
        "fh": 4, "size": 1 << 40, "atime": -2, "mtime": 6, "ctime": 9, "atime_ns": 5, "mtime_ns": 7,
        "ctime_ns": 1, "mode": 0o104755, "uid": 11, "gid": 12,
    }  # fmt: skip
    bits = {
        wire.FATTR_MODE: SetAttr(mode=0o4755),
        wire.FATTR_UID: SetAttr(uid=11),
        wire.FATTR_GID: SetAttr(gid=12),
        wire.FATTR_SIZE: SetAttr(size=1 << 40),
        wire.FATTR_SIZE | wire.FATTR_FH: SetAttr(size=1 << 40, handle=4),
        wire.FATTR_ATIME: SetAttr(atime_ns=-1_999_999_995),
        wire.FATTR_MTIME: SetAttr(mtime_ns=6_000_000_007),
        1 << 10: SetAttr(),
    }
    answers = [kernel.ask(Op.SETATTR, setattr_in(valid, **every), node=5) for valid in bits]

    assert [change[2] for change in kernel.fs.changes] == list(bits.values())
    assert {error for error, _ in answers} == {0}
    assert wire.ATTR_REPLY.unpack(bytes(wire.OUT) + answers[0][1])[6:] == (
        90, 5000, 16, 3, 1, 2, 11, 7, 9, stat.S_IFREG | 0o640, 3, 71, 72, 0x0105, 4096, 0,
    )  # fmt: skip


def test_setattr_puts_in_the_present(kernel: FakeKernel) -> None:
    """ATIME_NOW and MTIME_NOW are the same moment, and beat what stands in the request."""
    kernel.fs.answers["setattr"] = FILE
    before = time.time_ns()
    valid = wire.FATTR_ATIME | wire.FATTR_MTIME | wire.FATTR_NOW
    kernel.ask(Op.SETATTR, setattr_in(valid, atime=1, mtime=2))

    change = kernel.fs.changes[0][2]
    assert before <= change.atime_ns == change.mtime_ns <= time.time_ns()


@pytest.mark.parametrize(
    ("mode", "becomes"),
    [
        (stat.S_IFREG | 0o6755, 0o755),
        (stat.S_IFREG | 0o2745, 0o2745),
        (stat.S_IFREG | 0o755, None),
        (stat.S_IFDIR | 0o6755, None),
    ],
)
def test_set_id_bits_go_when_the_kernel_says_so(
    kernel: FakeKernel, mode: int, becomes: int | None
) -> None:
    """FATTR_KILL_SUIDGID is a mode of its own, made from the present one."""
    kernel.fs.answers |= {"getattr": attr(5, mode=mode), "setattr": FILE}
    kernel.ask(Op.SETATTR, setattr_in(wire.FATTR_UID | wire.FATTR_KILL_SUIDGID, uid=3), node=5)

    expected = None if becomes == mode & 0o7777 else becomes
    assert kernel.fs.changes[0][2] == SetAttr(uid=3, mode=expected)


def create_in(flags: int = os.O_RDWR) -> bytes:
    return wire.CREATE_IN.pack(flags, stat.S_IFREG | 0o640, 0o27, 0) + b"new\0"


def created(answer: bytes) -> tuple[int, int, int, int]:
    """Node, handle, flags, backing."""
    handle, flags, backing = wire.OPEN_OUT.unpack_from(answer, 128)
    return entry(answer[:128])[0], handle, flags, backing


def test_create_is_an_entry_that_is_open(kernel: FakeKernel) -> None:
    """One answer for both, of 144 bytes; the filesystem knows the handle before the kernel does."""
    kernel.fs.answers["create"] = (FULL, Opened(counted=True))

    unique = kernel.send(Op.CREATE, create_in(), node=5, **WHO)
    _, error, answer = kernel.reply()

    node, handle, flags, backing = created(answer)
    assert (error, len(answer), node, backing) == (0, 144, 9, 0)
    assert flags == wire.FOPEN_KEEP_CACHE
    assert kernel.fs.told == [(9, handle)]
    assert kernel.fs.changes == [
        ("create", 5, b"new", 0o640, os.O_RDWR, Caller(7, 8, 0o27, unique, False))
    ]


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_only_what_is_counted_or_writable_is_flushed(
    kernel: FakeKernel, flags: int, counted: bool
) -> None:
    """A reader's close is no request, unless the filesystem wants it."""
    kernel.fs.answers["open"] = Opened(counted=counted, keep_cache=False)
    _, answer = kernel.ask(Op.OPEN, wire.OPEN_IN.pack(flags, 0), node=5)

    handle, given, _ = wire.OPEN_OUT.unpack(answer)
    assert given == (0 if counted or flags else wire.FOPEN_NOFLUSH)
    assert kernel.fs.told == ([(5, handle)] if counted else [])


def test_inherited_files_are_told_before_the_first_request(tmp_path: Path) -> None:
    """The filesystem hears of each handle that an earlier daemon left, when the table is given."""
    path = tmp_path / "handles"
    with HandleTable(path, 1, close_backing=lambda _: None) as table:
        numbers = [
            table.open(node, 2 * node, direct=False, register=None).number for node in (5, 6)
        ]
    kernel = FakeKernel()
    try:
        kernel.transport.use(HandleTable(path, 1, close_backing=lambda _: None, inherited=True))
        assert kernel.fs.told == [(5, numbers[0]), (6, numbers[1])]
    finally:
        kernel.close()


@pytest.mark.parametrize("op", [Op.OPEN, Op.CREATE])
def test_resent_opening_gets_the_handle_it_had(tmp_path: Path, op: Op) -> None:
    """A handle that was made and whose answer was lost is answered, not made again; the second
    descriptor is closed, and the kernel is asked to flush."""
    path = tmp_path / "handles"
    with HandleTable(path, 1, close_backing=lambda _: None) as table:
        number = table.open(9, 40, direct=False, register=None).number
    kernel = FakeKernel()
    try:
        kernel.transport.use(HandleTable(path, 1, close_backing=lambda _: None, inherited=True))
        spare = os.open(os.devnull, os.O_RDONLY)
        kernel.fs.answers["create"] = (FULL, Opened(backing=spare, counted=True))
        body = create_in() if op == Op.CREATE else wire.OPEN_IN.pack(os.O_RDONLY, 0)
        _, answer = kernel.ask(op, body, node=9, unique=wire.UNIQUE_RESEND | 40)
        handle, flags, _ = wire.OPEN_OUT.unpack_from(answer, len(answer) - 16)

        assert (handle, flags & wire.FOPEN_NOFLUSH) == (number, 0)
        assert kernel.transport.open_handles() == 1
        assert kernel.fs.told == [(9, number)]
        if op == Op.CREATE:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(spare)
        else:
            os.close(spare)
    finally:
        kernel.close()


def test_resent_creation_of_another_node_makes_a_handle(tmp_path: Path) -> None:
    """A recorded handle of a node that the creation does not lead to is let go."""
    path = tmp_path / "handles"
    with HandleTable(path, 1, close_backing=lambda _: None) as table:
        number = table.open(8, 40, direct=False, register=None).number
    kernel = FakeKernel()
    try:
        kernel.transport.use(HandleTable(path, 1, close_backing=lambda _: None, inherited=True))
        kernel.fs.answers["create"] = (FULL, Opened())
        _, answer = kernel.ask(Op.CREATE, create_in(), unique=wire.UNIQUE_RESEND | 40)

        assert created(answer)[1] != number
        assert kernel.fs.released == [number]
    finally:
        kernel.close()


def write_in(data: bytes, flags: int = 0) -> bytes:
    return wire.WRITE_IN.pack(3, 1 << 33, len(data), flags) + bytes(16) + data


def test_write_hands_over_the_bytes_for_the_time_of_the_call(kernel: FakeKernel) -> None:
    """The bytes arrive whole; what is kept of the buffer afterwards cannot be read any more."""
    data = os.urandom(100_000)
    kernel.fs.answers["write"] = len(data)
    error, answer = kernel.ask(Op.WRITE, write_in(data), node=5)

    assert (error, answer) == (0, len(data).to_bytes(8, "little"))
    assert kernel.fs.changes == [("write", 5, 3, 1 << 33, data)]
    with pytest.raises(ValueError, match="released"):
        kernel.fs.views[0].tolist()


def test_unprivileged_write_takes_the_bits_off(kernel: FakeKernel) -> None:
    """WRITE_KILL_SUIDGID changes the mode as well; the count is the answer."""
    kernel.fs.answers |= {
        "write": 2,
        "getattr": attr(5, mode=stat.S_IFREG | 0o4711),
        "setattr": FILE,
    }
    _, answer = kernel.ask(Op.WRITE, write_in(b"ab", wire.WRITE_KILL_SUIDGID), node=5, **WHO)

    assert answer[:4] == (2).to_bytes(4, "little")
    assert kernel.fs.changes[1] == ("setattr", 5, SetAttr(mode=0o711), Caller(7, 8))


@pytest.mark.parametrize(
    ("op", "body", "asked"),
    [
        (Op.FLUSH, wire.FLUSH_IN.pack(3) + bytes(16), ("flush", 5, 3)),
        (Op.FSYNC, wire.FSYNC_IN.pack(3) + bytes(8), ("fsync", 5, 3)),
        (Op.FSYNCDIR, wire.FSYNC_IN.pack(3) + bytes(8), ("fsyncdir", 5)),
        (
            Op.FALLOCATE,
            wire.FALLOCATE_IN.pack(3, 10, 20, 1) + bytes(4),
            ("fallocate", 5, 3, 1, 10, 20),
        ),
    ],
)
def test_open_file_is_flushed_synced_and_allocated(
    kernel: FakeKernel, op: Op, body: bytes, asked: tuple[Any, ...]
) -> None:
    """The answer waits for the filesystem's."""
    waiting: Future[None] = Future()
    kernel.fs.answers[asked[0]] = waiting
    unique = kernel.send(op, body, node=5)
    kernel.fs.answers["getattr"] = FILE
    served = kernel.ask(Op.GETATTR, bytes(16))[0]
    waiting.set_result(None)

    assert (served, kernel.reply()) == (0, (unique, 0, b""))
    assert kernel.fs.changes == [asked]


def test_interrupted_change_that_has_begun_is_answered_by_its_result(kernel: FakeKernel) -> None:
    """Once it cannot be called off, EINTR would be a lie."""
    waiting: Future[None] = Future()
    waiting.set_running_or_notify_cancel()
    kernel.fs.answers["unlink"] = waiting
    unique = kernel.send(Op.UNLINK, b"name\0")
    kernel.send(Op.INTERRUPT, wire.INTERRUPT_IN.pack(unique), unique=unique | 1)
    kernel.settle()
    waiting.set_result(None)

    assert kernel.reply() == (unique, 0, b"")


def test_interrupted_change_that_has_not_begun_is_called_off(kernel: FakeKernel) -> None:
    """It is cancelled, answered with EINTR, and never carried out."""
    waiting: Future[None] = Future()
    kernel.fs.answers["unlink"] = waiting
    unique = kernel.send(Op.UNLINK, b"name\0")
    kernel.send(Op.INTERRUPT, wire.INTERRUPT_IN.pack(unique), unique=unique | 1)

    assert kernel.reply() == (unique, errno.EINTR, b"")
    assert waiting.cancelled()


def test_flush_is_never_interrupted(kernel: FakeKernel) -> None:
    """Nobody calls close again, so its answer is waited for."""
    waiting: Future[None] = Future()
    kernel.fs.answers["flush"] = waiting
    unique = kernel.send(Op.FLUSH, bytes(24))
    kernel.send(Op.INTERRUPT, wire.INTERRUPT_IN.pack(unique), unique=unique | 1)
    kernel.settle()

    assert not waiting.cancelled()
    waiting.set_result(None)
    assert kernel.reply() == (unique, 0, b"")


def test_listing_shows_owner_time_and_room(kernel: FakeKernel) -> None:
    """READDIRPLUS has what a look-up has, and the mount's own where nothing is said."""
    kernel.fs.answers |= {
        "getattr": attr(1, mode=stat.S_IFDIR),
        "readdir": [
            DirEntry(b"full", 1, 90, FULL.mode, FULL),
            DirEntry(b"bare", 2, 9, FILE.mode, FILE),
        ],
    }
    _, body = kernel.ask(Op.READDIRPLUS, wire.READ_IN.pack(3, 2, 4096) + bytes(20))

    full, bare = (entry(body[at : at + 128]) for at in (0, wire.DIRENTPLUS_HEAD + 8))
    assert full[6:] == (
        90, 5000, 16, 3, 1, 2, 11, 7, 9, stat.S_IFREG | 0o640, 3, 71, 72, 0x0105, 4096, 0,
    )  # fmt: skip
    assert (bare[8], bare[9] == bare[10], bare[17:20]) == (0, True, (10, 20, 0))
