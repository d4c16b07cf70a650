"""Sorting of records, by GNU sort and without it."""

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synd.processors.normalise import BED, GFF, VCF
from synd.processors.sorting import (
    SORT_ENVIRONMENT,
    ExternalSort,
    external_sort,
    gnu_sort_usable,
    sort_command,
)

FAMILIES = [VCF, BED, GFF]


def line(rules, contig, start, end, mark):
    if rules is VCF:
        return b"%s\t%d\t%d\tA\tC\t.\t.\tx\n" % (contig, start, mark)
    if rules is BED:
        return b"%s\t%d\t%d\t%d\n" % (contig, start, start + end, mark)
    return b"%s\tensembl havana\tb\t%d\t%d\t.\t+\t.\t%d\n" % (contig, start, start + end, mark)


def expected(rules, records):
    """By Python's own stable sort."""
    keys = {
        "vcf": lambda r: (r[0], r[1]),
        "bed": lambda r: (r[0], r[1], r[1] + r[2]),
        "gff": lambda r: (r[0], r[1], -(r[1] + r[2])),
    }
    ordered = sorted(records, key=keys[rules.family.value])
    return b"".join(line(rules, *record) for record in ordered)


def externally(data, rules, folder, *, memory_bytes=1 << 20, step=1000):
    out = []
    chunks = [data[at : at + step] for at in range(0, len(data), step)]
    external_sort(chunks, rules, memory_bytes=memory_bytes, work_dir=folder, write=out.append)
    return b"".join(out)


records = st.lists(
    st.tuples(
        st.sampled_from([b"chr1", b"chr10", b"chr2", b"Chr1", b"\xc3\xa9", b"a b"]),
        st.integers(1, 30),
        st.integers(0, 20),
    ),
    max_size=60,
)


@pytest.mark.req("S1-22", "S1-65")
@pytest.mark.parametrize(
    ("rules", "keys"),
    [
        (VCF, ["-k1,1", "-k2,2n"]),
        (BED, ["-k1,1", "-k2,2n", "-k3,3n"]),
        (GFF, ["-k1,1", "-k4,4n", "-k5,5nr"]),
    ],
)
def test_sort_command_always_has_its_familys_keys_and_every_guard(rules, keys, tmp_path):
    """Tabs, stability, memory, place and threads; the order of bytes is asked for by the environment."""
    assert sort_command(rules, memory_bytes=128 << 20, work_dir=tmp_path, threads=2) == [
        "sort", "-t", "\t", "-s", *keys, "-S", "128M", "-T", str(tmp_path), "--parallel=2",
    ]  # fmt: skip
    assert SORT_ENVIRONMENT == {"LC_ALL": "C"}


def test_sort_command_when_the_memory_is_no_whole_mebibyte_says_bytes(tmp_path):
    """Nothing is rounded."""
    assert "1500000b" in sort_command(VCF, memory_bytes=1_500_000, work_dir=tmp_path, threads=1)


@pytest.mark.req("S1-65")
@pytest.mark.parametrize("rules", FAMILIES, ids=lambda r: r.family.value)
@settings(max_examples=60, deadline=None)
@given(
    places=records, memory=st.sampled_from([4, 400, 1 << 20]), step=st.sampled_from([1, 17, 10**6])
)
def test_external_sort_always_agrees_with_a_stable_sort(
    rules, places, memory, step, tmp_path_factory
):
    """Contigs by bytes, positions as numbers, ties in the order of the file; also when it spills."""
    marked = [(*place, n) for n, place in enumerate(places)]
    data = b"".join(line(rules, *record) for record in marked)
    folder = tmp_path_factory.getbasetemp()

    assert externally(data, rules, folder, memory_bytes=memory, step=step) == expected(
        rules, marked
    )
    assert externally(data[:-1], rules, folder, memory_bytes=memory, step=step) == expected(
        rules, marked
    )


@pytest.mark.req("S1-65")
@pytest.mark.parametrize("rules", FAMILIES, ids=lambda r: r.family.value)
def test_gnu_sort_always_agrees_with_the_external_sort(rules, tmp_path):
    """The artifact does not depend on which of the two was there, nor on the user's language."""
    if not gnu_sort_usable():
        pytest.skip("sort on PATH is not GNU's")
    names = [b"chr1", b"chr10", b"chr2", b"chr1_alt", b"CHR1", b"\xe9"]
    marked = [(names[n * 7 % 6], 1 + n * 7919 % 500, n * 31 % 40, n) for n in range(20_000)]
    data = b"".join(line(rules, *record) for record in marked)
    done = subprocess.run(
        sort_command(rules, memory_bytes=1 << 20, work_dir=tmp_path, threads=2),
        input=data,
        capture_output=True,
        check=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], **SORT_ENVIRONMENT},
    )

    assert done.stdout == expected(rules, marked)
    assert externally(data, rules, tmp_path, memory_bytes=200_000) == done.stdout


def test_external_sort_with_more_runs_than_may_be_open_merges_them_on_the_way(tmp_path):
    """Ties keep the order of the file through every merge."""
    marked = [(b"c", 1 + n % 7, 0, n) for n in range(3000)]
    data = b"".join(line(BED, *record) for record in marked)
    before = len(os.listdir("/proc/self/fd"))
    with ExternalSort(BED, memory_bytes=1200, work_dir=tmp_path) as sorter:
        most = 0
        for at in range(0, len(data), 300):
            sorter.add(data[at : at + 300])
            most = max(most, len(os.listdir("/proc/self/fd")) - before)
        out = []
        sorter.finish(out.append)

    assert b"".join(out) == expected(BED, marked)
    assert 10 < most < 70
    assert len(os.listdir("/proc/self/fd")) == before


def test_external_sort_when_it_fails_leaves_nothing(tmp_path):
    """Its files have no names, and are closed."""
    before = len(os.listdir("/proc/self/fd"))

    def chunks():
        for n in range(100):
            yield b"c\t%d\t%d\n" % (100 - n, 200)
            assert not list(tmp_path.iterdir())
        raise KeyError("the source ended badly")

    with pytest.raises(KeyError):
        external_sort(chunks(), BED, memory_bytes=40, work_dir=tmp_path, write=lambda _: None)

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "script",
    ["exit 2", "echo more than nothing", "exec sleep 0 --parallel"],
)
def test_gnu_sort_is_not_usable_when_the_program_does_not_know_its_options(
    script, tmp_path, monkeypatch
):
    """Another system's `sort` is found out by an empty input."""
    program = tmp_path / "sort"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    gnu_sort_usable.cache_clear()
    try:
        assert not gnu_sort_usable()
        monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
        gnu_sort_usable.cache_clear()
        assert not gnu_sort_usable()
    finally:
        gnu_sort_usable.cache_clear()
