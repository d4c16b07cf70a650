"""The kinds of entities: their spellings on the wire and the properties that only they have.

Values follow synapse-rest.md 2.1. Unknown properties of a request are dropped here, never stored.
"""

from __future__ import annotations

from dataclasses import dataclass

OSRM = "org.sagebionetworks.repo.model."


@dataclass(frozen=True, slots=True)
class EntityKind:
    """One kind of entity."""

    name: str
    """EntityType: what includeTypes holds, and the `kind` column."""
    concrete: str
    """concreteType on the wire."""
    versioned: bool
    """Whether replies carry version fields."""
    props: frozenset[str] = frozenset()
    """Type-specific properties, kept per version."""
    container: bool = False
    tabular: bool = False
    """Has columns and a row in the table services."""
    has_bytes: bool = False


def _kind(
    name: str,
    concrete: str,
    *props: str,
    versioned: bool = True,
    container: bool = False,
    tabular: bool = False,
    has_bytes: bool = False,
) -> EntityKind:
    return EntityKind(
        name, OSRM + concrete, versioned, frozenset(props), container, tabular, has_bytes
    )


ALL = (
    _kind("project", "Project", versioned=False, container=True),
    _kind("folder", "Folder", versioned=False, container=True),
    _kind("file", "FileEntity", "fileNameOverride", has_bytes=True),
    _kind("link", "Link", "linksTo", "linksToClassName", versioned=False),
    _kind(
        "recordset",
        "RecordSet",
        "upsertKey",
        "csvDescriptor",
        "validationSummary",
        "validationFileHandleId",
        "fileNameOverride",
        has_bytes=True,
    ),
    _kind("table", "table.TableEntity", "columnIds", "isSearchEnabled", tabular=True),
    _kind(
        "entityview",
        "table.EntityView",
        "columnIds",
        "viewTypeMask",
        "type",
        "scopeIds",
        "isSearchEnabled",
        tabular=True,
    ),
    _kind("submissionview", "table.SubmissionView", "columnIds", "scopeIds", tabular=True),
    _kind("dataset", "table.Dataset", "columnIds", "items", tabular=True),
    _kind("datasetcollection", "table.DatasetCollection", "columnIds", "items", tabular=True),
    _kind("materializedview", "table.MaterializedView", "columnIds", "definingSQL", tabular=True),
    _kind("virtualtable", "table.VirtualTable", "columnIds", "definingSQL", tabular=True),
    _kind("dockerrepo", "docker.DockerRepository", "repositoryName", "isManaged", versioned=False),
)

VIEWS = ("entityview", "submissionview", "dataset", "datasetcollection")
"""Tables whose rows are entities or submissions."""
BY_NAME = {kind.name: kind for kind in ALL}
BY_CONCRETE = {kind.concrete: kind for kind in ALL}

ROOT = 4489
"""The entity above all projects."""
TRASH = 1681355
"""The parent of deleted entities."""
FIRST_ENTITY = 60_000_001
FIRST_HANDLE = 9_000_000_000_001
FIRST_USER = 3_400_001
AUTHENTICATED = 273948
PUBLIC = 273949
DEFAULT_LOCATION = 1
