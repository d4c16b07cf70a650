"""Whose rows these are, and pins."""

from __future__ import annotations

import pytest

from synd.ids import EntityId, Version
from synd.jobs.queue import Queue
from synd.model import Header, Kind
from synd.store import meta
from synd.store.entities import TOP, Entities
from synd.store.folders import Folders

PROJECT = Header(EntityId(5), "P", Kind.PROJECT, Version(1), 1, 2)


def test_other_endpoint_empties_what_came_from_the_service(store):
    """Ids of one service mean nothing to another; jobs are the user's and stay."""
    meta.belong_to(store, "https://one.invalid")
    Entities(store).apply_listing(TOP, [PROJECT])
    Folders(store).set_listed(TOP, 5, 1, 1, 0)
    Folders(store).set_view(5, 7, 1)
    meta.pin(store, EntityId(5), 1)
    Queue(store).add("prefetch", "x", {}, "bytes")

    assert meta.belong_to(store, "https://two.invalid")
    for table in ("entity", "folder", "view", "view_row", "version", "version_listing", "pin"):
        assert [(0,)] == store.read.execute(f"SELECT count(*) FROM {table}").fetchall()
    assert 1 == len(Queue(store).all())
    assert "https://two.invalid" == meta.get(store, "endpoint")


def test_other_endpoint_empties_what_was_changed_and_sent(store):
    """What was kept here of things of one service would be laid over those of another."""
    meta.belong_to(store, "https://one.invalid")
    put_local(store, entity=5)
    assert 0 == meta.only_here(store)

    assert meta.belong_to(store, "https://two.invalid")
    assert [(0,)] == store.read.execute("SELECT count(*) FROM local").fetchall()


def test_same_service_at_another_address_keeps_what_was_changed(store):
    """A local registry is served at another port each time."""
    meta.belong_to(store, "http://127.0.0.1:1")
    put_local(store, entity=5, state="waiting")

    assert meta.belong_to(store, "http://127.0.0.1:2", same=True)
    assert 1 == meta.only_here(store)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "waiting"}, {"state": "held"}, {"state": "blocked"}, {"edit": 2, "sent": 1},
        {"local_only": 1}, {"entity": None, "born": 1}, {"gone": 1, "state": "waiting"},
    ],
    ids=str,
)  # fmt: skip
def test_thing_that_no_service_has_is_counted(store, fields):
    """Unsent, never sent, or not to be sent."""
    put_local(store, **fields)

    assert 1 == meta.only_here(store)


def put_local(store, **fields):
    """A row of what was changed here; clean unless told otherwise."""
    row = {
        "id": 1 << 39, "entity": 5, "born": 0, "parent": 1, "name": b"a", "kind": "file", "ctime_ns": 1,
    } | fields  # fmt: skip
    with store.write() as tx:
        tx.execute(
            f"INSERT INTO local ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
            tuple(row.values()),
        )


def test_same_endpoint_keeps_everything(store):
    """A restart is no reason to ask again; a new file belongs to whoever comes first."""
    assert not meta.belong_to(store, "https://one.invalid")
    Entities(store).apply_listing(TOP, [PROJECT])

    assert not meta.belong_to(store, "https://one.invalid")
    assert Entities(store).find(5) is not None


def test_pin_twice_is_once_and_unpin_tells_whether_there_was_one(store):
    """Pins are a set."""
    meta.pin(store, EntityId(9), 1)
    meta.pin(store, EntityId(5), 2)
    meta.pin(store, EntityId(9), 3)

    assert [5, 9] == meta.pins(store)
    assert meta.unpin(store, EntityId(9))
    assert not meta.unpin(store, EntityId(9))
    assert [5] == meta.pins(store)
