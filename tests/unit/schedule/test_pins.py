"""What stays in the cache: an entity, and all below it."""

from __future__ import annotations

import pytest

from synd.cache.evict import Limits
from synd.ids import ContentKey
from tests.support.mounts import eventually
from tests.support.parts import md5_of


def key(data: bytes) -> ContentKey:
    return ContentKey(md5_of(data))


def test_pinned_folder_holds_all_known_below_it(parts, ids):
    """Also in folders below; not beside."""
    for path in ("P/d/a", "P/d/e/big", "Q/c"):
        parts.node(path)
    parts.pins.pin(ids["P/d"])

    assert parts.pins.holds(key(b"aa"))
    assert not parts.pins.holds(key(b"c"))
    assert parts.pins.covers(parts.row("P/d/e/big"))
    assert not parts.pins.covers(parts.row("Q/c"))
    assert key(b"aa") in parts.pins.all_keys()

    assert parts.pins.unpin(ids["P/d"])
    assert not parts.pins.holds(key(b"aa"))
    assert not parts.pins.unpin(ids["P/d"])


@pytest.mark.announces("cache.full")
def test_pinned_content_survives_clearing_and_eviction(build, ids):
    """The rest goes."""
    parts = build(limits=Limits(max_bytes=1))
    parts.pins.pin(ids["P/d/a"])
    assert b"aa" == parts.read("P/d/a")
    eventually(lambda: parts.cache.has(key(b"aa")))
    parts.pins.forget()
    assert b"c" == parts.read("Q/c")
    eventually(lambda: 0 == parts.streams.small_under_way())
    parts.cache.evict()

    assert parts.cache.has(key(b"aa"))
    assert not parts.cache.has(key(b"c"))
    parts.cache.clear()
    assert parts.cache.has(key(b"aa"))


def test_pins_outlive_a_restart(build, ids):
    """They are rows."""
    parts = build()
    parts.node("P/d/a")
    parts.pins.pin(ids["P/d"])
    parts.close()

    assert build().pins.holds(key(b"aa"))
