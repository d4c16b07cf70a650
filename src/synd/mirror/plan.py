"""What is to be sent next of one local change: a pure function of its row and of what the service says.

A row is a state (docs/adr/0006), so a plan is the difference between it and the service, one step of
it at a time. Carrying out is `push`'s matter, what becomes of a conflict that of `conflicts`.

Invariant: nothing of the service's is deleted or overwritten unless it is what the row's base says.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import NamedTuple, TypeAlias

from synd.errors import NameTooLong
from synd.ids import EntityId, FileHandleId, Md5
from synd.model import AnnotationValue, Entity, Kind, LinkTarget
from synd.paths import to_entity_name
from synd.store.entities import TOP, file_name_of, version_of
from synd.store.local import Local, LocalKind

EMPTY: Mapping[str, object] = {
    "type": "Empty",
    "title": "Synapse keeps no empty files: it is sent once it has bytes",
}
"""Problem body of a file without bytes. Not an error."""


class Mode(StrEnum):
    """Who wins when both sides changed."""

    KEEP_BOTH = "keep.both"
    KEEP_LOCAL = "keep.local"
    OVERWRITE_LOCAL = "overwrite.local"


class Reason(StrEnum):
    """What the two sides did. The values are what `conflict.reason` holds."""

    EDITED = "edited"
    DELETED_THERE = "deleted-there"
    DELETED_HERE = "deleted-here"
    RENAMED = "renamed"
    NAME_TAKEN = "name-taken"


class Gone(Enum):
    """The service has it no more."""

    GONE = "gone"


GONE = Gone.GONE

Told: TypeAlias = Entity | Gone | None
"""What the service says about the row's entity; None: it was not asked yet."""


class Folder(NamedTuple):
    """The folder that a row lies in."""

    key: int
    entity: EntityId | None
    """None: not on the service yet."""
    gone: bool = False
    """It was removed here, and its delete is still to be sent."""
    local_only: bool = False


class Rules(NamedTuple):
    """What else a plan depends on."""

    mode: Mode = Mode.KEEP_BOTH
    kind: Kind = Kind.FILE
    """What the row's entity is."""
    target: LinkTarget | None = None
    """Where a symlink leads."""
    target_waits: int = 0
    """Row that a symlink leads to while that is not on the service."""
    handles: frozenset[FileHandleId] = frozenset()
    """Remote file handles that earlier attempts of ours may have attached."""
    digests: frozenset[Md5] = frozenset()
    """md5s of what such attempts sent."""
    lost: bool = False
    """It is a folder or has no bytes, and the service has it no more where it was; perhaps nowhere."""
    version: int = 0
    """Of the row's entity, as far as is known; 0: it is not."""


class Nothing(NamedTuple):
    """There is nothing to be sent."""


class WaitFor(NamedTuple):
    """Its folder (a key), or what it leads to, comes first."""

    folder: int


class Ask(NamedTuple):
    """The service must be asked about the entity."""


class Look(NamedTuple):
    """An earlier attempt to create it, whose answer was lost, may have been carried out elsewhere."""

    parent: EntityId
    name: str


class Hash(NamedTuple):
    """The md5 of the bytes is not known."""


class Upload(NamedTuple):
    """The bytes are to become a remote file handle."""

    parent: EntityId
    name: str


class CreateFolder(NamedTuple):
    parent: EntityId
    name: str


class CreateLink(NamedTuple):
    parent: EntityId
    name: str
    target: LinkTarget


class CreateFile(NamedTuple):
    parent: EntityId
    name: str


class Note(NamedTuple):
    """A conflict that is settled with the step itself."""

    reason: Reason
    kept: str


class Update(NamedTuple):
    """Changes in one go. None: as it is."""

    name: str | None = None
    parent: EntityId | None = None
    file: bool = False
    annotations: Mapping[str, AnnotationValue] | None = None
    """All of them, as they are to be."""
    notes: tuple[Note, ...] = ()
    more: bool = False
    """The bytes follow, in a step of their own."""


class Commit(NamedTuple):
    """The bytes, whose md5 is known, are to become a version of a record set."""


class Delete(NamedTuple):
    """One entity that holds nothing."""


class DeleteFolder(NamedTuple):
    """A folder, once it is known that all below it is ours to delete."""


class Blocked(NamedTuple):
    """It cannot be sent as it is."""

    problem: Mapping[str, object]


class Conflict(NamedTuple):
    """Both sides changed."""

    reason: Reason


class Settled(NamedTuple):
    """The service has everything already; for a removed row: has it no more."""

    notes: tuple[Note, ...] = ()


class Dropped(NamedTuple):
    """The service has the entity no more, and nothing of ours is lost with it."""


Step: TypeAlias = (
    Nothing | WaitFor | Ask | Look | Hash | Upload | CreateFolder | CreateLink | CreateFile | Update
    | Commit | Delete | DeleteFolder | Blocked | Conflict | Settled | Dropped
)  # fmt: skip


def plan(row: Local, folder: Folder, told: Told, rules: Rules) -> Step:
    """The next step for a row."""
    if row.local_only or row.kind == LocalKind.SPECIAL:
        return Nothing()
    if row.gone:
        return _remove(row, folder, told, rules)
    try:
        name = wanted_name(row, rules.kind)
    except NameTooLong as error:
        return Blocked(error.problem())
    if row.entity is None:
        return _create(row, folder, name, rules)
    return _change(row, folder, name, told, rules)


def _remove(row: Local, folder: Folder, told: Told, rules: Rules) -> Step:
    if row.entity is None:
        attempt = attempted(row)
        return Look(*attempt) if attempt else Nothing()
    if goes_with(row, folder):
        return WaitFor(folder.key)
    if told is None:
        return Ask()
    if isinstance(told, Gone):
        return Settled()
    if told.kind.is_container:
        return DeleteFolder()
    return Conflict(Reason.DELETED_HERE) if moved_on(row, told, rules) else Delete()


def goes_with(row: Local, folder: Folder) -> bool:
    """Whether a removed thing lies on the service in a folder that is to be deleted there, with all below."""
    return folder.gone and folder.entity is not None and row.base_parent == folder.entity


def _create(row: Local, folder: Folder, name: str, rules: Rules) -> Step:
    if folder.local_only:
        return Blocked(
            {"type": "NotSupported", "title": "its folder stays on this machine", "hint": "move it"}
        )
    if row.kind == LocalKind.FILE and row.staged == 0:
        return Nothing()
    if folder.entity is None:
        return WaitFor(folder.key)
    attempt = attempted(row)
    if attempt is not None and attempt != (folder.entity, name):
        return Look(*attempt)
    if row.kind == LocalKind.FOLDER:
        return CreateFolder(folder.entity, name)
    if row.kind == LocalKind.SYMLINK:
        if rules.target is not None:
            return CreateLink(folder.entity, name, rules.target)
        return WaitFor(rules.target_waits) if rules.target_waits else Nothing()
    if row.size == 0:
        # With bytes that it had before, or that it replaced, it may have been made, and the answer lost.
        return Look(*attempt) if attempt is not None else Blocked(EMPTY)
    if row.hashed != row.edit or row.md5 is None:
        # Bytes of an earlier edit may have been attached, and the answer lost.
        return Look(*attempt) if attempt is not None and row.handle is not None else Hash()
    if row.handle is None:
        return Upload(folder.entity, name)
    return CreateFile(folder.entity, name)


def _change(row: Local, folder: Folder, name: str, told: Told, rules: Rules) -> Step:
    content = row.unsent_bytes and row.size > 0
    renamed = name != row.base_name
    moved = folder.key != 0 and folder.entity != row.base_parent
    if not (content or renamed or moved or row.annotations):
        return _unchanged(row, told, rules)
    if moved and folder.entity is None:
        return WaitFor(folder.key)
    if told is None and content:
        if row.hashed != row.edit or row.md5 is None:
            # The outcome of an earlier attempt is found out before its handle is forgotten.
            return Ask() if row.handle is not None and row.hashed > row.sent else Hash()
        if row.md5 == row.base_md5 and not (renamed or moved or row.annotations):
            return Settled()
        sent_first = rules.kind is not Kind.RECORD_SET
        if sent_first and row.handle is None and row.md5 != row.base_md5:
            return Upload(folder.entity or EntityId(row.base_parent or 0), name)
    if told is None:
        return Ask()
    if isinstance(told, Gone):
        return Conflict(Reason.DELETED_THERE) if content else Dropped()
    return _difference(row, folder, name if renamed else None, moved, content, told, rules)


def _unchanged(row: Local, told: Told, rules: Rules) -> Step:
    """Of what has nothing to send."""
    if row.unsent_bytes:
        return _emptied(row, told, rules)
    if not rules.lost:
        return Nothing()
    if told is None:
        return Ask()
    return Dropped() if isinstance(told, Gone) else Settled()


def _emptied(row: Local, told: Told, rules: Rules) -> Step:
    """Of a file that lost its bytes here. It is not sent, and must not hide for ever what others did."""
    if rules.version in (0, row.base_version) and not rules.lost:
        return Blocked(EMPTY)
    if told is None:
        return Ask()
    if isinstance(told, Gone):
        return Conflict(Reason.DELETED_THERE)
    if moved_on(row, told, rules):
        return Conflict(Reason.EDITED)
    return Settled() if told.version != row.base_version else Blocked(EMPTY)


def _difference(
    row: Local,
    folder: Folder,
    name: str | None,
    moved: bool,
    content: bool,
    told: Entity,
    rules: Rules,
) -> Step:
    """What of a row the service's entity still lacks."""
    if row.unsent_bytes and not row.size and moved_on(row, told, rules):
        return Conflict(Reason.EDITED)
    notes: list[Note] = []
    parent = folder.entity if moved else None
    if name == told.name:
        name = None
    elif name is not None and told.name not in (row.base_name, passing_name(row.id)):
        notes.append(_renamed(rules.mode))
        name = None if rules.mode is Mode.OVERWRITE_LOCAL else name
    if name is None and told.name == passing_name(row.id):
        name = row.base_name
    if parent == place_of(told):
        parent = None
    elif parent is not None and place_of(told) != row.base_parent:
        if not notes:
            notes.append(_renamed(rules.mode))
        parent = None if rules.mode is Mode.OVERWRITE_LOCAL else parent
    if content:
        file = told.file
        if row.hashed != row.edit or row.md5 is None:
            return Settled() if is_ours(row, told, rules) else Hash()
        same = file is not None and (row.md5 == file.md5 or file.handle == row.handle)
        if same or row.md5 == row.base_md5:
            content = False
        elif moved_on(row, told, rules):
            if rules.mode is not Mode.KEEP_LOCAL:
                return Conflict(Reason.EDITED)
            notes.append(Note(Reason.EDITED, "local"))
    record_set = content and rules.kind is Kind.RECORD_SET
    if content and row.handle is None and not record_set:
        return Upload(parent or place_of(told), name or told.name)
    together = merged(told.annotations, row.wanted_annotations)
    annotations = together if together != told.annotations else None
    if record_set:
        # What needs no yes of the service's schema goes first.
        if name is None and parent is None and annotations is None and not notes:
            return Commit()
        return Update(name, parent, False, annotations, tuple(notes), more=True)
    if name is None and parent is None and not content and annotations is None:
        return Settled(tuple(notes))
    return Update(name, parent, content, annotations, tuple(notes))


def _renamed(mode: Mode) -> Note:
    return Note(Reason.RENAMED, "remote" if mode is Mode.OVERWRITE_LOCAL else "local")


def attempted(row: Local) -> tuple[EntityId, str] | None:
    """Where a row that is not on the service was last tried to be created; None: nowhere.

    It is noted in the base fields, which mean nothing else while there is no entity.
    """
    if row.entity is not None or row.base_parent is None or row.base_name is None:
        return None
    return EntityId(row.base_parent), row.base_name


def place_of(told: Entity) -> EntityId:
    """The folder of an entity as rows hold it."""
    return TOP if told.parent is None or told.kind is Kind.PROJECT else told.parent


def is_ours(row: Local, told: Entity, rules: Rules) -> bool:
    """Whether the present bytes there are what an attempt of ours has sent."""
    file = told.file
    if file is None:
        return False
    if file.handle is not None and (file.handle == row.handle or file.handle in rules.handles):
        return True
    return file.md5 is not None and (
        (row.md5 == file.md5 and row.hashed > 0) or file.md5 in rules.digests
    )


def moved_on(row: Local, told: Entity, rules: Rules) -> bool:
    """Whether somebody else changed the bytes since both sides last agreed."""
    if is_ours(row, told, rules):
        return False
    file = told.file
    if file is not None:
        if row.base_handle is not None and file.handle == row.base_handle:
            return False
        if row.base_md5 is not None and file.md5 == row.base_md5:
            return False
        if row.base_handle is not None or row.base_md5 is not None:
            return True
    return version_of(told.kind, told.version) != row.base_version


def is_same_thing(row: Local, other: Entity, rules: Rules) -> bool:
    """Whether what has the name already is what a row would create: folders merge, equal files are one."""
    if row.kind == LocalKind.FOLDER:
        return other.kind is Kind.FOLDER
    if row.kind == LocalKind.SYMLINK:
        return other.kind is Kind.LINK and other.link == rules.target
    return other.kind is Kind.FILE and is_ours(row, other, rules)


def wanted_name(row: Local, kind: Kind) -> str:
    """The name that the service is to have. Raises NameTooLong."""
    if row.entity is not None and row.base_name is not None:
        for external in (False, True):
            for taken in (False, True):
                spelled = file_name_of(
                    row.base_name, kind, row.entity, external=external, taken=taken
                )
                if spelled == row.name:
                    return row.base_name
    name = row.name
    bare = file_name_of("x", kind, EntityId(1))[1:]
    if bare and name.lower().endswith(bare) and len(name) > len(bare):
        name = name[: -len(bare)]
    return to_entity_name(name)


def passing_name(number: int) -> str:
    """The name that an entity has for a moment while two change names."""
    return f".synd-renaming-{number:x}"


def merged(
    there: Mapping[str, AnnotationValue], wanted: Mapping[str, AnnotationValue | None]
) -> Mapping[str, AnnotationValue]:
    """Annotations as they are to be: ours over theirs, key by key."""
    result = {k: v for k, v in there.items() if wanted.get(k, v) is not None}
    result.update({k: v for k, v in wanted.items() if v is not None})
    return result
