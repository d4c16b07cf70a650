"""A large file on its way: who reads what of it when, and what becomes of it when storage misbehaves."""

from __future__ import annotations

import gc
import os
import random
import threading
from concurrent.futures import Future

import pytest

from synd.errors import IntegrityError, NotFound, Offline, SyndError
from synd.ids import Version
from synd.mirror.large import LargeStream
from synd.model import FileVersion
from tests.support.mounts import eventually
from tests.support.parts import Parts, bytes_of, got, md5_of, noise

M = 1 << 20
SIZE = 6 * M + 12_345
DATA = noise(SIZE)


@pytest.fixture
def file(remote, storage) -> FileVersion:
    return publish(remote, DATA)


def publish(remote, data: bytes, *, md5: str | None = None, name: str = "big") -> FileVersion:
    project = remote.project(f"P of {name}")
    entity = remote.file(project, name, data, md5=md5)
    return FileVersion(
        entity, Version(1), remote.handle_of(entity), md5 or md5_of(data), len(data), name
    )


def read(parts: Parts, reader, offset: int, size: int, *, handle: int = 1) -> bytes:
    """That range, in reads of 128 KiB; what a reader gets is never shorter than what there is."""
    out = bytearray()
    while len(out) < size:
        piece = bytes_of(got(reader.read(handle, offset + len(out), min(131072, size - len(out)))))
        if not piece:
            break
        out += piece
    return bytes(out)


def asked_bytes(storage) -> int:
    """How many bytes the requests so far have asked for."""
    total = 0
    for _, header in storage.requests:
        first, last = header.removeprefix("bytes=").split("-")
        total += int(last) - int(first) + 1
    return total


def idle(parts: Parts) -> None:
    """Nothing is on its way any more."""
    eventually(lambda: not parts.streams.progress() and not parts.cache.partials.open_partials())


class TestReading:
    def test_sequential_reader_gets_every_byte_and_leaves_an_object(self, build, file, storage):
        """Each byte is fetched once; the whole is verified and kept."""
        parts = build()
        reader = parts.streams.reader(file)
        assert DATA == read(parts, reader, 0, SIZE)
        eventually(lambda: parts.cache.has(file.key, SIZE))
        reader.close_handle(1)
        idle(parts)

        assert SIZE == asked_bytes(storage)
        assert [file] == parts.completed
        assert not storage.saw_authorization

    def test_random_reader_fetches_what_it_asks_for(self, build, remote, storage):
        """Small reads far apart cost their blocks and no read-ahead."""
        file = publish(remote, noise(32 * M, 3))
        parts = build()
        reader = parts.streams.reader(file)
        chosen = random.Random(5)
        offsets = [chosen.randrange(2 * M, 31 * M) // 4096 * 4096 for _ in range(20)]
        data = remote.content(file.handle)
        for offset in offsets:
            assert data[offset : offset + 4096] == bytes_of(got(reader.read(1, offset, 4096)))
        reader.close_handle(1)
        idle(parts)

        assert 20 * 2 * 16384 >= asked_bytes(storage)

    def test_last_bytes_first_do_not_bring_the_file(self, build, file, storage):
        """An index at the end is read without what lies before it."""
        parts = build()
        reader = parts.streams.reader(file)
        assert DATA[-1000:] == bytes_of(got(reader.read(1, SIZE - 1000, 4096)))
        assert b"" == got(reader.read(1, SIZE, 4096))
        assert b"" == got(reader.read(1, SIZE + 99, 4096))
        reader.close_handle(1)
        idle(parts)

        assert 2 * 16384 >= asked_bytes(storage)

    def test_many_readers_of_one_file_share_what_comes(self, build, file, storage):
        """Eight programs, one download."""
        parts = build()
        reader = parts.streams.reader(file)
        found: dict[int, bytes] = {}
        threads = [
            threading.Thread(
                target=lambda h=h: found.update({h: read(parts, reader, 0, SIZE, handle=h)})
            )
            for h in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for handle in range(8):
            reader.close_handle(handle)
        idle(parts)

        assert {h: md5_of(DATA) for h in range(8)} == {h: md5_of(d) for h, d in found.items()}
        assert SIZE == asked_bytes(storage)

    def test_one_partial_per_content_whatever_names_it(self, build, remote, file, storage):
        """Two entities of one md5 are one download."""
        twin = publish(remote, DATA, name="twin")
        parts = build()

        assert parts.streams.reader(file) is parts.streams.reader(twin)

    def test_file_without_md5_is_named_by_its_handle(self, build, remote, storage):
        """Nothing to compare with, so nothing is waited for."""
        project = remote.project("P")
        entity = remote.file(project, "f", DATA)
        file = FileVersion(entity, Version(1), remote.handle_of(entity), None, SIZE, "f")
        parts = build()
        reader = parts.streams.reader(file)
        assert DATA == read(parts, reader, 0, SIZE)
        reader.close_handle(1)

        eventually(lambda: parts.cache.has(file.key, SIZE))

    def test_closed_reader_stops_its_window_and_keeps_what_came(self, build, remote, storage):
        """Nobody waits for the rest; the next reader goes on from there."""
        file = publish(remote, noise(48 * M, 4))
        data = remote.content(file.handle)
        parts = build(connections=2)
        reader = parts.streams.reader(file)
        assert data[: 2 * M] == read(parts, reader, 0, 2 * M)
        reader.close_handle(1)
        idle(parts)
        fetched = asked_bytes(storage)
        assert fetched < 40 * M
        (left,) = parts.cache.partials.idle()
        assert 2 * M <= left.disk_bytes

        storage.requests.clear()
        again = parts.streams.reader(file)
        assert data == read(parts, again, 0, len(data), handle=2)
        again.close_handle(2)
        assert asked_bytes(storage) < 47 * M


class TestBadStorage:
    @pytest.mark.announces("content.mismatch")
    def test_mismatch_once_fails_who_read_of_it_and_the_next_open_is_right(
        self, build, remote, file, storage
    ):
        """No mixture of wrong bytes and right ones: the last read tells, and all is fetched anew."""
        wrong = _Swap(remote, file, DATA[:-1] + b"?")
        parts = build()
        parts.streams.on_mismatch = lambda _: wrong.heal()
        reader = parts.streams.reader(file)
        with pytest.raises(IntegrityError, match="wrong bytes"):
            read(parts, reader, 0, SIZE)
        with pytest.raises(IntegrityError):
            got(reader.read(1, 0, 100))
        assert parts.streams.ever_wrong(file.key)
        assert DATA == read(parts, parts.streams.reader(file), 0, SIZE, handle=2)
        eventually(lambda: parts.cache.has(file.key, SIZE))
        assert parts.streams.corrupt(file.key) is None
        for handle in (1, 2):
            reader.close_handle(handle)
        idle(parts)

    @pytest.mark.announces("content.mismatch")
    def test_mismatch_once_under_a_prefetch_is_healed_unseen(self, build, remote, file, storage):
        """Nobody has read of it, so nobody need hear of it."""
        wrong = _Swap(remote, file, DATA[:-1] + b"?")
        parts = build()
        parts.streams.on_mismatch = lambda _: wrong.heal()
        parts.streams.whole(file).result(20)

        assert parts.cache.objects.verify(file.key)
        idle(parts)

    @pytest.mark.announces("content.mismatch", "content.corrupt")
    def test_mismatch_twice_fails_every_read_and_is_told(self, build, remote, file, storage):
        """Wrong bytes are never taken for right ones; asked again it fails at once."""
        _Swap(remote, file, DATA[:-1] + b"?")
        parts = build()
        reader = parts.streams.reader(file)
        for handle in (1, 2):
            with pytest.raises(IntegrityError):
                read(parts, parts.streams.reader(file), 0, SIZE, handle=handle)
        for handle in (2, 3):
            with pytest.raises(IntegrityError, match="not those the service promises"):
                reader.read(handle, 0, 10)
        for handle in (1, 2, 3):
            reader.close_handle(handle)
        idle(parts)

        assert [file] == parts.mismatched
        assert [file] == [f for f, _ in parts.corrupted]
        assert [file.entity] == [e for e, _ in parts.streams.corrupt_entities()]
        assert not parts.cache.has(file.key)
        assert [] == list(parts.cache.partials.idle())

    @pytest.mark.announces("content.mismatch", "content.corrupt")
    def test_mismatch_of_who_leaves_that_moment_is_followed_by_who_comes_next(
        self, build, remote, file, storage
    ):
        """The bytes that are fetched anew are the next reader's, who hears that they are wrong again."""
        _Swap(remote, file, DATA[:-1] + b"?")
        parts = build()
        reader = parts.streams.reader(file)
        parts.streams.on_mismatch = lambda _: reader.close_handle(1)
        with pytest.raises(IntegrityError, match="wrong bytes"):
            read(parts, reader, 0, SIZE)
        after = parts.streams.reader(file)
        with pytest.raises(IntegrityError, match="not those the service promises"):
            read(parts, after, 0, SIZE, handle=2)
        after.close_handle(2)
        idle(parts)

        assert [file] == [f for f, _ in parts.corrupted]

    @pytest.mark.announces("content.mismatch")
    def test_mismatch_of_who_leaves_that_moment_keeps_nobody_waiting(
        self, build, remote, file, storage
    ):
        """Whoever wants all of it afterwards is told once it is right."""
        wrong = _Swap(remote, file, DATA[:-1] + b"?")
        parts = build()
        reader = parts.streams.reader(file)

        def leave(_: FileVersion) -> None:
            wrong.heal()
            reader.close_handle(1)

        parts.streams.on_mismatch = leave
        with pytest.raises(IntegrityError, match="wrong bytes"):
            read(parts, reader, 0, SIZE)
        parts.streams.whole(file).result(20)
        idle(parts)

        assert parts.cache.has(file.key, SIZE)

    @pytest.mark.announces("content.mismatch", "content.corrupt")
    def test_whole_of_a_corrupt_file_fails_and_after_verify_is_tried_again(
        self, build, remote, file, storage
    ):
        """`synd cache verify` forgives; what has been mended is then fetched."""
        wrong = _Swap(remote, file, DATA[:-1] + b"?")
        parts = build()
        with pytest.raises(IntegrityError):
            parts.streams.whole(file).result(20)
        idle(parts)
        wrong.heal()
        parts.streams.forgive_all()
        parts.streams.whole(file).result(20)

        assert parts.cache.has(file.key, SIZE)

    def test_answer_that_breaks_off_is_gone_on_with(self, build, file, storage):
        """From where it broke, without asking for the rest again."""
        storage.drop_after = 300_000
        parts = build()
        reader = parts.streams.reader(file)
        assert DATA == read(parts, reader, 0, SIZE)
        reader.close_handle(1)

        eventually(lambda: parts.cache.has(file.key, SIZE))

    def test_url_that_expires_in_the_middle_is_replaced(self, build, remote, file, storage):
        """A transfer of hours outlives its URL."""
        parts = build()
        reader = parts.streams.reader(file)
        assert DATA[:1000] == bytes_of(got(reader.read(1, 0, 1000)))
        remote.clock.advance(3600)
        storage.refuse_next.append(403)
        assert DATA == read(parts, reader, 0, SIZE)
        reader.close_handle(1)

        assert remote.calls["presign"] >= 2

    def test_storage_that_ignores_ranges_still_serves(self, build, file, storage):
        """The wanted part is taken from the whole."""
        storage.ignore_ranges = True
        parts = build()
        reader = parts.streams.reader(file)

        assert DATA[3 * M : 3 * M + 100] == bytes_of(got(reader.read(1, 3 * M, 100)))
        reader.close_handle(1)

    def test_bytes_that_are_gone_fail_the_read(self, build, remote, file, storage):
        """404 from the service: an error, at once."""
        remote.trash(file.entity)
        parts = build()
        reader = parts.streams.reader(file)
        with pytest.raises(NotFound):
            got(reader.read(1, 0, 100))
        reader.close_handle(1)
        idle(parts)

    def test_service_down_then_up_lets_the_same_reader_go_on(self, build, remote, file, storage):
        """Each read tries anew; nothing is remembered of the failure."""
        parts = build()
        reader = parts.streams.reader(file)
        remote.offline = True
        with pytest.raises(Offline):
            got(reader.read(1, 0, 1000))
        remote.offline = False

        assert DATA == read(parts, reader, 0, SIZE)
        reader.close_handle(1)


class _Swap:
    """Other bytes behind a file handle: what storage got wrong."""

    def __init__(self, remote, file: FileVersion, wrong: bytes) -> None:
        self._stored = remote._bytes[file.handle]
        self._right, self._stored.content = self._stored.content, wrong

    def heal(self) -> None:
        self._stored.content = self._right


class TestLife:
    def test_whole_brings_all_of_it_and_twice_is_once(self, build, file, storage):
        """Behind whatever programs read; settled once it is an object."""
        parts = build()
        futures = [parts.streams.whole(file) for _ in range(3)]
        for future in futures:
            future.result(20)

        assert parts.cache.has(file.key, SIZE)
        assert SIZE == asked_bytes(storage)
        parts.streams.whole(file).result(20)
        idle(parts)

    def test_whole_that_is_given_up_stops(self, build, remote, storage):
        """A cancelled prefetch of a huge file does not go on in the background."""
        file = publish(remote, noise(64 * M, 6))
        parts = build(connections=1)
        done = parts.streams.whole(file)
        eventually(lambda: storage.requests)
        done.cancel()

        idle(parts)
        assert not parts.cache.has(file.key)

    def test_whole_and_readers_together_end_well(self, build, file, storage):
        """A reader that leaves does not end the prefetch, nor the other way round."""
        parts = build()
        reader = parts.streams.reader(file)
        read(parts, reader, 0, M)
        done = parts.streams.whole(file)
        reader.close_handle(1)
        done.result(20)

        assert parts.cache.has(file.key, SIZE)
        idle(parts)

    def test_restart_goes_on_with_the_blocks_that_are_here(self, build, remote, storage):
        """What was fetched before the stop is not fetched again."""
        file = publish(remote, noise(24 * M, 7))
        data = remote.content(file.handle)
        parts = build()
        reader = parts.streams.reader(file)
        assert data[10 * M : 13 * M] == read(parts, reader, 10 * M, 3 * M)
        parts.close()
        storage.requests.clear()

        parts = build()
        reader = parts.streams.reader(file)
        assert data[10 * M : 13 * M] == read(parts, reader, 10 * M, 3 * M)
        assert [] == [h for _, h in storage.requests if h.startswith(f"bytes={10 * M}-")]
        assert data == read(parts, reader, 0, len(data))
        reader.close_handle(1)
        eventually(lambda: parts.cache.has(file.key))
        assert asked_bytes(storage) <= 21 * M + 131072

    def test_stop_while_fetching_ends_readers_and_descriptors(self, build, remote, storage):
        """Nobody waits for a daemon that is gone, and nothing stays open."""
        file = publish(remote, noise(32 * M, 8))
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        parts = build(connections=1)
        reader = parts.streams.reader(file)
        read(parts, reader, 0, M)
        waits = [reader.read(1, n * M, 1000) for n in range(20, 30)]
        parts.close()
        ends = [w.exception(5) for w in waits if isinstance(w, Future)]

        assert all(isinstance(e, SyndError) for e in ends if e is not None)
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)

    def test_last_close_and_first_read_at_once_never_hang_or_fail(self, build, file, storage):
        """One program closes while another opens: the content's stream passes from hand to hand."""
        parts = build(wait_s=10.0)
        problems: list[object] = []
        handles = iter(range(1, 1_000_000))

        def work(seed: int) -> None:
            chosen = random.Random(seed)
            for _ in range(50):
                handle = next(handles)
                reader = parts.streams.reader(file)
                offset = chosen.randrange(0, SIZE - 5000)
                try:
                    found = bytes_of(got(reader.read(handle, offset, 4096)))
                    if found != DATA[offset : offset + 4096]:
                        problems.append((offset, len(found)))
                except Exception as error:  # noqa: BLE001 - shown below
                    problems.append(error)
                finally:
                    reader.close_handle(handle)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert [] == problems
        idle(parts)

    def test_reader_of_a_stream_that_is_over_is_served_by_its_successor(self, build, file, storage):
        """Who took the stream just before its end reads on as if nothing had been."""
        parts = build()
        old = parts.streams.reader(file)
        got(old.read(1, 0, 100))
        old.close_handle(1)
        idle(parts)
        other = parts.streams.reader(file)
        assert isinstance(other, LargeStream)
        assert other is not old

        assert DATA[:100] == bytes_of(got(old.read(2, 0, 100)))
        old.close_handle(2)
        idle(parts)

    def test_progress_tells_of_what_is_under_way(self, build, file, storage):
        """For status."""
        parts = build()
        reader = parts.streams.reader(file)
        got(reader.read(1, 3 * M, 100))

        (one,) = parts.streams.progress()
        assert (file, SIZE, 1) == (one.file, one.size, one.readers)
        assert 0 < one.have_bytes <= SIZE
        assert parts.streams.under_way(file.key)
        reader.close_handle(1)
        idle(parts)
        assert not parts.streams.under_way(file.key)
