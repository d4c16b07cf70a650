"""BGZF: gzip members of at most 64 KiB whose headers tell their length, so that one can seek.

Source: section 4.1 of the SAM specification. A virtual offset is (place of the block << 16) | place in its data.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors.deflate import ENGINE, Engine

EOF_BLOCK = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that a whole file ends in."""

BLOCK_DATA_BYTES = 65280
"""Data per block, as htslib has it: incompressible, it still fits a block."""
BLOCK_BYTES_MAX = 1 << 16
HEAD_BYTES = 18
"""A block's header in all files that tools write; more only when it has further subfields."""

_HEADER = struct.Struct("<4sIBBHccHH")
_TRAILER = struct.Struct("<II")
_STORED_MAX = 65535
_BATCH_BLOCKS = 16
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """Where one block lies."""

    offset: int
    """Of its first byte in the file."""
    size: int
    """Bytes in the file, header and trailer included."""
    data_size: int
    """Bytes it holds when decoded."""


class BgzfWriter:
    """Writes BGZF to `file`. The bytes depend on the level and the library, never on the number of threads."""

    def __init__(
        self, file: BinaryIO, level: int = 1, threads: int = 1, *, engine: Engine = ENGINE
    ) -> None:
        """`level`: 1 to 9, as SYND_BGZF_LEVEL. `file` stays the caller's to close."""
        if not 1 <= level <= 9:
            raise ValueError(f"level {level} is not from 1 to 9")
        self._file = file
        self._level = level
        self._engine = engine
        self._rest = bytearray()
        self._closed = False
        # One thread: the caller's. The libraries give way (GIL) while they work.
        self._pool = ThreadPoolExecutor(threads, "bgzf") if threads > 1 else None
        self._waiting_max = threads * 2
        self._waiting: deque[Future[bytes]] = deque()

    def write(self, data: bytes) -> None:
        if self._closed:
            raise ValueError("the writer is closed")
        self._rest += data
        batch = BLOCK_DATA_BYTES * _BATCH_BLOCKS
        whole = len(self._rest) // batch * batch
        for at in range(0, whole, batch):
            self._put(bytes(self._rest[at : at + batch]))
        del self._rest[:whole]

    def close(self) -> None:
        """Writes what is left, and the EOF block. The file stays open."""
        if self._closed:
            return
        try:
            if self._rest:
                self._put(bytes(self._rest))
            self._write_out(0)
            self._file.write(EOF_BLOCK)
        finally:
            self.abort()

    def abort(self) -> None:
        """Drops what is left and writes no EOF block: the file tells that it is not whole."""
        self._closed = True
        self._rest.clear()
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes; aborts when leaving by an exception."""
        if kind is None:
            self.close()
        else:
            self.abort()

    def _put(self, batch: bytes) -> None:
        if self._pool is None:
            self._file.write(self._packed(batch))
            return
        self._waiting.append(self._pool.submit(self._packed, batch))
        self._write_out(self._waiting_max)

    def _write_out(self, left: int) -> None:
        """Writes what is packed, in order, until at most `left` batches are on their way."""
        while len(self._waiting) > left:
            self._file.write(self._waiting.popleft().result())

    def _packed(self, batch: bytes) -> bytes:
        return b"".join(
            deflate_block(batch[at : at + BLOCK_DATA_BYTES], self._level, engine=self._engine)
            for at in range(0, len(batch), BLOCK_DATA_BYTES)
        )


def deflate_block(data: bytes, level: int, *, engine: Engine = ENGINE) -> bytes:
    """One block of at most `BLOCK_DATA_BYTES` of data."""
    packed = engine.deflate(data, level)
    size = _HEADER.size + len(packed) + _TRAILER.size
    if size > BLOCK_BYTES_MAX:
        # Incompressible: one stored part, five bytes longer than the data.
        packed = struct.pack("<BHH", 1, len(data), len(data) ^ _STORED_MAX) + data
        size = _HEADER.size + len(packed) + _TRAILER.size
    header = _HEADER.pack(b"\x1f\x8b\x08\x04", 0, 0, 0xFF, 6, b"B", b"C", 2, size - 1)
    return header + packed + _TRAILER.pack(engine.crc32(data), len(data))


def blocks(file: BinaryIO) -> Iterator[Block]:
    """Every block from the file's position on, the EOF block too; nothing is decoded.

    Raises StageFailed: SOURCE_TRUNCATED when the last block is cut, SOURCE_CORRUPT where no block stands.
    """
    offset = file.tell()
    buffer = b""
    at = 0
    while True:
        size = block_size(buffer[at : at + HEAD_BYTES])
        if size is None and len(buffer) - at >= HEAD_BYTES:
            # Further subfields may stand before the one that counts.
            size = block_size(buffer[at : at + BLOCK_BYTES_MAX])
        if size is None or len(buffer) - at < size:
            more = file.read(_READ_BYTES)
            if more:
                buffer = buffer[at:] + more
                at = 0
                continue
            if at == len(buffer):
                return
            if size is None and not _may_begin_a_block(buffer[at:]):
                raise _no_block(offset)
            raise _cut(offset)
        (data_size,) = struct.unpack_from("<I", buffer, at + size - 4)
        if data_size > BLOCK_BYTES_MAX:
            raise _no_block(offset)
        yield Block(offset, size, data_size)
        at += size
        offset += size


def read_at(file: BinaryIO, virtual_offset: int, n: int) -> bytes:
    """Up to `n` decoded bytes from a virtual offset on; fewer at the end of the file. Checks each block's CRC.

    Raises StageFailed as `blocks` does.
    """
    offset, within = virtual_offset >> 16, virtual_offset & 0xFFFF
    found = bytearray()
    while len(found) < n + within:
        block = read_block(file, offset)
        if not block:
            break
        found += inflate_block(block)
        offset += len(block)
    return bytes(found[within : within + n])


def read_block(file: BinaryIO, offset: int) -> bytes:
    """The whole block that begins at `offset`; empty at the end of the file.

    Raises StageFailed as `blocks` does.
    """
    file.seek(offset)
    head = file.read(BLOCK_BYTES_MAX)
    if not head:
        return b""
    size = block_size(head)
    if size is None:
        raise _cut(offset) if _may_begin_a_block(head) else _no_block(offset)
    if size > len(head):
        raise _cut(offset)
    return head[:size]


def block_size(head: bytes) -> int | None:
    """The size that a BGZF block's header tells; None: it is no BGZF header, or not all of it is here."""
    if len(head) < HEAD_BYTES or head[:3] != b"\x1f\x8b\x08" or not head[3] & 4:
        return None
    end = 12 + int.from_bytes(head[10:12], "little")
    at = 12
    while at + 4 <= min(end, len(head)):
        length = int.from_bytes(head[at + 2 : at + 4], "little")
        if head[at : at + 2] == b"BC" and length == 2:
            return (
                int.from_bytes(head[at + 4 : at + 6], "little") + 1 if at + 6 <= len(head) else None
            )
        at += 4 + length
    return None


def inflate_block(block: bytes, *, engine: Engine = ENGINE) -> bytes:
    """The data of one whole block. Raises StageFailed(SOURCE_CORRUPT) when it, or its CRC, is bad."""
    inflater = engine.inflater()
    try:
        data = inflater.decompress(block, BLOCK_BYTES_MAX + 1)
    except engine.errors as error:
        raise StageFailed(
            f"a BGZF block is damaged: {error}", failure=Failure.SOURCE_CORRUPT
        ) from error
    # More data than a block may hold, or a length in the header that is not the block's own.
    if not inflater.eof or inflater.unused_data:
        raise StageFailed(
            "a BGZF block is not as long as its header says", failure=Failure.SOURCE_CORRUPT
        )
    return data


def _may_begin_a_block(head: bytes) -> bool:
    """Whether so few bytes can be the beginning of a block that was cut."""
    return len(head) < HEAD_BYTES and b"\x1f\x8b\x08\x04".startswith(head[:4])


def _no_block(offset: int) -> StageFailed:
    return StageFailed(f"no BGZF block stands at byte {offset}", failure=Failure.SOURCE_CORRUPT)


def _cut(offset: int) -> StageFailed:
    return StageFailed(f"the BGZF block at byte {offset} is cut", failure=Failure.SOURCE_TRUNCATED)
