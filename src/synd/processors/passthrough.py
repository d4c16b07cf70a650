"""Files that are served as they are: tables, files with an index of their own, and all that nobody knows."""

from __future__ import annotations

from synd.processors import keys
from synd.processors.base import ArtifactKind, Made, Source, Stored
from synd.processors.detect import Detected, Format
from synd.processors.workshop import Workshop


class Passthrough:
    """Makes nothing: the source is the data, and there is no index."""

    id = "passthrough"
    version = 1
    formats = frozenset(
        {
            Format.FASTQ,
            Format.CSV,
            Format.TSV,
            Format.BIGWIG,
            Format.WIG,
            Format.HDF5,
            Format.H5AD,
            Format.COOL,
            Format.MCOOL,
            Format.ZARR,
            Format.PARQUET,
            Format.HTML,
            Format.EMPTY,
            Format.OPAQUE,
        }
    )

    def matches(self, format: Format, kind: ArtifactKind) -> bool:
        return kind is ArtifactKind.DATA and format in self.formats

    def needs_processing(self, detected: Detected) -> bool:
        del detected
        return False

    def artifact_kinds_produced(self, detected: Detected) -> frozenset[ArtifactKind]:
        del detected
        return frozenset()

    def cache_key(self, source: Source, kind: ArtifactKind) -> str:
        return keys.cache_key(source.namespace, source.id, kind, self.id, source.md5, self.version)

    def run(self, kind: ArtifactKind, shop: Workshop, data: Stored | None = None) -> Made:
        """Raises RuntimeError, always: whoever calls it has not asked `needs_processing`."""
        del data
        raise RuntimeError(f"a {shop.detected.format} file needs no {kind} made of it")
