"""Files of local edits by number, what was taken away, and what a kill leaves between."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from synd.cache.objects import ObjectStore
from synd.cache.staged import SYNC_ALL_FROM, TICK_NS, Stamp, Usage
from synd.cache.staging import Staging
from synd.cache.statedisk import copy_sparse, disk_error
from synd.digest import md5_of_bytes
from synd.errors import (
    CacheFull,
    Exists,
    IntegrityError,
    NotFound,
    NotSupported,
    ReadOnly,
    StoreError,
    SyndError,
    UsageError,
)
from synd.ids import ContentKey
from tests.support.lazies import Remembering

FIRST = 1 << 39
MIB = 1 << 20


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(f"{size}-{seed}").randbytes(size)


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return again(tmp_path)


def again(root: Path) -> Staging:
    """As the next daemon finds it."""
    return Staging(root / "state/staged", root / "state/recovered")


def put(staging: Staging, number: int, data: bytes) -> None:
    fd = staging.create(number)
    os.write(fd, data)
    os.close(fd)


def get(staging: Staging, number: int) -> bytes:
    return staging.path(number).read_bytes()


def names(staging: Staging) -> list[str]:
    """All files of both folders, those with a dot too."""
    roots = (staging.root, staging.recovered)
    return sorted(p.name for root in roots for p in root.rglob("*") if p.is_file())


class TestFiles:
    def test_create_when_new_gives_a_descriptor_for_both(self, staging: Staging) -> None:
        """It is read and written, is private, and is not inherited."""
        fd = staging.create(FIRST)
        os.write(fd, b"bytes")

        assert os.pread(fd, 9, 0) == b"bytes"
        assert not os.get_inheritable(fd)
        assert os.fstat(fd).st_mode & 0o777 == 0o600
        assert staging.exists(FIRST)
        os.close(fd)

    def test_create_when_it_is_there_refuses_unless_resumed(self, staging: Staging) -> None:
        """A number is used once; a creation that is done again finds what it made."""
        put(staging, FIRST, b"kept")
        with pytest.raises(Exists):
            staging.create(FIRST)
        os.close(staging.create(FIRST, resume=True))

        assert get(staging, FIRST) == b"kept"

    def test_open_when_it_is_not_there_raises(self, staging: Staging) -> None:
        """An open makes nothing, whatever its flags; the flags say how it is opened."""
        for call in (staging.open, staging.stamp, staging.sync):
            with pytest.raises(NotFound):
                call(FIRST)
        with pytest.raises(NotFound):
            staging.open(FIRST, os.O_RDWR | os.O_CREAT)

        assert not staging.exists(FIRST)
        put(staging, FIRST, b"x")
        fd = staging.open(FIRST, os.O_RDONLY)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"y")
        os.close(fd)

    def test_remove_when_open_keeps_the_descriptor(self, staging: Staging) -> None:
        """Whoever has it open goes on; removing it twice is fine."""
        fd = staging.create(FIRST)
        staging.remove(FIRST)
        staging.remove(FIRST)

        assert os.write(fd, b"x") == 1
        assert not staging.exists(FIRST)
        os.close(fd)

    def test_numbers_always_are_those_of_files(self, staging: Staging) -> None:
        """Whole files only, spread over folders; foreign files and misplaced ones are not ours."""
        wanted = {FIRST + n for n in range(600)} | {FIRST + (1 << 20), 1}
        for number in wanted:
            os.close(staging.create(number))
        folder = staging.path(FIRST).parent
        for name in ("README", f"{FIRST + 1:x}", f"{FIRST:x}.map", ".x-1", f"0{FIRST:x}"):
            (folder / name).touch()

        assert wanted == set(staging.numbers())
        assert 256 == len(os.listdir(staging.root))

    def test_sweep_removes_what_a_kill_left_aside(self, staging: Staging, tmp_path: Path) -> None:
        """Half copies of an earlier daemon and maps without a file go; nothing else does."""
        put(staging, FIRST, b"kept")
        Path(staging.map_path(FIRST)).touch()
        Path(staging.map_path(FIRST + 256)).touch()
        Path(staging.aside(FIRST)).touch()
        assert staging.sweep() == 1
        assert again(tmp_path).sweep() == 1

        assert [f"{FIRST:x}", f"{FIRST:x}.map"] == names(staging)

    def test_stamp_when_written_to_differs(self, staging: Staging) -> None:
        """Also when a program puts the mtime back, as cp -p does; its text is parsed as it was."""
        put(staging, FIRST, b"old!")
        before = staging.stamp(FIRST)
        while Stamp.of(os.stat(staging.path(FIRST))).hides(os.stat(tick(staging)).st_mtime_ns):
            pass
        fd = staging.open(FIRST)
        os.write(fd, b"new!")
        os.close(fd)
        os.utime(staging.path(FIRST), ns=(0, before.mtime_ns))
        after = staging.stamp(FIRST)

        assert (before.size, before.mtime_ns, before.inode) == (
            after.size,
            after.mtime_ns,
            after.inode,
        )
        assert before.text() != after.text()
        assert before == Stamp.parse(before.text())
        assert Stamp(1, -5, 7, 9) == Stamp.parse(Stamp(1, -5, 7, 9).text())

    @pytest.mark.parametrize("text", ["", "1:2:3", "a:1:2:3", "1:2:3:4:5", "1:2:3:4\n"])
    def test_stamp_of_other_text_is_none(self, text: str) -> None:
        """A row without a look has none."""
        assert Stamp.parse(text) is None

    def test_stamp_when_just_changed_may_hide_a_write(self) -> None:
        """Times of files are coarse: a stamp within a tick of the change is no proof."""
        assert Stamp(1, 0, 1000, 1).hides(1000 + TICK_NS - 1)
        assert not Stamp(1, 0, 1000, 1).hides(1000 + TICK_NS)

    def test_statvfs_always_is_of_the_disk(self, staging: Staging) -> None:
        """Free room is what `df` shows."""
        assert staging.statvfs().f_blocks == os.statvfs(staging.root).f_blocks > 0


def tick(staging: Staging) -> Path:
    """A file that was touched now, for the clock that files are stamped with."""
    path = staging.root.parent / "tick"
    path.touch()
    return path


class TestCopying:
    @pytest.mark.parametrize("size", [0, 1, 4096, 3 * MIB + 17])
    def test_copy_in_always_is_the_same_bytes(
        self, staging: Staging, tmp_path: Path, size: int
    ) -> None:
        """Whole, private and writable, whatever the source's mode."""
        source = tmp_path / "object"
        source.write_bytes(noise(size))
        source.chmod(0o444)
        with open(source, "rb") as file:
            staging.copy_in(FIRST, file.fileno(), size)

        assert noise(size) == get(staging, FIRST)
        assert os.stat(staging.path(FIRST)).st_mode & 0o777 == 0o600

    def test_copy_in_of_a_sparse_file_keeps_the_holes(
        self, staging: Staging, tmp_path: Path
    ) -> None:
        """A gigabyte of nothing takes no room, at the start, inside and at the end."""
        with open(tmp_path / "sparse", "w+b") as file:
            for at in (100 << 20, 500 << 20):
                os.pwrite(file.fileno(), noise(MIB), at)
            os.truncate(file.fileno(), 1 << 30)
            staging.copy_in(FIRST, file.fileno(), 1 << 30)

        assert os.stat(staging.path(FIRST)).st_blocks * 512 <= 4 * MIB
        with open(staging.path(FIRST), "rb") as copied:
            assert noise(MIB) == os.pread(copied.fileno(), MIB, 500 << 20)
            assert os.fstat(copied.fileno()).st_size == 1 << 30

    @pytest.mark.parametrize("size", [9, 11], ids=["longer", "shorter"])
    def test_copy_in_when_the_size_is_another_leaves_nothing(
        self, staging: Staging, tmp_path: Path, size: int
    ) -> None:
        """A torn source is an error, and no file has the number."""
        (tmp_path / "source").write_bytes(noise(10))
        with open(tmp_path / "source", "rb") as file, pytest.raises(IntegrityError):
            staging.copy_in(FIRST, file.fileno(), size)

        assert names(staging) == []

    def test_copy_always_is_synced_before_it_has_its_number(self, tmp_path: Path) -> None:
        """A power loss leaves the whole copy or none: a torn one would pass for an edit."""
        disk = Remembering(tmp_path / "staged", tmp_path / "recovered")
        (tmp_path / "source").write_bytes(noise(MIB))
        with open(tmp_path / "source", "rb") as file:
            disk.copy_in(FIRST, file.fileno(), MIB)
        disk.snapshot(FIRST, FIRST + 1)

        for number in (FIRST, FIRST + 1):
            assert noise(MIB) == disk.durable[os.stat(disk.path(number)).st_ino]

    def test_copy_in_when_it_is_there_keeps_it(self, staging: Staging, tmp_path: Path) -> None:
        """Nothing is ever copied over an edit."""
        put(staging, FIRST, b"edit")
        with open(staging.path(FIRST), "rb") as file, pytest.raises(Exists):
            staging.copy_in(FIRST, file.fileno(), 4)

        assert [f"{FIRST:x}"] == names(staging)

    def test_copy_when_the_kernel_cannot_is_read_and_written(self, tmp_path: Path) -> None:
        """From files that copy_file_range refuses, such as those of /proc."""
        with open("/proc/self/mountinfo", "rb") as source, open(tmp_path / "t", "w+b") as target:
            size = len(os.pread(source.fileno(), 1 << 16, 0))
            copy_sparse(source.fileno(), target.fileno(), size)

            assert os.pread(source.fileno(), size, 0) == os.pread(target.fileno(), size + 1, 0)

    def test_snapshot_always_is_apart_from_its_source(self, staging: Staging) -> None:
        """What is written later is not in it."""
        put(staging, FIRST, noise(MIB))
        staging.snapshot(FIRST, FIRST + 1)
        fd = staging.open(FIRST)
        os.write(fd, b"later")
        os.close(fd)

        assert noise(MIB) == get(staging, FIRST + 1)
        with pytest.raises(NotFound):
            staging.snapshot(FIRST + 2, FIRST + 3)
        Path(staging.map_path(FIRST)).touch()
        with pytest.raises(UsageError):
            staging.snapshot(FIRST, FIRST + 4)


class TestSyncing:
    def test_sync_enters_the_name_once(self, staging: Staging) -> None:
        """The folder is synced with a file's first sync; and again for a file made anew."""
        put(staging, FIRST, b"x")
        fd = staging.open(FIRST)
        staging.sync(FIRST)
        staging.sync(FIRST, fd)
        assert {FIRST} == staging._entered
        os.close(fd)
        staging.remove(FIRST)

        assert staging._entered == set()

    @pytest.mark.parametrize("count", [0, 1, 10, SYNC_ALL_FROM + 5])
    def test_sync_many_tells_which_failed(self, staging: Staging, count: int) -> None:
        """One that is gone does not keep the others from being durable."""
        wanted = [FIRST + n for n in range(count)]
        for number in wanted[1:]:
            put(staging, number, b"x")
        failed = staging.sync_many([*wanted, *wanted])

        assert wanted[:1] == list(failed)
        assert all(isinstance(error, NotFound) for error in failed.values())
        assert set(wanted[1:]) == staging._entered


class TestRecovery:
    def test_recover_keeps_the_bytes_under_a_telling_name(self, staging: Staging) -> None:
        """The same name of two files is no clash; doing it again changes nothing."""
        put(staging, FIRST, b"one")
        put(staging, FIRST + 1, b"two")
        first = staging.recover(FIRST, "data.txt")
        second = staging.recover(FIRST + 1, b"data.txt")
        assert first == staging.recover(FIRST, "data.txt")

        assert [f"{FIRST:x}-data.txt", f"{FIRST + 1:x}-data.txt"] == [first, second]
        assert [first, second] == staging.recovered_names()
        assert staging.recovered_path(second).read_bytes() == b"two"
        assert list(staging.numbers()) == []
        with pytest.raises(NotFound):
            staging.recover(FIRST + 2, "data.txt")

    @pytest.mark.parametrize(
        "name",
        ["a/b\0\n.txt", b"\xff\xfe", "\udcff", "é" * 300 + ".tar.gz", "", ".", "x." + "y" * 300],
        ids=["unprintable", "bytes", "surrogate", "long", "empty", "dot", "long ending"],
    )
    def test_recover_of_any_name_works(self, staging: Staging, name: str | bytes) -> None:
        """Whatever a file was called, there is a name that the disk, the database and a terminal take."""
        put(staging, FIRST, b"x")
        kept = staging.recover(FIRST, name)

        assert kept.encode().decode().isprintable()
        assert len(kept.encode()) <= 255
        assert [kept] == staging.recovered_names()
        assert staging.recovered_path(kept).read_bytes() == b"x"
        staging.drop_recovered(kept)
        assert names(staging) == []

    def test_put_back_undoes_a_recover(self, staging: Staging) -> None:
        """When the transaction was lost, the row finds its file again, with its map."""
        put(staging, FIRST, b"edit")
        put(staging, FIRST + 256, b"other")
        Path(staging.map_path(FIRST)).write_bytes(b"map")
        staging.recover(FIRST, "a")
        staging.recover(FIRST + 256, "b")

        assert staging.put_back(FIRST)
        assert get(staging, FIRST) == b"edit"
        assert Path(staging.map_path(FIRST)).read_bytes() == b"map"
        assert [f"{FIRST + 256:x}-b"] == staging.recovered_names()
        assert not staging.put_back(FIRST + 1)
        assert staging.put_back(FIRST)

    def test_restore_that_is_undone_leaves_it_recovered(self, staging: Staging) -> None:
        """With its map; doing it again is fine."""
        put(staging, FIRST, b"edit")
        Path(staging.map_path(FIRST)).write_bytes(b"map")
        name = staging.recover(FIRST, "a")
        before = names(staging)
        staging.restore_recovered(name, FIRST + 7)
        assert staging.has_map(FIRST)
        assert staging.has_map(FIRST + 7)
        for _ in range(2):
            staging.undo_restore(name, FIRST + 7)
            assert before == names(staging)

        assert staging.recovered_path(name).read_bytes() == b"edit"
        assert staging.has_map(FIRST)
        assert not staging.has_map(FIRST + 7)

    def test_restore_that_moved_the_file_is_undone_too(self, staging: Staging) -> None:
        """A disk without hard links moves it: then it is moved back."""
        put(staging, FIRST, b"edit")
        Path(staging.map_path(FIRST)).write_bytes(b"map")
        name = staging.recover(FIRST, "a")
        before = names(staging)
        staging.restore_recovered(name, FIRST + 7)
        staging.drop_recovered(name)
        staging.undo_restore(name, FIRST + 7)

        assert before == names(staging)
        assert staging.recovered_path(name).read_bytes() == b"edit"

    def test_restore_gives_a_number_and_stays_until_dropped(self, staging: Staging) -> None:
        """A kill in between loses nothing, as the bytes have both names."""
        put(staging, FIRST, b"edit")
        name = staging.recover(FIRST, "a")
        staging.restore_recovered(name, FIRST + 7)
        assert get(staging, FIRST + 7) == b"edit"
        assert [name] == staging.recovered_names()
        with pytest.raises(Exists):
            staging.restore_recovered(name, FIRST + 7)
        staging.drop_recovered(name)
        staging.drop_recovered(name)

        assert get(staging, FIRST + 7) == b"edit"
        assert staging.recovered_names() == []
        with pytest.raises(NotFound):
            staging.restore_recovered(name, FIRST + 8)
        assert not staging.is_lazy(FIRST + 8)

    @pytest.mark.parametrize("name", ["../state.db", "x", "", "12-a/b", ".12.map", "-a"])
    def test_recovered_name_when_foreign_is_refused(self, staging: Staging, name: str) -> None:
        """No name leads out of the folder, or to what is not a recovered file."""
        for call in (staging.recovered_path, staging.drop_recovered):
            with pytest.raises(UsageError):
                call(name)

    def test_rescue_of_bytes_moves_them(self, staging: Staging) -> None:
        """A file that no row names is never just deleted; the recovered name may be given whole."""
        put(staging, FIRST, b"orphan")
        put(staging, FIRST + 1, b"known")
        kept = staging.rescue(FIRST)

        assert f"{FIRST:x}-unnamed" == kept
        known = staging.recovered_name(FIRST + 1, "data.txt")
        assert known == staging.rescue(FIRST + 1, known)

    def test_rescue_without_bytes_removes_the_file(self, staging: Staging) -> None:
        """Empty files, and those of holes only, are nothing to keep."""
        put(staging, FIRST, b"")
        put(staging, FIRST + 1, b"")
        os.truncate(staging.path(FIRST + 1), MIB)
        Path(staging.map_path(FIRST + 1)).touch()

        assert [staging.rescue(FIRST), staging.rescue(FIRST + 1)] == [None, None]
        assert names(staging) == []

    def test_kill_before_the_row_of_a_restore_keeps_it_recovered(self, staging: Staging) -> None:
        """The start finds a file without a row whose bytes are in the recovery folder: that one stays."""
        put(staging, FIRST, b"edit")
        name = staging.recover(FIRST, "a")
        staging.restore_recovered(name, FIRST + 1)

        assert staging.rescue(FIRST + 1) is None
        assert staging.drop_restored() == 0
        assert [name] == names(staging)

    def test_kill_after_the_row_of_a_restore_keeps_the_edit(self, staging: Staging) -> None:
        """The start finds the bytes in both folders: the recovered name goes, links of others do not count."""
        put(staging, FIRST, b"edit")
        put(staging, FIRST + 1, b"other")
        name = staging.recover(FIRST, "a")
        other = staging.recover(FIRST + 1, "b")
        os.link(staging.recovered_path(other), staging.root.parent / "backup")
        staging.restore_recovered(name, FIRST + 2)

        assert staging.drop_restored() == 1
        assert [other] == staging.recovered_names()
        assert get(staging, FIRST + 2) == b"edit"
        os.link(staging.path(FIRST + 2), staging.root.parent / "another")
        assert staging.rescue(FIRST + 2) == f"{FIRST + 2:x}-unnamed"

    def test_usage_always_is_what_the_disk_gives(self, staging: Staging) -> None:
        """Holes do not count; recovered files are counted apart."""
        put(staging, FIRST, noise(MIB))
        put(staging, FIRST + 1, b"")
        os.truncate(staging.path(FIRST + 1), 1 << 40)
        assert staging.usage() == Usage(2, os.stat(staging.path(FIRST)).st_blocks * 512)
        assert staging.recovered_usage() == Usage(0, 0)
        staging.recover(FIRST, "x")

        assert staging.usage() == Usage(1, 0)
        assert staging.recovered_usage().files == 1
        assert staging.recovered_usage().bytes >= MIB


class TestObjects:
    def test_as_object_moves_the_file(self, staging: Staging, tmp_path: Path) -> None:
        """On one disk it is the same file, made read-only, stored now; descriptors stay valid."""
        data = noise(MIB)
        put(staging, FIRST, data)
        os.utime(staging.path(FIRST), (1, 1))
        fd = staging.open(FIRST, os.O_RDONLY)
        objects = ObjectStore(tmp_path / "cache")
        objects.count()
        staging.as_object(FIRST, objects, md5_of_bytes(data), MIB)
        key = ContentKey(md5_of_bytes(data))

        assert os.fstat(fd).st_ino == os.stat(objects.path(key)).st_ino
        assert objects.verify(key)
        assert objects.total_count == 1
        (stored,) = objects.entries()
        assert stored.stored_ns > 10**18
        assert os.stat(objects.path(key)).st_mode & 0o777 == 0o444
        assert names(staging) == []
        os.close(fd)

    def test_as_object_when_it_is_there_just_removes_the_file(
        self, staging: Staging, tmp_path: Path
    ) -> None:
        """One copy for each content; the one in use stays."""
        objects = ObjectStore(tmp_path / "cache")
        md5 = md5_of_bytes(b"same")
        objects.put_bytes(ContentKey(md5), b"same")
        inode = os.stat(objects.path(ContentKey(md5))).st_ino
        put(staging, FIRST, b"same")
        staging.as_object(FIRST, objects, md5)

        assert inode == os.stat(objects.path(ContentKey(md5))).st_ino
        assert names(staging) == []

    def test_as_object_when_the_size_is_another_keeps_the_file(
        self, staging: Staging, tmp_path: Path
    ) -> None:
        """Bytes that were not hashed never become an object; nor do those that lack some."""
        objects = ObjectStore(tmp_path / "cache")
        put(staging, FIRST, b"longer by now")
        md5 = md5_of_bytes(b"longer")
        with pytest.raises(IntegrityError):
            staging.as_object(FIRST, objects, md5, 6)
        Path(staging.map_path(FIRST)).touch()
        with pytest.raises(UsageError):
            staging.as_object(FIRST, objects, md5, 13)

        assert get(staging, FIRST) == b"longer by now"
        assert os.stat(staging.path(FIRST)).st_mode & 0o777 == 0o600
        assert not objects.has(ContentKey(md5))
        with pytest.raises(NotFound):
            staging.as_object(FIRST + 1, objects, md5)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, CacheFull),
        (errno.EDQUOT, CacheFull),
        (errno.EROFS, ReadOnly),
        (errno.EIO, StoreError),
        (errno.EMFILE, StoreError),
        (errno.ENOENT, NotFound),
        (errno.EEXIST, Exists),
        (errno.EFBIG, UsageError),
        (errno.EOPNOTSUPP, NotSupported),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) else value.__name__,
)
def test_disk_error_always_has_the_writers_errno(code: int, kind: type[SyndError]) -> None:
    """What the local disk refused is told as a local file system would."""
    error = disk_error(OSError(code, os.strerror(code)), "write")

    assert type(error) is kind
    assert error.errno == {errno.EDQUOT: errno.ENOSPC, errno.EMFILE: errno.EIO}.get(
        code, errno.EINVAL if code == errno.EFBIG else code
    )
