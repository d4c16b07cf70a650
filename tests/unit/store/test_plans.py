"""What every change asks of the store finds its rows by an index, however many changes wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synd.store.connect import Store
from synd.store.local import FIRST, Locals
from synd.store.outbox import Outbox

NOW = 1_700_000_000_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path / "state.db")
    yield one
    one.close()


def scans(store: Store, asked: list[str]) -> list[str]:
    """The statements among these that read a whole table of local changes."""
    found = []
    for statement in asked:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            plan = store.read.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            found += [
                f"{step[3]}: {statement}"
                for step in plan
                if step[3].startswith("SCAN local") and "USING INDEX local_waiting" not in step[3]
            ]
    return found


CALLS: dict[str, Callable[[Locals, Outbox, object], object]] = {
    "find": lambda rows, _, tx: rows.find(FIRST, tx),
    "of_entity": lambda rows, _, tx: rows.of_entity(5, tx),
    "of_staged": lambda rows, _, tx: rows.of_staged(FIRST, tx),
    "child": lambda rows, _, tx: rows.child(5, b"a", tx),
    "all_children": lambda _, outbox, tx: outbox.all_children(tx, 5),
    "wake_children": lambda _, outbox, tx: outbox.wake_children(tx, 5, NOW),
    "hurry": lambda _, outbox, tx: outbox.hurry(tx, FIRST, NOW),
    "ready": lambda _, outbox, tx: outbox.ready(tx, NOW, 10, without=set()),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_every_change_asks_is_answered_by_an_index(store, call):
    """A scan of all changes for each would make the work of many changes grow with their square."""
    rows, outbox = Locals(store), Outbox(store)
    with rows.write() as tx:
        asked: list[str] = []
        tx.set_trace_callback(asked.append)
        CALLS[call](rows, outbox, tx)
        tx.set_trace_callback(None)
    assert asked

    assert [] == scans(store, asked)


def test_children_and_the_next_turn_are_answered_by_an_index(store):
    """The same of what is read without a transaction."""
    rows, outbox = Locals(store), Outbox(store)
    asked: list[str] = []
    store.read.set_trace_callback(asked.append)
    rows.children(5)
    rows.taken_over(5)
    outbox.losers(FIRST)
    outbox.next_at(NOW)
    outbox.any_waits()
    store.read.set_trace_callback(None)
    assert 5 == len(asked)

    assert [] == scans(store, asked)
