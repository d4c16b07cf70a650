"""Frozen values that every floor shares: what an entity is, what a version's bytes are.

The service's own spellings (concreteType and the like) stop in `synd.client.wire`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from synd.ids import ContentKey, EntityId, FileHandleId, Md5, Version, content_key


class Kind(StrEnum):
    """What an entity is. The values are what the database and JSON hold."""

    PROJECT = "project"
    FOLDER = "folder"
    FILE = "file"
    LINK = "link"
    TABLE = "table"
    ENTITY_VIEW = "entityview"
    SUBMISSION_VIEW = "submissionview"
    DATASET = "dataset"
    DATASET_COLLECTION = "datasetcollection"
    MATERIALIZED_VIEW = "materializedview"
    VIRTUAL_TABLE = "virtualtable"
    RECORD_SET = "recordset"
    DOCKER_REPO = "dockerrepo"
    OTHER = "other"

    @property
    def is_container(self) -> bool:
        return self in CONTAINERS


CONTAINERS = frozenset({Kind.PROJECT, Kind.FOLDER})
WITH_BYTES = frozenset({Kind.FILE, Kind.RECORD_SET})


class Store(StrEnum):
    """Where a file handle's bytes lie."""

    S3 = "s3"
    GOOGLE = "google"
    EXTERNAL = "external"
    """A URL that the service only remembers."""
    EXTERNAL_OBJECT_STORE = "external-object-store"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class FileVersion:
    """The bytes of one version of one entity."""

    entity: EntityId
    version: Version
    handle: FileHandleId | None
    md5: Md5 | None
    size: int | None
    """Bytes; None while unknown (external links)."""
    name: str = ""
    """The file handle's own name, which may differ from the entity's."""
    content_type: str = "application/octet-stream"
    store: Store = Store.S3
    external_url: str | None = None

    @property
    def key(self) -> ContentKey:
        return content_key(self.md5, self.handle)


@dataclass(frozen=True, slots=True)
class Header:
    """A row of a folder's listing: no etag, size, md5 or file handle (synapse-rest.md 2.7)."""

    id: EntityId
    name: str
    kind: Kind
    version: Version | None
    created_on_ns: int
    modified_on_ns: int
    modified_by: str = ""


@dataclass(frozen=True, slots=True)
class ChildrenPage:
    """One page of a folder's listing."""

    headers: tuple[Header, ...]
    next_token: str | None
    total: int | None = None
    """Children in all, when asked for."""
    sum_bytes: int | None = None
    """Sizes of all children, when asked for."""


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """Where a Link entity leads."""

    id: EntityId
    version: Version | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """What the logged-in user may do with an entity."""

    can_view: bool = True
    can_edit: bool = True
    can_add_child: bool = True
    can_download: bool = True
    unmet_terms: bool = False
    """Terms of use are waiting for acceptance on the entity's web page."""


AnnotationValue = tuple[str, tuple[str, ...]]
"""Type (STRING, LONG, DOUBLE, BOOLEAN, TIMESTAMP_MS) and values, as the service spells them."""


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity in one version, as its bundle tells it."""

    id: EntityId
    name: str
    kind: Kind
    parent: EntityId | None
    etag: str
    version: Version | None
    created_on_ns: int
    modified_on_ns: int
    created_by: str = ""
    modified_by: str = ""
    description: str = ""
    version_label: str = ""
    version_comment: str = ""
    file: FileVersion | None = None
    """Files: the bytes; None also when the caller may not download."""
    link: LinkTarget | None = None
    annotations: Mapping[str, AnnotationValue] = field(default_factory=dict)
    access: Access = Access()


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A row of an entity's version listing: the one cheap source of md5 per old version."""

    id: EntityId
    number: Version
    label: str
    comment: str
    modified_on_ns: int
    modified_by: str
    size: int | None
    md5: Md5 | None
    handle: FileHandleId | None
    is_latest: bool


@dataclass(frozen=True, slots=True)
class FileRef:
    """Bytes, and the entity through which the caller may see them."""

    handle: FileHandleId
    entity: EntityId


@dataclass(frozen=True, slots=True)
class Presigned:
    """A URL that carries its own right, for a short time; or why there is none."""

    ref: FileRef
    url: str | None
    expires_at_ns: int = 0
    """UTC ns; 0 when the URL tells no end."""
    file: FileVersion | None = None
    failure: str | None = None
    """NOT_FOUND or UNAUTHORIZED."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Who is logged in."""

    id: str
    name: str
