"""Local changes counted and listed."""

from __future__ import annotations

import pytest

from synd.errors import NotFound
from synd.store.connect import Store
from synd.store.local import Local, Locals
from synd.store.unsent import Counts, Unsents, counts_in, forget_recovered, is_kept_here


@pytest.fixture
def unsents(store) -> Unsents:
    return Unsents(store)


def row(store: Store, name: str, **fields: object) -> Local:
    """A new closed file of three bytes; `fields` replace."""
    values: dict[str, object] = {
        "born": 1, "parent": 5, "name": name.encode(), "kind": "file", "ctime_ns": 1, "size": 3,
        "edit": 1, "state": "waiting", "since_ns": 7,
    }  # fmt: skip
    locals_ = Locals(store)
    with locals_.write() as tx:
        staged = locals_.next_number(tx)
        return locals_.insert(tx, **(values | {"staged": staged} | fields))


def test_counts_are_by_state_and_leave_out_what_is_kept_here(store, unsents):
    """Bytes are those that the service does not have."""
    row(store, "a")
    row(store, "b", state="blocked", since_ns=3)
    row(store, "c", state="held", gone=1, entity=9)
    row(store, "d", state="waiting", size=0)
    row(store, "e", local_only=1, state="clean")
    row(store, "f", state="clean", sent=1, entity=10)

    assert Counts(waiting=1, blocked=1, held=1, bytes=6, since_ns=3) == unsents.counts()
    assert 3 == unsents.counts().all
    assert 2 == unsents.count_kept_here()
    assert [b"d", b"e"] == [r.name for r in unsents.kept_here()]


def test_unsent_lists_first_what_needs_somebody_then_the_oldest(store, unsents):
    """Up to a limit."""
    row(store, "new", since_ns=9)
    row(store, "old", since_ns=2)
    row(store, "blocked", state="blocked", since_ns=8)

    assert [b"blocked", b"old", b"new"] == [r.name for r in unsents.unsent()]
    assert [b"blocked", b"old"] == [r.name for r in unsents.unsent(2)]
    assert [b"blocked"] == [r.name for r in unsents.unsent(1)]
    assert [] == unsents.unsent(0)


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"size": 0}, {"size": 0, "state": "clean"}, {"size": 0, "state": "blocked"},
        {"size": 0, "state": "clean", "edit": 0}, {"size": 0, "state": "clean", "sent": 1, "entity": 9},
        {"local_only": 1}, {"gone": 1, "local_only": 1}, {"kind": "folder", "size": 0, "staged": 0},
    ],
    ids=str,
)  # fmt: skip
def test_kept_here_means_the_same_in_the_store_and_of_a_row(store, unsents, fields):
    """One rule, told twice."""
    one = row(store, "a", **fields)

    assert is_kept_here(one) is ([one] == unsents.kept_here())
    assert unsents.counts().all == (
        one.state != "clean" and not is_kept_here(one) and not one.local_only
    )


def test_counts_in_reads_a_database_that_nobody_has_open(store, tmp_path):
    """None where there is none to read."""
    row(store, "a")
    store.close()

    assert 1 == counts_in(store.path).waiting
    (tmp_path / "broken").write_bytes(b"no database at all" * 100)
    assert counts_in(tmp_path / "broken") is None
    assert counts_in(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_recovered_is_listed_newest_first_until_it_is_forgotten(store, unsents):
    """Forgotten once it is back."""
    with store.write() as tx:
        tx.executemany(
            "INSERT INTO recovered (at_ns, path, reason) VALUES (?, ?, ?)",
            [(1, "P/a", "deleted"), (3, "P/a", "overwritten"), (2, "P/b", "discarded")],
        )
    assert [3, 2, 1] == [r.at_ns for r in unsents.recovered()]
    found = unsents.recovered()[0]
    assert found == unsents.recovered_one(found.id)
    assert "overwritten" == found.reason
    with store.write() as tx:
        forget_recovered(tx, found.id)

    assert [2, 1] == [r.at_ns for r in unsents.recovered()]
    with pytest.raises(NotFound):
        unsents.recovered_one(found.id)
