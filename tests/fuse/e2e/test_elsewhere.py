"""Files whose bytes are elsewhere: behind https, or named by DRS; with an md5, and without."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synd.control import ready
from tests.support.elsewhere import Elsewhere
from tests.support.readying import GENOMICS, ended, get, indexed_bam, jobs, left_over, prepare
from tests.support.readying import failure as failure_of
from tests.support.world import Remote, World

pytestmark = [pytest.mark.fuse, pytest.mark.tools, pytest.mark.timeout(180)]

VCF = (GENOMICS / "variants/unsorted.vcf").read_bytes()
OSRM = "org.sagebionetworks.repo.model.file."


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    with Elsewhere(tmp_path_factory.mktemp("elsewhere")) as server:
        yield server


@pytest.fixture(scope="module")
def project(shared_server: Remote) -> str:
    return shared_server.project("Elsewhere")


@pytest.fixture(scope="module")
def world(
    ground: Path, shared_server: Remote, project: str, elsewhere: Elsewhere
) -> Iterator[World]:
    for program in ("samtools", "tabix", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    one = World(
        ground / "elsewhere", shared_server, projects=[project], requests_per_minute=0,
        job_attempts=1, read_timeout_s=2,
    )  # fmt: skip
    one.env["SSL_CERT_FILE"] = str(elsewhere.certificate)
    try:
        one.up()
        yield one
    finally:
        one.close()


@pytest.fixture(autouse=True)
def _no_trouble(elsewhere: Elsewhere) -> Iterator[None]:
    elsewhere.asked.clear()
    yield
    elsewhere.trouble = lambda _path, _start: None


def link(
    server: Remote, project: str, name: str, url: str, data: bytes | None = None, **more: Any
) -> str:
    """A file entity that leads to a URL; with `data`, the service knows their md5 and size."""
    body: dict[str, Any] = {
        "concreteType": f"{OSRM}ExternalFileHandle", "fileName": name, "externalURL": url,
    }  # fmt: skip
    if data is not None:
        body["contentMd5"] = hashlib.md5(data, usedforsecurity=False).hexdigest()
        body["contentSize"] = len(data)
    handle = server.rest("POST", "/file/v1/externalFileHandle", body | more)
    return server.file(project, name, handle=str(handle["id"]))


REFUSALS: list[tuple[int | str, str]] = [
    (401, "SOURCE_FORBIDDEN"),
    (403, "SOURCE_FORBIDDEN"),
    (404, "SOURCE_GONE"),
    (410, "SOURCE_GONE"),
    (500, "SOURCE_UNAVAILABLE"),
    (503, "SOURCE_UNAVAILABLE"),
    ("silent", "SOURCE_UNAVAILABLE"),
]


def digest(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def other(number: int) -> bytes:
    """A VCF of its own, so that nothing of another test serves it."""
    return VCF.replace(b"##fileformat=VCFv4", b"##fileformat=VCFv4", 1) + (
        b"chr1\t%d\t.\tA\tC\t.\t.\t.\n" % (number + 1)
    )


@pytest.mark.req("S1-45")
@pytest.mark.parametrize("size_known", [True, False], ids=["size known", "size asked for"])
def test_https_source_when_it_has_an_md5_then_is_prepared(
    world: World, project: str, elsewhere: Elsewhere, size_known: bool
) -> None:
    """As any other file; what the service does not know of its size its own server tells."""
    name, data = f"link{size_known}.vcf", other(size_known)
    url = elsewhere.put(f"/{name}", data)
    more = {} if size_known else {"contentSize": None}
    id = link(world.remote, project, name, url, data, **more)
    prepare(world, id)

    assert 200 == get(world, f"{ready.INDEX}/{id}")[0]
    assert (200, data) == get(world, f"{ready.DATA}/{id}?raw=true")
    assert data != get(world, f"{ready.DATA}/{id}")[1]


@pytest.mark.req("S1-78")
def test_https_source_when_it_has_no_md5_then_is_served_as_it_is(
    world: World, project: str, elsewhere: Elsewhere
) -> None:
    """By range too; nothing can be made of bytes that nobody can tell from others."""
    data = other(10)
    id = link(world.remote, project, "bare.vcf", elsewhere.put("/bare.vcf", data))

    assert (200, data) == get(world, f"{ready.DATA}/{id}")
    assert (206, data[5:50]) == get(world, f"{ready.DATA}/{id}", "-r", "5-49")
    assert 404 == get(world, f"{ready.INDEX}/{id}")[0]
    assert prepare(world, id)["as_they_are"]
    assert [] == jobs(world, "bare.vcf")


@pytest.mark.req("S1-47")
@pytest.mark.parametrize("what", ["no size", "no address", "not there"])
def test_source_when_it_cannot_be_had_then_that_is_told(
    world: World, project: str, elsewhere: Elsewhere, what: str
) -> None:
    """Never as a file without content."""
    server, name = world.remote, f"{what}.vcf"
    if what == "no address":
        handle = server.rest(
            "POST", "/file/v1/externalFileHandle",
            {"concreteType": f"{OSRM}ExternalObjectStoreFileHandle", "fileName": name,
             "fileKey": "a/b", "contentMd5": digest(b"x"), "contentSize": 1},
        )  # fmt: skip
        id = server.file(project, name, handle=str(handle["id"]))
    else:
        path = f"/{what.replace(' ', '-')}.vcf"
        if what == "no size":
            elsewhere.put(path, VCF)
            elsewhere.unsized.add(path)
        id = link(server, project, name, elsewhere.url(path))
    status, body = get(world, f"{ready.DATA}/{id}")
    text = {"no size": "tells no size", "no address": "no address", "not there": "no such file"}

    assert (404 if what == "not there" else 501) == status, body
    assert text[what] in body.decode()
    assert [] == jobs(world, name)


@pytest.mark.req("S1-45")
@pytest.mark.parametrize("way", ["url", "access id", "bucket", "escaped"])
def test_drs_source_when_its_host_knows_it_then_is_prepared(
    world: World, project: str, elsewhere: Elsewhere, way: str
) -> None:
    """Size and md5 are what the host tells; the bytes come from where it leads."""
    id, data = way.replace(" ", "-"), other(20 + len(way))
    if way == "escaped":
        id = "a%2Fb%3Ac"
    url = elsewhere.put(f"/{id}.vcf", data)
    methods: list[dict[str, Any]] = [{"type": "gs", "access_url": {"url": "gs://bucket/key"}}]
    if way in ("url", "escaped"):
        methods.append({"type": "https", "access_url": {"url": url}})
    else:
        kind = "https" if way == "access id" else "s3"
        methods.append({"type": kind, "access_id": "one"})
        elsewhere.access(id, "one", url)
    name = elsewhere.object(
        id, size=len(data), access_methods=methods,
        checksums=[{"type": "sha-256", "checksum": "0"}, {"type": "md5", "checksum": digest(data)}],
    )  # fmt: skip
    file = link(world.remote, project, f"drs {way}.vcf", name)
    prepare(world, file)

    assert 200 == get(world, f"{ready.INDEX}/{file}")[0]
    assert (200, data) == get(world, f"{ready.DATA}/{file}?raw=true")


@pytest.mark.parametrize("what", ["plain http", "needs headers", "nothing", "compact"])
def test_drs_source_when_there_is_no_way_by_https_then_that_is_told(
    world: World, project: str, elsewhere: Elsewhere, what: str
) -> None:
    """No address without encryption is taken, and no login of another host is guessed."""
    url = elsewhere.put("/guarded.vcf", VCF)
    access: list[dict[str, Any]] = {
        "plain http": [{"type": "https", "access_url": {"url": url.replace("https", "http")}}],
        "needs headers": [{"type": "https", "access_url": {"url": url, "headers": ["A: b"]}}],
    }.get(what, [])
    name = elsewhere.object(
        what.replace(' ', '-'), size=len(VCF), access_methods=access,
        checksums=[{"type": "md5", "checksum": digest(what.encode())}],
    )  # fmt: skip
    if what == "compact":
        name = "drs://dg.4503:0123/"
    file = link(world.remote, project, f"no way {what}.vcf", name)
    status, body = get(world, f"{ready.DATA}/{file}")

    assert 501 == status, body
    # Nor is it told as success and then cut off.
    assert get(world, f"{ready.DATA}/{file}?raw=true")[0] in (404, 501)
    assert not any(one.path == "/guarded.vcf" for one in elsewhere.asked)


def test_https_source_when_it_redirects_then_is_followed(
    world: World, project: str, elsewhere: Elsewhere
) -> None:
    """To another address of https."""
    data = other(30)
    elsewhere.redirects["/moved.vcf"] = elsewhere.put("/target.vcf", data)
    id = link(world.remote, project, "moved.vcf", elsewhere.url("/moved.vcf"), data)
    prepare(world, id)

    assert 200 == get(world, f"{ready.INDEX}/{id}")[0]


def test_https_source_when_the_connection_breaks_then_goes_on_where_it_was(
    world: World, project: str, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    """What has come is not asked for again."""
    data, _ = indexed_bam(tmp_path / "broken.bam", 40)
    cuts = [2]

    def trouble(_path: str, start: int) -> str | None:
        if start > 0 and cuts[0]:
            cuts[0] -= 1
            return "cut"
        return None

    elsewhere.trouble = trouble
    id = link(world.remote, project, "broken.bam", elsewhere.put("/broken.bam", data), data)
    prepare(world, id)
    starts = [one.start for one in elsewhere.asked if one.path == "/broken.bam"]

    assert 0 == cuts[0]
    assert len(starts) == len(set(starts)), starts
    assert 200 == get(world, f"{ready.INDEX}/{id}")[0]


@pytest.mark.parametrize(
    ("told", "failure"),
    REFUSALS,
)
def test_https_source_when_it_is_refused_later_then_the_job_says_why(
    world: World, project: str, elsewhere: Elsewhere, tmp_path: Path, told: int | str, failure: str
) -> None:
    """The class of the failure is that of what the server said; nothing is left behind."""
    name = f"refused {told}.bam"
    data, _ = indexed_bam(tmp_path / "x.bam", 50 + REFUSALS.index((told, failure)))
    path = f"/refused-{told}.bam"
    elsewhere.trouble = lambda _path, start: told if start > 0 else None
    id = link(world.remote, project, name, elsewhere.put(path, data), data)
    status, _ = get(world, f"{ready.DATA}/{id}")
    [job] = ended(world, name)

    assert 202 == status
    assert ("failed", failure) == (job["state"], failure_of(job))
    assert job["problem"]
    assert job["problem"]["title"]
    assert [] == left_over(world)


@pytest.mark.parametrize(("told", "status"), [(401, 403), (403, 403), (404, 404), (410, 404)])
def test_https_source_when_it_is_refused_at_once_then_no_job_is_begun(
    world: World, project: str, elsewhere: Elsewhere, told: int, status: int
) -> None:
    """Whoever asks hears it, and `prepare` goes on with the others."""
    name, data = f"never {told}.vcf", other(100 + told)
    elsewhere.trouble = lambda path, _start: told if path == f"/never-{told}.vcf" else None
    id = link(world.remote, project, name, elsewhere.put(f"/never-{told}.vcf", data), data)

    assert status == get(world, f"{ready.DATA}/{id}")[0]
    done = world.synd("prepare", id)
    assert 0 != done.status
    assert [] == jobs(world, name)


def test_https_source_when_its_server_is_away_then_the_job_waits_for_it(
    world: World, project: str, elsewhere: Elsewhere
) -> None:
    """Asked for meanwhile, it is a job as any other, which fails for a reason that may pass."""
    name, data = "away.vcf", other(700)
    elsewhere.trouble = lambda path, _start: 500 if path == "/away.vcf" else None
    id = link(world.remote, project, name, elsewhere.put("/away.vcf", data), data)

    assert 202 == get(world, f"{ready.DATA}/{id}")[0]
    [job] = ended(world, name)
    assert "SOURCE_UNAVAILABLE" == failure_of(job)
    elsewhere.trouble = lambda _path, _start: None
    prepare(world, id)
    assert 200 == get(world, f"{ready.INDEX}/{id}")[0]


@pytest.mark.parametrize("size", ["small", "large"])
def test_https_source_when_it_has_another_md5_then_nothing_is_stored(
    world: World, project: str, elsewhere: Elsewhere, tmp_path: Path, size: str
) -> None:
    """The bytes are not those that were announced: SOURCE_CHANGED."""
    name = f"wrong {size}.bam"
    data = other(800) if size == "small" else indexed_bam(tmp_path / "y.bam", 99)[0]
    url = elsewhere.put(f"/wrong-{size}.bam", data)
    id = link(world.remote, project, name, url, data, contentMd5=digest(size.encode()))
    assert 202 == get(world, f"{ready.DATA}/{id}")[0]
    found = ended(world, name)

    assert {"SOURCE_CHANGED"} == {failure_of(job) for job in found}
    assert 202 == get(world, f"{ready.DATA}/{id}")[0]
    ended(world, name)
    assert [] == left_over(world)
