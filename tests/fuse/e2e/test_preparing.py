"""Raw genomics files become indexed ones, on demand: by the command, and by whoever asks for their bytes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synd.control import contract, ready
from tests.support.mounts import eventually
from tests.support.world import Remote, World

pytestmark = [pytest.mark.fuse, pytest.mark.tools, pytest.mark.timeout(180)]

GENOMICS = Path(__file__).parents[2] / "fixtures" / "genomics"
MANIFEST = json.loads((GENOMICS / "manifest.json").read_text())["files"]
BY_NAME = {one["file"]: one for one in MANIFEST}


@pytest.fixture(scope="module")
def project(shared_server: Remote, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A project of all fixtures."""
    return shared_server.seed(GENOMICS, "Genomics")


@pytest.fixture(scope="module")
def world(ground: Path, shared_server: Remote, project: str) -> Iterator[World]:
    for program in ("samtools", "tabix", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    one = World(
        ground / "preparing",
        shared_server,
        projects=[project],
        requests_per_minute=0,
        freshness_s=2,
    )
    try:
        one.up()
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def ids(shared_server: Remote, project: str) -> dict[str, str]:
    """Path in the project → id."""
    return {path: held.id for path, held in shared_server.tree(project).items()}


def get(world: World, path: str, *options: str, out: Path | None = None) -> tuple[int, bytes]:
    """(status, body) of a request to the control API."""
    target = out or world.root / "body"
    done = subprocess.run(
        ["curl", "-s", "-o", str(target), "-w", "%{http_code}", *options,
         "--unix-socket", str(world.folders.socket), f"http://synd{path}"],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    return int(done.stdout), target.read_bytes() if target.exists() else b""


def prepare(world: World, *paths: str) -> Any:
    """`synd prepare --wait`, which must succeed; what it says."""
    done = world.synd("prepare", "--wait", "--json", *paths, timeout_s=120)
    assert done.status == 0, f"{done.out}{done.err}\n{world.log()[-3000:]}"
    return json.loads(done.out)


def records(world: World, file: str) -> list[bytes]:
    """The lines of the prepared data."""
    status, body = get(world, f"{ready.DATA}/{file}")
    assert status == 200
    return gzip.decompress(body).splitlines()


def jobs(world: World) -> list[contract.Job]:
    found: contract.Jobs = world.control.get(f"{contract.JOBS}?all=1&kind=preprocess")
    return found["jobs"]


def count(data: Path, contig: str, begin: int, end: int) -> int:
    """Records of a region, by the tool for the kind of file."""
    region = f"{contig}:{begin}-{end}"
    if data.suffix in (".bam", ".cram"):
        done = subprocess.run(
            ["samtools", "view", "-c", str(data), region],
            capture_output=True,
            timeout=30,
            check=False,
        )
        return int(done.stdout or 0)
    done = subprocess.run(["tabix", str(data), region], capture_output=True, timeout=30, check=True)
    return len(done.stdout.splitlines())


READABLE = [
    name
    for name in ("align/unsorted.bam", "align/sorted.bam", "align/unsorted.sam", "variants/unsorted.vcf",
                 "variants/sorted.vcf.gz", "annotation/genes.gff3", "intervals/peaks.narrowPeak")
    if name in BY_NAME
]  # fmt: skip


@pytest.mark.req("S1-01")
@pytest.mark.req("S1-02")
@pytest.mark.parametrize("name", READABLE)
def test_prepared_file_is_read_by_region(
    world: World, ids: dict[str, str], name: str, tmp_path: Path
) -> None:
    """By the real tools, on the bytes that the control API serves; counted from the lists they were written from."""
    prepare(world, ids[name])
    wanted = BY_NAME[name]["expected"]
    suffix = ".bam" if name.startswith("align") else ".gz"
    data = tmp_path / f"data{suffix}"
    assert 200 == get(world, f"{ready.DATA}/{ids[name]}", out=data)[0]
    assert 200 == get(world, f"{ready.INDEX}/{ids[name]}", out=Path(f"{data}.{wanted['index']}"))[0]

    for region in wanted["regions"]:
        if region["contig"] in wanted["contigs"]:
            where = (region["contig"], region["begin"], region["end"])
            assert region["count"] == count(data, *where), where


@pytest.mark.req("S1-03")
@pytest.mark.req("S1-52")
@pytest.mark.req("S1-70")
def test_ten_who_ask_at_once_share_one_job(world: World, ids: dict[str, str]) -> None:
    """For data and for the index."""
    name = "variants/sorted_plain.vcf"
    before = len(jobs(world))
    told: list[tuple[int, bytes]] = []
    barrier = threading.Barrier(10)

    def ask(number: int) -> None:
        route = ready.DATA if number % 2 else ready.INDEX
        barrier.wait(20)
        told.append(get(world, f"{route}/{ids[name]}", out=world.root / f"body-{number}"))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    prepare(world, ids[name])

    assert before + 1 == len(jobs(world))
    assert 10 == len(told)
    assert {200, 202} >= {status for status, _ in told}


def test_prepared_file_is_not_made_again(world: World, ids: dict[str, str]) -> None:
    """Nor is another file with the same bytes."""
    name = "align/unsorted.bam"
    prepare(world, ids[name])
    before = len(jobs(world))
    job = next(job for job in jobs(world) if job["subject"] == "unsorted.bam")
    assert [BY_NAME[name]["size"]] * 2 == [job["progress"]["done"], job["progress"]["total"]]
    assert [] == prepare(world, ids[name])["jobs"]
    server = world.remote
    data = (GENOMICS / name).read_bytes()
    twin = server.file(server.project("Twins"), "other name.bam", data)

    assert [] == prepare(world, twin)["jobs"]
    assert before == len(jobs(world))
    assert get(world, f"{ready.DATA}/{ids[name]}") == get(world, f"{ready.DATA}/{twin}")


@pytest.mark.parametrize(
    ("name", "data", "index"),
    [
        ("align/unsorted.bam", "unsorted.bam", "unsorted.bam.bai"),
        ("align/unsorted.sam", "unsorted.bam", "unsorted.bam.bai"),
        ("variants/unsorted.vcf", "unsorted.vcf.gz", "unsorted.vcf.gz.tbi"),
        ("big/features.bb", "features.bed.gz", "features.bed.gz.tbi"),
        ("variants/sorted.vcf.gz", "sorted.vcf.gz", "sorted.vcf.gz.tbi"),
    ],
)
def test_data_and_index_are_saved_under_names_that_go_together(
    world: World, ids: dict[str, str], name: str, data: str, index: str
) -> None:
    """As in @ready: programs look for the index beside the data, by its name."""
    prepare(world, ids[name])
    for route, called in ((ready.DATA, data), (ready.INDEX, index)):
        told = json.loads(get(world, f"{route}/{ids[name]}/status")[1])
        assert {"ready": True, "name": called} == told
        head = get(world, f"{route}/{ids[name]}", "-I")[1].decode()
        assert f'filename="{called}"' in head


@pytest.mark.req("S1-14")
def test_gtf_is_made_gff3_where_the_setting_says_so(
    shared_server: Remote, ground: Path, project: str, ids: dict[str, str]
) -> None:
    """Once, and not mistaken for what was made before the setting changed, nor that for this."""
    if shutil.which("gffread") is None:
        pytest.skip("gffread is not installed")
    file = ids["annotation/genes.gtf"]
    world = World(ground / "gff3", shared_server, projects=[project], requests_per_minute=0)
    try:
        world.up()
        prepare(world, file)
        native = records(world, file)
        assert 0 == world.synd("down").status
        world.env["SYND_GTF"] = "gff3"
        world.up()
        assert 1 == len(prepare(world, file)["jobs"])
        converted = records(world, file)
        assert b"ID=" in converted[1]
        assert native != converted
        before = len(jobs(world))
        assert 200 == get(world, f"{ready.INDEX}/{file}")[0]
        assert [] == prepare(world, file)["jobs"]
        assert before == len(jobs(world))
    finally:
        world.close()


@pytest.mark.req("S1-18")
@pytest.mark.parametrize("name", ["x.tsv", "x.csv", "x.txt"])
def test_table_is_passed_on_when_its_bytes_were_prepared_under_another_name(
    world: World, name: str
) -> None:
    """What a file is, its name proposes: intervals that somebody else has as BED stay a table here."""
    server = world.remote
    project = server.project(f"Same as {name}")
    text = f"chr1\t10\t20\t{name}\nchr1\t5\t30\n".encode()
    bed, table = server.file(project, "x.bed", text), server.file(project, name, text)
    prepare(world, bed)
    before = len(jobs(world))

    assert (200, text) == get(world, f"{ready.DATA}/{table}")
    assert 404 == get(world, f"{ready.INDEX}/{table}")[0]
    assert 404 == get(world, f"{ready.INDEX}/{table}", "-I")[0]
    assert 200 == get(world, f"{ready.INDEX}/{bed}")[0]
    assert before == len(jobs(world))


def test_content_that_tells_itself_is_shared_under_every_name(world: World) -> None:
    """One job for one content, also where the name says nothing, or something else."""
    server = world.remote
    project = server.project("Named otherwise")
    text = (GENOMICS / "variants/unsorted.vcf").read_bytes() + b"chr1\t9\t.\tA\tC\t.\t.\t.\n"
    first, *others = (
        server.file(project, name, text) for name in ("x.vcf", "x.txt", "x.csv", "x.bed")
    )
    prepare(world, first)
    before = len(jobs(world))
    for other in others:
        assert 200 == get(world, f"{ready.DATA}/{other}")[0]
        assert 200 == get(world, f"{ready.INDEX}/{other}", "-I")[0]
    shown = world.at("@id", project, "@ready", "x.bed.gz")

    assert before == len(jobs(world))
    assert "chr1\t9\t" in world.text("tabix", shown, "chr1:9-9")


def test_promise_when_offline_fails_at_once(world: World) -> None:
    """As the file itself does; what was asked for by the command waits, and is made when the service is back."""
    server = world.remote
    project = server.project("Unreachable")
    server.file(project, "x.bed", b"chr1\t10\t20\nchr1\t5\t77\n")
    source, path = (
        world.at("@id", project, *parts) for parts in (("x.bed",), ("@ready", "x.bed.gz"))
    )
    world.text("stat", source, path)
    server.down()
    try:
        done = world.run("cat", path, timeout_s=25)
        assert "No route to host" in done.err
        assert ["pending"] == [
            job["state"] for job in json.loads(world.synd("prepare", source, "--json").out)["jobs"]
        ]
        assert "No route to host" in world.run("cat", path, timeout_s=25).err
    finally:
        server.up()

    prepare(world, source)
    assert "chr1\t5\t77\nchr1\t10\t20\n" == world.text("zcat", path)


def test_file_that_is_not_sent_yet_is_prepared_later(world: World) -> None:
    """It is said so, rather than that there is no such file, or that the bytes of before are ready."""
    path = world.at("Genomics", "intervals", "mine.bed")
    assert 0 == world.synd("pause").status
    for text in ("chr1\\t50\\t60\\nchr1\\t5\\t9\\n", "chr1\\t7\\t8\\nchr1\\t3\\t4\\n"):
        world.text("sh", "-c", f"printf '{text}' > {path}")
        late = world.synd("prepare", path)
        assert 75 == late.status
        assert "'mine.bed' was changed here" in late.err
        prepared = f"{world.at('Genomics', 'intervals', '@ready', 'mine.bed.gz')}"
        assert "'mine.bed' was changed here" in world.synd("why", prepared).out
        assert 0 == world.synd("resume").status
        assert 0 == world.synd("wait").status
        prepare(world, path)
        assert 0 == world.synd("pause").status
    assert 0 == world.synd("resume").status

    assert "chr1\t3\t4\nchr1\t7\t8\n" == world.text("zcat", prepared)


def test_annotation_tells_the_format_where_the_name_says_none(world: World) -> None:
    """It proposes as a name does: intervals are made readable by region, and without it they are not."""
    server = world.remote
    project = server.project("Annotated")
    texts = [f"chr1\t10\t20\nchr1\t5\t{at}\n".encode() for at in (40, 50)]
    told, untold = (server.file(project, f"peaks{at}", text) for at, text in enumerate(texts))
    server.annotate(told, fileFormat=("STRING", ["bed narrowPeak"]))

    assert 200 == get(world, f"{ready.DATA}/{untold}", "-I")[0]
    assert 404 == get(world, f"{ready.DATA}/{told}", "-I")[0]
    prepare(world, told, untold)
    assert [b"chr1\t5\t40", b"chr1\t10\t20"] == records(world, told)
    assert 200 == get(world, f"{ready.INDEX}/{told}", "-I")[0]
    assert (200, texts[1]) == get(world, f"{ready.DATA}/{untold}")
    assert [] == prepare(world, told)["jobs"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.bed", b"chr1\t10\t20\nchr1\t-5\t30\n"),
        ("x.vcf", b"<html>not found</html>"),
        ("x.vcf", b"chr1\t10\t20\nchr1\t5\t31\n"),
    ],
    ids=["bad-record", "page", "other-format"],
)
def test_refusal_under_one_name_leaves_other_names_alone(
    world: World, name: str, text: bytes
) -> None:
    """The same bytes are no VCF, a fine BED, and a table like any other."""
    server = world.remote
    project = server.project(f"Same as {name} {len(text)}")
    refused = server.file(project, name, text)
    others = {one: server.file(project, one, text) for one in ("y.csv", "y.html", "y.txt")}
    assert 65 == world.synd("prepare", "--wait", refused).status
    assert 422 == get(world, f"{ready.DATA}/{refused}")[0]

    for other in others.values():
        assert (200, text) == get(world, f"{ready.DATA}/{other}")
        assert 404 == get(world, f"{ready.INDEX}/{other}")[0]
        assert "failed" not in world.synd("why", other).out
    if name == "x.vcf" and text.startswith(b"chr1"):
        bed = server.file(project, "y.bed", text)
        prepare(world, bed)
        assert [b"chr1\t5\t31", b"chr1\t10\t20"] == records(world, bed)
        assert 422 == get(world, f"{ready.DATA}/{refused}")[0]


@pytest.mark.parametrize(
    "name", ["variants/sorted.vcf.gz", "align/sorted.bam", "align/unsorted.bam"]
)
def test_what_was_evicted_is_made_again(world: World, ids: dict[str, str], name: str) -> None:
    """The same bytes, also of what is the source itself with an index beside it."""
    prepare(world, ids[name])
    routes = [f"{route}/{ids[name]}" for route in (ready.DATA, ready.INDEX)]
    made = [get(world, route) for route in routes]
    assert 200 == made[0][0] == made[1][0]
    world.control.post(contract.CACHE_CLEAR, {"targets": []})
    assert [] != prepare(world, ids[name])["jobs"]

    assert made == [get(world, route) for route in routes]


@pytest.mark.req("S1-05")
def test_new_content_is_made_anew(world: World) -> None:
    """What was made of the old bytes is not served for the new ones; the old ones need no work again."""
    server = world.remote
    old, new = (
        f"chr1\t{at}\t{at + 9}\nchr1\t5\t20\n".encode() for at in (1_000, 2_000)
    )  # fmt: skip
    file = server.file(server.project("Changing"), "x.bed", old)
    prepare(world, file)
    assert old.splitlines()[0] in records(world, file)
    server.new_version(file, new)
    eventually(lambda: prepare(world, file)["jobs"], timeout_s=60, what="a job for the new bytes")
    assert sorted(new.splitlines()) == sorted(records(world, file))
    head = get(world, f"{ready.DATA}/{file}", "-I")[0]
    # By its number the present version is the same file; an older one is not prepared.
    assert (200, 200) == (head, get(world, f"{ready.DATA}/{file}.2", "-I")[0])
    assert 501 == get(world, f"{ready.DATA}/{file}.1")[0]
    before = len(jobs(world))
    server.new_version(file, old)

    eventually(
        lambda: prepare(world, file) and records(world, file)[-1] == old.splitlines()[0],
        timeout_s=60,
    )
    assert before == len(jobs(world))


def test_folder_stands_for_all_below_it(world: World) -> None:
    """Files of other formats are passed over; a folder without any is told so."""
    server = world.remote
    top = server.folder(server.project("Folders"), "top")
    deeper = server.folder(top, "deeper")
    server.file(top, "a.bed", b"chr1\t30\t40\nchr1\t1\t2\n")
    server.file(top, "notes.txt", b"nothing to make")
    server.file(deeper, "b.bed", b"chr1\t31\t41\nchr1\t1\t2\n")
    bare = server.folder(top, "bare")

    first = prepare(world, top)
    assert ["completed", "completed"] == [job["state"] for job in first["jobs"]]
    again = prepare(world, top)
    assert {"a.bed", "b.bed"} == {Path(path).name for path in again["ready"]}
    assert [] == again["jobs"] + again["as_they_are"]
    assert "nothing there" in world.synd("prepare", bare).out


@pytest.mark.req("S1-18")
@pytest.mark.req("S1-48")
@pytest.mark.req("S1-53")
@pytest.mark.parametrize("name", ["tables/table.csv", "tables/table.tsv", "big/signal.bw"])
def test_file_that_needs_nothing_is_served_as_it_is(
    world: World, ids: dict[str, str], name: str
) -> None:
    """No job, and no index."""
    before = len(jobs(world))
    assert (200, (GENOMICS / name).read_bytes()) == get(world, f"{ready.DATA}/{ids[name]}")
    assert 404 == get(world, f"{ready.INDEX}/{ids[name]}")[0]
    assert prepare(world, ids[name])["as_they_are"]

    assert before == len(jobs(world))


@pytest.mark.parametrize(
    "name", ["align/cut.bam", "variants/cut.vcf.gz", "misnamed/error_page.bam"]
)
def test_content_that_cannot_be_processed_is_remembered(
    world: World, ids: dict[str, str], name: str
) -> None:
    """422 with the class of failure and no new job; the raw bytes stay readable."""
    world.synd("prepare", "--wait", ids[name])
    before = len(jobs(world))
    status, body = get(world, f"{ready.DATA}/{ids[name]}")
    told = json.loads(body)
    assert (422, BY_NAME[name]["expected"]["error_class"]) == (status, told["failure"])
    assert (told["failure"], told["title"]) == (told["error_class"], told["error"])
    tried = any(job["subject"] == Path(name).name for job in jobs(world))
    assert tried == ("synd retry" in told["hint"])
    assert (200, (GENOMICS / name).read_bytes()) == get(world, told["raw"])
    done = world.synd("prepare", ids[name])

    assert 65 == done.status
    assert told["title"] in done.err
    assert before == len(jobs(world))


@pytest.mark.req("S1-56")
def test_looking_starts_nothing(world: World, ids: dict[str, str]) -> None:
    """HEAD, status, listing and stat."""
    name = "intervals/unsorted.bed"
    before = len(jobs(world))
    assert 404 == get(world, f"{ready.DATA}/{ids[name]}", "-I")[0]
    assert 404 == get(world, f"{ready.INDEX}/{ids[name]}", "-I")[0]
    assert {"ready": False} == json.loads(get(world, f"{ready.DATA}/{ids[name]}/status")[1])
    world.text("ls", "-l", world.at("Genomics", "intervals"))

    assert before == len(jobs(world))


def test_daemon_that_is_killed_goes_on_with_its_jobs(world: World, ids: dict[str, str]) -> None:
    """What was asked for is made after the restart, once, and nothing is left in the work folder."""
    names = [
        n for n in BY_NAME if n.startswith(("annotation/", "intervals/sorted", "intervals/signal"))
    ]
    for name in names:
        get(world, f"{ready.DATA}/{ids[name]}")
    pid = world.kill_daemon()
    world.successor(of=pid)
    for name in names:
        expected = BY_NAME[name]["expected"]
        if expected["outcome"] == "ok" and expected["index"]:
            prepare(world, ids[name])
            assert 200 == get(world, f"{ready.INDEX}/{ids[name]}")[0]
    eventually(
        lambda: all(job["state"] not in ("pending", "running") for job in jobs(world)),
        timeout_s=90,
        what="the end of all jobs",
    )

    assert [] == list((world.folders.cache / "work").iterdir())


def test_worker_that_is_killed_is_replaced(world: World, project: str) -> None:
    """The job is tried again by itself, and whoever waits gets what they asked for."""
    head = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    # So many that the worker is met while it works.
    rows = (f"chr1\t{at}\t.\tA\tC\t.\t.\t.\n" for at in range(200_000, 0, -1))
    file = world.remote.file(project, "long.vcf", (head + "".join(rows)).encode())
    stop = threading.Event()
    killed: list[int] = []

    def kill_one() -> None:
        while not stop.is_set() and not killed:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        line = (entry / "cmdline").read_bytes()
                        mine = str(world.root).encode() in (entry / "environ").read_bytes()
                        # One that waits for its job stands above the jobs' folders.
                        mine = mine and (entry / "cwd").readlink().parent.name == "work"
                    except OSError:
                        continue
                    if b"synd.processors.worker" in line and mine:
                        os.kill(int(entry.name), signal.SIGKILL)
                        killed.append(int(entry.name))
                        return

    thread = threading.Thread(target=kill_one)
    thread.start()
    prepare(world, file)
    stop.set()
    thread.join(20)
    assert killed
    mine = [job for job in jobs(world) if job["subject"] == "long.vcf"]

    assert ["completed", "failed"] == sorted(job["state"] for job in mine)
    assert ["WORKER_DIED"] == [job["failure"] for job in mine if job["state"] == "failed"]
    assert 200 == get(world, f"{ready.INDEX}/{file}")[0]


def test_formats_are_told_with_their_tools(world: World) -> None:
    """What is handled here, by what."""
    done = world.synd("formats", "--json")
    assert done.status == 0, done.err
    found = {one["format"]: one for one in json.loads(done.out)["formats"]}

    assert ["samtools"] == found["bam"]["tools"]
    assert not found["csv"]["indexes"]
    assert "bam" in world.synd("formats").out


@pytest.mark.req("S1-60")
def test_nothing_is_made_where_that_is_off(
    ground: Path, shared_server: Remote, project: str, ids: dict[str, str]
) -> None:
    """The bytes are the service's own, an index is only one that lies beside, and asking for more says why not."""
    file, name = ids["variants/unsorted.vcf"], "variants/unsorted.vcf"
    one = World(ground / "off", shared_server, projects=[project], engine="off")
    try:
        one.up()
        assert (200, (GENOMICS / name).read_bytes()) == get(one, f"{ready.DATA}/{file}")
        assert 200 == get(one, f"{ready.DATA}/{file}", "--head")[0]
        status, body = get(one, f"{ready.INDEX}/{file}")
        assert 503 == status
        assert b"engine = off" in body
        assert 404 == get(one, f"{ready.INDEX}/{file}", "--head")[0]
        assert {"ready": False} == json.loads(get(one, f"{ready.INDEX}/{file}/status")[1])
        assert 404 == get(one, f"{ready.INDEX}/{ids['tables/table.csv']}")[0]
        listed = one.run("ls", one.at("Genomics", "variants", "@ready"))
        assert "No such file" in listed.err
        assert "engine = off" in prepare(one, file)["as_they_are"][0]["reason"]
        assert [] == jobs(one)
    finally:
        one.close()
