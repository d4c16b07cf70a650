"""Deflate, by isal where it is installed (3 to 4 times faster), else by zlib.

The two read the same, and write different bytes: which one wrote belongs to the toolchain of an artifact.
"""

from __future__ import annotations

import importlib
import zlib
from dataclasses import dataclass
from typing import Any, Protocol

GZIP_WBITS = 31
RAW_WBITS = -15


class Inflater(Protocol):
    """A decompression object as `zlib` has them."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """One library."""

    name: str
    """With its version, for the toolchain."""
    errors: tuple[type[Exception], ...]
    """What it raises on bad data."""
    fast: bool
    """Its best level costs less than zlib's level 4."""
    module: Any

    def inflater(self) -> Inflater:
        """Decodes one gzip member, and checks its header, CRC and length."""
        found: Inflater = self.module.decompressobj(GZIP_WBITS)
        return found

    def crc32(self, data: bytes) -> int:
        value: int = self.module.crc32(data)
        return value

    def deflate(self, data: bytes, level: int) -> bytes:
        """Raw deflate of `data` at about a level of zlib's.

        Up to 4, isal's best: faster than any of zlib's and about as small as its level 3. Above, zlib's own,
        as isal has nothing smaller; below 4 zlib gains little time and loses much room.
        """
        if self.fast and level <= 4:
            packed: bytes = self.module.compress(data, 3, RAW_WBITS)
            return packed
        return zlib.compress(data, max(level, 4), RAW_WBITS)


ZLIB = Engine(f"zlib {zlib.ZLIB_RUNTIME_VERSION}", (zlib.error,), fast=False, module=zlib)


def _isal() -> Engine | None:
    try:
        module = importlib.import_module("isal.isal_zlib")
    except ImportError:
        return None
    # importlib.metadata would cost each worker 30 ms.
    version = importlib.import_module("isal").__version__
    return Engine(f"isal {version}", (module.IsalError, zlib.error), fast=True, module=module)


ISAL = _isal()
ENGINE = ISAL or ZLIB
"""What is used unless another is asked for."""
