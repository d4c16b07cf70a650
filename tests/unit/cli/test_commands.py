"""Every command against the real control API over fake services."""

import io
import json

import pytest

COMMANDS = [
    ["status"],
    ["status", "/mnt/synapse/P/a"],
    ["wait"],
    ["ls", "syn5"],
    ["ls", "-l", "/mnt/synapse/P"],
    ["info", "syn5"],
    ["why", "/mnt/synapse/P/a"],
    ["prefetch", "syn5"],
    ["prefetch", "-b", "syn5"],
    ["cache", "usage"],
    ["cache", "clear"],
    ["cache", "pin", "syn5"],
    ["cache", "unpin", "syn5"],
    ["cache", "verify"],
    ["jobs"],
    ["jobs", "--all"],
    ["jobs", "list", "--kind", "prefetch", "--limit", "5"],
    ["jobs", "pause"],
    ["jobs", "resume", "verify"],
    ["jobs", "clean"],
    ["cancel", "--all"],
    ["retry", "--failed"],
    ["diff", "/mnt/synapse/P/a"],
    ["upload-now"],
    ["upload-now", "--wait", "/mnt/synapse/P"],
    ["pause"],
    ["resume"],
    ["approve", "--all"],
    ["comment", "/mnt/synapse/P/a", "better", "--label", "v2"],
    ["annotate", "/mnt/synapse/P/a", "tissue=liver", "--remove", "draft"],
    ["conflicts"],
    ["conflicts", "list", "--all"],
    ["restore"],
    ["restore", "--list"],
    ["tracked"],
    ["track", "/tmp", "syn4"],
    ["config", "list"],
    ["config", "get", "mount"],
    ["config", "set", "mount", "/x"],
    ["config", "unset", "mount"],
    ["config", "path"],
    ["completion", "bash"],
]


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
class TestEveryCommand:
    def test_command_when_json_is_wanted_prints_one_object(self, synd, daemon, argv):
        """One line, one object, its schema number in it, nothing else anywhere."""
        said = synd(*argv, "--json")

        assert said.code == 0
        assert said.out.count("\n") == 1
        assert said.json["schema"] == 1
        assert said.err == ""

    def test_command_when_a_person_asks_prints_plain_text(self, synd, daemon, argv):
        """Off a terminal: no colours, no boxes, no progress."""
        said = synd(*argv)

        assert said.code == 0
        assert said.out.strip()
        assert "\x1b" not in said.out + said.err
        assert said.err == ""


class TestStatus:
    def test_status_when_something_is_unsent_says_not_safe(self, synd, daemon):
        """The one sentence that matters before a shutdown."""
        assert "safe to stop: everything is sent" in synd("status").out
        daemon.unsent = ["/mnt/synapse/P/a"]

        assert "not safe to stop: 1 change (10 B) unsent" in synd("status").out
        assert synd("status", "--json").json["safe_to_stop"] is False

    def test_status_when_there_are_problems_shows_them_with_hints(self, synd, daemon):
        """What is wrong, and what to do."""
        daemon.problems = [{"type": "NotLoggedIn", "title": "no token", "hint": "synd login"}]

        assert "problem    no token — synd login" in synd("status").out

    def test_status_of_a_path_outside_is_not_found(self, synd, daemon):
        """66, and the path as it was understood."""
        said = synd("status", "/etc/passwd")

        assert said.code == 66
        assert "/etc/passwd" in said.err


class TestWait:
    def test_wait_when_time_is_up_is_75_and_says_how_much_is_left(self, synd, daemon):
        """A script can tell "done" from "not yet"."""
        daemon.unsent = ["/mnt/synapse/P/a"]
        said = synd("wait", "--timeout", "0")

        assert said.code == 75
        assert "1 change (10 B) not sent yet" in said.out

    def test_wait_of_a_path_asks_for_that_path(self, synd, daemon, monkeypatch):
        """A relative path becomes what the daemon knows."""
        monkeypatch.chdir("/")
        synd("wait", "mnt/../mnt/synapse/P/a")

        assert daemon.asked[0][1][0] == "/mnt/synapse/P/a"


class TestJobs:
    def test_job_when_asked_for_shows_and_changes_it(self, synd, daemon):
        """show, cancel, retry."""
        job = synd("prefetch", "-b", "syn5", "--json").json["job"]["id"]

        assert job in synd("jobs").out
        assert synd("cancel", job, "--json").json["job"]["state"] == "cancelled"
        assert synd("retry", job, "--json").json["job"]["state"] == "running"
        assert synd("job", job).code == 0
        assert synd("job", "none").code == 66

    def test_jobs_when_all_are_cancelled_are_told(self, synd, daemon):
        """Then there is nothing left to cancel."""
        jobs = [synd("prefetch", "-b", f"syn{n}", "--json").json["job"]["id"] for n in (5, 6)]

        said = synd("cancel", "--all", "--kind", "prefetch", "--json").json
        assert {(id, "cancelled") for id in jobs} == {(j["id"], j["state"]) for j in said["jobs"]}
        assert "nothing to cancel" in synd("cancel", "--all").out

    def test_prefetch_when_the_job_fails_has_its_code(self, synd, daemon):
        """The job's own error is the command's."""

        def failing(_id):
            job = daemon._made("prefetch", "syn5")
            problem = {"type": "Offline", "title": "cannot reach it", "hint": "later"}
            return {**job, "state": "failed", "problem": problem}

        daemon.work.get = failing
        said = synd("prefetch", "syn5")

        assert said.code == 69
        assert "cannot reach it" in said.err

    def test_prefetch_when_cancelled_elsewhere_is_130(self, synd, daemon):
        """Neither success nor failure."""

        def cancelled(_id):
            return {**daemon._made("prefetch", "syn5"), "state": "cancelled"}

        daemon.work.get = cancelled

        assert synd("prefetch", "syn5").code == 130


class TestCache:
    def test_targets_when_ids_and_paths_are_mixed_are_told_apart(self, synd, daemon, monkeypatch):
        """`syn5` is an id, `./syn5` a path."""
        monkeypatch.chdir("/")
        synd("cache", "pin", "SYN5", "./mnt/synapse/a", "syn5.2")

        assert daemon.asked == [("pin", (["syn5", "/mnt/synapse/a", "syn5.2"], True))]

    def test_verify_when_something_was_damaged_is_65(self, synd, daemon):
        """A script sees it without reading."""

        async def verify(_targets):
            job = daemon._made("verify", "the cache")
            job["result"] = {"checked": 2, "bad": 1, "repaired": 1}
            return job

        daemon.cache_verify = verify
        said = synd("cache", "verify")

        assert said.code == 65
        assert "1 were damaged" in said.out


class TestConfig:
    def test_set_when_done_is_seen_by_get_and_list(self, synd):
        """No daemon is needed."""
        synd("config", "set", "projects", "syn1,syn2")

        assert synd("config", "get", "projects").out == "syn1,syn2\n"
        assert "changed" in synd("config", "list").out
        synd("config", "unset", "projects")
        assert synd("config", "get", "projects").out == "\n"

    @pytest.mark.parametrize(
        ("argv", "code"),
        [
            (["get", "nonsense"], 64),
            (["set", "nonsense", "1"], 64),
            (["set", "transport", "x"], 78),
        ],
        ids=str,
    )
    def test_config_when_wrong_says_so(self, synd, argv, code):
        """Unknown settings are usage, bad values are configuration."""
        assert synd("config", *argv).code == code


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion_when_known_is_a_script_for_synd(self, synd, shell):
        """Ready to be sourced."""
        assert "_SYND_COMPLETE" in synd("completion", shell).out

    def test_completion_when_unknown_names_the_known(self, synd):
        """64."""
        said = synd("completion", "tcsh")

        assert said.code == 64
        assert "fish" in said.err

    def test_completion_when_asked_by_the_shell_offers_commands(self, home):
        """The script and the program agree on how to ask."""
        import os
        import subprocess
        import sys

        asked = subprocess.run(
            [sys.executable, "-m", "synd.cli.main"],
            env=os.environ
            | {"_SYND_COMPLETE": "complete_bash", "COMP_WORDS": "synd sta", "COMP_CWORD": "1"},
            capture_output=True,
            text=True,
            timeout=20,
        )

        assert asked.stdout.split() == ["status"]

    @pytest.mark.parametrize(
        ("words", "offered"),
        [
            ("synd diff te", "_files"),
            ("synd discard te", "_files"),
            ("synd track /t", "_files"),
            ("synd conflicts resolve 3 --keep ", '"local" "remote" "both"'),
        ],
    )
    def test_completion_where_a_path_is_wanted_leaves_it_to_the_shell(self, home, words, offered):
        """Files are the shell's own to complete; choices are ours."""
        import os
        import subprocess
        import sys

        asked = subprocess.run(
            [sys.executable, "-m", "synd.cli.main"],
            env=os.environ | {"_SYND_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words},
            capture_output=True,
            text=True,
            timeout=20,
        )

        assert offered in " ".join(asked.stdout.split())


class TestLogin:
    def test_login_without_a_token_is_refused(self, synd, monkeypatch):
        """An empty line is no token."""
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        said = synd("login", "--token", "-")

        assert said.code == 64

    def test_logout_when_nothing_is_kept_says_so(self, synd):
        """Not an error: the wish is fulfilled."""
        said = synd("logout", "--json")

        assert said.code == 0
        assert said.json["removed_from"] == []

    def test_whoami_without_a_token_is_77(self, synd):
        """The unit must not restart on this."""
        assert synd("whoami").code == 77


def test_json_when_names_are_not_ascii_stays_readable(synd, daemon):
    """One line of UTF-8, not of escapes."""
    daemon.problems = [{"type": "X", "title": "naïve"}]

    assert "naïve" in synd("status", "--json").out
    assert json.loads(synd("status", "--json").out)["problems"][0]["title"] == "naïve"
