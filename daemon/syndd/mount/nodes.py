"""Node numbers: what each of the kernel's 64-bit node numbers names, and nothing else.

A node is one content of one entity, so the number holds the entity and its version; it means the
same after a restart, and no table of live nodes is needed, however many the kernel remembers.

    63…60 kind · 59…40 version · 39…0 entity
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from synd.ids import EntityId
from syndd.mount.ops import ROOT

_ENTITY_BITS = 40
_VERSION_BITS = 20
_ENTITY_MASK = (1 << _ENTITY_BITS) - 1
_VERSION_MASK = (1 << _VERSION_BITS) - 1
_KIND_SHIFT = _ENTITY_BITS + _VERSION_BITS

BY_ID = 2
"""The node of ``@id``."""


class NodeKind(IntEnum):
    """What a node is."""

    SPECIAL = 0
    """ROOT and BY_ID."""
    ENTITY = 1
    """An entity as its folder shows it; `version` 0 for what has none."""
    VERSION = 2
    """``FILE@3``: one version of a file, for ever."""
    VERSIONS = 3
    """``@versions`` of the folder `entity` (0: the top)."""
    FILE_VERSIONS = 4
    """``@versions/FILE``: the versions of the file `entity`."""
    INFO = 5
    """``@info`` of the folder `entity` (0: the top)."""
    INFO_FILE = 6
    """``@info/NAME.json`` about `entity`."""
    STAGED = 7
    """A staging file, by its number in `entity`: the bytes of an edit."""
    LOCAL = 8
    """A symlink, pipe, socket or device that was made here, by its local number in `entity`."""
    READY = 9
    """``@ready`` of the folder `entity` (0: the top); with a `version`, what is to be made of the file with
    that key: its data (1), its index (2), or what belongs to that (3)."""
    READY_SOURCE = 10
    """``@ready/FILE`` of a file that is read as it is."""
    READY_DATA = 11
    """What was made of a version of `entity`: one content, which may be evicted and made again."""
    READY_INDEX = 12
    """The index of that."""
    READY_EXTRA = 13
    """What belongs to the index: the block index of compressed sequences."""
    VALIDATION = 14
    """``@info/NAME.validation.json`` about the record set `entity`."""


READY_KINDS = frozenset(
    (NodeKind.READY, NodeKind.READY_SOURCE, NodeKind.READY_DATA, NodeKind.READY_INDEX, NodeKind.READY_EXTRA)
)  # fmt: skip
"""What lies in ``@ready``, and the folder itself."""

MADE_KINDS = READY_KINDS - {NodeKind.READY, NodeKind.READY_SOURCE}
"""Artifacts: bytes that synd made."""


class Node(NamedTuple):
    kind: NodeKind
    entity: EntityId
    version: int


def pack(kind: NodeKind, entity: int, version: int = 0) -> int:
    """The number of a node. `entity` below 2⁴⁰, `version` below 2²⁰."""
    return kind << _KIND_SHIFT | version << _ENTITY_BITS | entity


def unpack(number: int) -> Node:
    """What a number names. Raises ValueError for a number that `pack` never makes."""
    return Node(
        NodeKind(number >> _KIND_SHIFT),
        EntityId(number & _ENTITY_MASK),
        number >> _ENTITY_BITS & _VERSION_MASK,
    )


ENTITY_BASE = NodeKind.ENTITY << _KIND_SHIFT
"""``ENTITY_BASE | version << VERSION_SHIFT | entity`` is `pack` for hot paths."""
VERSION_SHIFT = _ENTITY_BITS


def entity_node(entity: int, version: int) -> int:
    return ENTITY_BASE | version << VERSION_SHIFT | entity


def folder_node(folder: int) -> int:
    """The node of a folder; of the mount's top for 0."""
    return ENTITY_BASE | folder if folder else ROOT
