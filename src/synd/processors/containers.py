"""What a file is packed in, told by its first bytes, and its decoding with every check of integrity.

A cut file never looks like a whole one: where the end is not proved, StageFailed is raised.
"""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import os
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache
from typing import Any, BinaryIO, Protocol

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors import bgzf
from synd.processors.deflate import ENGINE, Engine

CHUNK_BYTES = 1 << 20
HEAD_BYTES = 64 << 10
"""How much `peek` gives."""

_XZ_MEMORY_BYTES = 1 << 30
"""What decoding xz may need: its own largest preset needs 65 MiB, a hostile file asks for more than there is."""
_RAW_BYTES = 128 << 10
"""Read at once. What follows a member is copied once per member, so not more."""
_BZIP2 = re.compile(rb"BZh[1-9]")
_GZIP_MAGIC = b"\x1f\x8b"


class Container(StrEnum):
    """The outer packing."""

    NONE = "none"
    GZIP = "gzip"
    BGZF = "bgzf"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"
    ZIP = "zip"
    """An archive: never looked into."""
    CRAM = "cram"
    """Its own packing: passed on as it is."""


_XZ_MAGIC = b"\xfd7zXZ\x00"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAGIC = (
    (_XZ_MAGIC, Container.XZ),
    (_ZSTD_MAGIC, Container.ZSTD),
    (b"PK\x03\x04", Container.ZIP),
    (b"CRAM", Container.CRAM),
)
_AS_IT_IS = frozenset([Container.NONE, Container.CRAM])


def container_of(head: bytes) -> Container:
    """The packing that the first bytes tell (18 are enough)."""
    if head.startswith(_GZIP_MAGIC):
        return Container.GZIP if bgzf.block_size(head) is None else Container.BGZF
    if _BZIP2.match(head):
        return Container.BZIP2
    return next((found for magic, found in _MAGIC if head.startswith(magic)), Container.NONE)


class _Member(Protocol):
    """One member of a packed stream while it is decoded; the standard library's objects are such."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


class _GzipMember:
    """One of gzip: zlib gives back what it did not take, where the others keep it."""

    def __init__(self, engine: Engine) -> None:
        self._inflater = engine.inflater()

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        return self._inflater.decompress(self._inflater.unconsumed_tail + data, max_length)


class Decoder(Iterator[bytes]):
    """Iterates over the decoded bytes of a whole stream. Read to the end, all checks have been made.

    Raises StageFailed while iterating: SOURCE_TRUNCATED, SOURCE_CORRUPT, FORMAT_MISMATCH (packed twice, or an
    archive), TOOL_MISSING (zstd without a library for it), OUT_OF_MEMORY.
    """

    container: Container
    """As asked for; `gzip` from where a BGZF file turns out to hold what BGZF may not: settled at the end."""
    raw_bytes: int
    """Read from the file so far."""
    decoded_bytes: int
    """Given out so far."""

    def __init__(
        self,
        file: BinaryIO,
        container: Container,
        *,
        on_raw: Callable[[bytes], object] | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        engine: Engine = ENGINE,
    ) -> None:
        self.container = container
        self.raw_bytes = 0
        self.decoded_bytes = 0
        self._file = file
        self._on_raw = on_raw
        self._chunk_bytes = chunk_bytes
        self._engine = engine
        # Read already; decoded up to `_at`.
        self._buffer = b""
        self._at = 0
        self._pieces = self._decode()

    def __next__(self) -> bytes:
        first = self.decoded_bytes == 0 and self.container not in _AS_IT_IS
        wanted = max(self._chunk_bytes, bgzf.HEAD_BYTES) if first else self._chunk_bytes
        parts: list[bytes] = []
        size = 0
        while size < wanted and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            size += len(piece)
        if not parts:
            raise StopIteration
        chunk = parts[0] if len(parts) == 1 else b"".join(parts)
        if first:
            refuse_twice(chunk)
        self.decoded_bytes += size
        return chunk

    def pieces(self) -> Iterator[bytes]:
        """The same in pieces as they come, without a look at whether it is packed twice."""
        return self._pieces

    def _decode(self) -> Iterator[bytes]:
        match self.container:
            case Container.NONE | Container.CRAM:
                while piece := self._read():
                    yield piece
            case Container.ZIP:
                raise StageFailed(
                    "the file is a zip archive, which may hold any number of files",
                    failure=Failure.FORMAT_MISMATCH,
                )
            case Container.BGZF:
                yield from self._blocks()
            case Container.GZIP:
                yield from self._members(b"\x1f\x8b\x08", lambda: _GzipMember(self._engine))
            case Container.BZIP2:
                yield from self._members(b"BZh", bz2.BZ2Decompressor)
            case Container.XZ:
                yield from self._members(_XZ_MAGIC, _xz)
            case Container.ZSTD:
                yield from self._members(_ZSTD_MAGIC, _zstd())

    def _blocks(self) -> Iterator[bytes]:
        """BGZF. Blocks are cut out by their size, as one inflater for all would copy what is behind each."""
        last = b""
        while left := self._fill(bgzf.BLOCK_BYTES_MAX):
            size = bgzf.block_size(self._buffer[self._at : self._at + bgzf.BLOCK_BYTES_MAX])
            if size is None:
                if last and self._legal_in_gzip(left):
                    self.container = Container.GZIP
                    yield from self._members(
                        b"\x1f\x8b\x08", lambda: _GzipMember(self._engine), begun=True
                    )
                    return
                cut = left < bgzf.HEAD_BYTES and b"\x1f\x8b\x08\x04".startswith(
                    self._buffer[self._at : self._at + 4]
                )
                raise self._truncated() if cut else self._junk()
            if size > left:
                raise self._truncated()
            last = self._buffer[self._at : self._at + size]
            self._at += size
            if piece := bgzf.inflate_block(last, engine=self._engine):
                yield piece
        if last != bgzf.EOF_BLOCK:
            raise StageFailed(
                "the file lacks the empty block that BGZF ends in: it was cut",
                failure=Failure.SOURCE_TRUNCATED,
            )

    def _legal_in_gzip(self, left: int) -> bool:
        """Whether what stands where no block stands is padding, or a plain member."""
        head = self._buffer[self._at : self._at + bgzf.HEAD_BYTES]
        return head[0] == 0 or (left >= bgzf.HEAD_BYTES and head.startswith(_GZIP_MAGIC))

    def _members(
        self, magic: bytes, new: Callable[[], _Member], *, begun: bool = False
    ) -> Iterator[bytes]:
        """Members one behind the other, and zeros behind the last."""
        while (left := self._fill(len(magic))) or not begun:
            head = self._buffer[self._at : self._at + len(magic)]
            if begun and head[0] == 0:
                # In xz alone zeros may stand between members too.
                if self._skip_zeros() and self.container is not Container.XZ:
                    raise self._junk()
                continue
            if head != magic:
                cut = left < len(magic) and magic.startswith(head)
                raise self._truncated() if cut else self._junk()
            yield from self._member(new())
            begun = True

    def _member(self, member: _Member) -> Iterator[bytes]:
        errors: tuple[type[Exception], ...] = (
            *self._engine.errors,
            OSError,
            lzma.LZMAError,
            *_zstd_errors(),
        )
        data = self._take()
        while True:
            try:
                piece = member.decompress(data, self._chunk_bytes)
            except errors as error:
                raise self._damaged(error) from error
            if piece:
                yield piece
            if member.eof:
                break
            data = b"" if piece else self._read()
            if not (piece or data):
                raise self._truncated()
        # What it did not take is the beginning of what follows.
        self._buffer = member.unused_data
        self._at = 0

    def _skip_zeros(self) -> bool:
        """Whether anything stands behind the zeros that stand here."""
        while self._fill(1):
            rest = self._buffer[self._at :].lstrip(b"\0")
            self._buffer, self._at = rest, 0
            if rest:
                return True
        return False

    def _read(self) -> bytes:
        raw = self._file.read(_RAW_BYTES)
        if raw:
            self.raw_bytes += len(raw)
            if self._on_raw is not None:
                self._on_raw(raw)
        return raw

    def _fill(self, wanted: int) -> int:
        """How many bytes wait to be decoded: `wanted` at least, fewer only at the end of the file."""
        left = len(self._buffer) - self._at
        if left < wanted:
            parts = [self._buffer[self._at :]]
            while left < wanted and (raw := self._read()):
                parts.append(raw)
                left += len(raw)
            self._buffer, self._at = b"".join(parts), 0
        return left

    def _take(self) -> bytes:
        taken = self._buffer[self._at :]
        self._buffer, self._at = b"", 0
        return taken

    def _truncated(self) -> StageFailed:
        return StageFailed(
            f"the {self.container} stream ends before it is complete",
            failure=Failure.SOURCE_TRUNCATED,
        )

    def _junk(self) -> StageFailed:
        at = self.raw_bytes - len(self._buffer) + self._at
        return StageFailed(
            f"what stands at byte {at} of the {self.container} stream does not belong to it",
            failure=Failure.SOURCE_CORRUPT,
        )

    def _damaged(self, error: Exception) -> StageFailed:
        if "emory usage limit" in str(error):
            return StageFailed(
                f"decoding the {self.container} stream would take more than"
                f" {_XZ_MEMORY_BYTES >> 20} MiB of memory",
                failure=Failure.OUT_OF_MEMORY,
            )
        return StageFailed(
            f"the {self.container} stream is damaged: {error}", failure=Failure.SOURCE_CORRUPT
        )


def decoded(
    file: BinaryIO,
    container: Container,
    *,
    on_raw: Callable[[bytes], object] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Decoder:
    """The decoded bytes of the whole stream, in pieces of about `chunk_bytes`; see `Decoder`.

    `on_raw` sees every raw byte once, in order (a digest, a progress bar).
    """
    return Decoder(file, container, on_raw=on_raw, chunk_bytes=chunk_bytes)


def refuse_twice(data: bytes) -> None:
    """Raises StageFailed(FORMAT_MISMATCH) when decoded bytes are packed once more: one layer is all there may be."""
    inner = container_of(data[: bgzf.HEAD_BYTES])
    if inner is not Container.NONE:
        raise StageFailed(
            f"the file is packed twice: {inner} stands within", failure=Failure.FORMAT_MISMATCH
        )


def peek(head: bytes, container: Container) -> tuple[bytes, bool]:
    """What the first bytes of a file decode to, as far as they go (64 KiB at most), and whether that is known.

    Not known: no library for it, or not one byte could be decoded yet. Damage further on is not looked for.
    """
    pieces = Decoder(io.BytesIO(head), container, chunk_bytes=HEAD_BYTES).pieces()
    found = bytearray()
    try:
        for piece in pieces:
            found += piece
            if len(found) >= HEAD_BYTES:
                break
    except StageFailed:
        return bytes(found), bool(found)
    return bytes(found[:HEAD_BYTES]), True


def has_eof_block(path: str | os.PathLike[str]) -> bool:
    """Whether the last 28 bytes are BGZF's EOF block. Tools exit 0 on files that were cut between blocks."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(bgzf.EOF_BLOCK)))
        return file.read() == bgzf.EOF_BLOCK


def _xz() -> _Member:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)


@cache
def _zstd_module() -> Any:
    """The standard library's from Python 3.14 on, or the package that backports it; None: neither is here."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _zstd() -> Callable[[], _Member]:
    if (module := _zstd_module()) is None:
        raise StageFailed(
            "zstd cannot be decoded here",
            failure=Failure.TOOL_MISSING,
            hint="install backports.zstd",
        )
    new: Callable[[], _Member] = module.ZstdDecompressor
    return new


def _zstd_errors() -> tuple[type[Exception], ...]:
    return () if (module := _zstd_module()) is None else (module.ZstdError,)
