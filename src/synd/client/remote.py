"""The calls the rest of synd may make to the service, as a protocol: the real client and the fake meet it.

Every call is a coroutine that takes values and returns values of `synd.model`, and raises only
`synd.errors`. Every call has a deadline: the caller's, or the client's default. Who asks decides how
urgent a call is: work inside ``with background():`` gives way to everything else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from synd.clock import Deadline
from synd.ids import EntityId, FileHandleId, Md5, Version
from synd.model import (
    AnnotationValue,
    ChildrenPage,
    Entity,
    FileRef,
    FileVersion,
    Header,
    Kind,
    LinkTarget,
    Presigned,
    Profile,
    Store,
    VersionInfo,
)

SortBy = Literal["NAME", "CREATED_ON", "MODIFIED_ON"]


class Priority(IntEnum):
    """How urgent a call is; the lower number goes first."""

    FOREGROUND = 0
    """Somebody waits for it."""
    BACKGROUND = 1
    """Polling, sizes ahead of the reader: waits its turn, and fails at once while offline."""


PRIORITY: ContextVar[Priority] = ContextVar("synd_priority", default=Priority.FOREGROUND)


@contextmanager
def background() -> Iterator[None]:
    """Calls made inside, and in tasks started inside, are background calls."""
    before = PRIORITY.set(Priority.BACKGROUND)
    try:
        yield
    finally:
        PRIORITY.reset(before)


@contextmanager
def foreground() -> Iterator[None]:
    """The reverse, for work that somebody waits for but that a background task carries out."""
    before = PRIORITY.set(Priority.FOREGROUND)
    try:
        yield
    finally:
        PRIORITY.reset(before)


class ViewRow(NamedTuple):
    """What a view knows of one entity. Eventually consistent with the listing."""

    id: EntityId
    parent: EntityId
    name: str
    kind: Kind
    version: Version | None
    etag: str
    created_on_ns: int
    modified_on_ns: int
    modified_by: str
    handle: FileHandleId | None = None
    md5: Md5 | None = None
    size: int | None = None
    """Bytes; None where the service knows none (external links) and for all but files."""
    file_name: str = ""
    store: Store | None = None
    """None for all but files, and where the view lacks the column."""
    link: LinkTarget | None = None
    """Always None today: views hold no links."""


class Outgoing(NamedTuple):
    """Bytes on disk that are to become a remote file handle. The file must not change meanwhile."""

    path: Path
    size: int
    """Bytes; at least 1, as the service keeps no empty files."""
    md5: Md5
    name: str
    """The handle's file name: one that `paths.check_entity_name` accepts."""
    content_type: str = "application/octet-stream"


class Remote(Protocol):
    """A Synapse-compatible service, as one logged-in user sees it."""

    async def whoami(self, *, deadline: Deadline | None = None) -> Profile: ...

    async def entity(
        self,
        entity: EntityId,
        version: Version | None = None,
        *,
        annotations: bool = True,
        permissions: bool = False,
        deadline: Deadline | None = None,
    ) -> Entity:
        """One bundle: entity, file handle, restriction, and what else is asked for. One request.

        Raises NotFound, also for what lies in the trash can; Forbidden.
        """
        ...

    async def children(
        self,
        parent: EntityId | None,
        *,
        token: str | None = None,
        sort: SortBy = "CREATED_ON",
        descending: bool = False,
        counts: bool = False,
        deadline: Deadline | None = None,
    ) -> ChildrenPage:
        """One page (50) of a folder's children; of the visible projects when `parent` is None."""
        ...

    async def find_child(
        self, parent: EntityId | None, name: str, *, deadline: Deadline | None = None
    ) -> EntityId | None:
        """The child of that exact name; with no parent, the project."""
        ...

    async def versions(
        self,
        entity: EntityId,
        *,
        offset: int = 0,
        limit: int = 50,
        deadline: Deadline | None = None,
    ) -> Sequence[VersionInfo]:
        """Newest first; empty past the end."""
        ...

    async def headers(
        self, entities: Collection[EntityId], *, deadline: Deadline | None = None
    ) -> Mapping[EntityId, Header]:
        """`Header` per id; ids that vanished or are unreadable are absent. One request per 100."""
        ...

    async def path(
        self, entity: EntityId, *, deadline: Deadline | None = None
    ) -> Sequence[tuple[EntityId, str]]:
        """(id, name) from the project down to the entity itself (the service's root is left out)."""
        ...

    async def presign(
        self, refs: Sequence[FileRef], *, deadline: Deadline | None = None
    ) -> Sequence[Presigned]:
        """One request per 100 refs; same order; a failed one carries its reason."""
        ...

    async def generated_by(
        self, entity: EntityId, version: Version | None = None, *, deadline: Deadline | None = None
    ) -> Mapping[str, object] | None:
        """The Activity as JSON, or None."""
        ...

    async def find_view(
        self, project: EntityId, name: str, *, deadline: Deadline | None = None
    ) -> EntityId | None:
        """The entity view of that name directly in `project`; None when there is none that
        `view_rows` could read.
        """
        ...

    async def own_project(self, name: str, *, deadline: Deadline | None = None) -> EntityId:
        """The caller's own project of that name, made if need be; private unless its owner shares it."""
        ...

    async def covers(
        self, view: EntityId, container: EntityId, *, deadline: Deadline | None = None
    ) -> bool:
        """Whether a view shows the files below `container`, with the columns that `view_rows` reads."""
        ...

    async def create_view(
        self,
        parent: EntityId,
        name: str,
        scope: Sequence[EntityId],
        *,
        deadline: Deadline | None = None,
    ) -> EntityId:
        """A view over files and folders of `scope` with the columns that `view_rows` reads.

        One that exists under that name is returned as it is. Raises Exists when something else
        has the name, Forbidden.
        """
        ...

    def view_rows(
        self, view: EntityId, *, where: str = "", deadline: Deadline | None = None
    ) -> AsyncIterator[Sequence[ViewRow]]:
        """All rows of a view in batches, through one CSV download (one async job).

        `where` is a condition of the service's SQL, e.g. ``modifiedOn > 1700000000000``.
        """
        ...

    # Changes. Each may be called again after its answer was lost; what is said below makes that safe.

    async def upload(
        self,
        content: Outgoing,
        parent: EntityId,
        *,
        progress: Callable[[int], object] | None = None,
        deadline: Deadline | None = None,
    ) -> FileHandleId:
        """A file handle of the caller's with these bytes, in the storage of the folder `parent`.

        Parts that the service has from an earlier attempt are not sent again, nor are bytes that it
        knows by their md5 and lets us copy. `progress` hears how many further bytes need not be sent
        any more, on any thread; in the end they sum up to the size. Raises QuotaExceeded, Forbidden, NotSupported (a storage we cannot send
        to), IntegrityError (the file changed while it was sent).
        """
        ...

    async def create(
        self,
        kind: Kind,
        parent: EntityId,
        name: str,
        *,
        file: FileVersion | None = None,
        link: LinkTarget | None = None,
        annotations: Mapping[str, AnnotationValue] | None = None,
        version_comment: str = "",
        version_label: str = "",
        deadline: Deadline | None = None,
    ) -> Entity:
        """A new folder, file (with the handle in `file`, whose size and md5 the answer repeats) or link.

        Raises Exists when the name is taken, maybe by an earlier attempt of ours; NotFound, Forbidden.
        """
        ...

    async def update(
        self,
        entity: Entity,
        *,
        name: str | None = None,
        parent: EntityId | None = None,
        file: FileVersion | None = None,
        annotations: Mapping[str, AnnotationValue] | None = None,
        version_comment: str = "",
        version_label: str = "",
        deadline: Deadline | None = None,
    ) -> Entity:
        """Changes an entity as it was read (its etag decides); returns it as it then is.

        A `file` makes a new version. `annotations` replace all of them, and are sent by a call of
        their own after the others. A change that an earlier attempt has made already, and nothing
        besides it, is taken for done. Raises Stale when somebody else changed the entity meanwhile,
        Exists when the name is taken, NotFound, Forbidden.
        """
        ...

    async def delete(self, entity: EntityId, *, deadline: Deadline | None = None) -> None:
        """Moves an entity, with all below it, to the trash can. One that is gone is no error."""
        ...

    async def restore(self, entity: EntityId, *, deadline: Deadline | None = None) -> None:
        """Brings an entity back from the trash can. One that is not in it, but there, is no error.

        Raises NotFound, Exists (the name is taken), Forbidden (its folder is in the trash can too).
        """
        ...
