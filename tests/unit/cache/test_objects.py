"""The store of complete objects: names, verification, totals, and folders that vanish."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from synd.cache import disk
from synd.cache.objects import How, ObjectStore
from synd.clock import NS
from synd.errors import CacheFull, IntegrityError, StoreError, UsageError
from synd.ids import ContentKey

Make = Callable[..., tuple[ContentKey, bytes]]


class TestPut:
    @pytest.mark.req("S1-25")
    def test_put_bytes_then_open_gives_the_same_bytes(
        self, objects: ObjectStore, content: Make
    ) -> None:
        """What was stored is read back, from a read-only file under the shard of its key."""
        key, data = content(10_000)

        objects.put_bytes(key, data)

        fd = objects.open(key, len(data))
        assert fd is not None
        with open(fd, "rb") as file:
            assert data == file.read()
        assert objects.folder / key[:2] / key == objects.path(key)
        assert stat.S_IMODE(objects.path(key).stat().st_mode) == 0o444

    @pytest.mark.announces("object.torn")
    @pytest.mark.parametrize("size", [0, 1, 4096, 300_000])
    @pytest.mark.req("S1-25")
    def test_size_and_has_know_what_is_here(
        self, objects: ObjectStore, content: Make, size: int
    ) -> None:
        """Sizes are those of the bytes; an object of another size than expected is a miss."""
        key, data = content(size)
        assert objects.size(key) is None
        assert not objects.has(key)

        objects.put_bytes(key, data)

        assert size == objects.size(key)
        assert objects.has(key)
        assert objects.has(key, size)
        assert not objects.has(key, size + 1)
        assert objects.open(key, size + 1) is None

    def test_put_bytes_of_wrong_content_is_refused(
        self, objects: ObjectStore, content: Make
    ) -> None:
        """Bytes whose md5 is not the key never become an object."""
        key, data = content(100)

        with pytest.raises(IntegrityError):
            objects.put_bytes(key, data + b"x")

        assert not objects.has(key)
        assert list(objects.entries()) == []

    def test_put_bytes_under_a_handle_takes_them_as_they_are(self, objects: ObjectStore) -> None:
        """Content without md5 is named by its file handle; nothing can be verified."""
        objects.put_bytes(ContentKey("h77"), b"whatever")

        assert objects.size(ContentKey("h77")) == 8
        assert objects.verify(ContentKey("h77"))

    @pytest.mark.req("S1-28")
    @pytest.mark.parametrize(
        "key", ["../../etc/passwd", "a" * 31, "A" * 32, "", "h", "h1/../x", "0" * 32 + "\n", "h-1"]
    )
    def test_key_that_is_no_key_is_refused(self, objects: ObjectStore, key: str) -> None:
        """No key can name a file outside the folder."""
        for act in (objects.path, objects.open, objects.discard, objects.has):
            with pytest.raises(UsageError):
                act(ContentKey(key))
        with pytest.raises(UsageError):
            objects.put_bytes(ContentKey(key), b"")

    @pytest.mark.req("S1-26")
    def test_put_bytes_that_fails_leaves_nothing(
        self, objects: ObjectStore, content: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A write that fails half-way leaves neither an object nor a file aside."""
        key, data = content(5000)

        def torn(fd: int, data: bytes, offset: int) -> None:
            os.pwrite(fd, data[:10], offset)
            raise OSError(errno.EIO, "broken disk")

        monkeypatch.setattr("synd.cache.objects.write_at", torn)
        with pytest.raises(StoreError):
            objects.put_bytes(key, data)

        assert not objects.has(key)
        assert [p for p in objects.folder.rglob("*") if p.is_file()] == []

    def test_put_bytes_over_a_torn_object_mends_it(
        self, objects: ObjectStore, content: Make
    ) -> None:
        """An object of the wrong size is replaced by the next put."""
        key, data = content(5000)
        objects.put_bytes(key, data)
        objects.path(key).chmod(0o600)
        os.truncate(objects.path(key), 100)

        objects.put_bytes(key, data)

        assert objects.verify(key)

    @pytest.mark.req("S1-25")
    def test_open_object_stays_readable_after_discard(
        self, objects: ObjectStore, content: Make
    ) -> None:
        """Eviction never takes bytes from somebody who has them open."""
        key, data = content(9000)
        objects.put_bytes(key, data)
        fd = objects.open(key)
        assert fd is not None

        assert objects.discard(key) == 12288

        assert objects.open(key) is None
        assert data == os.pread(fd, len(data) + 1, 0)
        os.close(fd)


class TestVerify:
    def test_verify_tells_right_from_wrong(self, objects: ObjectStore, content: Make) -> None:
        """`verify` hashes what is on disk; a flipped bit and an absent object are false."""
        key, data = content(2 << 20)
        assert not objects.verify(key)
        objects.put_bytes(key, data)
        assert objects.verify(key)

        objects.path(key).chmod(0o600)
        with open(objects.path(key), "r+b") as file:
            file.seek(1_500_000)
            file.write(bytes([data[1_500_000] ^ 1]))

        assert not objects.verify(key)


class TestAdopt:
    @pytest.mark.parametrize("how", list(How))
    def test_adopt_file_makes_an_object_and_leaves_the_file(
        self, objects: ObjectStore, content: Make, tmp_path: Path, how: How
    ) -> None:
        """Every way ends in a verified object; only a hard link shares the inode."""
        key, data = content(200_000)
        source = tmp_path / "mine.bin"
        source.write_bytes(data)
        mtime_ns = source.stat().st_mtime_ns

        assert objects.adopt_file(key, source, how)

        assert objects.verify(key)
        assert data == source.read_bytes()
        assert mtime_ns == source.stat().st_mtime_ns
        assert (how is How.HARDLINK) == source.samefile(objects.path(key))
        assert objects.total_bytes == 200_704

    @pytest.mark.parametrize("how", list(How))
    def test_adopt_file_of_other_bytes_is_refused(
        self, objects: ObjectStore, content: Make, tmp_path: Path, how: How
    ) -> None:
        """A file whose md5 is not the key is not adopted, and nothing stays behind."""
        key, data = content(1000)
        source = tmp_path / "mine.bin"
        source.write_bytes(data[:-1])

        assert not objects.adopt_file(key, source, how)

        assert not objects.has(key)
        assert [p for p in objects.folder.rglob("*") if p.is_file()] == []

    def test_adopt_file_that_is_gone_is_false(
        self, objects: ObjectStore, content: Make, tmp_path: Path
    ) -> None:
        """A file that vanished meanwhile is no error."""
        assert not objects.adopt_file(content(5)[0], tmp_path / "nothing")

    def test_adopt_file_edited_in_place_later_leaves_the_object(
        self, objects: ObjectStore, content: Make, tmp_path: Path
    ) -> None:
        """The default way shares nothing that an edit of the file could change."""
        key, data = content(70_000)
        source = tmp_path / "mine.bin"
        source.write_bytes(data)
        assert objects.adopt_file(key, source)

        with open(source, "r+b") as file:
            file.write(b"edited")

        assert objects.verify(key)

    def test_adopt_file_without_md5_is_refused(self, objects: ObjectStore, tmp_path: Path) -> None:
        """Where the service knows no md5, no foreign file can prove what it is."""
        (tmp_path / "f").write_bytes(b"x")

        with pytest.raises(UsageError):
            objects.adopt_file(ContentKey("h5"), tmp_path / "f")


class TestTotals:
    def test_total_bytes_follows_puts_and_discards(
        self, objects: ObjectStore, content: Make
    ) -> None:
        """The total is kept without counting again, in whole pages; the same content counts once."""
        small, middle = content(1), content(5000)
        objects.put_bytes(*small)
        objects.put_bytes(*middle)
        objects.put_bytes(*middle)
        assert (objects.total_count, objects.total_bytes) == (2, 4096 + 8192)

        objects.discard(small[0])
        objects.discard(small[0])

        assert (objects.total_count, objects.total_bytes) == (1, 8192)
        assert ObjectStore(objects.folder.parent).count() == 8192

    def test_count_while_others_write_counts_each_object_once(
        self, objects: ObjectStore, content: Make, tmp_path: Path
    ) -> None:
        """Counting may run beside puts and discards and still ends right."""
        made = [content(4096, seed) for seed in range(300)]
        for one in made[:100]:
            objects.put_bytes(*one)
        fresh = ObjectStore(tmp_path)

        def churn(part: list[tuple[ContentKey, bytes]]) -> None:
            for key, data in part:
                fresh.put_bytes(key, data)
            for key, _ in part[::2]:
                fresh.discard(key)

        threads = [threading.Thread(target=churn, args=(made[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        fresh.count()
        for thread in threads:
            thread.join()

        assert 300 - 4 * 38 == fresh.total_count == len(list(fresh.entries()))
        assert fresh.total_count * 4096 == fresh.total_bytes

    def test_count_sweeps_what_a_killed_daemon_wrote_aside(
        self, objects: ObjectStore, content: Make, tmp_path: Path
    ) -> None:
        """Files written aside by an earlier process go; objects stay, and foreign names too."""
        key, data = content(10)
        objects.put_bytes(key, data)
        left = objects.path(key).parent / ".0123456789ab-7"
        left.write_bytes(b"half")

        ObjectStore(tmp_path).count()

        assert not left.exists()
        assert objects.has(key)

    def test_touch_is_remembered_across_restarts(
        self, objects: ObjectStore, content: Make, tmp_path: Path
    ) -> None:
        """The last use is kept on disk, to the minute, and does not move the time of storing."""
        key, data = content(10)
        objects.put_bytes(key, data)
        before = next(objects.entries())

        objects.touch(key, before.used_ns + 30 * NS)
        assert before == next(ObjectStore(tmp_path).entries())

        objects.touch(key, before.used_ns + 3600 * NS)
        after = next(ObjectStore(tmp_path).entries())
        assert before.used_ns + 3600 * NS == after.used_ns
        assert before.stored_ns == after.stored_ns


class TestVanishedFolder:
    def test_removed_folder_is_a_miss_and_is_made_anew(
        self, objects: ObjectStore, content: Make, tmp_path: Path
    ) -> None:
        """Somebody removes the cache under the daemon: reads miss, writes go on."""
        key, data = content(1000)
        objects.put_bytes(key, data)
        (tmp_path / "f").write_bytes(data)
        for again in (
            lambda: objects.put_bytes(key, data),
            lambda: objects.adopt_file(key, tmp_path / "f"),
            lambda: objects.adopt_file(key, tmp_path / "f", How.HARDLINK),
        ):
            shutil.rmtree(objects.folder)

            assert objects.open(key) is None
            assert not objects.has(key)
            assert not objects.verify(key)
            assert objects.discard(key) == 0
            assert list(objects.entries()) == []
            objects.touch(key, 1)
            assert objects.count() == 0

            again()
            assert objects.verify(key)


class TestFull:
    def test_put_bytes_on_a_full_disk_asks_for_room_once(
        self, tmp_path: Path, content: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No room: ask, try once more; still none, or nothing to give: CacheFull."""
        key, data = content(1000)
        asked: list[int] = []
        give = [False]

        def room(needed: int) -> bool:
            asked.append(needed)
            return give[0]

        broken = [2]
        real = disk.write_at

        def write_at(fd: int, data: bytes, offset: int) -> None:
            if broken[0]:
                broken[0] -= 1
                raise OSError(errno.ENOSPC, "full")
            real(fd, data, offset)

        monkeypatch.setattr("synd.cache.objects.write_at", write_at)
        stingy = ObjectStore(tmp_path, on_full=room)
        with pytest.raises(CacheFull):
            stingy.put_bytes(key, data)
        assert asked == [1000]

        give[0] = True
        generous = ObjectStore(tmp_path, on_full=room)
        generous.put_bytes(key, data)

        assert asked == [1000, 1000]
        assert generous.verify(key)


def test_many_threads_putting_the_same_content_store_it_once(
    objects: ObjectStore, content: Make
) -> None:
    """Racing writers of one content agree; readers see all of it or nothing."""
    key, data = content(100_000)
    wrong: list[str] = []
    barrier = threading.Barrier(9)

    def put() -> None:
        barrier.wait()
        for _ in range(20):
            objects.put_bytes(key, data)
            objects.discard(key)

    def read() -> None:
        barrier.wait()
        for _ in range(300):
            fd = objects.open(key)
            if fd is not None:
                if os.pread(fd, 200_000, 0) != data:
                    wrong.append("torn")
                os.close(fd)

    threads = [threading.Thread(target=put) for _ in range(6)]
    threads += [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    objects.put_bytes(key, data)

    assert wrong == []
    assert (objects.total_count, objects.total_bytes) == (1, 102_400)
