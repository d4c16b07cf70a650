# handlers of one table have one signature
# ruff: noqa: ARG002  # handlers of one table have one signature
"""Requests about names and what they lead to: look-ups, attributes, links, the room there is."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from synd.log import fields
from syndd.mount import wire
from syndd.mount.ops import Attr, Filesystem
from syndd.mount.transport import replies
from syndd.mount.transport.requests import Handler, Requests, name_at
from syndd.mount.wire import Op

log = logging.getLogger(__name__)


class Names:
    """Answers by asking the filesystem, and changes nothing."""

    def __init__(
        self,
        requests: Requests,
        fs: Filesystem,
        *,
        uid: int,
        gid: int,
        forgotten: Callable[[int], None],
    ) -> None:
        """`forgotten` hears of nodes of which the kernel keeps less, or nothing."""
        self._requests = requests
        self._fs = fs
        self._forgotten = forgotten
        self._uid = uid
        self._gid = gid

    def handlers(self) -> dict[int, Handler]:
        return {
            Op.LOOKUP: self._lookup,
            Op.FORGET: self._forget,
            Op.BATCH_FORGET: self._batch_forget,
            Op.GETATTR: self._getattr,
            Op.READLINK: self._readlink,
            Op.ACCESS: self._access,
            Op.STATFS: self._statfs,
        }

    def _lookup(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        answer = self._fs.lookup(node, name_at(request, 40))
        self._requests.answer(answer, unique, opcode, node, self._entry)

    def _entry(self, unique: int, attr: Attr) -> None:
        self._requests.send(unique, replies.entry(unique, attr, self._uid, self._gid))

    def _getattr(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        self._requests.answer(self._fs.getattr(node), unique, opcode, node, self._attributes)

    def _attributes(self, unique: int, attr: Attr) -> None:
        self._requests.send(unique, replies.attributes(unique, attr, self._uid, self._gid))

    def _readlink(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        answer = self._fs.readlink(node)
        self._requests.answer(answer, unique, opcode, node, self._requests.send_data)

    def _forget(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (lookups,) = wire.FORGET_IN.unpack_from(request, wire.BODY)
        self._forget_one(node, lookups)

    def _batch_forget(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        count, _ = wire.BATCH_FORGET_IN.unpack_from(request, wire.BODY)
        start = wire.BODY + wire.BATCH_FORGET_IN.size
        with memoryview(request) as view:
            for forgotten, lookups in wire.FORGET_ONE.iter_unpack(
                view[start : start + count * wire.FORGET_ONE.size]
            ):
                self._forget_one(forgotten, lookups)

    def _forget_one(self, node: int, lookups: int) -> None:
        self._forgotten(node)
        # Nobody waits for an answer, so there is nobody to tell.
        try:
            self._fs.forget(node, lookups)
        except Exception:
            log.exception("mount.failed", extra=fields(operation="forget", node=node))

    def _access(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (mask,) = wire.ACCESS_IN.unpack_from(request, wire.BODY)
        answer = self._fs.access(node) if mask & os.W_OK else None
        self._requests.answer(answer, unique, opcode, node, self._requests.done)

    def _statfs(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        self._requests.send(unique, replies.statfs(unique, self._fs.statfs()))
