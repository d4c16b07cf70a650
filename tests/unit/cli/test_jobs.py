"""`synd jobs`, `logs` and their like: the queue in the words of the command line."""

from __future__ import annotations

import json

import pytest

from synd.cli.jobs import state
from tests.support.fake_app import NOW


@pytest.fixture
def two(daemon) -> list[str]:
    """Two running jobs."""
    return [daemon._made("prefetch", "P/a")["id"], daemon._made("verify", "P/b")["id"]]


class TestList:
    def test_list_of_some_kinds_leaves_others_out(self, synd, daemon, two):
        """By name, and so many."""
        found = synd("jobs", "--kind", "verify", "--json").json

        assert [two[1]] == [j["id"] for j in found["jobs"]]
        assert 1 == len(synd("jobs", "-n", "1", "--json").json["jobs"])
        assert "… and 1 more" in synd("jobs", "-n", "1").out

    def test_jobs_of_a_mistyped_kind_are_not_an_empty_success(self, synd, daemon, two):
        """Whatever is to be done with them."""
        for argv in (["jobs"], ["jobs", "-f"], ["cancel", "--all"], ["retry", "--failed"]):
            said = synd(*argv, "--kind", "verfy")
            assert (64, "") == (said.code, said.out)
            assert "verfy" in said.err
        assert 66 == synd("job", "").code

    def test_list_when_paused_says_so_with_the_mend(self, synd, daemon, two):
        """Nobody wonders why nothing begins."""
        assert "paused: verify — `synd jobs resume`" in synd("jobs", "pause", "verify").out
        assert "paused: verify" in synd("jobs").out
        assert "no jobs are paused" in synd("jobs", "resume").out

    def test_list_when_followed_is_a_line_per_change(self, synd, daemon, two):
        """With --json one object each; that the daemon ended is told, as it is no end of the jobs."""
        done = {**daemon.known[two[0]], "state": "completed"}
        for event in ({"kind": "job", "at": NOW, "data": done}, None):
            daemon.work.source.put_nowait(event)
        said = synd("jobs", "--follow")
        lines = said.out.splitlines()
        assert (69, True) == (said.code, "the daemon has ended" in said.err)
        assert [
            f"{two[0]}  prefetch  running  P/a",
            f"{two[1]}  verify  running  P/b",
            f"{two[0]}  prefetch  completed  P/a",
        ] == lines
        for event in ({"kind": "job", "at": NOW, "data": done}, None):
            daemon.work.source.put_nowait(event)
        told = [json.loads(line) for line in synd("jobs", "-f", "--json").out.splitlines()]

        assert [1, 1, 1, 1] == [one["schema"] for one in told]
        assert "completed" == told[-2]["job"]["state"]
        assert "DaemonNotRunning" == told[-1]["error"]["type"]

    def test_clean_forgets_what_ended(self, synd, daemon, two):
        """What is active stays."""
        synd("cancel", two[0])
        synd("jobs", "clean")

        assert [two[1]] == [j["id"] for j in synd("jobs", "--all", "--json").json["jobs"]]


class TestMany:
    def test_cancel_of_several_tells_of_each(self, synd, daemon, two):
        """By ids, or all of a kind."""
        found = synd("cancel", *two, "--json").json
        assert ["cancelled", "cancelled"] == [j["state"] for j in found["jobs"]]
        assert "job" not in found
        assert "there is nothing to cancel" in synd("cancel", "--all").out

    def test_cancel_of_a_kind_leaves_the_others(self, synd, daemon, two):
        """`--all` means all of these."""
        found = synd("cancel", "--all", "--kind", "verify", "--json").json

        assert [two[1]] == [j["id"] for j in found["jobs"]]
        assert two[1] == found["job"]["id"]

    def test_retry_of_what_failed_leaves_what_is_tried_again(self, synd, daemon, two):
        """By itself or by somebody else."""
        daemon.known[two[0]]["state"] = "failed"
        daemon.known[two[1]].update(state="failed", superseded_by="later")
        found = synd("retry", "--failed", "--json").json

        assert [two[0]] == [j["id"] for j in found["jobs"]]

    def test_error_of_one_does_not_keep_the_others_from_it(self, synd, daemon, two):
        """The exit code is that of the first."""
        said = synd("cancel", "nope", two[0], "neither")

        assert 66 == said.code
        assert "cancelled" == daemon.known[two[0]]["state"]
        assert {"nope", "neither"} <= set(said.err.split())

    @pytest.mark.parametrize(
        "argv", [["cancel"], ["cancel", "x", "--all"], ["retry"], ["retry", "x", "--failed"]], ids=" ".join
    )  # fmt: skip
    def test_none_or_both_of_ids_and_all_is_bad_usage(self, synd, daemon, argv):
        """Nothing is cancelled by accident."""
        assert 64 == synd(*argv).code


class TestLogs:
    def test_logs_are_what_its_programs_said(self, synd, daemon, two):
        """As a whole, or as it comes; when they stop coming before the job has ended, that is no success."""
        daemon.work.said[two[0]] = "one\ntwo\n"
        cut = synd("logs", "-f", two[0])
        assert (69, "one\ntwo\n") == (cut.code, cut.out)
        daemon.known[two[0]] = {**daemon.known[two[0]], "state": "completed"}

        assert "one\ntwo\n" == synd("logs", two[0]).out
        assert (0, "one\ntwo\n") == ((said := synd("logs", "-f", two[0])).code, said.out)
        assert "one\ntwo\n" == synd("logs", two[0], "--json").json["text"]
        assert "one\ntwo\n" == synd("logs", "-f", two[0], "--json").json["text"]
        assert "it said nothing" in synd("logs", two[1]).out
        assert 66 == synd("logs", "nope").code


class TestOne:
    def test_job_that_is_tried_again_shows_where(self, synd, daemon, two):
        """Class, reason, and the next attempt."""
        daemon.known[two[0]].update(
            state="failed", failure="TOOL_FAILED", superseded_by="later", stages_done=["fetch", "data"],
            problem={"type": "StageFailed", "title": "tabix says no", "hint": "see the log"},
        )  # fmt: skip
        said = synd("job", two[0]).out

        assert "TOOL_FAILED: tabix says no — see the log" in said
        assert "tried again as later" in said
        assert "done: fetch, data" in said

    def test_wait_for_a_job_goes_on_with_its_next_attempt(self, synd, daemon):
        """Who waits for a prefetch waits for its end, not for that of an attempt."""
        first = daemon._made("prefetch", "syn5")
        second = daemon._made("prefetch", "syn5")
        daemon.known[first["id"]] = {**first, "state": "cancelled", "superseded_by": second["id"]}
        made = iter([first])
        daemon._made = lambda kind, subject: next(made)

        assert 0 == synd("prefetch", "syn5").code

    @pytest.mark.parametrize(
        ("job", "words"),
        [
            ({"state": "pending"}, "pending"),
            ({"state": "pending", "after": 2}, "after 2 others"),
            ({"state": "pending", "attempt": 3}, "pending (attempt 3)"),
            ({"state": "running"}, "running"),
            ({"state": "running", "stage": "index"}, "index"),
            ({"state": "running", "stage": "index", "cancelling": True}, "ending"),
            ({"state": "failed"}, "failed"),
            ({"state": "failed", "superseded_by": "x"}, "failed, tried again"),
        ],
        ids=lambda v: v if isinstance(v, str) else "",
    )
    def test_state_is_said_in_a_few_letters(self, job, words):
        """What it does, or why it waits."""
        assert words == state(job)
