"""The calls the rest of synd may make to the service, as a protocol: the real client and the fake meet it.

Every call is a coroutine that takes values and returns values of `synd.model`, and raises only
`synd.errors`. Every call has a deadline: the caller's, or the client's default.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Literal, Protocol

from synd.clock import Deadline
from synd.ids import EntityId, FileHandleId, Md5, Version
from synd.model import (
    ChildrenPage,
    Entity,
    FileRef,
    Kind,
    LinkTarget,
    Presigned,
    Profile,
    VersionInfo,
)

SortBy = Literal["NAME", "CREATED_ON", "MODIFIED_ON"]


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
        """One bundle: entity, file handle, restriction, and what else is asked for. One request."""
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
    ) -> EntityId | None: ...

    async def versions(
        self, entity: EntityId, *, offset: int = 0, limit: int = 50, deadline: Deadline | None = None
    ) -> Sequence[VersionInfo]:
        """Newest first; empty past the end."""
        ...

    async def headers(
        self, entities: Collection[EntityId], *, deadline: Deadline | None = None
    ) -> Mapping[EntityId, object]:
        """`Header` per id; ids that vanished or are unreadable are absent."""
        ...

    async def path(self, entity: EntityId, *, deadline: Deadline | None = None) -> Sequence[tuple[EntityId, str]]:
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

    async def find_view(self, project: EntityId, name: str, *, deadline: Deadline | None = None) -> EntityId | None: ...

    async def create_view(
        self, parent: EntityId, name: str, scope: Sequence[EntityId], *, deadline: Deadline | None = None
    ) -> EntityId:
        """A view over files and folders of `scope` with the columns that `view_rows` reads."""
        ...

    def view_rows(
        self, view: EntityId, *, where: str = "", deadline: Deadline | None = None
    ) -> AsyncIterator[Sequence[ViewRow]]:
        """All rows of a view in batches, through one CSV download (one async job)."""
        ...


class ViewRow(Protocol):
    """What a view knows of one entity. Eventually consistent with the listing."""

    @property
    def id(self) -> EntityId: ...
    @property
    def parent(self) -> EntityId: ...
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def version(self) -> Version | None: ...
    @property
    def etag(self) -> str: ...
    @property
    def modified_on_ns(self) -> int: ...
    @property
    def handle(self) -> FileHandleId | None: ...
    @property
    def md5(self) -> Md5 | None: ...
    @property
    def size(self) -> int | None: ...
    @property
    def file_name(self) -> str: ...
    @property
    def link(self) -> LinkTarget | None: ...
