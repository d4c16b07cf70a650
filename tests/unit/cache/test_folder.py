"""The cache folder as a whole: one owner, limits, use times, power loss, clearing and verifying."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synd.cache import folder as folder_module
from synd.cache.evict import UNLIMITED, Limits
from synd.cache.folder import Cache, CacheEvent, What
from synd.cache.partial import BLOCK
from synd.clock import NS
from synd.errors import AlreadyRunning, StoreError
from synd.ids import ContentKey

Make = Callable[..., tuple[ContentKey, bytes]]
MIB = 1 << 20


class Hands:
    """Moves time on by hand."""

    def __init__(self) -> None:
        self.s = 0.0
        self.start_ns = time.time_ns()

    def now_ns(self) -> int:
        return self.start_ns + int(self.s * NS)

    def monotonic(self) -> float:
        return self.s


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[Callable[..., Cache]]:
    """Starts caches on one folder; stops what is left at the end."""
    made: list[Cache] = []

    def make(limits: Limits = UNLIMITED, **more: object) -> Cache:
        cache = Cache(tmp_path / "cache", limits, **more)  # type: ignore[arg-type]
        cache.start()
        made.append(cache)
        return cache

    yield make
    for cache in made:
        cache.stop()


def kill(cache: Cache) -> None:
    """As after kill -9: nothing is saved, the kernel drops the lock."""
    cache.hasher.stop()
    assert cache._background is not None
    cache._background.join()
    cache._unlock()
    # The fixture stops it all the same; that must not save anything either.
    cache._unsynced = False
    cache._used.clear()


def settled(cache: Cache) -> Cache:
    """Waits for what start-up leaves to the background."""
    assert cache._background is not None
    cache._background.join()
    return cache


class TestLife:
    def test_start_makes_a_private_tagged_folder(
        self, open_cache: Callable[..., Cache], tmp_path: Path
    ) -> None:
        """Only its owner may look in, and backup programs know to leave it out."""
        open_cache()

        root = tmp_path / "cache"
        assert root.stat().st_mode & 0o777 == 0o700
        tag = (root / "CACHEDIR.TAG").read_bytes()
        assert tag.startswith(b"Signature: 8a477f597d28d172789f06886806bc55")

    def test_second_owner_is_refused_until_the_first_stops(
        self, open_cache: Callable[..., Cache], tmp_path: Path
    ) -> None:
        """Two daemons on one folder would evict each other's files."""
        first = open_cache()
        with pytest.raises(AlreadyRunning):
            Cache(tmp_path / "cache").start()

        first.stop()

        open_cache()

    def test_folder_that_cannot_be_made_is_a_store_error(self, tmp_path: Path) -> None:
        """The message names the folder."""
        (tmp_path / "file").write_bytes(b"")

        with pytest.raises(StoreError, match=str(tmp_path)):
            Cache(tmp_path / "file" / "cache").start()

    def test_totals_are_known_after_a_restart(
        self, open_cache: Callable[..., Cache], content: Make
    ) -> None:
        """What an earlier daemon left is counted in the background."""
        first = open_cache()
        first.objects.put_bytes(*content(5000))
        kill(first)

        usage = settled(open_cache()).usage()

        assert (usage.objects, usage.object_bytes, usage.partials) == (1, 8192, 0)


class TestEviction:
    def test_over_the_limit_the_least_recently_used_goes(
        self, open_cache: Callable[..., Cache], content: Make
    ) -> None:
        """Growing beyond the bound evicts by itself; what is used stays."""
        clock = Hands()
        events: list[CacheEvent] = []
        cache = settled(open_cache(Limits(max_bytes=4 * MIB), clock=clock, on_event=events.append))
        made = [content(256 << 10, seed) for seed in range(40)]
        for n, (key, data) in enumerate(made):
            clock.s += 60
            cache.used(key)
            cache.used(made[0][0])
            cache.objects.put_bytes(key, data)
            assert cache.usage().used_bytes <= 4 * MIB + (256 << 10), n

        assert cache.has(made[0][0])
        assert cache.has(made[-1][0])
        assert not cache.has(made[1][0])
        evicted = [event.key for event in events if event.what is What.EVICTED]
        assert [key for key, _ in made[1 : 1 + len(evicted)]] == evicted

    @pytest.mark.announces("cache.full")
    def test_held_and_pinned_content_stays_and_the_lack_is_told(
        self, open_cache: Callable[..., Cache], content: Make
    ) -> None:
        """No limit takes bytes from under a reader; instead the lack is an event."""
        events: list[CacheEvent] = []
        pinned, held, opened = (content(MIB, seed) for seed in range(3))
        cache = settled(
            open_cache(
                Limits(max_bytes=MIB),
                pinned=lambda key: key == pinned[0],
                on_event=events.append,
                clock=Hands(),
            )
        )
        cache.hold(held[0])
        partial = cache.partial(opened[0], MIB)
        partial.write(0, opened[1])
        for one in (pinned, held):
            cache.objects.put_bytes(*one)

        cache.evict()

        assert cache.has(pinned[0])
        assert cache.has(held[0])
        assert partial.complete
        assert {What.FULL} == {event.what for event in events}
        cache.release(held[0])
        partial.close()
        assert cache.evict() >= 2 * MIB
        assert not cache.has(held[0])
        assert cache.usage().partials == 0

    @pytest.mark.announces("cache.full")
    def test_what_held_an_eviction_up_is_owed_once_it_is_released(
        self, open_cache: Callable[..., Cache], content: Make
    ) -> None:
        """Many readers at once bring in more than may stay; it goes when they have closed it."""
        cache = settled(open_cache(Limits(max_bytes=MIB), clock=Hands()))
        read = [content(MIB, seed) for seed in range(3)]
        reading = [cache.partial(key, MIB) for key, _ in read[1:]]
        cache.hold(read[0][0])
        cache.objects.put_bytes(*read[0])
        for one, (_, data) in zip(reading, read[1:], strict=True):
            one.write(0, data)
        cache.evict()
        assert not cache.owes

        for one in reading:
            one.close()

        assert cache.owes
        cache.tend()
        assert cache.usage().used_bytes <= MIB
        assert not cache.owes

    def test_age_limit_uses_times_that_survive_restarts(
        self, open_cache: Callable[..., Cache], content: Make
    ) -> None:
        """`tend` saves use times; a later daemon evicts by them."""
        clock = Hands()
        cache = settled(open_cache(Limits(max_age_s=3600), clock=clock))
        old, used = content(10, 1), content(10, 2)
        cache.objects.put_bytes(*old)
        cache.objects.put_bytes(*used)
        clock.s = 3000
        cache.hold(used[0])
        cache.release(used[0])
        cache.tend()
        assert cache.has(old[0])
        kill(cache)

        clock.s = 4000
        settled(open_cache(Limits(max_age_s=3600), clock=clock)).tend()

        assert not cache.has(old[0])
        assert cache.has(used[0])

    def test_clear_keeps_pinned_and_open_content(
        self, open_cache: Callable[..., Cache], content: Make, tmp_path: Path
    ) -> None:
        """All else goes, incomplete files too."""
        pinned, held, plain, partly = (content(BLOCK, seed) for seed in range(4))
        cache = settled(open_cache(pinned=lambda key: key == pinned[0]))
        for one in (pinned, held, plain):
            cache.objects.put_bytes(*one)
        cache.hold(held[0])
        partial = cache.partial(partly[0], 5 * BLOCK)
        partial.write(0, partly[1])
        partial.close()

        assert cache.clear() >= 2 * BLOCK

        assert {pinned[0], held[0]} == {one.key for one in cache.objects.entries()}
        assert (cache.usage().objects, cache.usage().partials) == (2, 0)


class TestVerify:
    @pytest.mark.announces("cache.corrupt")
    def test_verify_all_removes_what_is_wrong(
        self, open_cache: Callable[..., Cache], content: Make
    ) -> None:
        """A damaged object goes, is told, and the rest stays; progress ends with all bytes."""
        events: list[CacheEvent] = []
        cache = settled(open_cache(on_event=events.append))
        made = [content(5000, seed) for seed in range(5)]
        for one in made:
            cache.objects.put_bytes(*one)
        wrong = cache.objects.path(made[2][0])
        wrong.chmod(0o600)
        wrong.write_bytes(b"?" * 5000)
        seen: list[tuple[int, int]] = []

        assert [made[2][0]] == cache.verify_all(lambda done, of: seen.append((done, of)))

        assert seen[-1] == (5 * 8192, 5 * 8192)
        assert cache.usage().objects == 4
        assert [(What.CORRUPT, made[2][0])] == [(e.what, e.key) for e in events]


class TestPowerLoss:
    def boot(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(folder_module, "boot_id", lambda: name)

    def age(self, path: Path, by_s: float) -> None:
        at_ns = time.time_ns() - int(by_s * NS)
        os.utime(path, ns=(at_ns, at_ns))

    def test_after_a_kill_everything_is_trusted(
        self, open_cache: Callable[..., Cache], content: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kernel still has all that was written; nothing is hashed again."""
        self.boot(monkeypatch, "one")
        cache = open_cache()
        key, data = content(BLOCK)
        cache.objects.put_bytes(key, data)
        partial = cache.partial(ContentKey("h1"), 2 * BLOCK)
        partial.write(0, data)
        kill(cache)

        again = open_cache()

        assert again.has(key)
        assert again.partial(ContentKey("h1"), 2 * BLOCK).have_bytes == BLOCK

    @pytest.mark.announces("cache.corrupt")
    def test_after_power_loss_only_verified_bytes_come_back(
        self,
        open_cache: Callable[..., Cache],
        content: Make,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        """What was stored since the last sync is hashed before use; torn files never show."""
        self.boot(monkeypatch, "one")
        events: list[CacheEvent] = []
        cache = settled(open_cache(on_event=events.append))
        synced, whole, torn = (content(300_000, seed) for seed in range(3))
        for one in (synced, whole, torn):
            cache.objects.put_bytes(*one)
        cache.objects.put_bytes(ContentKey("h5"), b"who knows")
        partial = cache.partial(ContentKey("h6"), BLOCK * 2)
        partial.write(0, bytes(BLOCK))
        partial.close()
        self.age(cache.objects.path(synced[0]), 600)
        cache._marker.write_text(json.dumps({"boot": "one", "synced_ns": time.time_ns() - 60 * NS}))
        kill(cache)
        torn_path = cache.objects.path(torn[0])
        torn_path.chmod(0o600)
        torn_path.write_bytes(bytes(300_000))

        self.boot(monkeypatch, "two")
        monkeypatch.setattr(Cache, "_settle", lambda self: None)
        again = open_cache(on_event=events.append)

        assert again.has(synced[0])
        assert not again.has(whole[0])
        assert not again.has(torn[0])
        assert not again.has(ContentKey("h5"))
        assert list(again.partials.idle()) == []
        assert again.recall(whole[0])
        assert again.objects.verify(whole[0])
        monkeypatch.undo()
        later = threading.Thread(target=again._settle)
        later.start()
        later.join()
        assert not again.has(torn[0])
        assert list((tmp_path / "cache" / "suspect").iterdir()) == []
        assert [(What.CORRUPT, torn[0])] == [(e.what, e.key) for e in events]

    def test_lost_marker_distrusts_everything(
        self, open_cache: Callable[..., Cache], content: Make
    ) -> None:
        """Without the note of the last sync nothing can be taken for granted, nor is it lost."""
        cache = open_cache()
        key, data = content(1000)
        cache.objects.put_bytes(key, data)
        kill(cache)
        cache._marker.unlink()

        assert settled(open_cache()).has(key)

    def test_sync_moves_the_time_of_trust(
        self, open_cache: Callable[..., Cache], content: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was there before a sync survives a power loss without being hashed."""
        self.boot(monkeypatch, "one")
        clock = Hands()
        cache = open_cache(clock=clock)
        key, data = content(1000)
        cache.objects.put_bytes(key, data)
        clock.s = 10_000
        cache.tend()
        kill(cache)

        self.boot(monkeypatch, "two")
        monkeypatch.setattr(Cache, "_settle", lambda self: None)

        assert open_cache(clock=clock).has(key)


def test_removed_folder_under_the_daemon_is_only_a_miss(
    open_cache: Callable[..., Cache], content: Make, tmp_path: Path
) -> None:
    """`rm -rf` of the cache while the daemon runs: everything goes on, and stores again."""
    cache = settled(open_cache(Limits(max_bytes=MIB, keep_free_bytes=1)))
    key, data = content(100_000)
    cache.objects.put_bytes(key, data)

    shutil.rmtree(tmp_path / "cache")

    assert cache.open(key) is None
    assert not cache.recall(key)
    cache.hold(key)
    cache.release(key)
    assert cache.clear() == 0
    assert cache.verify_all() == []
    cache.tend()
    cache.sync()
    cache.objects.put_bytes(key, data)
    partial = cache.partial(ContentKey("h3"), BLOCK)
    partial.write(0, bytes(BLOCK))
    partial.seal(None)
    partial.close()
    assert cache.has(key)
    assert cache.has(ContentKey("h3"))
