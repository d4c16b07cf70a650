"""Files to preprocess, made from a fixed seed: of the size and shape that real ones have, and in no order."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import SkippedError

CONTIGS = [f"chr{n}" for n in [*range(1, 23), "X", "Y"]]
LENGTH = 150_000_000
"""Of every contig."""
_LINES = 10_000

VCF_RECORDS = 1_200_000
BED_RECORDS = 2_500_000
READS = 1_000_000


def _write(path: Path, header: str, count: int, line: Callable[[int], str]) -> None:
    with path.open("w", newline="\n") as file:
        file.write(header)
        for start in range(0, count, _LINES):
            file.write("".join(line(i) for i in range(start, min(count, start + _LINES))))


def places(count: int, seed: int, *, in_order: bool) -> Iterator[tuple[str, int]]:
    """`count` positions on the contigs."""
    numbers = random.Random(seed)
    if not in_order:
        for _ in range(count):
            yield numbers.choice(CONTIGS), numbers.randrange(1, LENGTH)
        return
    for i, contig in enumerate(CONTIGS):
        share = count // len(CONTIGS) + (i < count % len(CONTIGS))
        for at in sorted(numbers.randrange(1, LENGTH) for _ in range(share)):
            yield contig, at


def vcf(path: Path, records: int = VCF_RECORDS, *, in_order: bool = False) -> Path:
    """A VCF, about 85 bytes a record."""
    numbers = random.Random(1)
    place = places(records, 2, in_order=in_order)
    header = ["##fileformat=VCFv4.2", '##FILTER=<ID=PASS,Description="All filters passed">']
    header += [f"##contig=<ID={name},length={LENGTH}>" for name in CONTIGS]
    header += [
        '##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth">',
        '##INFO=<ID=AF,Number=A,Type=Float,Description="Frequency">',
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
        '##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">',
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tsample1\tsample2",
    ]

    def line(i: int) -> str:
        contig, at = next(place)
        ref, alt = numbers.sample("ACGT", 2)
        n = numbers.getrandbits(20)
        return (
            f"{contig}\t{at}\trs{i}\t{ref}\t{alt}\t{n % 1000}.{n % 7}\tPASS\tDP={n % 97};AF=0.{n % 9973:04};MQ={n % 61}.00;AN=4"
            f"\tGT:DP\t0/{n & 1}:{n % 61}\t{n >> 1 & 1}/{n >> 2 & 1}:{n % 53}\n"
        )

    _write(path, "\n".join(header) + "\n", records, line)
    return path


def bed(path: Path, records: int = BED_RECORDS, *, in_order: bool = False) -> Path:
    """A BED of six columns, about 42 bytes a record."""
    numbers = random.Random(3)
    place = places(records, 4, in_order=in_order)

    def line(i: int) -> str:
        contig, at = next(place)
        n = numbers.getrandbits(20)
        return f"{contig}\t{at}\t{at + 50 + n % 5000}\tfeature_{i}\t{n % 1000}\t{'+-'[n & 1]}\n"

    _write(path, "", records, line)
    return path


def sam(path: Path, records: int = READS) -> Path:
    """A SAM of reads of 80 bases, in no order."""
    numbers = random.Random(5)
    place = places(records, 6, in_order=False)
    header = "@HD\tVN:1.6\n" + "".join(f"@SQ\tSN:{name}\tLN:{LENGTH}\n" for name in CONTIGS)
    bases = "".join(numbers.choices("ACGT", k=1 << 16))
    scores = "".join(numbers.choices("FFFFFF:,#", k=1 << 12))

    def line(i: int) -> str:
        contig, at = next(place)
        n = numbers.getrandbits(16)
        start = n % ((1 << 16) - 80)
        quality = scores[n % 4000 :][:80].ljust(80, "F")
        return (
            f"read{i}\t{(n & 1) << 4}\t{contig}\t{min(at, LENGTH - 90)}\t60\t80M\t*\t0\t0\t"
            f"{bases[start : start + 80]}\t{quality}\n"
        )

    _write(path, header, records, line)
    return path


def bam(path: Path, records: int = READS) -> Path:
    """A BAM of the same reads, in no order. Raises SkippedError without samtools."""
    samtools = shutil.which("samtools")
    if samtools is None:
        raise SkippedError("samtools is not here")
    text = sam(path.with_suffix(".sam"), records)
    try:
        subprocess.run([samtools, "view", "--no-PG", "-b", "-o", path, text], check=True)
    finally:
        text.unlink()
    return path
