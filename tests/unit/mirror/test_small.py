"""Small files: whole, verified, and only then answered."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from synd.errors import Forbidden, IntegrityError, NotFound, Offline, SyndError
from synd.ids import Version
from synd.mirror.fetch import Urgency
from synd.mirror.streams import SMALL
from synd.model import Access, FileVersion
from tests.support.mounts import eventually
from tests.support.parts import Parts, bytes_of, got, md5_of, noise

DATA = noise(50_000)


def publish(remote, data: bytes = DATA, *, name: str = "f", md5: str | None = None) -> FileVersion:
    project = remote.project(f"P of {name}")
    entity = remote.file(project, name, data, md5=md5)
    return FileVersion(
        entity, Version(1), remote.handle_of(entity), md5 or md5_of(data), len(data), name
    )


def content(parts: Parts, file: FileVersion) -> bytes:
    return bytes_of(got(parts.streams.reader(file).read(1, 0, len(DATA) + 99)))


@pytest.fixture
def file(remote, storage) -> FileVersion:
    return publish(remote)


def test_small_file_is_one_request_for_any_number_of_readers(build, file, storage):
    """Each gets its own range of it, and it is an object a moment later."""
    parts = build()
    reader = parts.streams.reader(file)
    futures = [reader.read(n, n * 1000, 500) for n in range(20)]

    assert [DATA[n * 1000 : n * 1000 + 500] for n in range(20)] == [
        bytes_of(got(f)) for f in futures
    ]
    eventually(lambda: parts.cache.has(file.key, len(DATA)))
    assert 1 == len(storage.requests)
    assert DATA[10:20] == got(reader.read(1, 10, 10))
    assert b"" == got(reader.read(1, len(DATA), 10))
    eventually(lambda: parts.completed == [file])


@pytest.mark.parametrize("size", [1, SMALL - 1, SMALL])
def test_files_up_to_a_mebibyte_are_small(build, remote, storage, size):
    """The bound itself included."""
    file = publish(remote, noise(size))
    parts = build()
    parts.streams.whole(file).result(20)

    assert [(file.handle, None)] == storage.requests
    assert parts.cache.objects.verify(file.key)


def test_whole_is_settled_once_it_is_an_object(build, file, storage):
    """Whoever waits for it may open it at once."""
    parts = build()
    parts.streams.whole(file).result(20)

    assert parts.cache.has(file.key, len(DATA))
    eventually(lambda: 0 == parts.streams.small_under_way())


@pytest.mark.announces("content.mismatch")
def test_mismatch_once_is_fetched_again(build, remote, file, storage):
    """Nobody sees wrong bytes, nobody hears of it."""
    stored = remote._bytes[file.handle]
    stored.content = DATA[:-1] + b"?"
    real = remote.content
    asked = []

    def once(handle):
        asked.append(handle)
        found = real(handle)
        stored.content = DATA
        return found

    remote.content = once
    parts = build()

    assert DATA == content(parts, file)
    assert 2 == len(asked)
    assert parts.streams.corrupt(file.key) is None


@pytest.mark.announces("content.mismatch", "content.corrupt")
def test_mismatch_twice_is_an_error_for_all_until_it_is_forgiven(build, remote, file, storage):
    """Reported once; a later reader does not make storage send it again."""
    remote._bytes[file.handle].content = DATA[:-1] + b"?"
    parts = build()
    reader = parts.streams.reader(file)
    with pytest.raises(IntegrityError, match="not those the service promises"):
        got(reader.read(1, 0, 10))
    asked = len(storage.requests)
    with pytest.raises(IntegrityError):
        got(reader.read(1, 0, 10))
    assert asked == len(storage.requests)
    assert [file] == [f for f, _ in parts.corrupted]
    assert not parts.cache.has(file.key)

    remote._bytes[file.handle].content = DATA
    parts.streams.forgive_all()
    assert DATA == content(parts, file)


@pytest.mark.parametrize("trouble", ["breaks off", "expired", "busy"])
def test_storage_in_trouble_is_asked_again(build, remote, file, storage, trouble):
    """What passes by itself is not the reader's business."""
    if trouble == "breaks off":
        storage.drop_after = 100
    elif trouble == "expired":
        storage.refuse_next = [403]
    else:
        storage.refuse_next = [503]
    parts = build()

    assert DATA == content(parts, file)


def test_truncated_content_is_never_taken_for_the_file(build, remote, file, storage):
    """A body shorter than promised is an error, whatever its status."""
    remote._bytes[file.handle].content = DATA[:100]
    parts = build()
    with pytest.raises(SyndError):
        content(parts, file)

    assert not parts.cache.has(file.key)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda r, f: r.permit(f.entity, Access(can_download=False)), Forbidden),
        (lambda r, f: r.trash(f.entity), NotFound),
    ],
    ids=["closed", "gone"],
)
def test_refusals_reach_the_reader(build, remote, file, storage, spoil, error):
    """In our words, without a request to storage."""
    spoil(remote, file)
    parts = build()
    with pytest.raises(error):
        content(parts, file)

    assert [] == storage.requests


def test_failed_fetch_is_tried_again_by_the_next_read(build, remote, file, storage):
    """Also by one that has had the file open since before: the network is back, so are the bytes."""
    parts = build()
    reader = parts.streams.reader(file)
    remote.offline = True
    first = reader.read(1, 0, 10)
    with pytest.raises(Offline):
        got(first)
    remote.offline = False

    assert DATA[:10] == bytes_of(got(reader.read(1, 0, 10)))


def test_read_hurries_what_was_prefetched(build, remote, storage):
    """Somebody waits for it now."""
    files = [publish(remote, noise(1000, n), name=f"f{n}") for n in range(5)]
    parts = build(connections=1)
    for file in files:
        parts.streams.small(file, Urgency.BACKGROUND)
    fetch = parts.streams.small(files[-1], Urgency.DEMAND)

    assert Urgency.DEMAND is fetch.errand.urgency or fetch.errand.begun
    assert noise(1000, 4) == bytes_of(got(fetch.read(1, 0, 1000)))


def test_stop_ends_reads_under_way(build, remote, file, storage):
    """Nobody waits for a daemon that is gone."""
    remote.delay_s = 30
    parts = build()
    waiting = parts.streams.reader(file).read(1, 0, 10)
    prefetched = parts.streams.whole(publish(remote, noise(77), name="other"))
    parts.close()

    assert isinstance(waiting, Future)
    assert isinstance(waiting.exception(5), SyndError)
    assert isinstance(prefetched.exception(5), SyndError)


def test_content_without_md5_is_taken_as_it_is(build, remote, storage):
    """Named by its file handle, which stands for one content."""
    project = remote.project("P")
    entity = remote.file(project, "f", DATA)
    file = FileVersion(entity, Version(1), remote.handle_of(entity), None, len(DATA), "f")
    parts = build()

    assert DATA == content(parts, file)
    eventually(lambda: parts.cache.has(file.key))
