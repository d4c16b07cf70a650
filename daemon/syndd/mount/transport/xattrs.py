"""Requests about extended attributes. Only `user.` ones exist: others are refused without asking."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

from synd.errors import NotSupported
from syndd.mount import wire
from syndd.mount.ops import Filesystem
from syndd.mount.transport import replies
from syndd.mount.transport.requests import Handler, Requests, caller_of, name_at
from syndd.mount.wire import Op

PREFIX = b"user."


class Xattrs:
    """Reads and changes extended attributes."""

    def __init__(self, requests: Requests, fs: Filesystem, extended: Callable[[], bool]) -> None:
        """`extended`: whether SETXATTR comes with the longer head (SETXATTR_EXT)."""
        self._requests = requests
        self._fs = fs
        self._extended = extended

    def handlers(self) -> dict[int, Handler]:
        return {
            Op.GETXATTR: self._get,
            Op.LISTXATTR: self._list,
            Op.SETXATTR: self._set,
            Op.REMOVEXATTR: self._remove,
        }

    def _get(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        name = name_at(request, wire.GETXATTR_NAME)
        if not name.startswith(PREFIX):
            # `ls -l` asks every file for its ACL and its security label; told that the filesystem
            # has none, it asks only once.
            self._requests.error(unique, errno.EOPNOTSUPP)
            return
        (room, _) = wire.GETXATTR_IN.unpack_from(request, wire.BODY)
        answer = self._fs.getxattr(node, name)
        self._requests.answer(answer, unique, opcode, node, partial(self._value, room))

    def _list(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (room, _) = wire.GETXATTR_IN.unpack_from(request, wire.BODY)
        answer = self._fs.listxattr(node)
        self._requests.answer(answer, unique, opcode, node, partial(self._names, room))

    def _names(self, room: int, unique: int, names: list[bytes]) -> None:
        self._value(room, unique, b"".join(name + b"\0" for name in names))

    def _value(self, room: int, unique: int, value: bytes) -> None:
        size = len(value)
        if size > wire.XATTR_SIZE_MAX:
            self._requests.error(unique, errno.E2BIG)
        elif room == 0:
            self._requests.send(unique, replies.xattr_size(unique, size))
        elif size > room:
            self._requests.error(unique, errno.ERANGE)
        else:
            self._requests.send_data(unique, value)

    def _set(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        size, flags = wire.SETXATTR_IN.unpack_from(request, wire.BODY)
        at = wire.BODY + (wire.SETXATTR_EXT_SIZE if self._extended() else wire.SETXATTR_IN.size)
        name = name_at(request, at)
        _check(name)
        at += len(name) + 1
        answer = self._fs.setxattr(
            node, name, bytes(request[at : at + size]), flags, caller_of(request, unique)
        )
        self._requests.answer(answer, unique, opcode, node, self._requests.done)

    def _remove(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        name = name_at(request, wire.BODY)
        _check(name)
        answer = self._fs.removexattr(node, name, caller_of(request, unique))
        self._requests.answer(answer, unique, opcode, node, self._requests.done)


def _check(name: bytes) -> None:
    if not name.startswith(PREFIX):
        raise NotSupported("only user attributes can be set here")
