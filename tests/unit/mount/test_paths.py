"""What the libfuse transport remembers of paths: never more than is so, and whose pages are whose."""

from __future__ import annotations

import stat
import types

import pytest

from syndd.mount.transport import library
from syndd.mount.transport.paths import REMEMBER_S, Guesses, Owners, Paths
from tests.fuse.trees import attr

FILE = attr(9, mode=stat.S_IFREG)


def test_path_is_remembered_for_a_moment() -> None:
    """What was put is got, unless its own time is over."""
    paths = Paths()
    paths.put(b"/a", FILE, paths.generation)
    paths.put(b"/b", FILE._replace(entry_ttl_s=-1.0), paths.generation)

    assert (paths.get(b"/a"), paths.get(b"/b"), paths.get(b"/c")) == (FILE, None, None)


def test_change_forgets_the_path_and_its_folder() -> None:
    """Others are kept."""
    paths = Paths()
    for path in (b"/d/a", b"/d", b"/d/b", b""):
        paths.put(path, FILE, paths.generation)
    paths.changed(b"/d/a")

    known = [paths.get(path) is not None for path in (b"/d/a", b"/d", b"/d/b", b"")]
    assert known == [False, False, True, True]


@pytest.mark.parametrize("change", ["changed", "forget_all"])
def test_answer_from_before_a_change_is_not_remembered(change: str) -> None:
    """A look-up that was under way when something changed may be wrong by now."""
    paths = Paths()
    asked = paths.generation
    if change == "changed":
        paths.changed(b"/other")
    else:
        paths.forget_all()
    paths.put(b"/a", FILE, asked)

    assert paths.get(b"/a") is None


def test_second_node_of_an_open_path_reads_past_the_cache() -> None:
    """The pages belong to the node that is open; when it is closed the other gets them, emptied."""
    owners = Owners()
    first = owners.opened(b"/a", 1, 10)
    again = owners.opened(b"/a", 1, 11)
    other = owners.opened(b"/a", 2, 12)
    for handle in (10, 11, 12):
        owners.closed(handle)
    later = owners.opened(b"/a", 2, 13)

    assert (first, again) == ((False, False), (False, True))
    assert other[0]
    assert later == (False, False)


def test_open_files_move_with_their_folder() -> None:
    """Their new paths are open, the old ones and those that only begin alike are not touched."""
    owners = Owners()
    for handle, path in enumerate((b"/d/a", b"/d/e/b", b"/da"), 1):
        owners.opened(path, handle, handle)
    owners.moved(b"/d", b"/x/y")

    found = [owners.get(handle) for handle in (1, 2, 3)]
    assert [file and file.path for file in found] == [b"/x/y/a", b"/x/y/e/b", b"/da"]
    assert [owners.is_open(path) for path in (b"/d/a", b"/x/y/a")] == [False, True]
    assert [file and file.node for file in map(owners.closed, (1, 2, 3))] == [1, 2, 3]
    assert len(owners) == 0


def test_file_counts_as_open_for_a_moment_more() -> None:
    """Just after its last close, but not before its first open."""
    owners = Owners()
    never = owners.was_open(b"/a")
    owners.opened(b"/a", 1, 1)
    owners.closed(1)

    assert (never, owners.is_open(b"/a"), owners.was_open(b"/a")) == (False, False, True)


def test_exchange_moves_both_ways() -> None:
    """What is open under either name is found under the other."""
    owners = Owners()
    owners.opened(b"/a", 1, 1)
    owners.opened(b"/b/c", 2, 2)
    owners.moved(b"/a", b"/b", exchanged=True)

    found = [owners.get(handle) for handle in (1, 2)]
    assert [file and file.path for file in found] == [b"/b", b"/a/c"]


def test_moved_path_is_emptied_before_its_pages_are_trusted() -> None:
    """After a rename nobody's pages are kept unseen."""
    owners = Owners()
    owners.opened(b"/a", 1, 1)
    owners.closed(1)
    owners.moved(b"/b", b"/a")

    assert owners.opened(b"/a", 1, 2) == (False, False)


class Pointer:
    def __init__(self, contents: object) -> None:
        self.contents = contents

    def __bool__(self) -> bool:
        return self.contents is not None


class Told:
    """The binding's class, and operations that write down what they are asked."""

    class FUSE:
        encoding = "utf-8"

        def __init__(self) -> None:
            self.operations = Told()

        def rename_fuse_3(self) -> None: ...

        def truncate_fuse_3(self) -> None: ...

        def utimens_fuse_3(self) -> None: ...

        def utimens_fuse_2(self) -> None: ...

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def rename(self, *given: object) -> None:
        self.asked.append(given)

    truncate = utimens = rename


def test_binding_passes_on_what_it_forgot() -> None:
    """The flags of a rename, the open file of a truncation, and times that are none."""
    kind = library.mend(Told)
    fuse = kind()
    spec = types.SimpleNamespace
    times = spec(actime=spec(tv_sec=0, tv_nsec=(1 << 30) - 2), modtime=spec(tv_sec=-1, tv_nsec=5))
    fuse.rename_fuse_3(b"/a", b"/b", 2)
    fuse.truncate_fuse_3(None, 7, Pointer("file"))
    fuse.truncate_fuse_3(b"/caf\xe9", 7, Pointer(None))
    fuse.utimens_fuse_3(b"/a", Pointer(times), Pointer(None))

    assert fuse.operations.asked == [
        ("/a", "/b", 2),
        (None, 7, "file"),
        ("/caf\udce9", 7, None),
        ("/a", (None, -999_999_995), None),
    ]
    assert not hasattr(kind, "chmod_fuse_3")


def test_guess_when_it_was_told_then_is_believed_for_a_moment() -> None:
    """Until another node's attributes are told, which hold; the node that they were of has them still."""
    fixed = attr(9, mode=stat.S_IFREG | 0o444)._replace(attr_ttl_s=0.0)
    guesses = Guesses()
    guesses.told(b"/a", fixed)

    assert 0 < guesses.believed_s(b"/a", 10) <= REMEMBER_S + 0.1
    assert guesses.believed_s(b"/a", 9) == guesses.believed_s(b"/b", 10) == 0.0
    guesses.told(b"/a", fixed._replace(node=10, attr_ttl_s=600.0))
    assert guesses.believed_s(b"/a", 10) == 0.0


def test_guess_when_the_file_can_be_written_then_is_none() -> None:
    """Its size the kernel keeps itself."""
    guesses = Guesses()
    guesses.told(b"/a", attr(9, mode=stat.S_IFREG | 0o644)._replace(attr_ttl_s=0.0))

    assert guesses.believed_s(b"/a", 10) == 0.0
