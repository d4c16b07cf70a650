"""BGZF: what is written, walked and read by virtual offset."""

import contextlib
import gzip
import io
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synd.errors import StageFailed
from synd.processors import bgzf
from synd.processors.deflate import ISAL, ZLIB
from tests.support.packed import fixture, manifest, ran

ENGINES = [engine for engine in (ISAL, ZLIB) if engine is not None]
TEXT = b"".join(
    b"chr1\t%d\trs%d\tA\tC\t.\tPASS\tDP=%d\n" % (n, n * 31, n % 97) for n in range(9000)
)
NOISE = random.Random(7).randbytes(200_000)


def written(data, *, level=1, threads=1, engine=ZLIB, step=None):
    out = io.BytesIO()
    with bgzf.BgzfWriter(out, level, threads, engine=engine) as writer:
        step = step or max(1, len(data))
        for at in range(0, len(data), step):
            writer.write(data[at : at + step])
    return out.getvalue()


def walked(packed):
    return list(bgzf.blocks(io.BytesIO(packed)))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name.split()[0])
@pytest.mark.parametrize("level", [1, 6])
@pytest.mark.parametrize("data", [b"", b"x", TEXT, NOISE], ids=["empty", "one", "text", "noise"])
def test_writer_always_makes_gzip_that_ends_in_the_eof_block(engine, level, data):
    """Any gzip reads it; incompressible blocks are stored and fit."""
    packed = written(data, level=level, engine=engine)

    assert gzip.decompress(packed) == data
    assert packed.endswith(bgzf.EOF_BLOCK)
    assert sum(block.data_size for block in walked(packed)) == len(data)
    assert all(block.size <= 65536 for block in walked(packed))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name.split()[0])
def test_writer_with_any_number_of_threads_makes_the_same_bytes(engine):
    """Nor does it matter in which pieces the data came."""
    data = (TEXT + NOISE) * 8
    first = written(data, engine=engine)

    assert written(data, engine=engine, threads=2) == first
    assert written(data, engine=engine, threads=3, step=70_001) == first


def test_writer_when_left_by_an_exception_writes_no_eof_block():
    """What was not finished says so."""
    out = io.BytesIO()
    writer = bgzf.BgzfWriter(out, threads=2)
    with contextlib.suppress(KeyError), writer:
        writer.write(NOISE * 8)
        raise KeyError

    assert not out.getvalue().endswith(bgzf.EOF_BLOCK)
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"more")


@pytest.mark.parametrize("threads", [1, 2])
def test_writer_when_the_file_fails_tells(threads):
    """A full disk is not a smaller file."""

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="space"), bgzf.BgzfWriter(Full(), threads=threads) as writer:
        writer.write(NOISE * 10)


@pytest.mark.parametrize("level", [0, 10])
def test_writer_when_the_level_is_none_refuses(level):
    """1 to 9."""
    with pytest.raises(ValueError, match="level"):
        bgzf.BgzfWriter(io.BytesIO(), level)


def test_writer_when_closed_twice_writes_one_end():
    """Closing again does nothing."""
    out = io.BytesIO()
    writer = bgzf.BgzfWriter(out)
    writer.close()
    writer.close()

    assert out.getvalue() == bgzf.EOF_BLOCK


@settings(max_examples=40, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=3000), st.binary(min_size=1, max_size=40).map(lambda b: b * 4000)
    ),
    at=st.integers(0, 200_000),
    n=st.integers(0, 140_000),
)
def test_read_at_always_gives_the_bytes_of_that_place(data, at, n):
    """A virtual offset made from the walked blocks finds what was written there."""
    packed = written(data)
    at = min(at, len(data))
    start = 0
    for block in walked(packed):
        if start + block.data_size > at or block.data_size == 0:
            break
        start += block.data_size

    assert bgzf.read_at(io.BytesIO(packed), block.offset << 16 | at - start, n) == data[at : at + n]


@pytest.mark.parametrize(
    "row", [r for r in manifest() if r["container"] == "bgzf" and r["expected"]["outcome"] == "ok"],
    ids=lambda row: row["file"],
)  # fmt: skip
def test_blocks_of_another_tools_file_always_cover_it(row):
    """Block follows block, up to the end of the file."""
    packed = fixture(row["file"])
    found = walked(packed)
    ends = [block.offset + block.size for block in found]

    assert [block.offset for block in found] == [0, *ends[:-1]]
    assert ends[-1] == len(packed)
    assert sum(block.data_size for block in found) == len(gzip.decompress(packed))


def test_blocks_when_cut_anywhere_tells():
    """Cut between blocks is what the EOF block is for; cut within one is seen here."""
    packed = written(TEXT[:100_000])
    borders = {block.offset for block in walked(packed)} | {len(packed)}
    for cut in range(len(packed)):
        if cut in borders:
            assert walked(packed[:cut])[-1:] != walked(packed)[-1:]
            continue
        with pytest.raises(StageFailed) as caught:
            walked(packed[:cut])
        assert caught.value.failure == "SOURCE_TRUNCATED"


@pytest.mark.parametrize(
    "tail", [b"junk", b"\0" * 40, gzip.compress(b"a"), b"\x1f\x8b\x08\x00" + bytes(40)]
)
def test_blocks_when_something_else_stands_there_tells(tail):
    """No block: SOURCE_CORRUPT."""
    with pytest.raises(StageFailed) as caught:
        walked(written(TEXT[:100]) + tail)

    assert caught.value.failure == "SOURCE_CORRUPT"


def test_block_size_when_other_subfields_come_first_finds_its_own():
    """Section 4.1 of the specification allows further subfields."""
    data = zlib.compress(b"abc", wbits=-15)
    extra = b"XY\x03\x00abc" + b"BC\x02\x00"
    size = 12 + len(extra) + 2 + len(data) + 8
    block = (
        b"\x1f\x8b\x08\x04" + bytes(6) + (len(extra) + 2).to_bytes(2, "little") + extra
        + (size - 1).to_bytes(2, "little") + data
        + zlib.crc32(b"abc").to_bytes(4, "little") + (3).to_bytes(4, "little")
    )  # fmt: skip

    assert bgzf.block_size(block) == size
    assert bgzf.inflate_block(block) == b"abc"
    assert walked(block + bgzf.EOF_BLOCK)[0] == bgzf.Block(0, size, 3)


@pytest.mark.parametrize("head", [b"", b"\x1f\x8b", bgzf.EOF_BLOCK[:17], gzip.compress(b"a" * 50)])
def test_block_size_when_it_is_no_block_is_none(head):
    """Plain gzip has no size in its header."""
    assert bgzf.block_size(head) is None


@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name.split()[0])
@pytest.mark.parametrize("at", [20, -1, -5])
def test_inflate_block_when_a_bit_is_wrong_tells(engine, at):
    """Data, CRC and length are checked."""
    block = bytearray(bgzf.deflate_block(TEXT[:5000], 6))
    block[at] ^= 0x10

    with pytest.raises(StageFailed) as caught:
        bgzf.inflate_block(bytes(block), engine=engine)
    assert caught.value.failure == "SOURCE_CORRUPT"


@pytest.mark.tools
@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name.split()[0])
def test_writer_always_makes_what_bgzip_and_tabix_take(engine, tmp_path):
    """The tools that read it in the end are the judges."""
    path = tmp_path / "data.vcf.gz"
    head = b"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    path.write_bytes(written(head + TEXT, engine=engine, threads=2))

    ran("bgzip", "-t", path)
    assert ran("bgzip", "-dc", path) == head + TEXT
    ran("tabix", "-p", "vcf", path)
    assert ran("tabix", path, "chr1:8000-8002").count(b"\n") == 3
