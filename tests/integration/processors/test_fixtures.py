"""Every fixture through the stages, with native tools and with what pip installs.

The oracle is the manifest: its numbers were counted from the lists that the files were written from.
"""

import os
from itertools import pairwise

import pytest

from synd.errors import StageFailed
from synd.processors.base import ArtifactKind, Tools, Work
from synd.processors.detect import Format, detect
from synd.processors.normalise import rules
from synd.processors.select import select
from tests.support import genomics
from tests.support.genomics import Case, cases

pytestmark = pytest.mark.tools
CHAINS = [Tools.NATIVE, Tools.BUILTIN]
GOOD = [one for one in cases() if one.expected["outcome"] == "ok"]
BAD = [one for one in cases() if one.expected["outcome"] == "error"]
MADE = [one for one in GOOD if one.processor != "passthrough"]

BIGBED = """#!{python}
import runpy, sys
sys.argv = ["twins", "bigBedToBed", *sys.argv[1:]]
runpy.run_module("synd.processors.twins", run_name="__main__")
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A bigBedToBed on PATH that speaks as UCSC's does, which no registry has."""
    import sys

    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "bigBedToBed"
    program.write_text(BIGBED.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def made_of(one: Case, folder, tools: Tools):
    genomics.need(tools)
    return genomics.make(genomics.order(one.path, folder, tools=tools))


def key(line: bytes, format: Format) -> tuple[bytes, int]:
    columns = rules(format)
    parts = line.split(b"\t")
    return parts[columns.contig - 1], int(parts[columns.begin - 1])


@pytest.mark.req(
    "S1-10", "S1-11", "S1-12", "S1-13", "S1-15", "S1-16", "S1-17", "S1-21", "S1-22", "S1-63"
)
@pytest.mark.parametrize("tools", CHAINS)
@pytest.mark.parametrize("one", MADE, ids=lambda one: one.file)
def test_fixture_always_becomes_what_the_manifest_says(tmp_path, programs, one, tools):
    """Work done, index kind, records, header on top, contigs, order, and the count of every region."""
    expected = one.expected
    least = expected["work"] if not one.sidecar else Work.INDEX_ONLY
    result = made_of(one, tmp_path / "work", tools)
    data, index = result.made(ArtifactKind.DATA), result.made(ArtifactKind.INDEX)

    assert least == result.finished.work
    assert one.processor == result.finished.processor
    assert one.detected_format == result.finished.detected.format
    assert "." + expected["index"] == index.suffix
    assert expected["records"] == index.records
    assert index.of_digest == data.digest
    assert (data.alias_of == "source") == (least == Work.INDEX_ONLY)
    alignments = one.processor == "bam_index"
    if not alignments:
        _check_text(one, result)
    for region in expected["regions"]:
        found = genomics.overlaps(
            result.data,
            result.index,
            region["contig"],
            region["begin"],
            region["end"],
            alignments=alignments,
        )
        assert region["count"] == found, region


def _check_text(one, result):
    format = Format(one.detected_format)
    format = Format.BED if format is Format.BIGBED else format
    lines = genomics.lines(result.data)
    told = result.made(ArtifactKind.DATA).header_lines
    count = one.expected.get("header_lines", told)
    assert count == told
    header, body = lines[:count], lines[count:]
    assert all(line.startswith(b"#") for line in header)
    assert not any(line.startswith(b"#") for line in body)
    assert one.expected["records"] == len(body)
    keys = [key(line, format) for line in body]
    assert one.expected["contigs"] == sorted({contig.decode() for contig, _ in keys})
    blocks = [keys[0][0]] if keys else []
    for before, after in pairwise(keys):
        if before[0] == after[0]:
            assert before[1] <= after[1]
        else:
            blocks.append(after[0])
    assert len(blocks) == len(set(blocks)), "a contig came in pieces"


@pytest.mark.req("S1-62", "S1-69")
@pytest.mark.parametrize("tools", CHAINS)
@pytest.mark.parametrize("one", BAD, ids=lambda one: one.file)
def test_fixture_when_bad_then_fails_as_the_manifest_says(tmp_path, one, tools):
    """Cut, damaged and misnamed files are errors of their class, and nothing is made of them."""
    told = []
    genomics.need(tools)

    with pytest.raises(StageFailed) as failed:
        genomics.make(genomics.order(one.path, tmp_path / "work", tools=tools), told=told)

    assert one.expected["error_class"] == failed.value.failure
    assert one.expected.get("bad_line") == failed.value.bad_line
    assert not [made for _stage, made in told if made]


@pytest.mark.req("S1-18")
@pytest.mark.parametrize(
    "one", [one for one in GOOD if one.processor == "passthrough"], ids=lambda one: one.file
)
def test_fixture_when_it_needs_nothing_then_nothing_is_made(tmp_path, one):
    """CSV, TSV, bigWig and empty files are served as they are; a worker given one says so."""
    detected = detect(one.path.name, genomics.head(one.path))
    result = genomics.make(genomics.order(one.path, tmp_path / "work"))

    assert one.detected_format == detected.format
    assert select(detected.format, ArtifactKind.INDEX) is None
    assert result.finished.made == ()
    assert result.finished.work is Work.NONE
    assert not result.recorder.launches
    assert not os.listdir(tmp_path / "work")


@pytest.mark.parametrize("one", [one for one in MADE if one.sidecar], ids=lambda one: one.file)
def test_sidecar_when_it_lies_beside_then_leaves_no_work(one):
    """A file with its own index needs neither job nor download: the least work is none."""
    from synd.processors import sidecar
    from tests.support.genomics import FIXTURES

    assert one.sidecar
    index = FIXTURES / one.sidecar
    detected = detect(one.path.name, genomics.head(one.path))
    content = one.path.read_bytes()

    assert index.name in sidecar.candidates(one.path.name)
    sidecar.check(
        index.read_bytes(),
        index.suffix,
        lambda offset, n: content[offset : offset + n],
        len(content),
        detected,
    )
    assert one.expected["work"] == "none"
