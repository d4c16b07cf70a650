"""Exceptions become text and exit code once; text and JSON are never mixed."""

import json
import os
import subprocess
import sys

import pytest

from synd.cli import main, status
from synd.errors import NotFound


class TestCommands:
    @pytest.mark.parametrize("module", main.COMMANDS)
    def test_command_when_named_comes_without_the_other_modules(self, module):
        """And the table of modules says what each of them holds."""
        for name in main.COMMANDS[module]:
            group = main.typer.main.get_command(main.program(name))
            assert set(main.COMMANDS[module]) == set(group.commands)

    def test_commands_when_none_is_known_are_all(self):
        """Help, completion and a mistyped name need them."""
        everything = {name for names in main.COMMANDS.values() for name in names}
        for command in (None, "--help", "nonsense"):
            group = main.typer.main.get_command(main.program(command))
            assert everything == set(group.commands)


class TestUsage:
    @pytest.mark.parametrize(
        "argv",
        [
            ["--nonsense"], ["nonsense"], ["job"], ["wait", "--timeout", "soon"], ["cache", "pin"],
            ["jobs", "--kind", "prefetsch"], ["cancel", "--all", "-k", "x"],
        ],
        ids=" ".join,
    )  # fmt: skip
    def test_usage_when_wrong_is_64_and_points_to_the_help(self, synd, argv):
        """sysexits.h, the parser's own errors too."""
        said = synd(*argv)

        assert said.code == 64
        assert said.out == ""
        assert "--help" in said.err

    def test_usage_when_wrong_and_json_is_wanted_is_a_problem(self, synd):
        """A program reads the reason from where it reads results."""
        said = synd("wait", "--timeout", "soon", "--json")

        assert said.code == 64
        assert said.err == ""
        assert said.json["error"]["type"] == "UsageError"
        assert said.json["schema"] == 1

    @pytest.mark.parametrize("argv", [[], ["cache"], ["registry"]], ids=repr)
    def test_usage_when_the_command_is_missing_says_so(self, synd, argv):
        """The help text on standard output, and a reason beside it."""
        said = synd(*argv)

        assert said.code == 64
        assert "Usage" in said.out
        assert said.err.startswith("synd: a command is missing\n")

    @pytest.mark.parametrize("argv", [["--help"], ["up", "-h"], ["cache", "--help"]], ids=" ".join)
    def test_help_always_is_a_success(self, synd, argv):
        """On standard output."""
        said = synd(*argv)

        assert said.code == 0
        assert "Usage" in said.out

    def test_version_always_names_the_program(self, synd):
        """One line."""
        assert synd("--version").out.startswith("synd ")


class TestErrors:
    def test_error_when_no_daemon_runs_is_69_with_the_mend(self, synd):
        """`synd status` without a daemon."""
        said = synd("status")

        assert said.code == 69
        assert said.out == ""
        assert said.err == "synd: no daemon is running\n      start one with `synd up`\n"

    def test_error_when_json_is_wanted_has_the_same_code(self, synd):
        """And nothing beside the object."""
        said = synd("status", "--json")

        assert said.code == 69
        assert said.err == ""
        assert said.json["error"]["exit_code"] == 69

    def test_error_of_the_daemon_keeps_its_class_and_code(self, synd, daemon):
        """What the daemon raised is what the user sees."""
        said = synd("info", "syn404")

        assert said.code == NotFound.exit_code
        assert "syn404 does not exist" in said.err

    def test_error_when_interrupted_is_130(self, synd, monkeypatch):
        """Ctrl-C is not a fault."""

        def interrupted(*_args, **_more):
            raise KeyboardInterrupt

        monkeypatch.setattr(main.typer.main, "get_command", interrupted)

        assert synd("status").code == 130

    def test_error_when_nobody_expected_it_is_70_and_hides_secrets(
        self, synd, monkeypatch, tmp_path
    ):
        """A fault of ours: short text, and the traceback in a file."""

        def broken(*_args, **_more):
            raise ZeroDivisionError("Authorization: Bearer s3cr3t")

        monkeypatch.setattr(main.typer.main, "get_command", broken)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        said = synd("status")

        assert said.code == 70
        assert "please report" in said.err
        assert "s3cr3t" not in said.err
        [left] = tmp_path.glob("*.traceback")
        assert "s3cr3t" not in left.read_text()
        assert "Traceback" in left.read_text()

    def test_error_when_a_file_of_ours_cannot_be_read_names_it(self, synd, home):
        """A configuration file that is a folder."""
        (home / "config" / "config.toml").mkdir(parents=True)
        said = synd("config", "list")

        assert said.code == 78
        assert "config.toml" in said.err

    @pytest.mark.parametrize("argv", [["--help"], ["config", "list"]], ids=" ".join)
    def test_error_when_the_reader_went_away_is_141(self, home, argv):
        """`synd ls | head -1`: whatever is printed, and however much of it."""
        reads, writes = os.pipe()
        os.close(reads)
        with open(writes, "w") as gone:
            done = subprocess.run(
                [sys.executable, "-m", "synd.cli.main", *argv],
                stdout=gone,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )

        assert done.returncode == 141
        assert done.stderr == b""


class TestStandardOutput:
    @staticmethod
    def _synd(*argv: str, **more):
        command = [sys.executable, "-m", "synd.cli.main", *argv]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more) as process:
            _, err = process.communicate(timeout=60)
        return process.returncode, err

    @pytest.mark.parametrize("argv", [["config", "list"], ["config", "list", "--json"], ["--help"]])
    def test_output_when_its_reader_has_gone_ends_it_with_141(self, home, argv):
        """`synd … | head -1` is no fault, wherever in a command it is noticed."""
        reading, writing = os.pipe()
        os.close(reading)
        try:
            assert (141, "") == self._synd(*argv, stdout=writing)
        finally:
            os.close(writing)

    @pytest.mark.parametrize("argv", [["config", "list"], ["config", "list", "--json"]])
    def test_output_when_its_disk_is_full_is_said_on_standard_error(self, home, argv):
        """What was asked for is not there: 73, and why."""
        with open("/dev/full", "w") as full:
            code, err = self._synd(*argv, stdout=full)

        assert code == 73
        assert err.startswith("synd: standard output cannot be written: No space left on device\n")
        assert "Traceback" not in err

    @pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
    def test_output_when_a_sign_cannot_be_encoded_is_escaped(self, encoding):
        """A lone half of a pair, as cells and names of files may hold it: JSON stays JSON, text goes on."""
        text = "\u00fc \ud800 \U0001f401"
        script = (
            "import json, sys; from synd.cli import output; text = json.loads(sys.argv[1]);"
            " output.print_json({'a': text}); output.say(text)"
        )

        done = subprocess.run(
            [sys.executable, "-c", script, json.dumps(text)],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            timeout=60,
            check=True,
        )

        first, second = done.stdout.decode(encoding).splitlines()
        assert {"a": text} == json.loads(first)
        assert "\\ud800" in second

    def test_output_when_it_is_closed_is_dropped(self, home):
        """`>&-`, as some services start programs."""
        argv = [sys.executable, "-m", "synd.cli.main", "config", "list", "--json"]

        done = subprocess.run(
            ["sh", "-c", '"$@" >&- 2>&- <&-', "sh", *argv], timeout=60, check=False
        )

        assert done.returncode == 0


def test_command_after_two_dashes_may_look_like_a_flag(synd, daemon):
    """`--json` as a file's name is no flag."""
    said = synd("why", "--", "--json")

    assert said.code == 0
    assert "--json" in said.out


def test_module_status_always_registers_itself():
    """Each command file brings its own parser and action."""
    assert callable(status.register)
