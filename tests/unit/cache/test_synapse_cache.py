"""The official client's cache folder: what is believed, what is written, and what is left alone."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from synd.cache import synapse_cache as module
from synd.cache.objects import ObjectStore
from synd.cache.synapse_cache import SynapseCache, floor_time, location, same_time
from synd.clock import Deadline
from synd.ids import ContentKey, FileHandleId, Md5

Make = Callable[..., tuple[ContentKey, bytes]]
HANDLE = FileHandleId(123_005)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "synapseCache"


@pytest.fixture
def cache(root: Path) -> SynapseCache:
    return SynapseCache(root)


def record(root: Path, entries: dict[str, object], handle: int = HANDLE) -> Path:
    """Writes a map as the client would."""
    folder = root / str(handle % 1000) / str(handle)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".cacheMap").write_text(json.dumps(entries) + "\n")
    return folder


def entry(path: Path, md5: str | None = None) -> dict[str, object]:
    return {"modified_time": floor_time(path.stat().st_mtime), "content_md5": md5}


class TestLocation:
    def test_default_and_configured_places(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As the client: ~/.synapseCache, or `[cache] location` with ~ and variables expanded."""
        env = {"HOME": str(tmp_path)}
        monkeypatch.setenv("SCRATCH_FOR_CACHE", "/scratch/me")
        assert tmp_path / ".synapseCache" == location(env)

        for spelled, meant in (
            ("/data/cache", Path("/data/cache")),
            ("~/c", tmp_path / "c"),
            ("$SCRATCH_FOR_CACHE/c", Path("/scratch/me/c")),
        ):
            (tmp_path / ".synapseConfig").write_text(f"[cache]\nlocation = {spelled}\n")
            assert meant == location(env)

        (tmp_path / ".synapseConfig").write_text("not an ini file")
        assert tmp_path / ".synapseCache" == location(env)


class TestTimes:
    @pytest.mark.parametrize(
        ("mtime", "recorded", "same"),
        [
            (1_700_000_000.75, "2023-11-14T22:13:20.000Z", True),
            (1_700_000_000.75, "2023-11-14T22:13:21.000Z", False),
            (1_700_000_000.75, "2023-11-14T22:13:20.750Z", True),
            (1_700_000_000.9996, "2023-11-14T22:13:21.000Z", False),
            (1_700_000_000.1234, "2023-11-14T22:13:20.123Z", True),
            (1_700_000_000.0, "", False),
            (1_700_000_000.0, "yesterday", False),
        ],
    )
    def test_same_time(self, mtime: float, recorded: str, same: bool) -> None:
        """Whole seconds in a map stand for any fraction; other times are compared to the ms."""
        assert same is same_time(mtime, recorded)


class TestFind:
    def test_find_takes_entries_in_every_form_of_the_map(
        self, cache: SynapseCache, root: Path, content: Make, tmp_path: Path
    ) -> None:
        """Old entries are a time only; md5 may be missing; the file may lie anywhere."""
        key, data = content(3000)
        file = tmp_path / "elsewhere.bin"
        file.write_bytes(data)
        stamp = floor_time(file.stat().st_mtime)
        for form in (
            stamp,
            {"modified_time": stamp},
            {"modified_time": stamp, "content_md5": None},
            {"modified_time": stamp, "content_md5": key, "more": 1},
        ):
            record(root, {str(file): form})
            assert file == cache.find(HANDLE, Md5(key))

    @pytest.mark.req("S2-45")
    def test_find_believes_no_entry_whose_bytes_differ(
        self, cache: SynapseCache, root: Path, content: Make, tmp_path: Path
    ) -> None:
        """Time and even the recorded md5 are hints; the file's own md5 decides."""
        key, data = content(3000)
        file = tmp_path / "f"
        file.write_bytes(data[:-1] + b"?")
        record(root, {str(file): entry(file, key)})
        assert cache.find(HANDLE, Md5(key)) is None

        other = hashlib.md5(file.read_bytes()).hexdigest()
        record(root, {str(file): entry(file, other)})
        assert cache.find(HANDLE, Md5(key)) is None
        assert cache.find(HANDLE, None) is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"/x": 5}',
            '{"/x": {"modified_time": 5}}',
            '{"rel": "now"}',
            "\xff",
        ],
    )
    def test_find_in_a_broken_map_is_a_miss(
        self, cache: SynapseCache, root: Path, content: Make, text: str
    ) -> None:
        """Nothing in that folder can make a read fail."""
        folder = record(root, {})
        (folder / ".cacheMap").write_bytes(text.encode("latin-1"))

        assert cache.find(HANDLE, Md5(content(5)[0])) is None
        assert not (folder / ".cacheMap.lock").exists()

    def test_find_without_folder_makes_none(
        self, cache: SynapseCache, root: Path, content: Make
    ) -> None:
        """Looking leaves no trace."""
        assert cache.find(HANDLE, Md5(content(5)[0])) is None
        assert not root.exists()

    def test_find_skips_pipes_and_paths_in_our_own_mount(
        self, root: Path, content: Make, tmp_path: Path
    ) -> None:
        """Nothing that could block for ever, or read through ourselves; a link there neither."""
        key, data = content(100)
        mount = tmp_path / "mnt"
        mount.mkdir()
        inside = mount / "file"
        inside.write_bytes(data)
        (tmp_path / "link").symlink_to(mount)
        os.mkfifo(tmp_path / "pipe")
        paths = [inside, tmp_path / "link" / "file", tmp_path / "pipe"]
        record(root, {str(path): entry(path, key) for path in paths})

        assert SynapseCache(root, exclude=[mount]).find(HANDLE, Md5(key)) is None
        assert SynapseCache(root).find(HANDLE, Md5(key)) is not None


class TestAdopt:
    def test_adopt_makes_a_verified_object(
        self,
        cache: SynapseCache,
        root: Path,
        objects: ObjectStore,
        content: Make,
        tmp_path: Path,
    ) -> None:
        """The newest entry whose bytes are right wins; an edit of the file later harms nothing."""
        key, data = content(200_000)
        wrong, right = tmp_path / "wrong", tmp_path / "right"
        right.write_bytes(data)
        os.utime(right, (1e9, 1e9))
        wrong.write_bytes(data[::-1])
        record(root, {str(wrong): entry(wrong), str(right): entry(right)})

        assert cache.adopt(HANDLE, Md5(key), objects)

        with open(right, "r+b") as file:
            file.write(b"edit")
        assert objects.verify(key)
        assert not cache.adopt(HANDLE, None, objects)

    @pytest.mark.parametrize("hard_links", [False, True])
    def test_hard_links_only_inside_and_only_when_asked_for(
        self, root: Path, objects: ObjectStore, content: Make, tmp_path: Path, hard_links: bool
    ) -> None:
        """A file of the user's own, outside of the cache, is never linked."""
        cache = SynapseCache(root, hard_links=hard_links)
        (key, data), (other, more) = content(100, 1), content(100, 2)
        outside = tmp_path / "mine"
        outside.write_bytes(data)
        folder = record(root, {str(outside): entry(outside)})
        assert cache.adopt(HANDLE, Md5(key), objects)
        assert not objects.path(key).samefile(outside)

        inside = folder / "f.bin"
        inside.write_bytes(more)
        record(root, {str(inside): entry(inside)})
        assert cache.adopt(HANDLE, Md5(other), objects)

        assert hard_links == objects.path(other).samefile(inside)


class TestEnter:
    @pytest.mark.req("S3-03")
    def test_enter_puts_an_ordinary_copy_and_its_entry(
        self, cache: SynapseCache, objects: ObjectStore, content: Make, root: Path
    ) -> None:
        """The handle's folder has the file, writable and not linked, and the map has its time."""
        key, data = content(50_000)
        objects.put_bytes(key, data)

        path = cache.enter(HANDLE, "reads.bam", objects.path(key), Md5(key))

        assert root / "5" / "123005" / "reads.bam" == path
        assert data == path.read_bytes()
        assert not path.samefile(objects.path(key))
        assert os.stat(path).st_mode & 0o200
        assert {
            str(path): {"modified_time": floor_time(path.stat().st_mtime), "content_md5": key}
        } == json.loads((path.parent / ".cacheMap").read_text())
        assert {"reads.bam", ".cacheMap"} == set(os.listdir(path.parent))
        assert path == cache.find(HANDLE, Md5(key))

    def test_enter_keeps_other_entries_and_what_they_say(
        self, cache: SynapseCache, objects: ObjectStore, content: Make, root: Path
    ) -> None:
        """The map is read again under the lock and merged."""
        key, data = content(10)
        objects.put_bytes(key, data)
        others = {"/a": "2026-01-31T08:00:00.000Z", "/b": {"modified_time": "x", "odd": 1}}
        folder = record(root, dict(others))

        path = cache.enter(HANDLE, "f", objects.path(key), Md5(key))

        entries = json.loads((folder / ".cacheMap").read_text())
        assert entries.pop(str(path))
        assert others == entries

    @pytest.mark.req("S3-07")
    def test_enter_never_overwrites_a_file(
        self, cache: SynapseCache, objects: ObjectStore, content: Make
    ) -> None:
        """A name that holds other bytes, or the same bytes, is left as it is."""
        (key, data), (other, more) = content(10, 1), content(10, 2)
        for one in ((key, data), (other, more)):
            objects.put_bytes(*one)
        path = cache.enter(HANDLE, "f", objects.path(key), Md5(key))
        assert path is not None
        inode = path.stat().st_ino

        assert cache.enter(HANDLE, "f", objects.path(other), Md5(other)) is None
        assert data == path.read_bytes()
        assert path == cache.enter(HANDLE, "f", objects.path(key), Md5(key))
        assert inode == path.stat().st_ino

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/b", "a\\b", "a\0b", ".cacheMap", ".cacheMap.lock", "x" * 300]
    )
    def test_enter_refuses_names_that_are_no_file_names(
        self, cache: SynapseCache, objects: ObjectStore, content: Make, root: Path, name: str
    ) -> None:
        """A name from the service never leads out of the folder or onto the client's own files."""
        key, data = content(10)
        objects.put_bytes(key, data)

        assert cache.enter(HANDLE, name, objects.path(key), Md5(key)) is None
        assert not root.exists()

    def test_enter_only_shared_makes_no_copy(
        self,
        cache: SynapseCache,
        objects: ObjectStore,
        content: Make,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Where extents cannot be shared, the file is not entered and takes no room."""
        key, data = content(10)
        objects.put_bytes(key, data)
        monkeypatch.setattr(module, "clone", lambda source, target: False)

        assert cache.enter(HANDLE, "f", objects.path(key), Md5(key), only_shared=True) is None
        assert os.listdir(cache.folder(HANDLE)) == []

    def test_enter_without_room_leaves_nothing(
        self,
        cache: SynapseCache,
        objects: ObjectStore,
        content: Make,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A full disk is no error: the file is in our own cache anyway."""
        key, data = content(10)
        objects.put_bytes(key, data)

        def full(source: int, target: int) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(module, "clone", full)

        assert cache.enter(HANDLE, "f", objects.path(key), Md5(key)) is None
        assert os.listdir(cache.folder(HANDLE)) == []


class TestLock:
    def test_lock_of_another_is_waited_for_until_the_deadline(
        self, root: Path, objects: ObjectStore, content: Make
    ) -> None:
        """Polls twice a second, gives up in time, leaves the other's lock and no file behind."""
        naps: list[float] = []
        now = [0.0]

        class Hands:
            def now_ns(self) -> int:
                return 0

            def monotonic(self) -> float:
                return now[0]

        def sleep(seconds: float) -> None:
            naps.append(seconds)
            now[0] += seconds

        cache = SynapseCache(root, sleep=sleep)
        key, data = content(10)
        objects.put_bytes(key, data)
        lock = cache.folder(HANDLE) / ".cacheMap.lock"
        lock.mkdir(parents=True)

        path = objects.path(key)
        assert (
            cache.enter(HANDLE, "f", path, Md5(key), Deadline.after(1.2, "test", Hands())) is None
        )

        assert pytest.approx([0.5, 0.5, 0.2]) == naps
        assert os.listdir(cache.folder(HANDLE)) == [".cacheMap.lock"]

    def test_lock_that_is_released_meanwhile_is_taken(
        self, root: Path, objects: ObjectStore, content: Make
    ) -> None:
        """The wait ends with the other's release."""
        cache = SynapseCache(root, sleep=lambda _: (root / lock).rmdir())
        key, data = content(10)
        objects.put_bytes(key, data)
        lock = cache.folder(HANDLE) / ".cacheMap.lock"
        lock.mkdir(parents=True)

        assert cache.enter(HANDLE, "f", objects.path(key), Md5(key)) is not None
        assert not lock.exists()

    @pytest.mark.announces("cache.lock-broken")
    def test_lock_older_than_ten_seconds_is_broken(
        self, root: Path, objects: ObjectStore, content: Make
    ) -> None:
        """Its holder died; a lock of nine seconds is respected."""
        cache = SynapseCache(root, sleep=lambda _: pytest.fail("waited"))
        key, data = content(10)
        objects.put_bytes(key, data)
        lock = cache.folder(HANDLE) / ".cacheMap.lock"
        lock.mkdir(parents=True)
        (lock / "something").write_bytes(b"")
        os.utime(lock, (0, time.time() - 10.5))

        assert cache.enter(HANDLE, "f", objects.path(key), Md5(key)) is not None
        assert not lock.exists()

        lock.mkdir()
        os.utime(lock, (0, time.time() - 8))
        with pytest.raises(BaseException, match="waited"):
            cache.enter(HANDLE, "f", objects.path(key), Md5(key))
