"""A disk that is really full, or really read-only."""

from __future__ import annotations

import hashlib
import queue
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from synd.cache.evict import Limits
from synd.cache.folder import Cache, What
from synd.cache.partial import BLOCK
from synd.errors import CacheFull, StoreError
from synd.ids import ContentKey

MIB = 1 << 20
SmallDisk = Callable[..., Path]


def made(size: int, seed: int) -> tuple[ContentKey, bytes]:
    data = random.Random(seed).randbytes(size)
    return ContentKey(hashlib.md5(data).hexdigest()), data


def test_full_disk_evicts_and_goes_on(small_disk: SmallDisk) -> None:
    """Far more than fits is stored one after the other; the oldest makes room, nothing fails."""
    cache = Cache(small_disk(8) / "cache")
    cache.start()
    contents = [made(MIB, seed) for seed in range(30)]
    for key, data in contents:
        cache.objects.put_bytes(key, data)

        assert cache.objects.verify(key)
    assert not cache.has(contents[0][0])
    assert 4 <= cache.usage().objects <= 8
    cache.stop()


@pytest.mark.announces("cache.full")
def test_full_disk_of_held_content_fails_the_write_only(small_disk: SmallDisk) -> None:
    """Nothing evictable: CacheFull, what is here stays right, and it works again after a release."""
    events: queue.Queue[What] = queue.Queue()
    cache = Cache(small_disk(8) / "cache", on_event=lambda event: events.put(event.what))
    cache.start()
    held = [made(MIB, seed) for seed in range(6)]
    for key, data in held:
        cache.objects.put_bytes(key, data)
        cache.hold(key)
    big, data = made(4 * MIB + 5, 99)
    partial = cache.partial(big, len(data))

    piece = partial.piece(0)

    def receive() -> None:
        while piece.at < len(data):
            piece.write(data[piece.at : piece.at + 100_000])

    with pytest.raises(CacheFull):
        receive()

    assert What.FULL in [events.get_nowait() for _ in range(events.qsize())]
    have = partial.contiguous_prefix()
    assert 0 < have < len(data)
    assert data[:have] == partial.read(0, have)
    with pytest.raises(CacheFull):
        cache.objects.put_bytes(*made(3 * MIB, 100))
    assert all(cache.objects.verify(key) for key, _ in held)

    for key, _ in held:
        cache.release(key)
    for gap in partial.missing(0, len(data)):
        partial.write(gap.start, data[gap.start : gap.end])
    partial.seal(partial.md5())

    assert cache.objects.verify(big)
    partial.close()
    cache.stop()


@pytest.mark.announces("cache.full")
def test_full_disk_with_many_writers_never_tears(small_disk: SmallDisk) -> None:
    """Fetchers that race for the last room either succeed whole or get CacheFull."""
    cache = Cache(small_disk(8) / "cache")
    cache.start()
    wrong: list[str] = []

    def work(n: int) -> None:
        rng = random.Random(n)
        for turn in range(12):
            key, data = made(rng.randrange(1, 2 * MIB), 1000 * n + turn)
            try:
                if turn % 2:
                    cache.objects.put_bytes(key, data)
                else:
                    partial = cache.partial(key, len(data))
                    try:
                        for at in range(0, len(data), 4 * BLOCK):
                            partial.write(at, data[at : at + 4 * BLOCK])
                        if partial.md5() != str(key):
                            wrong.append("partial")
                        partial.seal(partial.md5())
                    finally:
                        partial.close()
            except CacheFull:
                continue
            fd = cache.open(key)
            if fd is not None:
                with open(fd, "rb") as file:
                    if file.read() != data:
                        wrong.append("object")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert cache.verify_all() == []
    cache.stop()


def test_small_disk_keeps_a_tenth_free_at_most(small_disk: SmallDisk) -> None:
    """A reserve that is larger than the disk does not turn caching off."""
    cache = Cache(small_disk(8) / "cache", Limits(keep_free_bytes=2 << 30))
    cache.start()
    for seed in range(20):
        cache.objects.put_bytes(*made(MIB, seed))
    cache.evict()

    usage = cache.usage()

    assert usage.free_bytes >= 8 * MIB // 10
    assert usage.objects >= 4
    cache.stop()


@pytest.mark.announces("cache.unevicted", "cache.full")
def test_read_only_disk_serves_and_refuses(small_disk: SmallDisk) -> None:
    """What is cached stays readable; what would write says why it cannot; nothing crashes."""
    cache = Cache(small_disk(8) / "cache")
    cache.start()
    key, data = made(MIB, 1)
    other, more = made(3 * BLOCK, 2)
    cache.objects.put_bytes(key, data)
    partial = cache.partial(other, len(more))
    partial.write(0, more[:BLOCK])
    partial.close()

    cache.stop()
    small_disk(remount="ro")
    with pytest.raises(StoreError):
        cache.start()

    assert cache.objects.verify(key)
    with pytest.raises(StoreError):
        cache.objects.put_bytes(*made(10, 3))
    with pytest.raises(StoreError):
        cache.objects.discard(key)
    with pytest.raises(StoreError):
        cache.partial(ContentKey("h8"), 10)
    assert cache.evict(100 * MIB) == 0
    cache.hold(key)
    cache.release(key)
    cache.tend()
    small_disk(remount="rw")
