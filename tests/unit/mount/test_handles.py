"""The handle table: modes are never mixed, ids never leak, a killed daemon's handles are found again."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syndd.mount.handles import HandleTable, Mode


class Kernel:
    """Gives backing ids and takes them back, counting up as the kernel does."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.open: set[int] = set()

    def register(self) -> int:
        number = next(self.numbers)
        self.open.add(number)
        return number

    def close(self, backing: int) -> None:
        self.open.discard(backing)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def table(
    kernel: Kernel, path: Path | None = None, *, mount: int = 7, inherited: bool = False
) -> HandleTable:
    return HandleTable(path, mount, close_backing=kernel.close, inherited=inherited)


def test_first_open_with_a_backing_is_passthrough(kernel: Kernel) -> None:
    """A node that is not open takes passthrough when there is a descriptor for it."""
    handles = table(kernel)

    handle = handles.open(5, 1, direct=False, register=kernel.register)

    assert (handle.mode, handle.backing) == (Mode.PASSTHROUGH, 1)


def test_open_beside_a_cached_one_is_cached(kernel: Kernel) -> None:
    """A cached open bars passthrough, and no id is asked for in vain."""
    handles = table(kernel)
    handles.open(5, 1, direct=False, register=None)

    handle = handles.open(5, 2, direct=False, register=kernel.register)

    assert (handle.mode, kernel.open) == (Mode.CACHED, set())


@pytest.mark.parametrize("direct", [False, True])
def test_open_beside_passthrough_shares_its_id(kernel: Kernel, direct: bool) -> None:
    """While passthrough is open every open is passthrough by the same id, whatever it asked for."""
    handles = table(kernel)
    first = handles.open(5, 1, direct=False, register=kernel.register)

    second = handles.open(5, 2, direct=direct, register=None)

    assert (second.mode, second.backing) == (Mode.PASSTHROUGH, first.backing)


def test_direct_open_bars_nothing(kernel: Kernel) -> None:
    """Reads past the page cache may go on beside passthrough that comes later."""
    handles = table(kernel)
    handles.open(5, 1, direct=True, register=None)

    assert handles.open(5, 2, direct=False, register=kernel.register).mode is Mode.PASSTHROUGH


def test_refused_backing_falls_back_to_the_cache(kernel: Kernel) -> None:
    """When the kernel gives no id the file opens all the same."""
    handles = table(kernel)

    assert handles.open(5, 1, direct=False, register=lambda: 0).mode is Mode.CACHED


def test_last_release_closes_the_id(kernel: Kernel) -> None:
    """The id lives as long as one of its handles, and the node is free afterwards."""
    handles = table(kernel)
    a = handles.open(5, 1, direct=False, register=kernel.register)
    b = handles.open(5, 2, direct=False, register=kernel.register)

    handles.release(a.number)
    still = set(kernel.open)
    handles.release(b.number)

    assert (still, kernel.open, handles.mode(5), len(handles)) == ({1}, set(), None, 0)


def test_unknown_release_is_harmless(kernel: Kernel) -> None:
    """A release that was sent again changes nothing."""
    handles = table(kernel)
    handle = handles.open(5, 1, direct=False, register=None)

    assert handles.release(handle.number) == handle
    assert handles.release(handle.number) is None


def test_restart_finds_modes_ids_and_numbers(kernel: Kernel, tmp_path: Path) -> None:
    """A table that was never closed is loaded whole; numbers go on where they were."""
    path = tmp_path / "handles.tbl"
    before = table(kernel, path)
    through = before.open(5, 11, direct=False, register=kernel.register)
    cached = before.open(6, 12, direct=False, register=None)
    gone = before.open(7, 13, direct=False, register=None)
    before.release(gone.number)

    after = table(kernel, path, inherited=True)

    assert after.loaded
    assert {h[:5] for h in after} == {through[:5], cached[:5]}
    assert (after.mode(5), after.mode(6), after.mode(7)) == (Mode.PASSTHROUGH, Mode.CACHED, None)
    assert after.open(5, 14, direct=False, register=None).backing == through.backing
    assert after.open(8, 15, direct=False, register=None).number > gone.number


def test_resent_open_finds_its_handle_once(kernel: Kernel, tmp_path: Path) -> None:
    """An open that had been recorded but not answered gets the same handle from the next daemon."""
    path = tmp_path / "handles.tbl"
    handle = table(kernel, path).open(5, 44, direct=False, register=kernel.register)

    after = table(kernel, path, inherited=True)

    assert after.resent(44) == handle
    assert after.resent(44) is None


def test_table_of_another_mount_is_not_believed(kernel: Kernel, tmp_path: Path) -> None:
    """Handles of an earlier mount mean nothing in this one."""
    path = tmp_path / "handles.tbl"
    table(kernel, path, mount=7).open(5, 1, direct=False, register=None)

    after = table(kernel, path, mount=8, inherited=True)

    assert (len(after), after.loaded) == (0, False)


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 5000])
def test_damaged_table_is_started_anew(kernel: Kernel, tmp_path: Path, damage: bytes) -> None:
    """A file that is no table is replaced."""
    path = tmp_path / "handles.tbl"
    path.write_bytes(damage)

    handles = table(kernel, path, inherited=True)
    handles.open(5, 1, direct=False, register=None)

    assert len(table(kernel, path, inherited=True)) == 1


def test_id_of_a_cleared_slot_is_closed_at_the_next_start(kernel: Kernel, tmp_path: Path) -> None:
    """Killed between clearing the slot and closing the id: the next daemon closes it."""
    path = tmp_path / "handles.tbl"
    before = HandleTable(path, 7, close_backing=lambda _: None)
    before.release(before.open(5, 1, direct=False, register=kernel.register).number)
    assert kernel.open == {1}

    table(kernel, path, inherited=True)

    assert kernel.open == set()


def test_ids_given_but_never_recorded_are_closed(kernel: Kernel, tmp_path: Path) -> None:
    """Killed between the kernel's answer and the record: a probe tells how far the ids went."""
    path = tmp_path / "handles.tbl"
    table(kernel, path).open(5, 1, direct=False, register=kernel.register)
    kernel.register()
    kernel.register()

    after = table(kernel, path, inherited=True)
    probe = kernel.register()
    after.close_leaked(probe)

    assert kernel.open == {1, probe}


def test_table_grows_and_survives_growth(kernel: Kernel, tmp_path: Path) -> None:
    """More files than one step of the file are all found again."""
    path = tmp_path / "handles.tbl"
    before = table(kernel, path)
    numbers = {before.open(n, n, direct=False, register=None).number for n in range(3000)}

    assert {h.number for h in table(kernel, path, inherited=True)} == numbers


def test_killed_process_leaves_its_handles(tmp_path: Path) -> None:
    """What a process wrote before kill -9 is there for the next: no sync is needed."""
    path = tmp_path / "handles.tbl"
    code = (
        "import os, sys, pathlib; from syndd.mount.handles import HandleTable\n"
        "t = HandleTable(pathlib.Path(sys.argv[1]), 7, close_backing=lambda _: None)\n"
        "for n in range(100): t.open(n, n, direct=False, register=None)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=30)

    assert len(table(Kernel(), path, inherited=True)) == 100


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("open"), st.integers(1, 3), st.sampled_from(["none", "back", "direct"])
            ),
            st.tuples(st.just("close"), st.integers(0, 30), st.just("")),
            st.tuples(st.just("restart"), st.just(0), st.just("")),
        ),
        max_size=60,
    )
)
def test_any_history_never_mixes_nor_leaks(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int, str]]
) -> None:
    """Whatever is opened, closed and restarted: one mode per node, ids exactly while they are used."""
    kernel = Kernel()
    path = tmp_path_factory.mktemp("h") / "handles.tbl"
    handles = table(kernel, path)
    live: dict[int, tuple[int, Mode, int]] = {}
    unique = 0
    for what, number, how in history:
        if what == "open":
            unique += 2
            handle = handles.open(
                number,
                unique,
                direct=how == "direct",
                register=kernel.register if how == "back" else None,
            )
            assert handle.number not in live
            live[handle.number] = (number, handle.mode, handle.backing)
        elif what == "close" and live:
            chosen = sorted(live)[number % len(live)]
            handles.release(chosen)
            del live[chosen]
        elif what == "restart":
            handles.close()
            handles = table(kernel, path, inherited=True)

        for node in {entry[0] for entry in live.values()}:
            modes = {mode for n, mode, _ in live.values() if n == node}
            assert not {Mode.CACHED, Mode.PASSTHROUGH} <= modes
            assert len({b for n, m, b in live.values() if n == node and m is Mode.PASSTHROUGH}) <= 1
        assert kernel.open == {b for _, m, b in live.values() if m is Mode.PASSTHROUGH}
    handles.close()


def test_removed_table_leaves_no_file(kernel: Kernel, tmp_path: Path) -> None:
    """With the mount gone its table goes."""
    handles = table(kernel, tmp_path / "handles.tbl")
    handles.close(remove=True)

    assert os.listdir(tmp_path) == []
