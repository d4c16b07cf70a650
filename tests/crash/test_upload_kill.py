"""A large file whose upload is killed again and again: it goes on where it was, never from its beginning.

What the registry is asked for is counted part by part; each request counts as a whole part, however
little of it had arrived when the daemon died. `CRASH_CYCLES` above 20 makes the file 2 GiB.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.client.storage import PARTS_AT_ONCE
from synd.client.upload import part_size
from synd.control import changes
from synd.errors import SyndError
from tests.support.crashing import CYCLES, die
from tests.support.mounts import eventually, mount_fusectl
from tests.support.world import Remote, World, random_file, remote

SIZE = (2 << 30) if CYCLES > 20 else (64 << 20)
ROOM = 5 * SIZE
"""The file, what the daemon staged of it, its parts and what they make up, and some air."""
PARTS = -(-SIZE // part_size(SIZE))
HELD_UP_S = 600.0
"""Until the daemon is dead, however slow the machine."""
PATIENCE_S = 30 + SIZE / (4 << 20)
_PART = re.compile(r"/part/([0-9]+)/([0-9]+)")

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.crash,
    pytest.mark.timeout(60 + 4 * PATIENCE_S),
    pytest.mark.announces,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse on this machine")
    mount_fusectl()
    with remote(tmp_path_factory.mktemp("uploads") / "data") as one:
        yield one


class Sending:
    """A world with one large file in it, and how far the service has come with it."""

    def __init__(self, root: Path, server: Remote, name: str) -> None:
        self.server = server
        self.seed = zlib.crc32(name.encode())
        self.project = server.project(f"Upload {self.seed}")
        self.world = World(
            root, server, upload_delay_s=0.05, request_concurrency=16, requests_per_minute=0
        )
        self.digest = ""
        server.forget_requests()

    def write(self, crash_at: str = "") -> None:
        """Writes the file; nothing is sent before `send`."""
        self.world.env["SYND_UPLOADS"] = "false"
        if crash_at:
            self.world.env["SYND_CRASH_AT"] = crash_at
        self.world.up()
        for name in ("SYND_UPLOADS", "SYND_CRASH_AT"):
            self.world.env.pop(name, None)
        source = self.world.root / "large.bin"
        self.digest = random_file(source, SIZE, seed=self.seed)
        where = self.world.at("@id", self.project, "large.bin")
        self.world.text("cp", str(source), where, timeout_s=PATIENCE_S)
        source.unlink()

    def send(self) -> None:
        with contextlib.suppress(SyndError):
            # It may die before it answers.
            self.world.control.post(changes.RESUME)

    def finish(self) -> None:
        """Waits until all is sent, and looks whether it is there, once, and right."""
        done = self.world.synd("wait", "--timeout", str(PATIENCE_S), timeout_s=PATIENCE_S + 30)
        assert done.status == 0, f"{done.out}{done.err}\n{self.world.log()[-4000:]}"
        found = self.server.tree(self.project)
        assert {"large.bin": (self.digest, SIZE, 1)} == {
            path: (held.md5, held.size, held.version) for path, held in found.items()
        }

    def died(self) -> bool:
        return "hold.daemon_ended" in self.world.log()

    def added(self) -> set[int]:
        """Parts that the service was told of; it must have been one upload all the time."""
        rows = self.server.db.all(
            "SELECT parts FROM multipart WHERE request LIKE ?", (f"%{self.digest}%",)
        )
        assert len(rows) <= 1, "the upload was begun anew"
        return {n for n, sign in enumerate(rows[0][0], 1) if sign == "1"} if rows else set()

    def completed(self) -> bool:
        return bool(
            self.server.db.all(
                "SELECT 1 FROM multipart WHERE request LIKE ? AND state = 'COMPLETED'",
                (f"%{self.digest}%",),
            )
        )

    def asked_to_complete(self) -> bool:
        return self.server.asked().count("/complete") > 0

    def release_storage(self, before: int) -> None:
        """Storage goes on with what the one fault in force held up; waits until it has done with all of that."""
        (rule,) = self.server.rest("GET", "/admin/faults")["faults"]
        self.server.heal()
        eventually(
            lambda: self.sent().total() - before >= rule["seen"],
            timeout_s=PATIENCE_S,
            what=f"storage to end {rule['seen']} requests",
        )

    def sent(self) -> Counter[int]:
        """Part → how often storage was asked to take it, whatever came of it."""
        report = self.server.rest("GET", "/admin/requests?limit=20000")
        found = (_PART.search(one["path"]) for one in report["requests"] if one["side"] == "blob")
        return Counter(int(match[2]) for match in found if match)


@pytest.fixture
def sending(request: pytest.FixtureRequest, tmp_path: Path, server: Remote) -> Iterator[Sending]:
    free = shutil.disk_usage(tmp_path).free
    if free < ROOM:
        pytest.skip(f"needs {ROOM >> 20} MiB of disk, of which {free >> 20} are free")
    one = Sending(tmp_path, server, request.node.name)
    yield one
    server.heal()
    die(one.world)
    one.world.close()
    server.delete(one.project)
    Path(server.blobs.path(one.digest)).unlink(missing_ok=True)


@pytest.mark.req("S2-49")
def test_upload_when_killed_after_some_parts_goes_on_from_there(sending: Sending) -> None:
    """What was added before a kill is not sent again; in all, a kill costs what was under way."""
    sending.write()
    allowed = PARTS
    already: set[int] = set()
    for share in (0.2, 0.5, 0.9):
        before = sending.sent()
        aim = max(len(already) + 1, round(PARTS * share))
        # Storage takes so many more parts, and holds up the others.
        sending.server.fault(
            "^/part/", "hold", method="PUT", nth=aim - len(already) + 1, seconds=HELD_UP_S
        )
        if already:
            sending.world.up()
        sending.send()
        eventually(lambda aim=aim: len(sending.added()) >= aim, timeout_s=PATIENCE_S)  # type: ignore[misc]
        die(sending.world)
        sending.release_storage(before.total())
        now = sending.sent()
        assert {n: before[n] for n in already} == {n: now[n] for n in already}
        added = sending.added()
        assert already < added
        assert len(added) < PARTS, "killed too late to prove anything"
        allowed += min(PARTS_AT_ONCE, PARTS - len(added))
        already = added
    before = sending.sent()
    sending.world.up()
    sending.finish()

    now = sending.sent()
    assert {n: before[n] for n in already} == {n: now[n] for n in already}
    assert set(range(1, PARTS + 1)) == set(now)
    assert now.total() <= allowed


def test_upload_when_killed_between_storage_and_the_service_sends_only_that_part_again(
    sending: Sending,
) -> None:
    """Storage has a part that the service was not told of: it may cost that part, no other."""
    sending.write()
    sending.server.fault("/add/", "drop-before", nth=PARTS)
    sending.send()
    eventually(
        lambda: len(sending.added()) == PARTS - 1 and sending.sent().total() == PARTS,
        timeout_s=PATIENCE_S,
    )
    die(sending.world)
    (last,) = set(range(1, PARTS + 1)) - sending.added()
    sending.server.heal()
    sending.world.up()
    sending.finish()

    assert {n: 1 + (n == last) for n in range(1, PARTS + 1)} == dict(sending.sent())


@pytest.mark.parametrize("piece", [1, 20])
def test_upload_when_killed_while_it_is_hashed_begins_once(sending: Sending, piece: int) -> None:
    """In the md5 pass nothing was sent yet: the next daemon hashes again, and sends each part once."""
    sending.write(f"push.while-hashing:{piece}")
    sending.send()
    eventually(sending.died, timeout_s=PATIENCE_S)
    die(sending.world)
    assert 0 == sending.sent().total()
    sending.world.up()
    sending.finish()

    assert dict.fromkeys(range(1, PARTS + 1), 1) == dict(sending.sent())


@pytest.mark.parametrize("lost", ["drop-before", "drop-after"])
def test_upload_when_killed_while_it_is_put_together_is_not_sent_again(
    sending: Sending, lost: str
) -> None:
    """The service has all parts and is asked to join them, which it does or not; nobody hears of it."""
    sending.write()
    sending.server.fault("/complete", lost)
    sending.send()
    eventually(sending.asked_to_complete, timeout_s=PATIENCE_S)
    die(sending.world)
    if lost == "drop-after":
        eventually(sending.completed, timeout_s=PATIENCE_S)
    else:
        assert not sending.completed()
    sending.server.heal()
    sending.world.up()
    sending.finish()

    assert dict.fromkeys(range(1, PARTS + 1), 1) == dict(sending.sent())


@pytest.mark.parametrize("point", ["push.after-upload", "push.before-create", "push.after-create"])
def test_upload_when_killed_around_its_entity_is_not_sent_again(
    sending: Sending, point: str
) -> None:
    """Complete, but not the bytes of anything yet: the handle is found again, and attached once."""
    sending.write(f"{point}:1")
    sending.send()
    eventually(sending.died, timeout_s=PATIENCE_S)
    die(sending.world)
    assert sending.completed()
    sending.world.up()
    sending.finish()

    assert dict.fromkeys(range(1, PARTS + 1), 1) == dict(sending.sent())
