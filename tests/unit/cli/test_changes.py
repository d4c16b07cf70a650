"""Commands about local changes, against the real control API over fake services."""

import json

import pytest

from synd.cli import events, output
from synd.errors import Cancelled, UsageError
from synd.store.connect import Store
from synd.store.local import Locals
from tests.support.fake_edits import NOW, change

A = "/mnt/synapse/P/a"


class TestStatus:
    def test_status_when_things_wait_for_somebody_says_that_waiting_is_no_use(self, synd, daemon):
        """Safe on this disk, not sent: neither "safe to stop" nor "wait"."""
        daemon.edits.unsent = [
            change(A, "blocked", reason="you may not write there", mend="ask its owner")
        ]
        said = synd("status").out

        assert (
            "not everything is sent: 1 change (10 B) wait for you; they are safe on this disk"
            in said
        )
        assert f"update {A}  blocked: you may not write there — ask its owner" in said
        assert "\nsafe to stop" not in said

    def test_status_when_all_is_sent_still_tells_what_is_kept_here_and_open(self, synd, daemon):
        """What is never sent, and what somebody writes just now."""
        daemon.edits.kept_here = 2
        daemon.edits.open = {A}
        daemon.edits.add_conflict("3", A)
        said = synd("status").out

        assert "kept here  2 things" in said
        assert "conflicts  1 open one" in said
        assert "safe to stop: everything that was closed is sent" in said

    def test_status_while_offline_and_paused_says_since_when(self, synd, daemon):
        """With the oldest change."""
        daemon.unsent = [A] * 7
        daemon.edits.offline_since_at = NOW
        daemon.edits.paused = True
        said = synd("status").out

        assert f"offline    since {NOW}" in said
        assert "paused     nothing is sent until `synd resume`" in said
        assert "and 2 more" in said

    def test_status_of_a_path_tells_its_change_and_its_next_version(self, synd, daemon):
        """State, reason, comment; of a folder the sum below it."""
        daemon.unsent = [A]
        said = synd("status", A).out
        assert f"update {A}  waiting: its turn is next" in said
        assert "next version: better (label -)" in said
        assert "not sent yet" in said

        assert "unsent     1 change (10 B): 1 waiting" in synd("status", "/mnt/synapse/P").out

    @pytest.mark.parametrize(
        ("entity", "said"),
        [
            ("", "made here: the service does not have it"),
            ("syn5", "the service was not asked yet about its folder: `ls` of that asks"),
        ],
    )
    def test_status_of_a_path_that_was_never_asked_about_says_so(self, synd, daemon, entity, said):
        """Not "never ago"."""
        daemon.path_differs = {"entity": entity, "checked_at": None}
        told = synd("status", A).out

        assert f"  {said}" in told
        assert "ago" not in told


class TestWait:
    @pytest.mark.parametrize("state", ["blocked", "held"])
    def test_wait_when_a_change_cannot_go_is_65_with_the_reason(self, synd, daemon, state):
        """A script tells "later" from "needs somebody"."""
        daemon.edits.unsent = [change(A, state, reason="no", mend="do something")]
        said = synd("wait")

        assert said.code == 65
        assert f"waiting does not help: {A}: no\n  do something" in said.out
        assert synd("wait", "--json").json["stuck"] is True

    def test_status_and_down_when_a_tracked_folder_holds_deletes_name_the_mend(self, synd, daemon):
        """They are not in the queue, and not sent all the same."""
        daemon.edits.tracked_holds = [
            {
                "folder": "/t",
                "deletes": 12,
                "reason": "much is missing",
                "mend": "`synd approve /t`",
            }
        ]
        said = synd("status").out
        assert "12 deletes in /t  held: much is missing — `synd approve /t`" in said
        assert "not everything is sent: 12 changes" in said
        assert "everything is sent" not in synd("upload-now").out.replace("not everything", "")
        down = synd("down")

        assert down.code == 75
        assert "`synd approve /t`" in down.out

    def test_upload_now_with_wait_has_the_code_of_wait(self, synd, daemon):
        """And waits for that path only."""
        daemon.unsent = [A]
        assert synd("upload-now", "--wait", "--timeout", "0", A).code == 75
        assert synd("upload-now", "--wait", "/mnt/synapse/Q").code == 0

        assert daemon.asked[-1][1][0] == "/mnt/synapse/Q"
        assert [A, "/mnt/synapse/Q"] == [w[1] for w in daemon.edits.asked if w[0] == "upload_now"]

    def test_upload_now_when_something_is_unsent_lists_it(self, synd, daemon):
        """It is under way."""
        daemon.unsent = [A]

        assert f"1 change (10 B) on the way:\n  update {A}" in synd("upload-now").out


class TestDiff:
    def test_diff_of_text_is_a_unified_diff_with_both_sides(self, synd, daemon):
        """Plain off a terminal."""
        said = synd("diff", A).out

        assert said.startswith(f"{A}: update\n")
        assert "service  version 2, 4 B, md5 aaaa" in said
        assert "note draft = (removed)" in said
        assert "-old\n+newer\n" in said

    def test_diff_of_a_folder_lists_changes(self, synd, daemon):
        """One line each."""
        found = {
            "path": "/mnt/synapse/P", "entity": "syn4", "kind": "folder", "intents": ["move"],
            "base": None, "local": None, "moved_from": "/mnt/synapse/Q", "annotations": {},
            "text": "", "truncated": True, "note": "", "changes": [change(A)],
        }  # fmt: skip
        daemon.edits.differs = found
        said = synd("diff", "/mnt/synapse/P").out

        assert "was /mnt/synapse/Q" in said
        assert f"update {A}  waiting" in said
        assert "more than is shown" in said
        daemon.edits.differs = {**found, "kind": "same"}
        assert "nothing differs" in synd("diff", A).out


class TestDiscard:
    def test_discard_when_nobody_can_be_asked_needs_a_yes(self, synd, daemon):
        """A script must say it."""
        daemon.unsent = [A]
        said = synd("discard", A)

        assert said.code == 64
        assert "--yes" in said.err
        assert daemon.unsent == [A]

    def test_discard_when_told_yes_tells_what_went_and_what_is_kept(self, synd, daemon):
        """Paths, entity ids and numbers of changes."""
        daemon.unsent = [A]
        said = synd("discard", "--yes", A)
        assert f"discarded {A}" in said.out
        assert "1 file in the recovery area" in said.out
        assert daemon.unsent == []
        daemon.unsent = [A]
        synd("discard", "-y", "7", "SYN9", "./17")

        assert daemon.edits.asked[-1][1][:2] == ["7", "syn9"]
        assert daemon.edits.asked[-1][1][2].endswith("/17")

    def test_discard_when_a_file_is_open_is_75(self, synd, daemon):
        """Busy: later it works."""
        daemon.unsent = [A]
        daemon.edits.open = {A}

        assert synd("discard", "-y", A).code == 75

    @pytest.mark.parametrize(("answer", "goes"), [("y\n", True), ("no\n", False), ("", False)])
    def test_confirm_at_a_terminal_asks(self, monkeypatch, capsys, answer, goes):
        """Anything but yes is no."""
        import io

        stdin = io.StringIO(answer)
        stdin.isatty = lambda: True
        monkeypatch.setattr("sys.stdin", stdin)
        if goes:
            output.confirm("Forget it?", yes=False)
        else:
            with pytest.raises(Cancelled):
                output.confirm("Forget it?", yes=False)

        assert "Forget it? [y/N]" in capsys.readouterr().err


class TestRestore:
    def test_restore_without_a_path_lists_what_can_come_back(self, synd, daemon):
        """By id, newest first."""
        daemon.edits.take("4", A)

        assert f"4\t{NOW}\tdeleted\ttrash\t10 B\t{A}" in synd("restore").out
        assert "restored" in synd("restore", "4").out
        assert f"restored {A}" in synd("restore", A).out

    def test_restore_of_what_was_never_taken_is_66(self, synd, daemon):
        """Not found."""
        assert synd("restore", "/mnt/synapse/P/never").code == 66


class TestApprove:
    def test_approve_always_wants_to_know_what(self, synd, daemon):
        """Paths or --all: one of them, not both, not neither."""
        daemon.edits.unsent = [change(A, "held")]
        assert synd("approve").code == 64
        assert synd("approve", "--all", A).code == 64
        assert daemon.edits.unsent[0]["state"] == "held"

        assert f"goes now: {A}" in synd("approve", A).out
        assert synd("approve", A).code == 66
        assert "nothing was held" in synd("approve", "--all").out


class TestNotes:
    def test_comment_and_label_are_handed_on(self, synd, daemon):
        """Without both they are cleared."""
        synd("comment", A, "better", "--label", "v2")
        synd("comment", A)

        assert [("comment", (A, "better", "v2")), ("comment", (A, "", ""))] == daemon.edits.asked

    def test_annotate_collects_values_of_one_key(self, synd, daemon):
        """A value may hold an equals sign."""
        synd("annotate", A, "k=1", "k=a=b", "l=", "--remove", "old")

        assert [("annotate", (A, {"k": ["1", "a=b"], "l": [""]}, ["old"]))] == daemon.edits.asked

    @pytest.mark.parametrize("values", [[], ["nonsense"], ["=x"]])
    def test_annotate_of_nothing_is_64(self, synd, daemon, values):
        """Bad usage."""
        assert synd("annotate", A, *values).code == 64


class TestConflicts:
    def test_conflicts_are_listed_shown_and_resolved(self, synd, daemon):
        """The group by itself lists."""
        assert "no conflicts" in synd("conflicts").out
        daemon.edits.add_conflict("3", A)
        assert f"3\t{NOW}\tedited\tboth\topen\t{A}" in synd("conflicts").out
        assert synd("conflicts").out == synd("conflicts", "list").out
        shown = synd("conflicts", "show", "3").out
        assert "edited here from version 2; the service has 3" in shown
        assert "synd conflicts resolve 3 --keep local|remote|both" in shown
        done = synd("conflicts", "resolve", "3", "--keep", "local", "--json").json["conflict"]

        assert done["kept"] == "local"
        assert "no conflicts" in synd("conflicts").out
        assert "resolved" in synd("conflicts", "--all").out

    def test_conflict_when_unknown_or_side_is_wrong_says_so(self, synd, daemon):
        """66 and 64."""
        assert synd("conflicts", "show", "9/..").code == 66
        assert synd("conflicts", "resolve", "9", "--keep", "mine").code == 64


class TestTrack:
    def test_track_and_untrack_name_the_real_folder(self, synd, daemon, tmp_path, monkeypatch):
        """Links and dots are followed here: the daemon has another working folder."""
        (tmp_path / "t").mkdir()
        (tmp_path / "link").symlink_to("t")
        monkeypatch.chdir(tmp_path)
        said = synd("track", "link", "SYN4")
        assert f"{tmp_path / 't'} is sent to /mnt/synapse/P/d" in said.out
        assert [("track", (str(tmp_path / "t"), "syn4"))] == daemon.edits.asked
        assert f"{tmp_path / 't'}\t/mnt/synapse/P/d\twatching\t3\t0" in synd("tracked").out
        synd("untrack", "./t")

        assert "no folder is tracked" in synd("tracked").out
        assert synd("untrack", "t").code == 66

    def test_track_of_what_is_no_folder_is_66(self, synd, daemon, tmp_path):
        """Told before the daemon is asked."""
        assert synd("track", str(tmp_path / "none"), "syn4").code == 66
        assert daemon.edits.asked == []

    def test_tracked_when_not_all_can_be_watched_shows_the_remedy(self, synd, daemon):
        """The exact line."""
        synd("track", "/tmp", "syn4")
        daemon.edits.folders["/tmp"] |= {"reason": "too few watches", "mend": "sysctl x=1"}

        assert "/tmp: too few watches\n  sysctl x=1\n" in synd("tracked").out

    def test_tracked_names_what_is_not_sent_and_why(self, synd, daemon):
        """The first ones; how many more there are."""
        synd("track", "/tmp", "syn4")
        link = {"path": "/tmp/l", "reason": "a symbolic link", "mend": "copy it"}
        daemon.edits.folders["/tmp"] |= {"problems": 23, "skipped": [link] * 23}
        said = synd("tracked").out

        assert "not sent: /tmp/l: a symbolic link\n  copy it\n" in said
        assert "not sent: 3 more in /tmp (--json)\n" in said


class TestEvents:
    def test_events_are_a_line_each_recent_ones_first(self, synd, daemon):
        """For people and, with --json, one object a line."""
        daemon.recent = [
            {"id": 1, "kind": "edit", "at": NOW, "data": {**change(A, "blocked"), "reason": "no"}},
            {"id": 2, "kind": "job", "at": NOW, "data": {"id": "j", "state": "running"}},
        ]
        said = synd("events", "--no-follow", "--since", "2023-01-01T00:00:00Z")
        assert said.out.splitlines() == [
            f"{NOW}  edit     blocked update {A}: no",
            f"{NOW}  job      id=j state=running",
        ]
        lines = synd("events", "--no-follow", "--since", "2023-01-01T00:00:00Z", "--json").out
        assert [1, 1] == [json.loads(line)["schema"] for line in lines.splitlines()]

        assert synd("events", "--no-follow").out == ""

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("30s", "1970-01-12T13:46:10.000Z"),
            ("10m", "1970-01-12T13:36:40.000Z"),
            ("1d", "1970-01-11T13:46:40.000Z"),
            (None, "1970-01-12T13:41:40.000Z"),
            ("2025-01-31T12:00:00Z", "2025-01-31T12:00:00.000Z"),
        ],
    )
    def test_start_is_a_span_or_a_time(self, text, wanted):
        """Counted back from now."""
        assert wanted == events.start(text, 1_000_000.0)

    def test_start_when_it_is_neither_is_bad_usage(self):
        """With what would do."""
        with pytest.raises(UsageError, match="yesterday"):
            events.start("yesterday", 0.0)


class TestDown:
    def test_down_without_a_daemon_tells_what_an_earlier_one_left_unsent(self, synd, home):
        """From the state on this disk: 75, as it goes at the next `synd up`."""
        store = Store(home / "state" / "state.db")
        with store.write() as tx:
            Locals(store).insert(
                tx, born=1, parent=5, name=b"n", kind="file", ctime_ns=1, staged=9, size=10,
                edit=1, state="waiting", since_ns=1,
            )  # fmt: skip
        store.close()
        said = synd("down", "--json")

        assert said.code == 75
        assert (1, 10, False) == tuple(said.json[k] for k in ("uploads", "bytes", "unknown"))
        assert "1 change (10 B) not sent yet" in synd("down").out

    def test_down_without_a_daemon_or_a_state_is_0(self, synd):
        """Nothing was ever there."""
        assert synd("down").code == 0


class TestBars:
    def test_bars_off_a_terminal_draw_nothing(self, capsys):
        """Quiet otherwise."""
        with output.bars("x") as update:
            update("y", [("a", 1, 2)])

        assert capsys.readouterr().err == ""

    def test_bars_at_a_terminal_show_each_transfer(self, monkeypatch, capsys):
        """And let go of those that are over."""
        monkeypatch.setattr(output, "quiet", lambda: False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("FORCE_COLOR", "1")
        with output.bars("waiting") as update:
            update("waiting for 2", [("/m/a", 1, 2), ("/m/b", 0, None)])
            update("waiting for 1", [("/m/b", 1, 2)])

        assert "/m/b" in capsys.readouterr().err
