"""What can be wrong with a file, a tool or a disk: the job ends with the right class and reason, and with nothing else.

One case each through a real daemon and its workers. What each check inside a worker finds is proved in
tests/integration/processors.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.control import contract, ready
from tests.support.disks import mount_disk, unmount_disk
from tests.support.mounts import eventually
from tests.support.readying import GENOMICS, ended, failure, get, jobs, left_over, prepare
from tests.support.world import Remote, World

pytestmark = [pytest.mark.fuse, pytest.mark.tools, pytest.mark.timeout(180)]

VCF = (GENOMICS / "variants/unsorted.vcf").read_bytes()
BAM = (GENOMICS / "align/unsorted.bam").read_bytes()
FLIPPED = BAM[: len(BAM) // 2] + bytes([BAM[len(BAM) // 2] ^ 0xFF]) + BAM[len(BAM) // 2 + 1 :]


def vcf(mark: str) -> bytes:
    """A VCF of its own: nothing that was made for another test serves it."""
    return VCF.replace(b"\n", b"\n##mark=%s\n" % mark.encode().hex().encode(), 1)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all programs, from which a test may take one away."""
    folder = tmp_path_factory.mktemp("programs")
    for place in ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if not (folder / program.name).exists() and program.exists():
                (folder / program.name).symlink_to(program)
    for needed in ("samtools", "tabix", "bgzip", "sort", "curl"):
        if not (folder / needed).exists():
            pytest.skip(f"{needed} is not installed")
    return folder


@pytest.fixture(scope="module")
def project(shared_server: Remote) -> str:
    return shared_server.project("Trouble")


@pytest.fixture(scope="module")
def world(ground: Path, shared_server: Remote, project: str, programs: Path) -> Iterator[World]:
    one = World(
        ground / "taxonomy", shared_server, projects=[project], requests_per_minute=0,
        tools="native", freshness_s=1, idle_poll_s=1,
    )  # fmt: skip
    one.env["PATH"] = str(programs)
    try:
        one.up()
        yield one
    finally:
        one.close()


def nothing_of(world: World, id: str) -> None:
    """No artifact is ready, and no work folder is left."""
    for route in (ready.DATA, ready.INDEX):
        status, body = get(world, f"{route}/{id}/status")
        assert (200, {"ready": False}) == (status, json.loads(body))
    assert [] == left_over(world)


CONTENT: dict[str, tuple[str, bytes, str, str]] = {
    "truncated": ("t.bam", BAM[: len(BAM) * 2 // 3], "SOURCE_TRUNCATED", "end"),
    "cut between blocks": (
        "t.vcf.gz", (GENOMICS / "variants/cut_bgzf.vcf.gz").read_bytes(), "SOURCE_TRUNCATED", "end",
    ),
    "corrupt": ("c.bam", FLIPPED, "SOURCE_CORRUPT", ""),
    "bad record": (
        "r.vcf", vcf("r") + b"chr1\tnowhere\t.\tA\tC\t.\t.\t.\n", "INVALID_RECORD", "line",
    ),
    "no header": ("h.vcf", b"##fileformat=VCFv4.2\nchr1\t1\t.\tA\tC\t.\t.\t.\n", "INVALID_HEADER", ""),
}  # fmt: skip


@pytest.mark.req("S1-62")
@pytest.mark.parametrize("what", CONTENT)
def test_content_when_it_is_wrong_then_its_job_fails_once_and_for_all(
    world: World, project: str, what: str
) -> None:
    """Not tried again, nor begun again; told with its class and reason to whoever asks."""
    name, data, expected, text = CONTENT[what]
    name = f"{what} {name}"
    id = world.remote.file(project, name, data)
    assert 202 == get(world, f"{ready.INDEX}/{id}")[0]
    [job] = ended(world, name)
    status, body = get(world, f"{ready.INDEX}/{id}")
    told = json.loads(body)

    assert ("failed", expected) == (job["state"], failure(job))
    assert (422, expected) == (status, told["failure"])
    assert text in told["title"]
    assert told["title"]
    assert str(world.root) not in told["title"]
    assert 1 == len(jobs(world, name))
    assert (200, data) == get(world, f"{ready.DATA}/{id}?raw=true")
    nothing_of(world, id)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("page.bam", b"<!DOCTYPE html><html>no such file</html>", "FORMAT_MISMATCH"),
        ("wide.vcf", b"\xff\xfe" + "##fileformat=VCFv4.2\n".encode("utf-16-le"), "UNSUPPORTED_ENCODING"),
    ],
)  # fmt: skip
def test_content_when_its_first_bytes_tell_then_no_job_is_begun(
    world: World, project: str, name: str, data: bytes, expected: str
) -> None:
    """It is refused at once, and the reason kept."""
    id = world.remote.file(project, name, data)
    status, body = get(world, f"{ready.DATA}/{id}")

    assert (422, expected) == (status, json.loads(body)["failure"])
    again, told = get(world, f"{ready.DATA}/{id}")
    assert (422, json.loads(body)["title"]) == (again, json.loads(told)["title"])
    assert [] == jobs(world, name)
    nothing_of(world, id)


def test_file_when_it_is_empty_then_is_served_as_it_is(world: World, project: str) -> None:
    """There is nothing to be made of nothing."""
    id = world.remote.file(project, "empty.vcf", b"")

    assert prepare(world, id)["as_they_are"]
    assert (200, b"") == get(world, f"{ready.DATA}/{id}")
    assert 404 == get(world, f"{ready.INDEX}/{id}")[0]
    assert [] == jobs(world, "empty.vcf")


@pytest.mark.parametrize("name", ["header_only.vcf", "crlf.vcf", "bom.vcf"])
def test_content_when_it_is_only_odd_then_is_made_right(
    world: World, project: str, name: str
) -> None:
    """A header alone, line ends of another system, a byte-order mark: no failures."""
    id = world.remote.file(project, f"odd {name}", (GENOMICS / "variants" / name).read_bytes())
    prepare(world, id)
    status, data = get(world, f"{ready.DATA}/{id}")
    (packed := world.root / "odd.vcf.gz").write_bytes(data)
    text = subprocess.run(
        ["bgzip", "-dc", str(packed)], check=True, capture_output=True, timeout=60
    ).stdout

    assert 200 == status
    assert text.startswith(b"##fileformat=VCF")
    assert b"\r" not in text
    assert 200 == get(world, f"{ready.INDEX}/{id}")[0]


def test_source_when_its_bytes_are_not_the_announced_ones_then_is_prepared_once_they_are(
    world: World, project: str
) -> None:
    """Tried once more, then left; the next version of the file is prepared without being asked for."""
    name, server = "changed.vcf", world.remote
    wrong = server.handle(vcf("wrong"), name, md5="0123456789abcdef0123456789abcdef")
    id = server.file(project, name, handle=wrong)
    world.text("ls", world.at("Trouble"))
    assert 202 == get(world, f"{ready.DATA}/{id}")[0]
    found = ended(world, name)
    assert ["SOURCE_CHANGED"] * 2 == [failure(job) for job in found]
    nothing_of(world, id)
    server.new_version(id, vcf("right"))

    eventually(
        lambda: [job for job in jobs(world, name) if job["state"] == "completed"],
        timeout_s=60,
        what="the new version to be prepared",
    )
    assert 200 == get(world, f"{ready.INDEX}/{id}")[0]


@pytest.mark.req("S1-67")
def test_job_when_a_program_is_missing_then_goes_on_once_it_is_there(
    world: World, project: str, programs: Path
) -> None:
    """The program and its package are named; installing it is all that must be done."""
    name = "tool.sam"
    text = (GENOMICS / "align/unsorted.sam").read_bytes()
    id = world.remote.file(project, name, text)
    target = (programs / "samtools").readlink()
    (programs / "samtools").unlink()
    try:
        assert 202 == get(world, f"{ready.DATA}/{id}")[0]
        [job] = ended(world, name)
        assert "TOOL_MISSING" == failure(job)
        assert job["problem"]
        assert "samtools" in job["problem"]["title"]
        nothing_of(world, id)
    finally:
        (programs / "samtools").symlink_to(target)

    eventually(
        lambda: [job for job in jobs(world, name) if job["state"] == "completed"],
        timeout_s=60,
        what="the job to be taken up",
    )
    assert 200 == get(world, f"{ready.INDEX}/{id}")[0]


def test_job_when_a_program_is_killed_then_is_tried_once_more(
    world: World, project: str, programs: Path
) -> None:
    """As the kernel does when memory is short; half an output is no artifact."""
    name = "killed.vcf"
    id = world.remote.file(project, name, vcf("killed"))
    target = (programs / "bgzip").readlink()
    (programs / "bgzip").unlink()
    (programs / "bgzip").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\nhead -c 100\nkill -9 $$\n'
    )
    (programs / "bgzip").chmod(0o755)
    try:
        assert 202 == get(world, f"{ready.DATA}/{id}")[0]
        found = ended(world, name)
    finally:
        (programs / "bgzip").unlink()
        (programs / "bgzip").symlink_to(target)
    assert 2 == len(found)
    assert {"TOOL_FAILED", "OUT_OF_MEMORY"} >= {failure(job) for job in found}
    assert all(job["problem"] and "bgzip" in job["problem"]["title"] for job in found)
    nothing_of(world, id)

    prepare(world, id)
    assert 200 == get(world, f"{ready.INDEX}/{id}")[0]


HOSTILE = [
    "-rf.vcf",
    "--output=x.vcf",
    "; touch owned; #.vcf",
    "$(touch owned).vcf",
    "`touch owned`.vcf",
    "a'b\"c.vcf",
    "| cat > owned.vcf",
    "%s%n.vcf",
    "tab\there.vcf",
    "ünï ☃.vcf",
    "..vcf",
    f"{'n' * 240}.vcf",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_name_whatever_it_holds_never_reaches_a_program(
    world: World, project: str, name: str
) -> None:
    """It is a hint for the format and nothing else."""
    id = world.remote.file(project, f"to be named {HOSTILE.index(name)}.vcf", vcf(name))
    with world.remote.db.write() as tx:
        # The registry would refuse most of them; what else there is on the other side nobody knows.
        tx.execute("UPDATE entity SET name = ? WHERE id = ?", (name, int(id[3:])))
    prepare(world, id)

    assert [name] == [job["subject"] for job in jobs(world, name)]
    assert 200 == get(world, f"{ready.INDEX}/{id}")[0]
    assert [] == left_over(world)
    for place in (Path(), world.root, world.folders.cache, world.root / "home"):
        assert not (place / "owned").exists()


@pytest.fixture
def small(ground: Path, shared_server: Remote, project: str) -> Iterator[World]:
    """A daemon whose cache lies on a disk of a few megabytes."""
    disk = ground / "few" / "synd" / "cache"
    mount_disk(disk, "size=4m")
    one = World(ground / "few", shared_server, projects=[project], requests_per_minute=0)
    try:
        one.up()
        yield one
    finally:
        one.close()
        unmount_disk(disk)


def test_job_when_the_disk_is_full_then_goes_on_once_there_is_room(
    small: World, project: str
) -> None:
    """It says so, leaves nothing there, and is taken up when the disk has room."""
    lines = b"".join(
        b"chr%d\t%d\t%d\tname\n" % (n % 7, n % 9973, n % 9973 + 9) for n in range(60_000)
    )
    id = small.remote.file(project, "room.bed", lines)
    assert 202 == get(small, f"{ready.DATA}/{id}")[0]
    # Its own source, all that there is in the cache, gives way to it; then it waits.
    eventually(lambda: len(ended(small, "room.bed")) == 2, timeout_s=60, what="a second attempt")
    found: list[contract.Job] = ended(small, "room.bed")
    assert {"NO_SPACE"} == {failure(job) for job in found}
    assert all(job["problem"] and job["problem"]["title"] for job in found)
    nothing_of(small, id)
    subprocess.run(
        ["mount", "-o", "remount,size=256m", str(small.folders.cache)],
        timeout=20,
        check=True,
    )

    eventually(
        lambda: [job for job in jobs(small, "room.bed") if job["state"] == "completed"],
        timeout_s=60,
        what=f"the job to be taken up: {small.log()[-3000:]}",
    )
    assert 200 == get(small, f"{ready.INDEX}/{id}")[0]
