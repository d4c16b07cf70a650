"""Which folders may be tracked."""

from __future__ import annotations

import os
import re

import pytest

from synd.errors import NotFound, UsageError
from synd.ids import EntityId
from synd.store.tracked import Root
from syndd.watch import places


def root(folder):
    stat = os.stat(folder)
    return Root(1, folder, EntityId(1), stat.st_dev, stat.st_ino, 0)


@pytest.fixture
def tree(tmp_path):
    for path in ("a/b/c", "other", "state/staged"):
        (tmp_path / path).mkdir(parents=True)
    return tmp_path


CASES = {
    "in a tracked one": ("a/b/c", "it lies in the tracked folder {}/a/b"),
    "around a tracked one": ("a", "it holds the tracked folder {}/a/b"),
    "synd's own": ("state", "it is the state folder"),
    "in synd's own": ("state/staged", "it lies in the state folder {}/state"),
    "around synd's own": ("", "it holds the state folder {}/state"),
}


@pytest.mark.parametrize(("folder", "why"), CASES.values(), ids=CASES)
def test_folder_that_overlaps_is_refused(tree, folder, why):
    """The message says what it overlaps."""
    with pytest.raises(UsageError, match=re.escape(why.format(tree))) as raised:
        places.check(
            tree / folder, [root(tree / "a" / "b")], [("the state folder", tree / "state")]
        )

    assert raised.value.hint


def test_folder_beside_others_is_taken(tree):
    """A common beginning of names is no overlap."""
    (tree / "a" / "bb").mkdir()
    reserved = [("the cache", tree / "stat"), ("the mount", tree / "nowhere")]

    places.check(tree / "a" / "bb", [root(tree / "a" / "b")], reserved)


def test_same_folder_under_another_path_is_refused(tree):
    """As a bind mount shows it."""
    tracked = root(tree / "other")
    elsewhere = Root(2, tree / "else", EntityId(1), tracked.device, tracked.inode, 0)

    with pytest.raises(UsageError, match="under another path"):
        places.check(tree / "other", [elsewhere], [])


def test_link_is_resolved(tree):
    """What is tracked is the folder, wherever the link leads later."""
    (tree / "link").symlink_to(tree / "other")

    assert tree / "other" == places.resolve(tree / "link")


def test_what_is_no_folder_is_refused(tree):
    """With the reason."""
    (tree / "f").touch()

    with pytest.raises(UsageError, match="not a folder"):
        places.resolve(tree / "f")
    with pytest.raises(NotFound, match="No such file"):
        places.resolve(tree / "none")
