"""Values that everything about preprocessing shares. Nothing here reads or runs anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from synd.processors.detect import Detected, Format
    from synd.processors.workshop import Workshop

SYNAPSE = "synapse"
"""The namespace of Synapse's files in keys."""

PIPELINE_VERSION = 1
"""Part of the workflow key alone: raised, every source may be processed anew."""


class ArtifactKind(StrEnum):
    """What an artifact is to its source."""

    DATA = "data"
    """Sorted and block-compressed; or the source itself."""
    INDEX = "index"


class Stage(StrEnum):
    """A part of a job. The values are what the queue and JSON hold."""

    FETCH = "fetch"
    """The source's bytes come to the work folder."""
    DATA = "data"
    INDEX = "index"


class Work(StrEnum):
    """The least that makes a source readable by region."""

    NONE = "none"
    INDEX_ONLY = "index_only"
    COMPRESS_INDEX = "compress+index"
    SORT_COMPRESS_INDEX = "sort+compress+index"
    CONVERT_COMPRESS_INDEX = "convert+compress+index"
    SORT_INDEX = "sort+index"
    CONVERT_SORT_INDEX = "convert+sort+index"


class Tools(StrEnum):
    """Which tool chain may be used (SYND_TOOLS)."""

    AUTO = "auto"
    """Native programs where they are on PATH, else what pip installs."""
    NATIVE = "native"
    """Programs only; a missing one is an error that names it."""
    BUILTIN = "builtin"
    """Python packages and our own code only."""


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of one file version."""

    namespace: str
    id: str
    """The provider's id of the file, case kept; never a path."""
    md5: str
    name: str
    """The file's name: a hint for its format, and never part of a command line."""
    size: int
    """Bytes."""
    format_hint: str = ""
    """The provider's own word for the format, with the weight of a name."""


@dataclass(frozen=True, slots=True)
class Caps:
    """What a job may use (the settings of section "Preprocessing" in docs/configuration.md)."""

    sort_memory_bytes: int = 128 << 20
    samtools_memory_bytes: int = 128 << 20
    """Per thread."""
    tool_threads: int = 1
    bgzf_level: int = 1
    tools: Tools = Tools.AUTO
    gtf_as_gff3: bool = False
    """Index GTF as GFF3 made by gffread, which loses lines."""
    verify_full: bool = False
    reserve_bytes: int = 0
    """Stays free on the disk of the work folder."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An artifact that is stored already, or the source standing for it."""

    digest: str
    """`sha256:…` of its bytes; `md5:…` of the source for an alias."""
    size: int
    path: Path | None = None
    """Where this process reads it; None: it is the source."""
    records: int | None = None
    format: str = ""
    """What the source was detected as when this was made; empty: to be found out by its own bytes."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a stage made: a file in the work folder, or the statement that there is one already."""

    kind: ArtifactKind
    digest: str
    size: int
    toolchain: str
    """Programs and libraries with their versions, for people and for the pair rule."""
    suffix: str = ""
    """Of an index: `.bai`, `.csi`, `.tbi`, `.crai`, `.fai`, `.gzi`; of DATA what its name ends in now (`.bam`, `.gz`)."""
    file: Path | None = None
    """None: an alias."""
    alias_of: str = ""
    """`source`, or the id of the sidecar file that serves."""
    of_digest: str = ""
    """Of an index: the digest of the DATA that it was built from."""
    records: int | None = None
    header_lines: int | None = None
    extra: Mapping[str, Path] = field(default_factory=dict)
    """Further files that belong to an index, by suffix (`.gzi` beside `.fai`)."""
    work: Work | None = None
    """Of DATA: what making it took, the index counted in."""
    contigs: tuple[bytes, ...] | None = None
    """Of DATA: contigs that records lie on, in the order of the artifact."""


class Processor(Protocol):
    """Makes the artifacts of a family of formats. Its id and version are parts of every cache key."""

    @property
    def id(self) -> str: ...

    @property
    def version(self) -> int:
        """Raised when what it makes changes: older artifacts are then no longer found."""

    def matches(self, format: Format, kind: ArtifactKind) -> bool:
        """Whether that artifact of a file of that format is its business."""

    def needs_processing(self, detected: Detected) -> bool:
        """Whether there is anything to make. Never raises."""

    def artifact_kinds_produced(self, detected: Detected) -> frozenset[ArtifactKind]:
        """What `run` can make of such a file; empty where it needs no processing."""

    def cache_key(self, source: Source, kind: ArtifactKind) -> str:
        """The key of that artifact: the one place where it is derived."""

    def run(self, kind: ArtifactKind, shop: Workshop, data: Stored | None = None) -> Made:
        """Makes one artifact in the work folder. An INDEX is made of the stored `data`, of nothing else.

        Raises StageFailed; RuntimeError where nothing is to be processed.
        """
