"""Killed at every named point of sending, with its mount: started again, it ends right and doubles nothing.

The points are read from the source, so that a new one is tried without anybody's thinking of it. One
session of edits passes nearly all of them; a second one, with changes by others, passes the rest.
`CRASH_CYCLES` above 20 kills at later passings as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import synd.mirror
from synd.control import changes
from synd.errors import SyndError
from tests.support.crashing import CYCLES, die
from tests.support.mounts import eventually, mount_fusectl
from tests.support.world import Remote, World, random_file, remote

pytestmark = [pytest.mark.fuse, pytest.mark.crash, pytest.mark.timeout(240)]

POINTS = sorted(
    {
        name
        for path in Path(synd.mirror.__path__[0]).glob("*.py")
        if path.name != "curating.py"  # record sets: tests/fuse/e2e/test_record_sets.py
        for name in re.findall(r"checkpoint\(\"([^\"]+)\"\)", path.read_text())
    }
)
PASSINGS = [1, 2, 3, 5, 8, 13] if CYCLES > 20 else [1]
FOREIGN = {"push.before-conflict", "push.after-conflict"}
"""Passed only when others change the same things."""
PARTS_BYTES = (8 << 20) + 5
"""Two parts."""

EDITS = """echo second > a.txt; echo more >> a.txt; echo new > n.txt; mkdir d d/e; echo x > d/e/x.txt
mv folder/b.txt d/b.txt; rm c.txt; mv n.txt named.txt; mv a.txt renamed.txt; rmdir folder
mv p.txt t; mv q.txt p.txt; mv t q.txt; rm -r old; cp "$1" big.bin; cp "$1" d/again.bin; sync"""


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse on this machine")
    mount_fusectl()
    with remote(tmp_path_factory.mktemp("points") / "data") as one:
        yield one


@pytest.fixture
def world(tmp_path: Path, server: Remote) -> Iterator[World]:
    one = World(
        tmp_path, server, upload_delay_s=0.05, delete_delay_s=0.05, freshness_s=2,
        request_concurrency=16, requests_per_minute=0, delete_hold_count=100_000,
        delete_hold_percent=100,
    )  # fmt: skip
    yield one
    die(one)
    one.close()


def project_of(server: Remote, name: str) -> str:
    project = server.project(name)
    folder = server.folder(project, "folder")
    old = server.folder(project, "old")
    for parent, file in (
        (project, "a.txt"), (project, "c.txt"), (project, "p.txt"), (project, "q.txt"),
        (folder, "b.txt"), (old, "1.txt"), (old, "2.txt"),
    ):  # fmt: skip
        server.file(parent, file, f"first {file}\n".encode())
    return project


def edit(world: World, project: str, big: Path) -> None:
    """All edits; nothing is sent meanwhile."""
    where = world.at("@id", project) + "/"
    script = "find . -type f -exec cat {} + > /dev/null\n" + EDITS
    done = world.run("sh", "-ec", script, "sh", str(big), cwd=where, timeout_s=60)
    assert done.status == 0, f"{done.out}{done.err}\n{world.log()[-3000:]}"


def dies(world: World) -> bool:
    """Lets the daemon send until it dies, or all is sent; whether it died."""
    with contextlib.suppress(SyndError):
        # It may die before it answers.
        world.control.post(changes.RESUME)
    eventually(
        lambda: _deaths(world) or _sent(world),
        timeout_s=60,
        what=f"a death or the end\n{world.log()[-3000:]}",
    )
    return _deaths(world) > 0


def _deaths(world: World) -> int:
    """How often a holder saw its daemon killed."""
    return world.log().count("hold.daemon_ended")


def _sent(world: World) -> bool:
    try:
        found: changes.Pending = world.control.get(changes.PENDING)
    except SyndError:
        return False
    return found["verdict"] == "sent"


def settled(world: World) -> None:
    done = world.synd("wait", "--timeout", "60", timeout_s=90)
    assert done.status == 0, f"{done.out}{done.err}\n{world.log()[-4000:]}"


@pytest.mark.announces
@pytest.mark.req("S2-49")
@pytest.mark.parametrize("passing", PASSINGS)
@pytest.mark.parametrize("point", POINTS)
def test_edits_when_killed_at_a_point_are_sent_once(
    world: World, server: Remote, tmp_path: Path, point: str, passing: int
) -> None:
    """Daemon and mount die there; the next daemon ends with what the edits mean, each as one version."""
    project = project_of(server, f"{point} {passing}")
    big = tmp_path / "big.bin"
    # Each time other bytes, or the service would know them already.
    digest = random_file(big, PARTS_BYTES, seed=zlib.crc32(f"{point} {passing}".encode()))
    world.env |= {"SYND_CRASH_AT": f"{point}:{passing}", "SYND_UPLOADS": "false"}
    world.up()
    edit(world, project, big)
    foreign = point in FOREIGN
    if foreign:
        held = server.tree(project)
        server.new_version(held["a.txt"].id, b"of others\n")
        server.file(project, "named.txt", b"of others\n")
    died = dies(world)
    die(world)
    del world.env["SYND_CRASH_AT"], world.env["SYND_UPLOADS"]
    world.up()
    settled(world)

    assert died or passing > 1, f"{point} was not passed"
    found = {path: (h.md5, h.version) for path, h in server.tree(project).items()}
    wanted = {
        "renamed.txt": (md5_of(b"second\nmore\n"), 2),
        "named.txt": (md5_of(b"new\n"), 1),
        "d": (None, 1),
        "d/e": (None, 1),
        "d/e/x.txt": (md5_of(b"x\n"), 1),
        "d/b.txt": (md5_of(b"first b.txt\n"), 1),
        "p.txt": (md5_of(b"first q.txt\n"), 1),
        "q.txt": (md5_of(b"first p.txt\n"), 1),
        "big.bin": (digest, 1),
        "d/again.bin": (digest, 1),
    }
    if foreign:
        others, ours = md5_of(b"of others\n"), {md5_of(b"second\nmore\n"), md5_of(b"new\n")}
        wanted["renamed.txt"], wanted["named.txt"] = (others, 2), (others, 1)
        copies = {path: found.pop(path) for path in list(found) if "conflict" in path}
        assert ours == {md5 for md5, _ in copies.values()}
        assert 2 == len(copies)
    assert wanted == found
