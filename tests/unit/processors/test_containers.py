"""Packings, and decoding that never takes a part for the whole."""

import bz2
import gzip
import hashlib
import importlib.util
import io
import lzma
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synd.errors import StageFailed
from synd.processors import bgzf
from synd.processors.containers import (
    Container,
    Decoder,
    container_of,
    decoded,
    has_eof_block,
    peek,
)
from synd.processors.deflate import ISAL, ZLIB
from tests.support.packed import FIXTURES, fixture, manifest, member

ENGINES = [engine for engine in (ISAL, ZLIB) if engine is not None]
LINES = b"".join(b"chr%d\t%d\t%d\n" % (n % 5, n, n + 10) for n in range(60))


def blocked(data, *, end=True, step=200):
    packed = b"".join(
        bgzf.deflate_block(data[at : at + step], 1) for at in range(0, len(data), step)
    )
    return packed + (bgzf.EOF_BLOCK if end else b"")


def unpacked(packed, container, *, engine=ZLIB, chunk_bytes=1 << 20):
    decoder = Decoder(io.BytesIO(packed), container, engine=engine, chunk_bytes=chunk_bytes)
    return b"".join(decoder), decoder.container


def failure(packed, container, **more):
    with pytest.raises(StageFailed) as caught:
        unpacked(packed, container, **more)
    return caught.value.failure


PACKED = {
    Container.GZIP: member(LINES),
    Container.BGZF: blocked(LINES),
    Container.BZIP2: bz2.compress(LINES),
    Container.XZ: lzma.compress(LINES),
}
packings = pytest.mark.parametrize("container", PACKED)
engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name.split()[0])


@pytest.mark.req("S1-21")
@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"", Container.NONE),
        (b"\x1f", Container.NONE),
        (b"\x1f\x8b", Container.GZIP),
        (member(b"a"), Container.GZIP),
        (bgzf.EOF_BLOCK, Container.BGZF),
        (bgzf.EOF_BLOCK[:18], Container.BGZF),
        (b"\x1f\x8b\x08\x04" + bytes(6) + b"\x06\x00XY\x02\x00ab", Container.GZIP),
        (b"BZh9", Container.BZIP2),
        (b"BZhang\t1", Container.NONE),
        (b"\xfd7zXZ\x00", Container.XZ),
        (b"\x28\xb5\x2f\xfd", Container.ZSTD),
        (b"PK\x03\x04", Container.ZIP),
        (b"CRAM\x03", Container.CRAM),
        (b"chr1\t1\t2\n", Container.NONE),
    ],
)
def test_container_always_is_told_by_the_first_bytes(head, container):
    """18 bytes tell gzip from BGZF; names have no say."""
    assert container_of(head) is container


@engines
@packings
def test_decoder_of_a_whole_file_gives_all_bytes(container, engine):
    """In pieces of any size."""
    for chunk_bytes in (1, 100, 1 << 20):
        assert unpacked(PACKED[container], container, engine=engine, chunk_bytes=chunk_bytes) == (
            LINES,
            container,
        )


@engines
@packings
def test_decoder_of_a_cut_file_tells_at_every_place(container, engine):
    """No cut passes for a whole file: not between blocks, not in a header, not in the checksum."""
    packed = PACKED[container]
    for cut in range(len(packed)):
        assert failure(packed[:cut], container, engine=engine) == "SOURCE_TRUNCATED", cut


@engines
@packings
def test_decoder_of_joined_files_gives_the_bytes_of_both(container, engine):
    """`cat a.gz b.gz` is legal; so is an EOF block in the middle."""
    packed = PACKED[container] * 3

    assert unpacked(packed, container, engine=engine) == (LINES * 3, container)


@engines
@packings
def test_decoder_of_joined_files_when_the_second_is_cut_tells_at_every_place(container, engine):
    """A whole first file does not make up for it."""
    packed = PACKED[container]
    for cut in range(1, len(packed)):
        assert failure(packed + packed[:cut], container, engine=engine) == "SOURCE_TRUNCATED", cut


@packings
@pytest.mark.parametrize("zeros", [1, 4, 28, 512, 200_000])
def test_decoder_when_zeros_stand_behind_the_last_member_gives_all_bytes(container, zeros):
    """Tapes pad. A padded BGZF cannot be sought in by all tools: it counts as gzip."""
    found, now = unpacked(PACKED[container] + bytes(zeros), container)

    assert found == LINES
    assert now is (Container.GZIP if container is Container.BGZF else container)


@packings
@pytest.mark.parametrize("junk", [b"junk", b"\0\0junk", bytes(200_000) + b"j", b"\x1f\x8c"])
def test_decoder_when_anything_else_stands_behind_tells(container, junk):
    """Data that nobody reads may be data that somebody misses."""
    assert failure(PACKED[container] + junk, container) == "SOURCE_CORRUPT"


def test_decoder_when_a_member_stands_behind_zeros_goes_by_the_packing():
    """xz pads between streams by its specification; gzip readers do not agree on it."""
    assert unpacked(PACKED[Container.XZ] + bytes(8) + PACKED[Container.XZ], Container.XZ)[0] == (
        LINES * 2
    )
    assert failure(PACKED[Container.GZIP] + bytes(8) + PACKED[Container.GZIP], Container.GZIP) == (
        "SOURCE_CORRUPT"
    )


@engines
@packings
def test_decoder_when_a_bit_is_wrong_never_gives_wrong_bytes(container, engine):
    """Every checksum is compared: a flipped bit is an error, or (in a time stamp, a name) of no effect."""
    packed = PACKED[container]
    classes = set()
    caught = 0
    for at in range(len(packed)):
        flipped = bytearray(packed)
        flipped[at] ^= 0x08
        try:
            found, _ = unpacked(bytes(flipped), container, engine=engine)
        except StageFailed as error:
            classes.add(error.failure)
            caught += 1
        else:
            assert found == LINES, at
    assert classes <= {"SOURCE_CORRUPT", "SOURCE_TRUNCATED", "FORMAT_MISMATCH"}
    assert caught > len(packed) * 0.8


def test_decoder_when_bgzf_goes_on_as_gzip_demotes_it():
    """No seeking is possible in such a file; its bytes are all there."""
    for packed in (blocked(LINES), blocked(LINES, end=False)):
        assert unpacked(packed + member(LINES), Container.BGZF) == (LINES * 2, Container.GZIP)
        assert unpacked(packed + member(LINES) + packed, Container.BGZF) == (
            LINES * 3,
            Container.GZIP,
        )


def test_decoder_when_the_eof_block_is_missing_tells():
    """Where gzip -t, bgzip -t and tabix all exit 0."""
    assert failure(blocked(LINES, end=False), Container.BGZF) == "SOURCE_TRUNCATED"
    assert unpacked(blocked(LINES, end=False), Container.GZIP) == (LINES, Container.GZIP)


def test_decoder_when_a_block_lies_about_its_size_tells():
    """Seeking would go wrong."""
    block = bytearray(bgzf.deflate_block(LINES, 1))
    for size in (len(block) - 2, len(block), 5):
        block[16:18] = size.to_bytes(2, "little")
        assert failure(bytes(block) + bgzf.EOF_BLOCK, Container.BGZF) in (
            "SOURCE_CORRUPT",
            "SOURCE_TRUNCATED",
        )


@pytest.mark.parametrize("inner", [*PACKED.values(), b"PK\x03\x04", b"CRAM\x03\x00"])
@pytest.mark.parametrize("pack", [member, blocked, bz2.compress, lzma.compress])
def test_decoder_when_packed_twice_refuses(pack, inner):
    """One layer only."""
    packed = pack(inner)
    for chunk_bytes in (1, 1 << 20):
        assert failure(packed, container_of(packed), chunk_bytes=chunk_bytes) == "FORMAT_MISMATCH"


def test_decoder_of_what_is_not_packed_gives_it_as_it_is():
    """Plain bytes and CRAM."""
    for container in (Container.NONE, Container.CRAM):
        assert unpacked(LINES, container) == (LINES, container)
        assert unpacked(b"", container) == (b"", container)


def test_decoder_of_an_archive_refuses():
    """Which of its files was meant?"""
    assert failure(b"PK\x03\x04", Container.ZIP) == "FORMAT_MISMATCH"


def test_decoder_of_zstd_decodes_or_names_what_is_missing():
    """The library is not one that synd asks for."""
    names = ("compression", "backports.zstd")
    here = [n for n in names if n.split(".")[0] and _importable(n)]
    if not here:
        with pytest.raises(StageFailed) as caught:
            unpacked(b"\x28\xb5\x2f\xfd", Container.ZSTD)
        assert caught.value.failure == "TOOL_MISSING"
        assert "zstd" in caught.value.message
        return
    module = importlib.import_module(
        "compression.zstd" if here[0] == "compression" else "backports.zstd"
    )
    packed = module.compress(LINES)
    assert unpacked(packed * 2, Container.ZSTD) == (LINES * 2, Container.ZSTD)
    for cut in range(len(packed)):
        assert failure(packed[:cut], Container.ZSTD) == "SOURCE_TRUNCATED"
    assert failure(packed + b"junk", Container.ZSTD) == "SOURCE_CORRUPT"


def _importable(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_decoder_of_xz_that_wants_too_much_memory_refuses():
    """A header of a few bytes may ask for gigabytes."""
    packed = bytearray(lzma.compress(b"a"))
    # Behind the stream's header: length, flags, the filter with its one property, padding, CRC.
    length = (packed[12] + 1) * 4
    assert packed[14:16] == b"\x21\x01"
    packed[16] = 37
    packed[12 + length - 4 : 12 + length] = zlib.crc32(packed[12 : 12 + length - 4]).to_bytes(
        4, "little"
    )

    assert failure(bytes(packed), Container.XZ) == "OUT_OF_MEMORY"


@engines
def test_decoder_of_what_grows_a_thousandfold_stays_small(engine):
    """Pieces are bounded by what was asked for, not by what the file makes of it."""
    packed = member(bytes(50_000_000), 9)
    decoder = Decoder(io.BytesIO(packed), Container.GZIP, engine=engine, chunk_bytes=100_000)
    sizes = list(map(len, decoder))

    assert sum(sizes) == 50_000_000
    assert max(sizes) < 300_000


def test_decoded_always_shows_each_raw_byte_once():
    """The digest of the source is taken on the way, padding included."""
    packed = PACKED[Container.GZIP] + bytes(300_000)
    seen = hashlib.md5()
    decoder = decoded(io.BytesIO(packed), Container.GZIP, on_raw=seen.update)

    assert b"".join(decoder) == LINES
    assert seen.hexdigest() == hashlib.md5(packed).hexdigest()
    assert (decoder.raw_bytes, decoder.decoded_bytes) == (len(packed), len(LINES))


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.binary(max_size=400), st.booleans(), st.integers(0, 9)), min_size=1, max_size=6
    ),
    chunk_bytes=st.integers(1, 500),
)
def test_decoder_of_any_members_agrees_with_gzip(parts, chunk_bytes):
    """Plain members and blocks in any order: the bytes are those that Python's gzip reads."""
    packed = b"".join(
        bgzf.deflate_block(data, 1) if block else member(data, level)
        for data, block, level in parts
    )
    data = b"".join(data for data, *_ in parts)
    if container_of(data[:18]) is not Container.NONE:
        return

    assert gzip.decompress(packed) == data
    found, now = unpacked(packed + member(b""), container_of(packed), chunk_bytes=chunk_bytes)
    assert (found, now) == (data, Container.GZIP)


@pytest.mark.parametrize("row", manifest(), ids=lambda row: row["file"])
def test_decoder_of_a_fixture_ends_as_its_manifest_says(row):
    """Cut files are told, the others are read as other libraries read them."""
    packed = fixture(row["file"])
    container = Container(row["container"])
    wanted = row["expected"].get("error_class")
    if wanted in ("SOURCE_TRUNCATED", "SOURCE_CORRUPT"):
        assert failure(packed, container) == wanted
        return
    plain = gzip.decompress(packed) if container in (Container.GZIP, Container.BGZF) else packed
    assert unpacked(packed, container) == (plain, container)


@pytest.mark.parametrize("row", manifest(), ids=lambda row: row["file"])
def test_has_eof_block_always_compares_the_last_bytes(row):
    """True of whole BGZF files alone."""
    whole = row["container"] == "bgzf" and row["expected"].get("error_class") is None

    assert has_eof_block(FIXTURES / row["file"]) is whole


@packings
def test_peek_always_decodes_as_far_as_it_goes(container):
    """Of a cut head too, without a look at what is wrong behind."""
    long = LINES * 400
    packed = {
        Container.GZIP: member,
        Container.BGZF: blocked,
        Container.BZIP2: lambda d: bz2.compress(d, 1),
        Container.XZ: lzma.compress,
    }[container](long)

    assert peek(packed, container) == (long[: 64 << 10], True)
    assert peek(PACKED[container] + b"junk", container) == (LINES, True)
    assert peek(packed[:20], container)[0] == b""


@pytest.mark.parametrize(
    ("head", "container", "known"),
    [
        (bgzf.EOF_BLOCK, Container.BGZF, True),
        (b"", Container.NONE, True),
        (member(b"")[:9], Container.GZIP, False),
        (b"PK\x03\x04", Container.ZIP, False),
        (b"BZh9" + random.Random(1).randbytes(50), Container.BZIP2, False),
        (b"\x1f\x8b\x08\x00" + zlib.compress(b"a"), Container.GZIP, False),
    ],
)
def test_peek_when_there_is_nothing_says_whether_that_is_known(head, container, known):
    """Nothing packed is something else than nothing decoded."""
    assert peek(head, container) == (b"", known)
