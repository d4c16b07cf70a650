"""An index that lies beside a file serves without a job, when it belongs to that file; else it is passed over."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.control import ready
from tests.support.mounts import eventually
from tests.support.readying import GENOMICS, get, indexed_bam, jobs, prepare
from tests.support.world import Remote, World

pytestmark = [pytest.mark.fuse, pytest.mark.tools, pytest.mark.timeout(180)]

NUMBERS = itertools.count()
INDEXED = [
    ("align/sorted_indexed.bam", ".bai"),
    ("variants/sorted_indexed.vcf.gz", ".tbi"),
    ("intervals/sorted_indexed.bed.gz", ".tbi"),
]


@pytest.fixture(scope="module")
def project(shared_server: Remote, tmp_path_factory: pytest.TempPathFactory) -> str:
    return shared_server.project("Sidecars")


@pytest.fixture(scope="module")
def world(ground: Path, shared_server: Remote, project: str) -> Iterator[World]:
    for program in ("samtools", "tabix", "bgzip", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    one = World(ground / "sidecars", shared_server, projects=[project], requests_per_minute=0)
    try:
        one.up()
        yield one
    finally:
        one.close()


@pytest.fixture
def folder(shared_server: Remote, project: str) -> str:
    """A folder of its own for each test."""
    return shared_server.folder(project, f"in {next(NUMBERS)}")


def add(server: Remote, folder: str, **files: bytes) -> dict[str, str]:
    return {name: server.file(folder, name, data) for name, data in files.items()}


@pytest.mark.req("S1-51")
@pytest.mark.parametrize(("name", "suffix"), INDEXED)
def test_index_beside_a_file_when_it_fits_then_is_served_without_a_job(
    world: World, folder: str, name: str, suffix: str
) -> None:
    """The very bytes of both, asked for at once."""
    data, index = ((GENOMICS / f"{name}{end}").read_bytes() for end in ("", suffix))
    plain = Path(name).name
    made = add(world.remote, folder, **{plain: data, plain + suffix: index})
    before = len(jobs(world))

    assert (200, index) == get(world, f"{ready.INDEX}/{made[plain]}")
    assert (200, data) == get(world, f"{ready.DATA}/{made[plain]}")
    assert made[plain] and prepare(world, made[plain])["ready"]
    assert before == len(jobs(world))


@pytest.mark.req("S1-51")
def test_index_beside_a_large_file_when_it_fits_then_only_ranges_of_the_file_are_read(
    world: World, folder: str, tmp_path: Path
) -> None:
    """Its name may leave the file's own ending out; of the data no more than what proves it comes."""
    data, index = indexed_bam(tmp_path / "large.bam", 1)
    assert len(data) > 2 << 20
    made = add(world.remote, folder, **{"large.bam": data, "large.bai": index})
    world.remote.forget_requests()

    assert (200, index) == get(world, f"{ready.INDEX}/{made['large.bam']}")
    assert len(index) + (1 << 20) > world.remote.asked().bytes_sent
    assert [] == jobs(world, "large.bam")
    # Nor is anything of it read again.
    world.remote.forget_requests()
    assert (200, index) == get(world, f"{ready.INDEX}/{made['large.bam']}")
    assert 0 == world.remote.asked().bytes_sent


@pytest.mark.parametrize("of", ["another file", "no index"])
def test_index_beside_a_file_when_it_is_not_right_then_a_job_makes_one(
    world: World, folder: str, tmp_path: Path, of: str
) -> None:
    """The reason is told once, and what is served belongs to the data."""
    name = f"stale {of}.bam"
    data, right = indexed_bam(tmp_path / "a.bam", 2, reads=500)
    wrong = indexed_bam(tmp_path / "b.bam", 3, reads=700)[1] if of == "another file" else b"no BAI"
    made = add(world.remote, folder, **{name: data, f"{name}.bai": wrong})
    assert 202 == get(world, f"{ready.INDEX}/{made[name]}")[0]
    prepare(world, made[name])

    status, index = get(world, f"{ready.INDEX}/{made[name]}")
    assert (200, right) == (status, index)
    eventually(
        lambda: [job["state"] for job in jobs(world, name)] == ["completed"],
        timeout_s=30,
        what="the end of the one job",
    )
    told = [line for line in world.log().splitlines() if "sidecar.refused" in line]
    assert 1 == sum(made[name] in line for line in told), told


@pytest.mark.req("S1-57")
def test_raw_index_always_is_what_lies_beside_the_file(world: World, folder: str) -> None:
    """Whatever it holds; without one it is not found, and no job is begun."""
    data = (GENOMICS / "align/sorted.bam").read_bytes()
    made = add(
        world.remote, folder, **{"raw.bam": data, "raw.bam.bai": b"anything", "bare.bam": data}
    )

    assert (200, b"anything") == get(world, f"{ready.INDEX}/{made['raw.bam']}?raw=true")
    assert (200, data) == get(world, f"{ready.DATA}/{made['raw.bam']}?raw=true")
    assert 404 == get(world, f"{ready.INDEX}/{made['bare.bam']}?raw=true")[0]
    assert [] == jobs(world, "raw.bam") + jobs(world, "bare.bam")


@pytest.mark.parametrize("gzi", [True, False], ids=["with a gzi", "without"])
def test_index_of_a_packed_fasta_when_its_blocks_are_told_then_is_taken(
    world: World, folder: str, tmp_path: Path, gzi: bool
) -> None:
    """A FAI alone finds nothing in a BGZF file."""
    chance = random.Random(4 + gzi)
    lines = [">chr1 first", *("".join(chance.choices("ACGT", k=60)) for _ in range(5000))]
    plain = tmp_path / f"genome{gzi}.fa"
    plain.write_text("\n".join(lines) + "\n")
    subprocess.run(["bgzip", str(plain)], check=True, timeout=60)
    packed = Path(f"{plain}.gz")
    subprocess.run(["samtools", "faidx", str(packed)], check=True, timeout=60)
    files = {packed.name + end: Path(f"{packed}{end}").read_bytes() for end in ("", ".fai")}
    if gzi:
        files[f"{packed.name}.gzi"] = Path(f"{packed}.gzi").read_bytes()
    made = add(world.remote, folder, **files)
    prepare(world, made[packed.name])

    assert (200, files[f"{packed.name}.fai"]) == get(world, f"{ready.INDEX}/{made[packed.name]}")
    assert (0 if gzi else 1) == len(jobs(world, packed.name))


def test_text_with_other_line_ends_never_is_taken_as_it_is(
    world: World, folder: str, tmp_path: Path
) -> None:
    """Its index may be right, but a reader by region would hand out the carriage returns."""
    plain = tmp_path / "dos.bed"
    plain.write_bytes(b"".join(b"chr1\t%d\t%d\tx\r\n" % (n * 10, n * 10 + 5) for n in range(500)))
    subprocess.run(["bgzip", str(plain)], check=True, timeout=60)
    subprocess.run(["tabix", "-p", "bed", f"{plain}.gz"], check=True, timeout=60)
    files = {f"dos.bed.gz{end}": Path(f"{plain}.gz{end}").read_bytes() for end in ("", ".tbi")}
    made = add(world.remote, folder, **files)
    prepare(world, made["dos.bed.gz"])
    status, data = get(world, f"{ready.DATA}/{made['dos.bed.gz']}")

    assert 200 == status
    assert files["dos.bed.gz"] != data
    assert 1 == len(jobs(world, "dos.bed.gz"))
