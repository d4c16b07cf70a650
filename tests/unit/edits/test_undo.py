"""Taking changes back, bringing back what was taken away, and what differs."""

from __future__ import annotations

import pytest

from synd.control import changes
from synd.errors import Busy, NotFound, UsageError
from synd.ids import syn
from tests.support.edits import fits, keep
from tests.support.parts import md5_of


class TestUndo:
    def test_discard_of_a_folder_takes_all_below_from_the_bottom_up(self, desk):
        """A folder goes after what it holds; what was removed comes back first."""
        folder = desk.overlay.make_folder(desk.key("P"), b"new", mode=0o755, uid=0, gid=0)
        file = desk.create("P/new/n")
        kept = desk.create("P/new/.n.swp", b"x")
        desk.overlay.remove(desk.overlay.seen(desk.key("P/d/a")))
        found = desk.ask("discard", [desk.at("P")])

        fits(found, changes.Discarded)
        assert {file.id, kept.id} == set(desk.discarded[1:3])
        assert folder.id == desk.discarded[3]
        assert desk.at("P/d/a") == found["paths"][0]
        assert 2 == found["recovered"]
        assert "sent" == desk.ask("pending")["verdict"]

    def test_discard_of_what_does_not_differ_is_not_found(self, desk):
        """And changes nothing."""
        desk.key("P/d/a")
        with pytest.raises(NotFound, match="differs"):
            desk.ask("discard", [desk.at("P/d/a")])
        with pytest.raises(NotFound):
            desk.ask("discard", ["123"])
        with pytest.raises(UsageError):
            desk.ask("discard", ["nonsense"])

        assert [] == desk.discarded

    def test_discard_while_somebody_writes_is_busy_and_changes_nothing(self, desk):
        """Not even the files that nobody has open."""
        desk.create("P/d/n1")
        desk.contents.open.add(desk.create("P/d/n2").staged)
        with pytest.raises(Busy):
            desk.ask("discard", [desk.at("P/d")])

        assert [] == desk.discarded

    def test_restore_of_an_unsent_delete_takes_it_back(self, desk):
        """Nothing has to be asked of the service."""
        desk.overlay.remove(desk.overlay.seen(desk.key("P/d/a")))
        found = desk.ask("restore", desk.at("P/d/a"))

        fits(found, changes.Restored)
        assert (desk.at("P/d/a"), "deleted") == (found["path"], found["recovered"]["reason"])
        assert {} == {k: n for k, n in desk.parts.remote.calls.items() if "restore" in k.lower()}

    def test_restore_of_what_is_in_the_trash_can_asks_the_service(self, desk, remote, ids):
        """And the folder shows it again; the list forgets it."""
        desk.parts.names("P/d")
        desk.parts.run(remote.delete(ids["P/d/a"]))
        with desk.overlay.change() as tx:
            keep(tx, "P/d/a", "deleted", entity=ids["P/d/a"])
        (listed,) = desk.edits.recovered()["recovered"]
        fits(listed, changes.Recovered)
        assert ("trash", desk.at("P/d/a")) == (listed["where"], listed["path"])
        found = desk.ask("restore", desk.at("P/d/a"))

        assert desk.at("P/d/a") == found["path"]
        assert [] == desk.edits.recovered()["recovered"]
        assert b"a" in {r.file_name for r in desk.parts.tree.entities.children(ids["P/d"])}

    @pytest.mark.parametrize("spelled", ["P/d/a", "@id/{project}/d/a", "{file}"])
    @pytest.mark.parametrize("kept", ["P/d/a", "@id/{project}/d/a"])
    def test_restore_finds_what_is_gone_however_its_path_was_told(
        self, desk, remote, ids, spelled, kept
    ):
        """A project that was not listed yet when its file went was known by its id only."""
        words = {"project": syn(ids["P"]), "file": syn(ids["P/d/a"])}
        desk.parts.names("P/d")
        desk.parts.run(remote.delete(ids["P/d/a"]))
        with desk.overlay.change() as tx:
            keep(tx, kept.format(**words), "deleted", entity=ids["P/d/a"])
        named = spelled.format(**words)
        desk.ask("restore", named if named.startswith("syn") else desk.at(named))

        assert [] == desk.edits.recovered()["recovered"]

    @pytest.mark.parametrize("spelled", ["@id/{project}/d/a", "{file}"])
    def test_restore_of_an_unsent_delete_finds_it_by_ids(self, desk, ids, spelled):
        """Of the file, or of its project."""
        desk.overlay.remove(desk.overlay.seen(desk.key("P/d/a")))
        named = spelled.format(project=syn(ids["P"]), file=syn(ids["P/d/a"]))
        found = desk.ask("restore", named if named.startswith("syn") else desk.at(named))

        assert desk.at("P/d/a") == found["path"]

    def test_restore_of_discarded_bytes_brings_them_back_as_an_edit(self, desk):
        """By the id in the list, too; the list forgets them."""
        desk.create("P/d/n", b"precious")
        desk.ask("discard", [desk.at("P/d/n")])
        (listed,) = desk.edits.recovered()["recovered"]
        assert ("here", "discarded", 8) == (listed["where"], listed["reason"], listed["size"])
        found = desk.ask("restore", listed["id"])
        row = desk.overlay.find_path([b"P", b"d", b"n"]).local

        assert desk.at("P/d/n") == found["path"]
        assert b"precious" == desk.staging.path(row.staged).read_bytes()
        assert 1 == desk.ask("pending")["uploads"]
        assert [] == desk.edits.recovered()["recovered"]

    def test_restore_of_what_was_never_taken_is_not_found(self, desk):
        """By id and by path."""
        desk.key("P/d/a")
        for target in ("99", desk.at("P/never")):
            with pytest.raises(NotFound):
                desk.ask("restore", target)


class TestDifference:
    def test_difference_of_text_is_a_unified_diff(self, desk):
        """Of the version it was made from; its bytes are fetched when they are not here."""
        desk.edit("P/d/a", b"one\n2\n")
        found = desk.ask("difference", desk.at("P/d/a"))

        fits(found, changes.Difference)
        assert ("text", ["update"]) == (found["kind"], found["intents"])
        assert "-two\n+2\n" in found["text"]
        assert found["text"].startswith(f"--- {desk.at('P/d/a')}@1\n")
        assert (md5_of(b"one\ntwo\n"), md5_of(b"one\n2\n")) == (
            found["base"]["md5"], found["local"]["md5"],
        )  # fmt: skip

    def test_difference_of_other_files_is_sizes_and_md5s(self, desk):
        """Zeros are no text."""
        desk.edit("P/d/b", b"\0\1\2")
        found = desk.ask("difference", desk.at("P/d/b"))

        assert ("binary", "", 2, 3) == (
            found["kind"], found["text"], found["base"]["size"], found["local"]["size"],
        )  # fmt: skip

    def test_difference_of_a_new_file_is_all_of_it(self, desk):
        """Against nothing."""
        desk.create("P/d/n", b"x\ny")
        found = desk.ask("difference", desk.at("P/d/n"))

        assert found["base"] is None
        assert "+x\n+y\n\\ No newline at end of file\n" in found["text"]

    def test_difference_of_a_folder_lists_what_is_below(self, desk):
        """And of the top."""
        desk.create("P/d/n")
        for path in ("P/d", "P", ""):
            found = desk.ask("difference", desk.at(path))
            assert ("folder", [desk.at("P/d/n")]) == (
                found["kind"], [c["path"] for c in found["changes"]],
            )  # fmt: skip
        assert "same" == desk.ask("difference", desk.at("P/e"))["kind"]

    def test_difference_of_a_moved_thing_says_where_it_was(self, desk):
        """A rename alone has no text."""
        desk.overlay.rename(desk.overlay.seen(desk.key("P/d/a")), desk.key("P/e"), b"z")
        found = desk.ask("difference", desk.at("P/e/z"))

        assert (["move"], desk.at("P/d/a"), "") == (
            found["intents"], found["moved_from"], found["text"],
        )  # fmt: skip

    def test_difference_of_what_was_removed_has_no_local_side(self, desk):
        """Under the path where it was."""
        desk.overlay.remove(desk.overlay.seen(desk.key("P/d/a")))
        found = desk.ask("difference", desk.at("P/d/a"))

        assert (["delete"], None) == (found["intents"], found["local"])

    def test_difference_while_the_base_cannot_be_read_says_so(self, desk, remote):
        """Offline, sizes are still told."""
        desk.edit("P/d/a", b"other\n")
        remote.offline = True
        found = desk.ask("difference", desk.at("P/d/a"))

        assert "binary" == found["kind"]
        assert "cannot be read" in found["note"]

    def test_difference_of_what_is_the_same_is_nothing(self, desk):
        """Not an error."""
        desk.key("P/d/a")

        assert "same" == desk.ask("difference", desk.at("P/d/a"))["kind"]
        with pytest.raises(NotFound):
            desk.ask("difference", desk.at("P/nope"))
