"""``@ready``: genomics files by region through the mount, prepared by opening them, read by the usual programs."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import eventually
from tests.support.readying import GENOMICS, ended, jobs
from tests.support.world import Remote, World

pytestmark = [pytest.mark.fuse, pytest.mark.tools, pytest.mark.timeout(240)]

MANIFEST = json.loads((GENOMICS / "manifest.json").read_text())["files"]
BY_NAME = {one["file"]: one for one in MANIFEST}


@pytest.fixture(scope="module")
def project(shared_server: Remote) -> str:
    """A project of all fixtures."""
    return shared_server.seed(GENOMICS, "Ready")


@pytest.fixture(scope="module", params=["kernel", "libfuse"])
def world(
    request: pytest.FixtureRequest, ground: Path, shared_server: Remote, project: str
) -> Iterator[World]:
    for program in ("samtools", "bcftools", "tabix"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    one = World(
        ground / f"ready-{request.param}", shared_server, projects=[project],
        transport=request.param, requests_per_minute=0, freshness_s=1, upload_delay_s=0.1,
    )  # fmt: skip
    try:
        one.up()
        yield one
    finally:
        one.close()


def at(world: World, folder: str, *name: str) -> str:
    """A path in a folder's ``@ready``."""
    return world.at("Ready", folder, "@ready", *name)


def regions(name: str) -> list[tuple[str, int]]:
    """(region, records in it), of the contigs that a fixture has."""
    wanted = BY_NAME[name]["expected"]
    return [
        (f"{one['contig']}:{one['begin']}-{one['end']}", one["count"])
        for one in wanted["regions"]
        if one["contig"] in wanted["contigs"]
    ]


def xattr(world: World, path: str, name: str) -> str:
    """An extended attribute; empty when it is not there."""
    done = world.python(
        "try:\n    print(os.getxattr(argv[0], argv[1]).decode())\nexcept OSError as e:\n"
        "    print('') if e.errno == errno.ENODATA else print(e)",
        path, name,
    )  # fmt: skip
    assert done.status == 0, done.err
    return done.out.strip()


@pytest.mark.req("S1-56")
def test_ready_when_listed_and_statted_then_starts_nothing(world: World) -> None:
    """`ls`, `stat` and `find` tell what there would be, under its names, and no job is begun."""
    before = len(jobs(world))
    names = world.text("ls", at(world, "align")).split("\n")
    assert {"reads.bam", "reads.bam.bai", "lying_so.bam", "lying_so.bam.bai"} <= set(names)
    assert "reads.sam.gz" not in names
    shown = world.text("stat", "-c", "%A %F", at(world, "align", "sorted_no_hd.bam"))
    assert "-r--r--r-- regular empty file\n" == shown
    found = world.text("find", at(world, "variants"), "-type", "f").splitlines()
    assert at(world, "variants", "crlf.vcf.gz") in found
    assert at(world, "variants", "crlf.vcf.gz.tbi") in found
    world.text("ls", "-l", at(world, "intervals"), at(world, "tables"))

    assert before == len(jobs(world))
    assert "@ready" not in world.text("ls", "-a", world.at("Ready", "align"))


@pytest.mark.req("S1-01")
@pytest.mark.req("S1-02")
@pytest.mark.parametrize(
    ("source", "shown"),
    [("align/reads.sam.gz", "reads.bam"), ("align/queryname.bam", "queryname.bam"),
     ("align/sorted.bam", "sorted.bam"), ("align/sorted_indexed.bam", "sorted_indexed.bam"), ("align/long_contig.bam", "long_contig.bam")],
)  # fmt: skip
def test_alignments_when_opened_then_are_read_by_region(
    world: World, source: str, shown: str
) -> None:
    """By samtools and by pysam, without a further thought: opening prepares, data and index fit."""
    path = at(world, "align", shown)
    assert BY_NAME[source]["expected"]["records"] == int(world.text("samtools", "view", "-c", path))
    for region, count in regions(source):
        assert count == int(world.text("samtools", "view", "-c", path, region)), region
    region, count = regions(source)[0]
    contig, span = region.split(":")
    begin, end = (int(n) for n in span.split("-"))
    told = world.run(
        sys.executable, "-c",
        "import sys, pysam\nwith pysam.AlignmentFile(sys.argv[1]) as f:\n"
        "    print(f.count(sys.argv[2], int(sys.argv[3]) - 1, int(sys.argv[4])))",
        path, contig, str(begin), str(end),
    )  # fmt: skip
    assert (f"{count}\n", "") == (told.out, told.err)
    world.text("samtools", "quickcheck", path)


@pytest.mark.parametrize(
    ("source", "shown"),
    [("variants/unsorted.vcf", "unsorted.vcf.gz"), ("variants/sorted.vcf.gz", "sorted.vcf.gz"), ("variants/sorted_indexed.vcf.gz", "sorted_indexed.vcf.gz"),
     ("intervals/unsorted.bed", "unsorted.bed.gz"), ("annotation/genes.gff3", "genes.gff3.gz"),
     ("big/features.bb", "features.bed.gz")],
)  # fmt: skip
def test_intervals_when_opened_then_are_read_by_region(
    world: World, source: str, shown: str
) -> None:
    """By tabix, and variants by bcftools."""
    folder = source.partition("/")[0]
    path = at(world, folder, shown)
    for region, count in regions(source):
        lines = world.text("tabix", path, region).splitlines()
        assert count == len(lines), region
        if folder == "variants":
            found = world.text("bcftools", "view", "-H", "-r", region, path).splitlines()
            assert count == len(found), region


def test_sequences_when_opened_then_are_read_by_region(world: World, project: str) -> None:
    """`samtools faidx` finds the index and does not want to write one."""
    server = world.remote
    folder = server.folder(project, f"fa {world.transport}")
    data = b">chr1\nACGTACGTAC\nGGGGTTTTAA\n>chr2\nTTTTT\n"
    server.file(folder, "ref.fa", data)
    path = f"fa {world.transport}"
    eventually(lambda: world.run("ls", world.at("Ready", path)).status == 0, what="the folder")

    assert ">chr1:9-12\nACGG\n" == world.text(
        "samtools", "faidx", at(world, path, "ref.fa"), "chr1:9-12"
    )


@pytest.fixture
def paused(world: World) -> Iterator[World]:
    """No job begins; whoever opens a promise waits."""
    assert 0 == world.synd("jobs", "pause").status
    yield world
    assert 0 == world.synd("jobs", "resume").status


@pytest.fixture
def folder(world: World, project: str, request: pytest.FixtureRequest) -> tuple[str, str]:
    """(id, name) of a folder of its own for a test, in the project."""
    name = f"F{abs(hash(request.node.nodeid)) % 10**9}"
    made = world.remote.folder(project, name)
    eventually(lambda: world.run("ls", world.at("Ready", name)).status == 0, what="the folder")
    return made, name


def put(world: World, folder: tuple[str, str], name: str, data: bytes) -> str:
    """A new file in a folder, once it shows; its id."""
    made = world.remote.file(folder[0], name, data)
    eventually(
        lambda: name in world.text("ls", world.at("Ready", folder[1])).splitlines(),
        what=f"{name} to show",
    )
    return made


def bed(seed: int, records: int = 50) -> bytes:
    """An unsorted BED file; another one for each seed."""
    lines = [
        f"chr1\t{(n * 7919 + seed) % 100_000}\t{(n * 7919 + seed) % 100_000 + 10}"
        for n in range(records)
    ]
    return "\n".join(lines).encode() + b"\n"  # fmt: skip


def unique(world: World, number: int) -> bytes:
    """Bytes that no other test of this transport has a job for."""
    return bed(number * 2 + (world.transport == "kernel"))


@pytest.mark.req("S1-03")
@pytest.mark.req("S1-70")
def test_promise_when_opened_by_several_at_once_then_one_job_makes_it(
    paused: World, folder: tuple[str, str]
) -> None:
    """Data and index alike: all wait for the same job, and all read it."""
    put(paused, folder, "many.bed", unique(paused, 1))
    data, index = (at(paused, folder[1], name) for name in ("many.bed.gz", "many.bed.gz.tbi"))
    readers = [paused.begin("md5sum", path) for path in (data, index, data, index)]
    eventually(lambda: len(jobs(paused, "many.bed")) == 1, what="the job")
    assert 0 == paused.synd("jobs", "resume").status
    told = [reader.wait(60) for reader in readers]

    assert [0] * 4 == [one.status for one in told]
    assert 2 == len({one.out.split()[0] for one in told})
    assert 1 == len(jobs(paused, "many.bed"))


def test_open_when_interrupted_then_ends_soon_and_the_job_goes_on(
    paused: World, folder: tuple[str, str]
) -> None:
    """SIGINT ends who waits; what was asked for is made all the same."""
    put(paused, folder, "left.bed", unique(paused, 2))
    reader = paused.begin("cat", at(paused, folder[1], "left.bed.gz"))
    eventually(lambda: len(jobs(paused, "left.bed")) == 1, what="the job")
    assert reader.process.poll() is None
    reader.process.send_signal(signal.SIGINT)
    assert -signal.SIGINT == reader.wait(10).status
    assert "pending" == jobs(paused, "left.bed")[0]["state"]
    assert 0 == paused.synd("jobs", "resume").status

    assert ["completed"] == [job["state"] for job in ended(paused, "left.bed")]


def test_open_when_nonblocking_then_waits(paused: World, folder: tuple[str, str]) -> None:
    """As gzip and zcat open what they read; writing is EROFS from the start."""
    put(paused, folder, "later.bed", unique(paused, 3))
    path = at(paused, folder[1], "later.bed.gz")
    reader = paused.begin("zcat", path)
    eventually(lambda: len(jobs(paused, "later.bed")) == 1, what="the job")
    assert ("waiting", jobs(paused, "later.bed")[0]["id"]) == (
        xattr(paused, path, "user.synd.state"), xattr(paused, path, "user.synd.job"),
    )  # fmt: skip
    assert "fetching" == paused.why(path)["state"]
    assert 0 == paused.synd("jobs", "resume").status

    lines = reader.wait(60).out.splitlines()
    assert sorted(unique(paused, 3).decode().splitlines()) == sorted(lines)
    assert "ready" == xattr(paused, path, "user.synd.state")
    for change in (
        "open(argv[0], 'r+b')", "open(argv[0] + 'x', 'wb')", "os.unlink(argv[0])", "os.mkdir(argv[0] + 'd')",
        "os.truncate(argv[0], 0)", "os.rename(argv[0], argv[0] + 'y')", "os.chmod(argv[0], 0o600)",
        "os.setxattr(argv[0], 'user.x', b'1')",
    ):  # fmt: skip
        assert "EROFS" == paused.errno(change, path), change


@pytest.mark.parametrize(
    ("name", "shown"),
    [("align/cut.bam", "cut.bam"), ("variants/cut.vcf.gz", "cut.vcf.gz"),
     ("misnamed/error_page.bam", "error_page.bam")],
)  # fmt: skip
def test_content_when_it_cannot_be_processed_then_open_says_why(
    world: World, name: str, shown: str
) -> None:
    """EIO, the reason as an attribute and by `synd why`; the next open is told so without another job."""
    path = at(world, name.partition("/")[0], shown)
    assert "EIO" == world.read_error(path)
    before = len(jobs(world))
    assert "EIO" == world.read_error(path)
    assert "EIO" == world.read_error(path + (".bai" if shown.endswith("bam") else ".tbi"))
    told = world.why(path)

    assert before == len(jobs(world))
    assert "failed" == xattr(world, path, "user.synd.state")
    assert told["reason"] == xattr(world, path, "user.synd.error") != ""
    assert BY_NAME[name]["expected"]["error_class"] == told["facts"]["failure"]
    assert GENOMICS.joinpath(name).stat().st_size == int(
        world.text("stat", "-c", "%s", world.at("Ready", *name.split("/")))
    )


def test_file_when_it_is_read_as_it_is_then_lies_in_ready_too(
    world: World, folder: tuple[str, str]
) -> None:
    """Tables have their own name and no index; an empty file has no prepared form, and open says so."""
    before = len(jobs(world))
    assert (GENOMICS / "tables/table.csv").read_text() == world.text(
        "cat", at(world, "tables", "table.csv")
    )
    put(world, folder, "empty.bed", b"")
    assert "ENOENT" == world.read_error(at(world, folder[1], "empty.bed.gz"))
    assert "" == world.text("cat", at(world, folder[1], "empty.bed"))
    assert "as-it-is" == xattr(world, at(world, folder[1], "empty.bed"), "user.synd.state")

    assert before == len(jobs(world))


def test_artifact_when_evicted_then_is_promised_and_made_again(
    world: World, folder: tuple[str, str]
) -> None:
    """Who had it open reads on to the end."""
    put(world, folder, "gone.bed", unique(world, 4))
    path = at(world, folder[1], "gone.bed.gz")
    count = len(world.text("tabix", path, "chr1").splitlines())
    before = world.md5(path)
    reader = world.begin_python(
        "with open(argv[0], 'rb') as f:\n    print('open', flush=True)\n    input()\n"
        "    print(__import__('hashlib').md5(f.read()).hexdigest())",
        path,
    )  # fmt: skip
    reader.printed("open")
    assert 0 == world.synd("cache", "clear").status
    reader.say()
    assert before == reader.wait(20).out.splitlines()[1]
    assert 0 == world.synd("cache", "clear").status
    eventually(lambda: world.text("stat", "-c", "%s", path) == "0\n", what="the promise")
    assert "not-prepared" == xattr(world, path, "user.synd.state")

    assert (count, before) == (len(world.text("tabix", path, "chr1").splitlines()), world.md5(path))


@pytest.mark.req("S1-05")
def test_source_when_it_has_a_new_version_then_the_old_artifact_is_gone(
    world: World, folder: tuple[str, str]
) -> None:
    """The name promises what is to be made of the new bytes; who had the old open reads on."""
    made = put(world, folder, "new.bed", unique(world, 5))
    path = at(world, folder[1], "new.bed.gz")
    assert 50 == len(world.text("tabix", path, "chr1").splitlines())
    world.remote.new_version(made, unique(world, 5) + b"chr2\t1\t2\n")
    eventually(
        lambda: xattr(world, path, "user.synapse.version") == "2", what="the new version to show"
    )
    assert "not-prepared" == xattr(world, path, "user.synd.state")

    assert "chr2\t1\t2\n" == world.text("tabix", path, "chr2")


def test_source_when_changed_here_then_is_prepared_once_it_is_sent(
    world: World, folder: tuple[str, str]
) -> None:
    """Until then open is EBUSY: an artifact of the old bytes would be wrong, and of these there is none."""
    put(world, folder, "mine.bed", unique(world, 6))
    path, source = at(world, folder[1], "mine.bed.gz"), world.at("Ready", folder[1], "mine.bed")
    assert 50 == len(world.text("tabix", path, "chr1").splitlines())
    assert 0 == world.synd("pause").status
    world.text("sh", "-c", 'printf "chr3\\t5\\t6\\n" >> "$1"', "sh", source)
    assert "EBUSY" == world.read_error(path)
    assert "changed-here" == xattr(world, path, "user.synd.state")
    assert "modified" == world.why(path)["state"]
    assert 0 == world.synd("resume").status
    world.synd("wait", "--timeout", "30")

    assert "chr3\t5\t6\n" == world.text("tabix", path, "chr3")


def test_source_when_it_becomes_another_while_its_job_runs_then_who_waits_reads_that(
    paused: World, folder: tuple[str, str]
) -> None:
    """An open that waits goes on waiting for the new one, and neither fails nor reads the old."""
    put(paused, folder, "other.bed", unique(paused, 18))
    path = at(paused, folder[1], "other.bed.gz")
    source = paused.at("Ready", folder[1], "other.bed")
    waiting = paused.begin("sh", "-c", 'zcat "$1" | grep chr3', "sh", path)
    eventually(lambda: len(jobs(paused, "other.bed")) == 1, what="the job")
    paused.text("sh", "-c", 'printf "chr3\\t5\\t6\\n" >> "$1"', "sh", source)
    assert 0 == paused.synd("wait", "--timeout", "30").status
    assert 0 == paused.synd("jobs", "resume").status

    told = waiting.wait(60)
    assert (0, "chr3\t5\t6\n", "") == (told.status, told.out, told.err)


def test_names_when_two_files_have_one_artifact_name_then_each_has_its_own(
    world: World, folder: tuple[str, str]
) -> None:
    """Who is called so has the name; the other has its id in it. A new file shows in a listing at once."""
    second = put(world, folder, "x.bed", unique(world, 7))
    ready = at(world, folder[1])
    assert ["x.bed.gz", "x.bed.gz.tbi"] == world.text("ls", ready).split("\n")[:2]
    put(world, folder, "x.bed.gz", b"")
    marked = f"x %{second}.bed.gz"
    eventually(lambda: marked in world.text("ls", ready), what="both names")

    assert 50 == len(world.text("tabix", f"{ready}/{marked}", "chr1").splitlines())
    world.text("sh", "-c", 'cp "$1" "$2"', "sh", world.at("Ready", folder[1], "x.bed"),
               world.at("Ready", folder[1], "y.bed"))  # fmt: skip
    assert {"y.bed.gz", "y.bed.gz.tbi"} <= set(world.text("ls", ready).split("\n"))


def test_ready_when_the_daemon_restarts_then_goes_on(world: World, folder: tuple[str, str]) -> None:
    """What was made is there at once; who waited, or had it open, is served by the next daemon."""
    if world.transport != "kernel":
        pytest.skip("libfuse's mount ends with its daemon")
    put(world, folder, "a.bed", unique(world, 8))
    put(world, folder, "b.bed", unique(world, 9))
    path = at(world, folder[1], "a.bed.gz")
    before = world.md5(path)
    reader = world.begin_python(
        "with open(argv[0], 'rb') as f:\n    print('open', flush=True)\n    input()\n"
        "    print(__import__('hashlib').md5(f.read()).hexdigest())",
        path,
    )  # fmt: skip
    reader.printed("open")
    assert 0 == world.synd("jobs", "pause").status
    waiting = world.begin("tabix", at(world, folder[1], "b.bed.gz"), "chr1")
    eventually(lambda: len(jobs(world, "b.bed")) == 1, what="the job")
    world.successor(of=world.kill_daemon())
    assert 0 == world.synd("jobs", "resume").status
    reader.say()

    assert before == reader.wait(20).out.splitlines()[1]
    assert 50 == len(waiting.wait(60).out.splitlines())
    assert before == world.md5(path)
    assert "ready" == xattr(world, path, "user.synd.state")
    assert 1 == len(jobs(world, "a.bed"))
