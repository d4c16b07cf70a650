"""Requests that change the tree: attributes, and names that come, go and move."""

from __future__ import annotations

import stat
import time
from functools import partial

from syndd.mount import wire
from syndd.mount.ops import Answer, Attr, Caller, Filesystem, SetAttr
from syndd.mount.transport import replies
from syndd.mount.transport.requests import Handler, Requests, caller_of, name_at
from syndd.mount.wire import Op

_NS = 1_000_000_000
_PERMISSIONS = 0o7777


class Changes:
    """Has the filesystem make changes, and tells the kernel what came of them."""

    def __init__(self, requests: Requests, fs: Filesystem, *, uid: int, gid: int) -> None:
        self._requests = requests
        self._fs = fs
        self._uid = uid
        self._gid = gid

    def handlers(self) -> dict[int, Handler]:
        return {
            Op.SETATTR: self._setattr,
            Op.SYMLINK: self._symlink,
            Op.MKNOD: self._mknod,
            Op.MKDIR: self._mkdir,
            Op.UNLINK: self._unlink,
            Op.RMDIR: self._rmdir,
            Op.RENAME: self._rename,
            Op.RENAME2: self._rename2,
            Op.LINK: self._link,
        }

    # Attributes.

    def _setattr(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (
            valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _,
        ) = wire.SETATTR_IN.unpack_from(request, wire.BODY)  # fmt: skip
        now = time.time_ns() if valid & wire.FATTR_NOW else 0
        change = SetAttr(
            mode=mode & _PERMISSIONS if valid & wire.FATTR_MODE else None,
            uid=uid if valid & wire.FATTR_UID else None,
            gid=gid if valid & wire.FATTR_GID else None,
            size=size if valid & wire.FATTR_SIZE else None,
            atime_ns=_time(valid, wire.FATTR_ATIME, wire.FATTR_ATIME_NOW, now, atime, atime_ns),
            mtime_ns=_time(valid, wire.FATTR_MTIME, wire.FATTR_MTIME_NOW, now, mtime, mtime_ns),
            handle=handle if valid & wire.FATTR_FH else None,
        )
        caller = caller_of(request, unique)
        if valid & wire.FATTR_KILL_SUIDGID and change.mode is None:
            finish = partial(self._setattr_unprivileged, node, change, caller)
            self._requests.answer(self._fs.getattr(node), unique, opcode, node, finish)
        else:
            self._setattr_now(unique, node, change, caller)

    def _setattr_unprivileged(
        self, node: int, change: SetAttr, caller: Caller, unique: int, attr: Attr
    ) -> None:
        mode = unprivileged(attr.mode)
        if mode is not None:
            change = change._replace(mode=mode)
        self._setattr_now(unique, node, change, caller)

    def _setattr_now(self, unique: int, node: int, change: SetAttr, caller: Caller) -> None:
        answer = self._fs.setattr(node, change, caller)
        self._requests.answer(answer, unique, Op.SETATTR, node, self._attributes)

    def _attributes(self, unique: int, attr: Attr) -> None:
        self._requests.send(unique, replies.attributes(unique, attr, self._uid, self._gid))

    # Names.

    def _made(self, answer: Answer[Attr], unique: int, opcode: int, node: int) -> None:
        self._requests.answer(answer, unique, opcode, node, self._entry)

    def _entry(self, unique: int, attr: Attr) -> None:
        self._requests.send(unique, replies.entry(unique, attr, self._uid, self._gid))

    def _changed(self, answer: Answer[None], unique: int, opcode: int, node: int) -> None:
        self._requests.answer(answer, unique, opcode, node, self._requests.done)

    def _symlink(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        name = name_at(request, wire.BODY)
        at = wire.BODY + len(name) + 1
        target = bytes(request[at : request.index(0, at)])
        answer = self._fs.symlink(node, name, target, caller_of(request, unique))
        self._made(answer, unique, opcode, node)

    def _mknod(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        mode, rdev, umask, _ = wire.MKNOD_IN.unpack_from(request, wire.BODY)
        name = name_at(request, wire.BODY + wire.MKNOD_IN.size)
        answer = self._fs.mknod(node, name, mode, rdev, caller_of(request, unique, umask))
        self._made(answer, unique, opcode, node)

    def _mkdir(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        mode, umask = wire.MKDIR_IN.unpack_from(request, wire.BODY)
        name = name_at(request, wire.BODY + wire.MKDIR_IN.size)
        answer = self._fs.mkdir(node, name, mode & _PERMISSIONS, caller_of(request, unique, umask))
        self._made(answer, unique, opcode, node)

    def _link(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (linked,) = wire.LINK_IN.unpack_from(request, wire.BODY)
        name = name_at(request, wire.BODY + wire.LINK_IN.size)
        answer = self._fs.link(linked, node, name, caller_of(request, unique))
        self._made(answer, unique, opcode, node)

    def _unlink(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        answer = self._fs.unlink(node, name_at(request, wire.BODY), caller_of(request, unique))
        self._changed(answer, unique, opcode, node)

    def _rmdir(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        answer = self._fs.rmdir(node, name_at(request, wire.BODY), caller_of(request, unique))
        self._changed(answer, unique, opcode, node)

    def _rename(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (to,) = wire.RENAME_IN.unpack_from(request, wire.BODY)
        self._move(request, unique, node, opcode, to, 0, wire.BODY + wire.RENAME_IN.size)

    def _rename2(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        to, flags, _ = wire.RENAME2_IN.unpack_from(request, wire.BODY)
        self._move(request, unique, node, opcode, to, flags, wire.BODY + wire.RENAME2_IN.size)

    def _move(
        self, request: bytearray, unique: int, node: int, opcode: int, to: int, flags: int, at: int
    ) -> None:
        name = name_at(request, at)
        new_name = name_at(request, at + len(name) + 1)
        caller = caller_of(request, unique)
        answer = self._fs.rename(node, name, to, new_name, flags, caller)
        self._changed(answer, unique, opcode, node)


def _time(valid: int, given: int, present: int, now: int, seconds: int, ns: int) -> int | None:
    if valid & present:
        return now
    return seconds * _NS + ns if valid & given else None


def unprivileged(mode: int) -> int | None:
    """The permissions that are left when somebody without privilege changes a file's bytes or owner.

    None when nothing changes. As the kernel's setattr_should_drop_suidgid: set-group-id without the
    right to execute for the group means something else (mandatory locks), and stays.
    """
    kept = mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        kept &= ~stat.S_ISGID
    return None if kept == mode or stat.S_ISDIR(mode) else kept & _PERMISSIONS
