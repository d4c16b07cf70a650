"""The contract's part about local changes: what is unsent and why, what differs, what can come back.

The same rules as in `synd.control.contract`, which is the front: it hands these names on where its own
shapes need them. This module has no code either.
"""

from __future__ import annotations

import sys
from typing import Literal

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict

PENDING = "/v1/pending"
"""GET `?path=&limit=` → Pending, of everything or of one path and what is below it."""
DIFF = "/v1/diff"
"""GET `?path=` → Difference."""
DISCARD = "/v1/discard"
"""POST Targets → Discarded: forgets local changes; their bytes go to the recovery area."""
UPLOAD_NOW = "/v1/upload-now"
"""POST UploadNow → Pending: sends without waiting for more changes, and tries what is blocked again."""
PAUSE = "/v1/pause"
"""POST → Pending: sends nothing until resumed."""
RESUME = "/v1/resume"
"""POST → Pending."""
APPROVE = "/v1/approve"
"""POST Targets → Approved: lets held deletes go. No targets: all of them."""
CONFLICTS = "/v1/conflicts"
"""GET `?all=0|1` → Conflicts; `/v1/conflicts/{id}` GET → Conflict; `…/{id}/resolve` POST Resolve → Conflict."""
RECOVERED = "/v1/recovered"
"""GET → RecoveredList: what local actions took away, newest first."""
RESTORE = "/v1/restore"
"""POST RestoreRequest → Restored: brings one of them back."""
COMMENT = "/v1/comment"
"""POST Comment → Unsent: comment and label of the next version."""
ANNOTATE = "/v1/annotate"
"""POST Annotate → Unsent."""
TRACKED = "/v1/tracked"
"""GET → TrackedList."""
TRACK = "/v1/track"
"""POST TrackRequest → Tracked."""
UNTRACK = "/v1/untrack"
"""POST UntrackRequest → Tracked: what was tracked. Nothing is deleted on either side."""

Intent = Literal["create", "update", "move", "delete", "annotate"]
"""What will be done on the service; `move` is a rename too."""
UnsentState = Literal["waiting", "sending", "blocked", "held", "kept-here"]
"""`blocked`: cannot be sent as it is; `held`: a delete that waits for a yes; `kept-here`: never sent."""
Verdict = Literal["sent", "under-way", "stuck"]
"""Everything is sent; the rest goes by itself (also: once online); what is left waits for somebody."""
Keep = Literal["local", "remote", "both"]


class Unsent(TypedDict):
    """One local change that the service does not have."""

    id: str
    """The change's number, for commands whose thing has no path any more."""
    path: str
    """Where it is in the mount; of a removed thing: where it was."""
    entity: str
    """Empty while the service does not have it."""
    kind: str
    """file, folder, symlink or special"""
    intents: list[Intent]
    state: UnsentState
    since_at: str
    """When the first of it was made."""
    next_at: str | None
    """Not tried before; None: its turn is now, or never."""
    bytes: int
    """To be sent."""
    sent_bytes: int
    tries: int
    """Failures in a row."""
    reason: str
    """Why it is not sent yet."""
    mend: str
    """What the user can do; empty when nothing needs doing."""
    problem: str
    """Class name in `synd.errors` of the last failure; empty: none."""


class TrackedHold(TypedDict):
    """Deletes in a tracked folder that wait for a yes, as a scan found much of it missing."""

    folder: str
    deletes: int
    reason: str
    mend: str


class Pending(TypedDict):
    """What would be missing on the service, not on this machine, if the daemon stopped now."""

    uploads: int
    """Changes of every kind that are unsent: waiting, sending, blocked and held ones."""
    bytes: int
    items: list[str]
    """The first few, as paths."""
    changes: list[Unsent]
    """The first few: those that need somebody first, then the oldest."""
    verdict: Verdict
    waiting: int
    """Waiting for their turn, and being sent."""
    sending: int
    """Being sent just now."""
    blocked: int
    held: int
    kept_here: int
    """Things that are never sent: not counted in `uploads`."""
    writing: int
    """Files that somebody has open for writing; what is not closed yet is not counted in `uploads`."""
    tracked: int
    """Changes in tracked folders that are not in the queue yet: not counted in `uploads`."""
    tracked_holds: list[TrackedHold]
    """Those of them that wait for a yes."""
    conflicts: int
    """Open ones."""
    since_at: str | None
    """When the oldest unsent change was made."""
    offline_since_at: str | None
    paused: bool
    """Told to send nothing."""


class LocalState(TypedDict):
    """What this machine has of one thing beyond what the service told."""

    change: Unsent
    base_version: int | None
    """The version it was made from; None: made here."""
    comment: str
    """For its next version."""
    label: str
    writers: int
    """Open file handles that may write to it."""
    conflict: str
    """Id of the open conflict that it is the copy of, or that touches it; empty: none."""


class Content(TypedDict):
    """One side of a file."""

    version: int | None
    size: int | None
    md5: str | None
    """None where it is not known without reading a large file."""


class Difference(TypedDict):
    """What differs between this machine and what it started from."""

    path: str
    entity: str
    kind: Literal["text", "binary", "folder", "same"]
    """`text` has a unified diff; `binary` only sizes and md5s; `folder` the changes in and below it."""
    intents: list[Intent]
    base: Content | None
    """What the service had when both last agreed; None: made here."""
    local: Content | None
    """None: removed here."""
    moved_from: str
    """Where the service still has it; empty: not moved."""
    annotations: dict[str, list[str] | None]
    """Changed ones; null: removed."""
    text: str
    truncated: bool
    """The diff is longer than what is shown."""
    note: str
    """Why a text shows no diff, such as a base that cannot be fetched while offline."""
    changes: list[Unsent]


class Targets(TypedDict):
    targets: list[str]
    """Paths (with all below), entity ids, or ids of changes."""


class Discarded(TypedDict):
    paths: list[str]
    recovered: int
    """How many of them left bytes in the recovery area: `synd restore --list`."""


class UploadNow(TypedDict):
    path: str | None


class Approved(TypedDict):
    paths: list[str]
    """Deletes that go now."""


class Conflict(TypedDict):
    """Both sides changed one thing."""

    id: str
    at: str
    path: str
    entity: str
    """Empty when both took one name."""
    reason: str
    """edited, deleted-there, deleted-here, renamed or name-taken"""
    kept: Keep
    """Which way it went at once; nothing was lost either way."""
    copy_path: str
    """Where the losing side's bytes are now; empty: no copy, or it is gone."""
    base_version: int | None
    remote_version: int | None
    resolved_at: str | None


class Conflicts(TypedDict):
    conflicts: list[Conflict]


class Resolve(TypedDict):
    keep: Keep


class Recovered(TypedDict):
    """Something that a local action took away and that can come back."""

    id: str
    at: str
    path: str
    """Where it was."""
    reason: str
    """deleted, overwritten or discarded; found: left by a kill, its place is not known"""
    entity: str
    """In the service's trash can, or whose unsent bytes these were; empty: never sent."""
    where: Literal["here", "trash"]
    """Bytes in the recovery folder, or an entity in the service's trash can."""
    size: int


class RecoveredList(TypedDict):
    recovered: list[Recovered]
    folder: str
    """The recovery folder."""


class RestoreRequest(TypedDict):
    target: str
    """A path (the newest that was there), or the id in RecoveredList."""


class Restored(TypedDict):
    path: str
    """Where it is now; beside the old place if that is taken."""
    recovered: Recovered


class Comment(TypedDict):
    path: str
    comment: str
    label: str


class Annotate(TypedDict):
    path: str
    set: dict[str, list[str]]
    remove: list[str]


class TrackRequest(TypedDict):
    folder: str
    """Absolute path outside the mount."""
    target: str
    """Entity id of a folder or project, or its path in the mount."""


class UntrackRequest(TypedDict):
    folder: str


class Skipped(TypedDict):
    """Something in a tracked folder that is not sent as it is."""

    path: str
    reason: str
    mend: str


class Tracked(TypedDict):
    """An ordinary folder whose changes are sent."""

    folder: str
    entity: str
    path: str
    """Where the entity is in the mount."""
    since_at: str
    state: str
    """watching, scanning (not all of it can be watched), starting, missing, held or stopped"""
    files: int | None
    """Known ones."""
    unsent: int
    """Changes in it that were not taken into the queue yet."""
    problems: int
    """Things in it that cannot be sent as they are."""
    skipped: list[Skipped]
    """The first 200 of them, by path."""
    scanned_at: str | None
    reason: str
    """Why it is not watched; empty when it is."""
    mend: str


class TrackedList(TypedDict):
    tracked: list[Tracked]
