"""What the files of a folder are called once they are prepared. Pure: names in, names out.

A file's name tells its format, and that tells what its artifact is called:

    reads.sam, reads.sam.gz, reads.bam   reads.bam           .bai (or .csi)
    calls.vcf, calls.vcf.bgz             calls.vcf.gz        .tbi (or .csi)
    genes.gff3, peaks.bed, …             genes.gff3.gz       .tbi (or .csi)
    features.bb                          features.bed.gz     .tbi (or .csi)
    x.cram, x.bcf                        the same            .crai, .csi
    ref.fa; ref.fa.gz                    the same            .fai; .fai and .gzi
    table.csv, signal.bw, …              the same            none

Where two files would have one name, the file that is called so itself has it, else the one with the smaller
id; the others get their id into it: ``reads %syn123.bam``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from synd.ids import EntityId, syn
from synd.paths import NAME_MAX
from synd.processors.base import ArtifactKind
from synd.processors.detect import Format, name_format
from synd.processors.intervals import GtfAsGff3
from synd.processors.passthrough import Passthrough
from synd.processors.select import select
from synd.store.local import FIRST

_PACKINGS = (".gz", ".bgz", ".bgzf", ".bz2", ".xz", ".zst")
SUFFIXES = (b".bai", b".csi", b".crai", b".tbi", b".fai", b".gzi")
"""Of all that may lie beside data."""

_LONGEST = max(map(len, SUFFIXES))

_USUAL = {
    Format.SAM: (b".bai",),
    Format.BAM: (b".bai",),
    Format.CRAM: (b".crai",),
    Format.BCF: (b".csi",),
    Format.FASTA: (b".fai",),
}
"""Of the others: `.tbi`."""


class Form(NamedTuple):
    """What a file is called once it is prepared."""

    stem: str
    suffix: str
    """Of the data, with all its dots."""
    indexes: tuple[bytes, ...]
    """Suffixes that its indexes usually have; empty: it is read as it is, and has none."""

    @property
    def data(self) -> bytes:
        return (self.stem + self.suffix).encode(errors="surrogateescape")


class Entry(NamedTuple):
    """What a name stands for: a file of the folder, by its key and its own name."""

    key: int
    name: bytes
    indexes: tuple[bytes, ...]
    """Suffixes that its indexes usually have; empty: it has none."""
    prepared: bool
    """The name is that of the artifact."""
    own: bool
    """The name is the file's own: under it stands what is read as it is."""


def form_of(name: bytes, *, format: str = "", gtf_as_gff3: bool = False) -> Form | None:
    """What becomes of a file of that name; None when its name tells no format.

    `format`: what such a file was found to be, for a name that tells nothing.
    """
    text = name.decode(errors="surrogateescape")
    claim = name_format(text)
    if not claim and not format:
        return None
    found = Format(claim or format)
    processor = select(found, ArtifactKind.DATA, gtf_as_gff3=gtf_as_gff3)
    if processor is None or isinstance(processor, Passthrough):
        return Form(text, "", ())
    bare = text
    while packing := next((p for p in _PACKINGS if bare.lower().endswith(p)), ""):
        bare = bare[: -len(packing)]
    stem, dot, last = bare.rpartition(".") if claim else (bare, "", "")
    own = dot + last
    indexes = _USUAL.get(found, (b".tbi",))
    if isinstance(processor, GtfAsGff3):
        return Form(stem, ".gff3.gz", indexes)
    match found:
        case Format.SAM:
            return Form(stem, ".bam", indexes)
        case Format.BAM | Format.CRAM | Format.BCF:
            return Form(stem, own or f".{found}", indexes)
        case Format.BIGBED:
            return Form(stem, ".bed.gz", indexes)
        case Format.FASTA:
            if bare == text:
                return Form(stem, own, indexes)
            return Form(stem, f"{own}.gz", (*indexes, b".gzi"))
    return Form(stem, f"{own}.gz", indexes)


def entries(
    files: Iterable[tuple[int, bytes]], form: Callable[[bytes], Form | None]
) -> dict[bytes, Entry]:
    """Name → what it stands for, of the files of one folder given as (key, name); indexes follow from it."""
    found: dict[bytes, Entry] = {}
    others: list[tuple[int, bytes, Form]] = []
    for key, name in files:
        made = form(name)
        if made is None:
            continue
        if made.data == name:
            found[name] = Entry(key, name, made.indexes, prepared=True, own=True)
        else:
            others.append((key, name, made))
    others.sort()
    for key, name, made in others:
        data = made.data
        if data in found or len(data) + _LONGEST > NAME_MAX:
            if key >= FIRST:
                continue  # it has no id to be told apart by
            data = _marked(made, key)
        found[data] = Entry(key, name, made.indexes, prepared=True, own=False)
    for key, name, made in others:
        found.setdefault(name, Entry(key, name, made.indexes, prepared=False, own=True))
    return found


def _marked(form: Form, key: int) -> bytes:
    mark = f" %{syn(EntityId(key))}{form.suffix}".encode(errors="surrogateescape")
    room = NAME_MAX - _LONGEST - len(mark)
    return form.stem.encode(errors="surrogateescape")[:room] + mark


def split(name: bytes) -> tuple[bytes, bytes] | None:
    """(data, suffix) of an index's name; None for what is none."""
    for suffix in SUFFIXES:
        if name.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], suffix
    return None
