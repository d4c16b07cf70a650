"""Local changes as they are told, waited for, sent and settled, over the real overlay and store."""

from __future__ import annotations

import asyncio
import time

import pytest

from synd.control import changes, contract
from synd.errors import NotFound, NotLoggedIn, UsageError
from synd.ids import EntityId
from synd.mirror.push import Progress
from synd.store.local import FIRST, Sending, insert_conflict
from syndd.watch.intent import Problem
from tests.support.edits import HeldFiles, fits
from tests.support.mounts import eventually


class TestPending:
    def test_pending_when_nothing_was_changed_says_sent(self, desk):
        """The shape of the contract, all of it empty."""
        found = desk.ask("pending")

        fits(found, changes.Pending)
        assert ("sent", 0, []) == (found["verdict"], found["uploads"], found["changes"])

    def test_pending_when_a_file_is_new_names_what_will_be_done(self, desk):
        """Path, intent, size, since when, why not yet."""
        desk.create("P/d/n.txt", b"12345")
        found = desk.ask("pending")
        (one,) = found["changes"]

        fits(one, changes.Unsent)
        assert ("under-way", 1, 5) == (found["verdict"], found["uploads"], found["bytes"])
        assert (desk.at("P/d/n.txt"), ["create"], "waiting", "", 5) == (
            one["path"], one["intents"], one["state"], one["entity"], one["bytes"],
        )  # fmt: skip
        assert found["since_at"] == one["since_at"]

    def test_pending_of_a_path_leaves_out_what_lies_elsewhere(self, desk):
        """Counts and rows are of that path and what is below it."""
        desk.create("P/d/n.txt")
        desk.create("P/e/m.txt")

        assert [desk.at("P/d/n.txt")] == desk.ask("pending", desk.at("P/d"))["items"]
        assert 2 == desk.ask("pending", desk.at("P"))["uploads"]
        assert 0 == desk.ask("pending", desk.at("P/d/a"))["uploads"]
        with pytest.raises(NotFound):
            desk.ask("pending", desk.at("P/nope"))

    def test_pending_when_rows_need_somebody_shows_them_first(self, desk):
        """And the verdict: the rest goes by itself, or nothing does."""
        first = desk.create("P/d/n1")
        second = desk.create("P/d/n2")
        problem = '{"type": "Forbidden", "title": "you may not write there", "hint": "ask"}'
        desk.set(second, state="blocked", problem=problem)
        found = desk.ask("pending")
        assert ("under-way", 1, 1) == (found["verdict"], found["waiting"], found["blocked"])
        assert desk.at("P/d/n2") == found["items"][0]
        assert ("you may not write there", "ask", "Forbidden") == tuple(
            found["changes"][0][k] for k in ("reason", "mend", "problem")
        )

        desk.sent(first)
        assert "stuck" == desk.ask("pending")["verdict"]

    def test_pending_when_things_are_never_sent_counts_them_apart(self, desk):
        """Empty files, pipes, what editors leave about: kept here, not unsent."""
        desk.create("P/d/empty", b"")
        desk.create("P/d/.n.swp", b"x")
        desk.overlay.make_special(
            desk.key("P/d"), b"pipe", mode=0o010644, rdev=0, uid=0, gid=0
        )  # fmt: skip
        found = desk.ask("pending")

        assert ("sent", 0, 3) == (found["verdict"], found["uploads"], found["kept_here"])

    def test_pending_while_a_file_is_open_for_writing_counts_it(self, desk):
        """What is not closed yet is no promise, but is told."""
        row, staged = desk.overlay.create_file(desk.key("P/d"), b"n", mode=0o644, uid=0, gid=0)
        desk.contents.open.add(staged)

        assert 1 == desk.ask("pending")["writing"]
        assert 0 == desk.ask("pending", desk.at("P/e"))["writing"]
        assert "open for writing" in desk.edits.showing.unsent_of(row)["reason"]

    def test_pending_when_a_close_found_no_room_counts_what_it_left(self, desk, tmp_path):
        """Its program was told, but the bytes are here and unsent, so it is not safe to stop."""
        row = desk.create("P/d/n", b"12345")
        desk.sent(row)
        (tmp_path / "bytes").write_bytes(b"12345678")
        desk.contents.files[row.staged] = tmp_path / "bytes"
        found = desk.ask("pending")
        (one,) = found["changes"]

        assert ("under-way", 1, 8) == (found["verdict"], found["uploads"], found["bytes"])
        assert (desk.at("P/d/n"), "waiting", "CacheFull") == (
            one["path"], one["state"], one["problem"],
        )  # fmt: skip
        assert "full" in one["reason"]
        assert 1 == desk.ask("pending", desk.at("P/d"))["waiting"]
        assert 0 == desk.ask("pending", desk.at("P/e"))["waiting"]

    def test_pending_while_offline_says_since_when(self, desk):
        """And each row says that it goes by itself."""
        desk.create("P/d/n")
        desk.pusher.offline_since_ns = 1_700_000_000_000_000_000
        found = desk.ask("pending")

        assert "2023-11-14T22:13:20.000Z" == found["offline_since_at"]
        assert "offline since 2023-11-14" in found["changes"][0]["reason"]
        assert "under-way" == found["verdict"]

    def test_transfers_tell_the_bytes_under_way(self, desk):
        """With a rate, as downloads have one."""
        row = desk.create("P/d/n", b"12345678")
        desk.pusher.under_way = [Progress(row.id, 4, 8, time.time_ns() - 10**9)]
        (one,) = desk.edits.showing.transfers()

        fits(one, contract.Transfer)
        assert ("up", 4, 8, desk.at("P/d/n")) == (
            one["direction"], one["bytes"], one["total_bytes"], one["path"],
        )  # fmt: skip
        assert one["rate_bytes_s"] > 0
        assert "4 of 8 bytes" in desk.ask("pending")["changes"][0]["reason"]


class TestIntents:
    def intents(self, desk, path: str) -> list[str]:
        (one,) = desk.ask("pending", desk.at(path))["changes"]
        return one["intents"]

    def test_intents_of_an_edit_a_rename_and_a_note_are_all_told(self, desk):
        """One row may be several calls."""
        desk.edit("P/d/a", b"three\n")
        assert ["update"] == self.intents(desk, "P/d/a")
        desk.overlay.rename(
            desk.overlay.seen(desk.key("P/d/a")), desk.key("P/e"), b"moved"
        )  # fmt: skip
        desk.ask("annotate", desk.at("P/e/moved"), {"tissue": ["liver", "brain"]}, [])

        assert ["move", "update", "annotate"] == self.intents(desk, "P/e/moved")

    def test_intent_of_a_removed_thing_is_found_under_its_old_path(self, desk):
        """`synd why` and `synd status` answer for what is gone already."""
        desk.overlay.remove(desk.overlay.seen(desk.key("P/d/a")))

        assert ["delete"] == self.intents(desk, "P/d/a")
        assert desk.edits.showing.gone_at(desk.at("P/d/a")).gone

    def test_what_waits_for_its_folder_says_so(self, desk):
        """The folder comes first."""
        desk.overlay.make_folder(desk.key("P"), b"new", mode=0o755, uid=0, gid=0)
        desk.create("P/new/n")
        (one,) = (c for c in desk.ask("pending")["changes"] if c["kind"] == "file")

        assert desk.at("P/new") in one["reason"]


class TestWait:
    def test_wait_when_all_is_sent_is_over_at_once(self, desk):
        """Without a look at the clock."""
        found = desk.ask("wait", None, 60.0)

        fits(found, contract.WaitReply)
        assert (True, False) == (found["settled"], found["stuck"])

    def test_wait_is_woken_when_the_row_is_sent(self, desk):
        """By the change itself: nobody asks again and again."""
        row = desk.create("P/d/n")
        waiting = asyncio.run_coroutine_threadsafe(
            desk.edits.wait(desk.at("P/d/n"), 60.0), desk.parts.loop
        )
        eventually(lambda: desk.edits._waiters)
        assert not waiting.done()
        desk.sent(row)

        assert waiting.result(20)["settled"]
        assert not desk.edits._waiters

    def test_wait_when_the_time_is_up_says_what_is_left(self, desk):
        """Neither settled nor stuck: it goes on by itself."""
        desk.create("P/d/n")
        found = desk.ask("wait", None, 0.05)

        assert (False, False, 1) == (
            found["settled"], found["stuck"], found["pending"]["uploads"],
        )  # fmt: skip

    @pytest.mark.parametrize("state", ["blocked", "held"])
    def test_wait_when_a_row_cannot_go_fails_at_once_with_the_reason(self, desk, state):
        """Waiting longer would not send it."""
        row = desk.create("P/d/n")
        desk.create("P/d/other")
        desk.set(row, state=state, problem='{"type": "Forbidden", "title": "no", "hint": "ask"}')
        found = desk.ask("wait", None, 60.0)

        assert (False, True) == (found["settled"], found["stuck"])
        assert desk.at("P/d/n") in found["reason"]
        assert found["mend"]
        assert desk.ask("wait", desk.at("P/e"), 60.0)["settled"]

    def test_wait_when_sending_is_paused_fails_at_once(self, desk):
        """With the mend."""
        desk.create("P/d/n")
        assert desk.ask("pause")["paused"]
        found = desk.ask("wait", None, 60.0)

        assert (True, "`synd resume`") == (found["stuck"], found["mend"])
        assert not desk.ask("resume")["paused"]

    def test_wait_begins_with_what_tracked_folders_have_still_to_tell(self, desk, tmp_path):
        """It is no row yet, and unsent all the same."""
        desk.tracker.add(tmp_path / "t", EntityId(1)).waiting = 2
        before = desk.ask("pending")
        assert ("under-way", 2, 0) == (before["verdict"], before["tracked"], before["uploads"])
        assert desk.ask("wait", None, 7.0)["settled"]
        assert [7.0] == desk.tracker.waited
        desk.tracker.folders[tmp_path / "t"].waiting = 1
        assert "sent" == desk.ask("drain", 3.0)["verdict"]

        assert [7.0, 3.0] == desk.tracker.waited
        assert [] == desk.pusher.asked

    def test_wait_when_a_tracked_folder_holds_its_deletes_ends_and_names_the_mend(
        self, desk, tmp_path
    ):
        """They wait for a yes as held rows do: neither sent nor on their way."""
        folder = desk.tracker.add(tmp_path / "t", EntityId(1))
        folder.held = HeldFiles(12)
        found = desk.ask("wait", None, 60.0)
        fits(found["pending"], changes.Pending)
        assert (False, True) == (found["settled"], found["stuck"])
        assert f"`synd approve {tmp_path / 't'}`" == found["mend"]
        assert str(tmp_path / "t") in found["reason"]
        assert ("stuck", 12, 0) == (
            found["pending"]["verdict"], found["pending"]["tracked"], found["pending"]["uploads"],
        )  # fmt: skip
        assert "stuck" == desk.ask("drain", 1.0)["verdict"]
        folder.held = None

        assert desk.ask("wait", None, 60.0)["settled"]

    def test_wait_without_a_login_fails_at_once(self, desk):
        """It goes on once the user has logged in, not before."""
        desk.create("P/d/n")
        desk.pusher.problem = NotLoggedIn("the token has expired")
        found = desk.ask("wait", None, 60.0)

        assert "the token has expired" in found["reason"]
        assert "synd login" in found["mend"]
        desk.pusher.problem = None
        assert not desk.ask("wait", None, 0.01)["stuck"]

    def test_drain_when_nothing_waits_asks_nobody(self, desk):
        """What is blocked stays; what waits is sent within the bound."""
        row = desk.create("P/d/n")
        assert 1 == desk.ask("drain", 3.0)["uploads"]
        assert [("drain", pytest.approx(3.0, abs=1.0))] == desk.pusher.asked
        desk.set(row, state="blocked")
        assert 1 == desk.ask("drain", 3.0)["blocked"]

        assert 1 == len(desk.pusher.asked)

    def test_changes_are_told_as_events(self, desk):
        """To whoever listens, with the state and the reason."""
        row = desk.create("P/d/n")
        desk.set(row, state="blocked", problem='{"type": "Forbidden", "title": "no"}')
        [*_, event] = [e for e in desk.parts.events._since("") if e["kind"] == "edit"]

        assert (desk.at("P/d/n"), "blocked", "no") == tuple(
            event["data"][k] for k in ("path", "state", "reason")
        )
        desk.sent(row)
        assert "sent" == desk.parts.events._since("")[-1]["data"]["state"]


class TestSending:
    def test_upload_now_names_the_rows_at_and_below_the_path(self, desk):
        """What is blocked is tried again too."""
        row = desk.create("P/d/n")
        desk.create("P/e/m")
        desk.ask("upload_now", desk.at("P/d"))

        assert [("retry_blocked", [row.id]), ("push_now", [row.id])] == desk.pusher.asked
        desk.ask("upload_now", None)
        assert ("push_now", None) == desk.pusher.asked[-1]

    def test_approve_lets_go_what_is_held_there_and_nothing_else(self, desk, ids):
        """By path, by id, by number; a yes to nothing is told."""
        for name in ("a", "b"):
            desk.overlay.remove(desk.overlay.seen(desk.key(f"P/d/{name}")))
        rows = [desk.overlay.locals.of_entity(ids[f"P/d/{n}"]) for n in ("a", "b")]
        desk.set(rows[0], state=Sending.HELD.value)
        with pytest.raises(NotFound, match="no delete is held"):
            desk.ask("approve", [desk.at("P/d/b")])
        for target in (desk.at("P/d"), f"syn{ids['P/d/a']}", str(rows[0].id - FIRST)):
            assert [desk.at("P/d/a")] == desk.ask("approve", [target])["paths"]

        assert {("approve", (rows[0].id,))} == {(w, tuple(n)) for w, n in desk.pusher.asked}

    def test_approve_of_a_tracked_folder_confirms_its_scan(self, desk, tmp_path):
        """Deletions that a scan found are held the same way."""
        desk.tracker.add(tmp_path / "t", EntityId(1)).held = HeldFiles()

        assert [str(tmp_path / "t")] == desk.ask("approve", [str(tmp_path / "t")])["paths"]
        assert [tmp_path / "t"] == desk.tracker.confirmed
        assert [] == desk.pusher.asked

    def test_comment_and_label_wait_for_the_next_version(self, desk):
        """Of files only."""
        desk.ask("comment", desk.at("P/d/a"), "better", "v2")
        row = desk.overlay.locals.of_entity(desk.key("P/d/a"))

        assert ("better", "v2", "clean") == (row.comment, row.label, row.state)
        with pytest.raises(UsageError):
            desk.ask("comment", desk.at("P/d"), "x", "")
        with pytest.raises(NotFound):
            desk.ask("comment", desk.at("P/nope"), "x", "")

    def test_annotate_queues_what_is_set_and_removed(self, desk):
        """As one change."""
        found = desk.ask("annotate", desk.at("P/d/a"), {"k": ["1", "2"]}, ["old"])
        row = desk.overlay.locals.of_entity(desk.key("P/d/a"))

        assert ["annotate"] == found["intents"]
        assert {"k": ("STRING", ("1", "2")), "old": None} == row.wanted_annotations
        with pytest.raises(UsageError):
            desk.ask("annotate", desk.at("P/d/a"), {}, [])


class TestConflicts:
    def test_annotate_when_nobody_else_has_the_file_removes_nothing(self, desk):
        """What was never anywhere is not told as removed."""
        desk.create("P/d/n", b"x")
        desk.ask("annotate", desk.at("P/d/n"), {"a": ["1"]}, [])
        desk.ask("annotate", desk.at("P/d/n"), {}, ["a", "never"])

        assert {} == desk.ask("difference", desk.at("P/d/n"))["annotations"]

    def test_conflict_is_listed_shown_and_resolved(self, desk, ids):
        """With both sides' paths and versions."""
        copy = desk.create("P/d/a (conflict here)", b"x")
        with desk.overlay.change() as tx:
            number = insert_conflict(
                tx,
                {"at_ns": 1, "entity": ids["P/d/a"], "path": "P/d/a", "reason": "edited",
                 "kept": "both", "copy": copy.id, "base_version": 1, "remote_version": 2},
            )  # fmt: skip
        (one,) = desk.edits.conflicts(all=False)["conflicts"]
        fits(one, changes.Conflict)
        assert (str(number), desk.at("P/d/a"), desk.at("P/d/a (conflict here)"), 1, 2) == tuple(
            one[k] for k in ("id", "path", "copy_path", "base_version", "remote_version")
        )
        assert "conflict" == desk.edits.showing.state(copy)
        assert 1 == desk.ask("pending", desk.at("P"))["conflicts"]
        desk.ask("resolve", one["id"], "both")

        assert [] == desk.edits.conflicts(all=False)["conflicts"]
        assert desk.edits.conflict(one["id"])["resolved_at"]
        with pytest.raises(UsageError, match="both were kept"):
            desk.ask("resolve", one["id"], "local")
        assert "modified" == desk.edits.showing.state(copy)
        with pytest.raises(NotFound):
            desk.edits.conflict("99")


class TestTracked:
    def test_track_and_untrack_tell_what_they_did(self, desk, ids, tmp_path):
        """A folder of this machine, a folder of the service."""
        desk.parts.names("P/d")
        made = desk.ask("track", str(tmp_path / "t"), f"syn{ids['P/d']}")
        fits(made, changes.Tracked)
        assert (str(tmp_path / "t"), desk.at("P/d"), "watching") == (
            made["folder"], made["path"], made["state"],
        )  # fmt: skip
        assert [made] == desk.edits.tracked()["tracked"]
        assert made["folder"] == desk.ask("untrack", made["folder"])["folder"]

        assert [] == desk.edits.tracked()["tracked"]

    def test_track_of_what_cannot_be_is_refused(self, desk, ids, tmp_path):
        """Relative paths, and what is no folder of the service."""
        with pytest.raises(UsageError):
            desk.ask("track", "t", f"syn{ids['P/d']}")
        with pytest.raises(UsageError):
            desk.ask("track", str(tmp_path / "t"), f"syn{ids['P/d/a']}")

        assert {} == desk.tracker.folders

    def test_tracked_names_what_is_not_sent(self, desk, tmp_path):
        """By its path on this machine."""
        status = desk.tracker.add(tmp_path / "t", EntityId(1))
        status.problems, status.problem_count = (Problem("d/l", "a symbolic link", "copy it"),), 1
        (one,) = desk.edits.tracked()["tracked"]

        wanted = {"path": str(tmp_path / "t/d/l"), "reason": "a symbolic link", "mend": "copy it"}
        assert (1, [wanted]) == (one["problems"], one["skipped"])

    def test_tracked_when_deletions_are_held_says_how_to_go_on(self, desk, tmp_path):
        """The yes is `synd approve`."""
        desk.tracker.add(tmp_path / "t", EntityId(1)).held = HeldFiles()
        (one,) = desk.edits.tracked()["tracked"]

        assert ("held", f"`synd approve {tmp_path / 't'}`") == (one["state"], one["mend"])

    def test_status_tells_of_tracked_folders_that_want_attention(self, desk, tmp_path):
        """Held, missing, or not watched as a limit is met: each with its mend."""
        desk.tracker.add(tmp_path / "t", EntityId(1)).held = HeldFiles()
        desk.tracker.add(tmp_path / "u", EntityId(2)).why = "it is not there"
        desk.tracker.add(tmp_path / "v", EntityId(3))
        told = desk.edits.showing.problems(desk.ask("pending"))

        assert [str(tmp_path / "t"), str(tmp_path / "u")] == [one["path"] for one in told]
        assert f"`synd approve {tmp_path / 't'}`" == told[0]["hint"]
        assert told[1]["title"].endswith("u: it is not there")


class TestKeptHere:
    @pytest.mark.parametrize(
        ("name", "content", "word"),
        [
            ("empty", b"", "no empty files"),
            (".n.swp", b"x", "editors"),
            ("n.tmp", b"x", "local_only"),
        ],
    )
    def test_reason_says_why_it_is_never_sent(self, desk, name, content, word):
        """Each kind has its own."""
        row = desk.create(f"P/d/{name}", content)
        if name == "n.tmp":
            row = desk.set(row, local_only=1, state="clean")
        state = desk.edits.showing.local_state(row)

        fits(state, changes.LocalState)
        assert "kept-here" == state["change"]["state"]
        assert word in state["change"]["reason"]
