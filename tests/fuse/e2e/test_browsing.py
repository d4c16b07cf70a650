"""Genome browsers read prepared files by region over loopback HTTP: a page that does it all by itself, and htslib."""

from __future__ import annotations

import json
import random
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from synd.control import contract, ready
from tests.support.browser import (
    Page,
    bai,
    bam_contigs,
    bam_region,
    tbi,
    vcf_region,
)
from tests.support.mounts import eventually
from tests.support.world import Remote, World

pytestmark = [pytest.mark.fuse, pytest.mark.tools, pytest.mark.timeout(180)]

READS = 20_000
VARIANTS = 40_000
CONTIGS = {"chr1": 2_000_000, "chr10": 500_000, "chr2": 1_000_000}
REGIONS = [("chr1", 1, 2_000_000), ("chr1", 700_000, 703_000), ("chr2", 1, 50), ("chr2", 999_000, 1_000_000),
           ("chr10", 250_000, 250_001), ("chr10", 16_384, 32_768)]  # fmt: skip


@dataclass(frozen=True)
class Record:
    contig: str
    begin: int
    """1-based."""
    length: int
    name: str
    line: str

    def overlaps(self, contig: str, begin: int, end: int) -> bool:
        return self.contig == contig and self.begin <= end and self.begin + self.length - 1 >= begin


def reads() -> list[Record]:
    """Of a SAM, in no order."""
    numbers = random.Random(11)
    found = []
    for n in range(READS):
        contig = numbers.choice(list(CONTIGS))
        begin, skip = numbers.randrange(1, CONTIGS[contig] - 400), numbers.choice([0, 0, 200])
        bases = "".join(numbers.choices("ACGT", k=60))
        cigar = f"30M{skip}N30M" if skip else "60M"
        line = f"r{n}\t0\t{contig}\t{begin}\t30\t{cigar}\t*\t0\t0\t{bases}\t{'I' * 60}"
        found.append(Record(contig, begin, 60 + skip, f"r{n}", line))
    return found


def variants() -> list[Record]:
    """Of a VCF, in no order."""
    numbers = random.Random(12)
    found = []
    for n in range(VARIANTS):
        contig = numbers.choice(list(CONTIGS))
        begin = numbers.randrange(1, CONTIGS[contig] - 100)
        ref = "".join(numbers.choices("ACGT", k=numbers.choice([1, 1, 1, 20])))
        line = f"{contig}\t{begin}\tv{n}\t{ref}\tT\t{n % 97}\tPASS\tDP={n % 31}"
        found.append(Record(contig, begin, len(ref), f"v{n}", line))
    return found


@dataclass(frozen=True)
class Study:
    """A project with what a browser would look at."""

    remote: Remote
    project: str
    bam: str
    vcf: str
    bad: str
    reads: list[Record]
    variants: list[Record]


@pytest.fixture(scope="module")
def study(shared_server: Remote) -> Study:
    server, project = shared_server, shared_server.project("Browsed")
    all_reads, all_variants = reads(), variants()
    contigs = "".join(f"@SQ\tSN:{name}\tLN:{size}\n" for name, size in CONTIGS.items())
    sam = f"@HD\tVN:1.6\n{contigs}" + "".join(f"{one.line}\n" for one in all_reads)
    head = "##fileformat=VCFv4.2\n" + "".join(
        f"##contig=<ID={name},length={size}>\n" for name, size in CONTIGS.items()
    )
    vcf = f"{head}#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(
        f"{one.line}\n" for one in all_variants
    )
    return Study(
        server,
        project,
        server.file(project, "reads.sam", sam.encode()),
        server.file(project, "variants.vcf", vcf.encode()),
        server.file(project, "bad.vcf", f"{head}no header line\n".encode()),
        all_reads,
        all_variants,
    )


@pytest.fixture(scope="module")
def world(ground: Path, study: Study) -> Iterator[World]:
    for program in ("samtools", "tabix"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    one = World(
        ground / "browsing", study.remote, projects=[study.project], requests_per_minute=0,
        http_listen="127.0.0.1:0",
    )  # fmt: skip
    try:
        one.up()
        prepared = one.synd("prepare", "--wait", study.bam, study.vcf, timeout_s=120)
        assert prepared.status == 0, f"{prepared.err}{one.log()[-3000:]}"
        yield one
    finally:
        one.close()


@pytest.fixture
def page(world: World) -> Page:
    """A web page that was given the address by its user."""
    return page_of(world)


def page_of(world: World) -> Page:
    told = json.loads(world.synd("url", "syn1", "--raw", "--json").out)["url"]
    address, _, rest = told.partition("/v1/")
    return Page(address, rest.partition("token=")[2])


def names(records: list[Record], region: tuple[str, int, int]) -> list[str]:
    return sorted(one.name for one in records if one.overlaps(*region))


def jobs(world: World) -> list[contract.Job]:
    found: contract.Jobs = world.control.get(f"{contract.JOBS}?all=1&kind=preprocess")
    return found["jobs"]


@pytest.mark.req("S1-49")
@pytest.mark.req("S1-58")
@pytest.mark.parametrize("region", REGIONS, ids=lambda r: f"{r[0]}:{r[1]}-{r[2]}")
def test_page_reads_a_region_of_alignments_through_the_index(
    page: Page, study: Study, region: tuple[str, int, int]
) -> None:
    """Header blocks, the index, the blocks of the region: the reads are those that were written there."""
    data = f"{ready.DATA}/{study.bam}"
    contigs = bam_contigs(page, data)
    index = bai(page.whole(f"{ready.INDEX}/{study.bam}"))
    before = page.received
    found = bam_region(page, data, index, contigs.index(region[0]), region[1] - 1, region[2])

    assert list(CONTIGS) == contigs
    assert names(study.reads, region) == sorted(found)
    if region[2] - region[1] < 5000:
        size = int(page.ask(data, "HEAD").headers["Content-Length"])
        assert page.received - before < size / 2


@pytest.mark.req("S1-49")
@pytest.mark.req("S1-58")
@pytest.mark.parametrize("region", REGIONS, ids=lambda r: f"{r[0]}:{r[1]}-{r[2]}")
def test_page_reads_a_region_of_variants_through_the_index(
    page: Page, study: Study, region: tuple[str, int, int]
) -> None:
    """The same of a VCF and its TBI."""
    index = tbi(page.whole(f"{ready.INDEX}/{study.vcf}"))
    data = f"{ready.DATA}/{study.vcf}"
    found = vcf_region(page, data, index, region[0], region[1] - 1, region[2])

    wanted = [one.line for one in study.variants if one.overlaps(*region)]
    assert sorted(wanted) == sorted(found)


@pytest.mark.parametrize("named", [True, False], ids=["index named", "index found"])
@pytest.mark.parametrize("region", REGIONS[1::2], ids=lambda r: f"{r[0]}:{r[1]}-{r[2]}")
def test_htslib_reads_regions_over_the_listener(
    world: World, study: Study, tmp_path: Path, region: tuple[str, int, int], named: bool
) -> None:
    """samtools and tabix, with the addresses that `synd url` prints; they find the index by the data's name."""
    told = subprocess.run(
        ["samtools", "--version"], capture_output=True, timeout=20, check=True
    ).stdout
    if b"libcurl=yes" not in told:
        pytest.skip("the htslib of samtools has no libcurl")
    where = f"{region[0]}:{region[1]}-{region[2]}"
    found = []
    for command, file in ((("samtools", "view"), study.bam), (("tabix",), study.vcf)):
        data = world.synd("url", file).out.strip()
        if named:
            data += f"##idx##{world.synd('url', '--index', file).out.strip()}"
        # In a folder of its own: htslib keeps a copy of the index beside itself.
        done = subprocess.run(
            [*command, data, where], cwd=tmp_path, capture_output=True, text=True,
            timeout=60, check=False, env={"PATH": "/usr/bin:/bin", "no_proxy": "*"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append([line.split("\t") for line in done.stdout.splitlines()])

    assert names(study.reads, region) == sorted(line[0] for line in found[0])
    assert names(study.variants, region) == sorted(line[2] for line in found[1])


def test_htslib_reads_a_compressed_sequence_over_the_listener(
    world: World, study: Study, tmp_path: Path
) -> None:
    """Both files of its index are had by their names."""
    if shutil.which("bgzip") is None:
        pytest.skip("bgzip is not installed")
    bases = "".join(random.Random(13).choices("ACGT", k=300_000))
    lines = "\n".join(bases[at : at + 60] for at in range(0, len(bases), 60))
    packed = subprocess.run(
        ["bgzip", "-c"],
        input=f">chrF\n{lines}\n".encode(),
        capture_output=True,
        timeout=20,
        check=True,
    ).stdout
    file = study.remote.file(study.project, "f.fa.gz", packed)
    assert 0 == world.synd("prepare", "--wait", file, timeout_s=60).status
    data = world.synd("url", file).out.strip()
    address, _, query = data.partition("?")
    done = subprocess.run(
        ["samtools", "faidx", "--fai-idx", f"{address}.fai?{query}", "--gzi-idx", f"{address}.gzi?{query}",
         data, "chrF:200001-200060"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": "/usr/bin:/bin", "no_proxy": "*"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    assert bases[200_000:200_060] == done.stdout.splitlines()[1]


@pytest.mark.req("S1-50")
@pytest.mark.req("S1-52")
@pytest.mark.req("S1-54")
def test_page_that_comes_too_early_follows_the_job(world: World, page: Page, study: Study) -> None:
    """202 for data and index alike, of one job, whose address answers until the bytes are there."""
    extra = "".join(f"{one.line}\n" for one in study.variants[:50]).encode()
    head = b"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    file = study.remote.file(study.project, "early.vcf", head + extra)
    assert 404 == page.ask(f"{ready.DATA}/{file}", "HEAD").status
    world.control.post(contract.JOBS_PAUSE, {"kinds": ["preprocess"]})
    try:
        told = [page.ask(f"{route}/{file}") for route in (ready.INDEX, ready.DATA)]
        waiting = json.loads(page.ask(told[0].headers["Location"]).body)
    finally:
        world.control.post(contract.JOBS_RESUME, {"kinds": []})
    assert [202, 202] == [one.status for one in told]
    assert ["5", "5"] == [one.headers["Retry-After"] for one in told]
    assert told[0].headers["Location"] == told[1].headers["Location"]
    assert ("pending", [], []) == (
        waiting["state"], waiting["stages_done"], waiting["artifacts"],
    )  # fmt: skip

    def look() -> contract.Job | None:
        job: contract.Job = json.loads(page.ask(told[0].headers["Location"]).body)
        return job if job["state"] not in ("pending", "running") else None

    job = eventually(look, timeout_s=60, what="the end of the job")
    assert job is not None
    assert ("completed", None) == (job["state"], job["problem"])
    assert {"data", "index"} <= set(job["stages_done"])
    assert 2 == len(job["artifacts"])
    assert tbi(page.whole(f"{ready.INDEX}/{file}"))

    assert 404 == page.ask(f"{contract.JOBS}/nonesuch").status


def test_conditions_and_impossible_ranges_are_answered_as_http_says(
    page: Page, study: Study
) -> None:
    """304, 206 or 200 by the entity tag; 416 and 400 with what a page needs to know."""
    data = f"{ready.DATA}/{study.bam}"
    head = page.ask(data, "HEAD")
    etag, size = head.headers["ETag"], int(head.headers["Content-Length"])
    assert (304, b"") == (
        (same := page.ask(data, If_None_Match=etag)).status,
        same.body,
    )
    assert 206 == page.ask(data, Range="bytes=0-9", If_Range=etag).status
    other = page.ask(data, Range="bytes=0-9", If_Range='"other"')
    assert (200, size) == (other.status, len(other.body))
    past = page.ask(data, Range=f"bytes={size}-")

    assert (416, f"bytes */{size}") == (past.status, past.headers["Content-Range"])
    assert 400 == page.ask(data, Range="bytes=9-3").status


def test_stranger_is_refused(world: World, page: Page, study: Study) -> None:
    """Without the token, with a wrong one, under another name, and for all that would change something."""
    data = f"{ready.DATA}/{study.bam}"
    for token in ("", "x" * len(page.token)):
        stranger = Page(page.address, token)
        assert (401, False) == ((no := stranger.ask(data)).status, b"BGZF" in no.body)
    assert 403 == page.ask(data, Host="evil.example.org").status
    assert 405 == page.ask(data, "DELETE").status
    for route in (contract.SHUTDOWN, ready.PREPARE, contract.CACHE_CLEAR):
        assert 404 == page.ask(route, "POST").status
    assert 404 == page.ask(contract.STATUS).status

    assert world.status()["state"] == "ready"


def test_token_lies_with_its_owner_and_in_no_log(world: World, page: Page, study: Study) -> None:
    """It outlives the daemon; a browser's saved session needs only the address."""
    page.ask(f"{ready.DATA}/{study.bam}")
    Page(page.address, f"{page.token}x").ask("/v1/nonesuch")
    path = world.folders.http_token
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert page.token == path.read_text().strip()
    world.successor(of=world.kill_daemon())
    again = page_of(world)

    assert page.token == again.token
    assert 200 == again.ask(f"{ready.DATA}/{study.bam}", "HEAD").status
    assert page.token not in world.log()
    assert page.token not in world.synd("status", "--json").out


def test_why_tells_of_a_job_that_failed(world: World, study: Study) -> None:
    """What, why, what to do, the job, and where its programs spoke."""
    assert 0 == world.synd("prepare", study.bad).status
    [job] = eventually(
        lambda: [j for j in jobs(world) if j["subject"] == "bad.vcf" and j["state"] == "failed"],
        timeout_s=60,
        what="the failure",
    )
    [told] = world.why(world.at("Browsed", "bad.vcf"))["jobs"]
    assert (job["id"], "failed", job["failure"]) == (told["id"], told["state"], told["failure"])
    assert job["problem"] is not None
    assert job["problem"]["title"] in told["reason"]
    assert "read as it is" in told["mend"]

    assert f"synd logs {job['id']}" in world.synd("why", study.bad).out


def test_full_queue_is_told_as_such(study: Study, ground: Path) -> None:
    """429 with Retry-After over HTTP, exit 75 of the command; what is there is served on, and room is used."""
    files = [
        study.remote.file(study.project, f"q{n}.bed", f"chr1\t{n}\t{n + 5}\n".encode())
        for n in range(3)
    ]
    one = World(
        ground / "full", study.remote, projects=[study.project], requests_per_minute=0,
        queue_max=1, http_listen="127.0.0.1:0",
    )  # fmt: skip
    try:
        one.up()
        page = page_of(one)
        one.synd("jobs", "pause", "preprocess")
        some = one.synd("prepare", "--json", *files)
        told = json.loads(some.out.splitlines()[0])
        assert (75, 1, 2) == (some.status, len(told["jobs"]), len(told["refused"]))
        # They are asked for at once: which one of them came first is not promised.
        [taken] = [id for n, id in enumerate(files) if f"q{n}.bed" == told["jobs"][0]["subject"]]
        first, second = [id for id in files if id != taken]
        none = one.synd("prepare", first)
        assert (75, True) == (none.status, "already 1 preprocess jobs wait" in none.err)
        refused = page.ask(f"{ready.DATA}/{second}")
        assert (429, "5") == (refused.status, refused.headers["Retry-After"])
        assert "QueueFull" == json.loads(refused.body)["type"]
        assert 202 == page.ask(f"{ready.DATA}/{taken}").status
        assert 200 == page.ask(f"{ready.DATA}/{second}?raw=true").status
        why = one.why(taken)["jobs"]
        assert ["preprocess jobs are paused"] == [job["reason"] for job in why]
        one.synd("jobs", "resume")

        assert 0 == one.synd("prepare", "--wait", taken).status
        assert 0 == one.synd("prepare", "--wait", first).status
    finally:
        one.close()


@pytest.mark.req("S1-55")
def test_file_that_may_not_be_downloaded_starts_no_job(study: Study, ground: Path) -> None:
    """403 before anything else, though its bytes were prepared for somebody else."""
    who, token = study.remote.user("looker", "view", "download")
    sealed = study.remote.project("Sealed")
    data = "".join(f"{one.line}\n" for one in study.reads[:20])
    file = study.remote.file(sealed, "s.sam", f"@SQ\tSN:chr1\tLN:9000000\n{data}".encode())
    study.remote.grant(sealed, who, 1)
    one = World(
        ground / "sealed", study.remote, projects=[sealed], token=token, http_listen="127.0.0.1:0"
    )
    try:
        one.up()
        page = page_of(one)
        for route in (ready.DATA, ready.INDEX):
            for query in ("", "?raw=true"):
                answer = page.ask(f"{route}/{file}{query}")
                assert (403, "Forbidden") == (answer.status, json.loads(answer.body)["type"])
        assert 77 == one.synd("prepare", file).status

        assert [] == jobs(one)
    finally:
        one.close()
