"""Entity names and the file names that stand for them; reserved names; what stays local.

The service allows letters, digits and `` ,_.-+()'`` in names, never ``@``, ``%`` or ``/``
(synapse-rest.md 2.2). So ``@`` marks synd's own names and ``%`` its escapes, and the mapping is
reversible: a file name without ``%`` is the entity's name.

The other way, a file may have any name that Linux allows. What the service refuses is sent as
``(xNN)``, the byte in hexadecimal, and such an entity shows under the name it was given here.
"""

from __future__ import annotations

import re

from synd.errors import NameTooLong, UsageError
from synd.ids import EntityId, Version, syn

NAME_MAX = 255
"""Bytes of one path component on Linux."""

RESERVED = frozenset({"@id", "@versions", "@ready", "@info", "@wiki"})
"""Folders of synd's own, in every folder (`@id` only at the top)."""

ENTITY_NAME = re.compile(r"[a-zA-Z0-9,_. \-+()']{1,256}")
"""What the service accepts as a name, after trimming."""

_LEGAL_BYTE = re.compile(rb"[a-zA-Z0-9,_. \-+()']")
_ESCAPE = re.compile(rb"\(x([0-9A-F]{2})\)")

_VERSIONED = re.compile(r"(.+)@([1-9][0-9]{0,8})", re.DOTALL)
_MARKED = re.compile(r".* %syn([0-9]+)(\.[^.]*)?", re.DOTALL)

_DROPPINGS = re.compile(
    r"""\.DS_Store | \._.* | \.Spotlight-V100 | \.Trashes | \.fseventsd | Thumbs\.db | desktop\.ini
      | \.nfs[0-9a-fA-F]+ | \.fuse_hidden.* | \.~lock\..*\# | ~\$.* | \.\#.* | .*~ | \#.*\#
      | \..*\.sw[a-px] | .*\.sw[op] | 4913 | \.Trash | \.Trash-[0-9]+ | \.directory | \.hidden
      | \.localized | \.metadata_never_index | \.xdg-volume-info | autorun\.inf | \.goutputstream-.*
      | .*\.synapse_download_[0-9]+""",
    re.VERBOSE | re.DOTALL,
)


def to_file_name(name: str, entity: EntityId, *, suffix: str = "", taken: bool = False) -> str:
    """The file name for an entity's name: the name itself wherever a file system can hold it.

    `suffix` is what synd adds to show a kind (``.csv``, ``.url``). With `taken`, a sibling that comes
    first has the plain name, and this one is told apart by its id. Stable: depends on nothing else.
    """
    given = from_entity_name(name)
    if given is not None and not taken:
        raw = given + suffix.encode()
        if len(raw) <= NAME_MAX:
            return raw.decode(errors="surrogateescape")
    plain = name.replace("%", "%25").replace("/", "%2F").replace("\0", "%00").replace("@", "%40")
    if plain.strip(".") == "" and len(plain) <= 2:
        plain = "%2E" * len(plain)
    plain += suffix
    if not taken and len(plain.encode()) <= NAME_MAX:
        return plain
    stem, dot, extension = plain.rpartition(".")
    if not stem or len(extension) > 16:
        stem, dot, extension = plain, "", ""
    mark = f" %{syn(entity)}{dot}{extension}"
    room = NAME_MAX - len(mark.encode())
    return stem.encode()[:room].decode(errors="ignore") + mark


def to_entity_name(file_name: bytes) -> str:
    """The name under which a file is sent: its own wherever the service takes it, else with every
    refused byte as ``(xNN)``. `from_entity_name` is the way back. Raises NameTooLong past 256 letters.
    """
    parts: list[str] = []
    last = len(file_name) - 1
    for at, byte in enumerate(file_name):
        sign = file_name[at : at + 1]
        # The service trims names; and what already looks like an escape must not be read as one.
        refused = (
            _LEGAL_BYTE.fullmatch(sign) is None
            or (sign == b" " and at in (0, last))
            or (sign == b"(" and _ESCAPE.match(file_name, at) is not None)
        )
        parts.append(f"(x{byte:02X})" if refused else sign.decode())
    name = "".join(parts)
    if len(name) > 256:
        raise NameTooLong(
            f"the name {file_name.decode(errors='replace')!r} is too long for Synapse as it must be spelled there",
            hint="letters outside ASCII and most signs take five places each, of 256",
        )
    return name


def from_entity_name(name: str) -> bytes | None:
    """The file name that `to_entity_name` made this of; None for a name that it never makes."""
    if "(x" not in name:
        return None
    given = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), name.encode())
    if not given or b"/" in given or b"\0" in given or given in (b".", b".."):
        return None
    if is_own_name(given):
        return None
    try:
        return given if given != name.encode() and to_entity_name(given) == name else None
    except NameTooLong:
        return None


def is_own_name(file_name: bytes) -> bool:
    """Whether a name is one of synd's own, in whatever folder: nobody else may make it."""
    text = file_name.decode(errors="surrogateescape")
    return text in RESERVED or split_version(text) is not None


def marked_entity(file_name: str) -> EntityId | None:
    """The id in a name that `to_file_name` had to shorten or tell apart; None for plain names."""
    match = _MARKED.fullmatch(file_name)
    return EntityId(int(match[1])) if match else None


def split_version(file_name: str) -> tuple[str, Version] | None:
    """The parts of ``NAME@3``; None when the name asks for no version."""
    match = _VERSIONED.fullmatch(file_name)
    return (match[1], Version(int(match[2]))) if match else None


def check_entity_name(name: str) -> str:
    """`name` if the service would accept it. Raises UsageError, saying which sign is not allowed."""
    trimmed = name.strip()
    if ENTITY_NAME.fullmatch(trimmed):
        return trimmed
    if not trimmed:
        raise UsageError("a name must not be empty")
    bad = sorted({c for c in trimmed if ENTITY_NAME.fullmatch(c) is None})
    what = f"holds {' '.join(map(repr, bad))}" if bad else "is longer than 256 letters"
    raise UsageError(
        f"Synapse refuses the name {name!r}: it {what}",
        hint="letters, digits, space and , _ . - + ( ) ' are allowed",
    )


def is_dropping(file_name: str) -> bool:
    """Whether a name is what editors, file managers and desktops leave about: never uploaded,
    and answered as missing without a question to the service.
    """
    return _DROPPINGS.fullmatch(file_name) is not None
