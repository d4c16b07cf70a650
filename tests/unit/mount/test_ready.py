"""``@ready`` in terms of nodes, over a service in memory: what is made is put there by the test."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synd.errors import Busy, NotFound, ReadOnly, StageFailed, Stale, SyndError
from synd.ids import ContentKey, EntityId, syn
from synd.jobs.failures import Failure
from synd.jobs.lookup import Lookup
from synd.jobs.model import Job, JobState
from synd.model import FileVersion
from synd.processors.base import PIPELINE_VERSION
from synd.processors.keys import workflow_key
from synd.testing import FakeRemote, FakeStorage
from syndd.mount.nodes import NodeKind, pack, unpack
from syndd.mount.ops import Caller
from syndd.mount.readynames import Form, entries, form_of, split
from syndd.mount.readystate import failure_of
from tests.support.mounts import eventually
from tests.support.parts import Parts, got, md5_of

DATA, INDEX = b"sorted" * 20_000, b"index"


@dataclass(frozen=True)
class FakeOne:
    """Meets `readystate.One`."""

    content: ContentKey
    size: int
    suffix: str = ""
    alias: bool = False
    extra: Mapping[str, tuple[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class FakeBoth:
    data: FakeOne | None
    index: FakeOne | None


class FakeMaking:
    """Meets `readystate.Making`: makes when the test says so."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.made: dict[str, FakeBoth] = {}
        self.asked: list[str] = []
        self.given_up = 0
        self.fails: SyndError | None = None
        self.refuses: StageFailed | None = None
        self.why = ""
        self._may = asyncio.Event()

    def look(self, file: FileVersion, name: str) -> FakeBoth:
        found = self.made.get(file.md5 or "", FakeBoth(None, None))
        here = self._parts.cache
        if found.data is not None and not found.data.alias and not here.has(found.data.content):
            return FakeBoth(None, None)
        return found

    def refused(self, file: FileVersion, name: str) -> StageFailed | None:
        del file
        return self.refuses

    async def make(self, file: FileVersion, name: str) -> str:
        self.asked.append(name)
        try:
            await self._may.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.fails is not None:
            raise self.fails
        if not self.why:
            self.put(file)
        return self.why

    def put(self, file: FileVersion, *, suffix: str = ".bai", alias: bool = False) -> None:
        """What is made of a file is there."""
        keys = [md5_of(DATA), md5_of(INDEX)]
        for key, data in zip(keys, (DATA, INDEX), strict=True):
            self._parts.cache.objects.put_bytes(ContentKey(key), data)
        assert file.md5 is not None
        data = FakeOne(ContentKey(keys[0]), len(DATA), alias=alias)
        self.made[file.md5] = FakeBoth(
            data, FakeOne(ContentKey(keys[1]), len(INDEX), suffix=suffix)
        )

    def go(self) -> None:
        """Whatever was asked for is made now, and from now on at once."""
        self._parts.call(self._may.set)


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def storage(remote: FakeRemote) -> Iterator[FakeStorage]:
    with FakeStorage(remote) as found:
        yield found


@pytest.fixture
def ids(remote: FakeRemote) -> dict[str, EntityId]:
    files = {"reads.sam": b"@HD\tVN:1\n", "t.csv": b"a,b\n", "note.txt": b"x", "empty.bed": b""}
    return remote.tree(None, {"P": {"dir": files}})


@pytest.fixture
def parts(tmp_path: Path, remote: FakeRemote, storage, ids) -> Iterator[Parts]:
    with Parts(tmp_path, remote) as made:
        yield made


@pytest.fixture
def making(parts: Parts) -> Iterator[FakeMaking]:
    made = FakeMaking(parts)
    parts.fs.ready.serve(made, Lookup(parts.store), parts.loop)
    yield made
    parts.fs.ready.give_up()


def begin(parts: Parts, path: str, flags: int = 0) -> Future:
    """An open that waits."""
    answer = parts.fs.open(parts.node(path).node, flags)
    assert isinstance(answer, Future)
    return answer


def error_of(parts: Parts, path: str, flags: int = 0) -> SyndError:
    """What an open ends in."""
    with pytest.raises(SyndError) as caught:
        got(parts.fs.open(parts.node(path).node, flags))
    return caught.value


class TestNames:
    @pytest.mark.parametrize(
        ("name", "data", "indexes"),
        [
            ("reads.sam", "reads.bam", [".bai"]),
            ("Reads.SAM.gz", "Reads.bam", [".bai"]),
            ("reads.bam", "reads.bam", [".bai"]),
            ("x.cram", "x.cram", [".crai"]),
            ("x.bcf", "x.bcf", [".csi"]),
            ("calls.vcf", "calls.vcf.gz", [".tbi"]),
            ("calls.vcf.bgz", "calls.vcf.gz", [".tbi"]),
            ("genes.gff3", "genes.gff3.gz", [".tbi"]),
            ("p.narrowPeak.bz2", "p.narrowPeak.gz", [".tbi"]),
            ("features.bb", "features.bed.gz", [".tbi"]),
            ("ref.fa", "ref.fa", [".fai"]),
            ("ref.fa.gz", "ref.fa.gz", [".fai", ".gzi"]),
            ("t.csv.gz", "t.csv.gz", []),
            ("signal.bw", "signal.bw", []),
        ],
    )
    def test_form_when_the_name_tells_a_format_then_says_what_it_becomes(self, name, data, indexes):
        """By what the processor of that format makes."""
        form = form_of(name.encode())
        assert form is not None

        assert (data.encode(), tuple(i.encode() for i in indexes)) == (form.data, form.indexes)

    @pytest.mark.parametrize("name", ["note.txt", "README", ".bed", "x.bam.bai", "x.vcf.gz.tbi"])
    def test_form_when_the_name_tells_nothing_then_is_none(self, name):
        """An index that lies beside its file is no file of its own."""
        assert form_of(name.encode()) is None

    def test_form_when_gtf_becomes_gff3_then_is_called_so(self):
        """As the setting says."""
        assert form_of(b"genes.gtf") == Form("genes", ".gtf.gz", (b".tbi",))
        assert form_of(b"genes.gtf", gtf_as_gff3=True) == Form("genes", ".gff3.gz", (b".tbi",))

    def test_entries_when_two_have_one_name_then_the_others_get_their_id(self):
        """Whoever is called so keeps the name, whatever the ids are."""
        found = entries([(3, b"r.sam"), (5, b"r.sam.gz"), (9, b"r.bam")], form_of)
        of = {name: entry.key for name, entry in found.items() if entry.prepared}

        assert {b"r.bam": 9, b"r %syn3.bam": 3, b"r %syn5.bam": 5} == of

    def test_entries_when_a_name_would_be_too_long_then_it_is_shortened(self):
        """With room for the index."""
        name = b"n" * 251 + b".bed"
        (data,) = [n for n, entry in entries([(7, name)], form_of).items() if entry.prepared]

        assert data.endswith(b" %syn7.bed.gz")
        assert len(data + b".crai") <= 255

    @given(
        st.permutations(
            ["a.sam", "a.bam", "a.sam.gz", "a.vcf", "a.vcf.gz", "a.csv", "a.fa", "b.bed"]
        ),
        st.integers(0, 8),
    )
    def test_entries_always_give_each_file_a_name_of_its_own(self, names, count):
        """In whatever order the files come."""
        files = [(key, name.encode()) for key, name in enumerate(names[:count], 1)]
        found = entries(files, form_of)

        assert found == entries(reversed(files), form_of)
        named = [entry.name for entry in found.values() if entry.prepared]
        assert sorted(named) == sorted(name for _, name in files)

    def test_split_when_it_is_an_index_then_tells_the_data(self):
        """Other names are none."""
        assert split(b"x.bam.bai") == (b"x.bam", b".bai")
        assert split(b"x.bam") is split(b".bai") is None


class TestLooking:
    def test_folder_when_nothing_is_prepared_here_then_is_not_there(self, parts):
        """A mount without jobs has no such name."""
        with pytest.raises(NotFound):
            parts.node("P/dir/@ready")

    def test_listing_when_nothing_is_made_then_tells_what_would_be(self, parts, making):
        """Data with its usual index, and tables as they are; nothing is asked for. The parent does not list it."""
        names = parts.names("P/dir/@ready")

        assert {"reads.bam", "reads.bam.bai", "t.csv"} <= set(names)
        assert "note.txt" not in names
        assert "@ready" not in parts.names("P/dir")
        assert [] == making.asked

    def test_listing_when_made_then_tells_the_index_that_it_has(self, parts, making):
        """Which may be another than usual."""
        making.put(parts.row("P/dir/reads.sam").file(), suffix=".csi")
        names = parts.names("P/dir/@ready")

        assert {"reads.bam", "reads.bam.csi"} <= set(names)
        assert "reads.bam.bai" not in names
        with pytest.raises(NotFound):
            parts.node("P/dir/@ready/reads.bam.bai")

    def test_listing_when_read_in_pieces_then_misses_nothing(self, parts, making):
        """Going on after any entry."""
        node = parts.node("P/dir/@ready").node
        whole = parts.entries("P/dir/@ready")

        for at, entry in enumerate(whole):
            rest = got(parts.fs.readdir(node, entry.cookie, plus=True))
            assert [e.name for e in whole[at + 1 :]] == [e.name for e in rest]

    def test_promise_when_looked_up_then_is_an_empty_file_that_nobody_remembers(
        self, parts, making
    ):
        """Read-only, with a number that the artifact will have too."""
        promise = parts.node("P/dir/@ready/reads.bam")
        assert (0, stat.S_IFREG | 0o444, 0.0, 0.0) == (
            promise.size, promise.mode, promise.attr_ttl_s, promise.entry_ttl_s,
        )  # fmt: skip
        making.put(parts.row("P/dir/reads.sam").file())
        made = parts.node("P/dir/@ready/reads.bam")

        assert (promise.ino, len(DATA)) == (made.ino, made.size)
        assert promise.node != made.node
        assert made.size == got(parts.fs.getattr(made.node)).size
        assert [] == making.asked

    @pytest.mark.parametrize(
        "name", ["reads.sam", "reads.bam.csi", "note.txt", "nope.bam", "t.csv.tbi"]
    )
    def test_lookup_when_there_is_no_such_artifact_then_is_not_found(self, parts, making, name):
        """The raw file lies in the folder above."""
        with pytest.raises(NotFound):
            parts.node(f"P/dir/@ready/{name}")

    def test_listing_when_a_file_appears_then_shows_it_and_another_time(
        self, parts, making, remote, ids
    ):
        """The kernel drops a listing that it keeps when the folder's time is another one."""
        before = parts.node("P/dir/@ready").mtime_ns
        assert "new.bam" not in parts.names("P/dir/@ready")
        remote.file(ids["P/dir"], "new.bam", b"BAM")
        parts.poll(ids["P/dir"])

        assert "new.bam" in parts.names("P/dir/@ready")
        assert before < parts.node("P/dir/@ready").mtime_ns

    @pytest.mark.parametrize("change", ["create", "unlink", "mkdir", "open", "setxattr"])
    def test_change_always_is_refused(self, parts, making, change):
        """As of all that synd makes."""
        folder, file = parts.node("P/dir/@ready").node, parts.node("P/dir/@ready/reads.bam").node
        caller, fs = Caller(0, 0), parts.fs
        calls: dict[str, Callable[[], object]] = {
            "create": lambda: fs.create(folder, b"n", 0o644, os.O_WRONLY | os.O_CREAT, caller),
            "unlink": lambda: fs.unlink(folder, b"reads.bam", caller),
            "mkdir": lambda: fs.mkdir(folder, b"n", 0o755, caller),
            "open": lambda: fs.open(file, os.O_RDWR),
            "setxattr": lambda: fs.setxattr(file, b"user.x", b"1", 0, caller),
        }
        with pytest.raises(ReadOnly):
            got(calls[change]())


class TestOpening:
    def test_open_when_it_is_made_then_the_name_leads_to_it(self, parts, making):
        """Stale makes the kernel look again; then the bytes are those of the artifact, data and index."""
        waiting = begin(parts, "P/dir/@ready/reads.bam")
        eventually(lambda: making.asked == ["reads.sam"])
        assert not waiting.done()
        making.go()
        with pytest.raises(Stale):
            waiting.result(20)

        for name, data in (("reads.bam", DATA), ("reads.bam.bai", INDEX)):
            attr = parts.node(f"P/dir/@ready/{name}")
            opened = got(parts.fs.open(attr.node, 0))
            assert (len(data) >= 65536) is (opened.backing is not None)
            assert opened.counted
            if opened.backing is not None:
                os.close(opened.backing)
            parts.fs.opened(attr.node, 1)
            assert data == parts.read_at(attr.node, 1, 0, attr.size)
            parts.fs.release(attr.node, 1)

    def test_open_when_given_up_then_only_that_wait_ends(self, parts, making):
        """What is made is the job's matter; the other opener goes on."""
        first, second = (begin(parts, f"P/dir/@ready/reads.bam{s}") for s in ("", ".bai"))
        eventually(lambda: len(making.asked) == 2)
        first.cancel()
        eventually(lambda: making.given_up == 1)
        assert not second.done()
        making.go()

        with pytest.raises(Stale):
            second.result(20)

    def test_open_when_nonblocking_then_waits_as_for_every_file(self, parts, making):
        """gzip opens what it reads so, and means pipes."""
        path = "P/dir/@ready/reads.bam"
        waiting = parts.fs.open(parts.node(path).node, os.O_NONBLOCK)
        eventually(lambda: making.asked == ["reads.sam"])
        assert not waiting.done()
        making.go()
        with pytest.raises(Stale):
            waiting.result(20)

        assert got(parts.fs.open(parts.node(path).node, os.O_NONBLOCK)).counted

    def test_open_when_the_daemon_stops_then_ends(self, parts, making):
        """And every later one at once."""
        waiting = begin(parts, "P/dir/@ready/reads.bam")
        parts.fs.ready.give_up()
        with pytest.raises(Busy):
            waiting.result(20)

        assert isinstance(error_of(parts, "P/dir/@ready/reads.bam"), Busy)

    def test_open_when_the_job_fails_then_raises_what_it_failed_of(self, parts, making):
        """The next one tries again."""
        making.fails = StageFailed("it broke", failure="TOOL_FAILED")
        making.go()
        assert "it broke" == error_of(parts, "P/dir/@ready/reads.bam").message
        making.fails = None

        assert isinstance(error_of(parts, "P/dir/@ready/reads.bam"), Stale)

    def test_open_when_the_content_was_refused_then_asks_for_nothing(self, parts, making):
        """The reason is an attribute too."""
        making.refuses = StageFailed("cut short", failure="SOURCE_TRUNCATED", bad_line=3)
        path = "P/dir/@ready/reads.bam"
        assert making.refuses is error_of(parts, path)
        node = parts.node(path).node

        assert [] == making.asked
        assert b"failed" == got(parts.fs.getxattr(node, b"user.synd.state"))
        assert b"cut short" == got(parts.fs.getxattr(node, b"user.synd.error"))
        assert b"user.synd.job" not in got(parts.fs.listxattr(node))

    def test_open_when_there_is_nothing_to_make_then_the_own_name_has_the_bytes(
        self, parts, making
    ):
        """The name that was promised says so from then on."""
        making.why = "it is something else"
        making.go()
        path = "P/dir/@ready/reads.bam"
        assert isinstance(error_of(parts, path), Stale)
        told = error_of(parts, path)
        assert isinstance(told, NotFound)
        assert "it is something else" in told.message

        assert b"@HD\tVN:1\n" == parts.read("P/dir/@ready/reads.sam")
        assert "reads.bam" not in parts.names("P/dir/@ready")

    def test_source_when_it_serves_itself_then_is_read_without_a_job(self, parts, making):
        """A table, an empty file, and what is in order already."""
        making.put(parts.row("P/dir/reads.sam").file(), alias=True)

        assert b"a,b\n" == parts.read("P/dir/@ready/t.csv")
        assert b"" == parts.read("P/dir/@ready/empty.bed")
        assert b"@HD\tVN:1\n" == parts.read("P/dir/@ready/reads.bam")
        assert [] == making.asked

    def test_made_when_evicted_while_open_then_is_read_to_the_end(self, parts, making):
        """The name is a promise again; opening it makes it anew."""
        making.put(parts.row("P/dir/reads.sam").file())
        attr = parts.node("P/dir/@ready/reads.bam")
        parts.fs.opened(attr.node, 1)
        parts.cache.objects.discard(ContentKey(md5_of(DATA)))

        assert 0 == parts.node("P/dir/@ready/reads.bam").size
        assert DATA == parts.read_at(attr.node, 1, 0, len(DATA))
        waiting = parts.fs.open(attr.node, 0)
        assert isinstance(waiting, Future)
        making.go()
        with pytest.raises(Stale):
            waiting.result(20)
        assert len(DATA) == parts.node("P/dir/@ready/reads.bam").size
        parts.fs.release(attr.node, 1)

    def test_made_when_open_then_is_not_evicted(self, parts, making):
        """Held until the last release."""
        making.put(parts.row("P/dir/reads.sam").file())
        attr = parts.node("P/dir/@ready/reads.bam")
        parts.fs.opened(attr.node, 1)
        parts.cache.clear()
        assert parts.cache.has(ContentKey(md5_of(DATA)))
        parts.fs.release(attr.node, 1)
        parts.cache.clear()

        assert not parts.cache.has(ContentKey(md5_of(DATA)))

    def test_made_when_the_source_has_a_new_version_then_is_stale(self, parts, making, remote, ids):
        """The name promises what is to be made of the new bytes."""
        making.put(parts.row("P/dir/reads.sam").file())
        old = parts.node("P/dir/@ready/reads.bam")
        remote.new_version(ids["P/dir/reads.sam"], b"@HD\tVN:2\n")
        parts.poll(ids["P/dir"])
        new = parts.node("P/dir/@ready/reads.bam")

        assert (NodeKind.READY_DATA, NodeKind.READY) == (
            unpack(old.node).kind,
            unpack(new.node).kind,
        )
        assert 0 == new.size
        with pytest.raises(Stale):
            got(parts.fs.open(old.node, 0))

    def test_made_when_it_is_made_otherwise_then_the_kernel_is_told(self, parts, making):
        """Its pages are of other bytes."""
        file = parts.row("P/dir/reads.sam").file()
        making.put(file)
        attr = parts.node("P/dir/@ready/reads.bam")
        other = b"other"
        parts.cache.objects.put_bytes(ContentKey(md5_of(other)), other)
        index = making.made[str(file.md5)].index
        making.made[str(file.md5)] = FakeBoth(FakeOne(ContentKey(md5_of(other)), 5), index)
        parts.told.take()
        with pytest.raises(Stale):
            got(parts.fs.open(attr.node, 0))

        assert (attr.node, True) in parts.told.take()[1]
        assert 5 == parts.node("P/dir/@ready/reads.bam").size

    def test_handle_when_what_it_read_is_gone_then_its_reads_fail(self, parts, making):
        """Never with the bytes of the source."""
        row = parts.row("P/dir/reads.sam")
        node = pack(NodeKind.READY_DATA, row.id, row.version)
        parts.fs.opened(node, 7)

        with pytest.raises(Stale):
            got(parts.fs.read(node, 7, 0, 100))

    def test_source_when_changed_here_then_is_busy_until_it_is_sent(self, parts, making):
        """An artifact of other bytes would be wrong."""
        making.put(parts.row("P/dir/reads.sam").file())
        node = parts.node("P/dir/reads.sam").node
        with pytest.raises(Stale):
            got(parts.fs.open(node, os.O_WRONLY | os.O_APPEND))
        staged = parts.node("P/dir/reads.sam").node
        opened = got(parts.fs.open(staged, os.O_WRONLY | os.O_APPEND))
        assert opened.backing is not None
        parts.fs.opened(staged, 3)
        os.close(opened.backing)
        got(parts.fs.write(staged, 3, 9, memoryview(b"more\n")))
        got(parts.fs.flush(staged, 3))
        path = "P/dir/@ready/reads.bam"

        assert 0 == parts.node(path).size
        assert isinstance(error_of(parts, path), Busy)
        assert b"changed-here" == got(parts.fs.getxattr(parts.node(path).node, b"user.synd.state"))
        parts.fs.release(staged, 3)


class TestTold:
    def test_state_when_a_job_is_to_make_it_then_names_the_job(self, parts, making):
        """The newest of that content, whoever asked for it."""
        file = parts.row("P/dir/reads.sam").file()
        key = workflow_key("synapse", syn(file.entity), str(file.md5), PIPELINE_VERSION)
        jobs = []
        for _ in range(2):
            jobs.append(parts.queue.claim("other", "reads.sam", {}, workflow_key=key).job.id)
            told = parts.fs.ready.state.told(file.entity)
            assert ("waiting", jobs[-1]) == (told.state, told.job.id)
            parts.queue.cancel(jobs[-1])
        node = parts.node("P/dir/@ready/reads.bam.bai").node

        assert 2 == len(set(jobs))
        assert b"failed" == got(parts.fs.getxattr(node, b"user.synd.state"))
        assert jobs[1].encode() == got(parts.fs.getxattr(node, b"user.synd.job"))
        assert got(parts.fs.getxattr(node, b"user.synd.error"))

    @pytest.mark.parametrize(
        ("name", "state"),
        [("reads.bam", "not-prepared"), ("t.csv", "as-it-is"), ("empty.bed", "as-it-is")],
    )
    def test_state_when_nobody_asked_then_says_what_it_is(self, parts, making, name, state):
        """And of which file and version."""
        node = parts.node(f"P/dir/@ready/{name}").node
        found = got(parts.fs.listxattr(node))

        assert state.encode() == got(parts.fs.getxattr(node, b"user.synd.state"))
        assert {b"user.synapse.id", b"user.synapse.version"} <= set(found)
        assert [] == got(parts.fs.listxattr(parts.node("P/dir/@ready").node))

    def test_source_of_a_name_always_is_the_file_in_the_folder(self, parts, making, ids):
        """Of data and of index; other names are of nobody."""
        find = parts.fs.ready.source_of

        assert b"reads.sam" == got(find(ids["P/dir"], b"reads.bam"))
        assert b"reads.sam" == got(find(ids["P/dir"], b"reads.bam.bai"))
        with pytest.raises(NotFound):
            got(find(ids["P/dir"], b"nope.bam"))


class TestFailures:
    @pytest.mark.parametrize(
        ("failure", "code"),
        [
            (Failure.SOURCE_FORBIDDEN, errno.EACCES),
            (Failure.SOURCE_GONE, errno.ENOENT),
            (Failure.SOURCE_UNAVAILABLE, errno.EHOSTUNREACH),
            (Failure.NO_SPACE, errno.ENOSPC),
            (Failure.TIMEOUT, errno.ETIMEDOUT),
            (Failure.SOURCE_TRUNCATED, errno.EIO),
            (Failure.TOOL_MISSING, errno.EIO),
            (Failure.CANCELLED, errno.EIO),
        ],
    )
    def test_failure_when_a_job_ends_so_then_has_its_errno(self, failure, code):
        """What the problem said is what the program's user is told."""
        job = Job(
            "j", "preprocess", "x", {}, JobState.FAILED, 0, failure=failure, problem={"title": "so"}
        )
        found = failure_of(job)

        assert (code, "so") == (found.errno, found.message)
