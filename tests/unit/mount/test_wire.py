"""The structures have the sizes that the kernel's header gives them."""

from __future__ import annotations

import pytest

from syndd.mount import wire


@pytest.mark.parametrize(
    ("struct", "size"),
    [
        (wire.IN_HEADER, 40),
        (wire.OUT_HEADER, 16),
        (wire.ENTRY_REPLY, 16 + 128),
        (wire.ATTR_REPLY, 16 + 104),
        (wire.OPEN_REPLY, 16 + 16),
        (wire.INIT_REPLY, 16 + 64),
        (wire.STATFS_REPLY, 16 + 80),
        (wire.GETXATTR_REPLY, 16 + 8),
        (wire.DIRENT[1], 24 + 8),
        (wire.DIRENTPLUS[1], 128 + 24 + 8),
        (wire.WRITE_REPLY, 16 + 8),
        (wire.SETATTR_IN, 88),
        (wire.MKNOD_IN, 16),
        (wire.MKDIR_IN, 8),
        (wire.CREATE_IN, 16),
        (wire.RENAME2_IN, 16),
        (wire.INVAL_INODE, 16 + 24),
        (wire.INVAL_ENTRY, 16 + 16),
        (wire.DELETE, 16 + 24),
        (wire.BACKING_MAP, 16),
    ],
)
def test_sizes_are_the_headers(struct: object, size: int) -> None:
    """A wrong size would be refused by the kernel, or read as something else."""
    assert struct.size == size  # type: ignore[attr-defined]


def test_longest_name_has_a_structure() -> None:
    """255 bytes fit, padded to 64 bits."""
    assert len(wire.DIRENT) == wire.padded(wire.NAME_MAX) // 8 + 1
    assert wire.DIRENT[-1].size == wire.DIRENT_HEAD + 256
