"""The next step of a local change, as a table of (row, folder, what the service says)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from synd.ids import EntityId, FileHandleId, Md5, Version
from synd.mirror.plan import (
    EMPTY,
    GONE,
    Ask,
    Blocked,
    Commit,
    Conflict,
    CreateFile,
    CreateFolder,
    CreateLink,
    Delete,
    DeleteFolder,
    Dropped,
    Folder,
    Hash,
    Look,
    Mode,
    Note,
    Nothing,
    Reason,
    Rules,
    Settled,
    Told,
    Update,
    Upload,
    WaitFor,
    is_same_thing,
    merged,
    passing_name,
    plan,
    wanted_name,
)
from synd.model import Entity, FileVersion, Kind, LinkTarget
from synd.store.local import FIRST, Local

P, Q, E = EntityId(100), EntityId(200), EntityId(7)
M1, M2, M3 = Md5("1" * 32), Md5("2" * 32), Md5("3" * 32)
HERE = Folder(100, P)
THERE = Folder(200, Q)
NEW_FOLDER = Folder(FIRST + 50, None)
GONE_FOLDER = Folder(100, P, gone=True)

_NONE: dict[str, Any] = dict.fromkeys(Local._fields)
_ZEROS = dict.fromkeys(
    ["gone", "local_only", "rdev", "mtime_for", "staged", "lazy", "size", "edit", "sent", "hashed", "base_version", "since_ns", "not_before_ns", "tries", "ctime_ns"], 0,
)  # fmt: skip
_TEXTS = dict.fromkeys(["stamp", "base_etag", "comment", "label"], "")


def row(**fields: Any) -> Local:
    """A new file with three bytes, as it was closed just now."""
    new = {
        "id": FIRST + 1, "born": 1, "parent": 100, "name": b"a", "kind": "file", "state": "waiting",
        "staged": FIRST + 2, "size": 3, "edit": 1,
    }  # fmt: skip
    return Local(**{**_NONE, **_ZEROS, **_TEXTS, **new, **fields})


def hashed(**fields: Any) -> Local:
    return row(**{"hashed": 1, "md5": M2, **fields})


def sent(**fields: Any) -> Local:
    """With a remote file handle."""
    return hashed(**{"handle": FileHandleId(52), **fields})


BASE: dict[str, Any] = {
    "entity": E, "born": 0, "base_parent": P, "base_name": "a", "base_version": 1, "base_etag": "e1",
    "base_handle": FileHandleId(51), "base_md5": M1,
}  # fmt: skip
STILL: dict[str, Any] = {"staged": 0, "size": 0, "edit": 0}
FOLDER: dict[str, Any] = {"kind": "folder", **STILL}


def told(**fields: Any) -> Entity:
    """The entity as the base has it."""
    file = FileVersion(E, Version(1), FileHandleId(51), M1, 3)
    entity = Entity(E, "a", Kind.FILE, P, "e1", Version(1), 1, 1, file=file)
    return replace(entity, **fields)


def version(number: int, handle: int, md5: Md5) -> Entity:
    return told(
        version=Version(number), etag=f"e{number}",
        file=FileVersion(E, Version(number), FileHandleId(handle), md5, 3),
    )  # fmt: skip


THEIRS = version(2, 60, M3)
BOTH, OURS, YIELD = (
    Rules(), Rules(mode=Mode.KEEP_LOCAL), Rules(mode=Mode.OVERWRITE_LOCAL),
)  # fmt: skip
AS_FOLDER = Rules(kind=Kind.FOLDER)
LINK = Rules(kind=Kind.LINK, target=LinkTarget(E))
ROWS = Rules(kind=Kind.RECORD_SET)
_K = {"annotations": '{"k": ["STRING", ["v"]]}'}

CASES: dict[str, tuple[Local, Folder, Told, Rules, object]] = {
    # What is never sent.
    "kept here": (row(local_only=1), HERE, None, BOTH, Nothing()),
    "a pipe": (row(kind="special", **STILL), HERE, None, BOTH, Nothing()),
    "nothing staged": (row(**STILL), HERE, None, BOTH, Nothing()),
    "empty": (row(size=0), HERE, None, BOTH, Blocked(EMPTY)),
    "name too long": (row(name=b"\xff" * 60), HERE, None, BOTH, Blocked),
    # New things.
    "not hashed": (row(), HERE, None, BOTH, Hash()),
    "hashed before the last edit": (sent(edit=2), HERE, None, BOTH, Hash()),
    "not uploaded": (hashed(), HERE, None, BOTH, Upload(P, "a")),
    "uploaded": (sent(), HERE, None, BOTH, CreateFile(P, "a")),
    "escaped name": (sent(name=b"a@"), HERE, None, BOTH, CreateFile(P, "a(x40)")),
    "in a new folder": (sent(), NEW_FOLDER, None, BOTH, WaitFor(FIRST + 50)),
    "in a folder that stays": (
        sent(), Folder(FIRST + 50, None, local_only=True), None, BOTH, Blocked,
    ),
    "tried under that name": (
        sent(base_parent=P, base_name="a"), HERE, None, BOTH, CreateFile(P, "a"),
    ),
    "tried under another name": (
        sent(base_parent=P, base_name="z"), HERE, None, BOTH, Look(P, "z"),
    ),
    "tried with other bytes": (
        sent(edit=2, base_parent=P, base_name="a"), HERE, None, BOTH, Look(P, "a"),
    ),
    "folder": (row(**FOLDER), HERE, None, AS_FOLDER, CreateFolder(P, "a")),
    "link": (row(kind="symlink", **STILL), HERE, None, LINK, CreateLink(P, "a", LinkTarget(E))),
    "link to what is new": (
        row(kind="symlink", **STILL), HERE, None, Rules(target_waits=FIRST + 9), WaitFor(FIRST + 9),
    ),
    "symlink out": (row(kind="symlink", **STILL), HERE, None, BOTH, Nothing()),
    # The rows of a record set: never sent as a file handle.
    "record set, not hashed": (row(name=b"a.csv", **BASE), HERE, None, ROWS, Hash()),
    "record set, not asked": (hashed(name=b"a.csv", **BASE), HERE, None, ROWS, Ask()),
    "record set, to be committed": (
        hashed(name=b"a.csv", **BASE), HERE, told(kind=Kind.RECORD_SET), ROWS, Commit(),
    ),
    "record set, renamed and edited": (
        hashed(name=b"b.csv", **BASE), HERE, told(kind=Kind.RECORD_SET), ROWS,
        Update(name="b", more=True),
    ),
    "record set, annotated and edited": (
        hashed(name=b"a.csv", **BASE, **_K), HERE, told(kind=Kind.RECORD_SET), ROWS,
        Update(annotations={"k": ("STRING", ("v",))}, more=True),
    ),
    "record set, edited by both": (
        hashed(name=b"a.csv", **BASE), HERE, replace(THEIRS, kind=Kind.RECORD_SET), ROWS,
        Conflict(Reason.EDITED),
    ),
    "record set, there already": (
        hashed(name=b"a.csv", **BASE), HERE,
        replace(version(2, 60, M2), kind=Kind.RECORD_SET), ROWS, Settled(),
    ),
    # Bytes of what is there.
    "edited": (row(**BASE), HERE, None, BOTH, Hash()),
    "edited, hashed": (hashed(**BASE), HERE, None, BOTH, Upload(P, "a")),
    "edited, uploaded": (sent(**BASE), HERE, None, BOTH, Ask()),
    "edited, asked": (sent(**BASE), HERE, told(), BOTH, Update(file=True)),
    "edited back": (hashed(**{**BASE, "md5": M1}), HERE, None, BOTH, Settled()),
    "sent before": (sent(**BASE), HERE, version(2, 52, M2), BOTH, Settled()),
    "same bytes there": (sent(**BASE), HERE, version(2, 99, M2), BOTH, Settled()),
    "edited again after an attempt": (sent(**BASE, edit=2), HERE, None, BOTH, Ask()),
    "that attempt was carried out": (sent(**BASE, edit=2), HERE, version(2, 52, M2), BOTH, Settled()),
    "that attempt was not": (sent(**BASE, edit=2), HERE, told(), BOTH, Hash()),
    "emptied": (row(**BASE, size=0), HERE, None, BOTH, Blocked(EMPTY)),
    "emptied and renamed": (row(**BASE, size=0, name=b"z"), HERE, told(), BOTH, Update(name="z")),
    "only annotated there": (sent(**BASE), HERE, told(etag="e9"), BOTH, Update(file=True)),
    "same bytes as a new version there": (sent(**BASE), HERE, version(2, 61, M1), BOTH, Update(file=True)),
    "base without bytes known": (
        sent(**{**BASE, "base_handle": None, "base_md5": None}), HERE, told(), BOTH, Update(file=True),
    ),
    "base without bytes known, newer there": (
        sent(**{**BASE, "base_handle": None, "base_md5": None}), HERE, THEIRS, BOTH,
        Conflict(Reason.EDITED),
    ),
    "both edited": (sent(**BASE), HERE, THEIRS, BOTH, Conflict(Reason.EDITED)),
    "both edited, theirs wins": (sent(**BASE), HERE, THEIRS, YIELD, Conflict(Reason.EDITED)),
    "both edited, ours wins": (
        sent(**BASE), HERE, THEIRS, OURS, Update(file=True, notes=(Note(Reason.EDITED, "local"),)),
    ),
    "theirs is what we sent for another": (
        sent(**BASE), HERE, THEIRS, Rules(handles=frozenset({FileHandleId(60)})), Update(file=True),
    ),
    "deleted there": (sent(**BASE), HERE, GONE, BOTH, Conflict(Reason.DELETED_THERE)),
    # Places.
    "nothing to do": (row(**BASE, **STILL), HERE, None, BOTH, Nothing()),
    "renamed": (row(**BASE, **STILL, name=b"z"), HERE, None, BOTH, Ask()),
    "renamed, asked": (row(**BASE, **STILL, name=b"z"), HERE, told(), BOTH, Update(name="z")),
    "moved": (row(**BASE, **STILL), THERE, told(), BOTH, Update(parent=Q)),
    "moved into a new folder": (row(**BASE, **STILL), NEW_FOLDER, None, BOTH, WaitFor(FIRST + 50)),
    "all at once": (
        sent(**BASE, **_K, name=b"z"), THERE, told(), BOTH,
        Update("z", Q, True, {"k": ("STRING", ("v",))}),
    ),
    "renamed before": (row(**BASE, **STILL, name=b"z"), HERE, told(name="z"), BOTH, Settled()),
    "both renamed": (
        row(**BASE, **STILL, name=b"z"), HERE, told(name="y"), BOTH,
        Update(name="z", notes=(Note(Reason.RENAMED, "local"),)),
    ),
    "both renamed, theirs wins": (
        row(**BASE, **STILL, name=b"z"), HERE, told(name="y"), YIELD,
        Settled((Note(Reason.RENAMED, "remote"),)),
    ),
    "both moved": (
        row(**BASE, **STILL), THERE, told(parent=EntityId(300)), BOTH,
        Update(parent=Q, notes=(Note(Reason.RENAMED, "local"),)),
    ),
    "renamed here, moved there": (
        row(**BASE, **STILL, name=b"z"), HERE, told(parent=Q), BOTH, Update(name="z"),
    ),
    "under its passing name": (
        row(**BASE, **STILL, name=b"z"), HERE, told(name=passing_name(FIRST + 1)), BOTH, Update(name="z"),
    ),
    "renamed back from its passing name": (
        row(**BASE, **_K, **STILL), HERE, told(name=passing_name(FIRST + 1)), BOTH,
        Update(name="a", annotations={"k": ("STRING", ("v",))}),
    ),
    "moved and deleted there": (row(**BASE, **STILL), THERE, GONE, BOTH, Dropped()),
    "project": (
        row(**{**BASE, "base_parent": 0}, **FOLDER), Folder(0, EntityId(0)), None, AS_FOLDER, Nothing(),
    ),
    # Annotations.
    "annotated": (
        row(**BASE, **_K, **STILL), HERE, told(), BOTH, Update(annotations={"k": ("STRING", ("v",))}),
    ),
    "annotated before": (
        row(**BASE, **_K, **STILL), HERE, told(annotations={"k": ("STRING", ("v",))}), BOTH, Settled(),
    ),
    # Deletes.
    "removed, never there": (row(gone=1), HERE, None, BOTH, Nothing()),
    "removed, maybe made": (row(gone=1, base_parent=P, base_name="a"), HERE, None, BOTH, Look(P, "a")),
    "removed": (row(gone=1, **BASE), HERE, None, BOTH, Ask()),
    "removed with its folder": (row(gone=1, **BASE), GONE_FOLDER, None, BOTH, WaitFor(100)),
    "moved and removed with that folder": (
        row(gone=1, **BASE), Folder(200, Q, gone=True), None, BOTH, Ask(),
    ),
    "removed, asked": (row(gone=1, **BASE), HERE, told(), BOTH, Delete()),
    "removed there too": (row(gone=1, **BASE), HERE, GONE, BOTH, Settled()),
    "removed, annotated there": (row(gone=1, **BASE), HERE, told(etag="e9"), BOTH, Delete()),
    "removed, edited there": (row(gone=1, **BASE), HERE, THEIRS, BOTH, Conflict(Reason.DELETED_HERE)),
    "removed, bytes swapped there": (
        row(gone=1, **BASE), HERE, version(1, 60, M3), OURS, Conflict(Reason.DELETED_HERE),
    ),
    "removed after an attempt of ours": (
        row(gone=1, **BASE, hashed=1, handle=FileHandleId(52)), HERE, version(2, 52, M2), BOTH, Delete(),
    ),
    "folder removed": (
        row(gone=1, **BASE, **FOLDER), HERE, told(kind=Kind.FOLDER, file=None), AS_FOLDER, DeleteFolder(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("local", "folder", "entity", "rules", "step"), CASES.values(), ids=CASES)
def test_plan_of_a_row_is_its_next_step(local, folder, entity, rules, step):
    """From the difference between the row and the service, and from nothing else."""
    found = plan(local, folder, entity, rules)

    assert isinstance(found, step) if isinstance(step, type) else step == found


SAME = {
    "folders": (row(**FOLDER), told(kind=Kind.FOLDER, file=None), True),
    "folder and file": (row(**FOLDER), told(), False),
    "equal bytes": (sent(md5=M1), told(), True),
    "our handle": (sent(handle=FileHandleId(51), md5=None), told(), True),
    "other bytes": (sent(), told(), False),
    "no bytes to see": (sent(), told(file=None), False),
}


@pytest.mark.parametrize(("local", "other", "same"), SAME.values(), ids=SAME)
def test_same_thing_is_not_made_twice(local, other, same):
    """What an earlier attempt made, and folders of one name."""
    assert same is is_same_thing(local, other, BOTH)


NAMES = {
    "as it was": (b"a", Kind.FILE, "a", "a"),
    "changed": (b"z", Kind.FILE, "a", "z"),
    "told apart by its id": (b"a %syn7", Kind.FILE, "a", "a"),
    "a table's": (b"T.csv", Kind.TABLE, "T", "T"),
    "a table's, changed": (b"U.csv", Kind.TABLE, "T", "U"),
    "an external link's": (b"a.url", Kind.FILE, "a", "a"),
    "a file's that ends so": (b"x.csv", Kind.FILE, "a", "x.csv"),
}


@pytest.mark.parametrize(("name", "kind", "base", "wanted"), NAMES.values(), ids=NAMES)
def test_wanted_name_is_the_base_unless_it_was_changed(name, kind, base, wanted):
    """The mount spells some names otherwise; that is no rename."""
    local = row(**{**BASE, "base_name": base}, name=name)

    assert wanted == wanted_name(local, kind)


def test_merged_annotations_keep_theirs():
    """Ours replace, add and remove key by key."""
    there = {"a": ("STRING", ("1",)), "b": ("LONG", ("2",)), "c": ("STRING", ("3",))}
    ours = {"b": ("LONG", ("9",)), "c": None, "d": ("STRING", ("4",))}

    assert {"a": ("STRING", ("1",)), "b": ("LONG", ("9",)), "d": ("STRING", ("4",))} == merged(
        there, ours
    )
