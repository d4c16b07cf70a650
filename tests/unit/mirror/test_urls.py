"""Presigned URLs: in batches, while they live, and by the clock that does not jump."""

from __future__ import annotations

import itertools

import pytest

from synd.clock import NS, Deadline
from synd.errors import Busy, DeadlineExceeded, Forbidden, NotFound, Offline, SyndError
from synd.ids import EntityId, FileHandleId
from synd.mirror.urls import BATCH, Urls
from synd.model import Access, FileRef
from tests.support.mounts import eventually
from tests.support.parts import LoopThread


@pytest.fixture
def loop():
    with LoopThread() as found:
        yield found


@pytest.fixture
def urls(loop, remote):
    made = Urls(remote, loop.loop, remote.clock)
    yield made
    loop.run(made.close())


@pytest.fixture
def refs(remote) -> list[FileRef]:
    project = remote.project("P")
    ids = [remote.file(project, f"f{n}", b"x") for n in range(250)]
    return [FileRef(remote.handle_of(i), i) for i in ids]


def soon() -> Deadline:
    return Deadline.after(20, "test")


def test_urls_wanted_together_are_asked_for_in_batches(urls, remote, refs):
    """At most 100 a request; the same one only once."""
    sizes: list[int] = []
    real = remote.presign

    async def presign(batch, **how):
        sizes.append(len(batch))
        return await real(batch, **how)

    remote.presign = presign
    futures = urls.want(refs) + urls.want(refs)
    found = [f.result(20) for f in futures]

    assert found[:250] == found[250:]
    assert 250 == sum(sizes)
    assert max(sizes) <= BATCH
    assert 3 == len(sizes)


def test_url_is_used_again_while_it_lives(urls, remote, refs):
    """And asked for anew a while before its end."""
    first = urls.get(refs[0], soon())
    remote.clock.advance(20)
    assert first == urls.get(refs[0], soon())
    remote.clock.advance(6)

    assert first != urls.get(refs[0], soon())
    assert 2 == remote.calls["presign"]


@pytest.mark.parametrize("jump_s", [-86400, 86400], ids=["back", "ahead"])
def test_wall_clock_that_jumps_neither_kills_nor_revives_a_url(urls, remote, refs, jump_s):
    """Its age is measured on the clock that does not jump."""
    first = urls.get(refs[0], soon())
    remote.clock._now_ns += jump_s * NS
    assert first == urls.get(refs[0], soon())

    remote.clock._monotonic += 30
    urls.get(refs[0], soon())
    assert 2 == remote.calls["presign"]


def test_service_with_another_time_still_gives_urls_that_are_used(urls, remote, refs):
    """A life that lies in the past is taken for a short one."""
    remote.url_life_s = -500
    assert urls.get(refs[0], soon())
    assert urls.get(refs[0], soon())

    assert 1 == remote.calls["presign"]


def test_dropped_url_is_asked_for_anew_and_a_newer_one_stays(urls, remote, refs):
    """The storage refused it; a slow thread must not drop the one that came after."""
    first = urls.get(refs[0], soon())
    urls.drop(refs[0], first)
    remote.clock.advance(1)
    second = urls.get(refs[0], soon())
    assert first != second
    urls.drop(refs[0], first)

    assert second == urls.get(refs[0], soon())
    assert 2 == remote.calls["presign"]


def test_refusals_say_which_and_spare_the_others(urls, remote, refs):
    """One batch, each its own answer."""
    remote.permit(refs[1].entity, Access(can_download=False))
    remote.trash(refs[2].entity)
    stranger = FileRef(FileHandleId(1), EntityId(999))
    good, closed, gone, unknown = urls.want([refs[0], refs[1], refs[2], stranger])

    assert good.result(20)
    assert isinstance(closed.exception(20), Forbidden)
    assert isinstance(gone.exception(20), NotFound)
    assert isinstance(unknown.exception(20), NotFound)
    assert 1 == remote.calls["presign"]


def test_failure_is_everybodys_in_the_batch_and_not_kept(urls, remote, refs):
    """The next one asks anew."""
    remote.offline = True
    with pytest.raises(Offline):
        urls.get(refs[0], soon())
    remote.offline = False

    assert urls.get(refs[0], soon())


def test_get_past_its_deadline_says_so(urls, loop, remote, refs):
    """A service that does not answer costs the caller's budget, no more."""
    remote.delay_s = 5
    with pytest.raises(DeadlineExceeded, match="no download URL"):
        urls.get(refs[0], Deadline.after(0.05, "test"))
    remote.delay_s = 0


def test_close_ends_what_is_under_way_and_what_waits_for_its_turn(loop, remote, refs):
    """Transfer threads must not wait out their time while the daemon stops."""
    urls = Urls(remote, loop.loop, remote.clock)
    remote.delay_s = 30
    # One at a time, so that two requests are under way and the rest waits.
    futures = list(itertools.chain.from_iterable(urls.want([ref]) for ref in refs))
    eventually(lambda: remote.calls["presign"] == 2)
    loop.run(urls.close())
    ends = [f.exception(5) for f in futures]

    assert all(isinstance(e, SyndError) for e in ends)
    assert 2 == remote.calls["presign"]
    with pytest.raises(Busy):
        urls.get(refs[0], soon())
